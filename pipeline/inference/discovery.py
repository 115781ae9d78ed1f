"""From what the user names to a list of files: each file once, in path order, nothing left out in silence."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import LrcnError


def find_files(paths: Sequence[str], exclude: Iterable[Path] = ()) -> list[str]:
    """Absolute-or-as-given paths of every file below the named files and folders, in the order of their bytes.

    A folder stands for every file below it whatever its name: what is no video gets a row that says so. Hidden files
    and folders (`.git`, `._x.mp4`) are left out, as shells do; links are followed, and a file reached twice comes once.

    Args:
        paths: files and folders, as typed.
        exclude: folders that are not entered (the output folder, when it lies inside an input folder).

    Raises:
        LrcnError: a named path does not exist, a folder cannot be read, or there is no file at all.
    """
    seen: set[tuple[int, int]] = set()
    skipped = {_identity(path) for path in exclude if path.exists()}
    found: list[str] = []
    for path in paths:
        if not os.path.lexists(path):
            raise LrcnError(f"{path}: no such file or folder")
        _walk(path, found, seen, skipped)
    if not found:
        raise LrcnError(f"{', '.join(paths)}: no file there (hidden ones and the output folder are left out)")
    return sorted(found, key=os.fsencode)


def _walk(path: str, found: list[str], seen: set[tuple[int, int]], skipped: set[tuple[int, int]]) -> None:
    try:
        identity = _identity(Path(path))
    except OSError:
        found.append(path)  # a dangling link, or links in a circle: its row will say so
        return
    if identity in seen or identity in skipped:
        return
    seen.add(identity)
    if not Path(path).is_dir():
        found.append(path)
        return
    try:
        names = os.listdir(path)  # noqa: PTH208  (keeps names that are no valid UTF-8 as they are)
    except OSError as error:
        raise LrcnError(f"{path}: cannot be read ({error.strerror}); give access to it or leave it out") from None
    for name in sorted(names, key=os.fsencode):
        if not name.startswith("."):
            _walk(os.path.join(path, name), found, seen, skipped)  # noqa: PTH118  (the name as the user typed it)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
