"""Figures: what is drawn where, and SVG that is the same every time and reads on any ground."""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from pipeline.reporting.figures import evaluation_figures, timelines
from pipeline.reporting.numbers import interval_text
from pipeline.reporting.scorefigures import (
    calibration_figure,
    confusion_figure,
    coverage_figure,
    detection_figure,
    ladder_figure,
    per_class_figure,
)
from pipeline.reporting.svg import ALONE, BLUE, INK, class_colors, to_svg
from pipeline.reporting.timefigures import (
    gradient_figure,
    history_figure,
    over_time_figure,
    timeline_figure,
    training_figures,
)

HISTORY = pd.DataFrame(
    {
        "epoch": [1.0, 2.0, 3.0],
        "train_loss": [1.0, 0.6, 0.3],
        "val_loss": [1.1, 0.7, 0.9],
        "val_score": [0.4, 0.6, 0.7],
        "lr": [0.1, 0.05, 0.0],
        "grad_norm": [3.0, 2.0, 1.0],
    }
)
CONTROL = {"low": 0.4, "high": 0.55, "difference": 0.47, "difference_low": 0.3, "difference_high": 0.5}
METRICS = {
    "test": {"video": {"top1": 0.95, "top1_low": 0.92, "top1_high": 0.97}},
    "controls": {"single_frame": {"top1": 0.48, **CONTROL}, "reversed": {"top1": 0.03, **CONTROL}},
}
PER_CLASS = [
    {"class": "walk", "support": 7, "predicted": 8, "recall": 0.5, "precision": 0.6, "f1": 0.55},
    {"class": "run", "support": 9, "predicted": 0, "recall": 0.9, "precision": float("nan"), "f1": 0.9},
]
RELIABILITY = [
    {"low": 0.0, "high": 0.5, "count": 0, "mean_confidence": float("nan"), "accuracy": float("nan")},
    {"low": 0.5, "high": 1.0, "count": 4, "mean_confidence": 0.8, "accuracy": 0.75},
]
SCORE, RIGHT = np.array([0.9, 0.5, 0.8, 0.7, 0.5]), np.array([True, False, True, False, True])
CURVE = pd.DataFrame(
    {
        "class": "fall",
        "threshold": [1.0, 0.5, 0.0],
        "recall": [0.0, 0.5, 1.0],
        "false_alarms_per_hour": [0.0, 2.0, 40.0],
    }
)


def timeline() -> Figure:
    return timeline_figure(
        [("a.mp4", np.array([0.0, 0.5]), ["idle", "run"], ["idle", "idle"], ["idle", "run"])], "idle"
    )


FIGURES = {
    "history": lambda: history_figure(HISTORY),
    "confusion": lambda: confusion_figure(np.array([[3, 1], [0, 2]]), ["run", "walk"]),
    "ladder": lambda: ladder_figure(METRICS),
    "timeline": timeline,
    "calibration": lambda: calibration_figure(RELIABILITY, RELIABILITY),
    "coverage": lambda: coverage_figure(SCORE, RIGHT, SCORE > 0.6, 0.9),
    "detection": lambda: detection_figure(CURVE, 1.0),
    "per_class": lambda: per_class_figure(PER_CLASS),
}


def texts(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(to_svg(figure))
    return [text for element in root.iter() if element.tag.endswith("text") and (text := "".join(element.itertext()))]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_the_same_every_time_and_takes_the_colour_of_the_page(name: str) -> None:
    svg = to_svg(FIGURES[name](), f"a {name} & <more>")
    assert svg == to_svg(FIGURES[name](), f"a {name} & <more>")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == f"a {name} & <more>"
    assert "currentColor" in svg
    assert INK not in svg.replace(ALONE, "")
    assert svg.count("DejaVu") == ALONE.count("DejaVu")
    assert svg.count("<style") == 1
    assert "svg:root {" in ALONE  # anything else would style the whole page
    assert not re.findall(r"=\"[^\"]*\d\.\d{3,}", svg)
    assert svg.count("http://") + svg.count("https://") == 2  # the two namespaces
    assert root.findall(".//{http://www.w3.org/2000/svg}text"), "text must stay text"


def test_a_figure_drawn_twice_stays_the_same() -> None:
    figure = FIGURES["ladder"]()
    assert to_svg(figure) == to_svg(figure)


@pytest.mark.parametrize("name", ["$x_1$", "走る", "a & b <c>", "naïve\\frac"])
def test_class_names_are_shown_as_they_are(name: str) -> None:
    assert name in texts(confusion_figure(np.eye(2, dtype=int), [name, "other"]))


def test_a_cell_shows_its_count_and_its_share_of_the_true_class() -> None:
    axes = confusion_figure(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["a", "b", "c"]).axes[0]
    cells = {
        (round(x), round(y)): round(float(color[3]), 4)
        for color, (x, y) in zip(
            axes.collections[0].get_facecolor(),
            [path.vertices[:4].mean(axis=0) for path in axes.collections[0].get_paths()],
            strict=True,
        )
    }
    assert cells == {(0, 0): 0.7325, (1, 0): 0.2975, (1, 1): 0.95}  # (column, row): 0.08 + 0.87 x share
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0.0, 0.0), "3"),
        ((1.0, 0.0), "1"),
        ((1.0, 1.0), "2"),
    }


def test_a_hundred_classes_fit() -> None:
    classes = [f"PlayingInstrument{number}" for number in range(101)]
    figure = confusion_figure(np.eye(101, dtype=int) * 30, classes)
    assert max(figure.get_size_inches()) < 12
    assert 4 <= figure.axes[0].get_yticklabels()[0].get_fontsize() < 6
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == classes
    assert confusion_figure(np.eye(2, dtype=int), ["a", "b"]).axes[0].get_yticklabels()[0].get_fontsize() == 9


def test_the_ladder_shows_scores_with_intervals_and_differences() -> None:
    shown = texts(ladder_figure(METRICS))
    for text in (
        "the model",
        "single frames, averaged",
        "the model, frames backwards",
        "top-1 accuracy on the test videos",
    ):
        assert text in shown
    assert "0.95 [0.92, 0.97]" in shown
    assert "0.48 [0.40, 0.55]" in shown
    assert "+0.47 [+0.30, +0.50]" in shown


def test_the_ladder_takes_frame_scores_and_scores_without_intervals() -> None:
    nan = float("nan")
    metrics = {
        "test": {"frame": {"acc": 0.8, "acc_low": nan, "acc_high": nan}},
        "controls": {"my_control": {"acc": 0.5, "low": None, "high": None, "difference": 0.3}},
    }
    shown = texts(ladder_figure(metrics))
    assert not any(line.get_clip_on() for line in ladder_figure(metrics).axes[0].lines)  # a dot at 1 is a whole dot
    for text in ("frame accuracy", "my control", "0.80", "0.50", "+0.30"):
        assert text in shown


def bars(axes: Any) -> list[tuple[float, float, float, tuple[float, ...]]]:
    """(start, end, middle height, colour) of every bar."""
    found = []
    for collection in axes.collections:
        for path in collection.get_paths():
            (left, low), (right, high) = path.vertices.min(axis=0), path.vertices.max(axis=0)
            color = tuple(float(part) for part in collection.get_facecolor()[0])
            found.append((float(left), float(right), round(float(low + high) / 2, 6), color))
    return found


def test_runs_of_a_label_become_bars_that_last_until_the_next_timestep() -> None:
    times = np.array([0.0, 0.5, 1.0, 2.0])
    truth, predicted = ["run", "run", "", "walk"], ["run", "walk", "walk", "walk"]
    figure = timeline_figure([("a.mp4", times, truth, predicted, ["idle", "run", "walk"])], "idle")
    run, walk, red = to_rgba(BLUE), to_rgba("#d9822b"), to_rgba("#cf4446")
    assert sorted(bars(figure.axes[0])) == sorted(
        [
            (0.0, 1.0, 1.0, run),  # truth; from 1.0 to 2.0 nobody knows
            (2.0, 2.5, 1.0, walk),  # the last timestep lasts as long as the median
            (0.0, 0.5, 0.0, run),  # predicted
            (0.5, 2.5, 0.0, walk),
            (0.5, 1.0, -0.52, red),  # wrong where the truth is known
        ]
    )
    assert {"truth", "predicted", "seconds", "run", "walk", "a.mp4"} <= set(texts(figure))
    assert "idle" not in texts(figure)  # the legend has what occurs


def test_a_timeline_of_one_timestep_and_a_name_that_is_no_text() -> None:
    figure = timeline_figure([("caf\udce9.mp4", np.array([0.0]), ["a"], ["a"], ["a"])])
    assert bars(figure.axes[0])[0][:2] == (0.0, 1.0)
    assert "caf?.mp4" in texts(figure)


def test_classes_have_colours_of_their_own() -> None:
    names = [f"class {number}" for number in range(101)]
    colors = class_colors(names, "class 0")
    assert list(colors) == [*names[1:], "class 0"]
    assert len({to_rgba(color) for color in colors.values()}) == 101
    assert to_rgba(colors["class 0"])[3] < 0.5
    assert class_colors(["a"], "none of these") == {"a": BLUE}


def test_the_ring_is_at_the_lowest_validation_loss() -> None:
    figure = history_figure(HISTORY.astype(str))  # as read from the CSV file
    loss, score = figure.axes[:2]
    assert (list(loss.lines[-1].get_xdata()), list(loss.lines[-1].get_ydata())) == ([2.0], [0.7])
    assert list(score.lines[-1].get_ydata()) == [0.6]
    assert "epoch (kept: 2, 0.600)" in texts(figure)


def test_a_history_without_validation_has_no_ring() -> None:
    figure = history_figure(HISTORY.assign(val_loss=float("nan"), val_score=float("nan")))
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 1, 1]


def test_bins_without_videos_have_no_bar() -> None:
    above, below = calibration_figure(None, RELIABILITY).axes
    (bar,) = above.patches
    assert (bar.get_x(), bar.get_height()) == (0.5, 0.75)
    assert below.patches[0].get_height() == 4


def test_confidence_is_shown_before_and_after_calibration() -> None:
    figure = calibration_figure([{**RELIABILITY[1], "accuracy": 0.25}], RELIABILITY)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["before calibration", "after calibration"]
    assert [axes.patches[0].get_height() for axes in figure.axes[:2]] == [0.25, 0.75]


def test_the_surest_answers_come_first_and_equally_sure_ones_together() -> None:
    (axes,) = coverage_figure(SCORE, RIGHT, SCORE > 0.6, 0.9).axes
    curve, wanted, ring = axes.lines
    # 0.9 right, 0.8 right, 0.7 wrong, and two of 0.5 of which one is right.
    assert curve.get_xdata().tolist() == pytest.approx([0.2, 0.4, 0.6, 1.0])
    assert curve.get_ydata().tolist() == pytest.approx([1.0, 1.0, 2 / 3, 3 / 5])
    assert wanted.get_ydata()[0] == 0.9
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == pytest.approx((0.6, 2 / 3))
    (alone,) = coverage_figure(SCORE, RIGHT, SCORE > 1).axes
    assert len(alone.lines) == 1  # no answer is sure: there is no threshold to mark


def test_many_answers_are_drawn_with_few_points() -> None:
    count = 50_000
    (axes,) = coverage_figure(np.linspace(0, 1, count), np.ones(count, bool), np.zeros(count, bool)).axes
    assert 900 < len(axes.lines[0].get_xdata()) < 1100
    assert axes.lines[0].get_xdata()[-1] == 1


def test_recall_stands_over_false_alarms_and_the_allowed_rate_is_marked() -> None:
    (axes,) = detection_figure(CURVE, 1.0).axes
    curve, allowed = axes.lines
    assert curve.get_xdata().tolist() == [0.0, 2.0, 40.0]
    assert curve.get_ydata().tolist() == [0.0, 0.5, 1.0]
    assert allowed.get_xdata()[0] == 1.0


def test_every_alarm_class_has_a_curve() -> None:
    many = pd.concat([CURVE.assign(**{"class": f"class {number}"}) for number in range(12)])
    (axes,) = detection_figure(many).axes
    assert [line.get_label() for line in axes.lines] == [f"class {number}" for number in range(12)]


def test_classes_stand_in_order_of_f1_also_where_precision_is_not_defined() -> None:
    (axes,) = per_class_figure(pd.DataFrame(PER_CLASS).astype(str)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["run", "walk"]
    assert [text.get_text() for text in axes.texts] == ["9", "7", "n"]
    assert len(per_class_figure([{**PER_CLASS[0], "class": str(number)} for number in range(101)]).axes) == 3


@pytest.mark.parametrize(
    ("values", "sign", "text"),
    [
        ((0.954, 0.92, 0.97), False, "0.95 [0.92, 0.97]"),
        ((-0.02, -0.1, 0.06), True, "−0.02 [−0.10, +0.06]"),
        ((0.5, None, 0.6), False, "0.50"),
        ((0.5, float("nan"), 0.6), False, "0.50"),
        ((None,), False, "–"),
        ((float("nan"),), False, "–"),
    ],
)
def test_scores_in_words(values: tuple[float | None, ...], sign: bool, text: str) -> None:
    assert interval_text(*values, sign=sign) == text


def test_gradients_stand_at_their_distance_and_zeros_are_left_out() -> None:
    (axes,) = gradient_figure({"before": np.array([1.0, 0.1, 0.0]), "after": np.array([2.0, 1.0, 0.5])}).axes
    before, after = axes.lines
    assert before.get_xdata().tolist() == [0, 1, 2]
    assert before.get_ydata()[:2].tolist() == [1.0, 0.1]
    assert np.isnan(before.get_ydata()[2])
    assert after.get_ydata().tolist() == [2.0, 1.0, 0.5]
    assert axes.get_yscale() == "log"


def test_certainty_over_time_has_a_panel_for_each_video() -> None:
    row = {"label": "sit", "predicted": "NA", "label_probability": 0.2, "predicted_probability": 0.7, "weight": 0.5}
    rows = [{"video_id": f"v{n}", "time_seconds": step / 8, **row} for n in range(5) for step in range(2)]
    rows[0]["label_probability"] = ""  # a step without a label
    figure = over_time_figure(pd.DataFrame(rows))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 5
    assert shown[0].get_title(loc="left") == "sit → NA"
    truth, answer = shown[1].lines
    assert truth.get_ydata().tolist() == [0.2, 0.2]
    assert answer.get_ydata().tolist() == [0.7, 0.7]
    assert np.isnan(shown[0].lines[0].get_ydata()[0])


def predictions(time: bool = False) -> pd.DataFrame:
    """Two videos, or two recordings of two timesteps: the first right and the second wrong."""
    table = pd.DataFrame({"video_id": ["a", "b"], "label": ["run", "walk"], "predicted": "run", "score": [0.9, 0.6]})
    if time:
        table = pd.concat([table.assign(time_seconds=0.0), table.assign(time_seconds=0.5)], ignore_index=True)
    return table


@pytest.mark.slow
def test_an_evaluation_has_the_figures_that_its_tables_give() -> None:
    always = {"ladder", "confusion", "per_class", "calibration", "coverage"}
    per_class = pd.DataFrame(PER_CLASS)
    matrix = np.array([[1, 0], [1, 0]])
    assert set(evaluation_figures("x", METRICS, predictions(), per_class, matrix)) == always
    shown = evaluation_figures(
        "x", METRICS, predictions(time=True), per_class, matrix, background="walk", detection=CURVE,
        over_time=over_time(2),
    )  # fmt: skip
    assert set(shown) == always | {"timeline", "detection", "over_time"}
    assert all('aria-label="x: ' in svg for svg in shown.values())
    assert "before calibration" not in shown["calibration"]
    answered = predictions().assign(uncalibrated=[0.95, 0.8], sure=[1, 0])
    told = {**METRICS, "calibration": {"wanted_precision": 0.9}}
    both = evaluation_figures("x", told, answered, per_class, matrix, detection=CURVE[:0])
    assert "before calibration" in both["calibration"]
    assert "at the threshold" in both["coverage"]
    assert set(both) == always  # a card without alarms has a table of no rows


def test_a_training_has_curves_and_gradients() -> None:
    shown = training_figures("x", HISTORY, {"before": np.ones(3)})
    assert set(shown) == {"curves", "gradients"}
    assert not [text for svg in shown.values() for text in svg.split(">") if "mathdefault" in text]


def test_timelines_go_from_the_worst_to_the_best() -> None:
    rows = [
        {"video_id": f"r{video}.mp4", "time_seconds": str(step / 10), "label": "" if step == 9 else "walk",
         "predicted": "idle" if step < video else "walk"}
        for video in range(8) for step in range(10)
    ]  # fmt: skip
    found = timelines(pd.DataFrame(rows), ["idle", "walk"])
    assert [video[0].split()[0] for video in found] == [f"r{number}.mp4" for number in (7, 6, 4, 3, 1, 0)]
    assert found[0][0].endswith("0.22")


def over_time(count: int, **more: Any) -> pd.DataFrame:
    row = {"label": "sit", "predicted": "NA", "label_probability": 0.2, "predicted_probability": 0.7, "weight": 0.5}
    steps = [{"video_id": f"v{n}", "time_seconds": step / 8, **row, **more} for n in range(count) for step in range(2)]
    return pd.DataFrame(steps)


def test_recordings_have_their_names_and_no_weights_over_time() -> None:
    # Also where a model gives the same answer throughout.
    axes = over_time_figure(over_time(6), recordings=True).axes
    assert [one.get_title(loc="left") for one in axes] == ["v0", "v1", "v2", "v3"]
    assert not axes[0].collections
    assert over_time_figure(over_time(1)).axes[0].collections
