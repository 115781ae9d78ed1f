"""What the tables, subtitles and exports of a folder of results need to know beside the answers, and its options."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import LrcnError
from pipeline.inference.answers import Answer, Segment
from pipeline.inference.precision import threshold_of
from pipeline.models.modelspec import ModelSpec

EXPORT_FORMATS = ("activitynet", "elan", "fiftyone", "label-studio")
# Takes the answer to one file and its timeline: segments in order that do not overlap.
AddAnswer = Callable[[Answer, Sequence[Segment]], None]


@dataclass(frozen=True)
class ResultSettings:
    """How answers become results.

    task: clip or frame. classes: names in the order of the scores. background: the class that stands for no action.
    step_seconds: from one timestep to the next. threshold: lowest probability of an answer that is sure, None where no
    answer is. model: its identity. min_seconds: shortest segment to keep. merge_gap_seconds: longest background between
    two segments of one label to close. formats: of EXPORT_FORMATS, those to write.
    """

    task: str
    classes: tuple[str, ...]
    background: str | None = None
    step_seconds: float = 0.1
    threshold: float | None = None
    model: str = ""
    min_seconds: float = 0.0
    merge_gap_seconds: float = 0.0
    formats: tuple[str, ...] = ()


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --min-duration, --merge-gap, --export and --overlay."""
    parser.add_argument(
        "--min-duration",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="frame models: leave out segments that are shorter (default 0)",
    )
    parser.add_argument(
        "--merge-gap",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="frame models: make one of two segments of a label with no more background between them (default 0)",
    )
    parser.add_argument(
        "--export",
        action="append",
        default=[],
        choices=EXPORT_FORMATS,
        metavar="FORMAT",
        help=f"also write the segments for another tool: {', '.join(EXPORT_FORMATS)}; may be repeated",
    )
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="also write each video with its answer drawn on it, as MP4 that browsers play, sound kept",
    )


def result_settings(options: argparse.Namespace, spec: ModelSpec, model: str) -> ResultSettings:
    """Settings for a model that the arguments of this module and of `precision` name; LrcnError for impossible ones."""
    for option, value in (("--min-duration", options.min_duration), ("--merge-gap", options.merge_gap)):
        if not 0 <= value < float("inf"):
            raise LrcnError(f"{option} is {value}; expected seconds, 0 or more")
        if value and spec.task != "frame":
            raise LrcnError(
                f"{option} is for frame models, whose segments are runs of a label; this is a clip model, whose "
                "segments are the clips it looked at: leave the option out"
            )
    if options.merge_gap and spec.background is None:
        raise LrcnError(
            "--merge-gap closes background between segments, and this model has no background class; "
            "leave it out, or use --min-duration"
        )
    return ResultSettings(
        task=spec.task,
        classes=spec.classes,
        background=spec.background,
        step_seconds=1 / spec.view.fps,
        threshold=threshold_of(spec, options.precision),
        model=model,
        min_seconds=options.min_duration,
        merge_gap_seconds=options.merge_gap,
        formats=tuple(sorted(set(options.export))),
    )
