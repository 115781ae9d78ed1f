"""Export for ELAN: one `.eaf` for each video, EAF 3.0.

The order of the elements and their attributes are those of the schema, https://www.mpi.nl/tools/elan/EAFv3.0.xsd;
see "EAF Annotation Format 3.0 and ELAN", Max Planck Institute for Psycholinguistics, 2017.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import update_text
from pipeline.inference.answers import Answer, Segment, output_name
from pipeline.inference.exports import NO_VIDEO, NOT_UTF8, LeftOut, is_utf8
from pipeline.inference.results import DIGITS
from pipeline.inference.resultsettings import AddAnswer, ResultSettings
from pipeline.inference.subtitles import milliseconds, one_line, remove_others, storable
from pipeline.remotenames import is_url

XSI = "http://www.w3.org/2001/XMLSchema-instance"
DATE = "1970-01-01T00:00:00Z"  # the schema wants one; the same answers give the same file on any day
MIME_TYPES = {".mov": "video/quicktime", ".mp4": "video/mp4", ".mpeg": "video/mpeg", ".mpg": "video/mpeg"}


@contextmanager
def writing_elan(folder: Path, settings: ResultSettings, left_out: LeftOut) -> Iterator[AddAnswer]:
    """Write `elan/<output_name>.eaf` of each answered video; those of other videos go at the end.

    folder: `exports` in the folder of results.
    """
    elan, written = folder / "elan", set[str]()

    def add(answer: Answer, timeline: Sequence[Segment]) -> None:
        if not answer.is_answered:
            return
        if answer.video is None:
            left_out.add("elan", NO_VIDEO, answer.path)
        elif not is_utf8(answer.path):
            left_out.add("elan", NOT_UTF8, answer.path)
        else:
            name = f"{output_name(answer.path)}.eaf"
            update_text(elan / name, eaf(answer.path, timeline, elan))
            written.add(name)

    yield add
    remove_others(elan, (".eaf",), written)


def eaf(path: str, timeline: Sequence[Segment], folder: Path) -> str:
    """A timeline as an ELAN document that lies in `folder`.

    Labels are in the tier `label`, their probabilities in the tier `score` below it. ELAN takes what follows `file://`
    for a path as it is (`FileUtility.urlToAbsPath` in its source), so nothing in it is escaped but for XML.
    """
    ET.register_namespace("xsi", XSI)
    document = ET.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "lrcn",
            "DATE": DATE,
            "FORMAT": "3.0",
            "VERSION": "3.0",
            f"{{{XSI}}}noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )
    address = f"file://{storable(os.path.abspath(path))}"  # noqa: PTH100
    relative = os.path.relpath(os.path.abspath(path), folder)  # noqa: PTH100
    if is_url(path):  # ELAN plays from HTTP; from an object store it takes a copy beside the document
        address, relative = storable(path), f"./{path.rpartition('/')[2]}"
    header = ET.SubElement(document, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    ET.SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        {
            "MEDIA_URL": address,
            "MIME_TYPE": MIME_TYPES.get(os.path.splitext(path)[1].lower(), "video/*"),  # noqa: PTH122
            "RELATIVE_MEDIA_URL": storable(relative if relative.startswith(".") else f"./{relative}"),
        },
    )
    slots = ET.SubElement(document, "TIME_ORDER")
    labels = ET.SubElement(document, "TIER", {"TIER_ID": "label", "LINGUISTIC_TYPE_REF": "label", "ANNOTATOR": "lrcn"})
    scores = ET.SubElement(
        document,
        "TIER",
        {"TIER_ID": "score", "LINGUISTIC_TYPE_REF": "score", "PARENT_REF": "label", "ANNOTATOR": "lrcn"},
    )
    for number, (segment, times) in enumerate(zip(timeline, milliseconds(timeline), strict=True), start=1):
        begin, end = f"ts{2 * number - 1}", f"ts{2 * number}"
        for slot, time in zip((begin, end), times, strict=True):
            ET.SubElement(slots, "TIME_SLOT", {"TIME_SLOT_ID": slot, "TIME_VALUE": str(time)})
        stretch = ET.SubElement(
            ET.SubElement(labels, "ANNOTATION"),
            "ALIGNABLE_ANNOTATION",
            {"ANNOTATION_ID": f"a{number}", "TIME_SLOT_REF1": begin, "TIME_SLOT_REF2": end},
        )
        ET.SubElement(stretch, "ANNOTATION_VALUE").text = one_line(segment.label)
        score = ET.SubElement(
            ET.SubElement(scores, "ANNOTATION"),
            "REF_ANNOTATION",
            {"ANNOTATION_ID": f"s{number}", "ANNOTATION_REF": f"a{number}"},
        )
        ET.SubElement(score, "ANNOTATION_VALUE").text = str(round(segment.score, DIGITS))
    kinds: dict[str, dict[str, str]] = {"label": {}, "score": {"CONSTRAINTS": "Symbolic_Association"}}
    for name, constraint in kinds.items():
        alignable = "false" if constraint else "true"
        facts = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": name, "TIME_ALIGNABLE": alignable}
        ET.SubElement(document, "LINGUISTIC_TYPE", facts | constraint)
    about = {"DESCRIPTION": "1-1 association with a parent annotation", "STEREOTYPE": "Symbolic_Association"}
    ET.SubElement(document, "CONSTRAINT", about)
    ET.indent(document, "    ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(document, encoding="unicode")}\n'
