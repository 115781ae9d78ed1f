"""Files that appear whole or not at all, and folders that have one writer at a time."""

import csv
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import LrcnError, StoreError

TEMPORARY_SUFFIX = ".tmp"
OWN_NAME = re.compile(r"\..*\.[0-9a-f]{32}\.tmp", re.DOTALL)  # of temporary files, as `replacing` makes them
LOCK_NAME = ".lock"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, quota used up, above the largest file allowed
CONTENTS = ("sha256", "checksum")  # columns of the table of a store
HASHES = ("path", "sha256")  # columns of a table that stands for files, so that DVC need not look at each of them
NEARLY_FULL_BYTES = 2**20
RETRY_SECONDS = 0.05
FOREIGN_SECONDS = 24 * 3600.0  # without a change; then another machine's temporary file counts as left by a dead writer


def _machine() -> str:
    """Twelve hex digits of this machine, the same after it was started anew; containers differ by their host name."""
    with suppress(OSError):
        return hashlib.sha256(f"{socket.gethostname()} {MACHINE_ID.read_text()}".encode()).hexdigest()[:12]
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


MACHINE_ID = Path("/etc/machine-id")
MACHINE = _machine()


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """A temporary name in the same folder, synced and renamed to `path` at the end, removed after an exception.

    Rename without sync may leave an empty file after a power cut (Pillai et al., OSDI 2014); `synced=False` is for many
    files of which none is missed much. Safe with several writers: the name is nobody else's, and the last to finish
    wins. The folder is made when it is missing. The temporary file is there, empty and locked, and has the machine in
    its name, which tells `leftovers` that its writer lives: write it in place. Raises StoreError when the disk is full.
    """
    with explaining_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{MACHINE}{uuid.uuid4().hex[len(MACHINE) :]}{TEMPORARY_SUFFIX}")
        descriptor = open_locked(temporary, fcntl.LOCK_EX)
        try:
            with explaining_full_disk(path):  # while the temporary file still takes its space
                yield temporary
                if synced:
                    os.fsync(descriptor)
                temporary.replace(path)
                if synced:
                    sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explaining_full_disk(path: Path) -> Iterator[None]:
    """Turn what is raised when a disk is full into a StoreError that names the path and the space left."""
    try:
        yield
    except LrcnError:
        raise
    except Exception as error:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        free = shutil.disk_usage(folder).free
        number = getattr(error, "errno", None)
        # Libraries lose the number on the way (numpy, torch, safetensors); then the text or the disk itself tells.
        full = isinstance(error, OSError | RuntimeError) and free < NEARLY_FULL_BYTES
        if number in DISK_FULL or (number is None and (full or "No space left" in str(error))):
            reason = os.strerror(number or errno.ENOSPC)
            raise StoreError(
                f"{path}: cannot be written ({reason}; {free / 1e6:.1f} MB free); "
                "free some and run again: what is finished is kept"
            ) from error
        raise


@contextmanager
def locked(
    folder: Path, *, lock: Path | None = None, wait_seconds: float = 0.0, shared: bool = False
) -> Iterator[None]:
    """Be a folder's only writer, and begin by removing what dead ones left; the folder is made when it is missing.

    The lock is the operating system's and dies with the process, however that ends. lock: its file, where it may not
    lie in the folder. wait_seconds: how long to wait for a holder, which may be just ending. shared: be one of several
    writers who say so; nothing is removed then. Raises StoreError when the folder cannot be written, or when another
    process holds it (on this machine, or on another where locks of the network file system reach that far).
    """
    path = lock or folder / LOCK_NAME
    try:
        with explaining_full_disk(path):
            folder.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _open_within(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait_seconds)
    except BlockingIOError:
        raise StoreError(f"{folder}: {_holder(path)} is writing there; wait until it has ended, or stop it") from None
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}); give yourself access, or choose another folder"
        ) from None
    own = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        with explaining_full_disk(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(
                descriptor, (f"one of several writers ({own} was the last to begin)" if shared else own).encode(), 0
            )
        if not shared:
            sweep(folder)
        yield
    finally:
        with suppress(BlockingIOError):  # others share it
            _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        os.close(descriptor)


def leftovers(folder: Path) -> Iterator[Path]:
    """Temporary files of dead writers. Each stays locked until the next is asked for, so that it can be removed.

    That nobody holds a file's lock says that its writer is dead if that one was on this machine. Locks of many network
    file systems do not reach other machines: a file from there is left until it has not changed for FOREIGN_SECONDS.
    """
    for path in sorted(folder.glob(f".*{TEMPORARY_SUFFIX}")):
        if not OWN_NAME.fullmatch(path.name):
            continue  # somebody else's
        with suppress(OSError):  # locked by its writer, or just finished; a folder; another user's; no locks here
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_own = path.name.removesuffix(TEMPORARY_SUFFIX)[-32:].startswith(MACHINE)
                if is_own or time.time() - os.fstat(descriptor).st_mtime > FOREIGN_SECONDS:
                    yield path
            finally:
                os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the temporary files that dead writers left in a folder."""
    for path in leftovers(folder):
        path.unlink(missing_ok=True)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write CSV in UTF-8 with "\\n" line ends; None is an empty cell, names that are no UTF-8 keep their bytes."""
    with writing_table(path, columns) as add:
        for row in rows:
            add(row)


@contextmanager
def writing_table(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[object]], None]]:
    """As `write_table`, for rows that come one by one: gives the function that adds one."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as f:
        # Without quotes a "\r", which macOS puts into names, would end the row on reading.
        writer = csv.writer(f, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        quoted = csv.writer(f, lineterminator="\n", quoting=csv.QUOTE_ALL)

        def add(row: Sequence[object]) -> None:
            (quoted if any("\r" in str(cell) for cell in row) else writer).writerow(row)

        add(columns)
        yield add


class Checked(Protocol):
    """A store whose entries have checksums."""

    def checksum(self, sha256: str) -> str:
        """Of all that is stored of a video."""
        ...


def write_contents(path: Path, store: Checked, entries: Iterable[str]) -> None:
    """Write what is in a store, a row per entry in order of their names: equal tables, equal contents."""
    write_table(path, CONTENTS, [[sha256, store.checksum(sha256)] for sha256 in sorted(entries)])


def write_hashes(path: Path, files: Iterable[Path]) -> None:
    """Write a table of files with their hashes, in the order they come."""
    write_table(path, HASHES, [[file.as_posix(), content_hash(file)] for file in files])


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def update_text(path: Path, text: str) -> None:
    """Write a text file unless it holds just that, which spares syncing thousands of files that stayed the same."""
    update_bytes(path, text.encode("utf-8"))


def update_bytes(path: Path, data: bytes) -> None:
    """As `update_text`, for bytes."""
    with suppress(OSError):
        if path.read_bytes() == data:
            return
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write nested plain values as JSON: in ASCII, which holds any file name; null where a number is not defined."""
    write_text(path, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """The same nested mappings with None where a number is not defined: JSON has no nan."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_locked(path: Path, flags: int) -> int:
    """A descriptor of a file, made when it is missing, with a lock; BlockingIOError when it is held (with LOCK_NB)."""
    while True:
        # Not inheritable (PEP 446): a child process does not keep the lock alive.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, flags)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file between opening and locking: that lock is nobody's


def _open_within(path: Path, kind: int, seconds: float) -> int:
    """As `open_locked`, with LOCK_SH or LOCK_EX; BlockingIOError when it is still held after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return open_locked(path, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_SECONDS)


def _lock(descriptor: int, flags: int) -> None:
    try:
        fcntl.flock(descriptor, flags)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks: writers replace whole files there too, they just are not told of each other


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    return "another process"


def content_hash(path: Path | str) -> str:
    """SHA-256 of a regular file; anything else (a pipe would block for ever) is refused as an OSError."""
    if not os.path.isfile(path):  # noqa: PTH113 - a name that is no valid UTF-8 stays as it is
        raise FileNotFoundError(errno.ENOENT, "no such file, or not a regular one")
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()
