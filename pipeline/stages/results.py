"""`lrcn results FOLDER...`: the scores of experiments, with controls and intervals, as a table."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.discovery import printable
from pipeline.errors import DataError
from pipeline.reporting.words import CONTROLS, STREAMS, control_name
from pipeline.stages.leaks import leaks_in_words


def main(argv: Sequence[str] | None = None) -> None:
    """Print the scores of each experiment folder."""
    parser = argparse.ArgumentParser(prog="lrcn results", description=__doc__, allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="e.g. artifacts/demo")
    for folder in parser.parse_args(argv).folders:
        if not (folder / "metrics.json").is_file():
            raise DataError(f"{folder}: no metrics.json; expected the folder of an experiment that `dvc repro` built")
        for task, streams in json.loads((folder / "metrics.json").read_text(encoding="utf-8")).items():
            if "test" in streams:
                raise DataError(f"{folder}/metrics.json: written before there were streams; run `dvc repro` again")
            for stream, scores in streams.items():
                if "calibration" not in scores:
                    raise DataError(f"{folder}/metrics.json: written before calibration; run `dvc repro` again")
                of = "" if list(streams) == ["rgb"] else f", {STREAMS[stream]}"
                print("\n".join(lines(f"{printable(folder.name)}, {task} task{of}", task, scores)))


def lines(title: str, task: str, scores: Mapping[str, Any]) -> list[str]:
    """The table of one task and stream."""
    if task == "clip":
        own, name, main_score = scores["test"]["video"], "top1", "top-1"
        what = f"{own['num_videos']:.0f} test videos"
    else:
        own, name, main_score = scores["test"]["frame"], "acc", "accuracy"
        what = f"{own['num_frames']:.0f} frames of {own['num_videos']:.0f} test recordings"
    stamp = leaks_in_words(scores.get("leaks", {}))
    seen = f"tested{stamp}" if stamp else "never seen in training"
    found = [
        f"\n{title}: {what}, {own['num_groups']:.0f} groups {seen}",
        f"  {'':<46}{main_score:>9}  95 % interval   model is better by",
        _line("the model", own[name], own[f"{name}_low"], own[f"{name}_high"]),
    ]
    if "deviation" in scores:
        each = ", ".join(f"{one[name]:.3f} (seed {seed})" for seed, one in scores["seeds"].items())
        found.append(f"  the mean over {len(scores['seeds'])} seeds ± {scores['deviation'][name]:.3f}: {each}")
    for control in CONTROLS:
        if control in scores["controls"]:
            rung = scores["controls"][control]
            gain = (rung["difference"], rung["difference_low"], rung["difference_high"])
            found.append(_line(control_name(control, task), rung[name], rung["low"], rung["high"], gain))
    if task == "clip":
        if own.get("auc") is not None:
            spread = scores.get("deviation", {}).get("auc")
            found.append(
                f"  area under the ROC curve {own['auc']:.3f} {_interval(own['auc_low'], own['auc_high'])}"
                + ("" if spread is None else f", ± {spread:.3f} over the seeds")
            )
        if scores.get("reversed_opposite") is not None:
            found.append(
                f"  played backwards, a video that was right gets the opposite action in "
                f"{scores['reversed_opposite']:.2f} of the cases"
            )
    else:
        parts = ", ".join(f"F1@{k} {own[f'f1_{k}']:.3f}" for k in (10, 25, 50))
        left_out = "background left out" if own["background_class"] >= 0 else "there is no background class"
        found.append(f"  edit {own['edit']:.3f}, {parts}, per-frame mAP {_number(own['frame_map'])} ({left_out})")
    return [*found, *_calibration(scores["calibration"])]


def _calibration(own: Mapping[str, Any]) -> list[str]:
    """How far confidence is off, and what the sure answers are worth."""
    found = [f"  calibration error {own['ece_after']:.3f}, before the temperature {own['ece_before']:.3f}"]
    wanted = f"{own['wanted_precision']:g}"
    if own["threshold"] is None:
        return [*found, f"  no answer is sure: no validation side is large and right enough to promise {wanted}"]
    if own["precision"] is None:
        found.append(f"  no answer is sure: none is as confident as a precision of {wanted} takes")
    else:
        interval = _interval(own["precision_low"], own["precision_high"])
        found.append(
            f"  {own['coverage']:.0%} of the answers are sure, and of these {own['precision']:.3f} {interval} are "
            f"right (wanted: {wanted})"
        )
    if silent := own["num_without_threshold"]:
        found.append(f"  in {silent} training(s) the validation side could not promise it, so nothing is sure there")
    return found


def _line(
    text: str, value: float, low: float | None, high: float | None, gain: tuple[float, float, float] | None = None
) -> str:
    more = "" if gain is None else f"   {gain[0]:+.3f} {_interval(gain[1], gain[2])}"
    return f"  {text:<46}{value:>9.3f}  {_interval(low, high):<14}{more}"


def _interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
