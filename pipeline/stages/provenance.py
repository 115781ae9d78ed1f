"""What a run was made of: commit, stage, tables, features. Written into models and onto MLflow runs."""

import os
import subprocess

from pipeline.files import content_hash
from pipeline.stages.layout import StageOptions
from pipeline.stages.leaks import is_published, leak_counts


def git_state() -> dict[str, str]:
    """Commit and whether tracked files differ from it; both `unknown` outside a git checkout."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
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


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
