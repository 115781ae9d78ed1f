"""From folders to files: one walk for every command, in which nothing is left out in silence; and names in messages."""
# Paths stay the text they came as, bytes that are no UTF-8 included; Path would rewrite "./x" and "x//y".
# ruff: noqa: PTH114, PTH116, PTH118

import errno
import os
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Identity = tuple[int, int]  # device and inode: the file behind a name

FILE_TYPES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Entry:
    """A name that a walk came upon.

    kind: `file`, a regular file; `unusable`, what can be no video, for the given reason; `closed`, what cannot be
    looked into, which may be a folder; `hidden`, what was not looked at; `again`, another name of a folder that was
    entered, such as a link to one above.
    identity: of a regular file; equal for all names of one file.
    """

    path: str
    kind: Literal["file", "unusable", "closed", "hidden", "again"]
    reason: str = ""
    identity: Identity | None = None


def walk(paths: Iterable[str], *, enter_hidden: bool = False, exclude: Iterable[Identity] = ()) -> Iterator[Entry]:
    """Everything below the named files and folders, folders themselves only where they cannot be entered.

    Links are followed, after all that is reached without one: a file or folder keeps its own name where it has one
    here. Each folder is entered once, so links may lead anywhere. Paths begin with the name they were reached from.

    Args:
        paths: files and folders; a hidden one that is named is walked like any other.
        enter_hidden: take names that begin with a dot for entries like others, not for `hidden` ones.
        exclude: folders that are passed over.
    """
    excluded, entered = set(exclude), set[Identity]()
    own: list[str] = []
    links: deque[str] = deque()
    for path in paths:
        (links if os.path.islink(path) else own).append(path)
    own.reverse()
    while own or links:
        path = own.pop() if own else links.popleft()
        try:
            status = os.stat(path)
        except OSError as error:
            is_closed = error.errno in (errno.EACCES, errno.ENAMETOOLONG)
            yield Entry(path, "closed" if is_closed else "unusable", _why_unusable(path, error))
            continue
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode):
            yield Entry(path, "file", identity=identity)
        elif not stat.S_ISDIR(status.st_mode):
            what = FILE_TYPES.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
            yield Entry(path, "unusable", f"not a regular file ({what})")
        elif identity in entered:
            yield Entry(path, "again", "another name of a folder that is listed already")
        elif identity not in excluded:
            entered.add(identity)
            try:
                with os.scandir(path) as entries:
                    found = [(entry.name, entry.is_symlink()) for entry in entries]
            except OSError as error:
                yield Entry(path, "closed", f"the folder cannot be listed ({error.strerror})")
                continue
            here: list[str] = []
            for name, is_link in sorted(found, key=lambda item: os.fsencode(item[0])):
                below = os.path.join(path, name)
                if name.startswith(".") and not enter_hidden:
                    yield Entry(below, "hidden")
                else:
                    (links if is_link else here).append(below)
            own += reversed(here)


def _why_unusable(path: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "a symbolic link to a file that does not exist" if os.path.islink(path) else "no such file"
    if error.errno == errno.ELOOP:
        return "symbolic links in a circle"
    if error.errno == errno.ENAMETOOLONG:
        return "its path is longer than the system can open; if it is a folder, nothing in it was looked at"
    return f"cannot be read ({error.strerror})"


def printable(text: str) -> str:
    r"""A text, such as one with a file name in it, in one line that any terminal or log takes.

    Control characters and bytes that are no UTF-8 are escaped, and so is what the standard output cannot encode.

    >>> printable("caf\udce9\n.mp4")
    'caf\\udce9\\n.mp4'
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
