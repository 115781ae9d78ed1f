"""Which training or group of folds is best, by validation alone: a choice by test scores would make them too good."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pipeline.evaluation.headline import main_score
from pipeline.trackingruns import TrackedRun

VALIDATION = "best_val_score"  # at the epoch that was kept; of the clip task top-1, of the frame task accuracy


@dataclass(frozen=True)
class Group:
    """Trainings of one task and stream that differ in fold and seed alone, the best by validation first."""

    trainings: tuple[TrackedRun, ...]

    @property
    def validation(self) -> float:
        """Mean best validation score."""
        return fmean(run.metrics[VALIDATION] for run in self.trainings)

    @property
    def test(self) -> float | None:
        """Mean main test score; None while a training is not evaluated."""
        name = f"test/{main_score(self.trainings[0].place[0])}"
        scores = [run.metrics.get(name) for run in self.trainings]
        return fmean(known) if len(known := [score for score in scores if score is not None]) == len(scores) else None

    @property
    def folds(self) -> tuple[str, ...]:
        """Their folds."""
        return _numbers(self.trainings, "fold")

    @property
    def seeds(self) -> tuple[str, ...]:
        """Their seeds."""
        return _numbers(self.trainings, "seed")

    @property
    def division(self) -> tuple[str, ...]:
        """What two groups must share for their validation scores to be comparable: tables, split and folds."""
        tags = self.trainings[0].tags
        return (*(tags.get(f"{table}.sha256", "") for table in ("videos", "segments", "splits")), *self.folds)


def groups_of(runs: Iterable[TrackedRun], task: str, stream: str | None) -> list[Group]:
    """Finished trainings of a task (and stream) by their experiment's run, the group with the best validation first.

    Of a training that was made twice the newest counts. Of equal scores the newest group comes first.
    """
    newest: dict[tuple[str, ...], TrackedRun] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        if run.kind == "training" and run.status == "FINISHED" and VALIDATION in run.metrics:
            # Without a run of the experiment a training stands alone.
            settings = run.parent_id or run.run_id
            newest[settings, *run.place, run.tags.get("fold", ""), run.tags.get("seed", "")] = run
    gathered: dict[tuple[str, ...], list[TrackedRun]] = {}
    for (settings, own_task, own_stream, *_), run in newest.items():
        if own_task == task and stream in (None, own_stream):
            gathered.setdefault((settings, own_stream), []).append(run)
    groups = [
        Group(tuple(sorted(own, key=lambda run: (-run.metrics[VALIDATION], -run.started_ms))))
        for own in gathered.values()
    ]
    groups.sort(key=lambda group: (-group.validation, -max(run.started_ms for run in group.trainings)))
    return groups


def comparable(groups: Sequence[Group]) -> tuple[list[Group], int]:
    """The groups that were validated on the same videos as the newest training's, and how many others there are.

    Scores of other folds, or of other tables, are of other videos: the higher one may be the easier.
    """
    if not groups:
        return [], 0
    newest = max(groups, key=lambda group: max(run.started_ms for run in group.trainings))
    same = [group for group in groups if group.division == newest.division]
    return same, len(groups) - len(same)


def _numbers(runs: Sequence[TrackedRun], tag: str) -> tuple[str, ...]:
    found = {run.tags.get(tag, "") for run in runs}
    return tuple(sorted(found, key=lambda number: (len(number), number)))
