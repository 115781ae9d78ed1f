import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.files import MACHINE
from pipeline.training.checkpoint import CheckpointSlot, load_checkpoint, save_checkpoint, tensor_digest

IDENTITY = {"settings": {"lr": 0.1, "seed": 0}, "data": {"train": "ab" * 32}}


class Network(nn.Module):
    """State of every kind: a convolution laid out in memory in an order of its own, recurrence, averages, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(2, 5, 3).to(memory_format=torch.channels_last)  # with strides of its own
        self.recurrent = nn.LSTM(5, 7, batch_first=True)
        self.norm = nn.BatchNorm1d(7)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.picture(x.flatten(0, 1)).mean(dim=(2, 3)).unflatten(0, x.shape[:2])
        logits: Tensor = self.classifier(self.dropout(self.norm(self.recurrent(seen)[0][:, -1])))
        return logits


def optimizer_of(kind: str, network: nn.Module) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    groups = [
        {"params": [*network.picture.parameters(), *network.recurrent.parameters()], "lr": 0.01},
        {"params": network.classifier.parameters()},
    ]
    return torch.optim.AdamW(groups, lr=0.03, amsgrad=kind == "amsgrad", fused=kind == "fused")


def steps(kind: str, count: int, cut: int | None, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train for `count` steps; with `cut`, stop there, forget everything, and go on from the file."""
    torch.manual_seed(0)
    network = Network()
    optimizer, generator = optimizer_of(kind, network), torch.Generator().manual_seed(1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    for step in range(count):
        if step == cut:
            save_checkpoint(
                path, IDENTITY, {"network": network}, optimizer, {"batches": generator}, schedule.state_dict()
            )
            torch.manual_seed(99)
            network = Network()
            optimizer, generator = optimizer_of(kind, network), torch.Generator()
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
            checkpoint = load_checkpoint(path, IDENTITY)
            assert checkpoint is not None
            schedule.load_state_dict(checkpoint.values)
            checkpoint.restore({"network": network}, optimizer, {"batches": generator})
        batch = torch.randn(6, 4, 2, 5, 4, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch), torch.arange(6) % 3).backward()
        optimizer.step()
        schedule.step()
    return network.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize("kind", ["adamw", "fused", "amsgrad", "sgd"])
def test_resumed_equals_uninterrupted_bit_for_bit(kind: str, tmp_path: Path) -> None:
    weights, state = steps(kind, 8, None, tmp_path / "none")
    for cut in (0, 1, 5):
        resumed_weights, resumed_state = steps(kind, 8, cut, tmp_path / "checkpoint.safetensors")
        assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)
        assert resumed_state["param_groups"] == state["param_groups"]
        for index, entries in state["state"].items():
            assert all(torch.equal(entries[key], resumed_state["state"][index][key]) for key in entries)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_values_and_state_dicts_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    values = {"epoch": 3, "best_loss": 0.1 + 0.2, "worst": math.inf, "history": [{"lr": 1e-17}], "run_id": "ab\u00e9"}
    best = {"a": torch.randn(2, 3).bfloat16(), "scalar": torch.tensor(7), "none": torch.zeros(0, 4)}
    flat = torch.randn(10)
    save_checkpoint(
        path, IDENTITY, {"best": best, "views": {"x": flat[:5], "y": flat[3:], "t": flat.view(2, 5).T}}, values=values
    )
    checkpoint = load_checkpoint(path, IDENTITY)
    assert checkpoint is not None
    assert checkpoint.values == values
    found = checkpoint.state("best")
    assert found.keys() == best.keys()
    assert all(torch.equal(found[name], best[name]) and found[name].dtype == best[name].dtype for name in best)
    assert torch.equal(checkpoint.state("views")["t"], flat.view(2, 5).T)
    found["scalar"].zero_()  # a copy: the checkpoint can be used again
    assert checkpoint.state("best")["scalar"] == 7
    with pytest.raises(TrainingError, match="holds no 'network', only best, views; delete it"):
        checkpoint.restore({"network": Network()})


def test_a_scaler_of_losses_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
    save_checkpoint(path, IDENTITY, {}, scaler=scaler)
    checkpoint, other = load_checkpoint(path, IDENTITY), torch.amp.GradScaler("cpu")
    assert checkpoint is not None
    checkpoint.restore({}, scaler=other)
    assert other.state_dict() == scaler.state_dict()


def test_nothing_there_is_nothing_to_resume(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none.safetensors", IDENTITY) is None


def test_the_checkpoint_of_another_training_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, IDENTITY, {})
    other = {"settings": {"lr": 0.2, "seed": 0, "epochs": 3}, "data": IDENTITY["data"]}
    with pytest.raises(
        TrainingError,
        match=r"another training \(settings.epochs was None and is 3, settings.lr was 0.1 and is 0.2\); undo that to",
    ):
        load_checkpoint(path, other)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_cut_checkpoint_is_an_error(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, IDENTITY, {"network": Network()})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TrainingError, match=r"c\.safetensors: damaged checkpoint .*; delete it to train from the beg"):
        load_checkpoint(path, IDENTITY)


def test_flipped_bits_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, IDENTITY, {"network": Network()}, values={"epoch": 3})
    whole = path.read_bytes()
    places = [4, 20, whole.index(b"epoch") + 9, len(whole) // 2, len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(TrainingError, match="checkpoint"):
            load_checkpoint(path, IDENTITY)


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "c.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(TrainingError, match="no checkpoint of this version"):
        load_checkpoint(path, IDENTITY)
    with pytest.raises(TrainingError, match="damaged checkpoint"):
        load_checkpoint(tmp_path, IDENTITY)


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    network = Network()
    save_checkpoint(path, IDENTITY, {"network": network}, optimizer_of("sgd", network))
    checkpoint = load_checkpoint(path, IDENTITY)
    assert checkpoint is not None
    with pytest.raises(TrainingError, match=r"does not fit this training .*Missing key"):
        checkpoint.restore({"network": nn.Linear(2, 2)})
    with pytest.raises(TrainingError, match="the optimizer was SGD and is AdamW"):
        checkpoint.restore({"network": network}, optimizer_of("adamw", network))
    with pytest.raises(TrainingError, match=r"does not fit this training .*batches"):
        checkpoint.restore({"network": network}, generators={"batches": torch.Generator()})


def test_a_failed_save_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, IDENTITY, {}, values={"epoch": 1})
    with pytest.raises(TypeError, match="not JSON"):
        save_checkpoint(path, IDENTITY, {}, values={"epoch": object()})
    checkpoint = load_checkpoint(path, IDENTITY)
    assert checkpoint is not None
    assert checkpoint.values == {"epoch": 1}


def test_a_digest_tells_tensors_apart() -> None:
    a = torch.arange(6.0)
    same = [tensor_digest({"a": a}), tensor_digest({"a": a.clone()}), tensor_digest({"a": a.view(2, 3).T.T.view(6)})]
    assert len(set(same)) == 1
    others = [{"b": a}, {"a": a.view(2, 3)}, {"a": a.view(torch.int32)}, {"a": a + 1}]
    assert len({same[0], *(tensor_digest(other) for other in others)}) == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
def test_a_gpus_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    network = Network().cuda()
    optimizer = optimizer_of("fused", network)
    network(torch.randn(6, 4, 2, 5, 4, device="cuda")).sum().backward()
    optimizer.step()
    save_checkpoint(path, IDENTITY, {"network": network}, optimizer)
    drawn = torch.rand(4, device="cuda")
    other = Network().cuda()
    other_optimizer = optimizer_of("fused", other)
    checkpoint = load_checkpoint(path, IDENTITY)
    assert checkpoint is not None
    checkpoint.restore({"network": other}, other_optimizer)
    assert torch.equal(torch.rand(4, device="cuda"), drawn)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert all(state["exp_avg"].is_cuda for state in other_optimizer.state.values())


def test_a_training_that_ended_leaves_nothing(tmp_path: Path) -> None:
    """Of itself, and of one that was killed while it saved; another's checkpoint stays."""
    slot = CheckpointSlot(tmp_path / "clip.safetensors")
    slot.file(IDENTITY).write_bytes(b"state")
    (tmp_path / f".clip.{MACHINE}{'0' * 20}.tmp").write_bytes(b"half")
    (tmp_path / "frame-0123456789abcdef.safetensors").write_bytes(b"state")
    slot.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["frame-0123456789abcdef.safetensors"]
