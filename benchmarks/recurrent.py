"""What cells and heads are worth on the demo, and how far back each cell's gradients reach: docs/cells-and-heads.md.

    make demo && python benchmarks/recurrent.py [--experiment demo] [--seeds 3]

Every cell with every head is trained on the clip features of the experiment's first fold, with the settings of its
configuration, once for each seed; the epoch is chosen on the validation side, and the test side is scored once.
The figure shows networks before training, on features of noise: the gradient of the answer after 200 steps.
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.config import load_experiment
from pipeline.features.backbones import read_backbone
from pipeline.features.store import FeatureStore
from pipeline.models.recurrent import CELLS, HEADS, RecurrentClassifier
from pipeline.reporting.svg import to_svg
from pipeline.reporting.timefigures import gradient_figure
from pipeline.stages.layout import StageOptions, dataset_of, stage_options
from pipeline.stages.samples import read_samples, task_classes
from pipeline.stages.train import loop_settings, new_network
from pipeline.training.gradients import gradient_by_distance
from pipeline.training.loop import train, validate
from pipeline.training.sequences import Sequences
from pipeline.view import features_key

DOCS = Path(__file__).resolve().parents[1] / "docs"
NAMES = {"rnn": "vanilla RNN", "lstm": "LSTM", "gru": "GRU"}
NUM_STEPS = 200


def pack(options: StageOptions) -> tuple[dict[str, Sequences], int]:
    """The three sides of the fold, and the number of classes."""
    layout, dataset = options.layout, dataset_of(options.experiment)
    backbone = read_backbone(layout.backbone(options.representation) / "backbone.safetensors")
    key = features_key(options.settings.view, backbone.name, backbone.weights_sha256)
    store = FeatureStore(layout.features(options.representation), key)
    packed = {}
    for side in ("train", "val", "test"):
        samples = read_samples(layout, store, dataset, task="clip", fold=options.fold, split=side)
        packed[side] = Sequences.pack(
            (sample.features.values for sample in samples), [sample.labels for sample in samples], torch.device("cpu")
        )
    return packed, len(task_classes(dataset, "clip"))


def score(
    options: StageOptions, packed: dict[str, Sequences], num_classes: int, cell: str, head: str, seed: int
) -> float:
    """Top-1 on the test side of one training."""
    settings = options.settings.settings("clip")
    assert settings is not None
    settings = settings.model_copy(update={"cell": cell, "head": head})
    feature_size = packed["train"].features.shape[-1]
    network = new_network(settings, feature_size, num_classes, seed)
    network.standardise_by(packed["train"].videos())
    loop = dataclasses.replace(loop_settings(options, settings), seed=seed)
    train(network, packed["train"], packed["val"], options.settings.view, loop, lambda row: None)
    return validate(network, packed["test"], options.settings.view, "clip")[1]


def reach() -> dict[str, np.ndarray]:
    """Norms of gradients by distance, before training; with and without gates that begin open for 200 steps."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(16, NUM_STEPS, 8)).astype(np.float32)
    noise = Sequences.pack(features, [np.full(NUM_STEPS, n % 4) for n in range(16)], torch.device("cpu"))
    found = {}
    for cell in ("rnn", "lstm", "gru"):
        for memory_steps in (0, NUM_STEPS) if cell != "rnn" else (0,):
            torch.manual_seed(0)
            network = RecurrentClassifier(
                8, 4, cell=cell, hidden_size=64, num_layers=1, bidirectional=False, input_dropout=0.0, dropout=0.0,
                memory_steps=memory_steps,
            )  # fmt: skip
            name = NAMES[cell] + (f", memory_steps: {memory_steps}" if memory_steps else "")
            found[name] = gradient_by_distance(network, noise).numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    config = Path("configs") / f"{arguments.experiment}.yaml"
    options = stage_options(None, ["--config", str(config), "--task", "clip"], task=True)
    packed, num_classes = pack(options)
    seed = load_experiment(config).seed
    lines = [
        f"| cell | {' | '.join(HEADS)} |",
        "|---|" + "---|" * len(HEADS),
    ]
    for cell in CELLS:
        cells = [NAMES[cell]]
        for head in HEADS:
            scores = [score(options, packed, num_classes, cell, head, seed + n) for n in range(arguments.seeds)]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.fmean(scores):.3f}{spread}")
            print(f"{NAMES[cell]}, {head}: {', '.join(f'{value:.3f}' for value in scores)}", flush=True)
        lines.append(f"| {' | '.join(cells)} |")
    text = (
        "# Cells and heads\n\n"
        f"Written by `python benchmarks/recurrent.py --experiment {arguments.experiment} --seeds {arguments.seeds}` on "
        f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, CPU.\n\n"
        f"Top-1 on the {len(packed['test'])} test clips of `{arguments.experiment}`, mean ± standard deviation over "
        f"{arguments.seeds} seeds; everything but cell and head as in `configs/{arguments.experiment}.yaml`.\n\n"
        + "\n".join(lines)
        + "\n\n![Gradient norms by distance](vanishing-gradient.svg)\n\n"
        "The gradient that the answer after 200 steps sends to the input so many steps before, of networks with 64 "
        "units\nbefore training. Read about it in [recurrent networks](recurrent-networks.md).\n"
    )
    (DOCS / "cells-and-heads.md").write_text(text, encoding="utf-8")
    (DOCS / "vanishing-gradient.svg").write_text(to_svg(gradient_figure(reach())), encoding="utf-8")


if __name__ == "__main__":
    main()
