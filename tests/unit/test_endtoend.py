from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.features.backbones import Backbone
from pipeline.features.crop import center_crop
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.training import endtoend as module
from pipeline.training.checkpoint import CheckpointSlot
from pipeline.training.distributed import World
from pipeline.training.endtoend import EndToEndSettings, train_end_to_end
from pipeline.training.windows import Footage, Window
from pipeline.video.flow import mirror
from tests.unit.coloured_squares import SETTINGS, VIEW, backward, drawn, small_backbone, squares
from tests.unit.test_distributed import finish, start
from tests.unit.training_processes import end_to_end

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

CPU = World(0, 1, torch.device("cpu"))
MIRROR = partial(mirror, is_flow=False)
FEW, FEW_VAL = drawn(13), drawn(6, first=500)


def train(
    backbone: Backbone, footage: list[Footage] = FEW, val: list[Footage] = FEW_VAL, **changes: Any
) -> tuple[RecurrentClassifier, list[dict[str, float]]]:
    names = EndToEndSettings.__dataclass_fields__
    settings = replace(SETTINGS, **{name: changes.pop(name) for name in list(changes) if name in names})
    options: dict[str, Any] = {"num_classes": 2, "view": VIEW, "settings": settings, "world": CPU, "mirror": MIRROR}
    return train_end_to_end(backbone, footage, val, **{**options, **changes})


def accuracy(backbone: Backbone, network: nn.Module, footage: list[Footage]) -> float:
    right = 0
    with torch.inference_mode():
        for stretch in footage:
            frames = np.stack([center_crop(frame, VIEW.crop) for frame in stretch.frames(0, stretch.num_steps)])
            features = backbone(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
            logits, _ = network(features[None])
            right += int(logits.softmax(-1).mean(dim=(0, 1)).argmax() == stretch.class_index)
    return right / len(footage)


def weights(*networks: nn.Module) -> dict[str, Tensor]:
    return {f"{n}.{name}": t.clone() for n, network in enumerate(networks) for name, t in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What it learns


def test_the_cnn_learns_what_the_lstm_needs() -> None:
    footage, val, test = drawn(200), drawn(20, first=10_000), drawn(80, first=20_000)
    scores = {}
    for backbone_lr in (0.001, 1e-12):  # the second leaves the CNN as it was drawn
        backbone = small_backbone()
        network, history = train(backbone, footage, val, backbone_lr=backbone_lr)
        scores[backbone_lr] = accuracy(backbone, network, test)
        assert not backbone.training
        assert not network.training
    trained, untouched = scores.values()
    assert trained > 0.9
    assert trained > untouched + 0.1
    backbone = small_backbone()
    network, history = train(backbone, footage, val)
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert accuracy(backbone, network, [backward(stretch) for stretch in test]) < 0.1  # it is the order that counts


def test_normalisation_keeps_its_averages_and_the_rest_is_trained() -> None:
    backbone = small_backbone()
    backbone.net[1].running_mean.fill_(0.25)
    before = weights(backbone)
    network, _ = train(backbone, epochs=1)
    after = weights(backbone)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {"0.net.1.running_mean", "0.net.1.running_var", "0.net.1.num_batches_tracked"}
    assert changed == before.keys() - frozen
    assert network.feature_std.min() > 0


def test_rows_say_how_it_went() -> None:
    reported: list[dict[str, float]] = []
    _, history = train(small_backbone(), epochs=3, progress=reported.append)
    assert history == reported
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert set(history[0]) == {
        "epoch", "train_loss", "val_loss", "val_video_accuracy", "lr", "backbone_lr", "grad_norm",
    }  # fmt: skip
    assert [row["lr"] / row["backbone_lr"] for row in history] == pytest.approx([10, 10, 10])
    assert history[1]["lr"] > history[2]["lr"]


def test_the_loss_is_taken_at_every_step_of_windows_of_any_length() -> None:
    backbone = small_backbone()
    network, _ = train(backbone, epochs=1)
    trainer = module._Trainer(backbone, network, VIEW, SETTINGS, CPU, lambda x: x, 1, 8)
    windows = [Window(squares(1, 3), 1, 8, 0, 2, False), Window(squares(0, 4), 0, 3, 1, 1, False)]
    pixels = [window.read(VIEW.crop, lambda x: x) for window in windows]
    losses = []
    with torch.no_grad():
        for window, frames in zip(windows, pixels, strict=True):
            logits, _ = network(backbone(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)[None])
            losses.append(-logits[0].log_softmax(-1)[:, window.footage.class_index].mean().item())
    assert trainer._loss(windows, pixels).item() == pytest.approx(sum(losses), rel=1e-5)


def test_validation_averages_the_probabilities_of_half_overlapping_windows() -> None:
    backbone = small_backbone()
    network, _ = train(backbone, epochs=1)
    trainer = module._Trainer(backbone, network, VIEW, SETTINGS, CPU, lambda x: x, 1, 8)
    videos = [squares(1, 3, steps=19), squares(0, 4, steps=70), squares(1, 5, steps=5)]
    losses, right = [], 0
    for video, starts, length in zip(videos, [[0, 4, 8, 11], [*range(0, 61, 4), 62], [0]], [8, 8, 5], strict=True):
        frames = torch.stack([torch.from_numpy(frame[2:26, 2:26].copy()) for frame in video.frames(0, 99)])
        with torch.no_grad():
            features = backbone(frames.permute(0, 3, 1, 2) / 255)
            probabilities = torch.stack(
                [network(features[None, start : start + length])[0][0].softmax(-1).mean(0) for start in starts]
            ).mean(0)
        losses.append(-probabilities[video.class_index].log().item())
        right += int(probabilities.argmax() == video.class_index)
    found = trainer.validate(videos)
    assert found["val_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["val_video_accuracy"] == pytest.approx(right / 3)


def test_the_epoch_with_the_lowest_validation_loss_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.3, 0.9, 0.7, 0.9, 0.7])
    monkeypatch.setattr(module._Trainer, "validate", lambda *_: {"val_loss": next(losses)})
    backbone, seen = small_backbone(), []
    train(backbone, epochs=5, progress=lambda _: seen.append(weights(backbone)))
    assert not same(seen[2], seen[4])
    assert same(weights(backbone), seen[2])


def test_mirrored_windows_go_through_the_mirror_that_is_handed_in() -> None:
    calls = []

    def mirror(pixels: np.ndarray) -> np.ndarray:
        calls.append(pixels.shape)
        return pixels

    train(small_backbone(), epochs=2, flip=True, mirror=mirror)
    assert 5 < len(calls) < 34
    assert set(calls) == {(8, VIEW.crop, VIEW.crop, 3)}


# The same result again


def test_the_seed_decides_and_global_randomness_neither_matters_nor_changes() -> None:
    found = []
    for seed, noise, readers in ((0, 1, 1), (0, 2, 3), (1, 1, 1)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        backbone = small_backbone(dropout=0.3)
        network, _ = train(backbone, epochs=1, seed=seed, dropout=0.5, num_readers=readers)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(weights(backbone, network))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("cut", [1, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(cut: int, tmp_path: Path) -> None:
    def interrupt(row: dict[str, float]) -> None:
        if row["epoch"] == cut:
            raise Interrupted

    options: dict[str, Any] = {"epochs": 4, "dropout": 0.4, "flip": True}
    whole = small_backbone(dropout=0.3)
    network, history = train(whole, **options)
    path = CheckpointSlot(tmp_path / "checkpoint.safetensors")
    with pytest.raises(Interrupted):
        train(small_backbone(dropout=0.3), **options, checkpoint=path, progress=interrupt)
    reported: list[dict[str, float]] = []
    resumed = small_backbone(dropout=0.3)
    resumed_network, resumed_history = train(resumed, **options, checkpoint=path, progress=reported.append)
    assert same(weights(whole, network), weights(resumed, resumed_network))
    assert resumed_history == history
    assert [row["epoch"] for row in reported] == list(range(cut + 1, 5))
    again = small_backbone(dropout=0.3)  # and once more, when nothing is left to do
    again_network, _ = train(again, **options, checkpoint=path)
    assert same(weights(whole, network), weights(again, again_network))


def test_the_checkpoint_of_another_training_is_not_gone_on_with(
    tmp_path: Path,
) -> None:
    path = CheckpointSlot(tmp_path / "checkpoint.safetensors")
    train(small_backbone(), epochs=1, checkpoint=path, identity={"data": "a"})
    plain, saved = small_backbone(), small_backbone()
    train(plain, epochs=1, lr=0.02)
    train(saved, epochs=1, lr=0.02, checkpoint=path, identity={"data": "b"})
    assert len(list(tmp_path.iterdir())) == 2  # that of the other settings is kept
    for one, two in zip(plain.parameters(), saved.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    ended = finish(start("endtoend", str(tmp_path), processes=2), timeout_seconds=200)
    assert [status for status, _ in ended] == [0, 0], ended
    first, second = (safetensors.torch.load_file(tmp_path / f"{name}.safetensors") for name in ("0of2", "1of2"))
    one = end_to_end(World(0, 1, torch.device("cpu")))
    assert "losses" in one
    assert len(one) > 15
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-5)


# What cannot be trained


def test_a_loss_that_is_not_finite_stops_within_the_step_with_the_weights_untouched() -> None:
    backbone, taken = small_backbone(), []
    broken = drawn(13)

    def poison(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if backbone.training:
            taken.append(weights(backbone))
            return output * float("nan") if len(taken) == 2 else None
        return None

    backbone.register_forward_hook(poison)
    with pytest.raises(TrainingError, match=r"training loss is nan at step 2 of 10, .*lower finetune\.end_to_end\.lr"):
        train(backbone, broken)
    assert len(taken) == 2
    assert not same(taken[0], taken[1])  # the first step was learned from
    assert same(weights(backbone), taken[1])


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    backbone = small_backbone()
    before = weights(backbone)
    next(backbone.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"gradient is (nan|inf) at step 1 of 10"):
        train(backbone)
    assert same(weights(backbone), before)


def test_a_validation_loss_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Trainer, "validate", lambda *_: {"val_loss": np.inf})
    with pytest.raises(TrainingError, match="validation loss is inf at step 2 of 10"):
        train(small_backbone())


def empty(start: int, stop: int) -> Iterator[np.ndarray]:
    yield from ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"footage": [FEW[0], Footage(0, 28, 28, 1, empty)]}, "training video 1: 0 frames; expected at least one"),
        ({"footage": [FEW[0], Footage(9, 20, 40, 1, empty)]}, "training video 1: frames of 40x20 pixels; expected at"),
        ({"val": [Footage(9, 28, 28, 2, empty)]}, "validation video 0: class index 2; expected 0 to 1"),
        ({"footage": FEW[::2]}, "7 training videos of fewer than two classes"),
        ({"footage": []}, "0 training videos of fewer than two classes"),
        ({"val": []}, "the validation side has no labelled video"),
    ],
)
def test_data_that_cannot_be_trained_on(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(small_backbone(), **changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
def test_a_gpu_learns_it_too(tmp_path: Path) -> None:
    state = torch.cuda.get_rng_state()
    backbone = small_backbone()
    world = World(0, 1, torch.device("cuda"))
    path = CheckpointSlot(tmp_path / "checkpoint.safetensors")
    _, history = train(backbone, drawn(200), drawn(40, first=10_000), world=world, checkpoint=path)
    assert min(row["val_loss"] for row in history) < 0.3
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert len(train(small_backbone(), drawn(200), drawn(40, first=10_000), world=world, checkpoint=path)[1])
