"""How an event of a run is told to MLflow: at once, or later from `mlruns_unsent/`.

Every event may be told twice. A metric carries the time it was taken, which is a part of its key in MLflow; a tag, a
file and a table replace what was there; a run is found again by its tag `lrcn.key`, a model by its `model.sha256`.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.runlinks import KEY, NOT_FINITE, PARENT, REPLACES, VIEW
from pipeline.trackingclient import client_of
from pipeline.trackingdata import METRICS_AT_ONCE, Event, without_edited_note
from pipeline.trackingstore import apply_settings, asked, ensure_database, in_a_line, quiet, sqlite_path, troubles
from pipeline.trackingview import saved_view

GONE = "RESOURCE_DOES_NOT_EXIST"
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", GONE)
PARAMS_AT_ONCE = 100  # what MLflow takes in one call
PAGE = 1000  # runs in one answer


class Refused(Exception):
    """MLflow answers, and does not take this."""


class Gone(Refused):
    """MLflow answers, and does not know what this is about."""


class Away(Exception):
    """MLflow cannot answer: no server, another server, a damaged database, no space."""


@contextmanager
def telling() -> Iterator[None]:
    """Turn what MLflow cannot do into Refused or Away, one line each; mistakes of our own (TypeError, ...) go on up."""
    try:
        with quiet():
            yield
    except Exception as error:
        import sqlalchemy.exc

        if not isinstance(error, (*troubles(), sqlite3.Error, ImportError)):
            raise
        reason = in_a_line(error) or type(error).__name__
        # A database of ours that fails is reported as BAD_REQUEST too.
        damaged = isinstance(error.__cause__, sqlalchemy.exc.SQLAlchemyError)
        code = None if damaged else getattr(error, "error_code", None)
        raise (Gone if code == GONE else Refused if code in REFUSALS else Away)(reason) from error


def connect(uri: str, answer: Callable[[], bool] | None = None) -> Any:
    """MLflow's client; raises Away soon where nothing answers. answer: of `asked`, where that was done before."""
    apply_settings()
    if not (answer or asked(uri))():
        raise Away("no answer from the server")
    try:
        with telling():
            ensure_database(uri)
            return client_of(uri)
    except Refused as error:  # the address: nothing is there to take anything
        raise Away(str(error)) from error


class Receiver:
    """One run in MLflow, to which events are told in their order; the first of them is `open`.

    base: folder that the paths of events are relative to. say: is called with a line on what nobody asked for. untold:
    what is to be told again, where that was cut off. Raises Refused and Away.
    """

    def __init__(self, client: Any, uri: str, base: Path = Path(), *, say: Callable[[str], None]) -> None:
        self.run_id: str | None = None
        self.is_new = False
        self.untold: list[Event] = []
        self._client, self._uri, self._base, self._say = client, uri, base, say
        self._told: list[Event] = []
        self._ended_ms: int | None = None

    def deliver(self, event: Event) -> Any:
        """Tell MLflow of one event; the address of a model, None for other kinds.

        Where the run has vanished with its database (a server that came back with an empty one), it is begun again
        there, and told all that it was told here before.
        """
        try:
            answer = self._tell(event)
        except Gone:
            with telling():
                if not self._told or self._active(self.run_id):
                    raise
            self._begin_again()
            answer = self._tell(event)
        self._told.append(event)
        return answer

    def _tell(self, event: Event) -> Any:
        with telling():
            return getattr(self, f"_{event['kind']}")(event)

    def _begin_again(self) -> None:
        lost, (header, *told) = self.run_id, self._told
        self.untold = []
        for event in told:
            if "path" in event and not (self._base / str(event["path"])).exists():
                self._say(f"not logged again: {event['path']} is no longer there")
            else:
                self.untold.append(event)
        try:
            self._tell({**header, "run_id": lost})
        except Refused as error:  # then everything is to wait, and not this event alone to be left out
            self.run_id = lost
            raise Away(str(error)) from error
        while self.untold:
            try:
                self._tell(self.untold[0])
            except Refused as error:
                self._say(f"not logged again: {error}")
            del self.untold[0]
        self._say(f"run {lost} is no longer there; begun again as {self.run_id}")

    def _open(self, event: Event) -> None:
        """Find the run, or make it, below its parent, which is found or made first.

        A run that is given by its id and no longer there (deleted, or another database) is replaced by a new one, whose
        tag `replaces_run` names it.
        """
        parent, self._ended_ms = event["parent"], None
        experiment_id = self._experiment_id(event["experiment"], parent.get("columns", ()) if parent else ())
        self.run_id = self._active(event["run_id"]) or self._only_one(experiment_id, event["key"])
        if self.run_id is not None:
            known = self._client.get_run(self.run_id)
            self._client.update_run(self.run_id, status="RUNNING")
            if event["tags_again"]:
                self._tags({"tags": without_edited_note(event["tags"], known.data.tags)})
            else:  # what is found out of a model afterwards does not make its training longer
                self._ended_ms = known.info.end_time
            return
        tags = {**event["tags"], KEY: event["key"]}
        if event["run_id"]:
            tags[REPLACES] = event["run_id"]
        if parent:
            tags[PARENT] = self._only_one(experiment_id, parent["key"]) or self._create(experiment_id, parent)
        self.run_id, self.is_new = self._create(experiment_id, {**event, "tags": tags}), True
        if parent:
            self._settle(experiment_id, parent["key"], tags[PARENT])
        else:
            self.run_id = self._only_one(experiment_id, event["key"]) or self.run_id

    def _create(self, experiment_id: str, event: Event) -> str:
        tags = {**event["tags"], KEY: event["key"]}
        created = self._client.create_run(experiment_id, start_time=event["time"], tags=tags, run_name=event["name"])
        self._add_params(created.info.run_id, event.get("params", {}))
        return str(created.info.run_id)

    def _add_params(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in values.items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=params[first : first + PARAMS_AT_ONCE])

    def _settle(self, experiment_id: str, key: str, parent_id: str) -> None:
        """Look again whether the parent stayed: several first children at once, on several machines, make several.

        Whoever looks moves the children there are; who makes a child looks afterwards. So none is left behind.
        """
        while (stays := self._only_one(experiment_id, key)) not in (None, parent_id):
            self._client.set_tag(self.run_id, PARENT, stays)
            parent_id = str(stays)

    def _only_one(self, experiment_id: str, key: str) -> str | None:
        """The run of a key; of several the earliest stays, the others are deleted and their children moved."""
        runs = self._search(experiment_id, KEY, key)
        first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)) or [None]
        for other in others:
            for child in self._search(experiment_id, PARENT, other.info.run_id):
                self._client.set_tag(child.info.run_id, PARENT, first.info.run_id)
            self._client.delete_run(other.info.run_id)
        return None if first is None else str(first.info.run_id)

    def _search(self, experiment_id: str, tag: str, value: str) -> list[Any]:
        return list(self._client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=PAGE))

    def _active(self, run_id: str | None) -> str | None:
        """The id of a run that is there and not deleted."""
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            found = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            return None
        return run_id if found.info.lifecycle_stage == "active" else None

    def _experiment_id(self, name: str, columns: Sequence[str] = ()) -> str:
        """Find an experiment, or make it.

        One without the view `scores` gets it; what is there may be somebody's own.
        """
        from mlflow.exceptions import MlflowException

        if self._client.get_experiment_by_name(name) is None:
            path = sqlite_path(self._uri)
            folder = re.sub(r"[^\w\-.]", "_", name)
            location = None if path is None else (path.parent / "mlruns" / folder).absolute().as_uri()
            try:
                self._client.create_experiment(name, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first
                    raise
        found = self._client.get_experiment_by_name(name)
        tag, value = saved_view(VIEW, columns)
        if columns and tag not in found.tags:
            self._client.set_experiment_tag(found.experiment_id, tag, value)
        return str(found.experiment_id)

    def _params(self, event: Event) -> None:
        """Parameters that are not there yet; one that is there cannot be changed."""
        values = event["values"]
        known = {} if self.is_new else self._client.get_run(self.run_id).data.params
        self._add_params(str(self.run_id), {name: value for name, value in values.items() if name not in known})
        changed = [f"{name} = {values[name]}" for name in values.keys() & known.keys() if values[name] != known[name]]
        if changed:
            raise Refused(f"a run's parameters do not change, so it keeps others than {', '.join(sorted(changed))}")

    def _metrics(self, event: Event) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*value) for value in event["values"]]  # name, value, time in ms, step
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self.run_id, metrics=metrics[first : first + METRICS_AT_ONCE])

    def _not_finite(self, event: Event) -> None:
        known = self._client.get_run(self.run_id).data.tags.get(NOT_FINITE, "").split(", ")
        self._client.set_tag(self.run_id, NOT_FINITE, ", ".join(sorted({*filter(None, known), *event["names"]})))

    def _tags(self, event: Event) -> None:
        for name, value in event["tags"].items():
            self._client.set_tag(self.run_id, name, value)

    def _tags_of(self, event: Event) -> None:
        """Tags of another run, e.g. of one of an experiment's trainings; its status stays."""
        other = self._active(event["run_id"]) or self._only_one(self._experiment_id(event["experiment"]), event["key"])
        if other is None:
            raise Refused(f"there is no run of {event['name']} to be tagged")
        for name, value in event["tags"].items():
            self._client.set_tag(other, name, value)

    def _text(self, event: Event) -> None:
        self._client.log_text(self.run_id, event["text"], event["file"])

    def _table(self, event: Event) -> None:
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        self._text(event)
        known = json.loads(self._client.get_run(self.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": event["file"], "type": "table"}
        if entry not in known:
            self._client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, entry]))

    def _file(self, event: Event) -> None:
        self._client.log_artifact(self.run_id, str(self._source(event)), event["folder"] or None)

    def _folder(self, event: Event) -> None:
        self._client.log_artifacts(self.run_id, str(self._source(event)), event["folder"])

    def _dataset(self, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        entity: Any = Dataset.from_dictionary(event["dataset"])
        tag = InputTag(MLFLOW_DATASET_CONTEXT, event["context"])
        given = [DatasetInput(entity, [tag])]
        try:
            self._client.log_inputs(self.run_id, datasets=given)
        except Exception as error:
            # Another run named the same data set for the first time between MLflow's look and its entry.
            if "unique constraint" not in str(error).lower():
                raise
            self._client.log_inputs(self.run_id, datasets=given)

    def _model(self, event: Event) -> str:
        from pipeline.trackingmodel import send_model

        return send_model(self._client, self._uri, str(self.run_id), self._source(event), event)

    def _end(self, event: Event) -> None:
        self._client.set_terminated(self.run_id, event["status"], self._ended_ms or event["time"])

    def _source(self, event: Event) -> Path:
        path = self._base / str(event["path"])
        if not path.exists():
            raise Refused(f"{path} is no longer there")
        return path
