"""The gate before an alias: what stops a promotion, what is only said, and the figures in each line."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.gate import Candidate, Holder, Line, MainScore, gate, going_back
from tests.mlflowruns import TAGS, rung, scores

MODEL = "a" * 64


def candidate(**changes: Any) -> Candidate:
    good = Candidate(
        name="clip-rgb-fold1-seed0",
        status="FINISHED",
        tags={**TAGS, "model.sha256": MODEL},
        metrics={},
        model_sha256=MODEL,
        classes=("sit", "stand"),
        scores=scores(),
    )
    return replace(good, **changes)


def tagged(**tags: str) -> Candidate:
    return candidate(tags={**candidate().tags, **tags})


def holder(score: float = 0.8, **on: str) -> Holder:
    tested = candidate().tested
    assert tested
    return Holder("3", "b" * 64, MainScore({**tested.on, **on}, score, score - 0.1, score + 0.1))


def failed(lines: list[Line]) -> list[str]:
    return [line.text for line in lines if line.holds is False]


def test_a_good_first_model_passes_and_every_figure_is_said() -> None:
    own = candidate(
        metrics={"probe/background_blurred": 0.1, "probe/background_replaced": 0.25, "probe/mirrored": 0.5},
        shortcut={"auc": 0.526, "auc_low": 0.499, "auc_high": 0.552, "limit": 0.65, "above_limit": False},
    )
    lines = gate(own, "champion", None, None)
    assert [(line.holds, line.text) for line in lines] == [
        (True, "the run is finished"),
        (True, "its model in MLflow is whole, and the one it trained (model.yaml aaaaaaaaaaaa)"),
        (True, "test: top1 0.900 [0.850, 0.950] on 160 videos, 10 groups of its fold"),
        (True, "audit: no leak between the sides of its split"),
        (None, "audit: file properties alone tell the classes with AUC 0.526 [0.499, 0.552] (limit 0.65)"),
        (True, "control `always the most frequent class`: +0.700 [0.600, 0.800] on its fold"),
        (True, "control `file properties alone (size, rate, light, ...)`: +0.600 [0.500, 0.700] on its fold"),
        (True, "control `single frames, averaged`: +0.300 [0.200, 0.400] on its fold"),
        (None, "probe: answers that flip: background blurred 10%, background replaced by another video's 25%"),
        (None, "nobody is champion yet"),
    ]


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (candidate(status="RUNNING"), "the run is running; expected finished"),
        (candidate(model_sha256=None), "the run has no model in MLflow"),
        (tagged(**{"model.sha256": "d" * 64}), "aaaaaaaaaaaa, but the run trained dddddddddddd"),
        (candidate(tags={k: v for k, v in TAGS.items()}), "does not say which model it trained"),
        (candidate(scores=None), "no test scores"),
        (tagged(**{"leaks.content": "2"}), r"leak (2 by content)"),
        (candidate(tags={"task": "clip", "model.sha256": MODEL}), "does not say whether its split leaks"),
        (candidate(scores=scores(majority=rung(0.1, 0.0, 0.2))), "most frequent class`: +0.100 [0.000, 0.200]"),
        (candidate(scores=scores(majority=rung(0.1, None, None))), "most frequent class`: +0.100 on its fold: not"),
        (candidate(scores=scores(file_properties=rung(0.3, -0.1, 0.5))), "not shown to be better"),
        (candidate(scores=scores(single_frame=rung(-0.1, -0.2, -0.01))), "the control is better"),
        (candidate(scores={**scores(), "controls": {"majority": rung(1, 1, 1), "single_frame": rung(1, 1, 1)}}),
         "file properties alone (size, rate, light, ...)`: not in metrics.json"),
    ],
)  # fmt: skip
def test_each_thing_that_must_hold_stops_alone(own: Candidate, reason: str) -> None:
    (found,) = failed(gate(own, "champion", None, None))
    assert reason in found


def test_all_reasons_are_said_at_once() -> None:
    own = candidate(status="FAILED", model_sha256=None, scores=scores(0.4, majority=rung(0, -1, 1)))
    assert len(failed(gate(own, "champion", holder(0.5), 0.6))) == 5


def test_a_published_split_may_leak_and_says_so() -> None:
    lines = gate(tagged(**{"leaks.pictures": "7", "split.published": "true"}), "champion", None, None)
    assert failed(lines) == []
    assert any("the published split leaks (7 by pictures)" in line.text for line in lines)


def test_a_single_frame_that_does_as_well_is_said_and_stops_nothing() -> None:
    """As on optical flow of the fight set: -0.011 [-0.036, 0.017] over all folds."""
    lines = gate(candidate(scores=scores(single_frame=rung(-0.011, -0.036, 0.017))), "champion", None, None)
    assert failed(lines) == []
    assert any("-0.011 [-0.036, 0.017] on its fold: as good as the model" in line.text for line in lines)


def test_controls_are_judged_over_all_folds_where_they_are_there() -> None:
    """As on the fight set: 9 groups of one fold show nothing, 44 of all folds do."""
    few = scores(majority=rung(0.515, -0.047, 0.823))
    own = candidate(scores=few, over_folds=scores(majority=rung(0.293, 0.14, 0.459)))
    lines = gate(own, "champion", None, None)
    assert failed(lines) == []
    assert any("+0.293 [0.140, 0.459] over all folds" in line.text for line in lines)
    assert any(line.text.startswith("test: top1 0.900") for line in lines)
    worse = candidate(over_folds=scores(majority=rung(0.1, -0.1, 0.3)))
    assert len(failed(gate(worse, "champion", None, None))) == 1


def test_a_shortcut_above_its_limit_is_said_and_stops_nothing() -> None:
    shortcut = {"auc": 0.8, "auc_low": None, "auc_high": None, "limit": 0.65, "above_limit": True}
    lines = gate(candidate(shortcut=shortcut), "champion", None, None)
    assert failed(lines) == []
    assert any("AUC 0.800 (ABOVE the limit 0.65)" in line.text for line in lines)


@pytest.mark.parametrize(("score", "stops"), [(0.8, False), (0.9, False), (0.901, True)])
def test_the_holder_on_the_same_videos_must_not_be_better(score: float, stops: bool) -> None:
    found = failed(gate(candidate(), "champion", holder(score), None))
    assert bool(found) == stops
    assert not stops or found == [
        "version 3, champion now, has 0.901 [0.801, 1.001]: on the same test videos the run is worse by 0.001"
    ]


@pytest.mark.parametrize("key", ["splits.sha256", "videos.sha256", "segments.sha256", "task", "fold", "classes"])
def test_a_holder_tested_on_other_videos_asks_for_a_floor(key: str) -> None:
    other = holder(0.99, **{key: "other"})
    (found,) = failed(gate(candidate(), "champion", other, None))
    assert f"tested on other videos ({key}), so the scores do not compare; give --min-score" in found
    assert failed(gate(candidate(), "champion", other, 0.9)) == []
    assert failed(gate(candidate(), "champion", other, 0.91)) == ["--min-score 0.91: the test score is 0.900"]


def test_a_holder_that_does_not_say_its_test_asks_for_a_floor() -> None:
    silent = Holder("1", None, None)
    (found,) = failed(gate(candidate(), "champion", silent, None))
    assert found == "version 1, champion now: it does not say what it was tested on, so the scores do not compare; " \
        "give --min-score"  # fmt: skip
    assert failed(gate(candidate(), "champion", silent, 0.5)) == []


def test_the_floor_holds_in_any_case() -> None:
    for who in (None, holder(0.1), replace(holder(0.1), model_sha256=MODEL)):
        assert failed(gate(candidate(), "champion", who, 0.95)) == ["--min-score 0.95: the test score is 0.900"]


def test_the_holder_itself_passes_again() -> None:
    lines = gate(candidate(), "champion", replace(holder(0.99), model_sha256=MODEL), None)
    assert failed(lines) == []
    assert lines[-1] == Line(None, "version 3, champion now, has 0.990 [0.890, 1.090]: the same model")


def test_the_frame_task_is_judged_by_its_accuracy() -> None:
    own = scores()
    frame = {"acc": 0.881, "acc_low": 0.847, "acc_high": 0.911, "num_videos": 20.0, "num_groups": 10}
    own["test"] = {"frame": frame}
    lines = gate(candidate(tags={**candidate().tags, "task": "frame"}, scores=own), "champion", None, None)
    assert lines[2].text == "test: acc 0.881 [0.847, 0.911] on 20 videos, 10 groups of its fold"
    assert any("file properties and the clock" in line.text for line in lines)


def test_going_back_asks_no_holder() -> None:
    tested = candidate().tested
    lines = going_back("2", "2026-11-21: champion, by A", tested, "champion", holder(0.99), None)
    assert failed(lines) == []
    assert lines[-1].text == "champion goes back from version 3, has 0.990 [0.890, 1.090]"
    assert len(failed(going_back("2", "then", tested, "champion", holder(0.99), 0.95))) == 1
    assert len(failed(going_back("2", "then", None, "champion", None, 0.1))) == 1
