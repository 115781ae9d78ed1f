"""Labels as class indices. Segments stay in seconds and meet the timesteps here, so the two cannot differ in length."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.tables import Segment
from pipeline.errors import DataError

IGNORED = -100  # the index that torch's cross entropy leaves out by default


def frame_classes(classes: Sequence[str], background: str | None) -> tuple[str, ...]:
    """Class names of the frame task: the background first, when there is one.

    >>> frame_classes(["sit", "stand"], "idle")
    ('idle', 'sit', 'stand')
    """
    return tuple(classes) if background is None else (background, *classes)


def class_index(label: str, classes: Sequence[str]) -> int:
    """Position of a label among the class names; raises DataError when it is none of them."""
    try:
        return classes.index(label)
    except ValueError:
        raise DataError(f"label {label!r} is no class; expected one of {', '.join(classes)}") from None


def frame_labels(
    time_seconds: NDArray[np.float64], segments: Iterable[Segment], classes: Sequence[str], background: str | None
) -> NDArray[np.int64]:
    """Class index of each timestep, `(T,) int64`, as an index into `frame_classes(classes, background)`.

    time_seconds: `(T,)`, seconds from the first frame shown. segments: of this one video; a step at t has the label of
    the segment with start <= t < end. Steps that no segment covers are background, or -100 (ignored) in a data set
    without one. Raises DataError for a label that is no class and for steps with two labels.

    >>> frame_labels(np.arange(5) / 2, [Segment("a.mp4", 0.5, 1.5, "stand")], ["sit", "stand"], "idle").tolist()
    [0, 2, 2, 0, 0]
    """
    names = frame_classes(classes, background)
    labels = np.full(len(time_seconds), IGNORED if background is None else 0, dtype=np.int64)
    covered = np.zeros(len(time_seconds), dtype=bool)
    for segment in segments:
        inside = (time_seconds >= segment.start_seconds) & (time_seconds < segment.end_seconds)
        if (inside & covered).any():
            raise DataError(
                f"{segment.video_id!r}: the segment at {segment.start_seconds} s ({segment.label!r}) overlaps another; "
                "expected one label for each moment"
            )
        labels[inside] = class_index(segment.label, names)
        covered |= inside
    return labels
