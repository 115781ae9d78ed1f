"""Subtitles: what is shown when, as WebVTT (browsers) and SubRip (every other player).

WebVTT: W3C Candidate Recommendation of April 2019, section 4. SubRip has no standard; this is what VLC, mpv, ffmpeg and
the `srt` package for Python read.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

from pipeline.files import update_text
from pipeline.inference.answers import Answer, Segment, is_output_name, output_name
from pipeline.inference.results import is_sure
from pipeline.inference.resultsettings import AddAnswer, ResultSettings


@contextmanager
def writing_subtitles(folder: Path, settings: ResultSettings) -> Iterator[AddAnswer]:
    """Write `<output_name>.vtt` and `.srt` of each video with a timeline; those of other videos go at the end.

    A frame model's answers have a timeline, and a clip model's that are made of several windows.
    """
    written: set[str] = set()

    def add(answer: Answer, timeline: Sequence[Segment]) -> None:
        if answer.is_answered and (settings.task == "frame" or len(answer.segments) > 1):
            name = output_name(answer.path)
            for suffix, text in (
                (".vtt", webvtt(timeline, settings.threshold)),
                (".srt", subrip(timeline, settings.threshold)),
            ):
                update_text(folder / (name + suffix), text)
                written.add(name + suffix)

    yield add
    remove_others(folder, (".vtt", ".srt"), written)


def webvtt(timeline: Sequence[Segment], threshold: float | None) -> str:
    """A timeline as WebVTT; unsure segments say so.

    >>> print(webvtt([Segment(0.5, 61.25, "sit & stand", 0.934)], 0.9), end="")
    WEBVTT
    <BLANKLINE>
    00:00:00.500 --> 00:01:01.250
    sit &amp; stand 93 %
    """
    cues = ["WEBVTT\n"]
    for segment, (start, end) in zip(timeline, milliseconds(timeline), strict=True):
        cues.append(f"{_time(start, '.')} --> {_time(end, '.')}\n{escape(_words(segment, threshold), quote=False)}\n")
    return "\n".join(cues)


def subrip(timeline: Sequence[Segment], threshold: float | None) -> str:
    """A timeline as SubRip; unsure segments say so.

    SubRip has no escapes, and players take `<...>` for a tag: single angle quotes stand for these two characters.
    """
    cues = []
    for number, (segment, (start, end)) in enumerate(zip(timeline, milliseconds(timeline), strict=True), start=1):
        text = _words(segment, threshold).replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")
        text = text.replace(">", "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}")
        cues.append(f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n")
    return "\n".join(cues)


def milliseconds(timeline: Sequence[Segment]) -> list[tuple[int, int]]:
    """Begin and end of each segment; none is empty."""
    times = [(round(segment.start_seconds * 1000), round(segment.end_seconds * 1000)) for segment in timeline]
    return [(start, max(end, start + 1)) for start, end in times]


def one_line(text: str) -> str:
    """A text without line breaks, and with replacements for what neither subtitles nor XML can hold."""
    return storable(" ".join(text.split()))


def storable(text: str) -> str:
    """A text with replacements for characters that XML 1.0 cannot hold (section 2.2)."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def remove_others(folder: Path, suffixes: Sequence[str], keep: set[str]) -> None:
    """Remove files of these endings that are named like outputs, see `output_name`, and are not to be kept."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.suffix in suffixes and path.name not in keep and is_output_name(path.stem):
                path.unlink(missing_ok=True)


def _words(segment: Segment, threshold: float | None) -> str:
    unsure = "" if is_sure(segment.score, threshold) else " (unsure)"
    return f"{one_line(segment.label)} {segment.score * 100:.0f} %{unsure}"


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
