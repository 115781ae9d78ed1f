"""Temporary."""

import math
from typing import Literal

Schedule = Literal["cosine", "step", "constant"]


def learning_rate_factor(schedule, step, *, num_steps, warm_up, step_epochs, epochs):
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 0.1 ** (step * epochs // num_steps // step_epochs)
    rise = max(1, round(warm_up * num_steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, num_steps - rise)))
