"""Figures of scores: what they are worth, where they are right, and how far their confidence goes.

Every function returns a `matplotlib.figure.Figure` and touches no global state of pyplot.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.reporting.numbers import defined, interval_text
from pipeline.reporting.svg import BLUE, DEEP_BLUE, GREY, INK, ORANGE, RED, WIDTH, class_colors, style
from pipeline.reporting.words import control_name

MAX_POINTS = 1000


def ladder_figure(metrics: Mapping[str, Any]) -> Figure:
    """The model and its controls with their intervals, from a `metrics.json` of either task."""
    is_clip = "video" in metrics["test"]
    scores = metrics["test"]["video" if is_clip else "frame"]
    key, title = ("top1", "top-1 accuracy on the test videos") if is_clip else ("acc", "frame accuracy")
    rows: list[tuple[str, Any, Any, Any, Any, str]] = [
        ("the model", scores[key], scores.get(f"{key}_low"), scores.get(f"{key}_high"), None, BLUE)
    ]
    for name, control in metrics["controls"].items():
        color = ORANGE if name in ("shuffled", "reversed") else GREY
        label = control_name(name, "clip" if is_clip else "frame")
        rows.append((label, control[key], control.get("low"), control.get("high"), control, color))
    with style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.3 * len(rows)), layout="constrained")
        axes, numbers = figure.subplots(1, 2, sharey=True, width_ratios=[1, 0.72])
        if defined(*rows[0][2:4]):
            axes.axvspan(rows[0][2], rows[0][3], color=BLUE, alpha=0.13, linewidth=0)
        for y, (_, score, low, high, control, color) in enumerate(rows):
            if defined(low, high):
                axes.plot([low, high], [y, y], color=color, linewidth=2.2, solid_capstyle="round", clip_on=False)
            if defined(score):
                axes.plot([score], [y], marker="o", markersize=6.5, color=color, clip_on=False)
            weight = "bold" if control is None else "normal"
            numbers.text(0.02, y, interval_text(score, low, high), va="center", weight=weight, fontsize=8.5)
            if control is not None:
                bounds = control.get("difference_low"), control.get("difference_high")
                gain = interval_text(control.get("difference"), *bounds, sign=True)
                numbers.text(0.46, y, gain, va="center", fontsize=8.5)
        for x, head in ((0.02, title.split(" on ")[0]), (0.46, "model minus control")):
            numbers.text(x, -0.95, head, va="center", fontsize=8.5, color=GREY)
        numbers.set(xlim=(0, 1))
        numbers.set_axis_off()
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel=title)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    return figure


def confusion_figure(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion counts (K, K), rows the truth; a cell's colour is its share of the row."""
    counts = np.asarray(matrix, dtype=np.int64)
    num_classes = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = min(0.62, max(3.0, min(8.0, 0.45 * num_classes)) / num_classes)  # inches
    font = float(np.clip(cell * 72 * 0.6, 4.5, 9))
    margin = 0.4 + max(len(name) for name in classes) * font / 72 * 0.62
    side = cell * num_classes
    with style():
        figure = Figure(figsize=(side + margin, side + margin), layout="constrained")
        axes = figure.subplots()
        rows, columns = np.nonzero(counts)
        corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
        squares = np.stack([columns, rows], axis=1)[:, None, :] + corners  # (cells, 4, 2)
        # Transparency instead of a scale that ends in white or black: the page's ground shows through.
        colors = [
            to_rgba(DEEP_BLUE, 0.08 + 0.87 * shares[row, column]) for row, column in zip(rows, columns, strict=True)
        ]
        axes.add_collection(PolyCollection(list(squares), facecolors=colors))
        for row, column in zip(rows, columns, strict=True):
            text, color = f"{counts[row, column]}", "white" if shares[row, column] > 0.75 else INK
            size = min(9.0, cell * 72 * 0.8 / max(len(text), 2) / 0.64)
            axes.text(float(column), float(row), text, ha="center", va="center", fontsize=size, color=color)
        axes.set(xlim=(-0.5, num_classes - 0.5), ylim=(num_classes - 0.5, -0.5), aspect="equal")
        upright = num_classes > 8 or max(len(name) for name in classes) * font * 0.6 > cell * 72
        axes.set_xticks(range(num_classes), classes, fontsize=font, rotation=90 if upright else 0)
        axes.set_yticks(range(num_classes), classes, fontsize=font)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", linewidth=0.4)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")
    return figure


def per_class_figure(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Figure:
    """Recall (filled) and precision (ring) of each class, best F1 first; rows of `per_class.csv`."""
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    numbers = table[["recall", "precision", "f1", "support"]].apply(pd.to_numeric, errors="coerce")
    table = numbers.assign(name=table["class"]).sort_values("f1", ascending=False, kind="stable", na_position="last")
    columns = -(-len(table) // 34)
    length = -(-len(table) // columns)
    with style():
        figure = Figure(figsize=(WIDTH if columns > 1 else 7.0, 0.8 + 0.22 * length), layout="constrained")
        for index, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
            part = table.iloc[index * length : (index + 1) * length]
            places = np.arange(len(part))
            axes.hlines(places, part["precision"], part["recall"], color=GREY, alpha=0.6, linewidth=1)
            axes.plot(part["recall"], places, "o", color=BLUE, markersize=5, label="recall")
            ring = axes.plot(part["precision"], places, "o", color=ORANGE, markersize=6, label="precision")[0]
            ring.set_markerfacecolor("none")
            for place, support in zip(places, part["support"], strict=True):
                axes.text(1.04, place, f"{support:.0f}", va="center", fontsize=7.5, color=GREY)
            axes.text(1.04, -1, "n", va="center", fontsize=7.5, color=GREY)
            axes.set_yticks(places, list(part["name"]), fontsize=8.5 if columns == 1 else 7.5)
            axes.set(xlim=(-0.02, 1.02), ylim=(length - 0.4, -0.6))
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, handlelength=1)
    return figure


def calibration_figure(before: Sequence[Mapping[str, float]] | None, after: Sequence[Mapping[str, float]]) -> Figure:
    """Confidence against accuracy, before and after the temperature; rows of `evaluation.clip_metrics.reliability`.

    Below the line a model is surer than it is right. Under it, how many answers each bar stands for. before: None where
    it is not known.
    """
    sides = [("before calibration", before, GREY), ("after calibration", after, BLUE)]
    known = [(title, rows, color) for title, rows, color in sides if rows is not None]
    with style():
        figure = Figure(figsize=(2.75 * len(known) + 0.4, 3.6), layout="constrained")
        panels = figure.subplots(2, len(known), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
        for (title, rows, color), above, below in zip(known, *panels, strict=True):
            filled = [row for row in rows if row["count"]]
            for axes, key, alpha in ((above, "accuracy", 0.75), (below, "count", 0.45)):
                axes.bar(
                    [row["low"] for row in filled],
                    [row[key] for row in filled],
                    width=[(row["high"] - row["low"]) * 0.94 for row in filled],
                    align="edge",
                    color=color,
                    alpha=alpha,
                )
                axes.grid(axis="y")
            above.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            confidence, accuracy = ([row[key] for row in filled] for key in ("mean_confidence", "accuracy"))
            above.plot(confidence, accuracy, marker="o", markersize=3.5, linestyle="none", color=INK)
            above.set(xlim=(0, 1), ylim=(0, 1.02), title=title if len(known) > 1 else "")
            below.set(xlabel="confidence", xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0", "", "0.5", "", "1"])
            below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        panels[0, 0].set_ylabel("accuracy")
        panels[1, 0].set_ylabel("count")
    return figure


def coverage_figure(score: np.ndarray, right: np.ndarray, sure: np.ndarray, wanted: float | None = None) -> Figure:
    """Precision of the answers given against the share of videos answered, the surest answers first.

    score, right: (N,) confidence, and whether the answer is right. sure: (N,) whether the model gives the answer, and
    does not say "unsure"; a ring marks the precision and the share of those. wanted: the precision asked for, a dashed
    line.
    """
    order = np.argsort(-score, kind="stable")
    given = np.arange(1, len(order) + 1)
    precision = np.cumsum(right[order]) / given
    last = np.append(score[order][1:] != score[order][:-1], True)  # equal scores are answered together
    last[:-1] &= np.arange(len(order) - 1) % max(1, len(order) // MAX_POINTS) == 0  # hundreds of thousands of frames
    with style():
        figure = Figure(figsize=(3.7, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(given[last] / len(order), precision[last], color=BLUE, drawstyle="steps-post", linewidth=1.4)
        if defined(wanted):
            axes.axhline(float(wanted or 0), color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="wanted")
        if sure.any():
            axes.plot(
                [sure.mean()], [right[sure].mean()], "o", color=ORANGE, markersize=8, markerfacecolor="none",
                markeredgewidth=1.6, linestyle="none", label="at the threshold",
            )  # fmt: skip
        lowest = float(precision[last].min()) if len(precision) else 0.0
        axes.set(xlim=(0, 1.02), ylim=(min(0.9, lowest) - 0.05, 1.004), xlabel="share answered (coverage)")
        axes.set_ylabel("precision of the answers")
        axes.grid()
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower left", handlelength=1.4)
    return figure


def detection_figure(curves: pd.DataFrame, wanted_per_hour: float | None = None) -> Figure:
    """Recall of alarm-like classes over their false alarms per hour.

    curves: columns class, recall, false_alarms_per_hour. wanted_per_hour: the rate at which recall is read off.
    """
    with style():
        figure = Figure(figsize=(6.0, 3.4), layout="constrained")
        axes = figure.subplots()
        colors = class_colors(list(dict.fromkeys(curves["class"])))
        for name, rows in curves.groupby("class", sort=False):
            points = rows[["false_alarms_per_hour", "recall"]].apply(pd.to_numeric, errors="coerce").dropna()
            points = points.sort_values(["false_alarms_per_hour", "recall"])
            rates, recall = points["false_alarms_per_hour"], points["recall"].cummax()
            axes.plot(rates, recall, color=colors[str(name)], drawstyle="steps-post", label=str(name))
        if defined(wanted_per_hour):
            axes.axvline(float(wanted_per_hour or 0), color=RED, linewidth=0.9, linestyle=(0, (4, 3)), label="allowed")
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # the default one is TeX
        axes.set_xlim(left=0)
        axes.set(ylim=(-0.02, 1.02), xlabel="false alarms per hour", ylabel="recall")
        axes.grid()
        axes.legend(loc="lower right", handlelength=1.4)
    return figure
