"""Runs as MLflow has them, as plain values: all of an experiment, one by its id or folder, and the files of a run.

Loads mlflow only when it asks it something.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError
from pipeline.runlinks import KEY, KIND, PARENT, RUN_FILE, read_run_file
from pipeline.trackingclient import client_of
from pipeline.trackingstore import (
    OFF,
    answers,
    apply_settings,
    current,
    ensure_database,
    in_a_line,
    quiet,
    shown,
    sqlite_path,
    troubles,
)

PAGE = 1000  # runs in one answer of a server
RUN_ID = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class TrackedRun:
    """One run. Times are milliseconds since 1970, UTC; metrics are the last value of each."""

    run_id: str
    name: str
    experiment: str
    status: str
    started_ms: int
    ended_ms: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def kind(self) -> str:
        """`experiment`, `training` or `fusion`; "" of a run that this package did not make."""
        return self.tags.get(KIND, "")

    @property
    def parent_id(self) -> str | None:
        """Id of the run of the experiment that a training or fusion belongs to."""
        return self.tags.get(PARENT)

    @property
    def place(self) -> tuple[str, str]:
        """Task and stream, "" of an experiment's run."""
        return self.tags.get("task", ""), self.tags.get("stream", "")


@contextmanager
def asking(uri: str) -> Iterator[Any]:
    """An MLflow client of runs and registered models; what MLflow cannot do inside is a TrackingError of one line.

    A server that is away, or falls silent, is given up within 10 s. Do nothing inside but ask MLflow. Inside, its
    address is MLflow's current one.
    """
    if uri == OFF:
        raise TrackingError("MLFLOW_TRACKING_URI is `off`; set it to where the runs are, or unset it")
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise TrackingError(
            f"{path}: no such database, so there are neither runs nor models; train something, run from the project's "
            "folder, or set MLFLOW_TRACKING_URI"
        )
    apply_settings()
    if not answers(uri):
        raise TrackingError(f"{shown(uri)}: no answer; start the server, or set MLFLOW_TRACKING_URI to another")
    try:
        with quiet():
            ensure_database(uri)
            with current(uri):  # as artifacts behind the tracking server itself are addressed
                yield client_of(uri)
    except ImportError as error:
        raise TrackingError(f"{shown(uri)}: needs a package that is not installed ({error}); install it") from None
    except troubles() as error:
        raise TrackingError(
            f"{shown(uri)}: MLflow could not do it ({in_a_line(error)}); "
            "see that MLFLOW_TRACKING_URI is right, and try again"
        ) from None


def runs_of(client: Any, experiments: Sequence[str] = ()) -> tuple[list[TrackedRun], int]:
    """All runs of some experiments (none named: of all) that this package made, and how many others there are."""
    known = {found.name: str(found.experiment_id) for found in _pages(client.search_experiments)}
    if missing := [name for name in experiments if name not in known]:
        raise TrackingError(f"no experiment {missing[0]!r} in MLflow; expected one of {', '.join(sorted(known))}")
    wanted = {known[name]: name for name in experiments or known}
    found = [
        _plain(run, wanted[run.info.experiment_id])
        for run in _pages(client.search_runs, list(wanted), order_by=["attributes.start_time DESC"])
    ]
    own = [run for run in found if run.kind]
    return own, len(found) - len(own)


def find_run(client: Any, what: str) -> TrackedRun:
    """A run by its id, a unique beginning of its id, or the folder of a training (with its `mlflow_run.json`).

    Raises TrackingError where there is none, or more than one.
    """
    named = Path(what) / RUN_FILE if Path(what).is_dir() else Path(what)
    if named.name == RUN_FILE and named.is_file():
        # A run that MLflow got later has no id in the file, and one that was replaced another; both have its key.
        conditions = _conditions(read_run_file(named.parent), named)
        expected = "it was not tracked, or MLflow does not have it yet: `lrcn runs sync`"
    elif RUN_ID.fullmatch(what):
        conditions, expected = [f"attributes.run_id LIKE '{what}%'"], "`lrcn runs list` shows those there are"
    else:
        raise TrackingError(
            f"{what}: no run; expected an id, the beginning of one (4 letters or more), or a training's folder"
        )
    found = next(filter(None, (runs_where(client, condition) for condition in conditions)), [])
    if not found:
        raise TrackingError(f"{what}: MLflow has no such run; {expected}")
    if len(found) > 1:
        ids = ", ".join(f"{run.run_id} ({run.name})" for run in found[:4])
        raise TrackingError(f"{what}: begins the ids of {len(found)} runs ({ids}); expected more letters of one")
    return found[0]


def runs_where(client: Any, condition: str) -> list[TrackedRun]:
    """All runs of which a condition holds, in the words of MLflow's filter."""
    names = {str(found.experiment_id): found.name for found in _pages(client.search_experiments)}
    runs = _pages(client.search_runs, list(names), condition) if names else ()
    return [_plain(run, names[run.info.experiment_id]) for run in runs]


def _conditions(facts: Mapping[str, Any], file: Path) -> list[str]:
    """How MLflow is asked for the run of an `mlflow_run.json`: first by its id, then by its key."""
    named = {"attributes.run_id": facts.get("run_id"), f"tags.`{KEY}`": facts.get("key")}
    hexadecimal = {where: value for where, value in named.items() if re.fullmatch(r"[0-9a-f]{1,64}", str(value))}
    if not hexadecimal:
        raise TrackingError(
            f"{file}: names no run (neither `run_id` nor `key`); train again, or name the run by its id"
        )
    return [f"{where} = '{value}'" for where, value in hexadecimal.items()]


def read_json(client: Any, run_id: str, file: str) -> Any:
    """What a JSON file among a run's artifacts holds; None where there is none."""
    if file not in {found.path for found in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            return json.loads(Path(client.download_artifacts(run_id, file, folder)).read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrackingError(
                f"{file} of run {run_id}: not JSON ({error}); it was damaged or exchanged: write it again"
            ) from None


def _plain(run: Any, experiment: str) -> TrackedRun:
    """A run as MLflow's client gives it, as a plain value."""
    info, data = run.info, run.data
    return TrackedRun(
        run_id=info.run_id,
        name=info.run_name or "",
        experiment=experiment,
        status=info.status,
        started_ms=int(info.start_time),
        ended_ms=None if info.end_time is None else int(info.end_time),
        tags=dict(data.tags),
        params=dict(data.params),
        metrics=dict(data.metrics),
    )


def _pages(search: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
    """Everything that a search of MLflow's client finds, page after page."""
    token: str | None = None
    while True:
        page = search(*arguments, **options, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
