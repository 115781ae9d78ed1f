"""What the report says in words and in its tables of scores: each number stands beside those of simpler models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.reporting.numbers import MISSING, Source, Table
from pipeline.reporting.words import CONTROLS, FRAME_SIMPLER, SIMPLER, STREAMS, control_name

FEW_GROUPS = 20  # below it a bootstrap over groups gives intervals that are too narrow
# Header of a column, key in metrics.json; the first of each task is its headline score.
COLUMNS = {
    "clip": [
        ("top-1", "top1"),
        ("top-5", "top5"),
        ("mean class accuracy", "mean_class_accuracy"),
        ("macro F1", "macro_f1"),
        ("AUC", "auc"),
        ("calibration error", "ece"),
    ],
    "frame": [
        ("frame accuracy", "acc"),
        ("edit score", "edit"),
        ("F1@10", "f1_10"),
        ("F1@25", "f1_25"),
        ("F1@50", "f1_50"),
        ("frame mAP", "frame_map"),
    ],
}
PERCENT = "\N{NO-BREAK SPACE}%"
LEVELS = {"clip": "video", "frame": "frame"}


@dataclass(frozen=True)
class Mistake:
    """A wrong answer and a strip of frames, each (H, W, 3) uint8 RGB; row: its place in `predictions.csv`, from 0."""

    evaluation: str
    row: int
    video_id: str
    label: str
    predicted: str
    score: str
    time_seconds: str = ""
    frames: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Training:
    """One task, stream, fold and seed, as its files hold it.

    name: e.g. `clip-rgb-fold1-seed0`. model: in words, e.g. `LSTM`. head: how its timesteps become an answer, "" of a
    fusion. metrics: its `metrics.json`. figures: SVG text by name, of the evaluation and of the training. background:
    the frame task's class for "none of the actions". history: the rows of `histories/NAME.csv`, as text; a
    fusion has none.
    """

    name: str
    task: str
    model: str
    metrics: Mapping[str, Any]
    figures: Mapping[str, str]
    background: str | None = None
    stream: str = "rgb"
    seed: int = 0
    head: str = ""
    history: Sequence[Mapping[str, str]] = field(default=())

    @property
    def own(self) -> Source:
        """Its `metrics.json`."""
        return Source(f"evaluations/{self.name}/metrics.json", self.metrics)

    @property
    def scores(self) -> Source:
        """The model's own scores."""
        return self.own.under("test", LEVELS[self.task])


def confident_mistakes(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows of `predictions.csv` that are wrong, the surest first, at most one of each video.

    Equally sure ones stand in the order of their ids. Rows without a label are not known to be wrong.
    """
    wrong = predictions[(predictions["label"] != predictions["predicted"]) & (predictions["label"] != "")]
    order = pd.DataFrame({"score": pd.to_numeric(wrong["score"]), "video_id": wrong["video_id"]})
    sorted_rows = wrong.loc[order.sort_values(["score", "video_id"], ascending=[False, True], kind="stable").index]
    return sorted_rows.drop_duplicates("video_id")[:count]


def measures_table(task: str, pooled: Source) -> Table:
    """Every score of one task and stream, all folds together, with its interval."""
    scores = pooled.under("test", LEVELS[task])
    rows = [[head, scores.interval(key)] for head, key in COLUMNS[task] if scores.defined(key)]
    if pooled.defined("test", "clip", "top1"):
        clips = pooled.under("test", "clip")
        rows.append([Markup("top-1 of {} single clips").format(clips.whole("num_clips")), clips.interval("top1")])
    return Table(["measure", f"score [95{PERCENT}]"], rows)


def folds_table(trainings: Sequence[Training], pooled: Source) -> Table:
    """Scores of one task and stream: each training, their mean, and all folds together.

    pooled: the scores over all folds. The mean comes with the standard deviation between trainings.
    """
    task = trainings[0].task
    whole = pooled.under("test", LEVELS[task])
    columns = [(head, key) for head, key in COLUMNS[task] if whole.defined(key)]
    keys = [key for _, key in columns]
    rows = [_row(training.name, training.scores, keys) for training in trainings]
    spread = pooled.under("trainings")
    means = [
        Markup("{} ± {}").format(spread.number("mean", key), spread.number("deviation", key))
        if spread.defined("deviation", key)
        else MISSING
        for key in keys
    ]
    several = len({training.seed for training in trainings}) > 1
    rows.append(["mean of the trainings" if several else "mean of the folds", "", "", *means])
    rows.append(_row("all folds together" + (", mean of the seeds" if several else ""), whole, keys))
    first = f"{columns[0][0]} [95{PERCENT}]"
    heads = ["training", "test videos", "groups", first, *[head for head, _ in columns[1:]]]
    return Table(heads, rows, total=True)


def streams_table(task: str, pooled: Source) -> Table:
    """A row for each stream of a task, all folds together, ± over the seeds; pooled: by stream."""
    own = {stream: pooled.under(stream, "test", LEVELS[task]) for stream in STREAMS if stream in pooled.values}
    columns = [(head, key) for head, key in COLUMNS[task] if any(scores.defined(key) for scores in own.values())]
    rows = []
    for stream, scores in own.items():
        apart = pooled.under(stream, "deviation")
        cells = [
            scores.number(key)
            + (Markup(" ± {}").format(apart.number(key)) if apart.defined(key) else "")
            + (Markup(" {}").format(bounds) if (bounds := scores.interval(key, alone=True)) else "")
            for _, key in columns
        ]
        rows.append([STREAMS[stream], scores.whole("num_videos"), scores.whole("num_groups"), *cells])
    return Table(["stream", "test videos", "groups", *[head for head, _ in columns]], rows)


def ladder_table(task: str, scores: Source) -> Table:
    """The model and its controls, with intervals and paired differences; scores: a `metrics.json`."""
    names = sorted(scores.at("controls") or {}, key=_place)
    (head, key), *others = COLUMNS[task]
    # A control's bounds of its first score bear no name, nor does the difference of it.
    shown = [(head, key, "low", "high", "difference")]
    shown += [
        (head, key, f"{key}_low", f"{key}_high", f"difference_{key}")
        for head, key in others
        if any(scores.defined("controls", name, f"difference_{key}") for name in names)
    ]
    rows: list[list[str | Markup]] = [["the model"]]
    for _, key, *_ in shown:
        rows[0] += [scores.interval("test", LEVELS[task], key), ""]
    for name in names:
        control = scores.under("controls", name)
        cells: list[str | Markup] = [control_name(name, task)]
        for _, key, low, high, difference in shown:
            cells += [control.interval(key, low=low, high=high), control.interval(difference, sign=True)]
        rows.append(cells)
    heads = [text for head, *_ in shown for text in (f"{head} [95{PERCENT}]", "model minus control")]
    return Table(["", *heads], rows)


def per_class_table(file: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """The rows of `per_class.csv`, sortable."""
    table = Source(file, rows)
    places = {"support": 0, "predicted": 0}
    cells = [
        [
            str(value) if column == "class" else table.number(place, column, places=places.get(column, 2))
            for column, value in row.items()
        ]
        for place, row in enumerate(rows)
    ]
    heads = ["F1" if column == "f1" else str(column).replace("_", " ") for column in rows[0]]
    return Table(heads, cells, sortable=True)


def statement(trainings: Sequence[Training], pooled: Source, config: Source) -> Markup:
    """The result of one task in sentences: the score, what simpler models reach, what the order of frames is worth.

    pooled: the scores of the task and stream over all folds; config: the experiment's file.
    """
    task = trainings[0].task
    scores, key = pooled.under("test", LEVELS[task]), COLUMNS[task][0][1]
    videos = scores.whole("num_videos")
    tested = Markup("{} test videos") if task == "clip" else Markup("the labelled frames of {} test recordings")
    num_seeds = len({training.seed for training in trainings})
    about = []
    if len(trainings) > num_seeds:
        about.append(Markup("{} folds together").format(config.count("folds")))
    if num_seeds > 1:
        about.append(Markup("mean of {} seeds").format(config.whole("num_seeds")))
    num_groups = scores.at("num_groups")
    if num_groups < 2:
        about.append(Markup("one group of recordings, so there is no interval"))
    else:
        few = "; with so few, intervals are too narrow" if num_groups < FEW_GROUPS else ""
        about.append(
            Markup("95{} interval over {} groups of recordings{}").format(PERCENT, scores.whole("num_groups"), few)
        )
    words = [
        Markup("The {} labels {} of {} correctly ({}).").format(
            trainings[0].model, scores.interval(key), tested.format(videos), Markup(", ").join(about)
        )
    ]
    return Markup(" ").join(
        [*words, *_against_simpler(task, pooled, key), *_order(pooled, key), *_properties(task, pooled, key)]
    )


def _row(name: str, scores: Source, keys: Sequence[str]) -> list[str | Markup]:
    counts = [scores.whole(count) for count in ("num_videos", "num_groups")]
    return [name, *counts, scores.interval(keys[0]), *[scores.number(key) for key in keys[1:]]]


def _against_simpler(task: str, pooled: Source, key: str) -> list[Markup]:
    simpler = FRAME_SIMPLER if task == "frame" else SIMPLER
    known = [name for name in simpler if pooled.defined("controls", name, key)]
    if not known:
        return []
    best = pooled.under("controls", max(known, key=lambda name: float(pooled.at("controls", name, key))))
    reached = Markup(" and ").join(
        Markup("{} reaches {}").format(simpler[name], pooled.number("controls", name, key)) for name in known
    )
    text = Markup(reached[0].upper()) + Markup(reached[1:])
    over = "that" if len(known) == 1 else "the better of these"
    difference = best.interval("difference", sign=True)
    if best.defined("difference_low") and best.at("difference_low") > 0:
        return [Markup("{}; the gain over {} is {}.").format(text, over, difference)]
    if best.defined("difference_high") and best.at("difference_high") < 0:
        return [Markup("{}; the model is worse than {}: the difference is {}.").format(text, over, difference)]
    return [Markup("{}; a gain over {} is not shown: the difference is {}.").format(text, over, difference)]


def _order(pooled: Source, key: str) -> list[Markup]:
    if pooled.defined("reversed_opposite"):
        return [
            Markup(
                "Played backwards, {} of the videos it had right get the opposite action: "
                "all of them would be a model that reads the direction of time, none of them one blind to it."
            ).format(pooled.number("reversed_opposite", places=0, percent=True))
        ]
    parts = [
        Markup("{} with the frames {}").format(pooled.number("controls", name, key), word)
        for name, word in (("shuffled", "in random order"), ("reversed", "reversed"))
        if pooled.defined("controls", name, key)
    ]
    return [Markup("The same model scores {}.").format(Markup(" and ").join(parts))] if parts else []


def _properties(task: str, pooled: Source, key: str) -> list[Markup]:
    properties, majority = pooled.under("controls", "file_properties"), pooled.under("controls", "majority")
    if not (properties.defined("low") and majority.defined(key) and properties.at("low") > majority.at(key)):
        return []
    if task == "frame":
        return [
            Markup(
                "File properties and the clock, without a picture, reach {}, the most frequent class {}: when things "
                "happen can be foretold, or the recordings were made differently, and part of every score may come "
                "from that."
            ).format(properties.number(key), majority.number(key))
        ]
    return [
        Markup(
            "File properties alone (size, rate, duration, …) reach {}, the most frequent class {}: the classes were "
            "recorded differently, and part of every score may come from that."
        ).format(properties.number(key), majority.number(key))
    ]


def _place(name: str) -> int:
    return list(CONTROLS).index(name) if name in CONTROLS else len(CONTROLS)
