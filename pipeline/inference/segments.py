"""From probabilities at timesteps to stretches in seconds: runs of a label, gaps closed, short ones dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.inference.answers import Segment, Timesteps

DIGITS = 3  # of seconds, as they are written
SLACK_SECONDS = 0.5 * 10**-DIGITS  # a bound means what is written: 0.333 s is met by a third of a second


@dataclass(frozen=True)
class _Run:
    """Timesteps [start, end) of one class."""

    start: int
    end: int
    class_index: int

    @property
    def steps(self) -> int:
        return self.end - self.start


def segments_of(
    timesteps: Timesteps,
    classes: Sequence[str],
    background: str | None,
    step_seconds: float,
    min_seconds: float = 0.0,
    merge_gap_seconds: float = 0.0,
) -> tuple[Segment, ...]:
    """Stretches of the same most probable class, in order and without overlap, the background left out.

    First, two stretches of one class with nothing but background between them become one where that background lasts
    `merge_gap_seconds` or less. Then stretches shorter than `min_seconds` are dropped: they become background. What
    that leaves is merged once more, so that no two of one class are closer than the gap.

    Without a background class there are no gaps, and the time stays covered: a stretch that is too short goes to the
    neighbour whose class is the more probable one in it on average, the shortest stretches first. A stretch without
    neighbours stays, however short.

    Args:
        timesteps: (T, K) probabilities; times increase, and a step of more than 1.5 `step_seconds` ends a stretch.
        classes: K names.
        background: name of the class that stands for no action, None without one.
        step_seconds: time from one timestep to the next; the last one lasts as long.
        min_seconds: shortest stretch to keep.
        merge_gap_seconds: longest background to close.

    Returns:
        Segments; score: mean probability of the label over the stretch, closed gaps included. An empty tuple when all
        is background.
    """
    probs, times = timesteps.probabilities, timesteps.time_seconds
    found: list[_Run] = []
    for part in _unbroken(times, step_seconds):
        runs = _runs(probs[part].argmax(axis=1), part.start)
        if background is not None:
            runs = _tidied_actions(runs, list(classes).index(background), step_seconds, min_seconds, merge_gap_seconds)
        else:
            runs = _covering(runs, probs, int(np.ceil((min_seconds - SLACK_SECONDS) / step_seconds)))
        found += runs
    return tuple(
        Segment(
            round(float(times[run.start]), DIGITS),
            round(float(times[run.end - 1]) + step_seconds, DIGITS),
            classes[run.class_index],
            float(probs[run.start : run.end, run.class_index].mean()),
        )
        for run in found
    )


def timesteps_of_windows(
    starts: Sequence[int], size: int, probabilities: np.ndarray, time_seconds: np.ndarray
) -> Timesteps:
    """A clip model's windows as probabilities at timesteps: each takes the mean of the windows that cover it.

    starts: first timestep of each window; size: timesteps of each. probabilities: (windows, K) float32.
    time_seconds: (T,). Timesteps that no window covers are left out.
    """
    total = np.zeros((len(time_seconds), probabilities.shape[1]), np.float64)
    count = np.zeros(len(time_seconds), np.int64)
    for start, row in zip(starts, probabilities, strict=True):
        total[start : start + size] += row
        count[start : start + size] += 1
    covered = count > 0
    return Timesteps(time_seconds[covered], (total[covered] / count[covered, None]).astype(np.float32))


def _unbroken(times: np.ndarray, step_seconds: float) -> list[slice]:
    """Parts of the timesteps between which the time jumps."""
    borders = [0, *(np.flatnonzero(np.diff(times) > 1.5 * step_seconds) + 1).tolist(), len(times)]
    return [slice(start, end) for start, end in pairwise(borders) if end > start]


def _runs(class_indices: np.ndarray, first: int) -> list[_Run]:
    borders = [0, *(np.flatnonzero(np.diff(class_indices)) + 1).tolist(), len(class_indices)]
    return [_Run(first + start, first + end, int(class_indices[start])) for start, end in pairwise(borders)]


def _tidied_actions(
    runs: Sequence[_Run], background: int, step_seconds: float, min_seconds: float, merge_gap_seconds: float
) -> list[_Run]:
    """Runs of actions, gaps closed and short ones dropped; the background left out."""
    merged = _merged([run for run in runs if run.class_index != background], step_seconds, merge_gap_seconds)
    kept = [run for run in merged if run.steps * step_seconds >= min_seconds - SLACK_SECONDS]
    return _merged(kept, step_seconds, merge_gap_seconds)


def _merged(actions: Sequence[_Run], step_seconds: float, merge_gap_seconds: float) -> list[_Run]:
    """Runs of one class, with no other action between them, joined over gaps that are short enough."""
    found: list[_Run] = []
    for run in actions:
        before = found[-1] if found else None
        if (
            before is not None
            and before.class_index == run.class_index
            and (run.start - before.end) * step_seconds <= merge_gap_seconds + SLACK_SECONDS
        ):
            found[-1] = _Run(before.start, run.end, run.class_index)
        else:
            found.append(run)
    return found


def _covering(runs: Sequence[_Run], probs: np.ndarray, min_steps: int) -> list[_Run]:
    """Runs of `min_steps` or more that cover the same time."""
    kept = list(runs)
    while len(kept) > 1 and (shortest := min(run.steps for run in kept)) < min_steps:
        kept = _without_runs_of(kept, probs, shortest)
    return kept


def _without_runs_of(runs: Sequence[_Run], probs: np.ndarray, steps: int) -> list[_Run]:
    """Runs of `steps` or fewer given to a neighbour, from the first to the last, and equal neighbours joined."""
    kept: list[_Run] = []
    todo = list(reversed(runs))
    while todo:
        run = todo.pop()
        before, after = (kept[-1] if kept else None), (todo[-1] if todo else None)
        if before is not None and before.class_index == run.class_index:
            kept[-1] = _Run(before.start, run.end, run.class_index)
        elif run.steps > steps or (before is None and after is None):
            kept.append(run)
        elif after is None or (before is not None and _mean(probs, run, before) >= _mean(probs, run, after)):
            assert before is not None
            kept[-1] = _Run(before.start, run.end, before.class_index)
        else:
            todo[-1] = _Run(run.start, after.end, after.class_index)
    return kept


def _mean(probs: np.ndarray, run: _Run, neighbour: _Run) -> float:
    """Mean probability, over a run, of the class of another."""
    return float(probs[run.start : run.end, neighbour.class_index].mean())
