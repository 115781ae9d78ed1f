"""`lrcn explain WHAT`: what a prediction, a model, a run or a video was made from, and whether each hash still holds.

WHAT is a folder of results (or its results.csv or predictions.jsonl), an evaluation (its folder, or predictions.csv in
it), a model folder or address (models:/NAME@ALIAS, runs:/RUN_ID/model), a run (its id, the beginning of it, or the name
of a training's folder), or a video file. Exit code 0: all that could be checked holds; 1: something does not, or is
missing; 2: nothing is known of WHAT.
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipeline import remote
from pipeline.discovery import printable
from pipeline.errors import LrcnError, TrackingError
from pipeline.explain.facts import MAX_SHOWN, Fact, broken, compared, counts, unchecked
from pipeline.explain.media import features_fact, videos_fact
from pipeline.explain.model import KnownModel, described_model, find_model, hash_or_none, model_facts, tables_fact
from pipeline.explain.results import LINES, TABLE, opened, results_fact, same_file
from pipeline.explain.run import dvc_fact, evaluation_fact, run_fact, runs_facts
from pipeline.explain.video import places, video_fact
from pipeline.inference.ledger import LEDGER
from pipeline.modelstore import ADDRESS, model_folder
from pipeline.remotenames import is_url
from pipeline.runlinks import MODEL_SHA256, RUN_FILE, read_run_file
from pipeline.stages.layout import Layout
from pipeline.trackinglookup import children_of, runs_beginning, runs_named, runs_of_model
from pipeline.trackingruns import RUN_ID, TrackedRun
from pipeline.trackingstore import tracking_uri

INSIDE = ("model.yaml", RUN_FILE, "metrics.json", "predictions.csv")  # of a model, training, experiment or evaluation
KNOWN = (
    "expected a folder of results, an evaluation, a model folder, models:/NAME@ALIAS or runs:/RUN_ID/model, a run's id "
    "(4 or more of its letters), the name of a training such as clip-rgb-fold1-seed0, or a video file"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the chain of each WHAT; 0 when all that could be checked holds, 1 when something does not."""
    parser = argparse.ArgumentParser(
        prog="lrcn explain", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="+", metavar="WHAT", help="results, model, run or video")
    parser.add_argument("--file", metavar="PATH", help="of a folder of results this file's row alone")
    parser.add_argument(
        "--results", action="append", default=[], type=Path, metavar="DIR",
        help="of a video also the answers in this folder of results; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--videos", action="store_true", help="read all videos and stored features too, not only their sizes and names"
    )
    parser.add_argument("--json", action="store_true", help="one object of JSON instead of text")
    options = parser.parse_args(argv)
    if options.file is not None and len(options.what) > 1:
        raise LrcnError("--file names a row of one folder of results; name one folder")
    if options.results and not any(is_url(what) or _is_video(Path(what)) for what in options.what):
        raise LrcnError("--results names answers for a video; expected a video file, or `lrcn explain DIR`")
    if options.file is not None and is_url(options.file):
        options.file = remote.named(options.file)
    chains = [explain(what, options) for what in options.what]
    total = counts(Fact("", below=chains))
    if options.json:
        print(json.dumps({"holds": not total["broken"], "counts": total, "chains": [c.to_json() for c in chains]}))
    else:
        for chain in chains:
            for line in chain.lines():
                print(printable(line))
        print(f"explain: {total['holds']} hold, {total['broken']} do not, {total['unchecked']} not checked")
    return 1 if total["broken"] else 0


def explain(what: str, options: argparse.Namespace) -> Fact:
    """The chain of one thing; raises LrcnError when nothing is known of it."""
    if is_url(what):
        return video_fact(remote.named(what), options.results)
    path = Path(what)
    if path.name in INSIDE and path.is_file():
        path, what = path.parent, str(path.parent)  # a file of a folder stands for it, as results.csv does
    is_results = path.name in (TABLE, LINES, LEDGER) or any((path / name).exists() for name in (TABLE, LEDGER))
    if options.file is not None and not is_results:
        raise LrcnError(f"{what}: --file names a row of a folder of results, and this is none")
    if ADDRESS.fullmatch(what):
        return _of_model(what, described_model(model_folder(what)), options)
    if is_results:
        return _of_results(path if path.is_dir() else path.parent, options)
    if path.is_dir():
        if (path / "model.yaml").exists():
            return _of_model(what, described_model(path), options)
        if (path / "model/model.yaml").exists():
            return _of_training(path, options)
        if path.parent.name == "evaluations":
            training = path.parents[1] / "trainings" / path.name
            if (training / "model/model.yaml").exists():
                return evaluation_fact(path, options.videos).add(_of_training(training, options))
        if (path / RUN_FILE).exists():
            return _of_run(_run_id(path), options)
        raise LrcnError(f"{what}: a folder of neither results nor a model; {KNOWN}")
    if path.exists():
        return video_fact(what, options.results)
    trainings = [folder for folder in sorted(Path("artifacts").glob("*/trainings/*")) if _is_named(folder, what)]
    if len(trainings) > 1:
        named = ", ".join(f"{folder.parents[1].name}/{folder.name}" for folder in trainings)
        raise LrcnError(f"{what}: the name of {len(trainings)} trainings; expected one of {named}")
    if trainings:
        return _of_training(trainings[0], options)
    return _of_run(what, options)


def _is_video(path: Path) -> bool:
    return path.is_file() and path.name not in (TABLE, LINES, LEDGER, *INSIDE)


def _of_results(folder: Path, options: argparse.Namespace) -> Fact:
    with opened(folder) as results:
        chain, model = results_fact(results, options.file)
    if options.file is not None:
        sha256 = next((fact.value for fact in chain.walk() if fact.name == "SHA-256"), None)
        if sha256 is not None:
            chain.add(Fact("tables").add(*places(options.file, sha256)))
    if model is None:
        return chain.add(unchecked("model", reason="the results do not say which it was"))
    if model.folder is None:
        model, missing = _fetched(model)
        chain.add(*missing)
    return chain.add(_of_model(str(model.folder or model.described / "model.yaml"), model, options))


def _fetched(model: KnownModel) -> tuple[KnownModel, list[Fact]]:
    """The model with its folder out of MLflow, or what became of it."""
    try:
        runs = runs_of_model(model.sha256, tracking_uri(Path()))
        if runs:
            return replace(model, folder=model_folder(f"runs:/{runs[0].run_id}/model")), []
    except LrcnError as error:
        return model, [unchecked("model folder", model.sha256, reason=f"not on this machine, and {error}")]
    advice = "it was deleted, or trained anew: `dvc checkout` of its commit, or a copy of the folder, has it back"
    found = "neither in artifacts/ nor among fetched models nor in MLflow"
    return model, [broken("model folder", expected=model.sha256, found=found, advice=advice)]


def _of_model(name: str, model: KnownModel, options: argparse.Namespace) -> Fact:
    """A model: what it is, its runs, its stage, its tables, its features and videos."""
    return _described(name, model, options, runs_facts(model, tracking_uri(Path())))


def _described(name: str, model: KnownModel, options: argparse.Namespace, runs: list[Fact]) -> Fact:
    top = Fact("model", name).add(Fact("model.yaml", model.sha256), *model_facts(model), *_same_name(model), *runs)
    top.add(dvc_fact(model, options.videos), tables_fact(model))
    return top.add(features_fact(model, options.videos), videos_fact(model, options.videos))


def _same_name(model: KnownModel) -> list[Fact]:
    """Whether the folder of the model's training holds this model still, where the model lies elsewhere."""
    if model.layout is None:
        return []
    folder = model.layout.training(model.training) / "model"
    if model.folder is not None and same_file(folder, model.folder):
        return []
    found = hash_or_none(folder / "model.yaml")
    if found is None:
        return [unchecked(str(folder), reason="not here; `dvc pull` or `dvc repro` brings it")]
    advice = "it was trained anew since, under the same name"
    value = found if found == model.sha256 else ""
    return [compared(str(folder), value, expected=model.sha256, found=found, advice=advice)]


def _of_training(folder: Path, options: argparse.Namespace) -> Fact:
    return _of_model(str(folder / "model"), described_model(folder / "model"), options)


def _of_run(what: str, options: argparse.Namespace) -> Fact:
    """A run by its id, the beginning of it, or its name; where MLflow is away, by what trainings wrote down."""
    folders = _trainings_of(what)
    try:
        uri = tracking_uri(Path())
        runs = runs_beginning(what, uri) or runs_named(what, uri)
    except TrackingError as error:
        if len(folders) != 1:
            raise LrcnError(f"{what}: no training here is of such a run, and MLflow cannot be asked: {error}") from None
        model = described_model(folders[0] / "model")
        return _described(str(model.folder), model, options, [unchecked("run", what, reason=str(error))])
    if len(runs) != 1:
        named = ", ".join(f"{run.run_id} ({run.experiment}/{run.name})" for run in runs[:MAX_SHOWN])
        is_known = f"the beginning or name of {len(runs)} runs ({named}); name one" if runs else f"not known; {KNOWN}"
        raise LrcnError(f"{what}: {is_known}")
    return _of_found(runs[0], options)


def _of_found(run: TrackedRun, options: argparse.Namespace) -> Fact:
    uri = tracking_uri(Path())
    if run.kind in ("experiment", "fusion"):
        chain = run_fact(run, None, uri)
        return chain.add(*_children(run))
    folders = _trainings_of(run.run_id) or find_model(run.tags.get(MODEL_SHA256, ""))
    try:
        model = described_model(_model_below(folders[0]) if folders else model_folder(f"runs:/{run.run_id}/model"))
    except LrcnError as error:
        return run_fact(run, None, uri).add(unchecked("model", reason=str(error)))
    chain = run_fact(run, model, uri)
    return chain.add(_described(str(model.folder), model, options, []))


def _children(run: TrackedRun) -> list[Fact]:
    """The trainings of an experiment's run against the models that are here under their names."""
    facts = []
    for child in children_of(run.run_id, tracking_uri(Path())):
        path = Layout(run.experiment).training(child.name) / "model/model.yaml"
        expected, found = child.tags.get(MODEL_SHA256), hash_or_none(path)
        if expected is None or found is None:
            reason = "the run names no model" if expected is None else f"{path.parent} is not here"
            facts.append(unchecked(f"model of {child.name}", reason=reason))
        else:
            value, advice = (found if found == expected else ""), "it was trained anew since, under the same name"
            facts.append(compared(f"model of {child.name}", value, expected=expected, found=found, advice=advice))
    return facts


def _trainings_of(run_id: str) -> list[Path]:
    """Folders of trainings that wrote down a run whose id begins so."""
    if not RUN_ID.fullmatch(run_id):
        return []
    found = []
    for path in sorted(Path("artifacts").glob(f"*/trainings/*/{RUN_FILE}")):
        with suppress(TrackingError):  # a damaged file names no run; explaining its training says so
            if str(read_run_file(path.parent).get("run_id") or "").startswith(run_id):
                found.append(path.parent)
    return found


def _model_below(folder: Path) -> Path:
    return folder if (folder / "model.yaml").is_file() else folder / "model"


def _run_id(folder: Path) -> str:
    run_id = read_run_file(folder).get("run_id")
    if not run_id:
        raise LrcnError(f"{folder / RUN_FILE}: names no run; `lrcn runs sync` delivers runs that MLflow missed")
    return str(run_id)


def _is_named(folder: Path, what: str) -> bool:
    """Whether a training's folder is called `clip-rgb-fold1-seed0`, or `demo/clip-rgb-fold1-seed0`."""
    is_there = (folder / "model/model.yaml").is_file()
    return is_there and what in (folder.name, f"{folder.parents[1].name}/{folder.name}")
