"""The ledger of a folder of results: finished answers as they come, which lets the next run do only what is missing."""

import hashlib
import json
import os
from pathlib import Path

from pipeline import __version__
from pipeline.files import explaining_full_disk
from pipeline.inference.answers import Answer

LEDGER = ".ledger.jsonl"
CHANGED = "changed while it was read; run again when it is complete"


def file_state(path: str) -> str:
    """What a file looked like: size, modification and change time. A change time cannot be set back by tools."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def model_identity(folder: Path) -> str:
    """Version of this package and SHA-256 of `model.yaml`, which holds the hashes of all other files of a model."""
    return f"{__version__} " + hashlib.sha256((folder / "model.yaml").read_bytes()).hexdigest()


class Ledger:
    """Finished answers, one line of JSON each, appended and synced as they come; a torn last line is ignored.

    A line counts for a file only while the file looks as it did and the model is the same.
    """

    def __init__(self, folder: Path, model_id: str) -> None:
        self.path = folder / LEDGER
        self.model_id = model_id
        self.answers: dict[str, tuple[str, Answer]] = {}
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                answer = Answer.from_json(entry["answer"])
                if entry["model"] == model_id:
                    self.answers[answer.path] = (entry["state"], answer)
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the power went; its video is done again
        torn = bool(lines) and lines[-1] != b""
        self._file = self.path.open("ab")
        if torn:
            self._file.write(b"\n")

    def get(self, path: str, state: str) -> Answer | None:
        """The answer to a file that looks as it did then, None when it has to be looked at (again, after a failure)."""
        known = self.answers.get(path)
        return known[1] if known and known[0] == state and known[1].status != "failed" else None

    def add(self, answer: Answer, state: str) -> None:
        """Keep an answer, on disk before this returns."""
        entry = {"model": self.model_id, "state": state, "answer": answer.to_json()}
        with explaining_full_disk(self.path):
            self._file.write(json.dumps(entry, sort_keys=True).encode("ascii") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.answers[answer.path] = (state, answer)

    def close(self) -> None:
        """Release the file."""
        with explaining_full_disk(self.path):  # after a failed write, closing tries it once more
            self._file.close()
