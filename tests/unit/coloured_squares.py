"""Toy footage for training a CNN with an LSTM: the direction of one of two squares, which no single frame tells."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pipeline.features.backbones import Backbone
from pipeline.training.endtoend import EndToEndSettings
from pipeline.training.windows import Footage
from pipeline.view import View

SIDE, CROP = 28, 24
VIEW = View(fps=10.0, short_side=SIDE, crop=CROP)
SETTINGS = EndToEndSettings(
    epochs=5,
    clip_frames=8,
    batch_size=8,
    hidden_size=32,
    lr=0.01,
    backbone_lr=0.001,
    weight_decay=0.01,
    dropout=0.0,
    clip_norm=5.0,
    flip=False,
    seed=0,
)


def squares(class_index: int, seed: int, steps: int = 10) -> Footage:
    """A reddish square that moves left (0) or right (1), wrapping round, and a bluish one that moves either way.

    Which of the two is above, and where each begins, is drawn; the CNN has to tell the colours apart, in noise.
    """
    rng = np.random.default_rng([seed, class_index])
    frames = rng.integers(0, 60, (steps, SIDE, SIDE, 3)).astype(np.uint8)
    columns, rows = rng.integers(SIDE, size=2), rng.permutation([2, 15]) + rng.integers(-2, 3, 2)
    ways = (1 if class_index else -1, rng.choice([1, -1]))
    for step, frame in enumerate(frames):
        for column, row, way, colour in zip(columns, rows, ways, [(180, 110, 90), (120, 120, 150)], strict=True):
            frame[row : row + 9, (column + way * 3 * step + np.arange(9)) % SIDE] = colour
    return Footage(steps, SIDE, SIDE, class_index, lambda start, stop: iter(frames[start:stop]))


def backward(footage: Footage) -> Footage:
    """The same, last frame first."""
    frames = list(footage.frames(0, footage.num_steps))[::-1]
    return replace(footage, frames=lambda start, stop: iter(frames[start:stop]))


def drawn(count: int, first: int = 0) -> list[Footage]:
    return [squares(number % 2, first + number) for number in range(count)]


def small_backbone(dropout: float = 0.0) -> Backbone:
    """Random weights: two numbers for each of five columns of the picture."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(8, 2, 3, stride=2),
            nn.AdaptiveAvgPool2d((1, 5)),
            nn.Flatten(),
        )
    return Backbone("small", net, 10, [0.5] * 3, [0.25] * 3, CROP).eval()
