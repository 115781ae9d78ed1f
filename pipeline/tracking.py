"""Experiment tracking: a run's parameters, curves, tables, figures and model in MLflow.

With `trackingstore.py` (the database), `serving.py` and `modelstore.py` (models) the only importer of mlflow, which is
loaded when a run starts and not before. Everything that is logged is in local files first: a tracking server that is
away costs at most 10 s and no result.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.metricnames import clean_names, flatten
from pipeline.trackingstore import (
    OFF,
    answers,
    apply_settings,
    current,
    ensure_database,
    patience,
    sqlite_path,
    tracking_uri,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "ensure_database", "flatten", "tracking_uri"]

# What answering with a model imports.
PACKAGES = ("torch", "torchvision", "safetensors", "numpy", "pandas", "pyyaml", "av", "opencv-python")
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
FIRST_SAMPLE_SECONDS = 1.0
SAMPLE_SHARE = 1 / 30  # of the run's age so far: a short run has samples, a long one has hundreds and not thousands
SAMPLE_SECONDS_MAX = 60.0


class Run:
    """One MLflow run, as a context manager: FINISHED at the end, FAILED after an exception, KILLED when stopped.

    What MLflow refuses (a parameter that changed, ...) is reported in a line on stderr and left out. When it cannot
    answer (server away, disk full, damaged database) that is reported once; from then on every method does nothing.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.run_id: str | None = None
        self._client: Any = None
        self._monitor: Any = None
        self._started = time.monotonic()
        self._not_finite: set[str] = set()

    @property
    def on(self) -> bool:
        """Whether anything is still being logged."""
        return self._client is not None

    @classmethod
    def start(
        cls,
        experiment: str,
        name: str,
        tags: Mapping[str, object],
        params: Mapping[str, object],
        uri: str,
        description: str = "",
    ) -> Self:
        """A new run, its system metrics (CPU, memory, disk, network, GPU where nvidia-ml-py is there) being sampled.

        The experiment is created when it is new; beside an SQLite database its files go to `mlruns/`. `params` may be
        nested; the names become `train.lr`. A tag `mlflow.source.git.commit` overrides what MLflow finds by itself.
        """
        run = cls(uri)
        run._connect()
        run._do(lambda client: run._create(client, experiment, name, tags, description))
        run._do(lambda client: run._log_params(client, params))
        run._do(lambda client: run._watch_system())
        return run

    @classmethod
    def resume(cls, run_id: str | None, uri: str, *, experiment: str, name: str) -> Self:
        """Go on with a run, e.g. to add test scores to a training.

        A run that is no longer there (deleted, or another database) is replaced by a new one of this experiment and
        name, whose tag `replaces_run` names it; without a run id (training was not tracked) too.
        """
        run = cls(uri)
        run._connect()
        run._do(lambda client: run._reopen(client, run_id, experiment, name))
        return run

    def log_epoch(self, values: Mapping[str, float], step: int) -> None:
        """One epoch's numbers, in a single call to the database."""
        self.log_metrics(values, step)
        if self._monitor is not None and "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL" not in os.environ:
            age = time.monotonic() - self._started
            self._monitor.sampling_interval = min(max(FIRST_SAMPLE_SECONDS, age * SAMPLE_SHARE), SAMPLE_SECONDS_MAX)

    def log_metrics(self, values: Mapping[str, float | int | None], step: int = 0) -> None:
        """Numbers by name, e.g. `test/video/top1`.

        None, nan and infinity are left out, and their names kept in the tag `metrics.not_finite`.
        """
        numbers = {key: math.nan if value is None else float(value) for key, value in values.items()}
        names = clean_names(numbers)
        finite = {names[key]: value for key, value in numbers.items() if math.isfinite(value)}

        def log(client: Any) -> None:
            from mlflow.entities import Metric

            now_ms = int(time.time() * 1000)
            for some in _chunks(finite, 1000):
                client.log_batch(self.run_id, metrics=[Metric(key, some[key], now_ms, step) for key in some])

        self._do(log)
        missing = {names[key] for key, value in numbers.items() if not math.isfinite(value)}
        if missing - self._not_finite:
            self._not_finite |= missing
            self.set_tags({"metrics.not_finite": ", ".join(sorted(self._not_finite))})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Tags by name; a tag that is there is replaced."""

        def log(client: Any) -> None:
            for key, value in tags.items():
                client.set_tag(self.run_id, key, str(value))

        self._do(log)

    def log_table(self, rows: "pd.DataFrame | Sequence[Mapping[str, object]]", file: str) -> None:
        """A table that MLflow's page shows and compares across runs; `file` ends in .json.

        Logged again it replaces what was there (MLflow's own log_table appends: a second evaluation would double it).
        """
        if not file.endswith(".json"):
            raise ValueError(f"table file is {file!r}; expected a name that ends in .json, MLflow shows no other")
        import pandas as pd

        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        text = table.to_json(orient="split", index=False, date_format="iso")

        def log(client: Any) -> None:
            from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

            client.log_text(self.run_id, text, file)
            known = json.loads(client.get_run(self.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
            entry = {"path": file, "type": "table"}
            if entry not in known:
                client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, entry]))

        self._do(log)

    def log_text(self, text: str, file: str) -> None:
        """A text file."""
        self._do(lambda client: client.log_text(self.run_id, text, file))

    def log_dict(self, value: Mapping[str, Any], file: str) -> None:
        """A mapping as .json or .yaml, by the file's ending."""
        self._do(lambda client: client.log_dict(self.run_id, dict(value), file))

    def log_file(self, path: Path, folder: str = "") -> None:
        """A file as it is."""
        self._do(lambda client: client.log_artifact(self.run_id, str(path), folder or None))

    def log_folder(self, path: Path, folder: str) -> None:
        """The files of a folder as they are; figures are shown by MLflow's page as .svg."""
        self._do(lambda client: client.log_artifacts(self.run_id, str(path), folder))

    def log_dataset(self, table: "pd.DataFrame", source: str, name: str, context: str) -> None:
        """The videos table a run used: its columns, size and a digest of all its rows (context: training, test ...)."""
        digest = hashlib.sha256(table.to_csv(index=False).encode("utf-8", "surrogateescape")).hexdigest()[:16]

        def log(client: Any) -> None:
            from mlflow.data.pandas_dataset import from_pandas
            from mlflow.entities import Dataset, DatasetInput, InputTag
            from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

            described = from_pandas(table, source=source, name=name, digest=digest)
            entity: Any = Dataset.from_dictionary(described.to_dict())
            tag = InputTag(MLFLOW_DATASET_CONTEXT, context)
            client.log_inputs(self.run_id, datasets=[DatasetInput(entity, [tag])])

        self._do(log)

    def log_model(
        self,
        folder: Path,
        *,
        epoch: int = 0,
        name: str = "model",
        registered_name: str | None = None,
    ) -> str | None:
        """A model folder as an MLflow model, without pickle; its URI, None when tracking is off.

        It takes rows of features, of paths or of videos' bytes and gives a record for each, see pipeline/serving.py. It
        loads wherever this package is installed. The metrics of `epoch` (the one whose weights were kept) and the run's
        parameters stand beside it. `registered_name` adds a version to the model registry.
        """
        uris: list[str] = []

        def log(client: Any) -> None:
            import mlflow.pyfunc

            # Under the run's own experiment; Model.log alone would take MLflow's current one.
            run = client.get_run(self.run_id)
            entry = client.create_logged_model(run.info.experiment_id, name, self.run_id, params=run.data.params)
            with current(self.uri), patience():
                info = mlflow.models.Model.log(
                    artifact_path=None,
                    flavor=mlflow.pyfunc,
                    run_id=self.run_id,
                    model_id=entry.model_id,
                    step=epoch,
                    registered_model_name=registered_name,
                    python_model=str(Path(__file__).with_name("serving.py")),
                    artifacts={"model": str(folder.absolute())},
                    signature=_signature(),
                    pip_requirements=[f"{package}=={_version(package)}" for package in PACKAGES],
                    metadata={"package": f"lrcn-pipeline {_version('lrcn-pipeline')}"},
                )
            uris.append(str(info.model_uri))

        if self.on and not answers(self.uri):
            self._turn_off("no answer before the model was sent")
        self._do(log)
        return uris[0] if uris else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = _status(error)
        # First the status, then the sampling thread: when the server is gone, the first of them has found out.
        self._do(lambda client: client.set_terminated(self.run_id, status))
        if self.on and self._monitor is not None:
            self._do(lambda client: self._monitor.finish())
        self._client = None

    def _connect(self) -> None:
        if self.uri == OFF:
            return
        apply_settings()
        if not answers(self.uri):
            self._turn_off("no answer from the server")
            return
        import mlflow

        with self._watch_out():
            ensure_database(self.uri)
            self._client = mlflow.MlflowClient(self.uri)

    def _create(self, client: Any, experiment: str, name: str, tags: Mapping[str, object], description: str) -> None:
        from mlflow.tracking.context.registry import resolve_tags
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

        own = {key: str(value) for key, value in tags.items()}
        if description:
            own[MLFLOW_RUN_NOTE] = description
        created = client.create_run(self._experiment_id(client, experiment), tags=resolve_tags(own), run_name=name)
        self.run_id = created.info.run_id

    def _experiment_id(self, client: Any, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is None:
            path = sqlite_path(self.uri)
            folder = re.sub(r"[^\w\-.]", "_", name)
            location = None if path is None else (path.parent / "mlruns" / folder).absolute().as_uri()
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # another process was first
        return str(found.experiment_id)

    def _reopen(self, client: Any, run_id: str | None, experiment: str, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_run(run_id) if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            found = None
        if found is None or found.info.lifecycle_stage != "active":
            self._create(client, experiment, name, {"replaces_run": run_id} if run_id else {}, "")
            return
        self.run_id = run_id
        self._not_finite = set(filter(None, found.data.tags.get("metrics.not_finite", "").split(", ")))
        client.update_run(run_id, status="RUNNING")

    def _log_params(self, client: Any, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        flat = flatten(params, ".")
        names = clean_names(flat)
        for some in _chunks(flat, 100):
            client.log_batch(self.run_id, params=[Param(names[key], str(some[key])) for key in some])

    def _watch_system(self) -> None:
        from mlflow.system_metrics import system_metrics_monitor as library

        self._monitor = library.SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            self.run_id, FIRST_SAMPLE_SECONDS, tracking_uri=self.uri
        )
        self._monitor.start()

    def _do(self, action: Callable[[Any], object]) -> None:
        """Let MLflow do something, unless tracking is off."""
        if self._client is not None:
            with self._watch_out():
                action(self._client)

    @contextmanager
    def _watch_out(self) -> Iterator[None]:
        """What MLflow cannot do turns tracking off; mistakes of our own (TypeError, ...) go on up."""
        import alembic.util
        import mlflow
        import sqlalchemy.exc

        troubles = (mlflow.MlflowException, sqlalchemy.exc.SQLAlchemyError, alembic.util.CommandError, OSError)
        try:
            with warnings.catch_warnings():
                # MLflow's about its own insides (SQLAlchemy, type hints, two readers of a local path), matplotlib's
                # about letters its font lacks: nothing a user can act on; what fails raises.
                for kind in (DeprecationWarning, FutureWarning, UserWarning):
                    warnings.simplefilter("ignore", kind)
                yield
        except troubles as error:
            reason = " ".join(str(error).split())[:200]
            if self.run_id and getattr(error, "error_code", None) in REFUSALS:
                self._say(f"not logged: {reason}")
            else:
                self._turn_off(reason)

    def _turn_off(self, reason: str) -> None:
        self._client = None
        self._say(f"{reason}; nothing more of this run goes to MLflow, all of it is in local files")

    def _say(self, text: str) -> None:
        line = f"tracking: {self.uri}: {text}\n"
        sys.stderr.write(re.sub(r"//[^/@\s]+@", "//", line))  # without the user and password of a URI


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    # 128 + the signal's number is what a process stopped by a signal exits with.
    stopped = isinstance(error, SystemExit) and isinstance(error.code, int) and error.code >= 128
    return "KILLED" if stopped or isinstance(error, KeyboardInterrupt) else "FAILED"


def _chunks(items: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Parts of a mapping, of the size that MLflow takes in one call."""
    keys = list(items)
    for first in range(0, len(keys), size):
        yield {key: items[key] for key in keys[first : first + size]}


def _signature() -> Any:
    """What pipeline/serving.py takes and gives.

    Features are of any type to MLflow and checked there: as an array of doubles it would refuse a row of integers
    (JSON from JavaScript writes 0 for 0.0), and rows of several kinds in one request. Videos are text: for `binary`
    MLflow decodes base64 without looking whether it is any.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, Map, Object, ParamSchema, ParamSpec, Property, Schema

    answer = {"label": "string", "score": "double", "sure": "boolean"}
    timed = {"start_seconds": "double", "end_seconds": "double", **answer}
    segment = Object([Property(name, kind) for name, kind in timed.items()])
    steps = {"time_seconds": Array("double"), "probabilities": Array(Array("double"))}
    inputs: Any = {"features": AnyType(), "path": "string", "video": "string"}  # type: ignore[no-untyped-call]
    outputs: Any = {"status": "string", "reason": "string", **answer}
    outputs |= {"scores": Map("double"), "segments": Array(segment), **steps}
    always = outputs.keys() - {"score", "sure", *steps}
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=False) for name, kind in inputs.items()]),
        outputs=Schema([ColSpec(kind, name, required=name in always) for name, kind in outputs.items()]),
        params=ParamSchema([ParamSpec("precision", "double", 0.9), ParamSpec("timesteps", "boolean", False)]),
    )


def _version(package: str) -> str:
    return importlib.metadata.version(package).split("+")[0]  # an index has 2.15.0, not 2.15.0+cpu
