"""Training a recurrent classifier: plain PyTorch, one loop for both tasks."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.labels import IGNORED
from pipeline.errors import TrainingError
from pipeline.models.recurrent import Lanes, RecurrentClassifier, Steps
from pipeline.training.checkpoint import save_checkpoint, unfinished
from pipeline.training.distributed import World
from pipeline.training.schedule import Schedule, schedule
from pipeline.training.sequences import (
    Batch,
    Sequences,
    Windows,
    class_weights,
    draw_order,
    gather,
    gather_labels,
    plan_chunks,
    plan_clips,
    plan_whole,
    video_weights,
)
from pipeline.view import View

WARM_UP = 0.05  # share of the steps over which the learning rate rises, before it falls along a half cosine
MOMENTUM = 0.9  # of SGD (LRCN's released solver)
LARGEST_STEP = 4.0  # truncation of the smoothing loss, in natural logarithms (MS-TCN's tau)
VALIDATION_STEPS = 16_384  # padded timesteps of a batch in validation
CHECKPOINT_SECONDS = 10.0  # between two checkpoints, at least; they are written at the end of an epoch


@dataclass(frozen=True)
class TrainSettings:
    """What a training is told; the meaning of each value stands in the configuration's `train` section.

    clip_norm: largest norm of the whole gradient. chunk_frames: steps a gradient reaches back in the frame task
    (truncated back-propagation through time, the state carried on); 0 = the whole recording.
    patience: epochs without a better validation loss before training ends.
    """

    task: Literal["clip", "frame"]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    clip_norm: float
    chunk_frames: int
    patience: int
    seed: int
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Schedule = "cosine"
    step_epochs: int = 10
    label_smoothing: float = 0.0
    smoothing: float = 0.0
    balance: Literal["none", "loss", "sampling"] = "none"


def train(
    network: RecurrentClassifier,
    training: Sequences,
    validation: Sequences,
    view: View,
    settings: TrainSettings,
    on_epoch: Callable[[dict[str, float]], None],
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    world: World | None = None,
) -> list[dict[str, float]]:
    """Fit a network; it ends with the weights of the epoch whose validation loss was lowest.

    Args:
        network: on the device of the sequences, standardised; trained in place.
        training, validation: the two sides of the split.
        view: how clips are cut.
        settings: the rest.
        on_epoch: called with each row of the history as it is made.
        checkpoint: file of the training's state, written every few epochs; where it exists, training goes on from it,
            to the result it would have had without a stop. That of other data or settings is replaced, which is
            printed. It is left there: the caller removes it when all is saved.
        identity: what makes the data this data.
        world: the processes that train together, each with its share of every batch; None = this one alone.

    Returns:
        One row per epoch: epoch, train_loss, val_loss, val_score (top-1 of the clip task, accuracy over labelled
        timesteps of the frame task), lr, grad_norm (mean over the epoch's steps, before clipping).

    Raises:
        TrainingError: fewer than two classes to learn, or a loss that is not finite (within the step it happens in).
    """
    _check(network, training, settings)
    device = training.device
    world = world or World(0, 1, device)
    learner = Learner(network, training, view, settings, world)
    generator = torch.Generator().manual_seed(settings.seed)
    identity = {"settings": vars(settings), "data": dict(identity or {})}
    best = copy.deepcopy(network.state_dict())
    best_loss, best_epoch = math.inf, 0
    history: list[dict[str, float]] = []
    saved_at = time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)  # dropout draws from the global generator; it is restored on leaving
        saved = unfinished(checkpoint, identity)
        if saved:
            saved.restore({"network": network}, learner.optimizer, {"order": generator})
            best = saved.state("best")
            history, best_loss, best_epoch = (saved.values[name] for name in ("history", "best_loss", "best_epoch"))
        while len(history) < settings.epochs and len(history) - best_epoch < settings.patience:
            epoch = len(history) + 1
            done = list(learner.epoch(epoch, generator))
            val_loss, val_score = validate(network, validation, view, settings.task)
            row = {
                "epoch": float(epoch),
                "train_loss": sum(step.loss for step in done) / len(done),
                "val_loss": val_loss,
                "val_score": val_score,
                "lr": done[0].lr,
                "grad_norm": sum(step.grad_norm for step in done) / len(done),
            }
            history.append(row)
            on_epoch(row)
            if val_loss < best_loss:
                best_loss, best_epoch = val_loss, epoch
                best = copy.deepcopy(network.state_dict())
            if checkpoint and world.is_main and time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                values = {"history": history, "best_loss": best_loss, "best_epoch": best_epoch}
                modules: dict[str, Any] = {"network": network, "best": best}
                save_checkpoint(checkpoint, identity, modules, learner.optimizer, {"order": generator}, values)
                saved_at = time.monotonic()
    network.load_state_dict(best)
    return history


def validate(network: RecurrentClassifier, sequences: Sequences, view: View, task: str) -> tuple[float, float]:
    """Loss and score on a split, looked at as in prediction: (mean negative log-likelihood, top-1 or accuracy)."""
    network.eval()
    lengths = sequences.lengths.tolist()
    is_clip = task == "clip"
    starts = [view.clip_starts(length) if is_clip else [0] for length in lengths]
    num_classes = network.classifier.out_features
    # Of each video (clip task) or timestep: probabilities added up over windows and crops.
    rows = len(lengths) if is_clip else len(sequences.labels)
    sums = torch.zeros(rows, num_classes, device=sequences.device)
    with torch.inference_mode():
        for windows in plan_whole(sequences, starts, view.clip_frames if is_clip else 0, VALIDATION_STEPS):
            batch = gather(sequences, windows)
            with _autocast(sequences.device):
                steps = network.steps(batch.features, batch.lengths)
            if is_clip:
                sums.index_add_(0, windows.videos.to(sums.device), network.clip_probabilities(steps))
            else:
                probabilities = steps.logits.float().softmax(dim=-1)
                for row, (video, length) in enumerate(
                    zip(windows.videos.tolist(), windows.lengths.tolist(), strict=True)
                ):
                    begin = int(sequences.offsets[video])
                    sums[begin : begin + length] += probabilities[row, :length]
    labels = sequences.labels[sequences.offsets[:-1].to(sums.device)] if is_clip else sequences.labels
    sums, labels = sums[labels != IGNORED], labels[labels != IGNORED]
    if len(labels) == 0:
        raise TrainingError("the validation split has no labelled timestep; nothing says which epoch is best")
    probabilities = sums / sums.sum(dim=-1, keepdim=True)
    loss = functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels)
    return float(loss), float((probabilities.argmax(dim=-1) == labels).double().mean())


def batch_loss(
    network: RecurrentClassifier,
    steps: Steps,
    batch: Batch,
    settings: TrainSettings,
    weights: Tensor | None,
    denominator: float,
) -> Tensor:
    """The loss of one batch, a sum over its rows divided by `denominator` (see `loss_denominator`).

    Clip task: cross-entropy at every step of a clip, weighted as the step counts in the clip's answer (with the `mean`
    head LRCN's loss: the class is predicted at every step; with `ramp` that of Ng et al. 2015); with `attention` the
    cross-entropy of the clip's answer. Frame task: cross-entropy at every labelled step, and `smoothing` times the
    truncated mean squared error between the log-probabilities of neighbouring steps (Abu Farha & Gall 2019, eq. 8-10).
    """
    logits = steps.logits.float()

    def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            scores, labels, weights, ignore_index=IGNORED, reduction="none", label_smoothing=settings.label_smoothing
        )

    if settings.task == "clip" and network.head == "attention":
        return cross_entropy((logits * steps.weights[..., None]).sum(dim=1), batch.labels[:, 0]).sum() / denominator
    losses = cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).view_as(batch.labels)
    if settings.task == "clip":
        return (losses * steps.weights).sum() / denominator
    loss = losses.sum() / denominator
    if settings.smoothing:
        logs = logits.log_softmax(dim=-1)
        step = (logs[:, 1:] - logs[:, :-1].detach()).square().clamp_max(LARGEST_STEP**2).mean(dim=-1)
        valid = torch.arange(1, logits.shape[1])[None, :] < batch.lengths[:, None]
        loss = loss + settings.smoothing * (step * valid.to(step.device)).sum() / denominator
    return loss


def loss_denominator(labels: Tensor, task: str, weights: Tensor | None) -> float:
    """What the loss of a whole batch is divided by: its clips, or its labelled timesteps; by their weights if any.

    labels: (B, T) int64 of the whole batch, of which a process may have but a share.
    """
    counted = labels[:, 0] if task == "clip" else labels[labels != IGNORED]
    total = float(len(counted)) if weights is None else float(weights[counted].sum())
    return max(total, 1e-6)


class Step(NamedTuple):
    """An optimiser step: its loss, the gradient's norm before clipping, and the learning rate."""

    loss: float
    grad_norm: float
    lr: float


class Learner:
    """One network's optimiser steps, epoch by epoch."""

    def __init__(
        self, network: RecurrentClassifier, training: Sequences, view: View, settings: TrainSettings, world: World
    ) -> None:
        self._network, self._training, self._settings, self._world = network, training, settings, world
        self._clip_frames = view.clip_frames if settings.task == "clip" else 0
        num_classes = network.classifier.out_features
        is_balanced = settings.balance == "loss"
        self._weights = class_weights(training.labels, num_classes) if is_balanced else None
        self._draw = video_weights(training, num_classes) if settings.balance == "sampling" else None
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
            if settings.optimizer == "adamw"
            else torch.optim.SGD(
                network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, momentum=MOMENTUM
            )
        )

    def epoch(self, epoch: int, generator: torch.Generator) -> Iterator[Step]:
        """Train for one epoch (they count from 1), an optimiser step at a time."""
        settings, training = self._settings, self._training
        order = draw_order(self._draw, len(training), generator)
        is_chunked = settings.task == "frame" and settings.chunk_frames > 0
        if is_chunked:
            plan = plan_chunks(
                training, order, batch_size=settings.batch_size, chunk_frames=settings.chunk_frames, generator=generator
            )
        else:
            plan = plan_clips(
                training, order, batch_size=settings.batch_size, clip_frames=self._clip_frames, generator=generator
            )
        lanes = Lanes(self._network, settings.batch_size) if is_chunked else None
        self._network.train()
        for number, windows in enumerate(plan):
            rate = self._set_rate(epoch, number, len(plan))
            yield Step(*self._step(windows, lanes), rate)

    def _set_rate(self, epoch: int, number: int, num_batches: int) -> float:
        settings = self._settings
        # Counted in this epoch's batches: epochs of chunks differ a little in their number.
        factor = schedule(
            settings.schedule,
            settings.epochs * num_batches,
            warm_up=WARM_UP,
            drop_every=settings.step_epochs * num_batches,
        )
        rate = settings.lr * factor((epoch - 1) * num_batches + number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _step(self, windows: Windows, lanes: Lanes | None) -> tuple[float, float]:
        """One optimiser step on this process's share of a batch; returns the batch's loss and the gradient norm."""
        settings, network = self._settings, self._network
        labels = gather_labels(self._training, windows)
        denominator = loss_denominator(labels, settings.task, self._weights)
        own = windows.take((windows.lanes % self._world.size == self._world.rank).nonzero()[:, 0])
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        if len(own):
            batch = gather(self._training, own)
            state = lanes.take(own.lanes, own.starts == 0, batch.features) if lanes else None
            with _autocast(self._training.device):
                steps = network.steps(batch.features, batch.lengths, state)
            loss = batch_loss(network, steps, batch, settings, self._weights, denominator)
            value = loss.item()
            if math.isfinite(value):
                loss.backward()  # type: ignore[no-untyped-call]
            if lanes:
                lanes.put(own.lanes, steps.state)
        (value,) = self._world.sum_floats(value)
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} and training stopped before the weights were touched: "
                "lower train's lr or clip_norm, and look for extreme feature values"
            )
        self._world.sum_gradients(network)
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        self.optimizer.step()
        return value, norm.item()


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _check(network: RecurrentClassifier, training: Sequences, settings: TrainSettings) -> None:
    """Raise TrainingError for what cannot be trained."""
    present = set(training.labels.tolist()) - {IGNORED}
    if len(present) < 2:
        raise TrainingError(
            f"the training split holds {len(present)} class(es) in {len(training)} video(s); at least 2 are needed: "
            "check the split and the labels"
        )
    if settings.chunk_frames and network.bidirectional:
        raise TrainingError(
            "train.frame.chunk_frames carries a state on, which a bidirectional network has not: "
            "set chunk_frames to 0 or bidirectional to false"
        )
