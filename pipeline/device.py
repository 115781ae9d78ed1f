"""What computes: the device, how much it computes at a time, and how many videos are decoded at a time."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def choose_device(name: str) -> "torch.device":
    """`auto` takes a GPU when there is one; raises ConfigError when `cuda` is asked for and there is none."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but PyTorch sees no GPU: take `auto` or `cpu`, or look at `lrcn doctor`")
    return torch.device(name)


def choose_devices(name: str) -> "list[torch.device]":
    """As `choose_device`, with every GPU that is visible (see CUDA_VISIBLE_DEVICES): extraction uses them all."""
    import torch

    if choose_device(name).type != "cuda":
        return [torch.device("cpu")]
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


def num_workers(workers: int) -> int:
    """The number asked for, or one per usable core when it is 0."""
    if workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 (one per core) or more")
    return workers or len(os.sched_getaffinity(0))


class Halving:
    """How many rows go through a network at a time: half as many from the time on when a GPU has no memory for them.

    Threads may share it. On a CPU the number stays what it was, and with it the bits.
    """

    def __init__(self, rows: int, name: str) -> None:
        self.rows = rows
        self._name = name  # of the rows, in messages
        self._lock = threading.Lock()
        self._told = False

    def over(self, count: int, compute: Callable[[slice], T]) -> Iterator[T]:
        """What `compute` makes of `count` rows, some at a time. Raises MemoryError when a single one is too many."""
        import torch

        first = 0
        while first < count:
            rows = self.rows
            try:
                part = compute(slice(first, min(first + rows, count)))
            except torch.OutOfMemoryError as error:
                reason = str(error).split(". ")[0]
            else:
                yield part
                first += rows
                continue
            # Out here the error is gone, and with it its traceback, which kept what had been computed so far.
            self._halve(rows, reason)

    def _halve(self, rows: int, reason: str) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with self._lock:
            if rows == 1 and self.rows == 1:
                raise MemoryError(f"the GPU has no memory for one of its {self._name} ({reason}); try --device cpu")
            if self.rows < rows:
                return  # another thread was first
            self.rows = max(1, rows // 2)
            if not self._told:
                self._told = True
                sys.stderr.write(
                    f"lrcn: the GPU has no memory for {rows} {self._name} at a time ({reason}): "
                    f"{self.rows} from now on, fewer where need be\n"
                )
