"""A run as plain data: its events, the experiment it belongs to, and what a stopped training leaves for the next."""

import hashlib
import json
import math
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import write_text
from pipeline.metricnames import clean_names
from pipeline.runlinks import NOTE, NOTE_SHA256

if TYPE_CHECKING:
    import pandas as pd

METRICS_AT_ONCE = 1000  # what MLflow takes in one call

Event = dict[str, Any]  # `kind`, and what belongs to it; as JSON in mlruns_unsent/


@dataclass(frozen=True)
class Parent:
    """The run of an experiment, below which its trainings stand; the first of them makes it.

    key: its `lrcn.key`, which follows from the experiment's settings, so that all trainings of them find the same run.
    columns: of the view `scores`, which the experiment gets when it has none; see `saved_view`.
    """

    key: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()


def opening(
    experiment: str,
    name: str,
    key: str,
    run_id: str | None,
    tags: Mapping[str, object],
    description: str,
    parent: Parent | None,
    *,
    tags_again: bool,
) -> Event:
    """The first event of a run, with the tags that MLflow finds out by itself (user, program, commit).

    tags_again: whether a run that is there already gets the tags too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's insides
        from mlflow.tracking.context.registry import resolve_tags

    own = {tag: str(value) for tag, value in tags.items()}
    if description:
        own |= {NOTE: description, NOTE_SHA256: _sha256(description)}
    now = now_ms()
    above = {**asdict(parent), "time": now} if parent else None
    return {
        "kind": "open", "time": now, "experiment": experiment, "name": name, "key": key, "run_id": run_id,
        "tags": resolve_tags(own), "tags_again": tags_again, "parent": above,
    }  # fmt: skip


def without_edited_note(tags: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The tags for a run that is there, without the description where somebody has edited the one that it has."""
    is_edited = bool(known.get(NOTE)) and _sha256(known[NOTE]) != known.get(NOTE_SHA256)
    return {name: value for name, value in tags.items() if not (is_edited and name in (NOTE, NOTE_SHA256))}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def described(table: "pd.DataFrame", source: str, name: str) -> dict[str, Any]:
    """A table of videos as MLflow describes a data set: its columns, size and a digest of all its rows."""
    digest = _sha256(table.to_csv(index=False))[:16]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's type hints, and of columns of integers
        from mlflow.data.pandas_dataset import from_pandas

        return dict(from_pandas(table, source=source, name=name, digest=digest).to_dict())


def points(
    values: Mapping[str, float | int | None], time_ms: int, step: int
) -> tuple[list[tuple[str, float, int, int]], set[str]]:
    """Metrics as name, value, time and step, and the names of those that are None, nan or infinite."""
    numbers = {name: math.nan if value is None else float(value) for name, value in values.items()}
    names = clean_names(numbers)
    finite = [(names[name], value, time_ms, step) for name, value in numbers.items() if math.isfinite(value)]
    return finite, {names[name] for name, value in numbers.items() if not math.isfinite(value)}


def merged(events: Iterable[Event]) -> Iterator[Event]:
    """The same events, neighbouring metrics in one: a call for each epoch would take a server minutes for many runs."""
    held: list[Any] = []
    for event in events:
        if event["kind"] == "metrics" and len(held) + len(event["values"]) <= METRICS_AT_ONCE:
            held += event["values"]
            continue
        if held:
            yield {"kind": "metrics", "values": held}
        held = event["values"] if event["kind"] == "metrics" else []
        if event["kind"] != "metrics":
            yield event
    if held:
        yield {"kind": "metrics", "values": held}


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return int(time.time() * 1000)


def status_of(error: BaseException | None) -> str:
    """The status in which an exception, or none, leaves a run."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    # 128 + the signal's number is what a process stopped by a signal exits with.
    stopped = isinstance(error, SystemExit) and isinstance(error.code, int) and error.code >= 128
    return "KILLED" if stopped or isinstance(error, KeyboardInterrupt) else "FAILED"


class Memory:
    """A run's key and the times of its epochs in a file, so that a training that goes on logs the same points again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times: dict[int, int] = {}
        self.key = uuid.uuid4().hex
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines(keepends=True):
            with suppress(ValueError, KeyError):  # a line that was cut off when the process was killed
                known = json.loads(line)
                if "key" in known:
                    self.key = known["key"]
                else:
                    self._times[known["step"]] = known["time_ms"]
        lines = [{"key": self.key}, *({"step": step, "time_ms": ms} for step, ms in self._times.items())]
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))

    def time_ms(self, step: int) -> int:
        """When an epoch was first logged."""
        if step not in self._times:
            self._times[step] = now_ms()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time_ms": self._times[step]}) + "\n")
        return self._times[step]
