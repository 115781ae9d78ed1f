"""The features of a split as one packed tensor, and the batches cut from it.

An LSTM step on resident features takes a millisecond; a data loader would cost more than the network. The packed tensor
lies on the device when it takes at most half of its free memory, else in main memory, from which batches are copied; a
set that is larger than half of the free main memory lies in a temporary file, mapped into memory.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from pipeline.data.labels import IGNORED
from pipeline.files import explaining_full_disk


@dataclass(frozen=True)
class Sequences:
    """The videos of one split, packed one after the other.

    features: (sum of T, C, D) float16 or float32, C crops of each frame. labels: (sum of T,) int64 on the device, a
    class at every timestep (a clip's label is repeated: LRCN takes the loss at each step). offsets: (N + 1,) int64 on
    the CPU, where each video begins; the last is the end. device: where batches go.
    """

    features: Tensor
    labels: Tensor
    offsets: Tensor
    device: torch.device

    @staticmethod
    def pack(features: Iterable[np.ndarray], labels: Sequence[np.ndarray], device: torch.device) -> "Sequences":
        """Pack N videos: features (T, D) or (T, C, D) float, read one by one, and labels (T,) int.

        Raises ValueError where the lengths of a video's features and labels differ.
        """
        offsets = np.cumsum([0, *(len(steps) for steps in labels)])
        packed = np.empty(0, np.float32)
        for number, values in enumerate(features):
            if len(values) != len(labels[number]):
                raise ValueError(f"{len(values)} feature rows but {len(labels[number])} labels")
            if not packed.size:
                packed = _room((int(offsets[-1]), *(values.shape[1:] if values.ndim == 3 else (1, values.shape[1]))),
                               np.dtype(np.float16 if values.dtype == np.float16 else np.float32))  # fmt: skip
            packed[offsets[number] : offsets[number + 1]] = values.reshape(len(values), *packed.shape[1:])
        tensor = torch.from_numpy(packed)
        if device.type == "cuda" and 2 * packed.nbytes <= torch.cuda.mem_get_info(device)[0]:
            tensor = tensor.to(device)
        return Sequences(
            tensor,
            torch.from_numpy(np.concatenate(labels).astype(np.int64)).to(device),
            torch.from_numpy(offsets),
            device,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Timesteps of each video, (N,) int64."""
        return self.offsets.diff()

    @property
    def num_crops(self) -> int:
        """Crops of each frame."""
        return self.features.shape[1]

    def videos(self) -> Iterable[Tensor]:
        """Features (T, D) of each video's first crop, as they are stored."""
        for begin, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield self.features[begin:end, 0]


@dataclass(frozen=True)
class Windows:
    """A stretch of timesteps of each of B videos; all (B,) int64 on the CPU.

    lanes: place in the batch. A recording that is read in chunks keeps its lane; of several processes each has lanes.
    """

    videos: Tensor
    starts: Tensor
    lengths: Tensor
    crops: Tensor
    lanes: Tensor

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, rows: Tensor) -> "Windows":
        """Some of them."""
        return Windows(
            self.videos[rows], self.starts[rows], self.lengths[rows], self.crops[rows], self.lanes[rows]
        )  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Padded windows: features (B, T, D) float32, labels (B, T) int64 (IGNORED beyond a window's end), lengths (B,)."""

    features: Tensor
    labels: Tensor
    lengths: Tensor


def gather(sequences: Sequences, windows: Windows) -> Batch:
    """Cut windows out of the packed tensor."""
    steps, _ = _places(sequences, windows)
    rows = (steps * sequences.num_crops + windows.crops[:, None]).flatten().to(sequences.features.device)
    features = sequences.features.flatten(0, 1).index_select(0, rows).view(*steps.shape, -1)
    features = features.to(sequences.device, non_blocking=True).float()
    return Batch(features, gather_labels(sequences, windows), windows.lengths)


def begins(sequences: Sequences, windows: Windows) -> list[int]:
    """Rows of the packed tensor at which windows begin."""
    rows: list[int] = (sequences.offsets[windows.videos] + windows.starts).tolist()
    return rows


def gather_labels(sequences: Sequences, windows: Windows) -> Tensor:
    """The labels of windows alone, (B, T) int64, IGNORED beyond a window's end."""
    steps, valid = _places(sequences, windows)
    return sequences.labels[steps.to(sequences.device)].masked_fill(~valid.to(sequences.device), IGNORED)


def draw_order(weights: Tensor | None, num_videos: int, generator: torch.Generator) -> Tensor:
    """Videos of one epoch, (N,) int64: each once in random order; with weights (N,), N draws in their proportion."""
    if weights is None:
        return torch.randperm(num_videos, generator=generator)
    return torch.multinomial(weights, num_videos, replacement=True, generator=generator)


def draw_crops(sequences: Sequences, generator: torch.Generator) -> Tensor:
    """A crop for each place in an epoch's order, (N,) int64."""
    return torch.randint(sequences.num_crops, (len(sequences),), generator=generator)


def plan_clips(
    sequences: Sequences, order: Tensor, *, batch_size: int, clip_frames: int, generator: torch.Generator
) -> list[Windows]:
    """One epoch of clips: of a video longer than `clip_frames` (if not 0) a random window of that length.

    LRCN trains on a random 16-frame window of each video, one crop for all its frames (Donahue et al. 2015, 4.1).
    """
    lengths = sequences.lengths[order]
    sizes = lengths.clamp_max(clip_frames) if clip_frames else lengths
    room = lengths - sizes
    starts = (torch.rand(len(order), generator=generator) * (room + 1)).long().clamp_max(room)
    crops = draw_crops(sequences, generator)
    epoch = Windows(order, starts, sizes, crops, torch.arange(len(order)) % batch_size)
    return [epoch.take(rows) for rows in torch.split(torch.arange(len(order)), batch_size)]


def plan_chunks(
    sequences: Sequences, order: Tensor, crops: Tensor, *, batch_size: int, chunk_frames: int
) -> list[Windows]:
    """Recordings in chunks of `chunk_frames`, `batch_size` of them side by side; crops (N,): that of each, in order.

    Each lane goes through one recording chunk by chunk, then through the next one that nobody has begun; so a batch
    holds one chunk a lane, and its memory does not depend on the length of the recordings.
    """
    waiting = order.flip(0).tolist()
    crop_of = crops.flip(0).tolist()
    lengths = sequences.lengths.tolist()
    lanes: list[tuple[int, int, int] | None] = [None] * batch_size  # video, crop, first step not read yet
    plan: list[Windows] = []
    while True:
        rows = []
        for lane, place in enumerate(lanes):
            if place is None and waiting:
                place = waiting.pop(), crop_of.pop(), 0
            if place is not None:
                video, crop, start = place
                size = min(chunk_frames, lengths[video] - start)
                rows.append((video, start, size, crop, lane))
                place = (video, crop, start + size) if start + size < lengths[video] else None
            lanes[lane] = place
        if not rows:
            return plan
        plan.append(Windows(*torch.tensor(rows).unbind(dim=1)))


def plan_whole(
    sequences: Sequences, clip_starts: Sequence[Sequence[int]], clip_frames: int, most_steps: int
) -> list[Windows]:
    """Every window of every video and crop once, as in prediction, in batches of at most `most_steps` padded steps.

    clip_starts: first timesteps of each video's windows. clip_frames: their length, 0 = the whole video. A window that
    is longer than `most_steps` is a batch by itself.
    """
    rows = []
    for video, (starts, length) in enumerate(zip(clip_starts, sequences.lengths.tolist(), strict=True)):
        size = min(clip_frames or length, length)
        rows += [(video, start, size, crop, 0) for start in starts for crop in range(sequences.num_crops)]
    rows.sort(key=lambda row: row[2])  # windows of a like length side by side: little padding
    plan, begin = [], 0
    while begin < len(rows):
        end = begin + 1
        while end < len(rows) and rows[end][2] * (end + 1 - begin) <= most_steps:
            end += 1
        plan.append(Windows(*torch.tensor(rows[begin:end]).unbind(dim=1)))
        begin = end
    return plan


def counted_labels(sequences: Sequences, task: str) -> Tensor:
    """What the loss counts once: the label of each clip (N,), or those of all timesteps; IGNORED ones left out."""
    labels = sequences.labels[sequences.offsets[:-1].to(sequences.device)] if task == "clip" else sequences.labels
    return labels[labels != IGNORED]


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weight of each class, (K,) float32: inverse to its number of labels, 1 on average over the labels; absent: 0."""
    counts = torch.bincount(labels[labels != IGNORED], minlength=num_classes).float()
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp_min(1)), 0.0)


def video_weights(sequences: Sequences, num_classes: int, task: str) -> Tensor:
    """How often each video is to be drawn, (N,) float32: the mean class weight of its labelled timesteps."""
    by_class = class_weights(counted_labels(sequences, task).cpu(), num_classes)
    labels = sequences.labels.cpu()
    videos = torch.repeat_interleave(torch.arange(len(sequences)), sequences.lengths)
    is_labelled = labels != IGNORED
    videos, labels = videos[is_labelled], labels[is_labelled]
    counts = torch.bincount(videos, minlength=len(sequences)).clamp_min(1)
    return torch.zeros(len(sequences)).index_add_(0, videos, by_class[labels]) / counts


def _places(sequences: Sequences, windows: Windows) -> tuple[Tensor, Tensor]:
    """Rows of the packed tensor (B, T), a window's last one repeated beyond its end, and which of them are valid."""
    first = torch.tensor(begins(sequences, windows))
    steps = torch.arange(int(windows.lengths.max()))[None, :]
    valid = steps < windows.lengths[:, None]
    return first[:, None] + torch.minimum(steps, windows.lengths[:, None] - 1), valid


def _room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to be filled; in a file without a name in the working folder when it would take half of free memory."""
    num_bytes = math.prod(shape) * dtype.itemsize
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun on this machine, each with its own
    if 2 * num_bytes * processes <= psutil.virtual_memory().available:
        return np.empty(shape, dtype)
    with explaining_full_disk(Path("features")), tempfile.TemporaryFile(prefix=".features-", dir=".") as file:
        os.posix_fallocate(file.fileno(), 0, num_bytes)  # a full disk is an error now, not a signal later
        return np.memmap(file, dtype, "r+", shape=shape)
