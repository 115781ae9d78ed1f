"""Training a recurrent classifier: plain PyTorch, one loop for both tasks."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.labels import IGNORED
from pipeline.errors import TrainingError
from pipeline.models.recurrent import RecurrentClassifier, State, clip_probabilities, valid_steps
from pipeline.training.sequences import Batch, Sequences, gather, training_batches
from pipeline.view import View

WARM_UP = 0.05  # share of the steps over which the learning rate rises, before it falls along a half cosine


@dataclass(frozen=True)
class TrainSettings:
    """What a training is told; the meaning of each value stands in the configuration's `train` section.

    clip_norm: largest norm of the whole gradient. chunk_frames: steps a gradient reaches back in the frame task
    (truncated back-propagation through time, the state carried on); 0 = the whole recording.
    patience: epochs without a better validation loss before training ends.
    """

    task: Literal["clip", "frame"]
    head: Literal["mean", "last"]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    clip_norm: float
    chunk_frames: int
    patience: int
    seed: int


def train(
    network: RecurrentClassifier,
    training: Sequences,
    validation: Sequences,
    view: View,
    settings: TrainSettings,
    on_epoch: Callable[[dict[str, float]], None],
) -> list[dict[str, float]]:
    """Fit a network; it ends with the weights of the epoch whose validation loss was lowest.

    Returns:
        One row per epoch: epoch, train_loss, val_loss, val_score (top-1 of the clip task, accuracy over labelled
        timesteps of the frame task), lr, grad_norm (mean over the epoch's steps, before clipping).
        `on_epoch` is called with each row as it is made.

    Raises:
        TrainingError: fewer than two classes to learn, or a loss that is not finite (within the step it happens in).
    """
    present = set(training.labels.tolist()) - {IGNORED}
    if len(present) < 2:
        raise TrainingError(
            f"the training split holds {len(present)} class(es); at least 2 are needed: check the split and the labels"
        )
    if settings.chunk_frames and network.bidirectional:
        raise TrainingError(
            "train.frame.chunk_frames carries a state on, which a bidirectional network has not: "
            "set chunk_frames to 0 or bidirectional to false"
        )
    device = training.features.device
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    steps_per_epoch = math.ceil(len(training) / settings.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_cosine(settings.epochs * steps_per_epoch))
    generator = torch.Generator().manual_seed(settings.seed)
    best = copy.deepcopy(network.state_dict())
    best_loss, best_epoch = math.inf, 0
    history: list[dict[str, float]] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)  # dropout draws from the global generator; it is restored on leaving
        for epoch in range(1, settings.epochs + 1):
            network.train()
            rate = float(scheduler.get_last_lr()[0])
            losses, norms = [], []
            clip_frames = view.clip_frames if settings.task == "clip" else 0
            for batch in training_batches(
                training, batch_size=settings.batch_size, clip_frames=clip_frames, generator=generator
            ):
                loss, norm = _step(network, optimizer, batch, settings)
                scheduler.step()
                losses.append(loss)
                norms.append(norm)
            val_loss, val_score = validate(network, validation, view, settings)
            row = {
                "epoch": float(epoch),
                "train_loss": sum(losses) / len(losses),
                "val_loss": val_loss,
                "val_score": val_score,
                "lr": rate,
                "grad_norm": sum(norms) / len(norms),
            }
            history.append(row)
            on_epoch(row)
            if val_loss < best_loss:
                best_loss, best_epoch = val_loss, epoch
                best = copy.deepcopy(network.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
    network.load_state_dict(best)
    return history


def validate(
    network: RecurrentClassifier, sequences: Sequences, view: View, settings: TrainSettings
) -> tuple[float, float]:
    """Loss and score on a split, looked at as in prediction: (mean negative log-likelihood, top-1 or accuracy)."""
    network.eval()
    loss_sum, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for video in range(len(sequences)):
            length = int(sequences.lengths[video])
            starts = view.clip_starts(length) if settings.task == "clip" else [0]
            size = min(view.clip_frames or length, length) if settings.task == "clip" else length
            batch = gather(
                sequences,
                torch.full((len(starts),), video),
                torch.tensor(starts),
                torch.full((len(starts),), size),
            )
            logits, _ = network(batch.features)
            if settings.task == "clip":
                probabilities = clip_probabilities(logits.float(), batch.lengths, settings.head).mean(dim=0)[None]
                labels = batch.labels[0, :1]
            else:
                labelled = batch.labels[0] != IGNORED
                probabilities = logits[0].float().softmax(dim=-1)[labelled]
                labels = batch.labels[0][labelled]
            loss_sum += float(functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels, reduction="sum"))
            right += int((probabilities.argmax(dim=-1) == labels).sum())
            count += len(labels)
    if count == 0:
        raise TrainingError("the validation split has no labelled timestep; nothing says which epoch is best")
    return loss_sum / count, right / count


def step_loss(logits: Tensor, batch: Batch, settings: TrainSettings) -> Tensor:
    """The loss of one batch.

    Clip task: cross-entropy at every step of a clip, averaged over its steps, then over clips (LRCN predicts the class
    at every step); with the `last` head at the last step alone. Frame task: mean over all labelled steps.
    """
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(batch.labels)
    if settings.task == "frame":
        return losses.sum() / (batch.labels != IGNORED).sum().clamp_min(1)
    if settings.head == "last":
        return losses[torch.arange(len(losses)), batch.lengths.to(losses.device) - 1].mean()
    mask = valid_steps(batch.lengths.to(losses.device), losses.shape[1])
    return ((losses * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def warm_up_cosine(num_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise over WARM_UP of the steps, then half a cosine to 0."""
    rise = max(1, round(WARM_UP * num_steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, num_steps - rise)))

    return factor


def _step(
    network: RecurrentClassifier, optimizer: torch.optim.Optimizer, batch: Batch, settings: TrainSettings
) -> tuple[float, float]:
    """One batch: an optimiser step on it, or one on each chunk of it with the state carried on. (loss, norm) means."""
    if not (settings.task == "frame" and settings.chunk_frames):
        return _update(network, optimizer, batch, None, settings)[:2]
    losses, norms = [], []
    state: State | None = None
    for start in range(0, batch.features.shape[1], settings.chunk_frames):
        window = slice(start, start + settings.chunk_frames)
        # Lengths stay out of it: a video that has ended is padded to the chunk's end, its labels are ignored there,
        # and its state is not used again.
        width = batch.features[:, window].shape[1]
        chunk = Batch(batch.features[:, window], batch.labels[:, window], torch.full((len(batch.lengths),), width))
        loss, norm, state = _update(network, optimizer, chunk, state, settings)
        losses.append(loss)
        norms.append(norm)
    return sum(losses) / len(losses), sum(norms) / len(norms)


def _update(
    network: RecurrentClassifier,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    state: State | None,
    settings: TrainSettings,
) -> tuple[float, float, State]:
    device = batch.features.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        logits, state = network(batch.features, batch.lengths, state)
    loss = step_loss(logits, batch, settings)
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss.item()} and training stopped before the weights were touched: "
            "lower train's lr or clip_norm, and look for extreme feature values"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
    optimizer.step()
    return loss.item(), norm.item(), tuple(part.detach() for part in state)
