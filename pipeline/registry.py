"""Models by name in MLflow's registry: who holds an alias, a version for a training's model, the alias moved.

A model's name is `EXPERIMENT-TASK-STREAM`. What a version was promoted for stands in its tags, so that a later decision
needs neither its run nor its files.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import TrackingError
from pipeline.evaluation.headline import main_score
from pipeline.files import content_hash
from pipeline.gate import Candidate, Holder, Line, MainScore, gate, going_back, in_words
from pipeline.models.modelspec import read_spec
from pipeline.modelstore import logged_models, model_folder
from pipeline.runlinks import KEY, MODEL_SHA256
from pipeline.trackingruns import TrackedRun, find_run, read_json

MODEL = "model"  # the name under which a training logs its model
DESCRIPTION_LETTERS = 5000  # as many as MLflow's table takes


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    number: as MLflow gives it, "1" and up. training: the name of its run. gate: the lines that let it pass; promotions:
    each in words, the newest first; these three are empty of a version that `lrcn promote` never promoted.
    """

    name: str
    number: str
    run_id: str
    source: str
    model_sha256: str | None
    tested: MainScore | None
    training: str
    gate: Sequence[str]
    promotions: Sequence[str]

    def promoted_as(self, alias: str) -> str:
        """Its first promotion as this alias, in words; "" where there was none."""
        own = [words for words in self.promotions if words.partition(": ")[2].startswith(f"{alias}, by ")]
        return own[-1] if own else ""


@dataclass(frozen=True)
class Decision:
    """What was decided of whom. version: where there is one already; run and candidate: None of a way back."""

    name: str
    alias: str
    who: str
    lines: Sequence[Line]
    holder: Holder | None
    version: Version | None
    run: TrackedRun | None
    candidate: Candidate | None

    @property
    def held(self) -> bool:
        """Whether the alias may move."""
        return all(line.holds is not False for line in self.lines)


def registered_name(run: TrackedRun) -> str:
    """Name of the registered model that a training's model is a version of."""
    return "-".join((run.experiment, *run.place))


def read_candidate(client: Any, run: TrackedRun, uri: str, address: str | None = None) -> Candidate:
    """What MLflow has of a training; raises TrackingError for a run that is none, ModelError for a damaged model.

    address: of the model in question, where that need not be the one that the run logged last.
    """
    if run.kind != "training":
        what = {"experiment": "an experiment's", "fusion": "a fusion's"}.get(run.kind, "no run of this package")
        raise TrackingError(
            f"{run.run_id}: {what} ({run.name}), which has no model; expected a training's: `lrcn runs best` names one"
        )
    if address is None and (model_id := _logged_id(client, run.run_id)):
        address = f"models:/{model_id}"
    folder = model_folder(address, uri) if address else None
    over_folds, shortcut = _of_experiment(client, run)
    return Candidate(
        name=run.name,
        status=run.status,
        tags=run.tags,
        metrics=run.metrics,
        model_sha256=None if folder is None else content_hash(folder / "model.yaml"),
        classes=() if folder is None else read_spec(folder).classes,
        scores=read_json(client, run.run_id, "metrics.json"),
        over_folds=over_folds,
        shortcut=shortcut,
    )


def versions_of(client: Any, name: str) -> list[Version]:
    """The versions of a registered model, the oldest first; none of a name that is not there."""
    found = client.search_model_versions(f"name='{name}'")
    return sorted((_version(one) for one in found), key=lambda version: int(version.number))


def holder_of(client: Any, name: str, alias: str) -> Holder | None:
    """The version that has an alias; None where no version has it."""
    try:
        aliases = client.get_registered_model(name).aliases
    except _mlflow_error() as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    if alias not in aliases:
        return None
    version = _version(client.get_model_version(name, str(aliases[alias])))
    return Holder(version.number, version.model_sha256, version.tested)


def decide(client: Any, what: str, alias: str, min_score: float | None, uri: str) -> Decision:
    """Whether an alias may move to a run's model, or to a version (`models:/NAME/VERSION`); nothing is changed.

    A version that had this very alias before, by `lrcn promote`, is gone back to; any other goes through the gate.

    Raises TrackingError for no such run or version, ModelError where the model cannot be had whole.
    """
    version = _version_at(client, what)
    address = None if version is None else f"models:/{version.name}/{version.number}"
    if version is not None and address is not None and (before := version.promoted_as(alias)):
        found = content_hash(model_folder(address, uri) / "model.yaml")
        if found != version.model_sha256:
            raise TrackingError(
                f"{address}: its model.yaml is {found[:12]}, but {str(version.model_sha256)[:12]} was promoted; "
                "another model lies in its place"
            )
        holder = holder_of(client, version.name, alias)
        lines = going_back(version.number, before, version.tested, alias, holder, min_score)
        return Decision(version.name, alias, f"version {version.number}", lines, holder, version, None, None)
    if version is not None and not version.run_id:
        raise TrackingError(f"{what}: registered without a run, so nothing says how it was tested; promote a run")
    run = find_run(client, what if version is None else version.run_id)
    candidate = read_candidate(client, run, uri, address)
    name = registered_name(run) if version is None else version.name
    holder = holder_of(client, name, alias)
    lines = gate(candidate, alias, holder, min_score)
    return Decision(name, alias, f"{run.name} ({run.run_id[:8]})", lines, holder, version, run, candidate)


def carry_out(client: Any, decision: Decision, by: str) -> Version:
    """Register the model where it has no version, write the decision down on the version, and last move the alias.

    Raises TrackingError when somebody else moved the alias since the decision.
    """
    version, name, alias = decision.version, decision.name, decision.alias
    if version is None:
        assert decision.run is not None
        version = _add_version(client, name, decision.run, str(decision.candidate and decision.candidate.model_sha256))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = f"version {decision.holder.version}" if decision.holder else "nobody"
    promotions = [f"{now}: {alias}, by {by}; before: {before}", *version.promotions]
    tags = {"promoted_by": by, "promoted_at": now, "previous_holder": before, "promotions": json.dumps(promotions)}
    texts, tested, training = version.gate, version.tested, version.training
    if decision.candidate is not None:  # not of a version that is gone back to: what it was tested on stays
        texts, tested = [line.text for line in decision.lines], decision.candidate.tested
        training = decision.candidate.name
        tags |= {
            "training": training,
            MODEL_SHA256: str(decision.candidate.model_sha256),
            "gate": json.dumps([asdict(line) for line in decision.lines]),
            "tested": json.dumps(asdict(tested)) if tested else "",
        }
    for key, value in tags.items():
        client.set_model_version_tag(name, version.number, key, value)
    # MLflow's page of the model shows the first words alone.
    score = f"{main_score(tested.on['task'])} {in_words(tested)}, " if tested else ""
    description = "\n".join([score + training, "", *promotions, "", *(f"- {text}" for text in texts)])
    client.update_model_version(name, version.number, description[:DESCRIPTION_LETTERS])
    present = holder_of(client, name, alias)
    if (present and present.version) != (decision.holder and decision.holder.version):
        who = f"version {present.version}" if present else "nobody"
        raise TrackingError(f"{name}: {who} became {alias} while this was decided; run again")
    client.set_registered_model_alias(name, alias, version.number)
    return version


def _version_at(client: Any, address: str) -> Version | None:
    """The version that `models:/NAME/VERSION` stands for; None of what is no such address."""
    form = re.fullmatch(r"models:/+([^/@]+)/(\d+)", address)
    if form is None:
        return None
    try:
        return _version(client.get_model_version(form[1], form[2]))
    except _mlflow_error() as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(
            f"{address}: the registry has no such version; MLflow's page of models lists them"
        ) from None


def _add_version(client: Any, name: str, run: TrackedRun, model_sha256: str) -> Version:
    """The version of a run's model, made when that model has none yet."""
    model_id = _logged_id(client, run.run_id)
    source = f"models:/{model_id}"
    for version in versions_of(client, name):
        if version.model_sha256 == model_sha256 or version.source == source:
            return version
    try:
        client.create_registered_model(name)
    except _mlflow_error() as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Databases have it at once; waiting would be said on stderr, and last up to 5 minutes.
    made = client.create_model_version(name, source, run.run_id, model_id=model_id, await_creation_for=0)
    return _version(made)


def _logged_id(client: Any, run_id: str) -> str | None:
    """Id of the model that a training logged last."""
    logged = [model.model_id for model in logged_models(client, run_id) if model.name == MODEL]
    return str(logged[-1]) if logged else None


def _mlflow_error() -> Any:
    import mlflow

    return mlflow.MlflowException


def _version(found: Any) -> Version:
    tags = found.tags
    return Version(
        name=found.name,
        number=str(found.version),
        run_id=found.run_id or "",
        source=found.source or "",
        model_sha256=tags.get(MODEL_SHA256),
        tested=MainScore(**json.loads(tags["tested"])) if tags.get("tested") else None,
        training=tags.get("training", ""),
        gate=[line["text"] for line in json.loads(tags.get("gate", "[]"))],
        promotions=json.loads(tags.get("promotions", "[]")),
    )


def _of_experiment(client: Any, run: TrackedRun) -> tuple[Any, Any]:
    """The scores over all folds and `shortcut.json` of a training's experiment.

    No scores where its report was made before this training, or of others.
    """
    if run.parent_id is None:
        return None, None
    reported = read_json(client, run.parent_id, "trainings.json")
    scores = read_json(client, run.parent_id, "metrics.json")
    task, stream = run.place
    cells = {cell for row in reported["data"] for cell in row} if reported else set()
    mine = bool(cells & {run.run_id, run.tags.get(KEY, run.run_id)})
    over_folds = scores.get(task, {}).get(stream) if scores and mine else None
    return over_folds, read_json(client, run.parent_id, "shortcut.json")
