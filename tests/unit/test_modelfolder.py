from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import ModelError, ViewMismatch
from pipeline.features.store import VideoFeatures
from pipeline.models.calibration import Calibration
from pipeline.models.modelfolder import Model, ModelSpec, load_model, save_model
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.view import View

ARCHITECTURE = {
    "feature_size": 5, "cell": "lstm", "hidden_size": 4, "num_layers": 1, "bidirectional": False,
    "input_dropout": 0.0, "dropout": 0.5,
}  # fmt: skip
VIEW = View(fps=10, short_side=96, crop=96, clip_frames=4, clip_stride=2)
WHOLE = View(fps=10, short_side=96, crop=96)
CALIBRATION = Calibration(0.4, ((0.8, 0.625), (0.9, 0.75), (0.99, None)))


def make(task="clip", view=VIEW, calibration=CALIBRATION) -> Model:
    torch.manual_seed(0)
    spec = ModelSpec(
        task=task, classes=("no", "007", "1e5"), background=None, architecture=ARCHITECTURE, view=view,
        backbone="resnet18", features_key="0123456789abcdef", provenance={"fold": 1},
        calibration=calibration,
    )  # fmt: skip
    return Model(spec, RecurrentClassifier(num_classes=3, **ARCHITECTURE))


@pytest.fixture
def folder(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "backbone.safetensors")
    save_model(tmp_path / "model", make(), tmp_path / "backbone.safetensors")
    return tmp_path / "model"


def features(steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, 5)).astype(np.float32)


def test_round_trip_keeps_answers_and_class_names(folder):
    loaded = load_model(folder)
    assert loaded.spec == make().spec
    assert loaded.classes == ["no", "007", "1e5"]  # text stays text
    np.testing.assert_array_equal(loaded.predict_features(features(9)), make().predict_features(features(9)))
    assert [loaded.threshold(wanted) for wanted in (0.7, 0.9, 0.95)] == [0.625, 0.75, None]


def test_a_clip_model_averages_the_clips_of_its_view_and_calibrates_the_mean():
    values = features(9)
    whole = make(view=WHOLE).uncalibrated()
    mean = np.mean([whole.predict_features(values[start : start + 4]) for start in (0, 2, 4, 5)], axis=0)
    np.testing.assert_allclose(make().uncalibrated().predict_features(values), mean, atol=1e-6)
    expected = mean**2.5 / (mean**2.5).sum()
    got = make().predict_features(values)
    assert got.shape == (3,)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - mean).max() > 0.01
    assert got.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("task", ["clip", "frame"])
def test_every_way_to_ask_gives_calibrated_answers(task):
    values, model = features(9), make(task, WHOLE)
    whole, plain = model.predict_features(values), model.uncalibrated().predict_features(values)
    np.testing.assert_array_equal(whole, CALIBRATION.apply(plain))
    np.testing.assert_array_equal(
        model.step_probabilities(values), CALIBRATION.apply(model.uncalibrated().step_probabilities(values))
    )
    if task == "clip":
        np.testing.assert_array_equal(model.predict_clips(values), [whole])
    stream = model.stream()
    pushed = np.concatenate([stream.push(values[at : at + 2]) for at in range(0, 9, 2)])
    np.testing.assert_allclose(pushed[-1] if task == "clip" else pushed, whole, atol=1e-5)


def test_a_frame_model_divides_its_logits():
    values, model = features(9), make("frame")
    with torch.inference_mode():
        logits = model.network.read(torch.from_numpy(values)[None])[0]
    np.testing.assert_allclose(model.predict_features(values), (logits / 0.4).softmax(dim=-1), atol=1e-6)


def test_a_frame_model_answers_at_every_step():
    got = make("frame").predict_features(features(9))
    assert got.shape == (9, 3)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)


def test_features_of_another_view_are_refused(folder):
    times = np.arange(6) / 10
    stored = VideoFeatures(features(6).astype(np.float16), times, times)
    model = load_model(folder)
    assert model.predict(stored, "0123456789abcdef").shape == (3,)
    with pytest.raises(ViewMismatch, match="features ffff were made under another view"):
        model.predict(stored, "ffff")


@pytest.mark.parametrize("task", ["clip", "frame"])
def test_answers_of_several_crops_are_averaged(task):
    model = make(task).uncalibrated()
    crops = np.random.default_rng(1).normal(size=(9, 10, 5)).astype(np.float32)
    alone = [model.predict_features(crops[:, number]) for number in range(10)]
    np.testing.assert_allclose(model.predict_features(crops), np.mean(alone, axis=0), atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    if task == "clip":
        clips = model.predict_clips(crops)
        assert clips.shape == (4, 3)
        expected = np.mean([model.predict_clips(crops[:, number]) for number in range(10)], axis=0)
        np.testing.assert_allclose(clips, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "method", "limit", "tried"),
    [("clip", "steps", 30, [140, 140, 140, 80, 40, *[20] * 7]), ("frame", "read", 3, [10, 10, 10, 8, 4, *[2] * 5])],
)
def test_a_full_gpu_reads_fewer_sequences_at_a_time_and_the_answers_stay(task, method, limit, tried, monkeypatch):
    model, crops = make(task), np.random.default_rng(1).normal(size=(30, 10, 5)).astype(np.float32)
    expected, real, sizes = model.predict_features(crops), getattr(model.network, method), []

    def out_of_memory(sequences, *rest):
        sizes.append(len(sequences))
        if len(sequences) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more.")
        return real(sequences, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(model.network, method, out_of_memory)
        np.testing.assert_allclose(model.predict_features(crops), expected, atol=1e-6)
        assert sizes == tried
        patch.setattr(model.network, method, lambda *_: out_of_memory(range(99)))
        with pytest.raises(MemoryError, match=r"no memory for one of its (clips|sequences)"):
            model.predict_features(crops)


@pytest.mark.parametrize("shape", [(4, 6), (0, 5), (5,), (3, 0, 5), (2, 2, 2, 5)])
def test_features_of_another_size_are_refused(shape):
    with pytest.raises(ModelError, match=r"expected \(T, 5\)"):
        make().predict_features(np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", ["model.safetensors", "backbone.safetensors"])
def test_a_flipped_bit_is_found(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name}: its SHA-256 is not the one in model.yaml"):
        load_model(folder)


def test_missing_and_foreign_folders_are_named(folder, tmp_path):
    with pytest.raises(ModelError, match="no model here"):
        load_model(tmp_path / "none")
    text = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(text.replace("hidden_size: 4", "hidden_size: 8"))
    with pytest.raises(ModelError, match="does not fit the architecture"):
        load_model(folder)
    for made in (2, 99):
        (folder / "model.yaml").write_text(text.replace("format: 4", f"format: {made}"))
        with pytest.raises(
            ModelError, match=f"made by another version .* in model format {made}; expected format 4: tr"
        ):
            load_model(folder)
    (folder / "model.yaml").write_text(text.replace("temperature: 0.4", "temperature: -1"))
    with pytest.raises(
        ModelError, match=r"not a model description \(calibration: temperature is -1; expected a number"
    ):
        load_model(folder)
    (folder / "model.yaml").write_text(text.replace("- - 0.8", "- - 0.95"))
    with pytest.raises(ModelError, match=r"precisions of thresholds are \[0.95, 0.9, 0.99\]; expected increasing"):
        load_model(folder)
    (folder / "model.yaml").write_text("task: clip\n")
    with pytest.raises(ModelError, match="not a model description"):
        load_model(folder)
    (folder / "model.yaml").write_text(text)
    (folder / "backbone.safetensors").unlink()
    with pytest.raises(ModelError, match=r"backbone\.safetensors is missing"):
        load_model(folder)


def test_a_video_far_longer_than_those_of_the_training_is_read_in_windows():
    model = make(view=WHOLE)
    assert model.clips_of(500) == ([0], 500)  # no length is known
    model = Model(replace(model.spec, longest_steps=10), model.network)
    assert model.clips_of(20) == ([0], 20)
    assert model.clips_of(28) == ([0, 5, 10, 15, 18], 10)
    assert make().clips_of(7) == ([0, 2, 3], 4)  # the view's own clips
    values = features(28)
    windows = [
        Model(model.spec, model.network).predict_features(values[start : start + 10]) for start in (0, 5, 10, 15, 18)
    ]
    plain = model.uncalibrated()
    np.testing.assert_allclose(model.predict_clips(values), windows, atol=1e-6)
    mean = np.mean([plain.predict_features(values[start : start + 10]) for start in (0, 5, 10, 15, 18)], axis=0)
    np.testing.assert_allclose(plain.predict_features(values), mean, atol=1e-6)


def test_what_a_killed_writer_left_is_removed(folder):
    left = folder.with_name(".model.tmp")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    save_model(folder, make(), folder.with_name("backbone.safetensors"))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["backbone.safetensors", "model"]
    load_model(folder)
