"""All features of a split as one packed tensor on the device, and the batches cut from it.

An LSTM step on resident features takes a millisecond; a data loader would cost more than the network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.data.labels import IGNORED


@dataclass(frozen=True)
class Sequences:
    """The videos of one split, packed one after the other.

    features: (sum of T, D) float32. labels: (sum of T,) int64, a class at every timestep (a clip's label is repeated:
    LRCN takes the loss at each step). offsets: (N + 1,) int64, where each video begins; the last is the end.
    """

    features: Tensor
    labels: Tensor
    offsets: Tensor

    @staticmethod
    def pack(features: Sequence[np.ndarray], labels: Sequence[np.ndarray], device: torch.device) -> "Sequences":
        """Pack N videos: features (T, D) any float, labels (T,) int each; raises ValueError where lengths differ."""
        for values, steps in zip(features, labels, strict=True):
            if len(values) != len(steps):
                raise ValueError(f"{len(values)} feature rows but {len(steps)} labels")
        return Sequences(
            torch.from_numpy(np.concatenate(features).astype(np.float32)).to(device),
            torch.from_numpy(np.concatenate(labels).astype(np.int64)).to(device),
            torch.from_numpy(np.cumsum([0, *(len(values) for values in features)])),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Timesteps of each video, (N,) int64."""
        return self.offsets.diff()


@dataclass(frozen=True)
class Batch:
    """Padded videos: features (B, T, D) float32, labels (B, T) int64 (IGNORED beyond a video's end), lengths (B,)."""

    features: Tensor
    labels: Tensor
    lengths: Tensor


def gather(sequences: Sequences, videos: Tensor, starts: Tensor, lengths: Tensor) -> Batch:
    """Cut one window out of each video: `starts` and `lengths` in timesteps, one per entry of `videos`."""
    begins = (sequences.offsets[videos] + starts).tolist()
    ends = (sequences.offsets[videos] + starts + lengths).tolist()
    return Batch(
        pad_sequence([sequences.features[a:b] for a, b in zip(begins, ends, strict=True)], batch_first=True),
        pad_sequence(
            [sequences.labels[a:b] for a, b in zip(begins, ends, strict=True)], batch_first=True, padding_value=IGNORED
        ),
        lengths,
    )


def training_batches(
    sequences: Sequences, *, batch_size: int, clip_frames: int, generator: torch.Generator
) -> Iterator[Batch]:
    """One epoch in random order; of a video longer than `clip_frames` (if not 0) a random window of that length.

    LRCN trains on a random 16-frame window of each video (Donahue et al. 2015, section 4.1).
    """
    order = torch.randperm(len(sequences), generator=generator)
    lengths = sequences.lengths.clamp_max(clip_frames) if clip_frames else sequences.lengths
    room = sequences.lengths - lengths
    starts = (torch.rand(len(sequences), generator=generator) * (room + 1)).long().clamp_max(room)
    for videos in torch.split(order, batch_size):
        yield gather(sequences, videos, starts[videos], lengths[videos])
