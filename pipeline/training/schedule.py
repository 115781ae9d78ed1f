"""How the learning rate goes from the first step of a training to its last."""

import math
from collections.abc import Callable
from typing import Literal

Schedule = Literal["cosine", "step", "constant"]


def schedule(kind: Schedule, num_steps: int, *, warm_up: float = 0.0, drop_every: int = 0) -> Callable[[int], float]:
    """Factor of the highest learning rate at a step, from 0 to `num_steps` - 1.

    Up in a line over the share `warm_up` of the steps (one step at least, if not 0). Then `cosine`: down along half a
    cosine to 0; `step`: divided by 10 every `drop_every` steps (LRCN's); `constant`: 1.

    >>> factor = schedule("cosine", 20, warm_up=0.1)
    >>> [round(factor(step), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    >>> factor = schedule("step", 20, drop_every=8)
    >>> [round(factor(step), 3) for step in (0, 7, 8, 16)]
    [1.0, 1.0, 0.1, 0.01]
    """
    if kind == "step" and drop_every < 1:
        raise ValueError(f"the learning rate falls every {drop_every} steps; expected 1 or more")
    rise = max(1, round(warm_up * num_steps)) if warm_up else 0

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        if kind == "constant":
            return 1.0
        if kind == "step":
            return math.pow(0.1, step // drop_every)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, num_steps - rise))))

    return factor
