"""One training on several processes, one for each GPU: `torchrun --nproc-per-node N` starts them.

Every process draws the same batch from the same generator and takes its rows of it; each divides its loss by the count
of the whole batch; the gradients are summed. So N processes compute what one does, but for rounding. Nothing is wrapped
around the network, and without torchrun there is a world of one, in which all of this does nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import TrainingError

TIMEOUT_SECONDS = 600.0  # how long a process waits for the others before it gives up


@dataclass(frozen=True)
class World:
    """The processes of a training, seen from one of them. rank: 0 to size - 1. device: what this one computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def my_share(self, rows: int) -> slice:
        """Which rows of a batch are this process's; none in a batch smaller than the world.

        >>> [World(rank, 3, torch.device("cpu")).my_share(4) for rank in range(3)]
        [slice(0, 1, None), slice(1, 2, None), slice(2, 4, None)]
        """
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def sum_gradients(self, network: nn.Module) -> None:
        """Add up the gradients of all processes; each has divided its loss by the count of the whole batch.

        A process without rows, and so without gradients, calls it too. A parameter that has a gradient nowhere keeps
        none, so that optimisers leave it alone as they do in one process.
        """
        if self.size == 1:
            return
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        present = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        self._collect(lambda: dist.all_reduce(present))
        wanted = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
        for dtype in sorted({p.dtype for p in wanted}, key=str):
            of_kind = [p for p in wanted if p.dtype == dtype]
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in of_kind])
            self._collect(lambda flat=flat: dist.all_reduce(flat))  # type: ignore[misc]
            for parameter, part in zip(of_kind, torch.split(flat, [p.numel() for p in of_kind]), strict=True):
                # With the parameter's strides: fused optimisers go through memory, not indices.
                parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))

    def sum_floats(self, *values: float) -> list[float]:
        """Sums over all processes, the same bits in each."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        self._collect(lambda: dist.all_reduce(sums))
        found: list[float] = sums.tolist()
        return found

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            self._collect(lambda: dist.all_reduce(tensor))
        return tensor

    def copy_from_main(self, network: nn.Module) -> None:
        """Give every process the main one's weights and buffers."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                self._collect(lambda tensor=tensor: _broadcast(tensor))  # type: ignore[misc]

    def wait(self) -> None:
        """Wait until every process is here."""
        self.sum_floats(0.0)

    def _collect(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:  # DistBackendError and DistNetworkError are such
            reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise TrainingError(
                f"process {self.rank} of {self.size}: another process has failed or did not answer ({reason}); "
                "look for its own error, and start all of them again"
            ) from error


@contextmanager
def process_group(device: torch.device, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[World]:
    """The world that torchrun describes in the environment, joined and left; a world of one without torchrun.

    On GPUs each process gets one of its own (NCCL), on CPUs they talk through Gloo. When one fails, torchrun ends the
    others, and those that notice first raise TrainingError; none waits longer than `timeout_seconds`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        number = int(os.environ["LOCAL_RANK"])
        if number >= torch.cuda.device_count():
            raise TrainingError(
                f"process {number} of this machine has no GPU: PyTorch sees {torch.cuda.device_count()}; "
                "start torchrun with --nproc-per-node at most that"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_seconds)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"process {os.environ.get('RANK')}: the {os.environ['WORLD_SIZE']} processes did not find each other "
            f"({' '.join(str(error).split())[:200]}); start them with torchrun"
        ) from error
    world = World(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield world
    except BaseException:
        if device.type != "cuda":  # NCCL would wait for the others before it lets go; Gloo tells them
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _broadcast(tensor: Tensor) -> None:
    sent = tensor.contiguous()
    dist.broadcast(sent, 0)
    tensor.copy_(sent)
