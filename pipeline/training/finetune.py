"""Single-frame fine-tuning of a backbone: the first step of the LRCN recipe (Donahue et al. 2015, sections 3 and 4.1).

A linear layer is put on the backbone and both are trained to tell a video's class from one frame of it.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import TrainingError
from pipeline.features.backbones import Backbone
from pipeline.features.crop import center_crop
from pipeline.training.schedule import schedule
from pipeline.video.flow import mirror

WARM_UP = 0.1  # share of all steps in which the learning rate rises; then it falls along a cosine to 0
# Weight of the newest batch in batch normalisation's running averages: torch's default. Some networks bring less (0.01
# in mobilenet_v3, 0.0003 in mnasnet), for ImageNet's many steps: after a few hundred, validation would be at chance.
MOMENTUM = 0.1
JITTER = 0.2  # brightness and contrast are multiplied by a factor drawn from 1 - JITTER to 1 + JITTER


@dataclass(frozen=True, eq=False)
class TrainVideo:
    """Some frames of one video, and its class.

    frames: (n, H, W, 3) uint8, RGB or flow images, n >= 1; an array in memory or a memory map. class_index: 0 to K - 1.
    """

    frames: np.ndarray
    class_index: int


def sample_steps(num_steps: int, count: int, rng: np.random.Generator) -> list[int]:
    """Timesteps of a video, spread over it at random: one from each of `count` equal parts, in order.

    A video with fewer steps gives each of them once.

    >>> sample_steps(3, 5, np.random.default_rng(0))
    [0, 1, 2]
    """
    if num_steps < 1 or count < 1:
        raise ValueError(f"{count} of {num_steps} steps asked for; expected at least 1 of at least 1")
    count = min(count, num_steps)
    edges = np.arange(count + 1) * num_steps // count
    return [int(step) for step in rng.integers(edges[:-1], edges[1:])]


def finetune(
    backbone: Backbone,
    train: Sequence[TrainVideo],
    val: Sequence[TrainVideo],
    *,
    num_classes: int,
    crop: int,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    label_smoothing: float,
    flip: bool,
    seed: int,
    device: torch.device | str,
    is_flow: bool = False,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train a backbone, in place, with a fresh linear layer on single frames; the layer is thrown away.

    Each epoch sees every training frame once, in random order: a random square of `crop` pixels, brightness and
    contrast varied a little, mirrored half of the time if `flip` (which turns left into right). Of flow images
    (`is_flow`) mirroring turns x round too, and brightness and contrast, which stand for motion there, are left alone.
    AdamW with a learning rate that rises to `lr` and falls to 0. The loss is cross-entropy with `label_smoothing`. A
    last batch of a single frame is left out, since batch normalisation cannot learn from one.

    The backbone ends in evaluation mode on `device`, with the weights of the epoch of lowest validation loss, or of
    the last epoch when `val` is empty. Every random choice comes from `seed`; the global random state is left alone.
    On a CPU equal arguments and an equal number of threads give equal weights. On a GPU the forward pass runs in
    bfloat16, or in float16 with loss scaling.

    Returns one record per epoch, each also handed to `progress`: epoch (from 1), train_loss and, when there is
    validation, on centre crops and without smoothing, val_loss, val_frame_accuracy, and val_video_accuracy (highest
    mean probability over the frames of a video).

    Raises TrainingError for data that cannot be trained on, or when the loss stops being finite; ValueError when the
    backbone cannot take frames of `crop` pixels.
    """
    _check(train, val, num_classes, crop, batch_size)
    device = torch.device(device)
    backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone.check_crop(crop)
    history: list[dict[str, float]] = []
    best_weights: dict[str, Tensor] = {}
    best_loss = math.inf
    with _seeded(seed, device), _quick_averages(backbone):
        model = nn.Sequential(backbone, nn.Linear(backbone.feature_size, num_classes)).to(device)
        steps_per_epoch = len(_batch_starts(train, batch_size))
        trainer = _Trainer(model, device, lr, weight_decay, label_smoothing, num_steps=epochs * steps_per_epoch)
        for epoch in range(1, epochs + 1):
            model.train()
            batches = _batches(train, crop, batch_size, flip, np.random.default_rng([seed, epoch]), is_flow)
            losses = [trainer.step(*batch) for batch in batches]
            record: dict[str, float] = {"epoch": epoch, "train_loss": float(np.mean(losses))}
            if val:
                record |= _validate(model.eval(), val, crop, batch_size, device)
                trainer.check_finite(record["val_loss"], "validation loss")
                if record["val_loss"] < best_loss:
                    best_loss = record["val_loss"]
                    best_weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
            history.append(record)
            if progress is not None:
                progress(record)
    weights = backbone.state_dict()
    for name, tensor in best_weights.items():
        weights[name].copy_(tensor)
    backbone.eval()
    return history


class _Trainer:
    """One optimiser update after another, with the learning rate of each."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        lr: float,
        weight_decay: float,
        label_smoothing: float,
        num_steps: int,
    ) -> None:
        self.model, self.device, self.lr, self.label_smoothing = model, device, lr, label_smoothing
        self.done, self.num_steps = 0, num_steps
        self.factor = schedule("cosine", num_steps, warm_up=WARM_UP)
        parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
                # Scales and offsets of normalisation, and biases: pulled towards 0 they would be wrong, not simpler.
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            fused=True,
        )
        self.half: torch.dtype | None = None
        if device.type == "cuda":  # emulated bfloat16 (GPUs before Ampere) is slow
            self.half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half is torch.float16)

    def step(self, pixels: np.ndarray, labels: Tensor, factors: Tensor) -> float:
        """Learn from one batch of `_batches`; returns its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.factor(self.done)
        self.done += 1
        frames = _jitter(_to_frames(pixels, self.device), factors.to(self.device))
        with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
            logits = self.model(frames)
        loss = F.cross_entropy(logits.float(), labels.to(self.device), label_smoothing=self.label_smoothing)
        value = loss.item()
        self.check_finite(value, "training loss")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def check_finite(self, value: float, what: str) -> None:
        """Raise TrainingError when a loss is not finite."""
        if not math.isfinite(value):
            raise TrainingError(
                f"fine-tuning: {what} is {value} at step {self.done} of {self.num_steps}; lower finetune.lr "
                f"({self.lr:g}), or take undamaged weights"
            )


def _check(
    train: Sequence[TrainVideo], val: Sequence[TrainVideo], num_classes: int, crop: int, batch_size: int
) -> None:
    """Raise TrainingError for data that cannot be trained on."""
    for what, videos in (("training", train), ("validation", val)):
        for number, video in enumerate(videos):
            shape = video.frames.shape
            if video.frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] < 1:
                raise TrainingError(
                    f"{what} video {number}: frames are {video.frames.dtype} of shape {shape}; "
                    "expected uint8 of shape (n, H, W, 3) with at least one frame"
                )
            if min(shape[1:3]) < crop:
                raise TrainingError(
                    f"{what} video {number}: frames of {shape[2]}x{shape[1]} pixels; expected at least {crop}x{crop}"
                )
            if not 0 <= video.class_index < num_classes:
                raise TrainingError(
                    f"{what} video {number}: class index {video.class_index}; expected 0 to {num_classes - 1}"
                )
    if len({video.class_index for video in train}) < 2:
        raise TrainingError(
            f"{len(train)} training videos of fewer than two classes; expected examples of all {num_classes} classes"
        )
    if batch_size < 2:
        raise TrainingError(f"finetune.batch_size is {batch_size}; expected 2 or more, for batch normalisation")


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global random generators that start from `seed` and are put back: dropout and stochastic depth draw from them."""
    gpus = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


@contextlib.contextmanager
def _quick_averages(backbone: Backbone) -> Iterator[None]:
    """Let the running averages of batch normalisation follow within tens of batches; the momenta are put back."""
    layers = [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = max(MOMENTUM, layer.momentum or 0.0)
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _places(videos: Sequence[TrainVideo]) -> np.ndarray:
    """(N, 2) int: which video and which of its frames, for all frames."""
    return np.array([(v, f) for v, video in enumerate(videos) for f in range(len(video.frames))])


def _batch_starts(videos: Sequence[TrainVideo], batch_size: int) -> list[int]:
    """Where the batches of an epoch begin; a last one of a single frame is left out."""
    num_frames = sum(len(video.frames) for video in videos)
    return [start for start in range(0, num_frames, batch_size) if num_frames - start > 1]


def _batches(
    videos: Sequence[TrainVideo],
    crop: int,
    batch_size: int,
    flip: bool,
    rng: np.random.Generator,
    is_flow: bool = False,
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """One epoch: pixels (B, crop, crop, 3) uint8, labels (B,) int64, brightness and contrast factors (B, 2) float32."""
    places = rng.permutation(_places(videos))
    for start in _batch_starts(videos, batch_size):
        batch = places[start : start + batch_size]
        pixels = np.empty((len(batch), crop, crop, 3), dtype=np.uint8)
        for row, (v, f) in enumerate(batch):
            height, width = videos[v].frames.shape[1:3]
            top, left = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
            square = videos[v].frames[f, top : top + crop, left : left + crop]
            pixels[row] = mirror(square, is_flow) if flip and rng.random() < 0.5 else square
        labels = torch.tensor([videos[v].class_index for v in batch[:, 0]])
        jitter = 0.0 if is_flow else JITTER
        factors = torch.from_numpy(rng.uniform(1 - jitter, 1 + jitter, (len(batch), 2)).astype(np.float32))
        yield pixels, labels, factors


def _to_frames(pixels: np.ndarray, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1], channels last in memory."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)


def _jitter(frames: Tensor, factors: Tensor) -> Tensor:
    """Multiply brightness, and contrast around the frame's mean, by a frame's two factors; (B, 3, H, W) in [0, 1]."""
    brightness, contrast = factors[:, 0].view(-1, 1, 1, 1), factors[:, 1].view(-1, 1, 1, 1)
    mean = frames.mean(dim=(1, 2, 3), keepdim=True)
    return (((frames - mean) * contrast + mean) * brightness).clamp_(0, 1)


def _validate(
    model: nn.Module, videos: Sequence[TrainVideo], crop: int, batch_size: int, device: torch.device
) -> dict[str, float]:
    places = _places(videos)
    labels = np.array([video.class_index for video in videos])
    logits = []
    with torch.inference_mode():
        for start in range(0, len(places), batch_size):
            pixels = np.stack([center_crop(videos[v].frames[f], crop) for v, f in places[start : start + batch_size]])
            logits.append(model(_to_frames(pixels, device)).cpu())
    scores = torch.cat(logits)  # (N, K)
    frame_labels = torch.from_numpy(labels[places[:, 0]])
    probs = np.zeros((len(videos), scores.shape[1]))
    np.add.at(probs, places[:, 0], scores.softmax(dim=-1).numpy())
    return {
        "val_loss": F.cross_entropy(scores, frame_labels).item(),
        "val_frame_accuracy": (scores.argmax(dim=-1) == frame_labels).float().mean().item(),
        # Sums over a video's frames rank the classes as means do.
        "val_video_accuracy": float((probs.argmax(axis=1) == labels).mean()),
    }
