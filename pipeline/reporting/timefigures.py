"""Figures over time: of a training over its epochs, of an answer over a video.

A function `..._figure` returns a `matplotlib.figure.Figure` and touches no global state of pyplot.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pipeline.reporting.svg import BLUE, GREY, ORANGE, QUALITATIVE, RED, WIDTH, class_colors, style, to_svg

MAX_RECORDINGS = 4


def training_figures(name: str, history: pd.DataFrame, gradients: Mapping[str, np.ndarray]) -> dict[str, str]:
    """SVG text by figure name: curves and gradients of a training; see `history_figure` and `gradient_figure`."""
    return {
        "curves": to_svg(history_figure(history), f"{name}: curves of the training"),
        "gradients": to_svg(gradient_figure(gradients), f"{name}: how far back gradients reach"),
    }


def history_figure(history: pd.DataFrame) -> Figure:
    """Curves of a training: loss, validation score, gradient norm, learning rate.

    Columns epoch, train_loss, val_loss, val_score, lr, grad_norm. A ring marks the epoch with the lowest validation
    loss, whose weights were kept.
    """
    history = history.apply(pd.to_numeric, errors="coerce")
    epochs = history["epoch"]
    with style():
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
    with style():
        figure = Figure(figsize=(WIDTH / 2, 2.5), layout="constrained")
        axes = figure.subplots()
        for (name, values), color in zip(norms.items(), (GREY, BLUE, *QUALITATIVE[1:]), strict=False):
            positive = np.where(np.asarray(values) > 0, values, np.nan)  # 0 has no place on the scale
            axes.plot(np.arange(len(positive)), positive, color=color, label=name)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # the default one is TeX
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title("gradient of an answer, by distance of the input")
        axes.set_xlabel("timesteps before the answer")
        axes.set_ylabel("norm")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(axis="y")
        axes.legend(loc="best", handlelength=1.2)
    return figure


def over_time_figure(rows: pd.DataFrame, recordings: bool = False) -> Figure:
    """How sure a model is over time, and (shaded) what each moment counts in a clip's answer; a panel for each video.

    Columns video_id, time_seconds, label, predicted, label_probability, predicted_probability, weight.
    recordings: of the frame task, in which each moment is answered; they have wider panels, their names above, and
    nothing shaded.
    """
    videos = list(rows.groupby("video_id", sort=False))
    columns = min(1 if recordings else 4, len(videos))
    videos = videos[:MAX_RECORDINGS] if recordings else videos
    lines = math.ceil(len(videos) / columns)
    with style():
        figure = Figure(figsize=(WIDTH, 1.9 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).reshape(-1)
        for axes, (video_id, video) in zip(panels, videos, strict=False):
            times, weights = video["time_seconds"].to_numpy(), video["weight"].to_numpy(dtype=float)
            if not recordings:
                axes.fill_between(times, weights / max(weights.max(), 1e-12), color=GREY, alpha=0.25, linewidth=0)
            axes.plot(times, pd.to_numeric(video["label_probability"], errors="coerce"), color=BLUE, label="truth")
            axes.plot(times, video["predicted_probability"], color=ORANGE, linestyle="--", label="answer")
            names = list(dict.fromkeys(str(name) for name in (*video["label"][:1], *video["predicted"][:1])))
            title = str(video_id).encode("utf-8", "replace").decode() if recordings else " → ".join(names)
            axes.set_title(title, fontsize=8)
            axes.set_ylim(-0.02, 1.02)
            axes.set_xlabel("s")
        for axes in panels[len(videos) :]:
            axes.set_visible(False)
        panels[0].set_ylabel("probability")
        panels[0].legend(loc="best", handlelength=1.2)
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
    with style():
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
