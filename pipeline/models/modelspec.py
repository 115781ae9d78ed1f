"""What `model.yaml` in a model folder says, and whether its files are those. To read it takes no PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.data.tables import SIDES, Side, read_csv
from pipeline.errors import DataError, ModelError
from pipeline.files import content_hash
from pipeline.models.calibration import UNCALIBRATED, Calibration
from pipeline.view import View

MODEL_FORMAT = 4
FILES = ("model.safetensors", "backbone.safetensors")
FOLD_FILE = "fold.csv"
FOLD_COLUMNS = ("sha256", "size_bytes", "split")


@dataclass(frozen=True)
class FoldVideo:
    """A row of a model's `fold.csv`: a video by its content, and its side of the fold that the model was trained in."""

    sha256: str
    size_bytes: int
    split: Side


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model but its weights.

    architecture: keyword arguments of RecurrentClassifier, the head among them. background: name of the frame
    task's background class. backbone: name of the CNN in backbone.safetensors. features_key: identity of the features
    it was trained on. calibration: of the answers for a whole video (clip task) or a timestep (frame task).
    """

    task: Literal["clip", "frame"]
    classes: tuple[str, ...]
    background: str | None
    architecture: dict[str, Any]
    view: View
    backbone: str
    features_key: str
    provenance: dict[str, Any]
    calibration: Calibration = UNCALIBRATED
    longest_steps: int = 0


def read_spec(folder: Path | str) -> ModelSpec:
    """What a model folder's `model.yaml` says; raises ModelError when it is missing, damaged or of another format."""
    return read_description(Path(folder))[0]


def read_description(folder: Path) -> tuple[ModelSpec, dict[str, str]]:
    """The specification, and the SHA-256 of each file."""
    if not (folder / "model.yaml").is_file():
        raise ModelError(
            f"{folder}: no model here (no model.yaml); expected a folder such as "
            "artifacts/demo/trainings/clip-rgb-fold1-seed0/model"
        )
    try:
        text = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
        if (made := text.pop("format")) != MODEL_FORMAT:
            raise ModelError(
                f"{folder}: made by another version of this package, in model format {made}; expected format "
                f"{MODEL_FORMAT}: train the model again, or use the version that made it"
            )
        hashes = text.pop("files")
        parts = {"view": View(**text["view"]), "calibration": Calibration(**text["calibration"])}
        spec = ModelSpec(**{**text, **parts, "classes": tuple(text["classes"])})
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}/model.yaml: not a model description ({error}); copy the folder again") from error
    return spec, hashes


def verify_model(folder: Path | str) -> ModelSpec:
    """What a model folder's `model.yaml` says, every file having the hash that stands there; else raises ModelError."""
    folder = Path(folder)
    spec, hashes = read_description(folder)
    for name in dict.fromkeys([*FILES, *hashes]):
        if Path(name).name != name:
            raise ModelError(
                f"{folder}/model.yaml: names a file {name!r}; expected names of files in the folder itself"
            )
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing; copy the whole folder")
        if content_hash(folder / name) != hashes.get(name):
            raise ModelError(
                f"{folder / name}: its SHA-256 is not the one in model.yaml: the file is damaged or was exchanged"
            )
    return spec


def read_fold(folder: Path | str) -> list[FoldVideo] | None:
    """The videos of the fold that a model was trained in; None for a model that does not say.

    Raises ModelError when the file is no such table; whether it has its hash `verify_model` tells.
    """
    path = Path(folder) / FOLD_FILE
    if not path.is_file():
        return None
    try:
        rows = [row for _, row in read_csv(path, FOLD_COLUMNS)]
        found = [FoldVideo(row["sha256"], int(row["size_bytes"]), _side(row["split"])) for row in rows]
    except (DataError, ValueError) as error:
        raise ModelError(f"{path}: not the videos of a fold ({error}); copy the folder again") from None
    return found


def _side(text: str) -> Side:
    if text not in SIDES:
        raise ValueError(f"split is {text!r}; expected one of {', '.join(SIDES)}")
    return text
