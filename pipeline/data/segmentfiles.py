"""Segments as annotation tools write them: tables, ELAN, WebVTT, SubRip, ActivityNet's and Label Studio's JSON.

Only reading: what a segment says is judged in annotations.py. Files are told apart by their ending.
"""

import html
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from pipeline.data.tables import Segment, read_csv
from pipeline.errors import DataError

TIER = "label"  # which `lrcn predict --export elan` writes
OUTPUT_ID = re.compile(r"-[0-9a-f]{12}$")  # which `lrcn predict` appends to the names of what it writes
OWN_SCORE = re.compile(r" \d{1,3} %( \(unsure\))?$")  # of its subtitles
CUE_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})"
CUE = re.compile(rf"{CUE_TIME}\s+-->\s+{CUE_TIME}")


@dataclass
class StatedSegments:
    """What files say, in their order. where: of each segment, for messages. notes: what was left out."""

    segments: list[tuple[str, Segment]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def segment_files(media: Path, names: Sequence[str]) -> list[str]:
    """Paths, below the media folder, of the files that a card's `segments` name; of a pattern in their bytes' order.

    A pattern passes over hidden files, as a shell does. Raises DataError for one that fits no file.
    """
    files: list[str] = []
    for name in names:
        if "*" not in name and "?" not in name:
            files.append(name)
            continue
        paths = [path.relative_to(media) for path in media.glob(name) if path.is_file()]
        found = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
        if not found:
            raise DataError(f"{media / name}: no file fits this pattern; expected the segments that the card names")
        files += sorted(found, key=os.fsencode)
    return list(dict.fromkeys(files))


def read_segment_files(media: Path, files: Sequence[str], video_ids: Sequence[str]) -> StatedSegments:
    """The segments in files below the media folder, see `segment_files`.

    `.eaf`: ELAN, the tier `label` or else the only one. `.vtt`, `.srt`: a cue is a segment. `.json`: ActivityNet's
    `database` or `results`, or an export of Label Studio. Any other: a table with the columns path, start_seconds,
    end_seconds, label. A file of one video belongs to the one of `video_ids` that it names or is named like.

    Raises DataError for a file that cannot be read at all; other faults are in `problems`.
    """
    stated = StatedSegments()
    names = _Names(video_ids)
    readers = {".eaf": _elan, ".vtt": _subtitles, ".srt": _subtitles, ".json": _json}
    for file in files:
        reader = readers.get(PurePosixPath(file).suffix.lower())
        if reader is not None:
            reader(media, file, names, stated)
        else:
            _table(media, file, "" if len(files) == 1 else f"{file}, ", stated)
    return stated


class _Names:
    """Videos by what a file beside them may call them."""

    def __init__(self, video_ids: Sequence[str]) -> None:
        self._ids = set(video_ids)
        self._by_name: dict[str, set[str]] = {}
        for video_id in video_ids:
            path = PurePosixPath(video_id)
            for name in {path.name, path.stem, _harmless(path.name), _harmless(path.stem)}:
                self._by_name.setdefault(name, set()).add(video_id)

    def find(self, *names: str, beside: str = "") -> list[str]:
        """Videos of which the first of the names is path, file name or stem; those in the folder `beside`, if any."""
        for name in names:
            if name in self._ids:
                return [name]
            found = sorted(self._by_name.get(PurePosixPath(name).name, ()))
            near = [video_id for video_id in found if str(PurePosixPath(video_id).parent) == beside]
            if near or found:
                return near or found
        return []

    def find_for(self, file: str, stated: StatedSegments, named: str = "") -> str | None:
        """The video that a file of one video is about; a problem when it is not just one."""
        path = PurePosixPath(file)
        stem = OUTPUT_ID.sub("", path.stem)
        media = [PurePosixPath(name).name for name in (named, unquote(named))]
        found = self.find(*filter(None, [*media, stem]), beside=str(path.parent))
        if len(found) == 1:
            return found[0]
        which = (
            f"may belong to {found[0]!r} and to {found[1]!r}" if found else "belongs to no video of the media folder"
        )
        stated.problems.append(f"{file}: {which}; name it like its video, and put it beside it")
        return None


def _harmless(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _table(media: Path, file: str, where: str, stated: StatedSegments) -> None:
    for row, cells in read_csv(media / file, ["path", "start_seconds", "end_seconds", "label"]):
        video_id, start, end = str(PurePosixPath(cells["path"])), cells["start_seconds"], cells["end_seconds"]
        try:
            stated.segments.append((f"{where}row {row}", Segment(video_id, float(start), float(end), cells["label"])))
        except ValueError:
            stated.problems.append(f"{where}row {row}: {start!r} to {end!r}; expected seconds")


def _elan(media: Path, file: str, names: _Names, stated: StatedSegments) -> None:
    try:
        document = ET.fromstring(_bytes(media / file))
        slots = {slot.attrib["TIME_SLOT_ID"]: slot.get("TIME_VALUE") for slot in document.iter("TIME_SLOT")}
        tiers = {tier.attrib["TIER_ID"]: list(tier.iter("ALIGNABLE_ANNOTATION")) for tier in document.iter("TIER")}
    except (ET.ParseError, KeyError) as error:
        raise DataError(f"{media / file}: no ELAN document ({error}); save it with ELAN again") from None
    descriptor = document.find("HEADER/MEDIA_DESCRIPTOR")
    named = "" if descriptor is None else descriptor.get("MEDIA_URL", "")
    filled = [name for name, annotations in tiers.items() if annotations]
    chosen = TIER if TIER in tiers else filled[0] if len(filled) == 1 else None
    if chosen is None and filled:
        stated.problems.append(f"{file}: has the tiers {', '.join(filled)}; name the one with the labels {TIER!r}")
    video_id = names.find_for(file, stated, named)
    if chosen is None or video_id is None:
        return
    for annotation in tiers[chosen]:
        where = f"{file}, annotation {annotation.get('ANNOTATION_ID')}"
        ends = [slots.get(annotation.get(f"TIME_SLOT_REF{number}", "")) for number in (1, 2)]
        if not all(end is not None and end.isdecimal() for end in ends):
            stated.problems.append(f"{where}: has no time; give it one in ELAN")
            continue
        start, end = (int(str(end)) / 1000 for end in ends)
        label = (annotation.findtext("ANNOTATION_VALUE") or "").strip()
        stated.segments.append((where, Segment(video_id, start, end, label)))


def _subtitles(media: Path, file: str, names: _Names, stated: StatedSegments) -> None:
    """A cue's text is a label, without tags, and without the probability that our own subtitles show behind it."""
    is_webvtt = file.lower().endswith(".vtt")
    try:
        text = _bytes(media / file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{media / file}: is no UTF-8 ({error.reason}); save it as UTF-8") from None
    if is_webvtt and not text.startswith("WEBVTT"):
        raise DataError(f"{media / file}: does not begin with WEBVTT; expected subtitles in that format")
    video_id = names.find_for(file, stated)
    if video_id is None:
        return
    blocks = [block.split("\n") for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n"))]
    number = 0
    for lines in blocks:
        timed = next((place for place, line in enumerate(lines[:3]) if "-->" in line), None)
        if timed is None:
            continue  # the head, notes and styles of WebVTT
        number += 1
        where, time = f"{file}, cue {number}", CUE.search(lines[timed])
        if time is None:
            stated.problems.append(f"{where}: {lines[timed]!r}; expected 00:00:01.500 --> 00:00:02.500")
            continue
        words = re.sub(r"<[^>]*>|\{\\[^}]*\}", "", " ".join(lines[timed + 1 :]))
        if is_webvtt:
            words = html.unescape(words)
        else:
            words = words.replace("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "<")
            words = words.replace("\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", ">")
        label = OWN_SCORE.sub("", " ".join(words.split()))
        cells = time.groups()
        stated.segments.append((where, Segment(video_id, _seconds(cells[:4]), _seconds(cells[4:]), label)))


def _seconds(cells: Sequence[str | None]) -> float:
    hours, minutes, seconds, milliseconds = (int(cell or 0) for cell in cells)
    return round(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000, 3)


def _json(media: Path, file: str, names: _Names, stated: StatedSegments) -> None:
    """ActivityNet's `database` (or `results`, which carry scores), or the JSON export of a project of Label Studio."""
    try:
        document = json.loads(_bytes(media / file))
    except ValueError as error:
        raise DataError(f"{media / file}: no JSON ({error})") from None
    missing = []
    try:
        for name, segments in _label_studio(document) if isinstance(document, list) else _activitynet(document):
            found = names.find(name, name.removeprefix("v_"), f"v_{name}")
            if len(found) > 1:
                stated.problems.append(f"{file}: {name!r} may be {found[0]!r} and {found[1]!r}")
            if not found and segments:
                missing.append(name)
            for number, (start, end, label) in enumerate(segments, start=1):
                if len(found) == 1:
                    where = f"{file}, {name!r}, segment {number}"
                    stated.segments.append((where, Segment(found[0], float(start), float(end), str(label))))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{media / file}: neither ActivityNet's nor Label Studio's segments ({type(error).__name__}: {error}); "
            "see docs/segments.md"
        ) from None
    if missing:
        what = f"{len(missing)} video(s) with segments are not in the media folder"
        stated.notes.append(f"{file}: {what}, {missing[0]!r} first")


def _activitynet(document: dict[str, Any]) -> Iterator[tuple[str, list[tuple[Any, Any, Any]]]]:
    videos = document["database"] if "database" in document else document["results"]
    for name, video in videos.items():
        annotations = video if isinstance(video, list) else video.get("annotations", [])
        yield name, [(*one["segment"], one["label"]) for one in annotations]


def _label_studio(tasks: list[Any]) -> Iterator[tuple[str, list[tuple[Any, Any, Any]]]]:
    """Ranges count frames from 1, the last one included; `data.fps` is what our own export gives with each task."""
    for task in tasks:
        data = task["data"]
        name = data.get("path") or unquote(data["video"])
        found = []
        for annotation in task.get("annotations", [])[-1:]:  # of several annotators the last
            for region in annotation["result"]:
                if region.get("type") == "timelinelabels":
                    for part in region["value"]["ranges"]:
                        start, end = (part["start"] - 1) / data["fps"], part["end"] / data["fps"]
                        found += [(start, end, label) for label in region["value"]["timelinelabels"]]
        yield name, found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
