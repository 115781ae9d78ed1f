"""Torch's own random generators, which dropout and new weights draw from."""

import numpy as np
import torch


def seed_everything(device: torch.device, *parts: int) -> None:
    """Seed the generator of the CPU, and that of the device, from some numbers (seed, epoch, process ...)."""
    seed = int(np.random.SeedSequence(parts).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
