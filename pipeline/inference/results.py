"""The tables of a folder of results: `results.csv`, `predictions.jsonl`, `segments.csv`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import replacing, writing_table
from pipeline.inference.answers import Answer, Segment
from pipeline.inference.resultsettings import AddAnswer, ResultSettings

RESULT_COLUMNS = (
    "path", "status", "reason", "label", "score", "sure", "runner_up", "runner_up_score", "frames", "seconds",
)  # fmt: skip
SEGMENT_COLUMNS = ("path", "start_seconds", "end_seconds", "label", "score", "sure")
DIGITS = 6


def result_row(answer: Answer, threshold: float | None, task: str) -> dict[str, object]:
    """A row of `results.csv`, scores rounded to six digits; `sure` is None where it has no meaning."""
    values = {name: getattr(answer, name) for name in RESULT_COLUMNS if name != "sure"}
    values["sure"] = is_sure(answer.score, threshold) if answer.is_answered and task == "clip" else None
    row = {name: values[name] for name in RESULT_COLUMNS}
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}


def result_scores(answer: Answer) -> dict[str, float]:
    """The scores in a line of `predictions.jsonl`, the highest first."""
    ranked = sorted(answer.scores.items(), key=lambda item: -item[1])
    return {name: round(value, DIGITS) for name, value in ranked}


def text_of(value: object) -> str:
    """A value as it is read back from a table."""
    return "" if value is None else str(_cell(value))


def is_sure(score: float | None, threshold: float | None) -> bool:
    """Whether a probability reaches the threshold for the wanted precision."""
    return score is not None and threshold is not None and score >= threshold


@contextmanager
def writing_answers(folder: Path, settings: ResultSettings) -> Iterator[AddAnswer]:
    """`results.csv` and `predictions.jsonl`."""
    with (
        writing_table(folder / "results.csv", RESULT_COLUMNS) as add_row,
        replacing(folder / "predictions.jsonl") as temporary,
        temporary.open("w", encoding="ascii") as file,
    ):

        def add(answer: Answer, timeline: Sequence[Segment]) -> None:
            row = result_row(answer, settings.threshold, settings.task)
            add_row([_cell(value) for value in row.values()])
            file.write(json.dumps(row | {"scores": result_scores(answer)}) + "\n")

        yield add


@contextmanager
def writing_segments(folder: Path, settings: ResultSettings) -> Iterator[AddAnswer]:
    """`segments.csv`: a frame model's timeline; a clip model's windows as they are."""
    with writing_table(folder / "segments.csv", SEGMENT_COLUMNS) as add_row:

        def add(answer: Answer, timeline: Sequence[Segment]) -> None:
            for segment in timeline if settings.task == "frame" else answer.segments:
                sure = _cell(is_sure(segment.score, settings.threshold))
                times = (segment.start_seconds, segment.end_seconds)
                add_row([answer.path, *times, segment.label, round(segment.score, DIGITS), sure])

        yield add


def _cell(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value
