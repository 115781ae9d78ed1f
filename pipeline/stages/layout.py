"""Where an experiment's files lie, and what every stage does first: read its options."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Experiment, Runtime, Task, load_experiment, load_runtime
from pipeline.data.cards import Dataset, read_dataset
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """Files of one experiment below `artifacts/`, relative to the repository's root (where DVC runs a stage)."""

    experiment: str

    @property
    def root(self) -> Path:  # noqa: D102
        return Path("artifacts") / self.experiment

    @property
    def videos(self) -> Path:
        """One row per file of the media folder."""
        return self.root / "videos.csv"

    @property
    def segments(self) -> Path:
        """Labelled stretches of untrimmed videos, in seconds."""
        return self.root / "segments.csv"

    @property
    def splits(self) -> Path:
        """Which video is on which side of which fold."""
        return self.root / "splits.csv"

    @property
    def audit(self) -> Path:
        """Counts, duplicates, leaks."""
        return self.root / "audit.json"

    @property
    def frames(self) -> Path:
        """The frame store."""
        return self.root / "frames"

    @property
    def decoded(self) -> Path:
        """The verdict on each video."""
        return self.root / "decoded.csv"

    def backbone(self, representation: str) -> Path:
        """Folder of the CNN: `shared` by all folds, or one per fold where it is fine-tuned."""
        return self.root / "backbone" / representation

    def features(self, representation: str) -> Path:
        """The feature store made by that CNN."""
        return self.root / "features" / representation

    def training(self, task: str, fold: int) -> Path:
        """Folder of one training: the model folder, its curves and its run id."""
        return self.root / "trainings" / f"{task}-fold{fold}"

    def evaluation(self, task: str, fold: int) -> Path:
        """Folder of one training's scores."""
        return self.root / "evaluations" / f"{task}-fold{fold}"


@dataclass(frozen=True)
class StageOptions:
    """The options of a stage, read."""

    name: str
    experiment: Experiment
    runtime: Runtime
    layout: Layout
    task: Task
    fold: int
    media: Path | None


def representation(experiment: Experiment, fold: int) -> str:
    """Name of the features a fold uses: its own where the backbone is fine-tuned on its training split."""
    return f"fold{fold}" if experiment.finetune else "shared"


def dataset_of(experiment: Experiment) -> Dataset:
    """The definition of the experiment's data set; raises ConfigError where one has features and the other a CNN."""
    dataset = read_dataset(Path("datasets") / experiment.dataset)
    if dataset.card.features is not None and experiment.backbone is not None:
        raise ConfigError(f"dataset {experiment.dataset} holds ready-made features (its card); expected backbone: null")
    if dataset.card.features is None and experiment.backbone is None:
        raise ConfigError(f"backbone is empty, but dataset {experiment.dataset} holds videos; expected a CNN's name")
    if dataset.card.features is not None and experiment.view.fps > dataset.card.features.fps:
        raise ConfigError(
            f"view.fps is {experiment.view.fps:g}, but the features of {experiment.dataset} come at "
            f"{dataset.card.features.fps:g} a second; expected that rate or a lower one"
        )
    return dataset


def stage_options(
    description: str | None,
    argv: Sequence[str] | None,
    *,
    task: bool = False,
    fold: bool = False,
    media: bool = False,
) -> StageOptions:
    """Parse a stage's command line: `--config` always, `--task`, `--fold` and `--media` where the stage takes them."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the experiment, e.g. configs/demo.yaml")
    parser.add_argument("--runtime", type=Path, default=Path("configs/runtime.yaml"), help="device and workers")
    if task:
        parser.add_argument("--task", choices=["clip", "frame"], required=True)
    if fold:
        parser.add_argument("--fold", type=int, default=1, help="number of the fold, from 1 (default 1)")
    if media:
        parser.add_argument("--media", type=Path, help="media folder, when it is not the one the card names")
    options = parser.parse_args(argv)
    return StageOptions(
        name=options.config.stem,
        experiment=load_experiment(options.config),
        runtime=load_runtime(options.runtime),
        layout=Layout(options.config.stem),
        task=getattr(options, "task", "clip"),
        fold=getattr(options, "fold", 1),
        media=getattr(options, "media", None),
    )
