"""Exports for other tools as JSON: ActivityNet, Label Studio, FiftyOne. ELAN's are in elan.py.

Media are named by their absolute path; nothing is copied. Videos without a timeline of frames that a tool needs are
left out and counted.
"""

import json
import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pipeline.files import replacing, update_text
from pipeline.inference.answers import Answer, Segment, VideoFacts, output_name
from pipeline.inference.results import DIGITS
from pipeline.inference.resultsettings import AddAnswer, ResultSettings
from pipeline.inference.subtitles import one_line
from pipeline.remotenames import is_url

NO_VIDEO = "they are ready-made features, not videos"
NO_RATE = "their frame rate is unknown"
NOT_LOCAL = "they are at an address, and FiftyOne opens local files alone"
NOT_UTF8 = "their name is no UTF-8, which this format cannot hold"


class LeftOut:
    """What exports left out, to say so in a line each."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, export: str, reason: str, path: str) -> None:
        """Count a video that an export leaves out."""
        count, first = self._found.get((export, reason), (0, path))
        self._found[export, reason] = (count + 1, first)

    def lines(self) -> list[str]:
        """A line for each export and reason."""
        return [
            f"export {export}: {count} video(s) left out, first {first}: {reason}"
            for (export, reason), (count, first) in sorted(self._found.items())
        ]


@contextmanager
def writing_activitynet(folder: Path, settings: ResultSettings, left_out: LeftOut) -> Iterator[AddAnswer]:
    """`activitynet.json`, as submitted to the detection task of the ActivityNet challenge.

    `version`, `external_data`, and `results`: for each video, named by its path, a list of `segment` (seconds), `label`
    and `score`. The three keys are those that `_import_prediction` in the challenge's `eval_detection.py` asks for.
    """
    head = '{"version": "VERSION 1.3", "external_data": {"used": false}, "results": {\n'
    with _writing_items(folder / "activitynet.json", head, "\n}}\n") as add_item:

        def add(answer: Answer, timeline: Sequence[Segment]) -> None:
            if answer.is_answered:
                found = [
                    {"segment": [s.start_seconds, s.end_seconds], "label": s.label, "score": round(s.score, DIGITS)}
                    for s in timeline
                ]
                add_item(f"{json.dumps(answer.path)}: {json.dumps(found)}")

        yield add


@contextmanager
def writing_label_studio(folder: Path, settings: ResultSettings, left_out: LeftOut) -> Iterator[AddAnswer]:
    """`label_studio.json`, tasks with predictions, and `label_studio.xml`, the labelling interface they belong to.

    Regions are those of the tag `TimelineLabels`: ranges of frames, counted from 1, the last one included. The rate
    comes with each task, as `fps`. Videos are served by Label Studio itself, which has to be started with `/` as its
    document root: https://labelstud.io/tags/timelinelabels, https://labelstud.io/guide/storage#Local-storage.
    """
    with _writing_items(folder / "label_studio.json", "[\n", "\n]\n") as add_item:

        def add(answer: Answer, timeline: Sequence[Segment]) -> None:
            known = _playable(answer, "label-studio", left_out)
            if known is None:
                return
            video, fps = known
            regions = []
            for number, segment in enumerate(timeline, start=1):
                first, last = frames_of(segment, fps, video.num_frames)
                value = {"ranges": [{"start": first, "end": last}], "timelinelabels": [one_line(segment.label)]}
                regions.append(
                    {
                        "id": f"segment{number}",
                        "from_name": "timeline",
                        "to_name": "video",
                        "type": "timelinelabels",
                        "score": round(segment.score, DIGITS),
                        "value": value,
                    }
                )
            lowest = round(min((segment.score for segment in timeline), default=0.0), DIGITS)
            served = f"/data/local-files/?d={quote(_absolute(answer.path).lstrip('/'))}"
            served = answer.path if is_url(answer.path) else served  # Label Studio reads object stores and HTTP itself
            task = {
                "data": {"video": served, "fps": round(fps, DIGITS), "path": answer.path},
                "predictions": [{"model_version": settings.model, "score": lowest, "result": regions}],
            }
            add_item(json.dumps(task))

        yield add
    view = ET.Element("View")
    ET.SubElement(view, "Video", {"name": "video", "value": "$video", "frameRate": "$fps", "timelineHeight": "120"})
    labels = ET.SubElement(view, "TimelineLabels", {"name": "timeline", "toName": "video"})
    for name in settings.classes:
        if name != settings.background:
            ET.SubElement(labels, "Label", {"value": one_line(name)})
    ET.indent(view)
    update_text(folder / "label_studio.xml", ET.tostring(view, encoding="unicode") + "\n")


@contextmanager
def writing_fiftyone(folder: Path, settings: ResultSettings, left_out: LeftOut) -> Iterator[AddAnswer]:
    """`fiftyone/data.json` and `labels.json`: a FiftyOneTemporalDetectionDataset.

    `support`: first and last frame, counted from 1, both included; `label`: index into `classes`. The importer takes
    what follows the last dot of an id for a file's ending and drops it, so ids have no dots:
    https://docs.voxel51.com/user_guide/import_datasets.html#fiftyonetemporaldetectiondataset.
    """
    index = {name: k for k, name in enumerate(settings.classes)}
    head = f'{{"classes": {json.dumps(list(settings.classes))}, "labels": {{\n'
    with (
        _writing_items(folder / "fiftyone" / "data.json", "{\n", "\n}\n") as add_video,
        _writing_items(folder / "fiftyone" / "labels.json", head, "\n}}\n") as add_labels,
    ):

        def add(answer: Answer, timeline: Sequence[Segment]) -> None:
            known = _playable(answer, "fiftyone", left_out)
            if known is None:
                return
            if is_url(answer.path):
                left_out.add("fiftyone", NOT_LOCAL, answer.path)
                return
            video, fps = known
            name = json.dumps(output_name(answer.path).replace(".", "_"))
            found = [
                {
                    "label": index[segment.label],
                    "support": frames_of(segment, fps, video.num_frames),
                    "confidence": round(segment.score, DIGITS),
                }
                for segment in timeline
            ]
            add_video(f"{name}: {json.dumps(_absolute(answer.path))}")
            add_labels(f"{name}: {json.dumps(found)}")

        yield add


def frames_of(segment: Segment, fps: float, num_frames: int) -> tuple[int, int]:
    """First and last frame of a segment, counted from 1, both included; segments that meet share no frame.

    >>> frames_of(Segment(0.0, 0.5, "sit", 1.0), 25.0, 100), frames_of(Segment(0.5, 1.0, "stand", 1.0), 25.0, 100)
    ((1, 13), (14, 25))
    """
    first, last = (math.floor(seconds * fps + 0.5) for seconds in (segment.start_seconds, segment.end_seconds))
    first = min(first + 1, num_frames)
    return first, min(max(last, first), num_frames)


def is_utf8(path: str) -> bool:
    """Whether a name can be written down as text."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _playable(answer: Answer, export: str, left_out: LeftOut) -> tuple[VideoFacts, float] | None:
    """A video and its frame rate, None where a tool that counts in frames cannot take it."""
    if not answer.is_answered:
        return None
    fps = None if answer.video is None else answer.video.fps
    if answer.video is None:
        left_out.add(export, NO_VIDEO, answer.path)
    elif not is_utf8(answer.path):
        left_out.add(export, NOT_UTF8, answer.path)
    elif fps is None:
        left_out.add(export, NO_RATE, answer.path)
    else:
        return answer.video, fps
    return None


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links keep their own names


@contextmanager
def _writing_items(path: Path, head: str, tail: str) -> Iterator[Callable[[str], None]]:
    """JSON with many items, which are not kept: gives the function that adds one."""
    with replacing(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write(head)
        separator = ""

        def add(item: str) -> None:
            nonlocal separator
            file.write(separator + item)
            separator = ",\n"

        yield add
        file.write(tail)
