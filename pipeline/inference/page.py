"""`report.html` in a folder of results: one page to look through what was said of each file, the worst first."""

import base64
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote, quote_from_bytes

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.files import write_text
from pipeline.inference.answers import Answer, Status, output_name
from pipeline.inference.results import DIGITS, RESULT_COLUMNS, is_sure
from pipeline.remotenames import is_url

HERE = Path(__file__).parent
PAGE = "report.html"
SCRIPTS = ("pagetable.js", "pagedetail.js", "page.js")
# What a row of the page's data is made of; the script names its values by this list.
FIELDS = (
    "path", "name", "url", "outputs", "status", "reason", "label", "score", "runner_up", "runner_up_score", "frames",
    "seconds", "confidence", "sure", "scores", "segments", "video",
)  # fmt: skip
WEB = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?=/)")
OUTPUTS = (
    ("thumbnails", "jpg"), ("overlays", "mp4"), ("subtitles", "vtt"), ("subtitles", "srt"), ("frames", "parquet"),
)  # fmt: skip
BESIDE = (
    "results.csv", "predictions.jsonl", "segments.csv", "subtitles", "frames", "overlays", "thumbnails", "exports",
)  # fmt: skip
MAX_SCORES = 24  # of several hundred classes the page holds the best; predictions.jsonl has them all
SHORT_DIGITS = 4  # of the scores that are only drawn
WORST_FIRST: tuple[Status, ...] = ("failed", "rejected", "damaged", "ok")
STATUSES: Mapping[Status, str] = {
    "ok": "read to its end and labelled",
    "damaged": "labelled by the part that could be read",
    "rejected": "no picture in it could be read",
    "failed": "not labelled; the next run looks at it again",
}


def write_page(
    folder: Path,
    answers: Iterable[Answer],
    *,
    threshold: float | None,
    task: str,
    classes: Sequence[str],
    model: str,
    precision: float,
    background: str | None = None,
) -> None:
    """Write `report.html` into a folder of results, whole or not at all; the same folder gives the same bytes.

    The page shows the thumbnails, overlays and subtitles that are in the folder by now, and plays the files where they
    lie: it names them relative to the folder, and from the root of the file system in case the page was moved.

    Args:
        folder: the folder of results.
        answers: one for each file, in any order, with the segments as they are to be shown; read once.
        threshold: lowest probability of an answer that is sure, None where no answer is.
        task: `clip` or `frame`.
        classes: class names in the order of the scores.
        model: what the model is called.
        precision: share of the sure answers that were to be right, in (0, 1).
        background: the class of a frame model that stands for no action.

    Raises:
        StoreError: the disk is full.
        ValueError: an answer has a label that is none of the classes.
    """
    index = {name: place for place, name in enumerate(classes)}
    present = {kind: {entry.name for entry in _scan(folder / kind)} for kind, _ in OUTPUTS}
    ranked: list[tuple[tuple[int, bool, float, bytes], dict[str, Any]]] = []
    playable: list[dict[str, Any]] = []
    labels: Counter[str] = Counter()
    for answer in answers:  # of several thousand only what the page shows is kept
        row = _row(answer, present, index, threshold=threshold, task=task)
        ranked.append((_badness(answer, threshold, task), row))
        if not is_url(answer.path) and _is_playable(answer):
            playable.append(row)
        if answer.is_answered:
            labels.update({part.label for part in answer.segments if task == "frame"} | {answer.label})
    rows = [row for _, row in sorted(ranked, key=lambda item: item[0])]
    root = _common_folder([row["path"] for row in playable])
    for row in playable:
        row["url"] = relative_url(row["path"], root)
    origins = {origin for row in rows if (origin := _linked(row))}
    data = {
        "task": task,
        "classes": list(classes),
        "background": background,
        "threshold": threshold,
        "csvColumns": RESULT_COLUMNS,
        "outputs": OUTPUTS,
        # Where the files are: seen from the page, and from the root.
        "roots": [relative_url(root, str(folder)) + "/", absolute_url(root)],
        "fields": FIELDS,
        "rows": [[row[field] for field in FIELDS] for row in rows],
    }
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment = Environment(
        loader=FileSystemLoader([HERE, HERE.parent / "reporting"]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    write_text(
        folder / PAGE,
        environment.get_template("page.html").render(
            total=len(rows),
            labelled=sum(row["label"] is not None for row in rows),
            counts={status: sum(row["status"] == status for row in rows) for status in reversed(WORST_FIRST)},
            statuses=STATUSES,
            labels=sorted(labels.items(), key=lambda item: (-item[1], item[0])),
            num_sure=sum(row["sure"] is True for row in rows),
            threshold=threshold,
            percent=f"{100 * precision:g}\N{NO-BREAK SPACE}%",
            task=task,
            model=_visible(model),
            beside=[name for name in BESIDE if (folder / name).exists()],
            script=Markup(script),
            # Nothing but this very script runs, whatever a file is called, and nothing is asked of a network except the
            # videos that were read from there.
            script_hash=base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode(),
            origins=sorted(origins),
            data=Markup(script_json(data)),
        ),
    )


def _badness(answer: Answer, threshold: float | None, task: str) -> tuple[int, bool, float, bytes]:
    """Worst first: no label, then damaged, then unsure, then the lower confidence; else in path order."""
    confidence = confidence_of(answer, task)
    return (
        WORST_FIRST.index(answer.status),
        is_sure(confidence, threshold),
        -1.0 if confidence is None else confidence,
        os.fsencode(answer.path),
    )


def confidence_of(answer: Answer, task: str) -> float | None:
    """What decides whether a file is worth a look: the score; of a frame model the least sure segment's.

    A frame model's score of a whole video is a share of time, which says nothing about how sure it is.
    """
    if task == "frame" and answer.is_answered:
        return min((segment.score for segment in answer.segments), default=answer.score)
    return answer.score


def _row(
    answer: Answer,
    present: Mapping[str, set[str]],
    index: Mapping[str, int],
    *,
    threshold: float | None,
    task: str,
) -> dict[str, Any]:
    """The values of FIELDS by name: labels as places in the class list, outputs as bits; the address is still empty."""
    name, video, confidence = output_name(answer.path), answer.video, confidence_of(answer, task)
    ranked = sorted(answer.scores.items(), key=lambda item: -item[1])[:MAX_SCORES]
    fps = video and video.fps
    return {
        "path": answer.path,
        "name": name,
        "url": "",
        "outputs": sum(1 << bit for bit, (kind, end) in enumerate(OUTPUTS) if f"{name}.{end}" in present[kind]),
        "status": answer.status,
        "reason": answer.reason,
        "label": _place(answer.label, index),
        "score": _rounded(answer.score),
        "runner_up": _place(answer.runner_up, index),
        "runner_up_score": _rounded(answer.runner_up_score),
        "frames": answer.frames,
        "seconds": answer.seconds,
        "confidence": _rounded(confidence),
        "sure": is_sure(confidence, threshold) if answer.is_answered else None,
        "scores": [value for label, score in ranked for value in (index[label], round(score, SHORT_DIGITS))],
        "segments": [
            value
            for part in answer.segments
            for value in (
                part.start_seconds,
                part.end_seconds,
                index[part.label],
                round(part.score, SHORT_DIGITS),
                int(is_sure(part.score, threshold)),
            )
        ],
        "video": video and [video.width, video.height, video.codec, fps and round(fps, 2)],
    }


def _place(label: str, index: Mapping[str, int]) -> int | None:
    if label and label not in index:
        raise ValueError(f"the label {label!r} is none of the model's {len(index)} classes")
    return index[label] if label else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _is_playable(answer: Answer) -> bool:
    """Whether a browser may show the file: it was decoded, or is one of which only the answer failed."""
    return answer.video is not None or (not answer.is_answered and os.path.isfile(answer.path))  # noqa: PTH113


def _linked(row: dict[str, Any]) -> str:
    """Let a file that was read by HTTP be played from there; its server, or "" for any other file."""
    found = WEB.match(row["path"])
    if found is None or row["video"] is None:
        return ""
    row["url"] = quote(row["path"], safe="%/:=&?~+!$,;'@()*[]")
    return found[0]


def _common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all the files, absolute; `/` of none."""
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}  # noqa: PTH100, PTH120
    return os.path.commonpath(folders) if folders else "/"


def relative_url(path: str, folder: str) -> str:
    """Address of a file seen from a folder, each byte of its name that is no plain character percent-encoded.

    >>> relative_url("clips/what?/caf\\udce9 100%.mp4", "out")
    '../clips/what%3F/caf%E9%20100%25.mp4'
    """
    return quote_from_bytes(os.fsencode(os.path.relpath(path, folder)))


def absolute_url(folder: str) -> str:
    """Address of a folder from the root of the file system, with a slash at its end."""
    return "file://" + quote_from_bytes(os.fsencode(os.path.join(folder, "")))  # noqa: PTH118


def script_json(value: Any) -> str:
    """JSON that may stand inside `<script>`: no text in it ends the element, and what is no UTF-8 is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<\u2028\u2029\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _scan(folder: Path) -> Iterable[os.DirEntry[str]]:
    return os.scandir(folder) if folder.is_dir() else ()


def _visible(text: str) -> str:
    """The text as UTF-8 has it: bytes of a name that are none become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


assert set(STATUSES) == set(WORST_FIRST) == set(get_args(Status))  # a new status needs a place in the order
