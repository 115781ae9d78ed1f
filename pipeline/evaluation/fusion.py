"""Late fusion of the RGB and the flow stream: the weighted mean of their class probabilities.

Donahue et al. 2015 (arXiv 1411.4389 v4), section 4: both streams predict alone, and their scores are averaged, with
weights 1/2 and 1/2 or, flow being the stronger stream, 1/3 and 2/3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation.pooling import class_probabilities, label_indices

WEIGHTS = tuple(step / 20 for step in range(1, 20))  # tried for the flow stream, where validation chooses
DIGITS = 6  # of a probability in the tables
SHOWN = 5  # ids in a message


@dataclass(frozen=True)
class Aligned:
    """Answers of both streams to the same items: videos (clip task) or timesteps (frame task).

    items: a row for each, in RGB's order: video_id, group, for videos seconds, for timesteps step and time_seconds,
        and label.
    rgb, flow: class probabilities, (N, K) float64; where a stream has no answer, the other's.
    videos_rgb_alone, videos_flow_alone: videos of which the other stream has nothing.
    steps_rgb_alone: further timesteps without flow, those that show a video's first picture.
    """

    items: pd.DataFrame
    classes: tuple[str, ...]
    rgb: np.ndarray
    flow: np.ndarray
    videos_rgb_alone: int
    videos_flow_alone: int
    steps_rgb_alone: int

    @property
    def labels(self) -> np.ndarray:
        """Class indices, (N,) int64; IGNORED where there is no label."""
        return label_indices(self.items["label"], self.classes)

    def fused(self, weight: float) -> np.ndarray:
        """The mean of the streams' probabilities, (N, K), in which flow has this weight."""
        return (1 - weight) * self.rgb + weight * self.flow

    def table(
        self, probs: np.ndarray, before: np.ndarray | None = None, threshold: float | None = None
    ) -> pd.DataFrame:
        """Answers to the items as a table of the columns of `predictions.csv`.

        before: the probabilities before they were calibrated, (N, K); without them the columns are those of
        `controls.csv`. threshold: from which score on an answer is sure; without one none is.
        """
        rounded, score = probs.round(DIGITS), probs.max(axis=1)
        answers: dict[str, object] = {"predicted": [self.classes[index] for index in probs.argmax(axis=1)]}
        if before is not None:
            sure = np.zeros(len(score), bool) if threshold is None else score >= threshold
            answers |= {"uncalibrated": before.max(axis=1).round(DIGITS), "sure": sure.astype(int)}
        answers["score"] = score.round(DIGITS)
        columns = dict(zip(self.classes, rounded.T, strict=True))
        return pd.concat([self.items, pd.DataFrame(answers), pd.DataFrame(columns)], axis=1)

    def controls(self) -> pd.DataFrame:
        """What each stream answers by itself, in the columns of `controls.csv`.

        Where a stream has no answer the other's stands, so that all are scored on the same items.
        """
        tables = []
        for name, probs in (("rgb", self.rgb), ("flow", self.flow)):
            table = self.table(probs)
            table.insert(0, "control", name)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)


def align(rgb: pd.DataFrame, flow: pd.DataFrame, classes: Sequence[str]) -> Aligned:
    """Two streams' tables of answers, brought together by video and, for the frame task, by time.

    Flow needs two pictures, so it has no timestep for a video's first one. Such a step, and a video that one stream
    lacks, is answered by the other alone.

    Raises:
        DataError: the tables are of other classes, share no video, differ in a label or group, name an item twice, or
            flow has other timesteps than RGB, but for the first.
    """
    tables = {"rgb": rgb.reset_index(drop=True), "flow": flow.reset_index(drop=True)}
    for name, table in tables.items():
        _check_columns(name, table, classes)
    if ("time_seconds" in rgb.columns) != ("time_seconds" in flow.columns):
        raise DataError("one stream's table is of the clip task, the other's of the frame task; expected one task")
    keys = {name: _keys(name, table) for name, table in tables.items()}
    videos = {name: set(table["video_id"]) for name, table in tables.items()}
    if not videos["rgb"] & videos["flow"]:
        raise DataError(
            f"rgb ({_some(videos['rgb'])}) and flow ({_some(videos['flow'])}) have no video in common; expected the "
            "same side of the same fold"
        )
    both = videos["rgb"] & videos["flow"]
    if "time_seconds" in rgb.columns:
        _check_steps(keys["rgb"], keys["flow"], both)
    added = tables["flow"][~keys["flow"].isin(keys["rgb"])]
    order = keys["rgb"].append(keys["flow"][added.index])
    names = [name for name in ("video_id", "group", "seconds", "step", "time_seconds", "label") if name in rgb.columns]
    items = pd.concat([tables["rgb"][names], added[names]], ignore_index=True)
    _check_labels(items.set_index(order), tables["flow"].set_index(keys["flow"]))
    own = {
        name: pd.DataFrame(class_probabilities(table, classes), index=keys[name]).reindex(order).to_numpy()
        for name, table in tables.items()
    }
    lacking = {name: np.isnan(probs[:, 0]) for name, probs in own.items()}
    return Aligned(
        items=items,
        classes=tuple(classes),
        rgb=np.where(lacking["rgb"][:, None], own["flow"], own["rgb"]),
        flow=np.where(lacking["flow"][:, None], own["rgb"], own["flow"]),
        videos_rgb_alone=len(videos["rgb"] - videos["flow"]),
        videos_flow_alone=len(videos["flow"] - videos["rgb"]),
        steps_rgb_alone=int((lacking["flow"] & items["video_id"].isin(both).to_numpy()).sum()),
    )


def choose_weight(validation: Aligned) -> tuple[float, float]:
    """The flow stream's weight among WEIGHTS with the lowest negative log-likelihood, and that value, in nats.

    Of equal ones (to nine digits) the nearest to 1/2 is taken, of two as near the lower. Items without a label are
    left out; a probability counts as at least half the last digit that the tables hold. DataError without an item.
    """
    labels = validation.labels
    kept = np.flatnonzero(labels != IGNORED)
    if len(kept) == 0:
        raise DataError("no labelled item on the validation side; give flow.weight as a number")
    rgb, flow = (probs[kept, labels[kept]] for probs in (validation.rgb, validation.flow))
    least = 0.5 * 10.0**-DIGITS
    loss = {weight: float(-np.log(np.maximum((1 - weight) * rgb + weight * flow, least)).mean()) for weight in WEIGHTS}
    best = min(WEIGHTS, key=lambda weight: (round(loss[weight], 9), round(abs(weight - 0.5), 9), weight))
    return best, loss[best]


def _check_columns(name: str, table: pd.DataFrame, classes: Sequence[str]) -> None:
    found = list(table.columns[list(table.columns).index("score") + 1 :]) if "score" in table.columns else []
    if found != list(classes):
        raise DataError(
            f"{name}: answers for the classes {', '.join(found) or 'none'}; expected {', '.join(classes)}. "
            "Run the stage `evaluate` of this stream again"
        )


def _keys(name: str, table: pd.DataFrame) -> pd.Index:
    """What names an item: its video, or its video and its time in microseconds."""
    keys: pd.Index = pd.Index(table["video_id"])
    if "time_seconds" in table.columns:
        micros = (table["time_seconds"].to_numpy(dtype=np.float64) * 1e6).round().astype(np.int64)
        keys = pd.MultiIndex.from_arrays([table["video_id"], micros])
    if keys.has_duplicates:
        twice = table["video_id"][keys.duplicated()]
        raise DataError(f"{name}: {_some(set(twice))} answered twice; expected one row for each video, or each time")
    return keys


def _check_steps(rgb: pd.Index, flow: pd.Index, both: set[str]) -> None:
    """Timesteps of the videos that both streams have: flow's must be RGB's but for the first ones."""
    times = {
        name: pd.Series(keys.get_level_values(1)).groupby(keys.get_level_values(0)).agg(set)
        for name, keys in (("rgb", rgb), ("flow", flow))
    }
    for video in sorted(both):
        wanted = {time for time in times["rgb"][video] if time >= min(times["flow"][video])}
        if times["flow"][video] != wanted:
            raise DataError(
                f"{video}: the flow stream has timesteps at other times than RGB; expected the same but for those of "
                "the first picture. Were both made with one view.fps?"
            )


def _check_labels(items: pd.DataFrame, flow: pd.DataFrame) -> None:
    for column in ("label", "group"):
        differ = items.loc[flow.index, column].to_numpy() != flow[column].to_numpy()
        if differ.any():
            raise DataError(
                f"{_some(set(flow['video_id'][differ]))}: the streams have another {column}; expected the same tables. "
                "Run the stage `evaluate` of both again"
            )


def _some(videos: set[str]) -> str:
    shown = sorted(videos)[:SHOWN]
    return ", ".join(shown) + (f" and {len(videos) - len(shown)} more" if len(videos) > len(shown) else "")
