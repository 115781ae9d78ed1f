"""The experiment's run in MLflow: scores of all folds together, the page, and a table of its trainings."""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment
from pipeline.evaluation.headline import headline_scores, main_score
from pipeline.files import write_json
from pipeline.metricnames import flatten
from pipeline.runlinks import LOCK_SHA256, RUN_FILE, read_run_file
from pipeline.stages.answers import in_brackets, read_scores
from pipeline.stages.layout import Layout, StageOptions
from pipeline.stages.provenance import run_tags
from pipeline.stages.tracked import canonical_sha256, parent_of
from pipeline.tracking import Run, tracking_uri


def log_experiment(options: StageOptions, title: str, headline: Mapping[str, Mapping[str, Any]]) -> None:
    """Write scores of all folds together to the experiment's run, and its id to `mlflow_run.json`.

    headline: of `scores.json`. Run by DVC, each training's run gets a tag with the hash of its entry in dvc.lock: it is
    written after the stage has ended, so only a later one can.
    """
    experiment, layout, tags, lock = options.experiment, options.layout, run_tags(options), locked_stages()
    parent = parent_of(options, tags)
    tags = {name: tags[name] for name in ("dvc.stage", "dvc.exp") if name in tags} | dict(parent.tags)
    with Run.start(
        options.name, parent.name, tags, parent.params, tracking_uri(Path()),
        in_words(title, experiment, headline), key=parent.key,
    ) as run:  # fmt: skip
        run.log_metrics(flatten(headline))
        for file in ("metrics.json", "scores.json", "shortcut.json", "report.html"):
            run.log_file(layout.root / file)
        rows = []
        for (task, streams), fold, seed in itertools.product(headline.items(), experiment.folds, experiment.seeds):
            for stream in streams:
                row, facts = row_of(layout, task, stream, fold, seed)
                rows.append(row)
                stage = f"{'fuse' if stream == 'fused' else 'train'}@{options.name}-{row['name']}"
                if facts and stage in lock:
                    run.set_tags_of(facts, {LOCK_SHA256: canonical_sha256(lock[stage])})
        run.log_table(rows, "trainings.json")
        write_json(layout.root / RUN_FILE, run.facts)


def locked_stages() -> Mapping[str, Any]:
    """The stages of dvc.lock, where DVC runs us: by hand it may be of other trainings."""
    file = Path("dvc.lock")
    if "DVC_STAGE" not in os.environ or not file.is_file():
        return {}
    # In C where there is that: 13,000 lines take Python 4 s.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stages: Mapping[str, Any] = loader(file.read_text(encoding="utf-8")).get_single_data()["stages"]
    return stages


def row_of(
    layout: Layout, task: str, stream: str, fold: int, seed: int
) -> tuple[dict[str, object], dict[str, Any] | None]:
    """Of `trainings.json`, and where the run is found; None where that is not known."""
    name = f"{task}-{stream}-fold{fold}-seed{seed}"
    facts = read_run_file(layout.fusion(name) if stream == "fused" else layout.training(name)) or None
    score = headline_scores(task, read_scores(layout.evaluation(name) / "metrics.json")).get(main_score(task))
    row: dict[str, object] = {"name": name, "task": task, "stream": stream, "fold": fold, "seed": seed}
    # A run that waits to be sent has no id yet, but its key.
    row |= {"run_id": facts["run_id"], "key": facts.get("key")} if facts else {"run_id": None, "key": None}
    return {**row, "metric": main_score(task), "score": score}, facts


def in_words(title: str, experiment: Experiment, headline: Mapping[str, Mapping[str, Any]]) -> str:
    """The note on the experiment's page in MLflow, in Markdown."""
    folds, seeds = ", ".join(map(str, experiment.folds)), ", ".join(map(str, experiment.seeds))
    lines = [f"{title}; folds {folds}; seeds {seeds}. Scores are of all folds together.", ""]
    for task, streams in headline.items():
        name = main_score(task)
        for stream, scores in streams.items():
            line = f"- {task}, {stream}: {name} {scores[name]:.3f}"
            if f"{name}_low" in scores:
                line += f" {in_brackets(scores[f'{name}_low'], scores[f'{name}_high'])}"
            if "gain_over_single_frame" in scores:
                line += f", {scores['gain_over_single_frame']:+.3f} over single frames"
            lines.append(line)
    return "\n".join(lines)
