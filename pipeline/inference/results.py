"""The tables of a folder of results: `results.csv`, `predictions.jsonl`, `segments.csv`."""

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.files import replacing, write_table
from pipeline.inference.answers import Answer

RESULT_COLUMNS = (
    "path", "status", "reason", "label", "score", "sure", "runner_up", "runner_up_score", "frames", "seconds",
)  # fmt: skip
SEGMENT_COLUMNS = ("path", "start_seconds", "end_seconds", "label", "score", "sure")
DIGITS = 6


def write_results(folder: Path, answers: Iterable[Answer], threshold: float | None, task: str) -> None:
    """Write `results.csv`, `predictions.jsonl` and `segments.csv`; each appears whole or not at all.

    threshold: lowest probability of an answer that is sure, None where no answer is. The score of a frame model's
    whole video is a share of time and no probability, so only its segments are sure or not.
    """
    answers = list(answers)
    write_table(
        folder / "results.csv",
        RESULT_COLUMNS,
        [[_cell(value) for value in result_row(answer, threshold, task).values()] for answer in answers],
    )
    with replacing(folder / "predictions.jsonl") as temporary, temporary.open("w", encoding="ascii") as file:
        for answer in answers:
            ranked = sorted(answer.scores.items(), key=lambda item: -item[1])
            scores = {name: round(value, DIGITS) for name, value in ranked}
            file.write(json.dumps(result_row(answer, threshold, task) | {"scores": scores}) + "\n")
    write_table(
        folder / "segments.csv",
        SEGMENT_COLUMNS,
        [
            [
                a.path,
                s.start_seconds,
                s.end_seconds,
                s.label,
                round(s.score, DIGITS),
                _cell(is_sure(s.score, threshold)),
            ]
            for a in answers
            for s in a.segments
        ],
    )


def result_row(answer: Answer, threshold: float | None, task: str) -> dict[str, object]:
    """A row of `results.csv`, scores rounded to six digits; `sure` is None where it has no meaning."""
    values = {name: getattr(answer, name) for name in RESULT_COLUMNS if name != "sure"}
    values["sure"] = is_sure(answer.score, threshold) if answer.is_answered and task == "clip" else None
    row = {name: values[name] for name in RESULT_COLUMNS}
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}


def is_sure(score: float | None, threshold: float | None) -> bool:
    """Whether a probability reaches the threshold for the wanted precision."""
    return score is not None and threshold is not None and score >= threshold


def _cell(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value
