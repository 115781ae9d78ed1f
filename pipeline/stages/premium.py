"""The leakage premium: what the experiment's scores would be under a split that divides recordings.

The same stages with the same settings train and score the same models once more, on folds in which videos have changed
places at random (`pipeline.data.splits.random_folds`). What that adds to a score is not skill: the model has seen other
videos of the same recording.
"""

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Task
from pipeline.data.splits import Leak, find_leaks, folds_of, random_folds, table
from pipeline.data.tables import Split, read_segments, read_splits, usable_videos, write_rows
from pipeline.device import choose_device
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.premium import premium_scores
from pipeline.files import LOCK_NAME, content_hash, locked, write_json, write_text
from pipeline.stages.answers import in_brackets, read_answers
from pipeline.stages.evaluate import evaluate_one
from pipeline.stages.extract import extract_features
from pipeline.stages.finetune import fix_weights
from pipeline.stages.layout import Layout, StageOptions
from pipeline.stages.samples import undecodable_videos
from pipeline.stages.train import train_one
from pipeline.trackingstore import OFF
from pipeline.training.distributed import process_group
from pipeline.view import digest

METRICS: dict[Task, str] = {"clip": "top1", "frame": "acc"}
REMADE = ("trainings", "histories", "backbone", "features", "checkpoints")  # removed once their scores are there


@dataclass(frozen=True)
class RandomLayout(Layout):
    """The files of an experiment's twin under a random split: its own but for what does not depend on the split."""

    @property
    def root(self) -> Path:  # noqa: D102
        return super().root / "premium"

    @property
    def videos(self) -> Path:  # noqa: D102
        return Layout(self.experiment).videos

    @property
    def segments(self) -> Path:  # noqa: D102
        return Layout(self.experiment).segments

    @property
    def frames(self) -> Path:  # noqa: D102
        return Layout(self.experiment).frames

    @property
    def decoded(self) -> Path:  # noqa: D102
        return Layout(self.experiment).decoded

    @property
    def properties(self) -> Path:
        """What is known of each file without looking at its pictures."""
        return super().root / "properties.csv"

    @property
    def leaks(self) -> Path:
        """The leaks of the random split, which are allowed: they are what is measured."""
        return self.root / "leaks.json"

    def backbone(self, representation: str) -> Path:
        """A CNN that all folds share has seen no label; one that is fine-tuned is the random fold's own."""
        return _of_the_folds(self, representation).root / "backbone" / representation

    def features(self, representation: str) -> Path:
        """The features of that CNN."""
        return _of_the_folds(self, representation).root / "features" / representation


def leakage_premium(options: StageOptions) -> dict[str, Any]:
    """Write `premium.json`: per task of the RGB stream, the first seed's score under both splits and the difference.

    The grouped side is what `evaluate` wrote, which must be there. The random side is trained and scored in
    `artifacts/NAME/premium`, without tracking; there its split, its leaks and its evaluations stay. A call that was cut
    off goes on with what it lacks, and a second one trains nothing, until the tables or the models change. Raises
    ConfigError when the RGB stream has no task, DataError when scores are missing, or when a random split divides no
    group.
    """
    experiment = options.experiment
    twin = replace(options, name=f"{options.name} (random split)", layout=RandomLayout(options.layout.experiment))
    tasks = [task for task in METRICS if experiment.stream("rgb").settings(task) is not None]
    if not tasks:
        raise ConfigError(
            f"configs/{options.name}.yaml: train.clip and train.frame are empty; the premium is that of the RGB "
            "stream, expected settings of one of them"
        )
    trainings = [_choose(options, task, fold) for task, fold in itertools.product(tasks, experiment.folds)]
    splits = read_splits(options.layout.splits)
    grouped = {training.training: _answers(training, splits) for training in trainings}
    with locked(twin.layout.root), _untracked():
        _prepare(options, twin, splits, trainings)
        for fold in experiment.folds:
            missing = [_choose(twin, task, fold) for task in tasks if not _is_scored(_choose(twin, task, fold))]
            if missing and twin.layout.backbone(missing[0].representation).is_relative_to(twin.layout.root):
                fix_weights(missing[0])
                extract_features(missing[0])
            for training in missing:
                with process_group(choose_device(options.runtime.device)) as world:
                    train_one(training, world)
                evaluate_one(training)
        for name in REMADE:
            shutil.rmtree(twin.layout.root / name, ignore_errors=True)
        found: dict[str, Any] = {}
        for task in tasks:
            names = [training.training for training in trainings if training.task == task]
            random = [read_answers(twin.layout.evaluation(name) / "predictions.csv") for name in names]
            scores = premium_scores(
                pd.concat([grouped[name] for name in names]),
                pd.concat(random),
                samples=experiment.evaluate.bootstrap_samples,
                seed=experiment.seed,
            )
            found[task] = {**scores, "metric": METRICS[task], "folds": len(names), "stream": "rgb"}
    write_json(options.layout.premium, found)
    for task in tasks:
        print(in_words(options.name, task, found[task]))
    return found


def in_words(name: str, task: str, scores: dict[str, Any]) -> str:
    """The premium of a task in a line."""

    def side(name: str) -> str:
        own = scores[name]
        return f"{own['score']:.3f} {in_brackets(own['low'], own['high'])}"

    premium = f"{scores['premium']:+.3f} {in_brackets(scores['premium_low'], scores['premium_high'], '+.3f')}"
    return (
        f"audit: leakage premium of {name}: random split {side('random')}, grouped {side('grouped')}: "
        f"{premium} {scores['metric']} ({task}, {scores['stream']}, {scores['folds']} fold(s))"
    )


def _of_the_folds(layout: Layout, representation: str) -> Layout:
    return Layout(layout.experiment) if representation.endswith("shared") else layout


def _choose(options: StageOptions, task: Task, fold: int) -> StageOptions:
    """The options of a training with the first seed, on RGB."""
    return replace(options, task=task, stream="rgb", fold=fold, seed=options.experiment.seed)


def _answers(training: StageOptions, splits: Sequence[Split]) -> pd.DataFrame:
    """The answers on the grouped test side; raises DataError when they are missing or of another split."""
    path = training.layout.evaluation(training.training) / "predictions.csv"
    answers = read_answers(path)
    tested = {row.video_id for row in splits if (row.fold, row.split) == (training.fold, "test")}
    if strangers := sorted(set(answers["video_id"]) - tested):
        raise DataError(
            f"{path}: {strangers[0]!r} is no test video of fold {training.fold} in {training.layout.splits}; "
            "the answers are of another split: run the stages train and evaluate again"
        )
    return answers


def _prepare(
    options: StageOptions, twin: StageOptions, splits: Sequence[Split], trainings: Sequence[StageOptions]
) -> None:
    """Write the random split and its leaks; what was made of other tables or beside other models is removed first."""
    layout, root = options.layout, twin.layout.root
    models = [layout.training(training.training) / "model/model.safetensors" for training in trainings]
    tables = [layout.videos, layout.segments, layout.decoded, layout.splits]
    made_from = digest({str(path): content_hash(path) for path in [*tables, *models]})
    mark = root / "made_from.txt"
    if mark.exists() and mark.read_text(encoding="utf-8").strip() == made_from:
        return
    for path in root.iterdir():
        if path.name != LOCK_NAME:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    leaks = _write_random_split(options, twin, splits)
    if not any(leak.kind == "group" for leak in leaks):
        raise DataError(
            f"{layout.splits}: a random split divides no group, so there is no premium to measure; "
            "say in the card (`groups`) which videos come from one source"
        )
    write_text(mark, f"{made_from}\n")


def _write_random_split(options: StageOptions, twin: StageOptions, splits: Sequence[Split]) -> list[Leak]:
    undecodable = undecodable_videos(options.layout)
    segmented = {segment.video_id for segment in read_segments(options.layout.segments)}
    videos = usable_videos(options.layout.videos)
    # A video that could not be decoded keeps its place, so that as many are lost on each side as under the real split.
    strata = {v.video_id: (v.label, v.video_id in segmented) for v in videos if v.video_id not in undecodable}
    folds = folds_of(splits)
    if real := find_leaks(videos, folds):
        print(f"audit: warning: the split itself has {len(real)} leak(s); the premium is too small by what they add")
    random = random_folds(strata, folds, options.experiment.seed)
    leaks = find_leaks(videos, random)
    write_rows(twin.layout.splits, Split, table(random))
    facts = {"allowed": True, "published": False, "videos_compared": 0, "leaks": [asdict(leak) for leak in leaks]}
    write_json(twin.layout.root / "leaks.json", facts)
    return leaks


def _is_scored(training: StageOptions) -> bool:
    return (training.layout.evaluation(training.training) / "metrics.json").exists()


@contextmanager
def _untracked() -> Iterator[None]:
    """No tracking for what runs inside: these runs must not stand among those whose scores count."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = OFF
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before
