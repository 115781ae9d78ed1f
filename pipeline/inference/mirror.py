"""A folder of results in an object store: a local copy is worked in, and delivered as it grows."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline import remote
from pipeline.cache import cache_folder
from pipeline.discovery import printable
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.files import LOCK_NAME, OWN_NAME, locked, write_json
from pipeline.inference.ledger import LEDGER
from pipeline.remotelisting import list_folder
from pipeline.remotenames import Url, scheme_of
from pipeline.shards import SHARDS
from pipeline.threads import in_threads

KNOWN = ".delivered.json"
WORKERS = 8  # files on their way at a time
FIRST_WAIT_SECONDS = 10.0  # between two deliveries; at least ten times as long as the one before took


@contextmanager
def mirrored(url: Url, part: str = "") -> Iterator[Path]:
    """A local folder with what is in a folder of an object store; what changes in it in the block is delivered there.

    That happens now and then, and at a regular end. Every object appears whole or not at all, the ledger after what
    its lines speak of. What could not be delivered stays in the local folder, and the next call on this machine
    delivers it; where another machine wrote meanwhile, its objects count. One call at a time may write; shards may at
    the same time.

    part: of the results that this process makes, such as a shard: it has a local folder of its own.

    Raises LrcnError for an address that cannot be listed, or when the last delivery fails.
    """
    if scheme_of(url).startswith("http"):
        raise LrcnError(f"{url}: results go to a folder or to an object store such as s3://bucket/folder")
    url = Url(remote.named(url.rstrip("/")))
    name = hashlib.sha256(f"{url}\n{part}".encode()).hexdigest()[:16]
    folder = cache_folder("results") / name
    with locked(folder, lock=folder.with_name(f".{name}.lock")), remote.interruptible():
        mirror = Mirror(url, folder)
        try:
            mirror.fetch()
        except RejectedVideo as error:
            raise LrcnError(f"{url}: the results there cannot be fetched: {error}") from None
        over = threading.Event()
        thread = threading.Thread(target=mirror.deliver_until, args=[over], name="deliver", daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            over.set()
        thread.join()
        try:
            mirror.deliver()
        except RejectedVideo as error:
            raise LrcnError(
                f"{url}: not all results could be delivered ({error}); they are kept in {folder}, and the same command "
                "delivers them"
            ) from None


class Mirror:
    """What is in a local folder, and what of it is in the object store; for one thread at a time."""

    def __init__(self, url: Url, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._known: dict[
            str, list[object]
        ] = {}  # by name: state there, size and time of change here, when it was equal
        with suppress(OSError, ValueError):
            self._known = dict(json.loads((folder / KNOWN).read_text(encoding="ascii")))

    def fetch(self) -> None:
        """Bring the local folder up to date with the object store."""
        there = list_folder(self._url)
        here = self._files()
        for name in self._known.keys() - there.keys():
            (self._folder / name).unlink(missing_ok=True)
            del self._known[name]
        wanted = [
            name for name, state in there.items() if name not in here or self._known.get(name, [None])[0] != state
        ]

        def fetch(name: str) -> None:
            path = self._path(name)
            remote.download(self._url / name, there[name], path)
            self._known[name] = [there[name], *_looks(path)]

        self._in_threads(fetch, wanted)

    def deliver(self) -> None:
        """Bring the object store up to date with the local folder."""
        with tempfile.TemporaryDirectory(prefix="lrcn-") as folder:
            # Before the listing: what is there now is listed with all that its lines speak of; later lines may not be.
            ledgers = self._copy_ledgers(Path(folder))
            here = self._files()
            for name in sorted(self._known.keys() - here.keys()):
                remote.remove(self._url / name)
                del self._known[name]
            changed = [name for name, looks in here.items() if self._is_changed(name, looks)]
            # What a line of a ledger speaks of is there before it; the page, which shows the rest, comes last.
            self._in_threads(self._deliver, [name for name in changed if _rank(name) == 0])
            self._in_threads(
                lambda name: self._deliver(name, ledgers[name]), [name for name in ledgers if name in here]
            )
            self._in_threads(self._deliver, [name for name in changed if _rank(name) == 2])

    def deliver_until(self, over: threading.Event) -> None:
        """Deliver now and then; what fails is tried again the next time."""
        pause, complaint = FIRST_WAIT_SECONDS, ""
        while not over.wait(pause):
            begin = time.monotonic()
            try:
                self.deliver()
                complaint = ""
            except (LrcnError, OSError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    line = f"predict: {self._url}: not delivered yet ({complaint}); it is tried again"
                    print(printable(line), file=sys.stderr, flush=True)
            pause = max(FIRST_WAIT_SECONDS, 10 * (time.monotonic() - begin))

    def _deliver(self, name: str, copy: tuple[Path, list[object]] | None = None) -> None:
        """copy: what to deliver in place of the file, and how that looked before it was copied."""
        path, looks = copy or (self._folder / name, _looks(self._folder / name))
        self._known[name] = [remote.upload(path, self._url / name), *looks]

    def _copy_ledgers(self, folder: Path) -> dict[str, tuple[Path, list[object]]]:
        """Copies of the ledgers that have changed, by name, and how each looked before; a run goes on writing them."""
        copies: dict[str, tuple[Path, list[object]]] = {}
        for path in (self._folder / LEDGER, *(self._folder / SHARDS).rglob(LEDGER)):
            name = path.relative_to(self._folder).as_posix()
            with suppress(FileNotFoundError):
                if self._is_changed(name, looks := _looks(path)):
                    copies[name] = (Path(shutil.copy(path, folder / str(len(copies)))), looks)
        return copies

    def _is_changed(self, name: str, looks: list[object]) -> bool:
        return self._known.get(name, [None])[1:] != looks

    def _in_threads(self, function: Callable[[str], None], names: list[str]) -> None:
        try:
            for _ in in_threads(function, names, WORKERS):
                pass
        finally:
            if names:
                # A copy: after a failure, transfers that are under way go on and add to it.
                write_json(self._folder / KNOWN, self._known.copy())

    def _files(self) -> dict[str, list[object]]:
        """The local files by name, and how they look."""
        found = {}
        for root, _, names in os.walk(self._folder):
            for name in names:
                if name not in (KNOWN, LOCK_NAME) and not OWN_NAME.fullmatch(name):
                    path = Path(root, name)
                    with suppress(FileNotFoundError):
                        found[path.relative_to(self._folder).as_posix()] = _looks(path)
        return found

    def _path(self, name: str) -> Path:
        path = self._folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise LrcnError(f"{self._url}/{name}: leads out of the folder; remove this object")
        return path


def _looks(path: Path) -> list[object]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _rank(name: str) -> int:
    if name.rpartition("/")[2] == LEDGER:
        return 1
    return 0 if "/" in name else 2
