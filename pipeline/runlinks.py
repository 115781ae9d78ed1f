"""How runs in MLflow and the files here find each other: names of tags, and the file `mlflow_run.json`."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError

KIND = "lrcn.kind"  # experiment, training or fusion
KEY = "lrcn.key"  # a run's own name, which it has before MLflow gives it an id
SETTINGS = "lrcn.settings"  # the key of the experiment's run
PARENT = "mlflow.parentRunId"
MODEL_SHA256 = "model.sha256"  # of model.yaml, which holds the hashes of the model's other files
LOCK_SHA256 = "dvc.lock.sha256"  # of the entry in dvc.lock of the stage that made the run
NOTE_SHA256 = "lrcn.note.sha256"  # of the description as it was written here: an edited one is the user's
NOTE = "mlflow.note.content"  # the description
NOT_FINITE = "metrics.not_finite"
REPLACES = "replaces_run"

VIEW = "scores"  # the saved view of an experiment's runs, see trackingview.py

RUN_FILE = "mlflow_run.json"  # in the folder of a training, fusion or experiment: see `Run.facts`


def read_run_file(folder: Path) -> dict[str, Any]:
    """What a folder's `mlflow_run.json` says of its run; nothing where there is none.

    Raises TrackingError for a damaged one.
    """
    file = folder / RUN_FILE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"not JSON: {error}"
        raise TrackingError(f"{file}: cannot be read ({reason}); train again, or `dvc checkout {file}`") from None
    if not isinstance(facts, dict):
        raise TrackingError(f"{file}: not an object of JSON; train again, or `dvc checkout {file}`")
    return facts
