"""What computes: the device, and how many videos are decoded at a time."""

import os
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> "torch.device":
    """`auto` takes a GPU when there is one; raises ConfigError when `cuda` is asked for and there is none."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but PyTorch sees no GPU: take `auto` or `cpu`, or look at `lrcn doctor`")
    return torch.device(name)


def num_workers(workers: int) -> int:
    """The number asked for, or one per usable core when it is 0."""
    if workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 (one per core) or more")
    return workers or len(os.sched_getaffinity(0))
