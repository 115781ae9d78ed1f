"""The ledger of a folder of results: finished answers as they come, which lets the next run do only what is missing."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline import __version__, remote
from pipeline.errors import RejectedVideo, StoreError
from pipeline.files import explaining_full_disk, replacing
from pipeline.inference.answers import Answer
from pipeline.remotenames import is_url

LEDGER = ".ledger.jsonl"
CHANGED = "changed while it was read; run again when it is complete"
UNREADABLE = "cannot be read"
SECONDS_BETWEEN_SYNCS = 1.0


def file_state(path: str) -> str:
    """What a file looked like: size, modification and change time. A change time cannot be set back by tools.

    Of an object at an address: size and tag, as the server last stated them (see `pipeline.remote.state`).
    """
    if is_url(path):
        try:
            return remote.state(path)
        except RejectedVideo as error:
            return f"{UNREADABLE}: {error}"
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return f"{UNREADABLE}: {error.strerror}"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def model_identity(folder: Path) -> str:
    """Version of this package and SHA-256 of `model.yaml`, which holds the hashes of all other files of a model."""
    return f"{__version__} " + hashlib.sha256((folder / "model.yaml").read_bytes()).hexdigest()


class _Line(NamedTuple):
    """Where a file's answer stands. state: of the file, when it was answered for. start, size: in bytes.

    has_timesteps: whether its scores at timesteps were kept in a file of their own.
    """

    model_id: str
    state: str
    status: str
    has_timesteps: bool
    start: int
    size: int


class LedgerReader:
    """Finished answers, one line of JSON each. Held in memory is where they stand, not what they say.

    A line counts for a file only while the file looks as it did, the model is the same, and no later line is about the
    same file. What is no whole line (a torn last one) is ignored. A ledger that is not there is empty.
    """

    def __init__(self, folder: Path, model_id: str) -> None:
        self.path = folder / LEDGER
        self.model_id = model_id
        self._lines: dict[str, _Line] = {}
        self._size = 0
        self._descriptor = self._open()
        if self._descriptor is not None:
            for line in self._raw_lines():
                self._take(line, self._size - len(line))

    def _open(self) -> int | None:
        try:
            return os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None

    def _raw_lines(self) -> Iterator[bytes]:
        assert self._descriptor is not None
        with open(self._descriptor, "rb", closefd=False) as file:
            for line in file:
                self._size += len(line)
                yield line

    def _take(self, line: bytes, start: int) -> None:
        try:
            entry = json.loads(line)
            answer = Answer.from_json(entry["answer"])
            model_id, state, has_timesteps = entry["model"], entry["state"], entry["timesteps"]
        except (ValueError, KeyError, TypeError):
            return  # the line that was being written when the power went; its video is done again
        # Whatever its model: what is written for each file beside the ledger is of its last line.
        self._lines[answer.path] = _Line(sys.intern(model_id), state, answer.status, has_timesteps, start, len(line))

    def status(self, path: str, state: str) -> str | None:
        """Status of this model's answer to a file that looks as it did then; None when there is none."""
        line = self._lines.get(path)
        is_known = line is not None and (line.model_id, line.state) == (self.model_id, state)
        return line.status if line is not None and is_known else None

    def last_status(self, path: str) -> str:
        """Status of the answer to a file, which must be in the ledger, whatever the file looks like now."""
        return self._lines[path].status

    def has_timesteps(self, path: str) -> bool:
        """Whether the scores at timesteps of a file's answer, which must be in the ledger, were kept."""
        return self._lines[path].has_timesteps

    def origin(self, path: str) -> tuple[str, str] | None:
        """Identity of the model that answered for a file, and the file's state then; None where there is no answer."""
        line = self._lines.get(path)
        return None if line is None else (line.model_id, line.state)

    def read(self, path: str) -> Answer:
        """The answer to a file, which must be in the ledger, whatever the file looks like now."""
        return Answer.from_json(json.loads(self.raw(path))["answer"])

    def raw(self, path: str) -> bytes:
        """The line of a file."""
        line = self._lines[path]
        assert self._descriptor is not None
        data = os.pread(self._descriptor, line.size, line.start)
        if len(data) != line.size:
            raise StoreError(f"{self.path}: became shorter while it was in use; is another program at it? Run again")
        return data

    def close(self) -> None:
        """Release the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Ledger(LedgerReader):
    """A ledger to which answers are added; for one writer at a time.

    Each line is handed to the system at once, so no end of this process loses it, and synced to the disk every second:
    a power cut may lose the last second, whose files are done again. When more than half of the file are lines that
    later ones replaced, opening it writes it anew. (A line of another model is kept until its file is answered for
    again: naming a wrong model by mistake destroys nothing.)
    """

    def __init__(self, folder: Path, model_id: str) -> None:
        super().__init__(folder, model_id)
        assert self._descriptor is not None
        if self._size > 2 * sum(line.size for line in self._lines.values()):
            self._compact()
        self._synced_at = time.monotonic()
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":
            self._append(b"\n")

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)

    def _compact(self) -> None:
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            for path, _ in sorted(self._lines.items(), key=lambda item: item[1].start):
                file.write(self.raw(path).rstrip(b"\n") + b"\n")
        self.close()
        self._descriptor, self._lines, self._size = self._open(), {}, 0
        for line in self._raw_lines():
            self._take(line, self._size - len(line))

    def add(self, answer: Answer, state: str) -> None:
        """Keep an answer. Raises StoreError when the disk is full; what was added before is kept then."""
        has_timesteps = answer.timesteps is not None
        entry = {"model": self.model_id, "state": state, "timesteps": has_timesteps, "answer": answer.to_json()}
        line = json.dumps(entry, sort_keys=True).encode("ascii") + b"\n"
        start = self._size
        self._append(line)
        self._lines[answer.path] = _Line(self.model_id, state, answer.status, has_timesteps, start, len(line))

    def take_over(self, other: LedgerReader, states: dict[str, str]) -> list[str]:
        """Copy from another ledger the answers to files that look as they do in `states` and have none here.

        A failure here gives way to an answer there. Returns the paths of those taken.
        """
        taken = []
        for path, state in states.items():
            own, theirs = self.status(path, state), other.status(path, state)
            if theirs is not None and (own is None or (own == "failed" and theirs != "failed")):
                start, line = self._size, other.raw(path).rstrip(b"\n") + b"\n"
                self._append(line)
                self._lines[path] = _Line(self.model_id, state, theirs, other.has_timesteps(path), start, len(line))
                taken.append(path)
        return taken

    def _append(self, data: bytes) -> None:
        assert self._descriptor is not None
        with explaining_full_disk(self.path):
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                os.ftruncate(self._descriptor, self._size)  # no half line
                raise
            self._size += len(data)
            if time.monotonic() - self._synced_at >= SECONDS_BETWEEN_SYNCS:
                self._sync()

    def _sync(self) -> None:
        assert self._descriptor is not None
        os.fsync(self._descriptor)
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync and release the file."""
        if self._descriptor is not None:
            try:
                with explaining_full_disk(self.path):
                    self._sync()
            finally:
                super().close()


class LedgerAnswers(Iterable[Answer]):
    """The answers for some paths, read from the ledger as they are asked for, and from the start each time.

    reasons: why, for paths that could not be read as a file and so have no line.
    """

    def __init__(self, ledger: LedgerReader, paths: Sequence[str], reasons: dict[str, str]) -> None:
        self._ledger, self._paths, self._reasons = ledger, paths, reasons

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Answer]:
        for path in self._paths:
            reason = self._reasons.get(path)
            yield self._ledger.read(path) if reason is None else Answer(path, "rejected", reason)
