"""Runs as the stages leave them in MLflow, made with its client alone: names and tags, no training."""

import json
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.files import content_hash
from tests.servers import run_tracked

TAGS = {
    "task": "clip", "stream": "rgb", "fold": "1", "seed": "0", "dataset": "demo", "features.key": "f" * 64,
    "leaks.group": "0", "leaks.content": "0", "leaks.pictures": "0", "split.published": "false",
    "videos.sha256": "1" * 64, "segments.sha256": "2" * 64, "splits.sha256": "3" * 64,
    "git.commit": "c0ffee00" * 5, "git.dirty": "false",
}  # fmt: skip


def rung(difference: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"top1": 0.2, "difference": difference, "difference_low": low, "difference_high": high}


def scores(top1: float = 0.9, **controls: dict[str, Any]) -> dict[str, Any]:
    """A `metrics.json` of the clip task in which the model is better than every control."""
    own = {"majority": rung(0.7, 0.6, 0.8), "file_properties": rung(0.6, 0.5, 0.7), "single_frame": rung(0.3, 0.2, 0.4)}
    video = {"top1": top1, "top1_low": top1 - 0.05, "top1_high": top1 + 0.05, "num_videos": 160.0, "num_groups": 10}
    return {"test": {"video": video}, "controls": {**own, **controls}, "leaks": {}}


def add_run(
    client: Any,
    name: str = "clip-rgb-fold1-seed0",
    *,
    kind: str = "training",
    experiment: str = "demo",
    parent: str | None = None,
    status: str = "FINISHED",
    started_ms: int | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    files: Mapping[str, Any] | None = None,
    model: Path | None = None,
) -> str:
    """A run; the id. files: JSON artifacts by name. model: a model folder, logged as `model`."""
    from mlflow.entities import Metric, Param

    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    own = {"lrcn.kind": kind, "lrcn.key": uuid.uuid4().hex, "experiment": experiment}
    own |= {} if kind == "experiment" else TAGS
    own |= {} if parent is None else {"mlflow.parentRunId": parent}
    if model is not None:
        own["model.sha256"] = content_hash(model / "model.yaml")
    began = int(time.time() * 1000) if started_ms is None else started_ms
    run_id: str = client.create_run(experiment_id, began, {**own, **(tags or {})}, name).info.run_id
    points = [Metric(key, value, began, 0) for key, value in (metrics or {}).items()]
    client.log_batch(run_id, points, [Param(key, value) for key, value in (params or {}).items()])
    for file, value in (files or {}).items():
        client.log_text(run_id, json.dumps(value), file)
    if model is not None:
        log_model(client, run_id, experiment_id, model)
    client.set_terminated(run_id, status, began + 60_000)
    return run_id


def log_model(client: Any, run_id: str, experiment_id: str, folder: Path) -> str:
    """The model folder as an MLflow model, without what serving needs; its id."""
    from mlflow.entities import LoggedModelOutput

    entry = client.create_logged_model(experiment_id, "model", run_id)
    inside = folder.with_name(f"{folder.name} logged {entry.model_id}")
    shutil.copytree(folder, inside / "artifacts/model")
    path = {"path": "artifacts/model"}
    description = {"flavors": {"python_function": {"artifacts": {"model": path}}}, "model_uuid": entry.model_id}
    (inside / "MLmodel").write_text(yaml.safe_dump(description))
    client.log_model_artifacts(entry.model_id, str(inside))
    client.finalize_logged_model(entry.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(entry.model_id, 0)])
    return str(entry.model_id)


def mlflow_run(root: Path, run_id: str) -> dict:
    """Id, metrics and tags of a run, read by a process of its own."""
    return json.loads(
        run_tracked(
            root,
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "import json, mlflow\n"
            f"data = mlflow.MlflowClient('sqlite:///mlflow.db').get_run('{run_id}').data\n"
            f"print(json.dumps({{'run_id': '{run_id}', 'metrics': data.metrics, 'tags': data.tags}}))",
        ).splitlines()[-1]
    )
