"""The user's cache: folders that are safe to delete, and files kept there up to a size, shared by processes."""

import fcntl
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.files import open_locked, replacing, sweep

SIZE_VARIABLE = "LRCN_CACHE_GB"
DEFAULT_GB = 20.0  # what is fetched ahead of its readers fits, and so does a small data set between two stages
_settings = {"gigabytes": DEFAULT_GB}
ENTRY = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,8})?")
WAITING = ".fetch"  # of the lock of a file that is being fetched
# Of the limit: what is fetched before the folder is looked through again, and what is freed then beyond the limit.
LOOK_SHARE, FREE_SHARE = 0.05, 0.1


def cache_folder(name: str) -> Path:
    """A folder of the user's cache: below LRCN_CACHE, else below the folder that the system has for caches."""
    own = os.environ.get("LRCN_CACHE", "")
    if own:
        return Path(own).expanduser().absolute() / name
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "lrcn-pipeline" / name


def use_cache_gb(gigabytes: float) -> None:
    """What fetched media may take unless LRCN_CACHE_GB says so."""
    _settings["gigabytes"] = gigabytes


def cache_bytes() -> int:
    """The most that fetched media may take; raises ConfigError when LRCN_CACHE_GB is no size."""
    text = os.environ.get(SIZE_VARIABLE, "").strip()
    try:
        gigabytes = float(text) if text else _settings["gigabytes"]
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise ConfigError(f"{SIZE_VARIABLE} is {text!r}; expected a number of gigabytes, such as {DEFAULT_GB:g}")
    return int(gigabytes * 1e9)


class FileCache:
    """Files under names of 64 hexadecimal digits and an ending; those unused for longest go when there are too many.

    Threads and processes may share it. A file in use is locked and never removed, so the limit is exceeded where files
    in use alone do; and it holds to within a twentieth for each process that fetches.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        self._unseen_bytes: float = math.inf  # fetched since the folder was looked through

    @contextmanager
    def file(self, name: str, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """The file of a name, fetched if it is not there, and not removed before the block ends.

        fetch: writes the file into a path; whoever wants the same file meanwhile waits. What it raises is passed on.
        """
        descriptor = self._in_use(name)
        if descriptor is None:
            waiting = self.folder / f".{name}{WAITING}"
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open_locked(waiting, fcntl.LOCK_EX)
            try:
                while (descriptor := self._in_use(name)) is None:
                    with replacing(self.folder / name, synced=False) as temporary:
                        fetch(temporary)
            finally:
                waiting.unlink(missing_ok=True)
                os.close(lock)
            self._make_room(os.fstat(descriptor).st_size)
        try:
            yield self.folder / name
        finally:
            size_bytes = os.fstat(descriptor).st_size
            os.close(descriptor)
            if size_bytes > self._max_bytes:  # by itself; it need not wait for the next one
                self._make_room(size_bytes)

    def _in_use(self, name: str) -> int | None:
        """A descriptor of a file that is there, which keeps it from being removed; None where there is none."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                # The time of the last use; that of the last change tells readers that a file is still being written.
                os.utime(path, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # removed between opening and locking
        return None

    def _make_room(self, new_bytes: int) -> None:
        """Remove the files that were unused for longest, where there are too many; and what dead processes left."""
        with self._guard:
            self._unseen_bytes += new_bytes
            if self._unseen_bytes < self._max_bytes * LOOK_SHARE:
                return
            self._unseen_bytes = 0
            sweep(self.folder)
            found = []
            for entry in os.scandir(self.folder):
                with suppress(FileNotFoundError):
                    if entry.name.endswith(WAITING) and ENTRY.fullmatch(entry.name[1 : -len(WAITING)]):
                        _removed(entry.path)
                    elif ENTRY.fullmatch(entry.name):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_atime_ns, status.st_size, entry.path))
            total = sum(size for _, size, _ in found)
            wanted = self._max_bytes * (1 - FREE_SHARE) if total > self._max_bytes else math.inf
            for _, size, path in sorted(found):
                if total <= wanted:
                    break
                total -= size if _removed(path) else 0


def _removed(path: str) -> bool:
    """Remove a file unless somebody uses it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)  # noqa: PTH108
    except OSError:  # in use, or no locks here: then nobody knows
        return False
    finally:
        os.close(descriptor)
    return True
