"""Figures of the report and of MLflow, from one source.

Every function returns a `matplotlib.figure.Figure` and touches no global state of pyplot. Colours are of medium
lightness and the ink is replaced by the page's own in `to_svg`, so that a figure reads on white and on black.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import hsv_to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.words import CONTROLS

INK = "#1b1d1f"  # a colour nothing else has: `to_svg` makes it `currentColor`
BLUE, ORANGE, GREY, RED = "#3a7fc4", "#d9822b", "#8a9099", "#cf4446"
DEEP_BLUE = "#2462a6"
# Neighbours in the list differ in lightness as well as in hue, for readers who do not see all hues.
QUALITATIVE = (BLUE, ORANGE, "#2a9d78", "#b85fa0", "#c9a227", "#6f5fc4", "#46b0c9", "#9a6a48", "#7fae3b", "#d3718c")
WIDTH = 10.0  # inches; the page shows figures at most this wide
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: no machine lacks it
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a class name may hold dollar signs
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "lrcn",
}


def history_figure(history: pd.DataFrame) -> Figure:
    """Curves of a training: loss, validation score, gradient norm, learning rate.

    Columns epoch, train_loss, val_loss, val_score, lr, grad_norm. A ring marks the epoch with the lowest validation
    loss, whose weights were kept.
    """
    history = history.apply(pd.to_numeric, errors="coerce")
    epochs = history["epoch"]
    with _style():
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        loss, score, norm, rate = figure.subplots(1, 4)
        loss.plot(epochs, history["train_loss"], color=GREY, label="training")
        loss.plot(epochs, history["val_loss"], color=BLUE, label="validation")
        loss.set_title("loss")
        loss.set_ylim(bottom=0)
        loss.legend(loc="upper right", handlelength=1.2)
        score.plot(epochs, history["val_score"], color=BLUE)
        score.set_title("validation score")
        score.set_ylim(-0.02, 1.02)
        for axes, column, title in ((norm, "grad_norm", "gradient norm"), (rate, "lr", "learning rate")):
            axes.plot(epochs, history[column], color=GREY)
            axes.set_title(title)
            axes.set_ylim(bottom=0)
        if history["val_loss"].notna().any():
            best = history.iloc[int(history["val_loss"].to_numpy(dtype=float, na_value=np.inf).argmin())]
            for axes, column in ((loss, "val_loss"), (score, "val_score")):
                axes.plot([best["epoch"]], [best[column]], "o", color=BLUE, markersize=6, markerfacecolor="none")
            score.set_xlabel(f"epoch (kept: {best['epoch']:.0f}, {best['val_score']:.3f})")
        for axes in (loss, score, norm, rate):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            axes.grid(axis="y")
            if not axes.get_xlabel():
                axes.set_xlabel("epoch")
    return figure


def gradient_figure(norms: Mapping[str, np.ndarray]) -> Figure:
    """How far back gradients reach: by name, norms (S,) at distances of 0 to S - 1 timesteps; logarithmic."""
    with _style():
        figure = Figure(figsize=(WIDTH / 2, 2.5), layout="constrained")
        axes = figure.subplots()
        for (name, values), color in zip(norms.items(), (GREY, BLUE, *QUALITATIVE[1:]), strict=False):
            positive = np.where(np.asarray(values) > 0, values, np.nan)  # 0 has no place on the scale
            axes.plot(np.arange(len(positive)), positive, color=color, label=name)
        axes.set_yscale("log")
        axes.set_title("gradient of an answer, by distance of the input")
        axes.set_xlabel("timesteps before the answer")
        axes.set_ylabel("norm")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(axis="y")
        axes.legend(loc="best", handlelength=1.2)
    return figure


def over_time_figure(rows: pd.DataFrame) -> Figure:
    """How sure a model is over time, and (shaded) what each moment counts in a clip's answer; a panel for each video.

    Columns video_id, time_seconds, label, predicted, label_probability, predicted_probability, weight.
    """
    videos = list(rows.groupby("video_id", sort=False))
    columns = min(4, len(videos))
    lines = math.ceil(len(videos) / columns)
    with _style():
        figure = Figure(figsize=(WIDTH, 1.9 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).reshape(-1)
        for axes, (_, video) in zip(panels, videos, strict=False):
            times, weights = video["time_seconds"].to_numpy(), video["weight"].to_numpy(dtype=float)
            axes.fill_between(times, weights / max(weights.max(), 1e-12), color=GREY, alpha=0.25, linewidth=0)
            axes.plot(times, pd.to_numeric(video["label_probability"], errors="coerce"), color=BLUE, label="truth")
            axes.plot(times, video["predicted_probability"], color=ORANGE, linestyle="--", label="answer")
            names = list(dict.fromkeys(str(name) for name in (*video["label"][:1], *video["predicted"][:1])))
            axes.set_title(" → ".join(names), fontsize=8)
            axes.set_ylim(-0.02, 1.02)
            axes.set_xlabel("s")
        for axes in panels[len(videos) :]:
            axes.set_visible(False)
        panels[0].set_ylabel("probability")
        panels[0].legend(loc="best", handlelength=1.2)
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
    with _style():
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


def ladder_figure(metrics: Mapping[str, Any]) -> Figure:
    """The model and its controls with their intervals, from a `metrics.json` of either task."""
    level = "video" if "video" in metrics["test"] else "frame"
    scores = metrics["test"][level]
    key, title = ("top1", "top-1 accuracy on the test videos") if level == "video" else ("acc", "frame accuracy")
    rows: list[tuple[str, Any, Any, Any, Any, str]] = [
        ("the model", scores[key], scores.get(f"{key}_low"), scores.get(f"{key}_high"), None, BLUE)
    ]
    for name, control in metrics["controls"].items():
        color = ORANGE if name in ("shuffled", "reversed") else GREY
        label = CONTROLS.get(name, name.replace("_", " "))
        rows.append((label, control[key], control.get("low"), control.get("high"), control, color))
    with _style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.3 * len(rows)), layout="constrained")
        axes, numbers = figure.subplots(1, 2, sharey=True, width_ratios=[1, 0.72])
        if defined(*rows[0][2:4]):
            axes.axvspan(rows[0][2], rows[0][3], color=BLUE, alpha=0.13, linewidth=0)
        for y, (_, score, low, high, control, color) in enumerate(rows):
            if defined(low, high):
                axes.plot([low, high], [y, y], color=color, linewidth=2.2, solid_capstyle="round")
            if defined(score):
                axes.plot([score], [y], marker="o", markersize=6.5, color=color)
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


def timeline_figure(
    videos: Sequence[tuple[str, np.ndarray, Sequence[str], Sequence[str], Sequence[str]]], background: str | None = None
) -> Figure:
    """Truth above prediction over time, two bars per video, and in red where they differ.

    Each video: its id, times (T,) in seconds, truth and prediction per timestep ("" = not labelled, no bar), classes.
    """
    named = list(dict.fromkeys(name for video in videos for name in video[4]))
    colors = class_colors(named, background)
    seen = {name for _, _, truth, predicted, _ in videos for name in (*truth, *predicted)}
    with _style():
        figure = Figure(figsize=(WIDTH, 0.35 + 0.95 * len(videos) + 0.22 * (len(seen) // 6 + 1)), layout="constrained")
        for axes, (video_id, times, truth, predicted, _) in zip(
            figure.subplots(len(videos), 1, squeeze=False)[:, 0], videos, strict=True
        ):
            edges = _step_edges(np.asarray(times, dtype=float))
            _bars(axes, edges, truth, 1.0, colors)
            _bars(axes, edges, predicted, 0.0, colors)
            wrong = ["wrong" if t and t != p else "" for t, p in zip(truth, predicted, strict=True)]
            _bars(axes, edges, wrong, -0.52, {"wrong": RED}, height=0.16)
            # A file name that is no UTF-8 comes with surrogates, which no font can draw.
            axes.set_title(video_id.encode("utf-8", "replace").decode(), fontsize=8.5, pad=3)
            axes.set_yticks([1, 0], ["truth", "predicted"])
            axes.set(xlim=(edges[0], edges[-1]), ylim=(-0.66, 1.45))
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", labelsize=7.5, pad=1.5, length=2)
            axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xlabel("seconds")
        legend = [Patch(color=colors[name], label=name) for name in named if name in seen]
        figure.legend(handles=legend, loc="outside lower center", ncols=min(6, max(1, len(legend))), handlelength=1)
    return figure


def reliability_figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Confidence against accuracy; rows of `evaluation.clip_metrics.reliability`.

    Below the line the model is surer than it is right. Under it, how many videos each bar stands for.
    """
    filled = [row for row in rows if row["count"]]
    with _style():
        figure = Figure(figsize=(4.2, 4.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for axes, key, alpha in ((above, "accuracy", 0.75), (below, "count", 0.45)):
            axes.bar(
                [row["low"] for row in filled],
                [row[key] for row in filled],
                width=[(row["high"] - row["low"]) * 0.94 for row in filled],
                align="edge",
                color=BLUE,
                alpha=alpha,
            )
            axes.grid(axis="y")
        above.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        above.plot(
            [row["mean_confidence"] for row in filled],
            [row["accuracy"] for row in filled],
            marker="o",
            markersize=3.5,
            linestyle="none",
            color=INK,
        )
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        below.set(xlabel="confidence", ylabel="count")
        below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    return figure


def per_class_figure(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Figure:
    """Recall (filled) and precision (ring) of each class, best F1 first; rows of `per_class.csv`."""
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    numbers = table[["recall", "precision", "f1", "support"]].apply(pd.to_numeric, errors="coerce")
    table = numbers.assign(name=table["class"]).sort_values("f1", ascending=False, kind="stable", na_position="last")
    columns = -(-len(table) // 34)
    length = -(-len(table) // columns)
    with _style():
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


def class_colors(classes: Sequence[str], background: str | None = None) -> dict[str, Any]:
    """A colour per class: grey for the background, ten chosen ones, then hues by the golden angle."""
    colors: dict[str, Any] = {}
    for index, name in enumerate(name for name in classes if name != background):
        if index < len(QUALITATIVE):
            colors[name] = QUALITATIVE[index]
        else:
            lightness = (0.82, 0.62, 0.72)[index % 3]
            colors[name] = tuple(map(float, hsv_to_rgb(((index * 0.618034) % 1.0, 0.62, lightness))))
    if background is not None and background in classes:
        colors[background] = to_rgba(GREY, 0.35)
    return colors


def interval_text(value: float | None, low: float | None = None, high: float | None = None, sign: bool = False) -> str:
    """A score in words, `0.95 [0.92, 0.97]`, with a real minus sign; a dash when it is not defined.

    >>> interval_text(-0.021, -0.1, 0.06, sign=True)
    '−0.02 [−0.10, +0.06]'
    """
    if not defined(value):
        return "–"
    number = "{:+.2f}" if sign else "{:.2f}"
    text = number.format(value)
    if defined(low, high):
        text += f" [{number.format(low)}, {number.format(high)}]"
    return text.replace("-", "−")


def defined(*values: float | None) -> bool:
    """Whether all of these are numbers, neither None (as JSON has it) nor nan."""
    return all(value is not None and math.isfinite(value) for value in values)


def to_svg(figure: Figure, label: str = "") -> str:
    """A figure as an `<svg>` element for a page: the same figure gives the same text, on every machine.

    The ink follows the page's text colour, letters are the page's own; `label` is what a screen reader says.
    """
    buffer = io.StringIO()
    with _style(), warnings.catch_warnings():
        # Letters that the measuring font lacks; the browser has its own fonts for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.set_layout_engine("none")  # laid out a second time it would shift a little
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Names of groups repeat from figure to figure; only what is referred to keeps its id.
    referred = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the page
    svg = re.sub(r">\s+<", "><", svg)
    svg = svg.replace(INK, "currentColor").replace("'DejaVu Sans'", "inherit")
    name = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    lines = "stroke-linejoin: round; stroke-linecap: butt"
    return svg.replace("<svg", f'<svg role="img" aria-label="{name}" style="{lines}"', 1)


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def _step_edges(times: np.ndarray) -> np.ndarray:
    """Edges (T + 1,) of timesteps: each lasts until the next, the last as long as the median."""
    steps = np.diff(times)
    return np.append(times, times[-1] + (float(np.median(steps)) if len(steps) else 1.0))


def _bars(
    axes: Axes, edges: np.ndarray, names: Sequence[str], y: float, colors: Mapping[str, Any], height: float = 0.8
) -> None:
    """Runs of equal names as bars around y; "" leaves a gap."""
    values = np.asarray(names, dtype=object)
    starts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1), len(values)]
    for start, end in pairwise(starts):
        if values[start]:
            span = (float(edges[start]), float(edges[end] - edges[start]))
            axes.broken_barh([span], (y - height / 2, height), facecolors=[colors[values[start]]])
