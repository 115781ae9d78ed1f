"""Labels and segments as a data set states them: folders named like classes, a table of labels, a table of segments."""

import difflib
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath

from pipeline.data.segmentfiles import read_segment_files
from pipeline.data.tables import Segment, Video, read_csv, refuse

Ends = tuple[float, float]  # seconds: when the last frame of a video is over, and the latest end that is let pass
HEADER_TOLERANCE_SECONDS = 0.1  # headers round, and annotators stop at the last frame they see


@dataclass(frozen=True)
class LabelTable:
    """A table of labels: the label of each file it lists ("" without one), further columns, and each file's row."""

    labels: dict[str, str]
    columns: dict[str, dict[str, str]]
    rows: dict[str, int]


def folder_labels(video_ids: Iterable[str], root: str, classes: Sequence[str], media: Path) -> dict[str, str]:
    """Label of each video: the first folder below `root` that is named like a class; "" outside of any folder.

    Raises DataError for videos in folders none of which is a class.
    """
    labels: dict[str, str] = {}
    strangers: dict[str, list[str]] = {}
    for video_id in video_ids:
        path = PurePosixPath(video_id)
        folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
        labels[video_id] = next((folder for folder in folders if folder in classes), "")
        if folders and not labels[video_id]:
            strangers.setdefault(str(path.parent), []).append(video_id)
    refuse(
        media,
        [
            f"folder {folder!r} ({len(found)} video(s), {found[0]!r} first) is no class"
            f"{_near(folder, tuple(classes))}; rename it, move it out of the media folder, or add it to classes.txt"
            for folder, found in sorted(strangers.items())
        ],
    )
    return labels


def read_label_table(
    path: Path,
    *,
    path_column: str,
    label_column: str,
    columns: Iterable[str],
    files: Collection[str],
    classes: Sequence[str],
) -> LabelTable:
    """Read a table of labels; raises DataError naming the row of every problem.

    Refused: a path that is no file of the media folder (`files`), a path given twice, a label that is no class.
    """
    columns = list(columns)
    table = LabelTable({}, {name: {} for name in columns}, {})
    problems = []
    for row, cells in read_csv(path, [path_column, label_column, *columns]):
        video_id, label = str(PurePosixPath(cells[path_column])), cells[label_column]
        if table.rows.setdefault(video_id, row) != row:
            problems.append(f"row {row}: {video_id!r} stands in row {table.rows[video_id]} already")
        if video_id not in files:
            problems.append(f"row {row}: {cells[path_column]!r} is no file of the media folder")
        if label and label not in classes:
            problems.append(f"row {row}: label {label!r} is no class{_near(label, tuple(classes))}")
        table.labels[video_id] = label
        for name in columns:
            table.columns[name][video_id] = cells[name]
    refuse(path, problems)
    return table


def read_segments_of(
    media: Path,
    files: Sequence[str],
    videos: Mapping[str, Video],
    names: Sequence[str],
    measure: Callable[[str], Ends | None] = lambda video_id: None,
) -> tuple[list[Segment], list[str]]:
    """The segments in files below the media folder, sorted by video and time, and notes for the user.

    names: the classes and the background. Refused, by a DataError that names the place of each: a path that is no file
    of the media folder, a label that is no class, a segment that ends before it starts or after its video, and one that
    overlaps another of its video. measure: the ends of a video as decoding finds them, or None; asked only where the
    header, which may be wrong, ends before a segment. Where it states no duration, `check_ends` tells after decoding.
    """
    measured = lru_cache(maxsize=None)(measure)
    stated = read_segment_files(media, files, [video_id for video_id, video in videos.items() if video.status == "ok"])
    segments, problems = stated.segments, stated.problems
    for where, segment in segments:
        video_id = segment.video_id
        if video_id not in videos:
            problems.append(f"{where}: {video_id!r} is no file of the media folder")
        if segment.label not in names:
            problems.append(f"{where}: label {segment.label!r} is no class{_near(segment.label, tuple(names))}")
        elif problem := segment.problem():
            problems.append(f"{where}: {problem}")
        lasts = _stated_seconds(videos.get(video_id))
        if lasts + _slack_seconds(videos.get(video_id)) < segment.end_seconds:
            end, latest = measured(video_id) or (lasts, lasts)
            if latest < segment.end_seconds:
                problems.append(f"{where}: {_after_its_video(segment, end)}")
    segments.sort(key=lambda item: (os.fsencode(item[1].video_id), item[1].start_seconds, item[1].end_seconds))
    for (where, earlier), (next_where, later) in pairwise(segments):
        if later.video_id == earlier.video_id and later.start_seconds < earlier.end_seconds:
            problems.append(
                f"{next_where}: segment from {later.start_seconds} s overlaps that of {where}, "
                f"which ends at {earlier.end_seconds} s ({later.video_id!r})"
            )
    refuse(media / files[0] if len(files) == 1 else media, problems)
    return [segment for _, segment in segments], stated.notes


def check_ends(path: Path, segments: Sequence[Segment], ends: Mapping[str, Ends]) -> None:
    """Refuse segments that end after their video's last frame; raises DataError naming every bad row.

    path: the written table, in whose order the segments stand. ends: of decoded videos; others are not checked.
    """
    refuse(
        path,
        [
            f"row {row}: {segment.label!r}: {_after_its_video(segment, ends[segment.video_id][0])}; "
            "mend the data set's own table and run the index stage again"
            for row, segment in enumerate(segments, start=2)
            if segment.video_id in ends and segment.end_seconds > ends[segment.video_id][1]
        ],
    )


def _after_its_video(segment: Segment, lasts_seconds: float) -> str:
    return (
        f"segment ends at {segment.end_seconds} s, after its video {segment.video_id!r}, "
        f"which lasts {round(lasts_seconds, 3)} s"
    )


def _stated_seconds(video: Video | None) -> float:
    return math.inf if video is None or not video.duration_seconds_header else video.duration_seconds_header


def _slack_seconds(video: Video | None) -> float:
    return max(HEADER_TOLERANCE_SECONDS, 1 / video.fps_header if video is not None and video.fps_header else 0.0)


@lru_cache
def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""
