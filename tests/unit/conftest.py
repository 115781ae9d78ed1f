"""The videos of `tests.videos`, as a fixture."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.videos import draw, number_of, write


class Videos(SimpleNamespace):
    """What the `videos` fixture gives: the functions above."""

    draw: Callable[..., np.ndarray]
    number_of: Callable[[np.ndarray], int]
    write: Callable[..., Path]


@pytest.fixture(scope="session")
def videos() -> Videos:
    return Videos(draw=draw, number_of=number_of, write=write)
