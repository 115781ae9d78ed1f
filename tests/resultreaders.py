"""Strict readers of what other tools read: each accepts what its format allows and nothing else.

All give what a file says as (start in seconds, end in seconds, label) for each segment. They share no code with the
writers. Checked once against webvtt-py 0.6.0, srt 3.5.3, pysubs2 1.8.1 and pympi-ling 1.71 on the same files.
"""

import html
import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

Read = list[tuple[float, float, str]]
CUE = r"(?P<words>.+) (?P<percent>\d{1,3}) %(?P<unsure> \(unsure\))?"


def read_vtt(text: str) -> Read:
    """WebVTT: header, blank line, cues of a line of times and one of text, blank lines between them."""
    assert "\r" not in text
    head, *cues = text.removesuffix("\n").split("\n\n")
    assert head.removesuffix("\n") == "WEBVTT"
    found = []
    for cue in cues:
        times, words = cue.split("\n")
        start, end = times.split(" --> ")
        assert "-->" not in words
        assert not re.search(r"[<>]|&(?!(amp|lt|gt);)", words)
        found.append((_seconds(start, "."), _seconds(end, "."), _label(html.unescape(words))))
    return _ordered(found)


def read_srt(text: str) -> Read:
    """SubRip: number, times with a comma, text; blank lines between cues."""
    found = []
    for number, cue in enumerate(text.removesuffix("\n").split("\n\n") if text else [], start=1):
        first, times, words = cue.split("\n")
        assert int(first) == number
        start, end = times.split(" --> ")
        assert not set("<>") & set(words)
        found.append((_seconds(start, ","), _seconds(end, ","), _label(words)))
    return _ordered(found)


def read_eaf(path: Path) -> tuple[Read, list[float], str]:
    """Labels, scores and media URL of an ELAN document: elements in the schema's order, every reference met."""
    document = ET.parse(path).getroot()
    assert document.tag == "ANNOTATION_DOCUMENT"
    assert {"AUTHOR", "DATE", "FORMAT", "VERSION"} <= set(document.attrib)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document.attrib["DATE"])
    order = "HEADER TIME_ORDER TIER+ LINGUISTIC_TYPE+ CONSTRAINT*"
    pattern = "".join(f"({name.rstrip('+*')} ){name[len(name.rstrip('+*')) :]}" for name in order.split())
    assert re.fullmatch(pattern, "".join(f"{child.tag} " for child in document))
    header, slots = document[0], {}
    assert header.attrib["TIME_UNITS"] == "milliseconds"
    (media,) = header.findall("MEDIA_DESCRIPTOR")
    assert {"MEDIA_URL", "MIME_TYPE"} <= set(media.attrib)
    for slot in document.iterfind("TIME_ORDER/TIME_SLOT"):
        assert slot.attrib["TIME_SLOT_ID"] not in slots
        slots[slot.attrib["TIME_SLOT_ID"]] = int(slot.attrib["TIME_VALUE"])
    assert list(slots.values()) == sorted(slots.values())
    kinds = {kind.attrib["LINGUISTIC_TYPE_ID"]: kind for kind in document.iterfind("LINGUISTIC_TYPE")}
    stereotypes = {known.attrib["STEREOTYPE"] for known in document.iterfind("CONSTRAINT")}
    assert {kind.attrib["CONSTRAINTS"] for kind in kinds.values() if "CONSTRAINTS" in kind.attrib} <= stereotypes
    tiers = {tier.attrib["TIER_ID"]: tier for tier in document.iterfind("TIER")}
    assert all(tier.attrib["LINGUISTIC_TYPE_REF"] in kinds for tier in tiers.values())
    found, scores = {}, {}
    for annotation in tiers["label"].iterfind("ANNOTATION/ALIGNABLE_ANNOTATION"):
        start, end = slots[annotation.attrib["TIME_SLOT_REF1"]], slots[annotation.attrib["TIME_SLOT_REF2"]]
        found[annotation.attrib["ANNOTATION_ID"]] = (start / 1000, end / 1000, annotation[0].text)
    assert tiers["score"].attrib["PARENT_REF"] == "label"
    for annotation in tiers["score"].iterfind("ANNOTATION/REF_ANNOTATION"):
        scores[annotation.attrib["ANNOTATION_REF"]] = float(annotation[0].text)
    assert list(scores) == list(found)
    return _ordered(list(found.values())), list(scores.values()), media.attrib["MEDIA_URL"]


def read_activitynet(path: Path) -> dict[str, Read]:
    """As the challenge's `_import_prediction` reads it."""
    data = json.loads(path.read_text(encoding="ascii"))
    assert all(field in data for field in ("results", "version", "external_data"))
    assert all(0 <= result["score"] <= 1 for results in data["results"].values() for result in results)
    return {
        video: [(float(r["segment"][0]), float(r["segment"][1]), r["label"]) for r in results]
        for video, results in data["results"].items()
    }


def read_label_studio(folder: Path) -> dict[str, Read]:
    """Frames, counted from 1 and both included, become seconds by the task's own rate."""
    view = ET.parse(folder / "label_studio.xml").getroot()
    names = {label.attrib["value"] for label in view.iterfind("TimelineLabels/Label")}
    assert view.find("Video").attrib["frameRate"] == "$fps"
    assert view.find("TimelineLabels").attrib["toName"] == view.find("Video").attrib["name"] == "video"
    found = {}
    for task in json.loads((folder / "label_studio.json").read_text(encoding="ascii")):
        assert task["data"]["video"].startswith("/data/local-files/?d=")
        (prediction,) = task["predictions"]
        regions, fps = [], task["data"]["fps"]
        for region in prediction["result"]:
            assert region["type"] == "timelinelabels"
            assert region["from_name"] == view.find("TimelineLabels").attrib["name"]
            (frames,), (label,) = region["value"]["ranges"], region["value"]["timelinelabels"]
            assert label in names
            assert 1 <= frames["start"] <= frames["end"]
            regions.append(((frames["start"] - 1) / fps, frames["end"] / fps, label))
        assert len({region["id"] for region in prediction["result"]}) == len(regions)
        found[task["data"]["path"]] = _ordered(regions)
    return found


def read_fiftyone(folder: Path, fps: float) -> dict[str, Read]:
    """As FiftyOneTemporalDetectionDatasetImporter reads it: what follows the last dot of an id is no part of it."""
    videos = {
        re.sub(r"\.[^.]*$", "", name): path for name, path in json.loads((folder / "data.json").read_text()).items()
    }
    labels = json.loads((folder / "labels.json").read_text(encoding="ascii"))
    assert set(labels["labels"]) == set(videos)
    found = {}
    for name, detections in labels["labels"].items():
        for detection in detections:
            assert 1 <= detection["support"][0] <= detection["support"][1]
            assert 0 <= detection["confidence"] <= 1
        found[videos[name]] = _ordered(
            [((d["support"][0] - 1) / fps, d["support"][1] / fps, labels["classes"][d["label"]]) for d in detections]
        )
    return found


def _ordered(segments: Read) -> Read:
    for start, end, _ in segments:
        assert 0 <= start < end
    for (_, end, _), (start, _, _) in pairwise(segments):
        assert end <= start + 1e-9
    return segments


def _seconds(text: str, point: str) -> float:
    hours, minutes, seconds, rest = re.fullmatch(
        rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(point)}(\d{{3}})", text
    ).groups()
    return (int(hours) * 3_600_000 + int(minutes) * 60_000 + int(seconds + rest)) / 1000


def _label(words: str) -> str:
    return re.fullmatch(CUE, words)["words"]
