"""What a run was made of: commit, stage, tables, features. Written into models and onto MLflow runs."""

import os
import subprocess
from typing import Any

from pipeline.config import Experiment, Stream, Task
from pipeline.files import content_hash
from pipeline.stages.layout import StageOptions
from pipeline.stages.leaks import is_published, leak_counts


def git_state() -> dict[str, str]:
    """Commit and whether tracked files differ from it; both `unknown` outside a git checkout.

    `dvc.lock` does not count: it says what came out, and a stage before this one has just changed it.
    """
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)dvc.lock")
    if commit is None or status is None:
        return {"git.commit": "unknown", "git.dirty": "unknown"}
    return {"git.commit": commit, "git.dirty": str(bool(status)).lower()}


def run_tags(options: StageOptions, features_key: str | None = None) -> dict[str, str]:
    """Tags that link an MLflow run to the code, the DVC stage and experiment, the tables and the features.

    A run without features of its own (None) is the fusion of the two streams.
    """
    git, layout = git_state(), options.layout
    tags = {
        "experiment": layout.experiment,
        "dataset": options.experiment.dataset,
        "task": options.task,
        "stream": "fused" if features_key is None else options.stream,
        "fold": str(options.fold),
        "seed": str(options.seed),
        **({} if features_key is None else {"features.key": features_key}),
        "videos.sha256": content_hash(layout.videos),
        "segments.sha256": content_hash(layout.segments),
        "splits.sha256": content_hash(layout.splits),
        **{f"leaks.{kind}": str(count) for kind, count in leak_counts(layout, [options.fold]).items()},
        "split.published": str(is_published(layout)).lower(),
        **git,
    }
    if git["git.commit"] != "unknown":
        tags["mlflow.source.git.commit"] = git["git.commit"]
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.exp", "DVC_EXP_NAME")):
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags


def model_provenance(options: StageOptions, tags: dict[str, str]) -> dict[str, Any]:
    """What a model says it was made of: of a run's tags those that the same inputs give again, and the settings.

    Two trainings of the same inputs give the same bytes: names of runs and of DVC's experiments are on the run alone.
    """
    names = ["experiment", "dataset", "task", "stream", "fold", "seed", "features.key"]
    names += ["videos.sha256", "segments.sha256", "splits.sha256"]
    kept = {name: tags[name] for name in names}
    kept |= {
        name: value
        for name, value in tags.items()
        if name.startswith(("leaks.", "git.", "split.")) or name == "dvc.stage"
    }
    settings = training_settings(options.experiment, options.stream, options.task)
    return {**kept, "seed": options.seed, "config": settings}


def training_settings(experiment: Experiment, stream: Stream, task: Task) -> dict[str, Any]:
    """The part of an experiment's settings that a training depends on, nested as in its file."""
    whole = experiment.model_dump(mode="json")
    own = whole if stream == "rgb" else whole["flow"]
    parts = {"backbone": own["backbone"], "finetune": own["finetune"], "train": {task: own["train"][task]}}
    if stream == "flow":
        parts = {"flow": {"method": own["method"], **parts}}
    return {name: whole[name] for name in ("dataset", "seed", "view")} | parts


def has_commit(commit: str) -> bool | None:
    """Whether a commit is in this repository; None outside a git checkout."""
    if _git("rev-parse", "--git-dir") is None:
        return None
    return _git("cat-file", "-e", f"{commit}^{{commit}}") is not None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
