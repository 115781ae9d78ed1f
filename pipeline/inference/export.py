"""`lrcn export MODEL --out DIR`: a model as ONNX, each file checked against PyTorch before it appears.

backbone.onnx   pixels to features; not of a model that was trained on ready-made features
sequence.onnx   features of whole sequences to probabilities
step.onnx       features of the next timesteps and the state to probabilities and the state; of models that can
export.yaml     classes, view, calibration, and the inputs and outputs of each file; written last
"""

import argparse
import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline import __version__
from pipeline.discovery import printable
from pipeline.errors import LrcnError, ModelError
from pipeline.features.backbones import GIVEN, read_backbone
from pipeline.features.frozen import FrozenBackbone
from pipeline.files import content_hash, locked, replacing, write_text
from pipeline.models.modelfolder import Model, load_model
from pipeline.modelstore import model_folder

EXPORT_FORMAT = 1
TOLERANCE = 1e-4  # of probabilities; of features, in units of the largest
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
CHECKED_LENGTHS = ((1,), (7, 4, 1), (2, 40))  # timesteps of the sequences of a batch, the first padded to the longest
CHECKED_CHUNKS = (1, 1, 5, 2)
CHECKED_BATCHES = (1, 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model; 0 when every file agrees with PyTorch."""
    parser = argparse.ArgumentParser(prog="lrcn export", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a model folder, models:/NAME@ALIAS, runs:/RUN_ID/model")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the ONNX files")
    options = parser.parse_args(argv)
    require_onnx()
    folder = model_folder(options.model)
    if (options.out / "model.yaml").exists():
        raise LrcnError(f"{options.out}: holds a model; choose another --out for the ONNX files")
    with locked(options.out):
        difference = export_model(folder, options.out)
    for name, value in difference.items():
        print(f"export: {name}: agrees with PyTorch, largest difference {value:.1e}")
    if "step.onnx" not in difference:
        print(f"export: no step.onnx: {_why_no_stream(load_model(folder))}")
    print(printable(f"export: see {options.out / 'export.yaml'}"))
    return 0


def require_onnx() -> None:
    """Raise LrcnError where a package is missing that exporting needs."""
    for name in PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise LrcnError(
                f"{name} is not installed; install what export needs: pip install {' '.join(PACKAGES)}"
            ) from None


def export_model(folder: Path, out: Path) -> dict[str, float]:
    """Write the files; returns the largest difference from PyTorch by file.

    Raises LrcnError where one differs by more than TOLERANCE: it is not written then, nor is export.yaml.
    """
    from pipeline.models.onnxbackbone import backbone_graph
    from pipeline.models.onnxgraphs import forms, sequence_graph, step_graph

    model, backbone = load_model(folder), read_backbone(folder / "backbone.safetensors")
    spec = model.spec
    for name in ("export.yaml", "backbone.onnx", "sequence.onnx", "step.onnx"):  # of another model, perhaps
        (out / name).unlink(missing_ok=True)
    todo: list[tuple[str, Any, Any]] = []
    if backbone.name != GIVEN:
        frozen = FrozenBackbone(backbone, spec.view.crop).eval()
        todo.append(
            (
                "backbone.onnx",
                lambda: backbone_graph(frozen, spec.view.crop),
                lambda run: _check_backbone(run, frozen, spec.view.crop),
            )
        )
    calibration = spec.calibration
    todo.append(
        (
            "sequence.onnx",
            lambda: sequence_graph(model.network, spec.task, calibration),
            lambda run: _check_sequence(run, model),
        )
    )
    if not _why_no_stream(model):
        todo.append(
            (
                "step.onnx",
                lambda: step_graph(model.network, spec.task, calibration),
                lambda run: _check_step(run, model),
            )
        )
    difference, files = {}, {}
    for name, build, check in todo:
        graph = build()
        with replacing(out / name) as temporary:
            temporary.write_bytes(graph.SerializeToString())
            difference[name] = check(Runner(temporary))
            if not difference[name] <= TOLERANCE:
                raise LrcnError(
                    f"{out / name}: differs from PyTorch by {difference[name]:.1e}, expected at most {TOLERANCE:.0e}; "
                    "the file is not written. Please report it with the versions that `lrcn doctor` prints"
                )
        graph_forms = {"inputs": forms(graph.graph.input), "outputs": forms(graph.graph.output)}
        files[name] = {"sha256": content_hash(out / name), **graph_forms}
    text = {
        "format": EXPORT_FORMAT,
        "package": f"lrcn-pipeline {__version__}",
        "model": content_hash(folder / "model.yaml"),
        "task": spec.task,
        "classes": list(spec.classes),
        "background": spec.background,
        "view": asdict(spec.view),
        "longest_steps": spec.longest_steps,
        "calibration": {
            "temperature": calibration.temperature,
            "thresholds": [list(pair) for pair in calibration.thresholds],
        },
        "checked_with": f"onnxruntime {importlib.metadata.version('onnxruntime')}",
        "files": files,
    }
    write_text(out / "export.yaml", yaml.safe_dump(text, sort_keys=False, allow_unicode=True, width=120))
    return difference


class Runner:
    """An ONNX file in ONNX Runtime, on the CPU, in one thread."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name from inputs by name."""
        return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))

    def zeros(self, batch_size: int) -> dict[str, np.ndarray]:
        """A state before the first timestep of `batch_size` streams."""
        dtypes = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
        return {
            entry.name: np.zeros([batch_size if axis == "B" else axis for axis in entry.shape], dtypes[entry.type])
            for entry in self._session.get_inputs()
            if entry.name != "features"
        }


def _why_no_stream(model: Model) -> str:
    """Why a model cannot follow a stream; empty when it can."""
    try:
        model.stream()
    except ModelError as error:
        return str(error)
    return ""


def _check_backbone(run: Runner, frozen: FrozenBackbone, crop: int) -> float:
    """Largest difference in the features of random pixels, in units of the largest feature."""
    import torch

    rng, largest, worst = np.random.default_rng(0), 0.0, 0.0
    for batch_size in CHECKED_BATCHES:
        pixels = rng.integers(0, 256, (batch_size, crop, crop, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = np.asarray(frozen(torch.from_numpy(pixels)).float())
        worst = max(worst, _difference(run({"pixels": pixels})["features"], expected))
        largest = max(largest, float(np.abs(expected).max()))
    return worst / largest if largest else worst


def _check_sequence(run: Runner, model: Model) -> float:
    """Largest difference in the probabilities of random sequences, of several lengths and padded."""
    # A sequence is one clip to the graph, whatever clips the view cuts.
    whole = replace(model.spec, view=replace(model.spec.view, clip_frames=0, clip_stride=0), longest_steps=0)
    reference, worst = Model(whole, model.network), 0.0
    for lengths in CHECKED_LENGTHS:
        features = _drawn(model, len(lengths), max(lengths))
        got = run({"features": features, "lengths": np.array(lengths, np.int64)})
        for values, length, probs, plain in zip(
            features, lengths, got["probabilities"], got["uncalibrated"], strict=True
        ):
            valid = slice(0, length) if model.task == "frame" else slice(None)
            expected = reference.predict_features(values[:length])
            uncalibrated = reference.uncalibrated().predict_features(values[:length])
            worst = max(worst, _difference(probs[valid], expected), _difference(plain[valid], uncalibrated))
    return worst


def _check_step(run: Runner, model: Model) -> float:
    """Largest difference in the probabilities along two random streams, pushed in chunks."""
    features, streams = _drawn(model, 2, sum(CHECKED_CHUNKS)), [model.stream(), model.stream()]
    state, at, worst = run.zeros(2), 0, 0.0
    for size in CHECKED_CHUNKS:
        chunk = features[:, at : at + size]
        got = run({"features": chunk, **state})
        expected = np.stack([stream.push(values) for stream, values in zip(streams, chunk, strict=True)])
        worst = max(worst, _difference(got["probabilities"], expected))
        state, at = (
            {name.removeprefix("next_"): value for name, value in got.items() if name.startswith("next_")},
            at + size,
        )
    return worst


def _drawn(model: Model, batch_size: int, num_steps: int) -> np.ndarray:
    """Features (B, T, D) float32 with the mean and deviation of those that the model was trained on."""
    size = model.network.feature_size
    mean, std = (np.asarray(part.cpu())[:size] for part in (model.network.feature_mean, model.network.feature_std))
    drawn = np.random.default_rng(0).normal(size=(batch_size, num_steps, size))
    return np.asarray(drawn * std + mean, np.float32)


def _difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference; infinite where shapes differ or a number is none."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - expected).max())
