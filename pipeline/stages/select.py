"""Choose the experiments that `dvc repro` builds: writes `configs/experiments.yaml`, the rows of dvc.yaml's stages.

A plain matrix over experiment, task and fold is a full product; experiments differ in their tasks and folds, so the
rows are written out. They follow from each experiment's own file, and a test compares the two.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment, load_experiment
from pipeline.stages.layout import representation, training_name

EXPERIMENTS = Path("configs/experiments.yaml")
HEADER = "# Written by `lrcn select {names}`: what `dvc repro` builds, a row for each run of a stage.\n"


def stage_rows(experiments: Mapping[str, Experiment]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of the kinds of stages in dvc.yaml: per experiment, per CNN, per training, per fusion of two trainings.

    prefix: where the stream's settings stand in the experiment's file, "" or `flow.`. method: the parameter that says
    how flow is computed; RGB has none and names one that its stages depend on anyway.
    """
    rows: dict[str, dict[str, dict[str, Any]]] = {
        "experiments": {}, "representations": {}, "trainings": {}, "fusions": {},
    }  # fmt: skip
    for name, experiment in experiments.items():
        both = {"experiment": name, "dataset": experiment.dataset}
        rows["experiments"][name] = both
        for stream, fold in itertools.product(experiment.streams, experiment.folds):
            own = {
                "stream": stream,
                "fold": fold,
                "representation": representation(experiment, stream, fold),
                "prefix": "" if stream == "rgb" else f"{stream}.",
            }
            method = "flow.method" if stream == "flow" else "view.fps"
            rows["representations"].setdefault(f"{name}-{own['representation']}", {**both, **own, "method": method})
            for task, seed in itertools.product(experiment.stream(stream).tasks, experiment.seeds):
                training = training_name(task, stream, fold, seed)
                rows["trainings"][f"{name}-{training}"] = {**both, "name": training, "task": task, **own, "seed": seed}
        for task, fold, seed in itertools.product(experiment.fused_tasks, experiment.folds, experiment.seeds):
            fused, rgb, flow = (training_name(task, stream, fold, seed) for stream in ("fused", "rgb", "flow"))
            of = {"name": fused, "rgb": rgb, "flow": flow, "task": task, "fold": fold, "seed": seed}
            rows["fusions"][f"{name}-{fused}"] = {**both, **of}
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of the named experiments."""
    parser = argparse.ArgumentParser(prog="lrcn select", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiments", nargs="+", help="names of files in configs/, e.g. demo fight")
    names = parser.parse_args(argv).experiments
    rows = stage_rows({name: load_experiment(Path("configs") / f"{name}.yaml") for name in names})
    text = HEADER.format(names=" ".join(names)) + yaml.safe_dump(
        rows, sort_keys=False, default_flow_style=None, width=200
    )
    EXPERIMENTS.write_text(text, encoding="utf-8")
    print(f"{EXPERIMENTS}: {len(rows['trainings'])} training(s) of {', '.join(names)}; `dvc repro` builds them")
