"""Training a recurrent classifier: plain PyTorch, one loop for both tasks."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.labels import IGNORED
from pipeline.errors import TrainingError
from pipeline.models.recurrent import BLOCK_STEPS, Lanes, RecurrentClassifier, Steps
from pipeline.training.checkpoint import CheckpointSlot, save_checkpoint, training_identity, unfinished
from pipeline.training.distributed import World
from pipeline.training.schedule import Schedule, schedule
from pipeline.training.seeds import seed_everything
from pipeline.training.sequences import (
    Batch,
    Sequences,
    Windows,
    begins,
    class_weights,
    counted_labels,
    draw_crops,
    draw_order,
    gather,
    gather_labels,
    plan_chunks,
    plan_clips,
    plan_whole,
    video_weights,
)
from pipeline.view import View

MOMENTUM = 0.9  # of SGD (LRCN's released solver)
LARGEST_STEP = 4.0  # truncation of the smoothing loss, in natural logarithms (MS-TCN's tau)
VALIDATION_STEPS = 16_384  # padded timesteps of a batch in validation
LANES = 16  # recordings side by side in validation
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
    warm_up: float = 0.05
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
    checkpoint: CheckpointSlot | None = None,
    identity: Mapping[str, Any] | None = None,
    world: World | None = None,
) -> list[dict[str, float]]:
    """Fit a network; it ends with the weights of the epoch whose validation loss was lowest.

    Args:
        network: on the device of the sequences, standardised; trained in place.
        training, validation: the two sides of the split.
        view: how clips are cut.
        settings: the rest.
        on_epoch: called with each row of the history as it is made, or read from the checkpoint.
        checkpoint: where the training's state is kept (see CheckpointSlot), written every few epochs; where it
            exists, training goes on from it, to the result it would have had without a stop. It is left there: the
            caller removes it when all is saved.
        identity: what makes the data this data.
        world: the processes that train together, each with its share of every batch; None = this one alone.

    Returns:
        One row per epoch: epoch, train_loss, val_loss, val_score (top-1 of the clip task, accuracy over labelled
        timesteps of the frame task), lr, grad_norm (mean over the epoch's steps, before clipping).

    Raises:
        TrainingError: fewer than two classes to learn, no label to validate on, or a loss or gradient that is not
            finite (within the step it happens in, the weights being those of the step before).
    """
    check(network, training, validation, settings)
    device = training.device
    world = world or World(0, 1, device)
    learner = Learner(network, training, view, settings, world)
    examiner = Examiner(network, validation, view, settings.task, world)
    generator = torch.Generator().manual_seed(settings.seed)
    identity = training_identity(settings, identity or {})
    best = copy.deepcopy(network.state_dict())
    best_loss, best_epoch = math.inf, 0
    history: list[dict[str, float]] = []
    saved_at = time.monotonic()
    file = checkpoint.file(identity) if checkpoint else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        saved = unfinished(file, identity) if file else None
        if saved:
            saved.restore({"network": network}, learner.optimizer, {"order": generator})
            best = saved.state("best")
            history, best_loss, best_epoch = (saved.values[name] for name in ("history", "best_loss", "best_epoch"))
            for row in history:
                on_epoch(row)
        while len(history) < settings.epochs and len(history) - best_epoch < settings.patience:
            epoch = len(history) + 1
            # Dropout draws from the global generator, which is put back on leaving. Anew for each epoch, so that it
            # does not matter which process, or which start, computes it.
            seed_everything(device, settings.seed, epoch, world.rank)
            steps = list(learner.epoch(epoch, generator))
            val_loss, val_score = examiner.examine()
            if not math.isfinite(val_loss):
                raise TrainingError(
                    f"the validation loss became {val_loss} in epoch {epoch}: lower train's lr or clip_norm, and look "
                    "for extreme feature values"
                )
            row = {
                "epoch": float(epoch),
                "train_loss": sum(step.loss for step in steps) / len(steps),
                "val_loss": val_loss,
                "val_score": val_score,
                "lr": steps[0].lr,
                "grad_norm": sum(step.grad_norm for step in steps) / len(steps),
            }
            history.append(row)
            on_epoch(row)
            if val_loss < best_loss:
                best_loss, best_epoch = val_loss, epoch
                best = copy.deepcopy(network.state_dict())
            if file and world.is_main and time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                values = {"history": history, "best_loss": best_loss, "best_epoch": best_epoch}
                modules: dict[str, Any] = {"network": network, "best": best}
                save_checkpoint(file, identity, modules, learner.optimizer, {"order": generator}, values)
                saved_at = time.monotonic()
    network.load_state_dict(best)
    return history


class Examiner:
    """Scores a network on one side of the split, looked at as in prediction."""

    def __init__(
        self, network: RecurrentClassifier, sequences: Sequences, view: View, task: str, world: World | None = None
    ) -> None:
        self._network, self._sequences, self._task = network, sequences, task
        self._world = world or World(0, 1, sequences.device)
        self._carries = task == "frame" and not network.bidirectional
        if self._carries:
            # In chunks with the state carried on: memory does not grow with the recordings.
            order = torch.arange(len(sequences))
            self._plan = [
                windows
                for crop in range(sequences.num_crops)
                for windows in plan_chunks(
                    sequences, order, torch.full_like(order, crop), batch_size=LANES, chunk_frames=BLOCK_STEPS
                )
            ]
        else:
            clip_frames = view.clip_frames if task == "clip" else 0
            starts = [view.clip_starts(n) if task == "clip" else [0] for n in sequences.lengths.tolist()]
            self._plan = plan_whole(sequences, starts, clip_frames, VALIDATION_STEPS)

    def examine(self) -> tuple[float, float]:
        """Loss and score: (mean negative log-likelihood, top-1 of the clip task or accuracy of the frame task)."""
        network, sequences = self._network.eval(), self._sequences
        is_clip, device = self._task == "clip", sequences.device
        # Of each video (clip task) or timestep: probabilities added up over windows and crops.
        rows = len(sequences) if is_clip else len(sequences.labels)
        sums = torch.zeros(rows, network.classifier.out_features, device=device)
        lanes = Lanes(network, LANES)
        with torch.inference_mode():
            for number, windows in enumerate(self._plan):
                if self._carries:
                    own = windows.take((windows.lanes % self._world.size == self._world.rank).nonzero()[:, 0])
                else:
                    own = windows if number % self._world.size == self._world.rank else windows.take(torch.arange(0))
                if not len(own):
                    continue
                batch = gather(sequences, own)
                state = lanes.take(own.lanes, own.starts == 0, batch.features) if self._carries else None
                with autocast(device):
                    steps = network.steps(batch.features, batch.lengths, state)
                if is_clip:
                    sums.index_add_(0, own.videos.to(device), network.clip_probabilities(steps))
                    continue
                lanes.put(own.lanes, steps.state)
                probabilities = steps.logits.float().softmax(dim=-1)
                for row, (begin, length) in enumerate(zip(begins(sequences, own), own.lengths.tolist(), strict=True)):
                    sums[begin : begin + length] += probabilities[row, :length]
        self._world.sum_tensor(sums)
        labels = sequences.labels[sequences.offsets[:-1].to(device)] if is_clip else sequences.labels
        sums, labels = sums[labels != IGNORED], labels[labels != IGNORED]
        probabilities = sums / sums.sum(dim=-1, keepdim=True)
        loss = functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels)
        return float(loss), float((probabilities.argmax(dim=-1) == labels).double().mean())


def validate(network: RecurrentClassifier, sequences: Sequences, view: View, task: str) -> tuple[float, float]:
    """Loss and score on a split; see Examiner."""
    return Examiner(network, sequences, view, task).examine()


def batch_loss(
    network: RecurrentClassifier,
    steps: Steps,
    batch: Batch,
    settings: TrainSettings,
    weights: Tensor | None,
    counts: "Counts",
) -> Tensor:
    """The loss of one batch, or of a process's share of it.

    Clip task: cross-entropy at every step of a clip, weighted as the step counts in the clip's answer (with the `mean`
    head LRCN's loss: the class is predicted at every step; with `ramp` that of Ng et al. 2015); with `attention` the
    cross-entropy of the clip's answer; the mean over clips. Frame task: the mean over labelled steps, and `smoothing`
    times the truncated mean squared error between the log-probabilities of neighbouring steps (Abu Farha & Gall 2019,
    eq. 8-10), those within a chunk. weights: (K,), 1 on average over the labels of the split.
    """
    logits = steps.logits.float()

    def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            scores, labels, weights, ignore_index=IGNORED, reduction="none", label_smoothing=settings.label_smoothing
        )

    if settings.task == "clip" and network.head == "attention":
        answers = (logits * steps.weights[..., None]).sum(dim=1)
        return cross_entropy(answers, batch.labels[:, 0]).sum() / counts.labels
    losses = cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).view_as(batch.labels)
    if settings.task == "clip":
        return (losses * steps.weights).sum() / counts.labels
    loss = losses.sum() / counts.labels
    if settings.smoothing and counts.pairs:
        logs = logits.log_softmax(dim=-1)
        step = (logs[:, 1:] - logs[:, :-1].detach()).square().clamp_max(LARGEST_STEP**2).mean(dim=-1)
        valid = torch.arange(1, logits.shape[1])[None, :] < batch.lengths[:, None]
        loss = loss + settings.smoothing * (step * valid.to(step.device)).sum() / counts.pairs
    return loss


class Counts(NamedTuple):
    """What a whole batch's loss is divided by: labelled clips or timesteps, and pairs of neighbouring timesteps."""

    labels: int
    pairs: int

    @staticmethod
    def of(labels: Tensor, lengths: Tensor, task: str) -> "Counts":
        """labels: (B, T) int64 of the whole batch, of which a process may have but a share. lengths: (B,)."""
        counted = labels[:, 0] if task == "clip" else labels
        return Counts(int((counted != IGNORED).sum()), int((lengths - 1).sum()))


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
        labels = counted_labels(training, settings.task)
        self._weights = class_weights(labels, num_classes) if settings.balance == "loss" else None
        self._draw = video_weights(training, num_classes, settings.task) if settings.balance == "sampling" else None
        # Biases are not pulled towards 0, as in LRCN's solver: it would be wrong, not simpler.
        groups: list[dict[str, Any]] = [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, lr=settings.lr, fused=True)
            if settings.optimizer == "adamw"
            else torch.optim.SGD(groups, lr=settings.lr, momentum=MOMENTUM)
        )

    def epoch(self, epoch: int, generator: torch.Generator) -> Iterator[Step]:
        """Train for one epoch (they count from 1), an optimiser step at a time; none for a batch without a label."""
        settings, training = self._settings, self._training
        order = draw_order(self._draw, len(training), generator)
        is_chunked = settings.task == "frame" and settings.chunk_frames > 0
        if is_chunked:
            crops = draw_crops(training, generator)
            plan = plan_chunks(
                training, order, crops, batch_size=settings.batch_size, chunk_frames=settings.chunk_frames
            )
        else:
            plan = plan_clips(
                training, order, batch_size=settings.batch_size, clip_frames=self._clip_frames, generator=generator
            )
        lanes = Lanes(self._network, settings.batch_size) if is_chunked else None
        self._network.train()
        for number, windows in enumerate(plan):
            rate = self._set_rate(epoch, number, len(plan))
            step = self._step(windows, lanes)
            if step is not None:
                yield Step(*step, rate)

    def _set_rate(self, epoch: int, number: int, num_batches: int) -> float:
        settings = self._settings
        # Counted in this epoch's batches: epochs of chunks differ a little in their number.
        factor = schedule(
            settings.schedule,
            settings.epochs * num_batches,
            warm_up=settings.warm_up,
            drop_every=settings.step_epochs * num_batches,
        )
        rate = settings.lr * factor((epoch - 1) * num_batches + number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _step(self, windows: Windows, lanes: Lanes | None) -> tuple[float, float] | None:
        """One optimiser step on this process's share of a batch; returns the batch's loss and the gradient norm."""
        settings, network = self._settings, self._network
        counts = Counts.of(gather_labels(self._training, windows), windows.lengths, settings.task)
        own = windows.take((windows.lanes % self._world.size == self._world.rank).nonzero()[:, 0])
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        if len(own):
            batch = gather(self._training, own)
            state = lanes.take(own.lanes, own.starts == 0, batch.features) if lanes else None
            with autocast(self._training.device), torch.set_grad_enabled(counts.labels > 0):
                steps = network.steps(batch.features, batch.lengths, state)
            if lanes:
                lanes.put(own.lanes, steps.state)
            if counts.labels:
                loss = batch_loss(network, steps, batch, settings, self._weights, counts)
                value = loss.item()
                if math.isfinite(value):
                    loss.backward()  # type: ignore[no-untyped-call]
        if not counts.labels:  # the state has gone on; a step would move the weights by momentum and decay alone
            return None
        (value,) = self._world.sum_floats(value)
        self._require_finite("loss", value)
        self._world.sum_gradients(network)
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm).item()
        self._require_finite("norm of the gradient", norm)
        self.optimizer.step()
        return value, norm

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} became {value} and training stopped, the weights being those of the step before: "
                "lower train's lr or clip_norm, and look for extreme feature values"
            )


def check(network: RecurrentClassifier, training: Sequences, validation: Sequences, settings: TrainSettings) -> None:
    """Raise TrainingError for what cannot be trained."""
    present = set(counted_labels(training, settings.task).tolist())
    if len(present) < 2:
        raise TrainingError(
            f"the training split holds {len(present)} class(es) in {len(training)} video(s); at least 2 are needed: "
            "check the split and the labels"
        )
    if not len(counted_labels(validation, settings.task)):
        raise TrainingError("the validation split has no labelled timestep; nothing says which epoch is best")
    if settings.chunk_frames and network.bidirectional:
        raise TrainingError(
            "train.frame.chunk_frames carries a state on, which a bidirectional network has not: "
            "set chunk_frames to 0 or bidirectional to false"
        )


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on GPUs that compute in it; emulated (before Ampere) it would be slow."""
    is_on = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_on)
