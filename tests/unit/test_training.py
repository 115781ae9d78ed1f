import dataclasses

import numpy as np
import pytest
import torch

from pipeline.data.labels import IGNORED
from pipeline.errors import TrainingError
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.training.loop import TrainSettings, step_loss, train, validate, warm_up_cosine
from pipeline.training.sequences import Batch, Sequences, gather, training_batches
from pipeline.view import View

CPU = torch.device("cpu")
WHOLE = View(fps=10, short_side=96, crop=96)
SETTINGS = TrainSettings(
    task="clip", head="mean", epochs=30, batch_size=16, lr=0.01, weight_decay=0.0, clip_norm=5.0,
    chunk_frames=0, patience=30, seed=0,
)  # fmt: skip


def network(seed: int = 0, **options) -> RecurrentClassifier:
    torch.manual_seed(seed)
    settings = {"hidden_size": 16, "num_layers": 1, "bidirectional": False, "input_dropout": 0.0, "dropout": 0.2}
    return RecurrentClassifier(2, 2, cell="lstm", **{**settings, **options})


def ramps(count: int, seed: int) -> Sequences:
    """Class 0 rises, class 1 is the same played backwards: no single step tells them apart."""
    rng = np.random.default_rng(seed)
    features, labels = [], []
    for index in range(count):
        steps = int(rng.integers(6, 12))
        line = np.linspace(-1, 1, steps)[:, None] * [1.0, 0.5] + rng.normal(0, 0.05, (steps, 2))
        features.append(line[::-1] if index % 2 else line)
        labels.append(np.full(steps, index % 2))
    return Sequences.pack(features, labels, CPU)


def test_pack_and_gather():
    values = [np.arange(6).reshape(3, 2), np.arange(10, 14).reshape(2, 2)]
    packed = Sequences.pack(values, [np.array([0, 0, 0]), np.array([1, IGNORED])], CPU)
    assert len(packed) == 2
    assert packed.lengths.tolist() == [3, 2]
    batch = gather(packed, torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert batch.features.tolist() == [[[10, 11], [0, 0]], [[2, 3], [4, 5]]]
    assert batch.labels.tolist() == [[1, IGNORED], [0, 0]]
    with pytest.raises(ValueError, match="3 feature rows but 2 labels"):
        Sequences.pack(values[:1], [np.array([0, 0])], CPU)


def test_an_epoch_visits_every_video_once_and_windows_lie_inside():
    features = [np.full((steps, 1), index) + np.arange(steps)[:, None] / 100 for index, steps in enumerate((5, 20, 33))]
    packed = Sequences.pack(features, [np.zeros(len(values), int) for values in features], CPU)
    starts = set()
    for seed in range(40):
        batches = list(
            training_batches(packed, batch_size=2, clip_frames=16, generator=torch.Generator().manual_seed(seed))
        )
        rows = [row[:length] for batch in batches for row, length in zip(batch.features, batch.lengths, strict=True)]
        assert sorted(int(row[0, 0]) for row in rows) == [0, 1, 2]
        for row in rows:
            assert len(row) == (5 if int(row[0, 0]) == 0 else 16)
            assert torch.allclose(row.diff(dim=0), torch.tensor(0.01), atol=1e-5)
            if int(row[0, 0]) == 2:
                starts.add(round(float(row[0, 0] - 2) * 100))
    assert min(starts) <= 1
    assert max(starts) >= 16  # the last possible start is 17


def test_loss_counts_each_clip_once_and_no_padding():
    logits = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 0, 0], [1, IGNORED, IGNORED]])
    batch = Batch(torch.zeros(2, 3, 1), labels, torch.tensor([3, 1]))
    nll = -logits.log_softmax(-1)
    expected = (nll[0, :, 0].mean() + nll[1, 0, 1]) / 2
    torch.testing.assert_close(step_loss(logits, batch, SETTINGS), expected)
    last = (nll[0, 2, 0] + nll[1, 0, 1]) / 2
    torch.testing.assert_close(step_loss(logits, batch, dataclasses.replace(SETTINGS, head="last")), last)
    frame = (nll[0, :, 0].sum() + nll[1, 0, 1]) / 4
    torch.testing.assert_close(step_loss(logits, batch, dataclasses.replace(SETTINGS, task="frame")), frame)


@pytest.fixture(scope="module")
def trained() -> RecurrentClassifier:
    model = network()
    train(model, ramps(64, 1), ramps(16, 2), WHOLE, SETTINGS, lambda row: None)
    return model


def test_it_learns_the_order_of_the_steps(trained):
    loss, score = validate(trained, ramps(40, 3), WHOLE, SETTINGS)
    assert score >= 0.95
    assert loss < 0.5
    backwards = Sequences.pack(
        [ramps(1, seed).features.numpy()[::-1] for seed in range(10)],
        [np.zeros(len(ramps(1, seed).features)) for seed in range(10)],
        CPU,
    )
    assert validate(trained, backwards, WHOLE, SETTINGS)[1] <= 0.1


def test_same_seed_same_numbers_and_the_global_generator_is_left_alone():
    runs = []
    for _ in range(2):
        model = network()
        torch.manual_seed(7)
        settings = dataclasses.replace(SETTINGS, epochs=3)
        runs.append((train(model, ramps(20, 1), ramps(8, 2), WHOLE, settings, lambda row: None), model.state_dict()))
        assert float(torch.rand(1)) == pytest.approx(float(torch.rand(1, generator=torch.Generator().manual_seed(7))))
    assert runs[0][0] == runs[1][0]
    for name, tensor in runs[0][1].items():
        assert torch.equal(tensor, runs[1][1][name])


def test_the_best_epoch_is_kept_and_patience_ends_training():
    model = network()
    settings = dataclasses.replace(SETTINGS, epochs=200, patience=4, lr=0.05)
    wrong = ramps(8, 2)
    wrong = dataclasses.replace(wrong, labels=1 - wrong.labels)  # the better it learns, the worse validation gets
    history = train(model, ramps(32, 1), wrong, WHOLE, settings, lambda row: None)
    losses = [row["val_loss"] for row in history]
    best = losses.index(min(losses))
    assert len(history) == best + 1 + 4
    assert validate(model, wrong, WHOLE, settings)[0] == pytest.approx(min(losses))


def test_frame_task_with_truncated_backpropagation():
    """A toggle: the label is 1 after the pulse, for ever; chunks of 5 steps must carry it over their borders."""
    rng = np.random.default_rng(0)

    def pulses(count):
        features, labels = [], []
        for _ in range(count):
            steps = int(rng.integers(15, 25))
            pulse = int(rng.integers(2, steps - 2))
            values = np.zeros((steps, 2))
            values[pulse] = 1
            features.append(values)
            labels.append((np.arange(steps) >= pulse).astype(int))
        return Sequences.pack(features, labels, CPU)

    model = network(dropout=0.0)
    settings = dataclasses.replace(SETTINGS, task="frame", chunk_frames=5, epochs=25, lr=0.02)
    train(model, pulses(48), pulses(12), WHOLE, settings, lambda row: None)
    assert validate(model, pulses(20), WHOLE, settings)[1] >= 0.97
    with pytest.raises(TrainingError, match="set chunk_frames to 0 or bidirectional to false"):
        train(network(bidirectional=True), pulses(4), pulses(4), WHOLE, settings, lambda row: None)


def test_one_class_and_infinite_loss_are_refused():
    one = ramps(4, 0)
    with pytest.raises(TrainingError, match=r"holds 1 class\(es\); at least 2"):
        train(network(), dataclasses.replace(one, labels=one.labels * 0), one, WHOLE, SETTINGS, lambda row: None)
    broken = ramps(8, 0)
    broken.features[3] = float("nan")
    model = network()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(TrainingError, match="the loss became nan"):
        train(model, broken, one, WHOLE, SETTINGS, lambda row: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())


def test_learning_rate_rises_then_falls_to_zero():
    factors = [warm_up_cosine(100)(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.2)
    assert factors[5] == 1.0
    assert factors[52] == pytest.approx(0.5, abs=0.02)
    assert factors[100] == pytest.approx(0.0)
