"""The tables of a data set: `videos.csv`, `segments.csv`, `splits.csv`.

Rows are typed, and checked when read and when written. The files are CSV in UTF-8 with a header and "\\n" line ends;
every value is text until its column says otherwise, so a class named `NA` or `007` stays what it is. File names that
are no valid UTF-8 survive (surrogate escapes).
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_type_hints

from pipeline.errors import DataError
from pipeline.files import replacing

Status = Literal["ok", "rejected"]
Side = Literal["train", "val", "test"]
SIDES: tuple[Side, ...] = get_args(Side)

MAX_PROBLEMS_SHOWN = 20
CHANGED = "its content is no longer what videos.csv states: run the index stage again"


@dataclass(frozen=True)
class Video:
    """A row of `videos.csv`: one file of the media folder, as its container describes it.

    video_id: path relative to the media folder, with forward slashes. sha256: of the file's bytes, "" when they could
    not be read. status, reason: `rejected` says why the file is no video. width, height: upright, in pixels.
    fps_header, duration_seconds_header: None when unknown; num_frames_header: 0 when unknown.
    label: class name, "" without one. group: shared by the videos of one source.

    Of a file of ready-made features: codec is `csv`, or `npy` with the order of its axes (`npy time_first`),
    pixel_format the type of its numbers, width the numbers of a timestep, num_frames_header the timesteps to be used;
    rate and duration follow from the card.
    """

    video_id: str
    sha256: str
    size_bytes: int
    status: Status
    reason: str = ""
    codec: str = ""
    pixel_format: str = ""
    width: int = 0
    height: int = 0
    rotation_degrees: int = 0
    fps_header: float | None = None
    duration_seconds_header: float | None = None
    num_frames_header: int = 0
    has_audio: bool = False
    bit_rate: int = 0
    label: str = ""
    group: str = ""

    def problem(self) -> str | None:
        """What is wrong with this row by itself, or None."""
        if self.status == "ok" and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            return f"sha256 is {self.sha256!r}; expected 64 hex digits"
        if (self.status == "ok") != (self.reason == ""):
            return f"status is {self.status!r} with reason {self.reason!r}; expected a reason exactly when rejected"
        return None


@dataclass(frozen=True)
class Segment:
    """A row of `segments.csv`: an action in `[start_seconds, end_seconds)`, counted from the first frame shown."""

    video_id: str
    start_seconds: float
    end_seconds: float
    label: str

    def problem(self) -> str | None:
        """What is wrong with this row by itself, or None."""
        if not 0 <= self.start_seconds < self.end_seconds < math.inf:
            return f"segment from {self.start_seconds} to {self.end_seconds} s; expected 0 <= start < end, in seconds"
        return None if self.label else "label is empty; expected a class"


@dataclass(frozen=True)
class Split:
    """A row of `splits.csv`: on which side of a fold (folds count from 1) a video stands."""

    video_id: str
    fold: int
    split: Side

    def problem(self) -> str | None:
        """What is wrong with this row by itself, or None."""
        return None if self.fold >= 1 else f"fold is {self.fold}; folds count from 1"


Row = TypeVar("Row", Video, Segment, Split)


def read_videos(path: Path | str) -> list[Video]:
    """Rows of `videos.csv` in the file's order; raises DataError naming the file and the row of every problem."""
    return _read(Path(path), Video)


def usable_videos(path: Path | str) -> list[Video]:
    """Rows of `videos.csv` that the index stage could use; raises what `read_videos` raises."""
    return [video for video in read_videos(path) if video.status == "ok"]


def read_segments(path: Path | str) -> list[Segment]:
    """Rows of `segments.csv` in the file's order; raises DataError naming the file and the row of every problem."""
    return _read(Path(path), Segment)


def read_splits(path: Path | str) -> list[Split]:
    """Rows of `splits.csv` in the file's order; raises DataError naming the file and the row of every problem."""
    return _read(Path(path), Split)


def write_rows(path: Path | str, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write a table whole or not at all; raises DataError for rows that reading would refuse."""
    path, rows = Path(path), list(rows)
    columns: list[str] = [field.name for field in fields(kind)]
    refuse(path, _problems(list(enumerate(rows, start=2))))
    lines = [columns, *([_text(getattr(row, name)) for name in columns] for row in rows)]
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        plain = csv.writer(file, lineterminator="\n")
        # The plain writer leaves "\r" unquoted, which would end the row on reading; macOS makes files of such names.
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for cells in lines:
            (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)


def video_ids(splits: Iterable[Split], fold: int, split: Side) -> list[str]:
    """Videos on one side of a fold, in the table's order; raises DataError when there is none."""
    splits = list(splits)
    chosen = [row.video_id for row in splits if (row.fold, row.split) == (fold, split)]
    if not chosen:
        there = ", ".join(str(number) for number in sorted({row.fold for row in splits})) or "none"
        raise DataError(f"splits: no {split} video in fold {fold}; there are folds {there}")
    return chosen


def read_csv(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a CSV file with the number of its line, as text by column; blank lines are passed over.

    Raises DataError when the file cannot be read, lacks one of `columns`, or has a row of another width.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front of the first column's name.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            if len(set(header)) < len(header):
                raise DataError(f"{path}, row 1: a column is named twice in {', '.join(header)}")
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataError(
                    f"{path}, row 1: no column {', '.join(missing)}; there are {', '.join(header) or 'none'}"
                )
            for cells in lines:
                if len(cells) == len(header):
                    yield lines.line_num, dict(zip(header, cells, strict=True))
                elif cells:
                    raise DataError(
                        f"{path}, row {lines.line_num}: {len(cells)} value(s) for {len(header)} column(s); "
                        "put values that hold a comma in double quotes"
                    )
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None


def refuse(path: Path, problems: list[str]) -> None:
    """Raise DataError with all problems of a file in one line; do nothing when there are none."""
    if not problems:
        return
    shown = problems[:MAX_PROBLEMS_SHOWN]
    more = f"  |  and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
    raise DataError(f"{path} has {len(problems)} problem(s): " + "  |  ".join(shown) + more)


def _read(path: Path, kind: type[Row]) -> list[Row]:
    types = get_type_hints(kind)
    rows: list[tuple[int, Row]] = []
    problems = []
    for number, cells in read_csv(path, types):
        try:
            unknown = [name for name in cells if name not in types]
            if unknown:
                _wrong("columns", ", ".join(cells), f"exactly {', '.join(types)}")
            rows.append((number, kind(**{name: _value(name, cells[name], types[name]) for name in types})))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
    refuse(path, problems + _problems(rows))
    return [row for _, row in rows]


def _problems(rows: list[tuple[int, Row]]) -> list[str]:
    """Rows that are wrong by themselves, and rows given twice."""
    problems = [f"row {number}: {problem}" for number, row in rows if (problem := row.problem())]
    first: dict[object, int] = {}
    for number, row in rows:
        key: object = (row.video_id, row.fold) if isinstance(row, Split) else row.video_id
        if not isinstance(row, Segment) and first.setdefault(key, number) != number:
            problems.append(f"row {number}: {row.video_id!r} stands in row {first[key]} already")
    return problems


def _value(column: str, text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind is bool:
        return {"0": False, "1": True}[text] if text in ("0", "1") else _wrong(column, text, "0 or 1")
    if kind == float | None and text == "":
        return None
    if kind in (int, float, float | None):
        number: Callable[[str], float] = int if kind is int else float
        try:
            return number(text)
        except ValueError:
            return _wrong(column, text, "a whole number" if kind is int else "a number")
    choices = get_args(kind)
    return text if text in choices else _wrong(column, text, f"one of {', '.join(choices)}")


def _wrong(column: str, text: str, expected: str) -> NoReturn:
    raise ValueError(f"{column} is {text!r}; expected {expected}")


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)
