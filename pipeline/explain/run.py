"""The MLflow runs of a model, and the entry of DVC that made it: the links to both, and back."""

import json
from pathlib import Path

from pipeline.errors import LrcnError, TrackingError
from pipeline.evaluation.headline import headline_scores
from pipeline.explain.dvclock import LOCK, DvcLock, cached_listing, folder_listing, folder_md5
from pipeline.explain.facts import Fact, broken, compared, holds, unchecked
from pipeline.explain.model import KnownModel
from pipeline.runlinks import LOCK_SHA256, MODEL_SHA256, read_run_file
from pipeline.stages.tracked import canonical_sha256
from pipeline.trackinglookup import children_of, registered_of, runs_beginning, runs_of_key, runs_of_model
from pipeline.trackingruns import TrackedRun

SAME_TAGS = ("experiment", "features.key", "videos.sha256", "segments.sha256", "splits.sha256", "git.commit")
OTHER_LOCK = "the stage ran again, or `dvc commit` wrote its entry anew: `git log -p dvc.lock` has the older ones"
OTHER_MODEL = "the run is of another training: the name was trained again since; explain the run by its id"


def runs_facts(model: KnownModel, uri: str) -> list[Fact]:
    """The runs that trained a model, as MLflow has them and as the training wrote down."""
    run_id = ""
    try:
        link = {} if model.folder is None else read_run_file(model.folder.parent)
        run_id, key = (str(link.get(name) or "") for name in ("run_id", "key"))
        found = runs_of_model(model.sha256, uri)
        if run_id and run_id not in [run.run_id for run in found]:
            found = [*runs_beginning(run_id, uri), *found]
            if not found:
                advice = "it was deleted, or is kept elsewhere: set MLFLOW_TRACKING_URI"
                return [broken("run", expected=run_id, found="no such run in MLflow", advice=advice)]
        elif not run_id and key:
            found = found or runs_of_key(key, uri)
            if not found:
                return [unchecked("run", key, reason="MLflow was away; `lrcn runs sync` delivers the run")]
    except TrackingError as error:
        return [unchecked("run", run_id, reason=str(error))]
    if not found:
        return [unchecked("run", reason="MLflow has none that names this model")]
    return [run_fact(run, model, uri) for run in found]


def run_fact(run: TrackedRun, model: KnownModel | None, uri: str) -> Fact:
    """A run, its tags compared with what its model says of itself, its scores with the evaluation's file."""
    top = Fact("run", f"{run.experiment}/{run.name} {run.run_id}")
    top.add(Fact("status", run.status))
    if run.tags.get("dvc.exp"):
        top.add(Fact("DVC experiment", run.tags["dvc.exp"]))
    if model is not None:
        stated = run.tags.get(MODEL_SHA256)
        if stated is None:
            top.add(unchecked(MODEL_SHA256, reason="the run does not name its model"))
        else:
            same = stated == model.sha256
            value = stated if same else ""
            top.add(compared(MODEL_SHA256, value, expected=stated, found=model.sha256, advice=OTHER_MODEL))
        top.add(*_tags(run, model), _scores(run, model), _locked(run))
    if run.parent_id:
        top.add(Fact("parent run", run.parent_id))
    try:
        top.add(*(Fact("child run", f"{child.name} {child.run_id}") for child in children_of(run.run_id, uri)))
        top.add(*(Fact("registered", name) for name in registered_of(run.run_id, uri)))
    except TrackingError as error:
        top.add(unchecked("child runs, registered versions", reason=str(error)))
    return top


def dvc_fact(model: KnownModel, read_videos: bool) -> Fact:
    """The stage that made a model, by `dvc.lock`: the entry, its files, and those of the stages before it."""
    top = Fact("DVC", str(LOCK))
    try:
        lock = DvcLock.read(read_videos)
    except (FileNotFoundError, LrcnError) as error:
        return unchecked("DVC", reason=_no_lock(error))
    path = Path("artifacts") / model.stated("experiment") / "trainings" / model.training / "model"
    name = lock.stage_of(path)
    if name is None:
        return unchecked("DVC", model.stated("dvc.stage"), reason=f"no stage of {LOCK} writes {path}")
    if (stated := model.stated("dvc.stage")) and stated != name:
        top.add(compared("stage", expected=stated, found=name, advice="dvc.yaml names it otherwise now"))
    top.add(_entry(model, lock, name, path), lock.facts(name))
    return top.add(*(lock.facts(other) for other in lock.upstream(name)))


def evaluation_fact(folder: Path, read_videos: bool) -> Fact:
    """The files of an evaluation, and what they were made of, by its stage's entry in `dvc.lock`."""
    top = Fact("evaluation", str(folder))
    try:
        lock = DvcLock.read(read_videos)
    except (FileNotFoundError, LrcnError) as error:
        return top.add(unchecked("DVC", reason=_no_lock(error)))
    name = lock.stage_of(folder / "metrics.json")
    return top.add(unchecked("DVC", reason=f"no stage of {LOCK} writes {folder}") if name is None else lock.facts(name))


def _no_lock(error: Exception) -> str:
    return f"no {LOCK} here" if isinstance(error, FileNotFoundError) else str(error)


def _entry(model: KnownModel, lock: DvcLock, name: str, path: Path) -> Fact:
    """Whether the lock's entry is of this very model, and not of another training of the same name."""
    out = lock.out(name, path)
    expected, training = str(out.get("md5")), Path(out["path"])
    what = f"this model is {name}'s"
    if model.folder is None:
        return unchecked(what, reason="the model folder is nowhere")
    listing = cached_listing(expected) or folder_listing(training)
    if not listing:
        return unchecked(what, reason=f"{training} is not here, nor its listing in DVC's cache")
    inside = f"{path.relative_to(training).as_posix()}/"
    others = [item for item in listing if not item["relpath"].startswith(inside)]
    found = folder_md5([*others, *folder_listing(model.folder, inside)])
    advice = f"`dvc checkout {training}` has the model of {LOCK} back; this one's lock is that of the commit it names"
    return holds(what, found) if found == expected else broken(what, expected=expected, found=found, advice=advice)


def _tags(run: TrackedRun, model: KnownModel) -> list[Fact]:
    facts = []
    for name in SAME_TAGS:
        if name in run.tags and model.stated(name):
            expected, found = run.tags[name], model.stated(name)
            value = found if expected == found else ""
            facts.append(compared(name, value, expected=expected, found=found, advice=OTHER_MODEL))
    return facts


def _locked(run: TrackedRun) -> Fact:
    """The hash of the run's entry in `dvc.lock`, as the run has it, against the entry."""
    stage, expected = run.tags.get("dvc.stage", ""), run.tags.get(LOCK_SHA256)
    if expected is None:
        reason = "the stage `report`, run by DVC, adds it" if stage else "DVC did not run this training"
        return unchecked(LOCK_SHA256, reason=reason)
    try:
        entry = DvcLock.read().stages.get(stage)
    except (FileNotFoundError, LrcnError) as error:
        return unchecked(LOCK_SHA256, expected, reason=_no_lock(error))
    found = "no such stage" if entry is None else canonical_sha256(entry)
    value = expected if found == expected else ""
    return compared(LOCK_SHA256, value, expected=expected, found=found, advice=OTHER_LOCK)


def _scores(run: TrackedRun, model: KnownModel) -> Fact:
    """The headline in MLflow against the evaluation's own file."""
    layout = model.layout
    if layout is None:
        return unchecked("scores", reason="nothing of the experiment is here")
    path = layout.evaluation(model.training) / "metrics.json"
    try:
        expected = headline_scores(model.spec.task, json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        return unchecked("scores", reason=f"{path} is not here")
    except (ValueError, KeyError, TypeError) as error:
        return unchecked("scores", reason=f"{path} holds no scores ({error})")
    logged = {name: run.metrics[f"test/{name}"] for name in expected if f"test/{name}" in run.metrics}
    if not logged:
        return unchecked("scores", reason="the run has none; the stage `evaluate` adds them")
    wrong = [name for name in expected if logged.get(name) != expected[name]]
    if not wrong:
        return holds("scores", ", ".join(f"{name} {value:.3f}" for name, value in logged.items()))
    return broken(
        f"scores ({path})",
        expected=", ".join(f"{name} {logged.get(name)}" for name in wrong),
        found=", ".join(f"{name} {expected[name]}" for name in wrong),
        advice="the file or the run is of another evaluation: run `dvc repro`",
    )
