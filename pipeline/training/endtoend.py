"""A CNN and an LSTM on top of it, trained together on windows of frames: LRCN's second step.

Donahue et al. 2015, sections 3 and 4.1: the class is predicted, and the loss taken, at every timestep of a random
window of 16 frames; the CNN comes from single-frame fine-tuning. What is kept is the CNN: the recurrent networks of the
tasks are trained anew on its features of whole videos (see CONTRIBUTING, Decisions).
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from pipeline.errors import TrainingError
from pipeline.features.backbones import Backbone
from pipeline.features.crop import center_crop
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.training.checkpoint import CheckpointSlot, save_checkpoint, unfinished
from pipeline.training.distributed import World
from pipeline.training.schedule import schedule
from pipeline.training.seeds import seed_everything
from pipeline.training.windows import Footage, Mirror, Pixels, Window, random_windows, read_batches
from pipeline.view import View

WARM_UP = 0.1  # share of all steps in which the learning rates rise
FRAMES_AT_ONCE = 64  # that go through the CNN in validation
WINDOWS_TO_STANDARDISE = 64  # whose features give the mean and deviation of the LSTM's inputs


@dataclass(frozen=True)
class EndToEndSettings:
    """What a training is told; the configuration's `finetune.end_to_end` says what each value means."""

    epochs: int
    clip_frames: int
    batch_size: int
    hidden_size: int
    lr: float
    backbone_lr: float
    weight_decay: float
    dropout: float
    clip_norm: float
    flip: bool
    seed: int


def train_end_to_end(
    backbone: Backbone,
    train: Sequence[Footage],
    val: Sequence[Footage],
    *,
    num_classes: int,
    view: View,
    settings: EndToEndSettings,
    world: World,
    mirror: Mirror,
    num_readers: int = 1,
    checkpoint: CheckpointSlot | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> tuple[RecurrentClassifier, list[dict[str, float]]]:
    """Train a backbone, in place, with a fresh LSTM; both end with the weights of the lowest validation loss.

    An epoch shows a random window of each training stretch: one square of `view.crop` pixels and one decision to mirror
    it for all its frames. AdamW; the gradient's norm over both networks is limited. Batch normalisation keeps its
    running averages and uses them: a batch holds few windows of nearly equal frames, whose own averages would tell one
    video from another and would not be those of prediction. Validation averages over the per-step probabilities of
    centre-crop windows, each beginning half a window after the one before, as LRCN's test does.

    mirror: mirrors pixels (T, H, W, 3); images of optical flow need their own. num_readers: threads that read frames.
    checkpoint: where the state is saved after every epoch (see CheckpointSlot), and from which a training that was
    cut off goes on; on a CPU to the same bits. identity: what else makes this training this one (digests of its data).

    Every random choice comes from the seed, and the global generators are put back. Several processes (`world`) compute
    what one does, but for rounding and for dropout, which each draws for its own rows. On a GPU the networks run in
    bfloat16 where it has that.

    Returns the LSTM, and a record per epoch, each also handed to `progress`: epoch (from 1), train_loss, val_loss,
    val_video_accuracy, lr, backbone_lr (both of the epoch's first step) and grad_norm (mean, before clipping).

    Raises TrainingError for data that cannot be trained on, and within a step when a loss or gradient is not
    finite, the weights being those of the step before.
    """
    _check(train, val, num_classes, view.crop)
    device = world.device
    backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone.check_crop(view.crop)
    identity = {
        "settings": asdict(settings),
        "crop": view.crop,
        "backbone": {"name": backbone.name, "weights": backbone.weights_sha256},
        **(identity or {}),
    }
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        seed_everything(device, settings.seed)
        network = RecurrentClassifier(
            backbone.feature_size,
            num_classes,
            cell="lstm",
            hidden_size=settings.hidden_size,
            num_layers=1,
            bidirectional=False,
            input_dropout=settings.dropout,
            dropout=settings.dropout,
        ).to(device)
        trainer = _Trainer(backbone, network, view, settings, world, mirror, num_readers, len(train))
        history, best, done = [], {}, 0
        file = checkpoint.file(identity) if checkpoint else None
        resumed = unfinished(file, identity) if file else None
        if resumed is not None:
            resumed.restore({"model": trainer.model}, trainer.optimizer)
            history, done = resumed.values["history"], resumed.values["epoch"]
            best = resumed.state("best")
        else:
            trainer.standardise(train)
        world.copy_from_main(trainer.model)
        for epoch in range(done + 1, settings.epochs + 1):
            # Anew for each epoch, so that it does not matter which process, or which start, computes it.
            seed_everything(device, settings.seed, epoch, world.rank)
            row = trainer.epoch(train, epoch)
            row |= trainer.validate(val)
            if not math.isfinite(row["val_loss"]):
                raise trainer.not_finite("validation loss", row["val_loss"])
            if row["val_loss"] < min((earlier["val_loss"] for earlier in history), default=math.inf):
                best = copy.deepcopy(trainer.model.state_dict())
            history.append(row)
            if file and world.is_main:
                values = {"epoch": epoch, "history": history}
                save_checkpoint(
                    file, identity, {"model": trainer.model, "best": best}, trainer.optimizer, values=values
                )
            if progress is not None:
                progress(row)
    trainer.model.load_state_dict(best)
    backbone.eval()
    return network.eval(), history


class _Trainer:
    """The two networks, their optimiser, and the steps done."""

    def __init__(
        self,
        backbone: Backbone,
        network: RecurrentClassifier,
        view: View,
        settings: EndToEndSettings,
        world: World,
        mirror: Mirror,
        num_readers: int,
        num_train: int,
    ) -> None:
        self.backbone, self.network, self.settings, self.world = backbone, network, settings, world
        self.model = nn.ModuleDict({"backbone": backbone, "network": network})
        self.crop, self.mirror, self.num_readers = view.crop, mirror, num_readers
        self.test_view = replace(view, clip_frames=settings.clip_frames, clip_stride=max(1, settings.clip_frames // 2))
        self.steps_per_epoch = math.ceil(num_train / settings.batch_size)
        self.num_steps = settings.epochs * self.steps_per_epoch
        self.done = 0
        self.factor = schedule("cosine", self.num_steps, warm_up=WARM_UP)
        self.highest = (settings.backbone_lr, settings.backbone_lr, settings.lr, settings.lr)
        self.optimizer = torch.optim.AdamW(
            [
                # Scales and offsets of normalisation, and biases: pulled towards 0 they would be wrong, not simpler.
                {"params": [p for p in module.parameters() if (p.ndim > 1) == decays], "weight_decay": decay}
                for module in (backbone, network)
                for decays, decay in ((True, settings.weight_decay), (False, 0.0))
            ],
            fused=True,
        )
        device = world.device
        self.in_half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    def epoch(self, footage: Sequence[Footage], epoch: int) -> dict[str, float]:
        """One window of each stretch, learned from."""
        self.model.train()
        for layer in self.backbone.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        settings = self.settings
        self.done = (epoch - 1) * self.steps_per_epoch
        rates = [rate * self.factor(self.done) for rate in self.highest]
        rng = np.random.default_rng([settings.seed, epoch])
        losses, norms = [], []
        for windows, pixels, rows in self._batches(self._windows(footage, rng)):
            loss, norm = self._step(windows, pixels, rows)
            losses.append(loss)
            norms.append(norm)
        return {
            "epoch": epoch,
            "train_loss": float(np.mean(losses)),
            "lr": rates[-1],
            "backbone_lr": rates[0],
            "grad_norm": float(np.mean(norms)),
        }

    def validate(self, footage: Sequence[Footage]) -> dict[str, float]:
        """Mean negative log-likelihood of the videos' labels, and top-1 accuracy; each process takes its videos."""
        self.model.eval()
        loss, right = 0.0, 0
        mine = footage[self.world.rank :: self.world.size]
        with torch.inference_mode():
            for stretch in mine:
                features = self._features_of_all(stretch)
                length = min(self.settings.clip_frames, len(features))
                windows = [features[start : start + length] for start in self.test_view.clip_starts(len(features))]
                with torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=self.in_half):
                    logits, _ = self.network(torch.stack(windows))
                probabilities = logits.float().softmax(dim=-1).mean(dim=(0, 1))  # (K,), over windows and steps
                loss -= float(probabilities[stretch.class_index].clamp_min(1e-12).log())
                right += int(probabilities.argmax() == stretch.class_index)
        loss, total_right = self.world.sum_floats(loss, right)
        return {"val_loss": loss / len(footage), "val_video_accuracy": total_right / len(footage)}

    def standardise(self, footage: Sequence[Footage]) -> None:
        """Take the mean and deviation of the LSTM's inputs from some windows, seen by the CNN as it came."""
        self.model.eval()
        windows = self._windows(footage, np.random.default_rng([self.settings.seed, 0]))[:WINDOWS_TO_STANDARDISE]
        found = []
        with torch.inference_mode():
            for pixels in read_batches([[window] for window in windows], self.crop, self.mirror, self.num_readers):
                found.append(self._features(pixels[0]).float())
        self.network.standardise_by(found)

    def not_finite(self, what: str, value: float) -> TrainingError:
        """The error for a value that no training goes on with."""
        return TrainingError(
            f"end-to-end training: {what} is {value} at step {self.done} of {self.num_steps}, and the weights are "
            f"those of the step before; lower finetune.end_to_end.lr ({self.settings.lr:g}) and backbone_lr "
            f"({self.settings.backbone_lr:g}), or take undamaged weights"
        )

    def _windows(self, footage: Sequence[Footage], rng: np.random.Generator) -> list[Window]:
        settings = self.settings
        return random_windows(footage, clip_frames=settings.clip_frames, crop=self.crop, flip=settings.flip, rng=rng)

    def _batches(self, windows: list[Window]) -> Iterator[tuple[list[Window], list[Pixels], int]]:
        """This process's windows of each batch, their pixels, and the number of windows of all processes."""
        size = self.settings.batch_size
        batches = [windows[start : start + size] for start in range(0, len(windows), size)]
        mine = [batch[self.world.my_share(len(batch))] for batch in batches]
        pixels = read_batches(mine, self.crop, self.mirror, self.num_readers)
        for whole, share, read in zip(batches, mine, pixels, strict=True):
            yield share, read, len(whole)

    def _step(self, windows: list[Window], pixels: list[Pixels], rows: int) -> tuple[float, float]:
        """Learn from a batch of `rows` windows, of which this process has some, or none; (loss, norm) of all."""
        for group, rate in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = rate * self.factor(self.done)
        self.done += 1
        loss = self._loss(windows, pixels) / rows if windows else None
        (value,) = self.world.sum_floats(0.0 if loss is None else loss.item())
        if not math.isfinite(value):
            raise self.not_finite("training loss", value)
        self.optimizer.zero_grad(set_to_none=True)
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        self.world.sum_gradients(self.model)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm).item()
        if not math.isfinite(norm):
            raise self.not_finite("gradient", norm)
        self.optimizer.step()
        return value, norm

    def _loss(self, windows: list[Window], pixels: list[Pixels]) -> Tensor:
        """Cross-entropy at every step, averaged over a window's steps and summed over windows."""
        lengths = [len(window) for window in pixels]
        features = self._features(np.concatenate(pixels))
        padded = pad_sequence(list(torch.split(features, lengths)), batch_first=True)
        with torch.autocast(padded.device.type, dtype=torch.bfloat16, enabled=self.in_half):
            logits, _ = self.network(padded, torch.tensor(lengths))
        losses = [
            F.cross_entropy(steps[:length].float(), torch.full((length,), window.footage.class_index).to(steps.device))
            for steps, length, window in zip(logits, lengths, windows, strict=True)
        ]
        return torch.stack(losses).sum()

    def _features(self, pixels: Pixels) -> Tensor:
        """(N, crop, crop, 3) uint8 -> (N, D)."""
        device = self.world.device
        frames = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float().div_(255)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.in_half):
            features: Tensor = self.backbone(frames)
        return features

    def _features_of_all(self, stretch: Footage) -> Tensor:
        """Features of a stretch's centre crops, (T, D); each frame goes through the CNN once, however many windows."""
        found, waiting = [], []
        for frame in stretch.frames(0, stretch.num_steps):
            waiting.append(center_crop(frame, self.crop))
            if len(waiting) == FRAMES_AT_ONCE:
                found.append(self._features(np.stack(waiting)))
                waiting = []
        return torch.cat([*found, *([self._features(np.stack(waiting))] if waiting else [])])


def _check(train: Sequence[Footage], val: Sequence[Footage], num_classes: int, crop: int) -> None:
    """Raise TrainingError for data that cannot be trained on."""
    for what, footage in (("training", train), ("validation", val)):
        for number, stretch in enumerate(footage):
            if stretch.num_steps < 1:
                raise TrainingError(f"{what} video {number}: {stretch.num_steps} frames; expected at least one")
            if min(stretch.height, stretch.width) < crop:
                raise TrainingError(
                    f"{what} video {number}: frames of {stretch.width}x{stretch.height} pixels; "
                    f"expected at least {crop}x{crop}"
                )
            if not 0 <= stretch.class_index < num_classes:
                raise TrainingError(
                    f"{what} video {number}: class index {stretch.class_index}; expected 0 to {num_classes - 1}"
                )
    if len({stretch.class_index for stretch in train}) < 2:
        raise TrainingError(
            f"{len(train)} training videos of fewer than two classes; expected examples of all {num_classes} classes"
        )
    if not val:
        raise TrainingError(
            "the validation side has no labelled video; nothing says which epoch of end-to-end training is best"
        )
