import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.evaluation.flips import Shown, flip_row, flip_scores
from pipeline.evaluation.intervals import bootstrap_interval

CLASSES = ("a", "b", "c")
SURE = {0: [0.8, 0.1, 0.1], 1: [0.1, 0.8, 0.1], 2: [0.1, 0.1, 0.8]}


def shown(before: list[int], after: list[int], labels: list[int], *, group: str = "g", change: str = "x") -> Shown:
    probs = (np.array([SURE[answer] for answer in answers], np.float32) for answers in (before, after))
    return Shown(f"{group}.mp4", group, change, np.array(labels), *probs)


def test_flips_and_score_changes_of_known_answers():
    answers = [shown([0], [1], [0], group="g"), shown([1], [1], [0], group="h"), shown([2], [2], [2], group="g")]
    scores = flip_scores([*answers, shown([0], [0], [0], change="y")], CLASSES, samples=50, seed=0)
    assert list(scores) == ["x", "y"]
    found = scores["x"]
    assert (found["num_videos"], found["num_items"]) == (3, 3)
    assert found["flip_rate"] == pytest.approx(1 / 3)
    assert found["score_change"] == pytest.approx(-0.7 / 3)
    assert list(found["per_class"]) == ["a", "c"]  # of b there is none
    assert found["per_class"]["a"] == {"flip_rate": 0.5, "score_change": pytest.approx(-0.35), "num": 2}
    assert (found["low"], found["high"]) == (0.0, 0.5)  # of g alone half, of h alone nothing
    assert (scores["y"]["flip_rate"], scores["y"]["score_change"]) == (0.0, 0.0)
    assert np.isnan(scores["y"]["low"])  # a single group


def test_timesteps_weigh_the_same_and_those_without_a_label_belong_to_no_class():
    scores = flip_scores(
        [shown([0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, -100]), shown([2, 2], [0, 0], [2, 2], group="h")],
        CLASSES, samples=10, seed=0,
    )  # fmt: skip
    assert scores["x"]["flip_rate"] == pytest.approx(3 / 6)
    assert {name: one["num"] for name, one in scores["x"]["per_class"].items()} == {"a": 2, "b": 1, "c": 2}
    assert {name: one["flip_rate"] for name, one in scores["x"]["per_class"].items()} == {"a": 0.5, "b": 0, "c": 1}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
def test_scores_equal_their_definitions(seed, num_videos, num_steps):
    rng = np.random.default_rng(seed)
    videos = [
        Shown(
            f"v{number}", f"g{rng.integers(3)}", "x", rng.integers(-1, 3, num_steps),
            rng.dirichlet(np.ones(3), num_steps), rng.dirichlet(np.ones(3), num_steps),
        )
        for number in range(num_videos)
    ]  # fmt: skip
    rows = [
        (video.group, label, max(range(3), key=lambda k: one[k]) != max(range(3), key=lambda k: other[k]),
         other[max(range(3), key=lambda k: one[k])] - max(one))
        for video in videos
        for label, one, other in zip(video.labels, video.before.tolist(), video.after.tolist(), strict=True)
    ]  # fmt: skip
    found = flip_scores(videos, CLASSES, samples=20, seed=seed)["x"]
    flips = np.array([flip for _, _, flip, _ in rows])
    assert found["flip_rate"] == pytest.approx(flips.mean(), abs=1e-9)
    assert found["score_change"] == pytest.approx(np.mean([change for *_, change in rows]), abs=1e-9)
    for number, name in enumerate(CLASSES):
        own = [(flip, change) for _, label, flip, change in rows if label == number]
        assert (name in found["per_class"]) == bool(own)
        if own:
            expected = {"flip_rate": np.mean([f for f, _ in own]), "score_change": np.mean([c for _, c in own])}
            assert found["per_class"][name] == pytest.approx({**expected, "num": len(own)}, abs=1e-9)
    groups = [group for group, *_ in rows]
    interval = bootstrap_interval(lambda drawn: flips[drawn].mean(), groups, samples=20, seed=seed)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), abs=1e-9, nan_ok=True)


def test_a_row_of_the_table():
    assert flip_row(shown([0], [1], [2]), CLASSES) == {
        "video_id": "g.mp4", "group": "g", "change": "x", "label": "c", "predicted": "a", "score": 0.8,
        "predicted_after": "b", "score_after": 0.8, "flip_rate": 1.0, "score_change": -0.7, "num_items": 1,
    }  # fmt: skip
    steps = flip_row(shown([0, 0, 1], [1, 1, 1], [0, 0, 0]), CLASSES)
    assert (steps["label"], steps["predicted"], steps["predicted_after"]) == ("", "a", "b")
    assert (steps["flip_rate"], steps["num_items"]) == (0.666667, 3)


def test_answers_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match=r"v, x: answers of shape \(2, 3\) before and \(1, 3\) after for 2 labels"):
        Shown("v", "g", "x", np.zeros(2), np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(DataError, match=r"expected \(N, K\) twice, and N labels"):
        Shown("v", "g", "x", np.zeros(1), np.zeros((2, 3)), np.zeros((2, 3)))
