"""Answers for a folder: one row per input file, and the ledger that lets a second run do only what is missing."""

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from pipeline import __version__
from pipeline.errors import RejectedVideo
from pipeline.files import explaining_full_disk, replacing, write_table

LEDGER = ".ledger.jsonl"
CHANGED = "changed while it was read; run again when it is complete"
RESULT_COLUMNS = (
    "path", "status", "reason", "label", "score", "runner_up", "runner_up_score", "frames", "seconds",
)  # fmt: skip
SEGMENT_COLUMNS = ("path", "start_seconds", "end_seconds", "label", "score")


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label: seconds from the first frame, mean probability of the label in it."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What became of one file.

    status: ok, damaged (answered from its readable part), rejected (no usable frame), failed (it could be read but not
    answered). frames: timesteps looked at. scores: probability of each class, for the whole video.
    """

    path: str
    status: str
    reason: str = ""
    label: str = ""
    score: float | None = None
    runner_up: str = ""
    runner_up_score: float | None = None
    frames: int = 0
    seconds: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()


def file_state(path: str) -> str:
    """What a file looked like: size, modification and change time. A change time cannot be set back by tools."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def status_of(error: Exception) -> str:
    """The status of a file whose frames ended in an error; what may go better next time is no answer to keep."""
    return "rejected" if isinstance(error, RejectedVideo) and not error.is_transient else "failed"


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
                answer = dict(entry["answer"])
                answer["segments"] = tuple(Segment(**segment) for segment in answer["segments"])
                if entry["model"] == model_id:
                    self.answers[answer["path"]] = (entry["state"], Answer(**answer))
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
        entry = {"model": self.model_id, "state": state, "answer": asdict(answer)}
        with explaining_full_disk(self.path):
            self._file.write(json.dumps(entry, sort_keys=True).encode("ascii") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.answers[answer.path] = (state, answer)

    def close(self) -> None:
        """Release the file."""
        with explaining_full_disk(self.path):  # after a failed write, closing tries it once more
            self._file.close()


def write_results(folder: Path, answers: Sequence[Answer]) -> None:
    """Write `results.csv`, `predictions.jsonl` and `segments.csv`; each appears whole or not at all."""
    write_table(
        folder / "results.csv", RESULT_COLUMNS, [[getattr(a, name) for name in RESULT_COLUMNS] for a in answers]
    )
    with replacing(folder / "predictions.jsonl") as temporary, temporary.open("w", encoding="ascii") as file:
        for answer in answers:
            row = {name: getattr(answer, name) for name in RESULT_COLUMNS} | {"scores": answer.scores}
            file.write(json.dumps(row) + "\n")
    write_table(
        folder / "segments.csv",
        SEGMENT_COLUMNS,
        [[a.path, s.start_seconds, s.end_seconds, s.label, s.score] for a in answers for s in a.segments],
    )


def runs_of_labels(
    probs: np.ndarray, time_seconds: np.ndarray, step_seconds: float, classes: Sequence[str], background: str | None
) -> tuple[Segment, ...]:
    """Runs of the same most probable class over (T, K) probabilities, the background left out."""
    best = probs.argmax(axis=1)
    borders = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
    return tuple(
        Segment(
            round(float(time_seconds[start]), 3),
            round(float(time_seconds[end - 1]) + step_seconds, 3),
            classes[best[start]],
            round(float(probs[start:end, best[start]].mean()), 6),
        )
        for start, end in itertools.pairwise(borders)
        if classes[best[start]] != background
    )


def model_identity(folder: Path) -> str:
    """Version of this package and SHA-256 of `model.yaml`, which holds the hashes of all other files of a model."""
    return f"{__version__} " + hashlib.sha256((folder / "model.yaml").read_bytes()).hexdigest()
