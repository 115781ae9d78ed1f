"""Feature files in place of videos, for models that were trained on ready-made features."""

from pathlib import Path

from pipeline.data.featurefiles import SUFFIXES, bytes_to_read, has_column, read_features, steps_on_grid
from pipeline.errors import RejectedVideo
from pipeline.features.backbones import NO_PICTURES, Backbone
from pipeline.features.store import VideoFeatures


def read_given(path: Path, backbone: Backbone, fps: float, memory_bytes: int) -> VideoFeatures:
    """Features of a `.npy` or `.csv` file like those of the training, on the view's grid of `fps`.

    backbone: what `given_features` made. memory_bytes: a file that would take more is not read. Raises RejectedVideo
    with the reason why a file is none.
    """
    facts = backbone.arrays()
    if path.suffix.lower() not in SUFFIXES:
        raise RejectedVideo(f"{NO_PICTURES}; expected files of features, {' or '.join(SUFFIXES)}")
    needed = bytes_to_read(path)
    if needed > memory_bytes:
        raise RejectedVideo(
            f"reading it needs {needed / 2**20:.0f} MB of memory, more than {memory_bytes / 2**20:.0f} MB, "
            "the limit for one file (--max-memory)",
            is_transient=True,
        )
    layout = "feature_first" if facts["feature_first"] else "time_first"
    if path.suffix.lower() == ".csv":
        labels = bytes(facts["label_column"]).decode()  # files to predict for may have none
        values = read_features(path, "csv", labels if labels and has_column(path, labels) else None)
    else:
        values = read_features(path, f"npy {layout}")
    if values.shape[1] != backbone.feature_size:
        raise RejectedVideo(
            f"{values.shape[1]} numbers a timestep ({layout.replace('_', ' ')}); "
            f"this model was trained on {backbone.feature_size}"
        )
    steps, times = steps_on_grid(len(values), float(facts["fps"]), fps)
    return VideoFeatures(values[steps], times, times)
