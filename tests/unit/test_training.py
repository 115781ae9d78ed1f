import copy
import dataclasses
import math
import os

import numpy as np
import pytest
import torch

from pipeline.data.labels import IGNORED
from pipeline.errors import TrainingError
from pipeline.models.recurrent import RecurrentClassifier, Steps, step_weights
from pipeline.training import loop
from pipeline.training.checkpoint import CheckpointSlot
from pipeline.training.distributed import World
from pipeline.training.gradients import gradient_by_distance
from pipeline.training.loop import Counts, Learner, TrainSettings, batch_loss, train, validate
from pipeline.training.sequences import (
    Batch,
    Sequences,
    Windows,
    class_weights,
    counted_labels,
    draw_order,
    gather,
    plan_chunks,
    plan_clips,
    plan_whole,
    video_weights,
)
from pipeline.view import View

CPU = torch.device("cpu")
WHOLE = View(fps=10, short_side=96, crop=96)
SETTINGS = TrainSettings(
    task="clip", epochs=30, batch_size=16, lr=0.01, weight_decay=0.0, clip_norm=5.0,
    chunk_frames=0, patience=30, seed=0,
)  # fmt: skip


def network(seed: int = 0, **options) -> RecurrentClassifier:
    torch.manual_seed(seed)
    settings = {"hidden_size": 16, "num_layers": 1, "bidirectional": False, "input_dropout": 0.0, "dropout": 0.2}
    return RecurrentClassifier(2, 2, cell="lstm", **{**settings, **options})


def windows(rows: list[tuple[int, int, int]]) -> Windows:
    """Of (video, first step, length)."""
    videos, starts, lengths = torch.tensor(rows).unbind(dim=1)
    return Windows(videos, starts, lengths, torch.zeros_like(videos), torch.arange(len(rows)))


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
    batch = gather(packed, windows([(1, 0, 1), (0, 1, 2)]))
    assert batch.features[0, 0].tolist() == [10, 11]
    assert batch.features[1].tolist() == [[2, 3], [4, 5]]
    assert batch.labels.tolist() == [[1, IGNORED], [0, 0]]
    assert batch.lengths.tolist() == [1, 2]
    with pytest.raises(ValueError, match="3 feature rows but 2 labels"):
        Sequences.pack(values[:1], [np.array([0, 0])], CPU)


def test_a_set_larger_than_memory_lies_in_a_file_and_gives_the_same_batches(monkeypatch):
    features = [np.random.default_rng(n).normal(size=(5 + n, 3)).astype(np.float16) for n in range(4)]
    labels = [np.zeros(len(values), int) for values in features]
    expected = Sequences.pack(features, labels, CPU)
    monkeypatch.setattr(
        "pipeline.training.sequences.psutil.virtual_memory", lambda: type("Memory", (), {"available": 10})
    )
    packed = Sequences.pack(iter(features), labels, CPU)
    assert packed.features.dtype == torch.float16
    assert torch.equal(packed.features, expected.features)
    chosen = windows([(0, 1, 3), (3, 2, 6)])
    assert torch.equal(gather(packed, chosen).features, gather(expected, chosen).features)
    assert gather(packed, chosen).features.dtype == torch.float32


def test_an_epoch_visits_every_video_once_and_windows_lie_inside():
    features = [np.full((steps, 1), index) + np.arange(steps)[:, None] / 100 for index, steps in enumerate((5, 20, 33))]
    packed = Sequences.pack(features, [np.zeros(len(values), int) for values in features], CPU)
    starts = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        plan = plan_clips(packed, draw_order(None, 3, generator), batch_size=2, clip_frames=16, generator=generator)
        batches = [gather(packed, part) for part in plan]
        rows = [row[:length] for batch in batches for row, length in zip(batch.features, batch.lengths, strict=True)]
        assert sorted(int(row[0, 0]) for row in rows) == [0, 1, 2]
        for row in rows:
            assert len(row) == (5 if int(row[0, 0]) == 0 else 16)
            assert torch.allclose(row.diff(dim=0), torch.tensor(0.01), atol=1e-5)
            if int(row[0, 0]) == 2:
                starts.add(round(float(row[0, 0] - 2) * 100))
    assert min(starts) <= 1
    assert max(starts) >= 16  # the last possible start is 17


def test_one_crop_is_drawn_for_a_whole_clip_and_all_are_looked_at_in_validation():
    values = np.arange(2)[:, None, None] * 100 + np.arange(10)[None, :, None] + np.zeros((2, 10, 1))
    packed = Sequences.pack([np.repeat(values[:1], 4, axis=0), values], [np.zeros(4, int), np.ones(2, int)], CPU)
    assert packed.num_crops == 10
    seen = set()
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        (part,) = plan_clips(packed, torch.tensor([0, 1]), batch_size=2, clip_frames=0, generator=generator)
        batch = gather(packed, part)
        crops = batch.features[0, :, 0]
        assert len(set(crops.tolist())) == 1
        seen.add(int(crops[0]))
    assert seen == set(range(10))
    plan = plan_whole(packed, [[0], [0]], 0, 1000)
    assert sorted((int(v), int(c)) for part in plan for v, c in zip(part.videos, part.crops, strict=True)) == [
        (video, crop) for video in range(2) for crop in range(10)
    ]


def test_chunks_run_side_by_side_and_cover_every_recording_once():
    lengths = [7, 3, 12, 1, 5]
    packed = Sequences.pack([np.zeros((n, 1)) for n in lengths], [np.zeros(n, int) for n in lengths], CPU)
    plan = plan_chunks(packed, torch.arange(5), torch.tensor([3, 1, 4, 1, 5]), batch_size=2, chunk_frames=4)
    seen, place = [], {}
    for part in plan:
        assert len(part) <= 2
        assert len(set(part.lanes.tolist())) == len(part)
        rows = zip(part.videos.tolist(), part.starts.tolist(), part.lengths.tolist(), part.lanes.tolist(), strict=True)
        for (video, start, length, lane), crop in zip(rows, part.crops.tolist(), strict=True):
            assert crop == [3, 1, 4, 1, 5][video]
            assert place.setdefault(video, (lane, 0)) == (lane, start)  # goes on in its lane, where it stopped
            place[video] = lane, start + length
            seen += [(video, step) for step in range(start, start + length)]
            assert length == min(4, lengths[video] - start)
    assert sorted(seen) == [(video, step) for video, length in enumerate(lengths) for step in range(length)]
    assert len(plan) == 5  # 9 chunks in two lanes


def test_every_window_is_validated_once_in_batches_of_bounded_size():
    lengths = [40, 5, 17, 100]
    packed = Sequences.pack([np.zeros((n, 1)) for n in lengths], [np.zeros(n, int) for n in lengths], CPU)
    view = View(fps=10, short_side=96, crop=96, clip_frames=16, clip_stride=8)
    starts = [view.clip_starts(length) for length in lengths]
    plan = plan_whole(packed, starts, 16, most_steps=64)
    found = [(int(v), int(s)) for part in plan for v, s in zip(part.videos, part.starts, strict=True)]
    assert sorted(found) == [(video, start) for video, own in enumerate(starts) for start in own]
    assert all(len(part) * int(part.lengths.max()) <= 64 for part in plan)
    whole = plan_whole(packed, [[0]] * 4, 0, most_steps=64)
    assert sorted(int(part.lengths.max()) * len(part) for part in whole)[-1] == 100  # one by itself


def test_rare_classes_weigh_more():
    labels = torch.tensor([0, 0, 0, 1, IGNORED])
    assert class_weights(labels, 3).tolist() == pytest.approx([4 / 6, 2.0, 0.0])  # adds up to the number of labels
    values = [np.zeros((2, 1)), np.zeros((3, 1))]
    packed = Sequences.pack(values, [np.array([0, 0]), np.array([0, 1, IGNORED])], CPU)
    assert video_weights(packed, 3, "frame").tolist() == pytest.approx([4 / 6, (4 / 6 + 2) / 2])
    # The clip task counts clips, however long they are.
    clips = [np.zeros((length, 1)) for length in (100, 1, 1, 1)]
    packed = Sequences.pack(clips, [np.full(len(clip), int(n > 0)) for n, clip in enumerate(clips)], CPU)
    labels = counted_labels(packed, "clip")
    assert labels.tolist() == [0, 1, 1, 1]
    assert class_weights(labels, 2).tolist() == pytest.approx([2, 2 / 3])
    assert video_weights(packed, 2, "clip").tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])
    drawn = draw_order(torch.tensor([0.0, 1.0, 3.0]), 3000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=3)
    assert counts[0] == 0
    assert float(counts[2] / counts[1]) == pytest.approx(3, rel=0.15)


def steps_of(logits: torch.Tensor, lengths: torch.Tensor, head: str, energies: torch.Tensor | None = None) -> Steps:
    return Steps(logits, step_weights(head, lengths, logits.shape[1], energies), ())


def test_loss_counts_each_clip_once_and_no_padding():
    logits = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 0, 0], [1, IGNORED, IGNORED]])
    lengths = torch.tensor([3, 1])
    batch = Batch(torch.zeros(2, 3, 1), labels, lengths)
    nll = -logits.log_softmax(-1)
    expected = {
        "mean": (nll[0, :, 0].mean() + nll[1, 0, 1]) / 2,
        "last": (nll[0, 2, 0] + nll[1, 0, 1]) / 2,
        "ramp": ((nll[0, 0, 0] + 2 * nll[0, 1, 0] + 3 * nll[0, 2, 0]) / 6 + nll[1, 0, 1]) / 2,
    }
    counts = Counts.of(labels, lengths, "clip")
    assert counts == (2, 2)
    ignored = torch.tensor([[0, 0, 0], [IGNORED, IGNORED, IGNORED]])
    assert Counts.of(ignored, lengths, "clip").labels == 1
    for head, loss in expected.items():
        found = batch_loss(network(head=head), steps_of(logits, lengths, head), batch, SETTINGS, None, counts)
        torch.testing.assert_close(found, loss)
    energies = torch.log(torch.tensor([[1.0, 2, 1], [1, 1, 1]]))
    attended = steps_of(logits, lengths, "attention", energies)
    context = (logits[0] * torch.tensor([0.25, 0.5, 0.25])[:, None]).sum(0)
    loss = (-context.log_softmax(-1)[0] - logits[1, 0].log_softmax(-1)[1]) / 2
    torch.testing.assert_close(batch_loss(network(head="attention"), attended, batch, SETTINGS, None, counts), loss)


def test_loss_of_the_frame_task_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [9.0, 0.0], [9.0, 0.0]], [[0.0, 3.0], [0.0, 0.0], [0.0, 0.0]]])
    labels = torch.tensor([[0, 0, IGNORED], [1, IGNORED, IGNORED]])
    batch = Batch(torch.zeros(2, 3, 1), labels, torch.tensor([3, 1]))
    settings = dataclasses.replace(SETTINGS, task="frame")
    logs = logits.log_softmax(-1)
    steps = steps_of(logits, batch.lengths, "mean")
    counts = Counts.of(labels, batch.lengths, "frame")
    assert counts == (3, 2)
    plain = -(logs[0, 0, 0] + logs[0, 1, 0] + logs[1, 0, 1]) / 3
    torch.testing.assert_close(batch_loss(network(), steps, batch, settings, None, counts), plain)
    # From step 0 to 1 the first class gains log 2 and the second loses 9 - log 2, cut to 4; then nothing moves.
    gained = float(logs[0, 1, 0] - logs[0, 0, 0])
    smooth = plain + 0.15 * ((gained**2 + 4.0**2) / 2 + 0) / 2
    settings = dataclasses.replace(settings, smoothing=0.15)
    torch.testing.assert_close(batch_loss(network(), steps, batch, settings, None, counts), smooth)
    weights = torch.tensor([1.0, 4.0])  # 1 on average over the split's labels, not over this batch's
    weighted = -(logs[0, 0, 0] + logs[0, 1, 0] + 4 * logs[1, 0, 1]) / 3
    settings = dataclasses.replace(settings, smoothing=0.0)
    torch.testing.assert_close(batch_loss(network(), steps, batch, settings, weights, counts), weighted)


@pytest.fixture(scope="module")
def trained() -> RecurrentClassifier:
    model = network()
    train(model, ramps(64, 1), ramps(16, 2), WHOLE, SETTINGS, lambda row: None)
    return model


def test_it_learns_the_order_of_the_steps(trained):
    loss, score = validate(trained, ramps(40, 3), WHOLE, "clip")
    assert score >= 0.95
    assert loss < 0.5
    backwards = Sequences.pack(
        [ramps(1, seed).features.numpy()[::-1, 0] for seed in range(10)],
        [np.zeros(len(ramps(1, seed).features)) for seed in range(10)],
        CPU,
    )
    assert validate(trained, backwards, WHOLE, "clip")[1] <= 0.1


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
    assert validate(model, wrong, WHOLE, "clip")[0] == pytest.approx(min(losses))


@pytest.mark.slow
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
    assert validate(model, pulses(20), WHOLE, "frame")[1] >= 0.97
    with pytest.raises(TrainingError, match="set chunk_frames to 0 or bidirectional to false"):
        train(network(bidirectional=True), pulses(4), pulses(4), WHOLE, settings, lambda row: None)


def test_one_class_and_infinite_loss_are_refused():
    one = ramps(4, 0)
    with pytest.raises(TrainingError, match=r"holds 1 class\(es\) in 4 video\(s\); at least 2"):
        train(network(), dataclasses.replace(one, labels=one.labels * 0), one, WHOLE, SETTINGS, lambda row: None)
    broken = ramps(8, 0)
    broken.features[3] = float("nan")
    model = network()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(TrainingError, match="the loss became nan and training stopped, the weights being"):
        train(model, broken, one, WHOLE, SETTINGS, lambda row: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd", "schedule": "step", "step_epochs": 2, "balance": "sampling"},
        {"task": "frame", "chunk_frames": 4, "smoothing": 0.1, "balance": "loss", "label_smoothing": 0.1},
    ],
)
def test_resumed_is_bit_for_bit_uninterrupted(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    settings = dataclasses.replace(SETTINGS, epochs=6, **settings)

    def run(model, checkpoint=None, stop=None):
        rows = []

        def on_epoch(row):
            rows.append(row)
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        arguments = model, ramps(20, 1), ramps(8, 2), WHOLE, settings, on_epoch
        return train(*arguments, checkpoint=checkpoint, identity={"train": "ramps"}), rows

    plain = network()
    expected, _ = run(plain)
    cut = network()
    with pytest.raises(KeyboardInterrupt):
        run(cut, CheckpointSlot(tmp_path / "checkpoint.safetensors"), stop=4)
    resumed = network(seed=5)  # what it begins with is overwritten
    history, rows = run(resumed, CheckpointSlot(tmp_path / "checkpoint.safetensors"))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]  # those from before the stop are told again
    assert history == expected
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    # Another value has a file of its own, and the first goes on where it was when it comes back.
    other = dataclasses.replace(settings, lr=0.5)
    path = tmp_path / "checkpoint.safetensors"
    slot = CheckpointSlot(path)
    train(network(), ramps(20, 1), ramps(8, 2), WHOLE, other, lambda row: None, checkpoint=slot)
    assert len(list(tmp_path.iterdir())) == 2
    last = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:-100])
    train(network(), ramps(20, 1), ramps(8, 2), WHOLE, other, lambda row: None, checkpoint=slot)
    assert "training begins anew" in capsys.readouterr().out
    old = tmp_path / "checkpoint-0123456789abcdef.safetensors"
    old.touch()
    os.utime(old, (0, 0))  # nobody came back to it
    slot.remove()
    assert [file for file in tmp_path.iterdir() if file in (last, old)] == []
    assert len(list(tmp_path.iterdir())) == 1  # that of the first value


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"optimizer": "sgd", "lr": 0.1}, {"schedule": "constant"}, {"balance": "sampling"}]
)
def test_other_optimisers_schedules_and_draws_learn_too(options):
    model = network()
    train(model, ramps(64, 1), ramps(16, 2), WHOLE, dataclasses.replace(SETTINGS, **options), lambda row: None)
    assert validate(model, ramps(40, 3), WHOLE, "clip")[1] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("head", ["last", "ramp", "attention"])
def test_every_head_learns_the_order_of_the_steps(head):
    model = network(head=head)
    train(model, ramps(64, 1), ramps(16, 2), WHOLE, SETTINGS, lambda row: None)
    assert validate(model, ramps(40, 3), WHOLE, "clip")[1] >= 0.95


def test_memory_of_truncated_backpropagation_is_that_of_a_chunk(monkeypatch):
    """A recording of 20,000 steps costs what one of 2,000 costs, which whole would cost ten times as much."""

    def saved_bytes(num_steps: int, chunk_frames: int) -> int:
        values = np.random.default_rng(0).normal(size=(num_steps, 2)).astype(np.float32)
        packed = Sequences.pack([values], [(values[:, 0] > 0).astype(int)], CPU)
        model = network(dropout=0.0)
        largest, alive = 0, {}

        def pack(tensor):
            nonlocal largest
            alive[id(tensor)] = tensor.untyped_storage().nbytes()
            largest = max(largest, sum(alive.values()))
            return tensor

        learner_step = torch.optim.AdamW.step

        def step(self, *arguments, **options):
            alive.clear()
            return learner_step(self, *arguments, **options)

        settings = dataclasses.replace(SETTINGS, task="frame", epochs=1, chunk_frames=chunk_frames)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            monkeypatch.setattr(torch.optim.AdamW, "step", step)
            train(model, packed, packed, WHOLE, settings, lambda row: None)
            monkeypatch.undo()
        return largest

    chunk = saved_bytes(2_000, 100)
    assert saved_bytes(20_000, 100) <= 1.05 * chunk
    assert saved_bytes(2_000, 0) >= 10 * chunk


def test_gradient_by_distance_against_finite_differences():
    packed = ramps(3, 0)
    model = network(dropout=0.0).double()
    found = gradient_by_distance(model, dataclasses.replace(packed, features=packed.features.double()))
    assert len(found) == int(packed.lengths.max())
    norms: dict[int, list[float]] = {}
    for video in range(3):
        begin, end = packed.offsets[video : video + 2].tolist()
        values = packed.features[begin:end, 0].double()

        def loss(values):
            return -model(values[None])[0][0, -1].log_softmax(-1)[packed.labels[end - 1]]  # noqa: B023

        for step in range(end - begin):
            partial = []
            for feature in range(2):
                moved = torch.zeros_like(values)
                moved[step, feature] = 1e-5
                partial.append(float((loss(values + moved) - loss(values - moved)).detach()) / 2e-5)
            norms.setdefault(end - begin - 1 - step, []).append(math.hypot(*partial))
    for distance, values in norms.items():
        assert float(found[distance]) == pytest.approx(np.mean(values), rel=1e-3, abs=1e-7)


def learner(model, sequences, **options) -> Learner:
    return Learner(model, sequences, WHOLE, dataclasses.replace(SETTINGS, **options), World(0, 1, CPU))


def one_step(model, sequences, **options):
    """The first optimiser step of an epoch of one batch, without dropout."""
    return next(learner(model, sequences, batch_size=64, **options).epoch(1, torch.Generator().manual_seed(0)))


def test_every_option_reaches_the_loss_of_a_step():
    packed = ramps(16, 1)
    uneven = dataclasses.replace(packed, labels=torch.where(torch.arange(len(packed.labels)) < 20, 1, 0))
    model = network(dropout=0.0)
    whole = Windows(*(torch.arange(16) * 0 + value for value in (0, 0, 0, 0, 0)))
    whole = dataclasses.replace(whole, videos=torch.arange(16), lengths=packed.lengths)
    batch = gather(uneven, whole)
    logits = model(batch.features, batch.lengths)[0].detach()
    labelled = batch.labels != IGNORED
    plain = torch.nn.functional.cross_entropy(logits[labelled], batch.labels[labelled], label_smoothing=0.2)
    found = one_step(copy.deepcopy(model), uneven, task="frame", label_smoothing=0.2)
    assert found.loss == pytest.approx(float(plain), rel=1e-5)
    weights = class_weights(counted_labels(uneven, "frame"), 2)
    each = torch.nn.functional.cross_entropy(logits[labelled], batch.labels[labelled], reduction="none")
    weighted = (each * weights[batch.labels[labelled]]).mean()
    found = one_step(copy.deepcopy(model), uneven, task="frame", balance="loss")
    assert found.loss == pytest.approx(float(weighted), rel=1e-5)
    drawn = learner(copy.deepcopy(model), uneven, task="frame", balance="sampling")
    assert drawn._draw is not None
    assert drawn._draw.tolist() == pytest.approx(video_weights(uneven, 2, "frame").tolist())


def test_the_gradient_is_clipped_to_its_norm():
    model = network(dropout=0.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = one_step(model, ramps(16, 1), optimizer="sgd", lr=1.0, clip_norm=0.001, warm_up=0.0, schedule="constant")
    assert step.grad_norm > 0.01
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.001, rel=1e-3)


def test_weights_decay_and_biases_do_not():
    model = network(dropout=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    options = {"optimizer": "sgd", "lr": 0.1, "clip_norm": 1e-12, "warm_up": 0.0, "schedule": "constant"}
    one_step(model, ramps(16, 1), weight_decay=0.5, **options)
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, atol=1e-6, rtol=0)


def test_the_learning_rate_follows_its_schedule_in_epochs():
    def rates(epoch, **options):
        learning = learner(network(), ramps(8, 1), batch_size=4, epochs=10, lr=1e-6, **options)
        return [step.lr / 1e-6 for step in learning.epoch(epoch, torch.Generator().manual_seed(0))]

    stepped = {"schedule": "step", "step_epochs": 3, "warm_up": 0.0}
    assert [rates(epoch, **stepped) for epoch in (1, 3, 4, 7)] == [
        pytest.approx([1, 1]), pytest.approx([1, 1]), pytest.approx([0.1, 0.1]), pytest.approx([0.01, 0.01])
    ]  # fmt: skip
    assert rates(1, schedule="constant", warm_up=0.2) == pytest.approx([0.25, 0.5])
    assert rates(10, schedule="cosine", warm_up=0.0)[-1] < 0.01


def test_momentum_carries_on():
    """With a gradient of (nearly) nothing in the second step, momentum moves the weights 0.9 times as far."""
    model = network(dropout=0.0)
    options = {"optimizer": "sgd", "lr": 0.1, "warm_up": 0.0, "schedule": "constant"}
    learning = learner(model, ramps(16, 1), batch_size=64, **options)
    weight = model.classifier.weight
    places = [weight.detach().clone()]
    next(learning.epoch(1, torch.Generator().manual_seed(0)))
    places.append(weight.detach().clone())
    for group in learning.optimizer.param_groups:
        group["lr"] = 0.1
    learning.optimizer.zero_grad(set_to_none=False)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learning.optimizer.step()
    places.append(weight.detach().clone())
    torch.testing.assert_close(places[2] - places[1], 0.9 * (places[1] - places[0]), atol=1e-7, rtol=1e-4)


def test_a_batch_without_labels_moves_no_weight_and_carries_the_state_on():
    values = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    labels = np.where(np.arange(40) < 10, np.arange(40) % 2, IGNORED)
    packed = Sequences.pack([values], [labels], CPU)
    model = network(dropout=0.0)
    settings = {"task": "frame", "chunk_frames": 5, "weight_decay": 0.1, "smoothing": 0.15}
    learning = learner(model, packed, batch_size=1, **settings)
    places = []
    steps = []
    for step in learning.epoch(1, torch.Generator().manual_seed(0)):
        steps.append(step)
        places.append(model.classifier.weight.detach().clone())
    assert len(steps) == 2  # of 8 chunks
    assert torch.equal(places[-1], model.classifier.weight)
    assert max(step.loss for step in steps) < 2


@pytest.mark.parametrize("kind", ["gradient", "validation"])
def test_what_is_not_finite_stops_training_before_the_weights_take_it(kind):
    model, packed, held_out = network(dropout=0.0), ramps(8, 0), ramps(8, 1)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    if kind == "gradient":
        model.classifier.weight.register_hook(lambda gradient: gradient * math.inf)
        with pytest.raises(TrainingError, match=r"the norm of the gradient became (inf|nan)"):
            train(model, packed, held_out, WHOLE, SETTINGS, lambda row: None)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())
    else:
        held_out.features[3] = math.nan
        with pytest.raises(TrainingError, match="the validation loss became nan in epoch 1"):
            train(model, packed, held_out, WHOLE, SETTINGS, lambda row: None)


def test_sides_without_labels_are_refused_before_anything_is_computed():
    packed = ramps(4, 0)
    none = dataclasses.replace(packed, labels=torch.full_like(packed.labels, IGNORED))
    for training, validation, message in (
        (none, packed, r"holds 0 class\(es\) in 4 video\(s\)"),
        (packed, none, "the validation split has no labelled timestep"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(network(), training, validation, WHOLE, SETTINGS, lambda row: None)


def test_resumed_after_its_best_epoch_it_keeps_those_weights_and_its_patience(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    settings = dataclasses.replace(SETTINGS, epochs=40, patience=6, lr=0.05, schedule="constant")
    wrong = ramps(8, 2)
    wrong = dataclasses.replace(wrong, labels=1 - wrong.labels)  # validation only gets worse
    plain = network()
    expected = train(plain, ramps(32, 1), wrong, WHOLE, settings, lambda row: None)
    best = min(expected, key=lambda row: row["val_loss"])["epoch"]
    assert len(expected) < 40

    def stop(row):
        if row["epoch"] == best + 4:
            raise KeyboardInterrupt

    slot = CheckpointSlot(tmp_path / "checkpoint.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(network(), ramps(32, 1), wrong, WHOLE, settings, stop, checkpoint=slot)
    resumed = network()
    again = train(resumed, ramps(32, 1), wrong, WHOLE, settings, lambda row: None, checkpoint=slot)
    assert again == expected
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_recordings_are_validated_in_chunks_as_if_whole(monkeypatch):
    packed = ramps(6, 0)
    model = network(dropout=0.0, motion=True)
    model.standardise_by(packed.videos())
    whole = validate(model, packed, WHOLE, "frame")
    monkeypatch.setattr(loop, "BLOCK_STEPS", 4)
    monkeypatch.setattr(loop, "LANES", 2)
    assert validate(model, packed, WHOLE, "frame") == pytest.approx(whole, abs=1e-6)


def test_clips_are_validated_as_the_view_cuts_them():
    view = View(fps=10, short_side=96, crop=96, clip_frames=4, clip_stride=2)
    packed, model = ramps(6, 0), network(dropout=0.0).eval()
    losses = []
    for video, values in enumerate(packed.videos()):
        clips = [values[None, start : start + 4].float() for start in view.clip_starts(len(values))]
        with torch.inference_mode():
            answers = [model.clip_probabilities(model.steps(clip, torch.tensor([4]))) for clip in clips]
        losses.append(-float(torch.cat(answers).mean(dim=0)[video % 2].log()))
    assert validate(model, packed, view, "clip")[0] == pytest.approx(np.mean(losses), abs=1e-6)


@pytest.mark.parametrize("where", ["input_dropout", "dropout"])
def test_dropout_acts_in_training_alone(where):
    torch.manual_seed(0)
    model, features = network(**{"dropout": 0.0, where: 0.9}), torch.randn(1, 5, 2)
    model.train()
    assert not torch.equal(model(features)[0], model(features)[0])
    model.eval()
    assert torch.equal(model(features)[0], model(features)[0])
