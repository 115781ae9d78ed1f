"""What the tests of several processes start: `python training_processes.py <what> <folder>`, with or without torchrun.

Each process writes what it ended with to `<folder>/<rank of size>.safetensors`.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from pipeline.training.distributed import World, process_group
from pipeline.training.endtoend import train_end_to_end
from pipeline.video.flow import mirror
from tests.unit.coloured_squares import SETTINGS, VIEW, drawn, small_backbone

BATCHES = [5, 5, 1, 4, 5, 1]  # rows: in a batch of one, one of two processes has none


def train(world: World, what: str) -> dict[str, torch.Tensor]:
    """AdamW steps on a small convolution and LSTM."""
    torch.manual_seed(world.rank)  # the main process's weights are handed to the others
    network = nn.ModuleDict(
        {
            "conv": nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last),
            "lstm": nn.LSTM(4, 6, batch_first=True),
            "out": nn.Linear(6, 3),
            "unused": nn.Linear(2, 2),
        }
    )
    world.copy_from_main(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=0.1, fused=True)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for number, rows in enumerate(BATCHES):
        batch, labels = torch.randn(rows, 7, 4, 5, 4, generator=generator), torch.arange(rows) % 3
        share = world.my_share(rows)
        if what == "fail" and number == 2 and world.rank == 1:
            raise ValueError("process 1 has a problem of its own")
        if what == "hang" and number == 2 and world.rank == 1:
            time.sleep(600)
        optimizer.zero_grad()
        loss = torch.zeros(())
        if share.stop > share.start:
            seen = network["conv"](batch[share].flatten(0, 1)).relu().mean(dim=(2, 3)).unflatten(0, (-1, 7))
            logits = network["out"](network["lstm"](seen)[0][:, -1])
            loss = nn.functional.cross_entropy(logits, labels[share], reduction="sum") / rows
            loss.backward()
        world.sum_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        losses.append(world.sum_floats(loss.item())[0])
    return {**contiguous(network), "losses": torch.tensor(losses)}


def end_to_end(world: World) -> dict[str, torch.Tensor]:
    """Both networks after end-to-end training; the last batch of an epoch has one window."""
    backbone = small_backbone()
    network, history = train_end_to_end(
        backbone, drawn(17), drawn(5, first=500), num_classes=2, view=VIEW, settings=SETTINGS, world=world,
        mirror=partial(mirror, is_flow=False),
    )  # fmt: skip
    losses = torch.tensor([[row["train_loss"], row["val_loss"]] for row in history])
    return {**contiguous(nn.ModuleList([backbone, network])), "losses": losses}


def contiguous(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder = sys.argv[1:]
    with process_group(torch.device("cpu"), timeout_seconds=5 if what == "hang" else 600) as world:
        state = end_to_end(world) if what == "endtoend" else train(world, what)
        safetensors.torch.save_file(state, Path(folder) / f"{world.rank}of{world.size}.safetensors")
        world.wait()
        assert world.is_main == (os.environ.get("RANK", "0") == "0")
