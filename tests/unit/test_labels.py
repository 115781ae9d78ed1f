import numpy as np
import pytest

from pipeline.data.labels import IGNORED, class_index, frame_classes, frame_labels
from pipeline.data.tables import Segment
from pipeline.errors import DataError

CLASSES = ("sit", "stand")


def segment(start: float, end: float, label: str) -> Segment:
    return Segment("a.mp4", start, end, label)


def test_steps_take_the_label_of_the_segment_they_lie_in():
    times = np.arange(8) / 4  # 0, 0.25, ..., 1.75
    labels = frame_labels(times, [segment(1.0, 1.6, "stand"), segment(0.25, 0.75, "sit")], CLASSES, "idle")
    assert labels.tolist() == [0, 1, 1, 0, 2, 2, 2, 0]
    assert labels.dtype == np.int64


def test_the_end_is_not_part_of_a_segment_and_neighbours_touch():
    labels = frame_labels(np.array([0.0, 1.0, 2.0]), [segment(0, 1, "sit"), segment(1, 2, "stand")], CLASSES, "idle")
    assert labels.tolist() == [1, 2, 0]


def test_without_a_background_uncovered_steps_are_ignored():
    labels = frame_labels(np.array([0.0, 1.0, 2.0]), [segment(1, 2, "stand")], CLASSES, None)
    assert labels.tolist() == [IGNORED, 1, IGNORED]


def test_the_background_may_be_annotated():
    assert frame_labels(np.array([0.5]), [segment(0, 1, "idle")], CLASSES, "idle").tolist() == [0]


def test_a_video_without_segments_is_background_throughout():
    assert frame_labels(np.arange(3.0), [], CLASSES, "idle").tolist() == [0, 0, 0]


def test_refusals():
    with pytest.raises(DataError, match="label 'jump' is no class; expected one of idle, sit, stand"):
        frame_labels(np.arange(3.0), [segment(0, 1, "jump")], CLASSES, "idle")
    with pytest.raises(DataError, match=r"the segment at 1.0 s \('stand'\) overlaps another"):
        frame_labels(np.arange(3.0), [segment(0.0, 2.0, "sit"), segment(1.0, 3.0, "stand")], CLASSES, "idle")
    with pytest.raises(DataError, match="label 'idle' is no class; expected one of sit, stand"):
        class_index("idle", CLASSES)


def test_class_orders():
    assert class_index("stand", CLASSES) == 1
    assert frame_classes(CLASSES, "idle") == ("idle", "sit", "stand")
    assert frame_classes(CLASSES, None) == CLASSES
