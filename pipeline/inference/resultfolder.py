"""A folder of results: tables, subtitles and exports in one pass over the answers; then overlays, and the page."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.inference.answers import Answer, Segment
from pipeline.inference.elan import writing_elan
from pipeline.inference.exports import LeftOut, writing_activitynet, writing_fiftyone, writing_label_studio
from pipeline.inference.results import writing_answers, writing_segments
from pipeline.inference.resultsettings import ResultSettings
from pipeline.inference.segments import segments_of
from pipeline.inference.subtitles import writing_subtitles
from pipeline.inference.timesteps import read_timesteps

EXPORTS = {
    "activitynet": writing_activitynet,
    "elan": writing_elan,
    "fiftyone": writing_fiftyone,
    "label-studio": writing_label_studio,
}


def write_results(folder: Path, answers: Iterable[Answer], settings: ResultSettings) -> list[str]:
    """Write the tables, subtitles and exports of a folder of results; each file appears whole or not at all.

    answers: as they come out of the ledger, gone through once and not kept. Timesteps are read from the folder where
    they are needed, see `timeline_of`. The score of a frame model's whole video is a share of time and no probability,
    so only its segments are sure or not. Subtitles of videos that have none any more are removed. Exports that are not
    asked for stay as they are.

    Returns lines that say what an export had to leave out. Raises StoreError when the disk is full, or when timesteps
    are missing or damaged.
    """
    left_out = LeftOut()
    with ExitStack() as stack:
        sinks = [
            stack.enter_context(writing_answers(folder, settings)),
            stack.enter_context(writing_segments(folder, settings)),
            stack.enter_context(writing_subtitles(folder / "subtitles", settings)),
            *(stack.enter_context(EXPORTS[name](folder / "exports", settings, left_out)) for name in settings.formats),
        ]
        for answer in answers:
            timeline = timeline_of(folder, answer, settings)
            for add in sinks:
                add(answer, timeline)
    return left_out.lines()


def timeline_of(folder: Path, answer: Answer, settings: ResultSettings) -> tuple[Segment, ...]:
    """What is shown when in a video: segments in order that do not overlap.

    Of a frame model its segments, short ones and gaps treated as the settings say. Of a clip model that looked at one
    clip, that one. Where it read several windows they overlap; then each timestep takes the mean of the windows that
    cover it, and the timeline is the runs of the most probable class.

    Raises StoreError when timesteps are needed, and missing or damaged.
    """
    if not answer.is_answered:
        return ()
    if settings.task == "frame":
        if not settings.min_seconds and not settings.merge_gap_seconds:
            return answer.segments
        background = settings.background
    elif len(answer.segments) < 2:
        return answer.segments
    else:
        background = None
    return segments_of(
        answer.timesteps or read_timesteps(folder, answer.path),
        settings.classes,
        background,
        settings.step_seconds,
        settings.min_seconds,
        settings.merge_gap_seconds,
    )


class Timelines(Iterable[Answer]):
    """Answers whose segments are those of `segments`, made as they are asked for, and anew each time."""

    def __init__(self, answers: Iterable[Answer], segments: Callable[[Answer], tuple[Segment, ...]]) -> None:
        self._answers, self._segments = answers, segments

    def __iter__(self) -> Iterator[Answer]:
        for answer in self._answers:
            yield replace(answer, segments=self._segments(answer))
