"""A label for each timestep of ready-made features: text files, or a column of the features' own CSV files.

Labels become segments in seconds, as any others, and meet the timesteps' times when a batch is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath

from pipeline.data.cards import Dataset, FrameLabels
from pipeline.data.featurefiles import read_csv_features
from pipeline.data.labels import frame_classes
from pipeline.data.tables import Segment, Video, refuse
from pipeline.errors import DataError, RejectedVideo


def label_recordings(
    dataset: Dataset, media: Path, videos: Sequence[Video]
) -> tuple[list[Video], list[Segment], list[str]]:
    """The videos, cut to the shorter of features and labels; their segments, sorted; and notes for the user.

    A recording without labels has no segments. Raises DataError naming the file of every problem: labels and features
    that differ in length by more than the card's tolerance, labels that are no class, two files of one name.
    """
    card = dataset.card
    frames, features = card.labels.frames, card.features
    if frames is None or features is None:
        raise ValueError(f"the card of {card.name} names no labels of timesteps")
    names = frame_classes(dataset.classes, card.background)
    if frames.mapping is not None:
        check_mapping(media / frames.mapping, names)
    found: list[Video] = []
    segments: list[Segment] = []
    uneven: list[_Uneven] = []
    problems = _names_given_twice(videos)
    for video in videos:
        labels = None if video.status != "ok" else _labels_of(video, frames, features.folder, media)
        found.append(video)
        if labels is None:
            continue
        problems += [
            f"{labels.where}, row {row}: {label!r} is no class"
            for label, row in sorted(labels.first_rows().items(), key=lambda item: item[1])
            if label and label not in names
        ]
        num_steps = min(video.num_frames_header, len(labels.labels))
        if abs(video.num_frames_header - len(labels.labels)) > frames.tolerance or num_steps == 0:
            problems.append(
                f"{video.video_id!r} has {video.num_frames_header} timesteps, but {labels.where} {len(labels.labels)} "
                f"labels; up to {frames.tolerance} too many are cut off (labels.frames.tolerance in the card). "
                "Are the labels made at the features' rate, and is features.layout right?"
            )
            continue
        if video.num_frames_header != len(labels.labels):
            uneven.append(_Uneven(video.video_id, video.num_frames_header, len(labels.labels)))
        duration = num_steps / features.fps
        found[-1] = replace(video, num_frames_header=num_steps, duration_seconds_header=duration)
        segments += runs(video.video_id, labels.labels[:num_steps], features.fps)
    refuse(dataset.folder / "card.yaml", problems)
    if not segments:
        where = f"column {frames.column!r}" if frames.column is not None else f"{media / str(frames.folder)}"
        raise DataError(
            f"{media}: not one of the features' files has labels in {where}; expected NAME.txt for NAME.npy"
        )
    return found, segments, _notes(uneven)


def runs(video_id: str, labels: Sequence[str], fps: float) -> list[Segment]:
    """Segments of equal labels, one label a timestep; stretches of empty labels are left out.

    >>> [(s.start_seconds, s.end_seconds, s.label) for s in runs("a.npy", ["x", "x", "y", ""], fps=2)]
    [(0.0, 1.0, 'x'), (1.0, 1.5, 'y')]
    """
    found = []
    start = 0
    for label, same in groupby(labels):
        end = start + len(list(same))
        if label:
            found.append(Segment(video_id, start / fps, end / fps, label))
        start = end
    return found


def read_label_file(path: Path) -> list[str]:
    """A label a line, in UTF-8; empty lines at the end are none. Raises DataError naming an empty line elsewhere."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the labels cannot be read ({error})") from None
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(f"{path}, row {lines.index('') + 1}: no label; expected one a line")
    return lines


def check_mapping(path: Path, names: Sequence[str]) -> None:
    """Compare a mapping of lines `index name` with the classes (and background); raises DataError with what differs."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the mapping cannot be read ({error})") from None
    mapped: list[str] = []
    problems = []
    for row, line in enumerate(lines, start=1):
        parts = line.split(maxsplit=1)
        if not parts:
            continue
        if len(parts) != 2 or not parts[0].isdecimal():
            problems.append(f"row {row}: {line.strip()!r}; expected a number and a class name")
        elif parts[1].strip() in mapped:
            problems.append(f"row {row}: {parts[1].strip()!r} is given twice")
        else:
            mapped.append(parts[1].strip())
    refuse(path, problems)
    unknown = [name for name in mapped if name not in names]
    lacking = [name for name in names if name not in mapped]
    if unknown or lacking:
        raise DataError(
            f"{path}: not the classes of classes.txt with the background "
            f"(only here: {', '.join(unknown) or 'none'}; only there: {', '.join(lacking) or 'none'}); "
            "change classes.txt or `background` in the card"
        )


@dataclass(frozen=True)
class _Labels:
    """A recording's labels, where they stand, and the row of the first."""

    labels: list[str]
    where: str
    first_row: int

    def first_rows(self) -> dict[str, int]:
        """The row in which each label stands first."""
        rows: dict[str, int] = {}
        for row, label in enumerate(self.labels, start=self.first_row):
            rows.setdefault(label, row)
        return rows


@dataclass(frozen=True)
class _Uneven:
    video_id: str
    num_steps: int
    num_labels: int


def _labels_of(video: Video, frames: FrameLabels, folder: str, media: Path) -> _Labels | None:
    if frames.folder is not None:
        name = PurePosixPath(video.video_id).relative_to(folder).with_suffix(".txt")
        path = media / frames.folder / name
        return _Labels(read_label_file(path), str(path), 1) if path.exists() else None
    if video.codec != "csv":
        return None
    try:
        return _Labels(read_csv_features(media / video.video_id, frames.column)[1], str(media / video.video_id), 2)
    except (OSError, RejectedVideo) as error:
        raise DataError(f"{media / video.video_id}: {error}") from None


def _names_given_twice(videos: Sequence[Video]) -> list[str]:
    """Files whose names differ in their ending alone: labels and splits could not tell them apart."""
    first: dict[str, str] = {}
    problems = []
    for video in videos:
        if video.status == "ok":
            before = first.setdefault(str(PurePosixPath(video.video_id).with_suffix("")), video.video_id)
            if before != video.video_id:
                problems.append(f"{video.video_id!r} and {before!r} are both features of one recording; remove one")
    return problems


def _notes(uneven: Sequence[_Uneven]) -> list[str]:
    if not uneven:
        return []
    most = max(uneven, key=lambda one: abs(one.num_steps - one.num_labels))
    return [
        f"{len(uneven)} recording(s) have features and labels of different lengths, and were cut to the shorter; "
        f"most in {most.video_id!r}: {most.num_steps} timesteps, {most.num_labels} labels"
    ]
