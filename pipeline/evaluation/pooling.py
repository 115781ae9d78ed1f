"""Scores over all folds: every test video's answer comes from the model that did not train on its group."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation.calibration import CalibratedAnswers, calibration_scores
from pipeline.evaluation.clip_metrics import clip_metrics
from pipeline.evaluation.detection import Footage, detection_rows, detection_scores
from pipeline.evaluation.ladder import (
    Answers,
    FrameAnswers,
    clip_level_scores,
    clip_scores,
    frame_scores,
    score_frames,
)

# By seed, `predictions.csv` and `controls.csv` of each fold.
Tables = Mapping[int, Sequence[tuple[pd.DataFrame, pd.DataFrame]]]


@dataclass(frozen=True)
class Alarms:
    """Which classes are watched for, at how many false alarms per hour, and how many seconds a timestep lasts."""

    classes: Sequence[str]
    rate_per_hour: float
    step_seconds: float


def pool_clip(
    tables: Tables, classes: Sequence[str], opposite: Mapping[int, int], *, samples: int, seed: int
) -> dict[str, object]:
    """Scores of the folds put together, in the form of `metrics.json`.

    With several seeds the folds are put together for each, and a score is the mean over the seeds, its interval that
    of this mean. `seeds` holds the scores of each, `deviation` their standard deviation (n - 1; with several seeds).
    Where a video is tested in several folds (UCF101's three lists) each of its tests counts. Raises DataError without a
    fold, or when the seeds were not scored on the same videos.
    """
    predictions = _predictions(tables)
    labels, groups = label_indices(predictions["label"], classes), predictions["group"].tolist()
    runs = {}
    for number, folds in tables.items():
        controls = pd.concat([fold[1] for fold in folds], ignore_index=True)
        runs[number] = Answers(
            class_probabilities(pd.concat([fold[0] for fold in folds]), classes),
            {str(name): class_probabilities(rows, classes) for name, rows in controls.groupby("control", sort=False)},
        )
    scores = clip_scores(list(runs.values()), labels, groups, opposite, samples=samples, seed=seed)
    if "clips" in predictions:
        right = [
            pd.concat([fold[0] for fold in folds])["clips_right"].to_numpy(dtype=np.float64)
            for folds in tables.values()
        ]
        clips = predictions["clips"].to_numpy(dtype=np.int64)
        add_clip_level(scores, clip_level_scores(right, clips, labels, groups, samples=samples, seed=seed))
    return scores | _by_seed({number: clip_metrics(run.model, labels) for number, run in runs.items()})


def pool_frame(
    tables: Tables, classes: Sequence[str], background: int | None, *, samples: int, seed: int
) -> dict[str, object]:
    """The same for the frame task; a recording tested in two folds stands twice."""
    _predictions(tables)
    videos = list(_videos([fold[0] for fold in next(iter(tables.values()))]))
    labels = [label_indices(rows["label"], classes) for rows in videos]
    groups = [str(rows["group"].iloc[0]) for rows in videos]
    runs = {}
    for number, folds in tables.items():
        ladder: dict[str, list[np.ndarray]] = {}
        for _, controls in folds:
            for (name, _), rows in controls.groupby(["control", "video_id"], sort=False):
                ladder.setdefault(str(name), []).append(class_probabilities(rows, classes))
        own = [class_probabilities(rows, classes) for rows in _videos([fold[0] for fold in folds])]
        runs[number] = FrameAnswers(own, ladder)
    scores = frame_scores(list(runs.values()), labels, groups, background, samples=samples, seed=seed)
    return scores | _by_seed(
        {number: score_frames(run.model, labels, len(classes), background) for number, run in runs.items()}
    )


def add_clip_level(scores: Mapping[str, object], clip_level: Mapping[str, object]) -> None:
    """Put the scores of single clips, where there are any, beside those of videos."""
    if clip_level:
        scores["test"]["clip"] = clip_level  # type: ignore[index]


def pool_detection(tables: Tables, alarms: Alarms, *, samples: int, seed: int) -> dict[str, dict[str, float]]:
    """`detection_scores` of each alarm class, folds together."""
    _predictions(tables)
    runs = [[fold[0] for fold in folds] for folds in tables.values()]
    videos = _rows_of_videos(runs[0])
    return {
        name: detection_scores(
            _footage(runs[0], videos, name, alarms),
            [_scores(run, videos, name) for run in runs],
            alarms.rate_per_hour,
            samples=samples,
            seed=seed,
        )
        for name in alarms.classes
    }


def detection_table(folds: Sequence[pd.DataFrame], alarms: Alarms) -> list[dict[str, object]]:
    """Rows of `detection.csv`: each alarm class's curve over the thresholds; folds: `predictions.csv` of each."""
    videos = _rows_of_videos(folds)
    rows = []
    for name in alarms.classes:
        footage = _footage(folds, videos, name, alarms)
        rows += detection_rows(name, footage, _scores(folds, videos, name), alarms.rate_per_hour)
    return rows


def _rows_of_videos(folds: Sequence[pd.DataFrame]) -> list[np.ndarray]:
    """Where each video stands in the folds put together: one row of the clip task, a row a timestep of the frame task.

    A video that is tested in two folds stands there twice.
    """
    if "time_seconds" not in folds[0]:
        return list(np.arange(sum(len(fold) for fold in folds))[:, None])
    starts = np.cumsum([0, *(len(fold) for fold in folds)])
    by_fold = (fold.groupby("video_id", sort=False).indices.values() for fold in folds)
    return [start + rows for start, videos in zip(starts[:-1], by_fold, strict=True) for rows in videos]


def _scores(folds: Sequence[pd.DataFrame], videos: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    scores = pd.concat([fold[name] for fold in folds]).to_numpy(dtype=np.float64)
    return [scores[rows] for rows in videos]


def _footage(folds: Sequence[pd.DataFrame], videos: Sequence[np.ndarray], name: str, alarms: Alarms) -> Footage:
    has_delay = "time_seconds" in folds[0]
    whole = pd.concat(folds, ignore_index=True)
    event, known, groups = (whole["label"] == name).to_numpy(), (whole["label"] != "").to_numpy(), whole["group"]
    seconds = np.full(len(whole), alarms.step_seconds) if has_delay else whole["seconds"].to_numpy(dtype=np.float64)
    first = [int(rows[0]) for rows in videos]
    return Footage(
        event=[event[rows] for rows in videos],
        known=[known[rows] for rows in videos],
        groups=groups.iloc[first].tolist(),
        step_seconds=seconds[first],
        has_delay=has_delay,
    )


def pool_calibration(tables: Tables, *, samples: int, seed: int) -> dict[str, float]:
    """`calibration_scores` of the folds put together."""
    runs = [calibrated_answers(pd.concat([fold[0] for fold in folds])) for folds in tables.values()]
    return calibration_scores(runs, samples=samples, seed=seed)


def calibrated_answers(predictions: pd.DataFrame) -> CalibratedAnswers:
    """The labelled rows of a table of predictions."""
    rows = predictions[predictions["label"] != ""]
    return CalibratedAnswers(
        before=rows["uncalibrated"].to_numpy(dtype=np.float64),
        after=rows["score"].to_numpy(dtype=np.float64),  # of six digits too, so that a temperature of 1 changes nothing
        right=(rows["predicted"] == rows["label"]).to_numpy(),
        sure=rows["sure"].to_numpy() == 1,
        groups=rows["group"].to_numpy(),
    )


def between_trainings(scores: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """`mean` and `deviation` (n - 1) of each score between trainings (folds and seeds), where all of them have it.

    Papers state scores of published folds like this; it weighs a fold of few videos as one of many.
    """
    values = {
        name: [float(one[name] or 0) for one in scores]
        for name in scores[0]
        if all(one.get(name) is not None for one in scores) and not name.startswith(("num_", "background"))
    }
    return {
        "mean": {name: float(np.mean(own)) for name, own in values.items()},
        "deviation": {name: float(np.std(own, ddof=1)) for name, own in values.items()},
    }


def class_probabilities(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """The class columns of a predictions table, (N, K) float64, rows summing to 1."""
    probs = rows[list(classes)].to_numpy(dtype=np.float64)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))  # the tables hold six digits


def label_indices(labels: "pd.Series[str]", classes: Sequence[str]) -> np.ndarray:
    """Class indices of a table's labels, (N,) int64, IGNORED where there is none."""
    number = {name: index for index, name in enumerate(classes)} | {"": IGNORED}
    return labels.map(number).to_numpy(dtype=np.int64)


def _predictions(tables: Tables) -> pd.DataFrame:
    """The first seed's answers, folds together; the other seeds must have been asked the same."""
    if not tables or not all(tables.values()):
        raise DataError("no fold to pool")
    whole = {seed: pd.concat([fold[0] for fold in folds], ignore_index=True) for seed, folds in tables.items()}
    (first, predictions), *others = whole.items()
    asked = [name for name in ("video_id", "time_seconds", "group", "label") if name in predictions.columns]
    for seed, other in others:
        if not predictions[asked].equals(other[asked]):
            raise DataError(
                f"seeds {first} and {seed} were not scored on the same videos and labels; "
                "run the stage `evaluate` of both again"
            )
    return predictions


def _videos(folds: Sequence[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for fold in folds:
        for _, rows in fold.groupby("video_id", sort=False):
            yield rows


def _by_seed(scores: Mapping[int, Mapping[str, float]]) -> dict[str, object]:
    """The scores of each seed, and how far they lie apart."""
    own = {
        number: {name: value for name, value in one.items() if not name.startswith(("num_", "background"))}
        for number, one in scores.items()
    }
    found: dict[str, object] = {"seeds": {str(number): one for number, one in own.items()}}
    if len(own) > 1:
        found["deviation"] = {
            name: float(np.std([one[name] for one in own.values()], ddof=1)) for name in next(iter(own.values()))
        }
    return found
