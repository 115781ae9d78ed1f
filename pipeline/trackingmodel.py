"""A model folder as an MLflow model: without pickle, loadable wherever this package is installed."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import content_hash
from pipeline.runlinks import MODEL_SHA256
from pipeline.trackingclient import while_it_answers
from pipeline.trackingstore import current, patience

# What answering with a model imports.
PACKAGES = ("torch", "torchvision", "safetensors", "numpy", "pandas", "pyyaml", "av", "opencv-python")


def send_model(client: Any, uri: str, run_id: str, folder: Path, event: Mapping[str, Any]) -> str:
    """Log a model under a run; its address. One that the run has already is not sent again.

    It takes rows of features, of paths or of videos' bytes and gives a record for each, see pipeline/serving.py. The
    metrics of the event's `epoch` (the one whose weights were kept) and the run's parameters stand beside it.
    """
    description = folder / "model.yaml"
    sha256 = content_hash(description) if description.exists() else ""
    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    for found in (client.get_logged_model(output.model_id) for output in outputs):
        if sha256 and found.name == event["name"] and found.tags.get(MODEL_SHA256) == sha256:
            if found.status == "READY":
                return str(found.model_uri)
            client.delete_logged_model(found.model_id)  # what an upload that was cut off has left
    # Under the run's own experiment; Model.log alone would take MLflow's current one.
    tags = {MODEL_SHA256: sha256}
    entry = client.create_logged_model(run.info.experiment_id, event["name"], run_id, tags, params=run.data.params)

    def upload() -> str:
        import mlflow.pyfunc

        with current(uri), patience():
            info = mlflow.models.Model.log(
                artifact_path=None,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                model_id=entry.model_id,
                step=event["epoch"],
                registered_model_name=event["registered_name"],
                python_model=str(Path(__file__).with_name("serving.py")),
                artifacts={"model": str(folder.absolute())},
                signature=_signature(),
                pip_requirements=[f"{package}=={version(package)}" for package in PACKAGES],
                metadata={"package": f"lrcn-pipeline {version('lrcn-pipeline')}"},
            )
        return str(info.model_uri)

    return str(while_it_answers(uri, upload))


def _signature() -> Any:
    """What pipeline/serving.py takes and gives.

    Features are of any type to MLflow and checked there: as an array of doubles it would refuse a row of integers
    (JSON from JavaScript writes 0 for 0.0), and rows of several kinds in one request. Videos are text: for `binary`
    MLflow decodes base64 without looking whether it is any.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, Map, Object, ParamSchema, ParamSpec, Property, Schema

    answer = {"label": "string", "score": "double", "sure": "boolean"}
    timed = {"start_seconds": "double", "end_seconds": "double", **answer}
    segment = Object([Property(name, kind) for name, kind in timed.items()])
    steps = {"time_seconds": Array("double"), "probabilities": Array(Array("double"))}
    inputs: Any = {"features": AnyType(), "path": "string", "video": "string"}  # type: ignore[no-untyped-call]
    outputs: Any = {"status": "string", "reason": "string", **answer}
    outputs |= {"scores": Map("double"), "segments": Array(segment), **steps}
    always = outputs.keys() - {"score", "sure", *steps}
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=False) for name, kind in inputs.items()]),
        outputs=Schema([ColSpec(kind, name, required=name in always) for name, kind in outputs.items()]),
        params=ParamSchema([ParamSpec("precision", "double", 0.9), ParamSpec("timesteps", "boolean", False)]),
    )


def version(package: str) -> str:
    """The installed version of a package as an index has it: 2.15.0, not 2.15.0+cpu."""
    return importlib.metadata.version(package).split("+")[0]
