"""Choose the experiments that `dvc repro` builds: writes `configs/experiments.yaml`, the rows of dvc.yaml's stages.

A plain matrix over experiment, task and fold is a full product; experiments differ in their tasks and folds, so the
rows are written out. They follow from each experiment's own file, and a test compares the two.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment, load_experiment
from pipeline.stages.layout import representation

EXPERIMENTS = Path("configs/experiments.yaml")
HEADER = "# Written by `lrcn select {names}`: what `dvc repro` builds, a row for each run of a stage.\n"


def stage_rows(experiments: Mapping[str, Experiment]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of the three kinds of stages in dvc.yaml: per experiment, per CNN, per training."""
    rows: dict[str, dict[str, dict[str, Any]]] = {"experiments": {}, "representations": {}, "trainings": {}}
    for name, experiment in experiments.items():
        rows["experiments"][name] = {"experiment": name, "dataset": experiment.dataset}
        for fold in experiment.folds:
            features = representation(experiment, fold)
            rows["representations"].setdefault(
                f"{name}-{features}",
                {"experiment": name, "dataset": experiment.dataset, "representation": features, "fold": fold},
            )
            for task in experiment.stream("rgb").tasks:
                rows["trainings"][f"{name}-{task}-fold{fold}"] = {
                    "experiment": name,
                    "dataset": experiment.dataset,
                    "task": task,
                    "fold": fold,
                    "representation": features,
                }
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of the named experiments."""
    parser = argparse.ArgumentParser(prog="lrcn select", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiments", nargs="+", help="names of files in configs/, e.g. demo fight")
    names = parser.parse_args(argv).experiments
    rows = stage_rows({name: load_experiment(Path("configs") / f"{name}.yaml") for name in names})
    text = HEADER.format(names=" ".join(names)) + yaml.safe_dump(rows, sort_keys=False, default_flow_style=None)
    EXPERIMENTS.write_text(text, encoding="utf-8")
    print(f"{EXPERIMENTS}: {len(rows['trainings'])} training(s) of {', '.join(names)}; `dvc repro` builds them")
