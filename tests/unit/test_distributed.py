import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.errors import TrainingError
from pipeline.training.distributed import World, process_group
from tests.unit.training_processes import train

SCRIPT = Path(__file__).with_name("training_processes.py")
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def start(*arguments: str, processes: int) -> list[subprocess.Popen[str]]:
    """The processes of a world, started without torchrun, so that nobody ends one when another fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def finish(processes: list[subprocess.Popen[str]], timeout_seconds: float = 60) -> list[tuple[int, str]]:
    """Exit status and standard error of each; none may outlive the test."""
    try:
        errors = [process.communicate(timeout=timeout_seconds)[1] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, errors, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_rows_are_shared_whole_and_in_order() -> None:
    for size in (1, 2, 3, 5):
        for rows in range(9):
            shares = [World(rank, size, CPU).my_share(rows) for rank in range(size)]
            assert [row for share in shares for row in range(rows)[share]] == list(range(rows))
            counts = [share.stop - share.start for share in shares]
            assert max(counts) - min(counts) <= 1


def test_without_torchrun_there_is_a_world_of_one() -> None:
    network = nn.Linear(2, 2)
    network(torch.ones(1, 2)).sum().backward()
    gradient = network.weight.grad
    with process_group(CPU) as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.my_share(7) == slice(0, 7)
        assert world.sum_floats(0.1, 2) == [0.1, 2]
        world.sum_gradients(network)
        world.copy_from_main(network)
        world.wait()
    assert network.weight.grad is gradient
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    assert [status for status, _ in finish(start("train", str(tmp_path), processes=2))] == [0, 0]
    first, second = (safetensors.torch.load_file(tmp_path / f"{name}.safetensors") for name in ("0of2", "1of2"))
    one = train(World(0, 1, CPU), "train")
    assert len(one) == 11
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-5)
    assert one["losses"].diff().abs().max() > 0.01  # something was learned, or tensors of no training would pass


@pytest.mark.slow
def test_when_one_fails_the_other_ends_with_an_error(tmp_path: Path) -> None:
    """At once, that is: by itself it would wait for ten minutes."""
    (first, told), (second, own) = finish(start("fail", str(tmp_path), processes=2), timeout_seconds=120)
    assert (first, second) == (1, 1)
    assert "ValueError: process 1 has a problem of its own" in own
    assert "TrainingError: process 0 of 2: another process has failed or did not answer" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    waiting, hanging = start("hang", str(tmp_path), processes=2)
    try:
        ((status, text),) = finish([waiting])
    finally:
        finish_hanging(hanging)
    assert status == 1
    assert "another process has failed or did not answer" in text


def finish_hanging(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "64")
    monkeypatch.setenv("LOCAL_RANK", "63")
    with (
        pytest.raises(TrainingError, match=r"process 63 .* has no GPU: PyTorch sees \d+; start torchrun with"),
        process_group(torch.device("cuda")),
    ):
        pass
