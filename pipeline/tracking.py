"""Experiment tracking: a run's parameters, curves, tables, figures and model in MLflow.

With `tracking*.py`, `registry.py`, `serving.py` and `modelstore.py` the only importer of mlflow, which is loaded when a
run starts and not before. What a server cannot take is kept in `mlruns_unsent/`, and costs at most 10 s.
"""

import json
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import yaml

from pipeline.discovery import printable
from pipeline.errors import StoreError
from pipeline.metricnames import clean_names, flatten
from pipeline.trackingdata import Event, Memory, Parent, described, now_ms, opening, points, status_of
from pipeline.trackingevents import Away, Receiver, Refused, connect, telling
from pipeline.trackingstore import OFF, apply_settings, asked, ensure_database, shown, tracking_uri
from pipeline.trackingsystem import Sampler
from pipeline.trackingunsent import Session, is_unsent, unsent_folder, unsent_keys

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Parent", "Run", "ensure_database", "flatten", "tracking_uri"]

SYNC = "`lrcn runs sync`"


class Run:
    """One MLflow run, as a context manager: FINISHED at the end, FAILED after an exception, KILLED when stopped.

    Everything that is logged is an event, and MLflow is told at once. What it refuses (a name it does not allow, ...)
    is reported in a line on stderr and left out. From the first time on that it cannot answer (server away, disk full,
    damaged database) events are kept in `mlruns_unsent/`, which is reported once, until `lrcn runs sync`. Samples of
    the system (CPU, memory, ...) are taken by MLflow's own thread, and are lost meanwhile. A server that comes back
    with another database is told all of it again.
    """

    def __init__(self, uri: str, key: str) -> None:
        self.uri = uri
        self.key = key
        self._run_id: str | None = None
        self._folder = unsent_folder(Path())
        self._header: Event = {}
        self._receiver: Receiver | None = None
        self._session: Session | None = None
        self._is_lost = uri == OFF
        self._memory: Memory | None = None
        self._sampler: Sampler | None = None
        self._not_finite: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while MLflow does not know it."""
        return self._receiver.run_id if self._receiver else self._run_id

    @property
    def is_live(self) -> bool:
        """Whether events reach MLflow at once."""
        return self._receiver is not None

    @property
    def facts(self) -> dict[str, str | None]:
        """What `mlflow_run.json` says: where the run is found again."""
        names = {name: self._header.get(name) for name in ("experiment", "name")}
        return {"run_id": self.run_id, "key": self.key, **names}

    @classmethod
    def start(
        cls,
        experiment: str,
        name: str,
        tags: Mapping[str, object],
        params: Mapping[str, object],
        uri: str,
        description: str = "",
        *,
        key: str | None = None,
        parent: Parent | None = None,
        memory: Path | None = None,
    ) -> Self:
        """A run, its system metrics (CPU, memory, disk, network, GPU where nvidia-ml-py is there) being sampled.

        The experiment is created when it is new; beside an SQLite database its files go to `mlruns/`. `params` may be
        nested; the names become `train.lr`. A tag `mlflow.source.git.commit` overrides what MLflow finds by itself.
        key: of a run that is there already, perhaps. memory: a file that is kept while the run is under way; a process
        that starts with the same file goes on with the same run, and epochs it logs again are the same points.
        """
        remembered = Memory(memory) if memory and uri != OFF else None
        run = cls(uri, key or (remembered.key if remembered else uuid.uuid4().hex))
        run._memory = remembered
        try:
            run._open(experiment, name, tags, description, parent, tags_again=True)
            values = flatten(params, ".")
            names = clean_names(values)
            run._emit("params", values={names[name]: str(value) for name, value in values.items()})
            if run._receiver and not key:
                run._watch_system(resumed=not run._receiver.is_new)
        except BaseException as error:  # stopped before the caller's `with` has begun
            run.__exit__(type(error), error, None)
            raise
        if run.is_live and (waiting := len(unsent_keys(run._folder))):
            run._say(f"{waiting} run(s) wait in {run._folder}; {SYNC} sends them")
        return run

    @classmethod
    def resume(
        cls,
        run_id: str | None,
        uri: str,
        *,
        experiment: str,
        name: str,
        key: str | None = None,
        tags: Mapping[str, object] | None = None,
        parent: Parent | None = None,
    ) -> Self:
        """Go on with a run, e.g. to add test scores to a training.

        It is found by its id or its key. One that is no longer there (deleted, or another database) is replaced by a
        new one of this experiment, name, tags and parent, whose tag `replaces_run` names it; without a run (training
        was not tracked) too. Of a run of which something waits to be sent, everything waits.
        """
        run = cls(uri, key or run_id or uuid.uuid4().hex)
        run._run_id = run_id
        run._open(experiment, name, tags or {}, "", parent, tags_again=False)
        return run

    def log_epoch(self, values: Mapping[str, float], step: int) -> None:
        """One epoch's numbers, in a single call to the database."""
        self._log_metrics(values, step, self._memory.time_ms(step) if self._memory else now_ms())
        if self._sampler:
            self._sampler.pace()

    def log_metrics(self, values: Mapping[str, float | int | None], step: int = 0) -> None:
        """Numbers by name, e.g. `test/top1`.

        None, nan and infinity are left out, and their names kept in the tag `metrics.not_finite`.
        """
        self._log_metrics(values, step, now_ms())

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Tags by name; a tag that is there is replaced."""
        self._emit("tags", tags={name: str(value) for name, value in tags.items()})

    def set_tags_of(self, facts: Mapping[str, str | None], tags: Mapping[str, object]) -> None:
        """Tags of another run, by its `facts`; its status stays. Behind one that waits to be sent, this run waits."""
        known = {"key": facts.get("key") or facts["run_id"], **{k: facts[k] for k in ("run_id", "experiment", "name")}}
        if self._receiver and is_unsent(self._folder, str(known["key"])):
            self._keep(f"{facts['name']} waits to be sent")
        self._emit("tags_of", **known, tags={name: str(value) for name, value in tags.items()})

    def log_table(self, rows: "pd.DataFrame | Sequence[Mapping[str, object]]", file: str) -> None:
        """A table that MLflow's page shows and compares across runs; `file` ends in .json.

        Logged again it replaces what was there (MLflow's own log_table appends: a second evaluation would double it).
        """
        if not file.endswith(".json"):
            raise ValueError(f"table file is {file!r}; expected a name that ends in .json, MLflow shows no other")
        import pandas as pd

        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        text = table.to_json(orient="split", index=False, date_format="iso", double_precision=15)
        self._emit("table", text=text, file=file)

    def log_text(self, text: str, file: str) -> None:
        """A text file."""
        self._emit("text", text=text, file=file)

    def log_dict(self, value: Mapping[str, Any], file: str) -> None:
        """A mapping as .json or .yaml, by the file's ending."""
        plain = dict(value)
        is_yaml = file.endswith((".yaml", ".yml"))
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) if is_yaml else json.dumps(plain, indent=2)
        self.log_text(text, file)

    def log_file(self, path: Path, folder: str = "") -> None:
        """A file as it is."""
        self._emit("file", path=str(path), folder=folder)

    def log_folder(self, path: Path, folder: str) -> None:
        """The files of a folder as they are; figures are shown by MLflow's page as .svg."""
        self._emit("folder", path=str(path), folder=folder)

    def log_dataset(self, table: "pd.DataFrame", source: str, name: str, context: str) -> None:
        """The videos table a run used: its columns, size and a digest of all its rows (context: training, test ...)."""
        if self._is_lost:
            return
        self._emit("dataset", dataset=described(table, source, name), context=context)

    def log_model(
        self, folder: Path, *, epoch: int = 0, name: str = "model", registered_name: str | None = None
    ) -> str | None:
        """A model folder as an MLflow model, see `trackingmodel.py`; its URI, None where MLflow does not have it yet.

        epoch: the one whose weights were kept. registered_name: adds a version to the model registry.
        """
        values = {"path": str(folder), "epoch": epoch, "name": name, "registered_name": registered_name}
        return cast("str | None", self._emit("model", **values))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # First the status, then the sampling thread: when the server is gone, the first of them has found out.
        self._emit("end", status=status_of(error), time=now_ms())
        if self._receiver and self._sampler:
            with suppress(Away, Refused), telling():
                self._sampler.finish()
        if self._session:
            with self._giving_up_when_full():
                self._session.close()
        self._run_id, self._receiver, self._session, self._is_lost = self.run_id, None, None, True

    def _open(
        self, experiment: str, name: str, tags: Mapping[str, object], about: str, parent: Parent | None, *,
        tags_again: bool,
    ) -> None:  # fmt: skip
        self._header = {"experiment": experiment, "name": name}
        if self._is_lost:  # tracking is off
            return
        apply_settings()
        answer = None if is_unsent(self._folder, self.key) else asked(self.uri)
        self._header = opening(experiment, name, self.key, self._run_id, tags, about, parent, tags_again=tags_again)
        if answer is None:
            self._keep("what came before waits to be sent")
            return
        try:
            self._receiver = Receiver(connect(self.uri, answer), self.uri, say=self._say)
            self._receiver.deliver(self._header)
        except (Away, Refused) as error:
            self._keep(str(error))

    def _emit(self, kind: str, **values: Any) -> Any:
        """Tell MLflow of an event, or keep it; what MLflow answers."""
        if self._is_lost:
            return None
        if "path" in values and not Path(values["path"]).exists():
            raise FileNotFoundError(f"{values['path']}: no such file to be logged")
        event = {"kind": kind, **values}
        try:
            if self._receiver:
                return self._receiver.deliver(event)
        except Refused as error:
            self._say(f"not logged: {error}")
            return None
        except Away as error:
            self._keep(str(error))
        with self._giving_up_when_full():
            if self._session:
                self._session.add(event)
        return None

    def _keep(self, reason: str) -> None:
        """From here on nothing is sent."""
        untold = self._receiver.untold if self._receiver else []
        self._run_id, self._receiver = self.run_id, None
        self._say(f"{reason}; what follows of this run is kept in {self._folder / self.key}, {SYNC} sends it")
        with self._giving_up_when_full():
            self._session = Session(self._folder, self.key)
            for event in ({**self._header, "run_id": self._run_id}, *untold):
                self._session.add(event)

    @contextmanager
    def _giving_up_when_full(self) -> Iterator[None]:
        try:
            yield
        except (StoreError, OSError) as error:
            if self._session:
                with suppress(StoreError, OSError):
                    self._session.close()
            self._is_lost, self._session = True, None
            self._say(f"nor can it be kept: {error}; nothing more of this run is logged, all of it is in local files")

    def _log_metrics(self, values: Mapping[str, float | int | None], step: int, time_ms: int) -> None:
        finite, missing = points(values, time_ms, step)
        if finite:
            self._emit("metrics", values=finite)
        if missing - self._not_finite:
            self._not_finite |= missing
            self._emit("not_finite", names=sorted(missing))

    def _watch_system(self, resumed: bool) -> None:
        try:
            with telling():
                self._sampler = Sampler(str(self.run_id), self.uri, resumed)
        except (Away, Refused) as error:
            self._say(f"the system is not sampled: {error}")

    def _say(self, text: str) -> None:
        sys.stderr.write(printable(shown(f"tracking: {self.uri}: {text}")) + "\n")
