"""Runs as tables for the terminal: a list, a comparison, a choice."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.discovery import printable
from pipeline.evaluation.headline import main_score
from pipeline.runchoice import VALIDATION, Group
from pipeline.runlinks import KEY, KIND, NOT_FINITE, NOTE_SHA256
from pipeline.trackingruns import TrackedRun

CURVES = ("train_loss", "val_loss", "val_score", "lr", "grad_norm")  # by epoch: their last value says little
OWN_TO_A_RUN = (KEY, KIND, NOT_FINITE, NOTE_SHA256)
ID_LETTERS = 8
LONGEST = 40  # letters of a value


def short_ids(runs: Sequence[TrackedRun]) -> dict[str, str]:
    """The shortest beginnings of the runs' ids, of 8 letters or more, that tell them apart."""
    ids = {run.run_id for run in runs}
    length = next(n for n in range(ID_LETTERS, 65) if n >= 32 or len({one[:n] for one in ids}) == len(ids))
    return {one: one[:length] for one in ids}


def family_order(runs: Sequence[TrackedRun]) -> list[tuple[TrackedRun, bool]]:
    """Runs with the newest first, those of an experiment below its run; and whether each is such a child."""
    children: dict[str, list[TrackedRun]] = {}
    ids = {run.run_id for run in runs}
    for run in sorted(runs, key=lambda run: (-run.started_ms, run.name)):
        children.setdefault(run.parent_id if run.parent_id in ids else "", []).append(run)
    top = children.get("", [])
    # An experiment is as new as the newest of its trainings.
    top.sort(key=lambda run: -max(one.started_ms for one in [run, *children.get(run.run_id, [])]))
    return [(one, one is not run) for run in top for one in [run, *children.get(run.run_id, [])]]


def run_facts(run: TrackedRun) -> dict[str, Any]:
    """A run as one object of JSON; times in ISO 8601, UTC; scores are those of its task, None where there are none."""
    task, stream = run.place
    name = main_score(task) if task else None
    scores = {f"score{end}": run.metrics.get(f"test/{name}{end}") for end in ("", "_low", "_high")}
    return {
        "run_id": run.run_id,
        "parent_id": run.parent_id,
        "kind": run.kind,
        "experiment": run.experiment,
        "name": run.name,
        **{key: run.tags.get(key) for key in ("task", "fold", "seed")},
        "stream": stream or None,
        "status": run.status,
        "started": _iso(run.started_ms),
        "ended": _iso(run.ended_ms),
        "score_name": name,
        **scores,
        VALIDATION: run.metrics.get(VALIDATION),
        "dvc_exp": run.tags.get("dvc.exp"),
        "git_commit": run.tags.get("git.commit"),
        "key": run.tags.get(KEY),
    }


def run_list(runs: Sequence[TrackedRun]) -> list[str]:
    """One line a run; below an experiment's run the scores of all its folds, then its trainings."""
    ids = short_ids(runs)
    rows = [["run", "name", "started", "status", "test [95 % interval]", "validation", "dvc.exp", "commit"]]
    for run, is_child in family_order(runs):
        name = run.name if is_child or run.kind == "experiment" else f"{run.experiment}: {run.name}"
        test = "" if run.kind == "experiment" else _interval(run.metrics, f"test/{main_score(run.place[0])}")
        tags = run.tags
        rows.append(
            [
                ids[run.run_id], f"  {name}" if is_child else name, _local(run.started_ms), run.status.lower(), test,
                _number(run.metrics.get(VALIDATION)), tags.get("dvc.exp", ""), tags.get("git.commit", "")[:ID_LETTERS],
            ]
        )  # fmt: skip
        for task, stream in _scored(run):
            own = _interval(run.metrics, f"{task}/{stream}/{main_score(task)}")
            rows.append(["", f"  {task}, {stream}: all folds", "", "", own, "", "", ""])
    return aligned(rows)


def comparison(runs: Sequence[TrackedRun]) -> list[str]:
    """What differs between runs: parameters, tags, and scores with the difference to the first run."""
    ids = short_ids(runs)
    head = ["", *(f"{ids[run.run_id]} {run.name}" for run in runs)]
    found: list[str] = []
    for title, own in (("parameters", [run.params for run in runs]), ("tags", [_telling(run) for run in runs])):
        names = sorted({name for one in own for name in one})
        rows = [[name, *(one.get(name, "-") for one in own)] for name in names]
        rows = [row for row in rows if len(set(row[1:])) > 1]
        alike = len(names) - len(rows)
        found += [f"{title} that differ ({alike} are alike)" + ("" if rows else ": none")]
        found += aligned([head, *rows], indent="  ") if rows else []
    found.append("scores")
    rows = [head + ["difference"] * (len(runs) - 1)]
    names = sorted({name for run in runs for name in run.metrics if _is_headline(name)}, key=_place)
    for name in names:
        values = [run.metrics.get(name) for run in runs]
        rows.append([name, *map(_number, values), *(_difference(values[0], value) for value in values[1:])])
    found += aligned(rows, indent="  ") if names else ["  none of them has any"]
    on = {tuple(run.tags.get(name, "") for name in ("task", "fold", "videos.sha256", "splits.sha256")) for run in runs}
    if len(on) > 1:
        found.append("note: tested on different videos (task, fold or tables differ): the test scores do not compare")
    return found


def choice(experiment: str, groups: Sequence[Group], num_others: int) -> list[str]:
    """Groups of trainings by validation, and the trainings of the best."""
    best = groups[0]
    ids = short_ids([run for group in groups for run in group.trainings])
    rows = [["", "stream", "folds", "seeds", "validation", "test", "experiment's run", "dvc.exp", "commit"]]
    for place, group in enumerate(groups, start=1):
        first = group.trainings[0]
        parts = [", ".join(group.folds), ", ".join(group.seeds), _number(group.validation), _number(group.test)]
        made = [
            (first.parent_id or "none")[:ID_LETTERS],
            *(first.tags.get(tag, "") for tag in ("dvc.exp", "git.commit")),
        ]
        rows.append([f"{place}.", first.place[1], *parts, *made[:2], made[2][:ID_LETTERS]])
    found = [f"{experiment}, {best.trainings[0].place[0]} task: groups of trainings by mean validation score"]
    found += aligned(rows, indent="  ")
    if num_others:
        found.append(f"  {num_others} group(s) of another split or of other folds are left out: they do not compare")
    found.append("trainings of the first")
    rows = [["run", "name", "validation", "test [95 % interval]"]]
    for run in best.trainings:
        test = _interval(run.metrics, f"test/{main_score(run.place[0])}")
        rows.append([ids[run.run_id], run.name, _number(run.metrics[VALIDATION]), test])
    found += aligned(rows, indent="  ")
    chosen = best.trainings[0]
    found.append(f"best by validation: {chosen.run_id} ({chosen.name}); test scores chose nothing, so they are fair")
    if len(best.folds) > 1:
        found.append("  (folds are validated on different videos: among them this says little)")
    return found


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Rows of texts as lines, columns as wide as their widest cell, long cells cut."""
    cells = [[_cut(printable(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return [f"{indent}{line}".rstrip() for line in lines]


def _scored(run: TrackedRun) -> list[tuple[str, str]]:
    """Tasks and streams of which an experiment's run has scores."""
    parts = [name.split("/") for name in run.metrics] if run.kind == "experiment" else []
    return sorted({(part[0], part[1]) for part in parts if len(part) == 3 and part[2] == main_score(part[0])})


def _telling(run: TrackedRun) -> dict[str, str]:
    """Tags that say what a run was made of; hashes and commits by their first letters."""
    own = {name: value for name, value in run.tags.items() if not name.startswith("mlflow.")}
    hashes = (".sha256", ".key", ".commit", ".settings")
    return {
        name: value[:12] if name.endswith(hashes) else value for name, value in own.items() if name not in OWN_TO_A_RUN
    }


def _is_headline(name: str) -> bool:
    return not name.startswith("system/") and name not in CURVES


def _place(name: str) -> tuple[int, str]:
    """Test scores come first, then what the probe found, then validation."""
    return (0 if name.startswith("test/") else 1 if "/" in name else 2, name)


def _interval(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return f"{metrics[name]:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _difference(first: float | None, other: float | None) -> str:
    return "" if first is None or other is None else f"{other - first:+.3f}"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _local(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000).strftime("%Y-%m-%d %H:%M")


def _iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
