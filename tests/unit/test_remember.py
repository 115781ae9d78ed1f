"""The vanishing gradient: who can remember the first frame for 100 steps?"""

import numpy as np
import pytest
import torch

from pipeline.models.recurrent import RecurrentClassifier
from pipeline.training.gradients import gradient_by_distance
from pipeline.training.loop import TrainSettings, train, validate
from pipeline.training.sequences import Sequences
from pipeline.view import View

NUM_STEPS, NUM_CLASSES = 100, 4
WHOLE = View(fps=10, short_side=96, crop=96)
SETTINGS = TrainSettings(
    task="clip", epochs=16, batch_size=32, lr=0.02, weight_decay=0.0, clip_norm=1.0, chunk_frames=0, patience=16,
    seed=0, schedule="constant",
)  # fmt: skip


def sequences(count: int, seed: int) -> Sequences:
    """The first frame says the class, the other 99 are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(NUM_CLASSES, size=count)
    features = rng.normal(0, 0.3, (count, NUM_STEPS, NUM_CLASSES)).astype(np.float32)
    features[:, 0] = np.eye(NUM_CLASSES)[labels]
    return Sequences.pack(features, [np.full(NUM_STEPS, label) for label in labels], torch.device("cpu"))


def network(cell: str) -> RecurrentClassifier:
    torch.manual_seed(0)
    return RecurrentClassifier(
        NUM_CLASSES, NUM_CLASSES, cell=cell, hidden_size=32, num_layers=1, bidirectional=False,
        input_dropout=0.0, dropout=0.0, memory_steps=NUM_STEPS,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gated_cells_remember_the_first_frame_and_the_vanilla_network_does_not(cell):
    model = network(cell)
    before = gradient_by_distance(model, sequences(16, 2))
    train(model, sequences(500, 0), sequences(100, 1), WHOLE, SETTINGS, lambda row: None)
    model.head = "last"  # the answer after 100 steps
    _, score = validate(model, sequences(200, 3), WHOLE, "clip")
    reach = float(before[NUM_STEPS - 1] / before[0])  # of what the last frame's gradient is, what the first one's is
    if cell == "rnn":
        assert score <= 0.5
        assert reach < 1e-12
    else:
        assert score >= 0.99
        assert reach > 1e-4
