"""Requests to a served model: rows of features, of paths or of videos' bytes in, an answer for each out.

`pipeline/serving.py` puts it behind MLflow, which it knows nothing of.
"""

import base64
import binascii
import math
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.discovery import printable
from pipeline.errors import LrcnError, RequestError
from pipeline.features.store import VideoFeatures
from pipeline.inference.answers import Answer
from pipeline.inference.recognizer import Recognizer
from pipeline.inference.results import is_sure

COLUMNS = ("features", "path", "video")
VIDEO_ROOT = "LRCN_VIDEO_ROOT"  # the environment variable that allows paths, and those below it alone
ROWS_MAX = 1000
STEPS_MAX = 1_000_000
VIDEO_BYTES_MAX = 256 * 2**20


class Served:
    """Answers requests with a recognizer; threads may share it. Videos of one request are read at a time.

    seconds: after so long no further video of a request is read: nobody waits for its answer any more, others do.
    """

    def __init__(self, recognizer: Recognizer, seconds: float = threading.TIMEOUT_MAX) -> None:
        self._recognizer = recognizer
        self._seconds = seconds
        self._lock = threading.Lock()

    def answer(
        self, rows: Sequence[Mapping[str, Any]], *, precision: float = 0.9, timesteps: bool = False
    ) -> list[dict[str, Any]]:
        """A record for each row; a video that cannot be used has one with a reason.

        Args:
            rows: each with exactly one of `features`, numbers of shape (T, D), or (T, crops, D) where the view has
                several crops, a row per timestep of the model's view; `path`, a file below LRCN_VIDEO_ROOT; `video`, a
                file's bytes, or these as text in base64. None and nan are no value.
            precision: answers are sure from the score on at which so many of them were right, see Model.threshold.
            timesteps: add `time_seconds` (T,) and `probabilities` (T, K), classes in the model's order; frame models.

        Returns:
            status, reason, label, score, sure (None for a frame model's whole video, whose score is a share of time),
            scores by class, and segments with start_seconds, end_seconds, label, score, sure.

        Raises:
            RequestError: a row that is no question to this model; nothing is answered then.
            LrcnError: it took longer than `seconds`.
        """
        model = self._recognizer.model
        if not 0 < precision < 1:
            raise RequestError(f"precision is {precision}; expected a share between 0 and 1, such as 0.9")
        if timesteps and model.task != "frame":
            raise RequestError("timesteps is true, but this model gives one answer per video; leave it out")
        if not 0 < len(rows) <= ROWS_MAX:
            raise RequestError(
                f"{len(rows)} rows with a value in one of the columns {', '.join(COLUMNS)}; expected 1 to {ROWS_MAX}"
            )
        asked = [_question(number, row) for number, row in enumerate(rows)]
        features = {n: self._features(n, value) for n, (kind, value) in enumerate(asked) if kind == "features"}
        paths = {n: _allowed(n, value) for n, (kind, value) in enumerate(asked) if kind == "path"}
        videos = {n: _bytes(n, value) for n, (kind, value) in enumerate(asked) if kind == "video"}
        answers = {n: self._recognizer.answer("", values, None) for n, values in features.items()}
        if paths or videos:
            answers |= self._of_files(paths, videos)
        threshold = model.threshold(precision)
        return [_record(answers[n], model.task, threshold, timesteps) for n in range(len(rows))]

    def _of_files(self, paths: Mapping[int, str], videos: Mapping[int, bytes]) -> dict[int, Answer]:
        """Answers by row. Bytes go to files of a folder that only this user may enter, for as long as it takes."""
        end = time.monotonic() + self._seconds
        if not self._lock.acquire(timeout=self._seconds):
            raise LrcnError(f"not begun within {self._seconds:g} s: other requests were before it; send it again")
        try:
            with tempfile.TemporaryDirectory(prefix="lrcn-") as folder:
                named = dict(paths)
                for n, data in videos.items():
                    named[n] = str(Path(folder, f"row{n}"))
                    Path(named[n]).write_bytes(data)
                found = self._until(end, sorted(set(named.values())))
        finally:
            self._lock.release()
        return {n: found[path] for n, path in named.items()}

    def _until(self, end: float, paths: Sequence[str]) -> dict[str, Answer]:
        """Answers by path; raises LrcnError when there are more to come at the time `end`."""
        found: dict[str, Answer] = {}
        with closing(self._recognizer.predict_files(paths)) as answers:
            for answer in answers:
                found[answer.path] = answer
                if len(found) < len(paths) and time.monotonic() > end:
                    raise LrcnError(
                        f"{len(found)} of {len(paths)} videos were read within {self._seconds:g} s; send fewer at a "
                        "time, or use `lrcn predict`"
                    )
        return found

    def _features(self, number: int, value: Any) -> VideoFeatures:
        spec = self._recognizer.model.spec
        size, crops = spec.architecture["feature_size"], spec.view.crops
        try:
            values = np.array([np.asarray(step) for step in value])
        except (TypeError, ValueError):  # a number, or rows of several lengths
            raise RequestError(f"row {number}: features are no array; expected {_form(crops, size)}") from None
        if values.dtype.kind not in "fiu" or values.shape[1:] != ((crops, size) if crops > 1 else (size,)):
            got = f"of shape {values.shape}" if values.dtype.kind in "fiu" else "not all numbers"
            raise RequestError(f"row {number}: features are {got}; expected {_form(crops, size)}")
        if len(values) > STEPS_MAX:
            raise RequestError(f"row {number}: {len(values)} timesteps; expected at most {STEPS_MAX}")
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise RequestError(f"row {number}: features hold nan or infinity; expected finite numbers")
        times = np.arange(len(values)) / spec.view.fps
        return VideoFeatures(values, times, times)


def _form(crops: int, size: int) -> str:
    shape = f"(T, {crops}, {size})" if crops > 1 else f"(T, {size})"
    return f"numbers of shape {shape}, T of 1 or more"


def _question(number: int, row: Mapping[str, Any]) -> tuple[str, Any]:
    """The one column of a row that has a value, and the value."""
    given = [
        (name, row[name])
        for name in COLUMNS
        if name in row and row[name] is not None and not (isinstance(row[name], float) and math.isnan(row[name]))
    ]
    if len(given) != 1:
        got = " and ".join(name for name, _ in given) or "no value"
        raise RequestError(f"row {number}: {got}; expected exactly one of {', '.join(COLUMNS)}")
    return given[0]


def _allowed(number: int, value: Any) -> str:
    """The file that a path leads to, links followed, when it lies below the folder that the server may read."""
    root = os.environ.get(VIDEO_ROOT, "")
    if not root:
        raise RequestError(
            f"row {number}: this server reads no paths; send the bytes as `video`, or start it with {VIDEO_ROOT} set "
            "to the folder that it may read"
        )
    top = os.path.realpath(root)
    try:
        path = os.path.realpath(os.path.join(top, value))  # noqa: PTH118 - the name stays as it is
    except (TypeError, ValueError):  # a number; a NUL or a half of a surrogate pair in it
        raise RequestError(f"row {number}: path is no file name; expected text") from None
    if os.path.commonpath([top, path]) != top or path == top:
        raise RequestError(printable(f"row {number}: path {value} does not lie below the folder this server may read"))
    return path


def _bytes(number: int, value: Any) -> bytes:
    """The bytes of a video."""
    if isinstance(value, str):
        try:
            value = base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(f"row {number}: video is no base64; expected a file's bytes in base64") from None
    if not isinstance(value, bytes | bytearray):
        raise RequestError(f"row {number}: video is a {type(value).__name__}; expected bytes, or text in base64")
    if len(value) > VIDEO_BYTES_MAX:
        raise RequestError(
            f"row {number}: a video of {len(value)} bytes; expected at most {VIDEO_BYTES_MAX}: use `path`, or "
            "`lrcn predict`"
        )
    return bytes(value)


def _record(answer: Answer, task: str, threshold: float | None, timesteps: bool) -> dict[str, Any]:
    sure = is_sure(answer.score, threshold) if answer.is_answered and task == "clip" else None
    values = {name: getattr(answer, name) for name in ("status", "reason", "label", "score")}
    segments = [
        {
            "start_seconds": segment.start_seconds,
            "end_seconds": segment.end_seconds,
            "label": segment.label,
            "score": segment.score,
            "sure": is_sure(segment.score, threshold),
        }
        for segment in answer.segments
    ]
    record = {**values, "sure": sure, "scores": dict(answer.scores), "segments": segments}
    if timesteps:
        steps = answer.timesteps
        record["time_seconds"] = [] if steps is None else steps.time_seconds.tolist()
        record["probabilities"] = [] if steps is None else steps.probabilities.tolist()
    return record
