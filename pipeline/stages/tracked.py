"""The MLflow runs of the stages: the experiment's, and below it those of its trainings and fusions."""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment
from pipeline.evaluation.headline import headline_scores, main_score
from pipeline.files import content_hash, write_json
from pipeline.metricnames import flatten
from pipeline.stages.answers import in_brackets, read_scores
from pipeline.stages.layout import Layout, StageOptions
from pipeline.stages.leaks import leak_counts
from pipeline.stages.provenance import run_tags
from pipeline.tracking import Parent, Run, tracking_uri
from pipeline.trackingstore import OFF
from pipeline.view import digest

# Of no training's making: another value gives the same trainings, or more of them.
BESIDE = {"folds", "num_seeds", "evaluate", "probe", "audit"}
OF_ONE_TRAINING = ("task", "stream", "fold", "seed", "features.key", "dvc.stage")
KIND, SETTINGS, LOCK = "lrcn.kind", "lrcn.settings", "dvc.lock.sha256"


def training_run(options: StageOptions, tags: Mapping[str, str], about: str, memory: Path) -> Run:
    """The run of a training, below the experiment's; the one it began with where a stopped training goes on."""
    parent = parent_of(options, tags)
    tags = {**tags, KIND: "training", SETTINGS: parent.key}
    settings = options.experiment.model_dump(mode="json")
    return Run.start(
        options.name, options.training, tags, settings, tracking_uri(Path()), about, parent=parent, memory=memory
    )


def resumed_run(options: StageOptions, features_key: str) -> Run:
    """The run of a training again, for what is found of its model."""
    facts = _facts(options.layout.training(options.training) / "mlflow_run.json")
    tags = run_tags(options, features_key)
    parent = parent_of(options, tags)
    return Run.resume(
        facts["run_id"],
        tracking_uri(Path()),
        experiment=facts["experiment"],
        name=facts["name"],
        key=facts.get("key"),
        tags={**tags, KIND: "training", SETTINGS: parent.key},
        parent=parent,
    )


def fusion_run(options: StageOptions, name: str, about: str) -> Run:
    """A fusion's run, which is gone on with as long as the experiment's settings are those it was begun with.

    Its id stands in a file that DVC does not know, since DVC deletes a stage's results before it runs the stage.
    """
    settings, tags, uri = options.experiment.model_dump(mode="json"), run_tags(options), tracking_uri(Path())
    parent = parent_of(options, tags)
    tags |= {KIND: "fusion", SETTINGS: parent.key}
    file = options.layout.fusion(name) / "mlflow_run.json"
    facts = _facts(file) if file.exists() else {}
    if facts.get("settings") == digest(settings):
        run = Run.resume(
            facts["run_id"], uri, experiment=options.name, name=name, key=facts.get("key"), tags=tags, parent=parent
        )
        run.set_tags(tags)
    else:
        run = Run.start(options.name, name, tags, settings, uri, about, parent=parent)
    if uri != OFF:
        write_json(file, {**run.facts, "settings": digest(settings)})
    return run


def log_experiment(options: StageOptions, title: str, headline: Mapping[str, Mapping[str, Any]]) -> None:
    """Write scores of all folds together to the experiment's run, and its id to `mlflow_run.json`.

    headline: of `scores.json`. Run by DVC, each training's run gets a tag with the hash of its entry in dvc.lock: it is
    written after the stage has ended, so only a later one can.
    """
    experiment, layout, tags, lock = options.experiment, options.layout, run_tags(options), _lock()
    parent = parent_of(options, tags)
    tags = {name: tags[name] for name in ("dvc.stage", "dvc.exp") if name in tags} | dict(parent.tags)
    with Run.start(
        options.name, options.name, tags, _shaping(experiment), tracking_uri(Path()),
        _in_words(title, experiment, headline), key=parent.key,
    ) as run:  # fmt: skip
        run.log_metrics(flatten(headline))
        for file in ("metrics.json", "scores.json", "shortcut.json", "report.html"):
            run.log_file(layout.root / file)
        rows = []
        for (task, streams), fold, seed in itertools.product(headline.items(), experiment.folds, experiment.seeds):
            for stream in streams:
                row, facts = _row(layout, task, stream, fold, seed)
                rows.append(row)
                stage = f"{'fuse' if stream == 'fused' else 'train'}@{options.name}-{row['name']}"
                if facts and stage in lock:
                    run.set_tags_of(facts, {LOCK: lock_sha256(lock[stage])})
        run.log_table(rows, "trainings.json")
        write_json(layout.root / "mlflow_run.json", run.facts)


def parent_of(options: StageOptions, tags: Mapping[str, str]) -> Parent:
    """The experiment's run: one for all trainings of the same settings on the same split. tags: of one of them."""
    layout = options.layout
    shaped = {
        "experiment": options.name,
        "settings": _shaping(options.experiment),
        "splits": content_hash(layout.splits),
    }
    key = _sha256(shaped)[:32]
    shared = {name: value for name, value in tags.items() if name not in OF_ONE_TRAINING}
    leaks = {f"leaks.{kind}": str(count) for kind, count in leak_counts(layout, options.experiment.folds).items()}
    return Parent(key, options.name, {**shared, **leaks, KIND: "experiment", SETTINGS: key})


def lock_sha256(entry: object) -> str:
    """SHA-256 of the canonical JSON (keys sorted, no spaces, ASCII) of a stage's entry in dvc.lock."""
    return _sha256(entry)


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _shaping(experiment: Experiment) -> dict[str, Any]:
    """What trainings depend on: the experiment without what only adds trainings, or looks at them."""
    settings = experiment.model_dump(mode="json", exclude=BESIDE)
    if settings["flow"]:
        del settings["flow"]["weight"]
    return settings


def _lock() -> Mapping[str, Any]:
    """The stages of dvc.lock, where DVC runs us: by hand it may be of other trainings."""
    file = Path("dvc.lock")
    if "DVC_STAGE" not in os.environ or not file.is_file():
        return {}
    # In C where there is that: 13,000 lines take Python 4 s.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stages: Mapping[str, Any] = loader(file.read_text(encoding="utf-8")).get_single_data()["stages"]
    return stages


def _row(
    layout: Layout, task: str, stream: str, fold: int, seed: int
) -> tuple[dict[str, object], dict[str, Any] | None]:
    """Of `trainings.json`, and where the run is found; None where that is not known."""
    name = f"{task}-{stream}-fold{fold}-seed{seed}"
    file = (layout.fusion(name) if stream == "fused" else layout.training(name)) / "mlflow_run.json"
    facts = _facts(file) if file.exists() else None
    score = headline_scores(task, read_scores(layout.evaluation(name) / "metrics.json")).get(main_score(task))
    run_id = facts["run_id"] if facts else None
    row: dict[str, object] = {"name": name, "task": task, "stream": stream, "fold": fold, "seed": seed}
    return {**row, "run_id": run_id, "metric": main_score(task), "score": score}, facts


def _facts(file: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return facts


def _in_words(title: str, experiment: Experiment, headline: Mapping[str, Mapping[str, Any]]) -> str:
    """The note on the experiment's page in MLflow, in Markdown."""
    folds, seeds = ", ".join(map(str, experiment.folds)), ", ".join(map(str, experiment.seeds))
    lines = [f"{title}; folds {folds}; seeds {seeds}. Scores are of all folds together.", ""]
    for task, streams in headline.items():
        name = main_score(task)
        for stream, scores in streams.items():
            line = f"- {task}, {stream}: {name} {scores[name]:.3f}"
            if f"{name}_low" in scores:
                line += f" {in_brackets(scores[f'{name}_low'], scores[f'{name}_high'])}"
            if "gain_over_single_frame" in scores:
                line += f", {scores['gain_over_single_frame']:+.3f} over single frames"
            lines.append(line)
    return "\n".join(lines)
