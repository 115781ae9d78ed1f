"""Fusion of two streams by numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.evaluation.fusion import WEIGHTS, align, choose_weight

CLASSES = ("sit", "stand")


def clip(**sit: float) -> pd.DataFrame:
    """Answers of the clip task: the probability of `sit` by video; of videos named s... it is the truth."""
    rows = [
        {
            "video_id": name,
            "group": name[-1],
            "label": "sit" if name[0] == "s" else "stand",
            "predicted": "sit" if value >= 0.5 else "stand",
            "score": max(value, 1 - value),
            "sit": value,
            "stand": 1 - value,
        }
        for name, value in sit.items()
    ]
    return pd.DataFrame(rows)


def test_the_length_of_a_video_is_kept() -> None:
    rgb, flow = (clip(**sit) for sit in ({"s1": 0.8, "s2": 0.5}, {"s1": 0.2, "t3": 0.5}))
    for table, seconds in ((rgb, [2.0, 3.0]), (flow, [2.0, 4.0])):
        table.insert(2, "seconds", seconds)
    both = align(rgb, flow, CLASSES)
    assert list(both.table(both.rgb).columns[:4]) == ["video_id", "group", "seconds", "label"]
    assert list(both.items["seconds"]) == [2.0, 3.0, 4.0]


def frames(video: str, sit: dict[float, float], labels: str) -> pd.DataFrame:
    """Answers of the frame task: the probability of `sit` by time; labels: s, t (stand) or - (none) by step."""
    names = {"s": "sit", "t": "stand", "-": ""}
    rows = [
        {
            "video_id": video,
            "group": "g",
            "step": step,
            "time_seconds": time,
            "label": names[labels[step]],
            "predicted": "sit" if value >= 0.5 else "stand",
            "score": max(value, 1 - value),
            "sit": value,
            "stand": 1 - value,
        }
        for step, (time, value) in enumerate(sit.items())
    ]
    return pd.DataFrame(rows)


def test_the_mean_is_weighted() -> None:
    both = align(clip(s1=0.8, t2=0.5), clip(t2=0.2, s1=0.4), CLASSES)
    np.testing.assert_allclose(both.fused(0.25), [[0.7, 0.3], [0.425, 0.575]])
    np.testing.assert_allclose(both.fused(0.5), [[0.6, 0.4], [0.35, 0.65]])
    table = both.table(both.fused(0.25))
    assert list(table.columns) == ["video_id", "group", "label", "predicted", "score", "sit", "stand"]
    assert table.to_dict("list") == {
        "video_id": ["s1", "t2"], "group": ["1", "2"], "label": ["sit", "stand"], "predicted": ["sit", "stand"],
        "score": [0.7, 0.575], "sit": [0.7, 0.425], "stand": [0.3, 0.575],
    }  # fmt: skip
    sure = both.table(both.fused(0.25), before=both.fused(0.5), threshold=0.6)
    assert list(sure.columns) == [*table.columns[:4], "uncalibrated", "sure", *table.columns[4:]]
    assert sure[["uncalibrated", "sure"]].to_dict("list") == {"uncalibrated": [0.6, 0.65], "sure": [1, 0]}
    assert list(both.table(both.fused(0.25), before=both.fused(0.5))["sure"]) == [0, 0]  # nothing is, without one
    align(sure, sure, CLASSES)  # a table of answers may have these columns
    alone = both.controls()
    assert list(alone["control"]) == ["rgb", "rgb", "flow", "flow"]
    assert list(alone["sit"]) == [0.8, 0.5, 0.4, 0.2]


def test_a_video_of_one_stream_is_answered_by_it_alone_and_counted() -> None:
    both = align(clip(s1=0.8, s2=0.6, s3=0.9), clip(s2=0.2, t4=0.3), CLASSES)
    assert list(both.items["video_id"]) == ["s1", "s2", "s3", "t4"]
    np.testing.assert_allclose(both.fused(0.5)[:, 0], [0.8, 0.4, 0.9, 0.3])
    assert (both.videos_rgb_alone, both.videos_flow_alone, both.steps_rgb_alone) == (2, 1, 0)
    assert list(both.labels) == [0, 0, 0, 1]


def test_timesteps_meet_by_their_time() -> None:
    rgb = frames("v", {0.0: 0.9, 0.1: 0.8, 0.2: 0.4}, "ss-")
    flow = frames("v", {0.1: 0.2, 0.2: 0.6}, "s-")  # its step 0 is RGB's step 1
    both = align(rgb, flow, CLASSES)
    np.testing.assert_allclose(both.fused(0.5)[:, 0], [0.9, 0.5, 0.5])
    assert list(both.items["step"]) == [0, 1, 2]
    assert list(both.items["time_seconds"]) == [0.0, 0.1, 0.2]
    assert list(both.labels) == [0, 0, -100]
    assert (both.videos_rgb_alone, both.videos_flow_alone, both.steps_rgb_alone) == (0, 0, 1)


def test_recordings_stay_together_whatever_a_stream_lacks() -> None:
    rgb = pd.concat([frames("a", {0.0: 0.9, 0.1: 0.8}, "st"), frames("b", {0.0: 0.7}, "s")])
    flow = pd.concat([frames("c", {0.1: 0.6}, "t"), frames("a", {0.1: 0.4}, "t")])
    both = align(rgb, flow, CLASSES)
    assert list(both.items["video_id"]) == ["a", "a", "b", "c"]
    np.testing.assert_allclose(both.fused(0.25)[:, 0], [0.9, 0.7, 0.7, 0.6])
    assert (both.videos_rgb_alone, both.videos_flow_alone, both.steps_rgb_alone) == (1, 1, 1)
    assert len(both.table(both.rgb)) == 4


def test_the_weight_is_the_one_with_the_lowest_validation_loss() -> None:
    sure, unsure = clip(s1=0.9, s2=0.9), clip(s1=0.5, s2=0.5)
    weight, loss = choose_weight(align(sure, unsure, CLASSES))
    assert weight == 0.05
    assert loss == pytest.approx(-np.log(0.95 * 0.9 + 0.05 * 0.5))
    assert choose_weight(align(unsure, sure, CLASSES))[0] == 0.95
    # Each is right where the other is wrong, so that the mean says 1/2 twice.
    weight, loss = choose_weight(align(clip(s1=0.9, s2=0.1), clip(s1=0.1, s2=0.9), CLASSES))
    assert (weight, loss) == (0.5, pytest.approx(np.log(2)))
    # d/dw of log(0.9 - 0.8 w) + 2 log(0.1 + 0.8 w) is 0 at w = 17/24 = 0.708, and 0.7 is nearer than 0.75.
    three = align(clip(s1=0.9, s2=0.1, s3=0.1), clip(s1=0.1, s2=0.9, s3=0.9), CLASSES)
    assert choose_weight(three)[0] == 0.7


def test_of_equal_weights_the_nearest_to_one_half_is_taken() -> None:
    same = clip(s1=0.7, t2=0.6)
    assert choose_weight(align(same, same, CLASSES)) == (0.5, pytest.approx(-np.log([0.7, 0.4]).mean()))
    assert WEIGHTS[0] == 0.05
    assert WEIGHTS[-1] == 0.95
    assert len(WEIGHTS) == 19


def test_what_has_no_label_chooses_nothing() -> None:
    rgb = frames("v", {0.0: 0.5, 0.1: 0.9, 0.2: 0.0}, "ss-")
    flow = frames("v", {0.1: 0.5, 0.2: 1.0}, "s-")
    assert choose_weight(align(rgb, flow, CLASSES))[0] == 0.05
    with pytest.raises(DataError, match=r"no labelled item .*give flow\.weight as a number"):
        choose_weight(align(rgb[2:], flow[1:], CLASSES))


def test_a_probability_that_was_rounded_to_nothing_is_no_infinite_loss() -> None:
    weight, loss = choose_weight(align(clip(s1=0.0), clip(s1=0.0), CLASSES))
    assert (weight, loss) == (0.5, pytest.approx(-np.log(0.5e-6)))


def test_other_sides_folds_and_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"rgb \(s1\) and flow \(s2\) have no video in common"):
        align(clip(s1=0.5), clip(s2=0.5), CLASSES)
    with pytest.raises(DataError, match="flow: answers for the classes sit, walk; expected sit, stand"):
        align(clip(s1=0.5), clip(s1=0.5).rename(columns={"stand": "walk"}), CLASSES)
    with pytest.raises(DataError, match="rgb: answers for the classes sit, stand; expected sit, stand, walk"):
        align(clip(s1=0.5), clip(s1=0.5), (*CLASSES, "walk"))
    with pytest.raises(DataError, match="expected one task"):
        align(clip(s1=0.5), frames("s1", {0.0: 0.5}, "s"), CLASSES)


def test_other_labels_and_groups_are_refused() -> None:
    with pytest.raises(DataError, match="s1: the streams have another label"):
        align(clip(s1=0.5, s2=0.5), clip(s1=0.5).assign(label="stand"), CLASSES)
    with pytest.raises(DataError, match="s2: the streams have another group"):
        align(clip(s1=0.5, s2=0.5), clip(s2=0.5).assign(group="x"), CLASSES)


def test_an_item_twice_is_refused() -> None:
    twice = pd.concat([clip(s1=0.5), clip(s1=0.6)])
    with pytest.raises(DataError, match="flow: s1 answered twice"):
        align(clip(s1=0.5), twice, CLASSES)


@pytest.mark.parametrize("times", [(0.0, 0.2), (0.1, 0.2, 0.3), (0.15,), (0.1,)])
def test_other_times_than_rgbs_are_refused(times: tuple[float, ...]) -> None:
    rgb = frames("v", {0.0: 0.5, 0.1: 0.5, 0.2: 0.5}, "sss")
    with pytest.raises(DataError, match=r"v: the flow stream has timesteps at other times than RGB; .*view\.fps"):
        align(rgb, frames("v", dict.fromkeys(times, 0.5), "sss"), CLASSES)
