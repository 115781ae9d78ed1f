"""Exported models: the graphs against the network, `lrcn export` and what it says when something is wrong."""

import importlib.metadata
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline import cli
from pipeline.errors import LrcnError, ModelError
from pipeline.features.backbones import load_backbone
from pipeline.features.frozen import FrozenBackbone
from pipeline.files import content_hash
from pipeline.inference import export
from pipeline.inference.export import Runner, export_model
from pipeline.models import onnxgraphs
from pipeline.models.calibration import UNCALIBRATED, Calibration
from pipeline.models.modelfolder import Model, load_model
from pipeline.models.onnxgraphs import sequence_graph, step_graph
from pipeline.models.recurrent import HEADS, RecurrentClassifier
from pipeline.models.streaming import Stream

D, K = 5, 3
CALIBRATION = Calibration(0.4)
KINDS = [("frame", "mean"), *(("clip", head) for head in HEADS)]
GRID = list(itertools.product(KINDS, ("rnn", "lstm", "gru"), (False, True), (False, True), (1, 2)))
# Every value of every setting once or more, each cell with both directions.
SOME = [
    (("frame", "mean"), "lstm", True, True, 2),
    (("frame", "mean"), "gru", False, True, 1),
    (("clip", "mean"), "lstm", False, True, 2),
    (("clip", "last"), "rnn", False, False, 1),
    (("clip", "ramp"), "gru", True, False, 1),
    (("clip", "ramp"), "gru", False, True, 2),
    (("clip", "attention"), "rnn", True, True, 2),
]


def network(cell: str, head: str, bidirectional: bool, motion: bool, layers: int) -> RecurrentClassifier:
    """Weights large enough that every part of a cell matters."""
    torch.manual_seed(1)
    options: dict[str, Any] = {"hidden_size": 4, "num_layers": layers, "bidirectional": bidirectional, "motion": motion}
    made = RecurrentClassifier(D, K, cell=cell, head=head, input_dropout=0.5, dropout=0.5, **options).eval()  # type: ignore[arg-type]
    made.feature_mean.normal_()
    made.feature_std.uniform_(0.5, 2)
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(3)
    return made


def runner(graph: Any, folder: Path) -> Runner:
    (folder / "graph.onnx").write_bytes(graph.SerializeToString())
    return Runner(folder / "graph.onnx")


def check_sequence(task: str, made: RecurrentClassifier, folder: Path) -> None:
    run = runner(sequence_graph(made, task, CALIBRATION), folder)
    for batch, steps, lengths in ((3, 7, (7, 1, 4)), (1, 1, (1,)), (2, 40, (13, 40))):
        features = torch.randn(batch, steps, D, generator=torch.Generator().manual_seed(steps))
        with torch.inference_mode():
            found = made.steps(features, torch.tensor(lengths))
            expected = made.clip_probabilities(found) if task == "clip" else found.logits.softmax(dim=-1)
        # Beyond a length: numbers that would show if they counted.
        padded = torch.where(torch.arange(steps)[None, :, None] < torch.tensor(lengths)[:, None, None], features, 1e3)
        got = run({"features": padded.numpy(), "lengths": np.array(lengths, np.int64)})
        for row, length in enumerate(lengths):
            valid = slice(None) if task == "clip" else slice(0, length)
            plain = expected[row].numpy()[valid]
            np.testing.assert_allclose(got["uncalibrated"][row][valid], plain, atol=1e-5)
            np.testing.assert_allclose(got["probabilities"][row][valid], CALIBRATION.apply(plain), atol=1e-5)
            if task == "frame":
                assert not got["probabilities"][row, length:].any()


def check_step(task: str, made: RecurrentClassifier, folder: Path) -> None:
    run = runner(step_graph(made, task, CALIBRATION), folder)
    features = np.random.default_rng(0).normal(size=(2, 20, D)).astype(np.float32)
    streams, state, at = [Stream(made, task, CALIBRATION) for _ in range(2)], run.zeros(2), 0
    for size in (1, 1, 3, 7, 8):
        got = run({"features": features[:, at : at + size], **state})
        expected = [stream.push(video[at : at + size]) for stream, video in zip(streams, features, strict=True)]
        np.testing.assert_allclose(got["probabilities"], expected, atol=1e-5)
        state = {name.removeprefix("next_"): value for name, value in got.items() if name != "probabilities"}
        at += size
    np.testing.assert_array_equal(state["num_steps"], [20, 20])
    # One stream ends and another begins in its place, beside one that goes on.
    fresh = run.zeros(2)
    for name, value in state.items():
        lane = (slice(None), 0) if name in ("h", "c") else (0,)
        value[lane] = fresh[name][lane]
    got = run({"features": features[:, :3], **state})
    expected = [Stream(made, task, CALIBRATION).push(features[0, :3]), streams[1].push(features[1, :3])]
    np.testing.assert_allclose(got["probabilities"], expected, atol=1e-5)


def check(kind: tuple[str, str], cell: str, bidirectional: bool, motion: bool, layers: int, folder: Path) -> None:
    task, head = kind
    made = network(cell, head, bidirectional, motion, layers)
    check_sequence(task, made, folder)
    if bidirectional or (task == "clip" and head == "attention"):
        with pytest.raises(ModelError, match="cannot follow a stream"):
            step_graph(made, task, CALIBRATION)
    else:
        check_step(task, made, folder)


@pytest.mark.parametrize(("kind", "cell", "bidirectional", "motion", "layers"), SOME)
def test_the_graphs_give_what_the_network_gives(kind, cell, bidirectional, motion, layers, tmp_path) -> None:
    check(kind, cell, bidirectional, motion, layers, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "cell"), list(itertools.product(KINDS, ("rnn", "lstm", "gru"))))
def test_every_network_gives_the_same_as_its_graphs(kind, cell, tmp_path) -> None:
    for case in GRID:
        if case[:2] == (kind, cell):
            check(*case, tmp_path)


def test_a_temperature_of_one_changes_nothing(tmp_path) -> None:
    run = runner(sequence_graph(network("gru", "mean", False, False, 1), "clip", UNCALIBRATED), tmp_path)
    got = run({"features": np.ones((2, 4, D), np.float32), "lengths": np.array([4, 2], np.int64)})
    np.testing.assert_array_equal(got["probabilities"], got["uncalibrated"])


# The command


def test_a_model_of_features_is_exported_with_its_description(
    make_model: Callable[..., Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = make_model("clip", motion=True), tmp_path / "onnx"
    assert cli.main(["export", str(model.folder), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["export.yaml", "sequence.onnx", "step.onnx"]
    text = yaml.safe_load((out / "export.yaml").read_text(encoding="utf-8"))
    assert (text["task"], text["classes"], text["calibration"]["temperature"]) == ("clip", ["idle", "走る"], 0.5)
    assert text["calibration"]["thresholds"] == [[0.8, 0.3], [0.9, None]]
    assert text["view"]["fps"] == 10
    assert text["model"] == content_hash(Path(str(model.folder)) / "model.yaml")
    assert {name: entry["sha256"] for name, entry in text["files"].items()} == {
        name: content_hash(out / name) for name in ("sequence.onnx", "step.onnx")
    }
    assert text["files"]["sequence.onnx"]["inputs"] == {
        "features": {"dtype": "float32", "shape": ["B", "T", 5]},
        "lengths": {"dtype": "int64", "shape": ["B"]},
    }
    step = text["files"]["step.onnx"]
    assert step["inputs"]["total"] == {"dtype": "float64", "shape": ["B", 2]}
    assert {f"next_{name}" for name in step["inputs"]} - {"next_features"} == set(step["outputs"]) - {"probabilities"}
    assert "sequence.onnx: agrees with PyTorch" in capsys.readouterr().out
    video = np.random.default_rng(3).normal(size=(9, 5)).astype(np.float32)
    got = Runner(out / "sequence.onnx")({"features": video[None], "lengths": np.array([9], np.int64)})
    np.testing.assert_allclose(got["probabilities"][0], model.predict_features(video), atol=1e-4)


def test_a_model_that_cannot_stream_has_no_step_and_a_reason(
    make_model: Callable[..., Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "onnx"
    out.mkdir()
    (out / "step.onnx").write_bytes(b"of another model")
    assert cli.main(["export", str(make_model("frame", bidirectional=True).folder), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["export.yaml", "sequence.onnx"]
    assert "no step.onnx: a bidirectional network" in capsys.readouterr().out


def test_a_graph_that_differs_is_not_written(
    make_model: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = make_model("clip").folder, tmp_path / "onnx"
    assert folder
    export_model(folder, out)
    monkeypatch.setitem(onnxgraphs.GATES, "lstm", (0, 1, 2, 3))  # the gates in PyTorch's order
    with pytest.raises(LrcnError, match=r"sequence.onnx: differs from PyTorch by .*, expected at most 1e-04"):
        export_model(folder, out)
    assert list(out.iterdir()) == []


def test_what_is_no_number_differs() -> None:
    good = np.ones((2, 3))
    assert export._difference(good, good) == 0
    assert export._difference(good * np.nan, good) == np.inf
    assert export._difference(good, np.ones((1, 3))) == np.inf


def test_without_the_packages_it_says_how_to_get_them(tmp_path, monkeypatch, capsys) -> None:
    version = importlib.metadata.version

    def lacking(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", lacking)
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "onnxruntime is not installed" in said
    assert "pip install onnx onnxruntime onnxscript" in said


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "is_flow"), [("", False), ("features.6", True)])
def test_a_backbone_takes_any_number_of_pictures(layer: str, is_flow: bool, tmp_path: Path) -> None:
    from pipeline.models.onnxbackbone import backbone_graph

    torch.manual_seed(0)
    frozen = FrozenBackbone(load_backbone("squeezenet1_1", "random", 0, layer=layer, crop=32, is_flow=is_flow), 32)
    run = runner(backbone_graph(frozen, 32), tmp_path)
    for batch in (1, 2, 5):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = frozen(torch.from_numpy(pixels)).numpy()
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(run({"pixels": pixels})["features"], expected, atol=1e-4)


@pytest.mark.slow
def test_the_toy_models_from_pixels_to_probabilities(built_toy: Path, tmp_path: Path) -> None:
    for task in ("clip", "frame"):
        folder, out = built_toy / f"artifacts/toy/trainings/{task}-rgb-fold1-seed0/model", tmp_path / task
        difference = export_model(folder, out)
        assert set(difference) >= {"backbone.onnx", "sequence.onnx"}
        assert max(difference.values()) <= 1e-4
        model = load_model(folder)
        pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        features = Runner(out / "backbone.onnx")({"pixels": pixels})["features"]
        got = Runner(out / "sequence.onnx")({"features": features[None], "lengths": np.array([6], np.int64)})
        np.testing.assert_allclose(got["probabilities"][0], model.predict_features(features), atol=1e-4)
