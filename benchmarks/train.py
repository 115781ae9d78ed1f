"""Training steps a second: the training loop beside a bare loop around the same nn.LSTM and optimiser.

    python benchmarks/train.py [--videos 13000] [--steps 60] [--rounds 5] [--device cpu]

Features of 13,000 videos, 32 timesteps of 512 (UCF101's number of videos); batches of 64, one LSTM of 256 units. Rounds
are interleaved: some steps of one loop, then as many of the other, from the same data in memory. The bare loop has no
shuffling, no labels for padding, no schedule, no check of the loss: batches are slices of one tensor. Loading is timed
once: every file of the store read, its checksum compared, and packed.
"""

import argparse
import hashlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.training.distributed import World
from pipeline.training.loop import Learner, TrainSettings
from pipeline.training.sequences import Sequences
from pipeline.view import View

NUM_STEPS, FEATURE_SIZE, HIDDEN_SIZE, NUM_CLASSES, BATCH_SIZE = 32, 512, 256, 101, 64
SETTINGS = TrainSettings(
    task="clip", epochs=1000, batch_size=BATCH_SIZE, lr=0.001, weight_decay=0.005, clip_norm=5.0, chunk_frames=0,
    patience=1000, seed=0, schedule="constant",
)  # fmt: skip


def fill(store: FeatureStore, count: int) -> list[str]:
    """Write the features of so many videos; returns their names."""
    names = []
    times = np.arange(NUM_STEPS) / 8
    for number in range(count):
        rng = np.random.default_rng(number)
        names.append(hashlib.sha256(str(number).encode()).hexdigest())
        values = rng.normal(size=(NUM_STEPS, FEATURE_SIZE)).astype(np.float16)
        store.write(names[-1], VideoFeatures(values, times, times))
    return names


class Bare:
    """What anybody would write."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, device: torch.device) -> None:
        self.features, self.labels = features.to(device), labels.to(device)
        self.lstm = nn.LSTM(FEATURE_SIZE, HIDDEN_SIZE, batch_first=True).to(device)
        self.classifier = nn.Linear(HIDDEN_SIZE, NUM_CLASSES).to(device)
        self.parameters = [*self.lstm.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.001, weight_decay=0.005, fused=True)
        self.begin = 0

    def run(self, num_steps: int) -> None:
        for _ in range(num_steps):
            rows = slice(self.begin, self.begin + BATCH_SIZE)
            self.begin = (self.begin + BATCH_SIZE) % (len(self.features) - BATCH_SIZE)
            features, labels = self.features[rows], self.labels[rows]
            with torch.autocast(features.device.type, torch.bfloat16, enabled=features.device.type == "cuda"):
                logits = self.classifier(self.lstm(features)[0])
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.repeat_interleave(NUM_STEPS))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 5.0)
            self.optimizer.step()


def timed(function: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--videos", type=int, default=13_000)
    parser.add_argument("--steps", type=int, default=60, help="of each loop in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    view = View(fps=8, short_side=224, crop=224, clip_frames=NUM_STEPS, clip_stride=NUM_STEPS)
    labels = [np.full(NUM_STEPS, number % NUM_CLASSES) for number in range(options.videos)]
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder, "benchmark")
        names = fill(store, options.videos)
        begin = time.perf_counter()
        packed = Sequences.pack((store.read(name).values for name in names), labels, device)
        loading = time.perf_counter() - begin
    network = RecurrentClassifier(
        FEATURE_SIZE, NUM_CLASSES, cell="lstm", hidden_size=HIDDEN_SIZE, num_layers=1, bidirectional=False,
        input_dropout=0.0, dropout=0.0,
    ).to(device)  # fmt: skip
    learner = Learner(network, packed, view, SETTINGS, World(0, 1, device))
    bare = Bare(packed.features[:, 0].float().view(options.videos, NUM_STEPS, -1),
                torch.tensor([int(own[0]) for own in labels]), device)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    ours = (step for epoch in count(1) for step in learner.epoch(epoch, generator))

    def run_ours() -> None:
        for _ in range(options.steps):
            next(ours)

    rounds = []
    for number in range(options.rounds + 1):
        costs = timed(run_ours, device), timed(lambda: bare.run(options.steps), device)
        rounds += [costs] if number else []  # the first round warms up
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    print(f"{time.strftime('%Y-%m-%d')}, {cores} cores ({model}), torch {torch.__version__}, {device}")
    print(f"{options.videos} videos, {NUM_STEPS} x {FEATURE_SIZE}; {options.rounds} rounds of {options.steps} steps\n")
    print("| loop | steps/s | of the bare loop |\n|---|---|---|")
    ratio = statistics.median(theirs / own for own, theirs in rounds)
    print(f"| ours | {options.steps / statistics.median(own for own, _ in rounds):.1f} | {ratio:.3f} |")
    print(f"| bare nn.LSTM and AdamW | {options.steps / statistics.median(t for _, t in rounds):.1f} | 1 |")
    print(f"| loading the store | {options.videos / loading:,.0f} videos/s, {loading:.1f} s | |")


if __name__ == "__main__":
    main()
