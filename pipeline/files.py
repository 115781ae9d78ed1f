"""Files that appear whole or not at all."""

import contextlib
import csv
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
# Another writer may be busy with its temporary file; one this old was left behind by a writer that is gone.
ABANDONED_SECONDS = 3600.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, synced and renamed to `path` at the end, removed after an exception.

    Rename without sync may leave an empty file after a power cut (Pillai et al., OSDI 2014). Safe with several writers:
    the name is nobody else's, and the last to finish wins. The folder is made when it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporary files that dead writers left in a folder."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write CSV in UTF-8 with "\\n" line ends; None is an empty cell, names that are no UTF-8 keep their bytes."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as f:
        # Without quotes a "\r", which macOS puts into names, would end the row on reading.
        writer = csv.writer(f, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        quoted = csv.writer(f, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in [columns, *rows]:
            (quoted if any("\r" in str(cell) for cell in row) else writer).writerow(row)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
