from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.features.backbones import Backbone, load_backbone
from pipeline.training import finetune as module
from pipeline.training.finetune import TrainVideo, finetune, sample_steps
from pipeline.video.flow import mirror_flow

CROP = 24


def small_backbone(momentum: float = 0.1, dropout: float = 0.1) -> Backbone:
    """Two convolutions, trained within a second; with dropout, which draws from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8, momentum=momentum),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.BatchNorm2d(16, momentum=momentum),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    return Backbone("small", net, 16, [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], CROP).eval()


def striped(class_index: int, seed: int, count: int = 3, height: int = 26, width: int = 30) -> TrainVideo:
    """Stripes upright (0), lying (1) or none (2), of a random colour, width and place, in noise."""
    rng = np.random.default_rng([seed, class_index])
    colour, period = rng.integers(0, 200, 3), rng.uniform(4, 7)
    frames = np.empty((count, height, width, 3), np.uint8)
    for frame in frames:
        rows, columns = np.mgrid[:height, :width]
        place = [columns, rows, np.zeros_like(rows)][class_index]
        wave = (np.sin(2 * np.pi * (place / period + rng.random())) > 0)[..., None]
        frame[...] = np.clip(colour + 55 * wave + rng.normal(0, 6, (height, width, 3)), 0, 255)
    return TrainVideo(frames, class_index)


TRAIN = [striped(number % 3, number, count=2) for number in range(72)]
VAL = [striped(number % 3, number) for number in range(100, 112)]


def train(backbone: Backbone, train: list[TrainVideo] = TRAIN, val: list[TrainVideo] = VAL, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "num_classes": 3,
        "crop": CROP,
        "epochs": 3,
        "batch_size": 16,
        "lr": 0.02,
        "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "flip": False,
        "seed": 0,
        "device": "cpu",
        **changes,
    }
    return finetune(backbone, train, val, **settings)


# Which frames


def test_steps_come_one_from_each_part_in_order() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_steps(20, 4, rng) for _ in range(300)]
    for part in range(4):
        assert {steps[part] for steps in drawn} == set(range(5 * part, 5 * part + 5))
    for num_steps in range(1, 30):
        for count in range(1, num_steps + 1):
            steps = sample_steps(num_steps, count, rng)
            assert steps == sorted(set(steps))
            assert len(steps) == count
            assert 0 <= steps[0] <= steps[-1] < num_steps


def test_a_short_video_gives_each_step_once_and_the_generator_decides() -> None:
    assert sample_steps(3, 5, np.random.default_rng(0)) == [0, 1, 2]
    assert sample_steps(1, 1, np.random.default_rng(0)) == [0]
    one, other, third = (sample_steps(1000, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == other != third
    with pytest.raises(ValueError, match="2 of 0 steps asked for"):
        sample_steps(0, 2, np.random.default_rng(0))


# The parts of training


def test_an_epoch_shows_every_frame_once_cropped_at_random() -> None:
    rows, columns = np.mgrid[:26, :30].astype(np.uint8)
    videos = [
        TrainVideo(np.stack([np.dstack([rows, columns, np.full_like(rows, 10 * v + f)]) for f in range(3)]), v % 2)
        for v in range(11)
    ]
    batches = list(module._batches(videos, CROP, 16, False, np.random.default_rng(0)))
    assert [len(pixels) for pixels, _, _ in batches] == [16, 16]  # and not the last one of a single frame
    seen, corners = Counter[int](), set()
    for pixels, labels, factors in batches:
        assert pixels.shape == (16, CROP, CROP, 3)
        for frame, label in zip(pixels, labels.tolist(), strict=True):
            top, left, number = frame[0, 0].tolist()
            v, f = divmod(number, 10)
            assert label == v % 2
            assert np.array_equal(frame, videos[v].frames[f, top : top + CROP, left : left + CROP])
            seen[number] += 1
            corners.add((top, left))
        assert factors.shape == (16, 2)
        assert 0.8 <= factors.min() < 0.9 < 1.1 < factors.max() <= 1.2
    assert len(seen) == 32
    assert set(seen.values()) == {1}
    assert {top for top, _ in corners} == {0, 1, 2}
    assert min(left for _, left in corners) == 0
    assert max(left for _, left in corners) == 6
    order = [
        pixels[:, 0, 0, 2].tolist()
        for pixels, _, _ in module._batches(videos, CROP, 16, False, np.random.default_rng(1))
    ]
    assert order != [pixels[:, 0, 0, 2].tolist() for pixels, _, _ in batches]


@pytest.mark.parametrize(("flip", "low", "high"), [(False, 0, 0), (True, 15, 45)])
def test_frames_are_mirrored_only_if_asked(flip: bool, low: int, high: int) -> None:
    columns = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None], (60, 26, 30, 3))
    (pixels, _, _), *_ = module._batches([TrainVideo(columns, 0)], CROP, 60, flip, np.random.default_rng(0))
    mirrored = sum(frame[0, 0, 0] > frame[0, -1, 0] for frame in pixels)
    assert low <= mirrored <= high


def test_brightness_and_contrast_of_each_frame() -> None:
    frames = torch.tensor([0.2, 0.4]).view(1, 1, 1, 2).expand(4, 3, 1, 2)
    factors = torch.tensor([[1.0, 1.0], [1.5, 1.0], [1.0, 0.5], [4.0, 2.0]])
    found = module._jitter(frames, factors)[:, 0, 0]
    expected = torch.tensor([[0.2, 0.4], [0.3, 0.6], [0.25, 0.35], [0.4, 1.0]])
    torch.testing.assert_close(found, expected)


def test_validation_counts_frames_and_videos() -> None:
    class FirstPixel(nn.Module):
        """Scores of three classes: the first pixel's channels, in units of 1/10."""

        def forward(self, x: Tensor) -> Tensor:
            return (x[:, :, 0, 0] * 255).round() / 10

    def video(class_index: int, *scores: tuple[int, int, int]) -> TrainVideo:
        return TrainVideo(
            np.broadcast_to(np.array(scores, np.uint8)[:, None, None], (len(scores), 26, 30, 3)), class_index
        )

    videos = [
        video(0, (30, 0, 0), (0, 9, 0)),  # one frame right, and the surer one: the video is right
        video(1, (9, 0, 0), (0, 30, 0), (9, 0, 0)),  # one of three right, but sure
        video(2, (20, 0, 0)),
    ]
    found = module._validate(FirstPixel(), videos, CROP, 4, torch.device("cpu"))
    assert found["val_frame_accuracy"] == pytest.approx(2 / 6)
    assert found["val_video_accuracy"] == pytest.approx(2 / 3)
    scores = torch.tensor([[3, 0, 0], [0, 0.9, 0], [0.9, 0, 0], [0, 3, 0], [0.9, 0, 0], [2, 0, 0]])
    losses = -scores.log_softmax(dim=-1)[torch.arange(6), torch.tensor([0, 0, 1, 1, 1, 2])]
    assert found["val_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_vectors_do_not_decay() -> None:
    trainer = module._Trainer(small_backbone(), torch.device("cpu"), 0.1, 0.3, 0.0, num_steps=10)
    decay = {p.ndim: group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert decay == {4: 0.3, 1: 0.0}


# Training


def test_it_learns_what_a_frame_shows_and_reports_it() -> None:
    backbone, reported = small_backbone(), []
    before = backbone.weights_sha256
    history = train(backbone, epochs=6, progress=reported.append)
    assert history == reported
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert set(history[0]) == {"epoch", "train_loss", "val_loss", "val_frame_accuracy", "val_video_accuracy"}
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["val_frame_accuracy"] > 0.9
    assert history[-1]["val_video_accuracy"] > 0.9
    assert not backbone.training
    assert backbone.weights_sha256 != before


def test_labels_at_random_are_not_learned() -> None:
    rng = np.random.default_rng(0)
    val = [TrainVideo(video.frames, int(rng.integers(3))) for video in VAL * 4]
    assert train(small_backbone(), val=val)[-1]["val_frame_accuracy"] < 0.6


def test_the_seed_decides_and_global_randomness_neither_matters_nor_changes() -> None:
    sums = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002 - the global state is what must not matter
        before = torch.get_rng_state(), np.random.get_state()[2]  # noqa: NPY002
        backbone = small_backbone()
        history = train(backbone, seed=seed, epochs=1)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[2] == before[1]  # noqa: NPY002
        sums.append((backbone.weights_sha256, history[0]["train_loss"]))
    assert sums[0] == sums[1]
    assert sums[0][0] != sums[2][0]


def test_the_epoch_with_the_lowest_validation_loss_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.3, 0.9, 0.7, 0.9, 0.7])
    monkeypatch.setattr(module, "_validate", lambda *_: {"val_loss": next(losses)})
    backbone, sums = small_backbone(), []
    train(backbone, TRAIN[:9], epochs=5, progress=lambda _: sums.append(backbone.weights_sha256))
    assert len(set(sums)) == 5
    assert backbone.weights_sha256 == sums[2]
    assert not backbone.training


def test_a_validation_loss_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_validate", lambda *_: {"val_loss": np.inf})
    with pytest.raises(TrainingError, match="validation loss is inf at step 9 of 27"):
        train(small_backbone())


def test_without_validation_the_last_epoch_wins() -> None:
    backbone, sums = small_backbone(), []
    history = train(backbone, val=[], epochs=2, progress=lambda _: sums.append(backbone.weights_sha256))
    assert [set(row) for row in history] == [{"epoch", "train_loss"}] * 2
    assert backbone.weights_sha256 == sums[1] != sums[0]
    assert not backbone.training


def test_networks_with_slow_running_averages_validate_as_they_train() -> None:
    backbone = small_backbone(momentum=0.0003)  # as mnasnet has it
    history = train(backbone, epochs=6)
    assert history[-1]["val_frame_accuracy"] > 0.9
    assert [layer.momentum for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)] == [0.0003] * 2


def test_label_smoothing_is_in_the_training_loss_alone() -> None:
    plain, smooth = (train(small_backbone(), epochs=6, label_smoothing=value)[-1] for value in (0.0, 0.5))
    floor = -(2 / 3 * np.log(2 / 3) + 2 * 1 / 6 * np.log(1 / 6))  # what half smoothing over three classes leaves
    assert plain["train_loss"] < 0.5 < floor < smooth["train_loss"]
    assert smooth["val_frame_accuracy"] > 0.9


def test_videos_may_have_different_sizes_and_lie_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", TRAIN[0].frames)
    on_disk = TrainVideo(np.load(tmp_path / "frames.npy", mmap_mode="r"), 0)
    other_size = striped(1, 5, count=2, height=40, width=24)
    assert len(train(small_backbone(), [on_disk, other_size, *TRAIN[2:6]], epochs=1)) == 1


def test_a_torchvision_network_is_trained_in_place() -> None:
    backbone = load_backbone("shufflenet_v2_x0_5", "random", seed=0)
    before = backbone.arrays()
    before = {name: array.copy() for name, array in before.items()}
    train(backbone, TRAIN[:6], VAL[:3], epochs=1, batch_size=9)
    after = backbone.arrays()
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    assert all(np.isfinite(array).all() for array in after.values())


# What cannot be trained


def test_a_loss_that_is_not_finite_stops_at_once() -> None:
    steps = []
    backbone = small_backbone()
    backbone.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(TrainingError, match=r"training loss is nan at step \d of 27; lower finetune\.lr \(1e\+30\)"):
        train(backbone, lr=1e30)
    assert len(steps) <= 4


@pytest.mark.parametrize(
    ("videos", "changes", "message"),
    [
        ([TrainVideo(np.zeros((2, 26, 30, 3), np.float32), 0)], {}, "training video 0: frames are float32 of shape"),
        ([TRAIN[0], TrainVideo(np.zeros((0, 26, 30, 3), np.uint8), 0)], {}, "training video 1: .*at least one frame"),
        ([TrainVideo(np.zeros((26, 30, 3), np.uint8), 0)], {}, r"expected uint8 of shape \(n, H, W, 3\)"),
        ([TrainVideo(np.zeros((2, 20, 30, 3), np.uint8), 0)], {}, "frames of 30x20 pixels; expected at least 24x24"),
        ([TrainVideo(TRAIN[0].frames, 3)], {}, "training video 0: class index 3; expected 0 to 2"),
        ([TRAIN[0], TRAIN[3]], {}, "2 training videos of fewer than two classes"),
        ([], {}, "0 training videos of fewer than two classes"),
        (TRAIN, {"batch_size": 1}, r"finetune\.batch_size is 1; expected 2 or more"),
        (TRAIN, {"val": [TrainVideo(TRAIN[0].frames, -1)]}, "validation video 0: class index -1"),
    ],
)
def test_data_that_cannot_be_trained_on(videos: list[TrainVideo], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(small_backbone(), videos, **changes)


def test_a_crop_the_network_cannot_take() -> None:
    with pytest.raises(ValueError, match="squeezenet1_1 cannot take frames of 8x8 pixels"):
        train(load_backbone("squeezenet1_1", "random", 0), crop=8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
def test_a_gpu_learns_it_too() -> None:
    state = torch.cuda.get_rng_state()
    backbone = small_backbone()
    assert train(backbone, epochs=6, device="cuda")[-1]["val_frame_accuracy"] > 0.9
    assert torch.equal(torch.cuda.get_rng_state(), state)


# Flow


def test_flow_images_are_mirrored_as_motion_and_not_varied_in_brightness() -> None:
    rng = np.random.default_rng(0)
    video = TrainVideo(rng.integers(1, 256, (40, CROP, CROP, 3), np.uint8), 0)

    def seen(is_flow: bool, flip: bool = True) -> tuple[np.ndarray, np.ndarray]:
        ((pixels, _, factors),) = module._batches([video], CROP, 40, flip, np.random.default_rng(1), is_flow)
        return pixels, factors.numpy()

    plain, factors = seen(True, flip=False)
    assert (factors == 1).all()
    assert (seen(False)[1] != 1).any()
    places = [int(np.flatnonzero((video.frames == pixels).all(axis=(1, 2, 3)))[0]) for pixels in plain]
    assert sorted(places) == list(range(40))
    pixels, _ = seen(True)
    mirrored = 0
    for place, found in zip(places, pixels, strict=True):
        if not np.array_equal(found, video.frames[place]):
            assert np.array_equal(found, mirror_flow(video.frames[place]))
            mirrored += 1
    assert 10 <= mirrored <= 30


def flow_video(class_index: int, seed: int, count: int = 3) -> TrainVideo:
    """Noise around a motion to the right (0) or to the left (1): what a mirror turns into the other class."""
    rng = np.random.default_rng([seed, class_index])
    images = rng.integers(118, 139, (count, CROP, CROP, 3)).astype(np.uint8)
    images[..., 0] += np.uint8(40) if class_index == 0 else np.uint8(256 - 40)
    return TrainVideo(images, class_index)


def test_a_mirror_that_is_right_for_flow_turns_left_into_right() -> None:
    videos = [flow_video(number % 2, number) for number in range(24)]
    val = [flow_video(number % 2, number) for number in range(100, 112)]
    straight = train(small_backbone(), videos, val, num_classes=2, epochs=4, is_flow=True, batch_size=8)
    assert straight[-1]["val_video_accuracy"] == 1.0
    # Half of the frames change sides when x is turned round, so flow that is mirrored cannot be told apart.
    flipped = train(small_backbone(), videos, val, num_classes=2, epochs=4, is_flow=True, flip=True, batch_size=8)
    assert flipped[-1]["train_loss"] > 0.5 > straight[-1]["train_loss"]
