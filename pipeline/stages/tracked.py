"""The MLflow runs of trainings and fusions, and the experiment's run above them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Experiment
from pipeline.evaluation.headline import SIMPLER, main_score
from pipeline.files import content_hash, write_json
from pipeline.metricnames import flatten
from pipeline.runlinks import KIND, RUN_FILE, SETTINGS, read_run_file
from pipeline.stages.layout import StageOptions
from pipeline.stages.leaks import leak_counts
from pipeline.stages.provenance import run_tags
from pipeline.tracking import Parent, Run, tracking_uri
from pipeline.trackingstore import OFF
from pipeline.view import digest

# Of no training's making: another value gives the same trainings, or more of them.
BESIDE = {"folds", "num_seeds", "evaluate", "probe", "audit"}
OF_ONE_TRAINING = ("task", "stream", "fold", "seed", "features.key", "dvc.stage")
ID_LETTERS = 8  # of the key, in the name of an experiment's run


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
    facts = read_run_file(options.layout.training(options.training))
    tags = run_tags(options, features_key)
    parent = parent_of(options, tags)
    return Run.resume(
        facts.get("run_id"),
        tracking_uri(Path()),
        experiment=options.name,
        name=options.training,
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
    folder = options.layout.fusion(name)
    facts = read_run_file(folder)
    if facts.get("settings") == digest(settings):
        run = Run.resume(
            facts["run_id"], uri, experiment=options.name, name=name, key=facts.get("key"), tags=tags, parent=parent
        )
        run.set_tags(tags)
    else:
        run = Run.start(options.name, name, tags, settings, uri, about, parent=parent)
    if uri != OFF:
        write_json(folder / RUN_FILE, {**run.facts, "settings": digest(settings)})
    return run


def parent_of(options: StageOptions, tags: Mapping[str, str]) -> Parent:
    """The experiment's run: one for all trainings of the same settings on the same split. tags: of one of them."""
    layout, settings = options.layout, shaping_settings(options.experiment)
    shaped = {
        "experiment": options.name,
        "settings": settings,
        "splits": content_hash(layout.splits),
    }
    key = canonical_sha256(shaped)[:32]
    params = {name: str(value) for name, value in flatten(settings, ".").items()}
    shared = {name: value for name, value in tags.items() if name not in OF_ONE_TRAINING}
    leaks = {f"leaks.{kind}": str(count) for kind, count in leak_counts(layout, options.experiment.folds).items()}
    return Parent(
        key,
        f"{options.name} {key[:ID_LETTERS]}",  # one experiment has a run for each of its settings
        {**shared, **leaks, KIND: "experiment", SETTINGS: key},
        params,
        columns_of(options.experiment),
    )


def columns_of(experiment: Experiment) -> list[str]:
    """What MLflow's table of an experiment's runs shows: of each run where it stands, and its main scores."""
    streams: list[tuple[str, str]] = [
        (task, stream) for stream in experiment.streams for task in experiment.stream(stream).tasks
    ]
    streams += [(task, "fused") for task in experiment.fused_tasks]
    scores = [f"{task}/{stream}/{main_score(task)}" for task, stream in streams]
    tests = dict.fromkeys(f"test/{main_score(task)}" for task, _ in streams)
    metrics = [*scores, *tests, f"test/gain_over_{SIMPLER}", "best_val_score"]
    return [f"metrics.`{name}`" for name in metrics] + [f"tags.`{name}`" for name in ("task", "stream", "fold", "seed")]


def canonical_sha256(value: object) -> str:
    """SHA-256 of a value's canonical JSON: keys sorted, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def shaping_settings(experiment: Experiment) -> dict[str, Any]:
    """What trainings depend on: the experiment without what only adds trainings, or looks at them."""
    settings = experiment.model_dump(mode="json", exclude=BESIDE)
    if settings["flow"]:
        del settings["flow"]["weight"]
    return settings
