"""Where an experiment's files lie, and what every stage does first: read its options."""

import argparse
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cache import use_cache_gb
from pipeline.config import Experiment, Runtime, Stream, StreamSettings, Task, load_experiment, load_runtime
from pipeline.data.cards import Dataset, read_dataset
from pipeline.data.tables import Video, usable_videos
from pipeline.errors import ConfigError
from pipeline.files import locked
from pipeline.remote import named
from pipeline.remotenames import Url, media_at
from pipeline.shards import Shard, add_shard_argument

Scored = Stream | Literal["fused"]
WAIT_SECONDS = 10.0  # for a stage that is just ending; one whose DVC is gone takes 8 s at most: pipeline/dvcparent.py


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
    def frames_table(self) -> Path:
        """What is in the frame store: stages depend on this table, so that DVC need not look at every stored file."""
        return self.root / "frames.csv"

    @property
    def decoded(self) -> Path:
        """The verdict on each video."""
        return self.root / "decoded.csv"

    @property
    def properties(self) -> Path:
        """What is known of each video without looking at what it shows."""
        return self.root / "properties.csv"

    @property
    def leaks(self) -> Path:
        """Groups, contents and pictures that stand on several sides; written when there is none, or it is allowed."""
        return self.root / "leaks.json"

    @property
    def inputs(self) -> Path:
        """The data set's definition, the tables, verdicts and leaks, by their hashes: stages depend on this table."""
        return self.root / "inputs.csv"

    @property
    def shortcut(self) -> Path:
        """How well file properties alone tell the classes."""
        return self.root / "shortcut.json"

    def backbone(self, representation: str) -> Path:
        """Folder of a CNN, see `representation`."""
        return self.root / "backbone" / representation

    def features(self, representation: str) -> Path:
        """The feature store made by that CNN."""
        return self.root / "features" / representation

    def features_table(self, representation: str) -> Path:
        """What is in that feature store."""
        return self.features(representation).with_name(f"{representation}.csv")

    def training(self, name: str) -> Path:
        """Folder of one training, see `training_name`: the model folder, its figures and its run id."""
        return self.root / "trainings" / name

    def history(self, name: str) -> Path:
        """The curves of a training, or of the fine-tuning of a CNN, by its name; beside the folders for DVC's plots."""
        return self.root / "histories" / f"{name}.csv"

    def checkpoint(self, name: str) -> Path:
        """State of a training under way; DVC does not know it, so that a stage that was stopped finds it again."""
        return self.root / "checkpoints" / f"{name}.safetensors"

    def evaluation(self, name: str) -> Path:
        """Folder of the scores of one training, or of the fusion of two."""
        return self.root / "evaluations" / name

    def fusion(self, name: str) -> Path:
        """Folder of a fusion's run id; DVC does not know it."""
        return self.root / "fusions" / name

    @property
    def premium(self) -> Path:
        """What a random split would have shown; among the evaluations, which the report depends on."""
        return self.root / "evaluations/premium.json"

    def probe(self, name: str) -> Path:
        """Folder of what the bias probe found of one training."""
        return self.root / "evaluations/probes" / name

    def writing(self, folder: Path) -> AbstractContextManager[None]:
        """Be the only stage that writes into a folder of the experiment; one that is just ending is waited for.

        The lock lies in `locks/`: DVC hashes the folders. Of torchrun's processes the first one holds it. Raises
        StoreError when another process keeps it.
        """
        if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK") != "0":
            return nullcontext()
        name = "-".join(folder.relative_to(self.root.parent).parts)
        return locked(folder, lock=self.root / "locks" / name, wait_seconds=WAIT_SECONDS)


@dataclass(frozen=True)
class StageOptions:
    """The options of a stage, read; those it does not take have their defaults.

    seed: of the training. Everything else is drawn from `experiment.seed`, so that trainings differ in nothing else.
    allow_leak: by the experiment, or by hand. premium: whether the leakage premium is asked for. shard: the part of the
    videos to be done, None for all.
    """

    name: str
    experiment: Experiment
    runtime: Runtime
    layout: Layout
    task: Task
    stream: Stream
    fold: int
    seed: int
    media: Path | Url | None
    allow_leak: bool = False
    premium: bool = False
    shard: Shard | None = None

    @property
    def settings(self) -> StreamSettings:
        """Settings of the stream; raises ConfigError for one that the experiment has not."""
        return self.experiment.stream(self.stream)

    @property
    def representation(self) -> str:
        """Name of the stream's CNN in this fold, and of the features it makes."""
        return representation(self.experiment, self.stream, self.fold)

    @property
    def training(self) -> str:
        """Name of the training, of its scores and of its MLflow run."""
        return training_name(self.task, self.stream, self.fold, self.seed)


def representation(experiment: Experiment, stream: Stream, fold: int) -> str:
    """Name of the CNN, and of the features, that a stream uses in a fold.

    A CNN that is fine-tuned on the fold's training split is the fold's own, another is shared by all folds:
    `fold1`, `shared`, `flow-fold1`, `flow-shared`.
    """
    name = f"fold{fold}" if experiment.stream(stream).finetune else "shared"
    return name if stream == "rgb" else f"{stream}-{name}"


def training_name(task: Task, stream: Scored, fold: int, seed: int) -> str:
    """Name of a training, or of the fusion of the two streams' trainings.

    >>> training_name("clip", "rgb", fold=1, seed=0)
    'clip-rgb-fold1-seed0'
    """
    return f"{task}-{stream}-fold{fold}-seed{seed}"


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


def videos_of_shard(options: StageOptions) -> list[Video]:
    """The usable videos of the experiment's table, of a shard its own: shared out by the frames that headers state.

    Every stage shares them out alike, so a machine extracts from what it has decoded itself.
    """
    videos = usable_videos(options.layout.videos)
    if options.shard is None:
        return videos
    part = options.shard.of({video.sha256: video.num_frames_header or None for video in videos})
    return [video for video in videos if video.sha256 in part]


def media_folder(options: StageOptions, dataset: Dataset) -> Path | Url:
    """Where the media are: as given by hand, else as the card says; a folder, or one of an object store.

    `dvc exp run --temp` and `--queue` run stages in a copy of the repository that lacks what git ignores: then the
    media are those of the repository itself.
    """
    media = options.media or media_at(dataset.card.media)
    if isinstance(media, Url):
        return Url(named(media))
    root = os.environ.get("DVC_ROOT")
    return Path(root) / media if root and not media.exists() else media


def stage_options(
    description: str | None,
    argv: Sequence[str] | None,
    *,
    task: bool = False,
    stream: bool = False,
    fold: bool = False,
    seed: bool = False,
    media: bool = False,
    allow_leak: bool = False,
    premium: bool = False,
    shard: bool = False,
) -> StageOptions:
    """Parse a stage's command line: `--config` always, the other options where the stage takes them.

    Raises ConfigError for a fold or seed that is none of the experiment's, and a shard of one without a CNN.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the experiment, e.g. configs/demo.yaml")
    parser.add_argument("--runtime", type=Path, default=Path("configs/runtime.yaml"), help="device and workers")
    if task:
        parser.add_argument("--task", choices=["clip", "frame"], required=True)
    if stream:
        parser.add_argument("--stream", choices=["rgb", "flow"], default="rgb", help="colour or optical flow")
    if fold:
        parser.add_argument("--fold", type=int, help="number of the fold (default: the experiment's first)")
    if seed:
        parser.add_argument("--seed", type=int, help="of the training (default: the experiment's first)")
    if media:
        parser.add_argument("--media", type=media_at, help="media folder, when it is not the one the card names")
    if allow_leak:
        parser.add_argument(
            "--allow-leak", action="store_true", help="go on with a split that leaks; every score says so"
        )
    if premium:
        parser.add_argument(
            "--premium", action="store_true", help="and train once more on a random split: what would leaking add?"
        )
    if shard:
        add_shard_argument(parser, "writes the tables")
    options = parser.parse_args(argv)
    experiment = load_experiment(options.config)
    numbers = {}
    for name, trained in (("fold", experiment.folds), ("seed", experiment.seeds)):
        given = getattr(options, name, None)
        numbers[name] = trained[0] if given is None else given
        if numbers[name] not in trained:
            raise ConfigError(
                f"--{name} is {given}; expected one that {options.config} trains ({', '.join(map(str, trained))}), "
                "or run `lrcn select` again"
            )
    if getattr(options, "shard", None) and experiment.backbone is None:
        raise ConfigError(
            f"--shard {options.shard}: {options.config} has ready-made features, which nobody shares out; "
            "run the stage without it"
        )
    runtime = load_runtime(options.runtime)
    use_cache_gb(runtime.cache_gb)
    return StageOptions(
        name=options.config.stem,
        experiment=experiment,
        runtime=runtime,
        layout=Layout(options.config.stem),
        task=getattr(options, "task", "clip"),
        stream=getattr(options, "stream", "rgb"),
        fold=numbers["fold"],
        seed=numbers["seed"],
        media=getattr(options, "media", None),
        allow_leak=experiment.audit.allow_leak or getattr(options, "allow_leak", False),
        premium=getattr(options, "premium", False),
        shard=getattr(options, "shard", None),
    )
