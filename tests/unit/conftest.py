"""Fixtures of several files: the videos of `tests.videos`, an MLflow database, small models."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.videos import draw, number_of, write


class Videos(SimpleNamespace):
    """What the `videos` fixture gives: the functions above."""

    draw: Callable[..., np.ndarray]
    number_of: Callable[[np.ndarray], int]
    write: Callable[..., Path]


@pytest.fixture(scope="session")
def videos() -> Videos:
    return Videos(draw=draw, number_of=number_of, write=write)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow wants it, made once: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    from pipeline import trackingstore

    path.with_name("mlflow.db.new").write_bytes(b"what a killed process left")
    trackingstore.apply_settings()
    trackingstore.ensure_database(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def uri(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database shared by the tests that only add runs to it."""
    root = tmp_path_factory.mktemp("a project")
    shutil.copyfile(migrated, root / "mlflow.db")
    return f"sqlite:///{root}/mlflow.db"


@pytest.fixture
def own_uri(migrated: Path, tmp_path: Path) -> str:
    """A database of the test's own."""
    shutil.copyfile(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Any]:
    """Models of ready-made features, five a timestep at 10 per second, in a folder each."""
    import torch

    from pipeline.features.backbones import given_features, save_backbone
    from pipeline.models.calibration import Calibration
    from pipeline.models.modelfolder import Model, ModelSpec, save_model
    from pipeline.models.recurrent import RecurrentClassifier
    from pipeline.view import View, features_key

    backbone = given_features(5, 10.0, False)

    def make(task: str, seed: int = 0, **architecture: Any) -> Model:
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {"feature_size": 5, "cell": "lstm", "hidden_size": 4, "num_layers": 1}
        sizes |= {"bidirectional": False, "input_dropout": 0.0, "dropout": 0.5, **architecture}
        view = View(fps=10.0, short_side=0, crop=0)
        key = features_key(view, backbone.name, backbone.weights_sha256)
        calibration = Calibration(0.5, ((0.8, 0.3), (0.9, None)))
        background = "idle" if task == "frame" else None
        spec = ModelSpec(task, ("idle", "走る"), background, sizes, view, backbone.name, key, {}, calibration)  # type: ignore[arg-type]
        save_backbone(backbone, tmp_path / "backbone.safetensors")
        model = Model(spec, RecurrentClassifier(num_classes=2, **sizes), tmp_path / f"{task} model {seed}")
        save_model(tmp_path / f"{task} model {seed}", model, tmp_path / "backbone.safetensors")
        return model

    return make
