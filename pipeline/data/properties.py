"""What is known of a video without looking at what it shows: `properties.csv`, a row per usable video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.tables import Video, read_csv
from pipeline.errors import DataError
from pipeline.files import write_table

NUMBERS = (
    "size_bytes", "width", "height", "fps", "duration_seconds", "bits_per_frame", "brightness", "has_audio",
)  # fmt: skip
CODEC = "codec="  # a column of 0 and 1 for each codec, where there are several


@dataclass(frozen=True)
class Properties:
    """names: of the P columns. rows: by video id, (P,) float64 each, nan = unknown."""

    names: tuple[str, ...]
    rows: Mapping[str, np.ndarray]

    def table(self, video_ids: Sequence[str]) -> np.ndarray:
        """(N, P) float64 of these videos; raises DataError for one that has no row."""
        missing = [video_id for video_id in video_ids if video_id not in self.rows]
        if missing:
            raise DataError(
                f"properties.csv: no row for {len(missing)} video(s), {missing[0]!r} first; run the stage `audit` again"
            )
        return np.array([self.rows[video_id] for video_id in video_ids]).reshape(-1, len(self.names))


def measure(
    videos: Sequence[Video], num_frames: Mapping[str, int | None], brightness: Mapping[str, float | None]
) -> Properties:
    """Properties of videos from their headers and from what decoding found.

    num_frames: by video id, frames decoded of the file. brightness: by video id, mean luma from 0 to 255. Either is
    None where nothing could be decoded. Rate and duration are the header's.
    """
    codecs = sorted({video.codec for video in videos})
    names = (*NUMBERS, *(f"{CODEC}{codec}" for codec in codecs if len(codecs) > 1))
    rows = {}
    for video in videos:
        frames = num_frames.get(video.video_id)
        values: list[float | None] = [
            video.size_bytes,
            video.width or None,
            video.height or None,
            video.fps_header,
            video.duration_seconds_header,
            video.size_bytes * 8 / frames if frames else None,
            brightness.get(video.video_id),
            video.has_audio,
            *(video.codec == codec for codec in codecs if len(codecs) > 1),
        ]
        rows[video.video_id] = np.array([np.nan if value is None else float(value) for value in values])
    return Properties(names, rows)


def write_properties(path: Path, properties: Properties) -> None:
    """Write the table; an empty cell is an unknown value."""
    cells = (
        [video_id, *("" if np.isnan(value) else f"{value:.6f}".rstrip("0").rstrip(".") for value in row)]
        for video_id, row in properties.rows.items()
    )
    write_table(path, ["video_id", *properties.names], cells)


def read_properties(path: Path) -> Properties:
    """Read the table; raises DataError naming file and row of what is no number, or when there is no file."""
    rows = {}
    names: tuple[str, ...] = NUMBERS
    for number, cells in read_csv(path, ["video_id", *NUMBERS]):
        names = tuple(name for name in cells if name != "video_id")
        try:
            rows[cells["video_id"]] = np.array([float(cells[name]) if cells[name] else np.nan for name in names])
        except ValueError as error:
            raise DataError(f"{path}, row {number}: {error}; run the stage `audit` again") from None
    return Properties(names, rows)
