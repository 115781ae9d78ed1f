"""What MLflow holds of runs and registered models, as plain values: asked for, never changed.

Loads mlflow only when something is asked.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.errors import TrackingError
from pipeline.trackingstore import OFF, answers, apply_settings, sqlite_path

MAX_RUNS = 1000
RUN_ID = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow; metrics are the last value of each."""

    run_id: str
    name: str
    experiment: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def kind(self) -> str:
        """`experiment`, `training` or `fusion`; "" of a run that this package did not make."""
        return self.tags.get("lrcn.kind", "")

    @property
    def parent_id(self) -> str | None:
        """Id of the run of the experiment that a training or fusion belongs to."""
        return self.tags.get("mlflow.parentRunId")


def runs_beginning(text: str, uri: str) -> list[TrackedRun]:
    """The runs whose id is a text, or begins with it; raises TrackingError where MLflow cannot be asked."""
    if not RUN_ID.fullmatch(text):
        return []
    return _runs(f"attributes.run_id LIKE '{text}%'", uri)


def runs_named(name: str, uri: str) -> list[TrackedRun]:
    """The runs of a name; raises TrackingError where MLflow cannot be asked."""
    return _runs(f"attributes.run_name = '{_quotable(name)}'", uri)


def runs_of_key(key: str, uri: str) -> list[TrackedRun]:
    """The runs begun with a key (`lrcn.key`), which one has before MLflow gives it an id; TrackingError as above."""
    return _runs(f"tags.`lrcn.key` = '{_quotable(key)}'", uri)


def runs_of_model(sha256: str, uri: str) -> list[TrackedRun]:
    """The runs that trained a model, by the SHA-256 of its `model.yaml`; raises TrackingError as above."""
    return _runs(f"tags.`model.sha256` = '{_quotable(sha256)}'", uri)


def children_of(run_id: str, uri: str) -> list[TrackedRun]:
    """The runs that belong to a run; raises TrackingError where MLflow cannot be asked."""
    return _runs(f"tags.`mlflow.parentRunId` = '{_quotable(run_id)}'", uri)


def registered_of(run_id: str, uri: str) -> list[str]:
    """The versions in the model registry of a run's model, such as `demo-clip-rgb version 3 (champion)`.

    Raises TrackingError where MLflow cannot be asked.
    """
    found = []
    with _asking(uri) as client:
        for version in client.search_model_versions(f"run_id = '{_quotable(run_id)}'"):
            aliases = client.get_model_version(version.name, version.version).aliases  # a search leaves them out
            found.append(f"{version.name} version {version.version}" + (f" ({', '.join(aliases)})" if aliases else ""))
    return sorted(found)


def _runs(condition: str, uri: str) -> list[TrackedRun]:
    with _asking(uri) as client:
        experiments = {found.experiment_id: found.name for found in client.search_experiments()}
        runs = client.search_runs(list(experiments), condition, max_results=MAX_RUNS) if experiments else []
        return [
            TrackedRun(
                run_id=run.info.run_id,
                name=run.info.run_name or "",
                experiment=experiments[run.info.experiment_id],
                status=run.info.status,
                tags=dict(run.data.tags),
                metrics=dict(run.data.metrics),
            )
            for run in runs
        ]


@contextmanager
def _asking(uri: str) -> Iterator[Any]:
    """A client of MLflow; what it cannot answer becomes a TrackingError. No database is made."""
    if uri == OFF:
        raise TrackingError("MLFLOW_TRACKING_URI is `off`")
    shown = re.sub(r"//[^/@\s]+@", "//", uri)  # without user and password
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise TrackingError(f"no database {path}; run from the project's folder, or set MLFLOW_TRACKING_URI")
    apply_settings()
    if not answers(uri):
        raise TrackingError(f"no answer from {shown}")
    import alembic.util
    import mlflow
    import requests
    import sqlalchemy.exc

    troubles = (
        mlflow.MlflowException, sqlalchemy.exc.SQLAlchemyError, alembic.util.CommandError, requests.RequestException,
        ImportError, OSError,
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning, UserWarning):  # about MLflow's own insides
                warnings.simplefilter("ignore", kind)
            yield mlflow.MlflowClient(uri, uri)
    except troubles as error:
        said = " ".join(str(error).split())[:200]
        raise TrackingError(f"{shown} does not answer as MLflow does ({re.sub(r'//[^/@ ]+@', '//', said)})") from None


def _quotable(text: str) -> str:
    """A text that can stand in quotes in MLflow's filter, which knows no escapes; raises TrackingError for others."""
    if "'" in text or '"' in text or "`" in text or "\\" in text:
        raise TrackingError(f"{text!r} holds quotes, which MLflow cannot search for")
    return text
