"""Ready-made features: a `.npy` or `.csv` file for each recording, and how its timesteps meet the view's time grid.

T timesteps, D numbers each. Nothing in a file is run: no pickle is read.
"""

import csv
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.cards import Card
from pipeline.discovery import walk
from pipeline.errors import DataError, RejectedVideo
from pipeline.threads import in_threads

Layout = Literal["time_first", "feature_first"]
SUFFIXES = (".npy", ".csv")
SLACK_SECONDS = 1e-6  # as for the frames of a video: times that differ by less are one time
MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class FeatureHeader:
    """What a feature file says about itself, in the fields of a video's header (see `pipeline.data.tables.Video`)."""

    codec: str
    pixel_format: str
    width: int
    num_frames_header: int
    fps_header: float | None
    height: int = 0
    rotation_degrees: int = 0
    has_audio: bool = False
    bit_rate: int = 0

    @property
    def duration_seconds_header(self) -> float | None:
        """Timesteps by their rate."""
        return self.num_frames_header / self.fps_header if self.fps_header else None


class FeatureFiles:
    """The feature files of a data set. What they share, the order of axes and D, is found when this is made.

    Raises DataError when the folder is missing, or when nothing tells which axis is time.
    """

    def __init__(self, card: Card, media: Path, *, workers: int = 1) -> None:
        if card.features is None:
            raise ValueError(f"the card of {card.name} names no features")
        self._fps = card.features.fps
        self._folder = media / card.features.folder
        self._column = card.labels.frames.column if card.labels.frames else None
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}: no such folder; the features of {card.name!r} are expected there")
        paths = [entry.path for entry in walk([str(self._folder)]) if entry.kind == "file"]
        shapes = {
            path: shape
            for path, shape in zip(paths, in_threads(self._shape_or_none, paths, max(1, workers)), strict=True)
            if shape is not None
        }
        arrays = {path: shape for path, shape in shapes.items() if not _is_csv(path)}
        self.layout: Layout = find_layout(self._folder, arrays, card.features.layout)
        sizes = [_turned(shape, "time_first" if _is_csv(path) else self.layout)[1] for path, shape in shapes.items()]
        self.feature_size = Counter(sizes).most_common(1)[0][0] if sizes else 0

    def header(self, path: Path) -> FeatureHeader:
        """A file's facts; raises RejectedVideo for what holds no features, or other ones than most files."""
        if not path.is_relative_to(self._folder):
            raise RejectedVideo(f"not below {self._folder.name}/, where the card says the features are")
        shape, kind = read_shape(path, self._column)
        layout: Layout = "time_first" if _is_csv(str(path)) else self.layout
        num_steps, size = _turned(shape, layout)
        if size != self.feature_size:
            raise RejectedVideo(
                f"{size} numbers a timestep (shape {shape}, {layout.replace('_', ' ')}), "
                f"but most files here have {self.feature_size}"
            )
        codec = "csv" if _is_csv(str(path)) else f"npy {layout}"
        return FeatureHeader(codec, kind, size, num_steps, self._fps)

    def _shape_or_none(self, path: str) -> tuple[int, int] | None:
        try:
            return read_shape(Path(path), self._column)[0]
        except (RejectedVideo, OSError):
            return None


def find_layout(
    folder: Path, shapes: dict[str, tuple[int, int]], stated: Literal["auto", "time_first", "feature_first"]
) -> Layout:
    """Order of the axes of a set's `.npy` files: as stated, or D is the axis whose size most of the files share.

    Raises DataError when that holds for both axes, or for none.
    """
    if stated != "auto" or not shapes:
        return "feature_first" if stated == "feature_first" else "time_first"
    counts = [Counter(shape[axis] for shape in shapes.values()).most_common(1)[0] for axis in (0, 1)]
    common = [count > len(shapes) / 2 for _, count in counts]
    if common[0] == common[1]:
        sizes = ", ".join(f"{size} on axis {axis} ({count} files)" for axis, (size, count) in enumerate(counts))
        raise DataError(
            f"{folder}: {len(shapes)} .npy file(s), most often {sizes}: that does not tell which axis is time; "
            "state features.layout in the card: time_first or feature_first"
        )
    return "feature_first" if common[0] else "time_first"


def read_shape(path: Path, label_column: str | None = None) -> tuple[tuple[int, int], str]:
    """Shape of a file's numbers, axes as they are stored, and their type; raises RejectedVideo with the reason.

    Of a `.npy` file only the header is read. label_column: of CSV files, not counted.
    """
    if _is_csv(str(path)):
        values, _ = read_csv_features(path, label_column)
        return (values.shape[0], values.shape[1]), "text"
    if path.suffix.lower() != ".npy":
        raise RejectedVideo(f"not a feature file; expected a name that ends in {' or '.join(SUFFIXES)}")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise RejectedVideo("not a NumPy file (it does not begin as one)")
        file.seek(0)
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except Exception as error:  # noqa: BLE001 - damaged bytes make the header's parser raise almost anything
            raise RejectedVideo(f"its header cannot be read ({' '.join(str(error).split())[:200]})") from None
        start, size_bytes = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.kind not in "fiu":
        raise RejectedVideo(f"holds values of type {dtype}; expected numbers (Python objects are not read)")
    if len(shape) != 2 or 0 in shape:
        raise RejectedVideo(
            f"holds an array of shape {shape}; expected two axes, timesteps and features, neither empty"
        )
    expected = start + math.prod(shape) * dtype.itemsize
    if size_bytes < expected:
        raise RejectedVideo(f"cut off: {size_bytes} of {expected} bytes are there")
    return (int(shape[0]), int(shape[1])), str(dtype)


def bytes_to_read(path: Path) -> int:
    """Memory that `read_features` takes for a file, from its header or, of text, from its size: about a byte a letter.

    Raises RejectedVideo as `read_shape` does.
    """
    if _is_csv(str(path)):
        return path.stat().st_size
    shape, kind = read_shape(path)
    return math.prod(shape) * (np.dtype(kind).itemsize + np.dtype(np.float32).itemsize)


def read_features(path: Path, codec: str, label_column: str | None = None) -> NDArray[np.float32]:
    """The numbers of a file, (T, D) float32 and finite; raises RejectedVideo with the reason.

    codec: as in the videos table, `csv`, `npy time_first` or `npy feature_first`.
    """
    if codec == "csv":
        values = read_csv_features(path, label_column)[0]
    else:
        read_shape(path)
        try:
            raw = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RejectedVideo(f"cannot be read ({' '.join(str(error).split())})") from None
        with np.errstate(over="ignore"):  # found below
            values = np.ascontiguousarray(raw.T if codec.endswith("feature_first") else raw, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        value = next(number for number in values[bad[0]] if not np.isfinite(number))
        raise RejectedVideo(
            f"{len(bad)} of {len(values)} timesteps hold numbers that are not finite, {bad[0]} first ({value})"
        )
    return values


def read_csv_features(path: Path, label_column: str | None) -> tuple[NDArray[np.float32], list[str]]:
    """Features (T, D) float32 of a CSV file, a row for each timestep, and the labels in `label_column` (else none).

    The first row may name the columns, and must where there is a label column. A first row of the numbers 0, 1, 2, ...
    or 1, 2, ... over two or more columns names them, as pandas does. Raises RejectedVideo with the row.
    """
    rows: list[NDArray[np.float32]] = []
    labels: list[str] = []
    where: int | None = None
    width = 0
    for number, cells in _csv_rows(path):
        if not width:
            width = len(cells)
            if label_column is not None:
                if label_column not in cells:
                    raise RejectedVideo(f"row {number}: no column {label_column!r}; expected a header that names it")
                where = cells.index(label_column)
            if where is not None or _names_columns(cells):
                continue
        if len(cells) != width:
            raise RejectedVideo(f"row {number}: {len(cells)} value(s), but {width} in the first row; is it cut off?")
        if where is not None:
            labels.append(cells.pop(where))
        try:
            with np.errstate(over="ignore"):
                rows.append(np.array(cells, dtype=np.float64).astype(np.float32))
        except ValueError:
            wrong = next(cell for cell in cells if not _is_number(cell))
            raise RejectedVideo(f"row {number}: {wrong!r} is no number") from None
    if not rows or len(rows[0]) == 0:
        raise RejectedVideo("holds no features; expected a row of numbers for each timestep")
    return np.stack(rows), labels


def has_column(path: Path, name: str) -> bool:
    """Whether the first row of a CSV file holds this name; raises RejectedVideo when it cannot be read."""
    return any(name in cells for _, cells in itertools.islice(_csv_rows(path), 1))


def steps_on_grid(num_steps: int, source_fps: float, fps: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Timesteps of a file that stand on a grid of `fps`, and their times in seconds; both (N,), N >= 1.

    At grid time k / fps stands the last timestep i whose time i / source_fps is at most that (within 1e-6 s); the grid
    ends before num_steps / source_fps. Where the two times are one time, written i / source_fps, so that a label that
    begins at i begins at i here too, whatever the rounding.

    >>> [part.tolist() for part in steps_on_grid(5, source_fps=30, fps=15)]
    [[0, 2, 4], [0.0, 0.06666666666666667, 0.13333333333333333]]
    """
    source = np.arange(num_steps) / source_fps
    grid = np.arange(math.ceil(num_steps * fps / source_fps) + 1) / fps
    grid = grid[grid < num_steps / source_fps - SLACK_SECONDS]
    steps = np.searchsorted(source, grid + SLACK_SECONDS, side="right") - 1
    near = np.abs(source[steps] - grid) <= SLACK_SECONDS
    return steps.astype(np.int64), np.where(near, source[steps], grid)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            for cells in lines:
                if cells:
                    yield lines.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise RejectedVideo(f"cannot be read as CSV ({error})") from None


def _names_columns(cells: list[str]) -> bool:
    """Whether a first row is no timestep: it holds text, or counts the columns (of a single one, it may be a value)."""
    if not all(_is_number(cell) for cell in cells):
        return True
    counted = [[str(number) for number in range(first, first + len(cells))] for first in (0, 1)]
    return len(cells) > 1 and [cell.strip() for cell in cells] in counted


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_csv(path: str) -> bool:
    return path.lower().endswith(".csv")


def _turned(shape: tuple[int, int], layout: Layout) -> tuple[int, int]:
    """(T, D) from a stored shape."""
    return shape if layout == "time_first" else (shape[1], shape[0])
