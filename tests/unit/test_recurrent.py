import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.recurrent import HEADS, Lanes, RecurrentClassifier, step_weights
from pipeline.models.streaming import Stream

B, T, D, H, K = 3, 7, 5, 4, 3


def network(cell="lstm", seed=0, **options) -> RecurrentClassifier:
    torch.manual_seed(seed)
    settings = {"hidden_size": H, "num_layers": 1, "bidirectional": False, "input_dropout": 0.0, "dropout": 0.0}
    return RecurrentClassifier(D, K, cell=cell, **{**settings, **options}).eval()


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(1))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lecture(cell: str, weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The equations of the docstring for one video (T, D), layer by layer, written out; hidden states (T, H)."""
    for layer in range(sum(name.startswith("weight_ih") for name in weights)):
        w, u = weights[f"weight_ih_l{layer}"], weights[f"weight_hh_l{layer}"]
        b, c = weights[f"bias_ih_l{layer}"], weights[f"bias_hh_l{layer}"]
        h, memory, out = np.zeros(u.shape[1]), np.zeros(u.shape[1]), []
        for x_t in x:
            a, r = w @ x_t + b, u @ h + c
            if cell == "rnn":
                h = np.tanh(a + r)
            elif cell == "lstm":
                i, f, g, o = np.split(a + r, 4)
                memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(memory)
            else:
                (ar, az, an), (rr, rz, rn) = np.split(a, 3), np.split(r, 3)
                reset, update = sigmoid(ar + rr), sigmoid(az + rz)
                h = (1 - update) * np.tanh(an + reset * rn) + update * h
            out.append(h)
        x = np.array(out)
    return x


def softmax(x):
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def lecture_head(head: str, weights: dict[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """Class probabilities of the clip from hidden states (T, H)."""
    logits = hidden @ weights["classifier.weight"].T + weights["classifier.bias"]
    steps = np.arange(1, len(hidden) + 1)
    if head == "attention":
        inner = np.tanh(hidden @ weights["attention.0.weight"].T + weights["attention.0.bias"])
        a = softmax(inner @ weights["attention.2.weight"][0])
        return softmax((a @ hidden) @ weights["classifier.weight"].T + weights["classifier.bias"])
    share = {"mean": np.ones(len(steps)), "last": steps == len(steps), "ramp": steps}[head]
    return (share / share.sum()) @ softmax(logits)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("head", HEADS)
def test_cells_and_heads_follow_their_equations_and_so_do_their_gradients(cell, head, num_layers, features):
    model = network(cell, head=head, num_layers=num_layers).double()
    x = features[0].double()
    steps = model.steps(x[None], torch.tensor([T]))
    hidden, _ = model.recurrent(x[None])
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    cells = {name.removeprefix("recurrent."): value for name, value in weights.items() if name.startswith("recurrent.")}
    np.testing.assert_allclose(hidden[0].detach().numpy(), lecture(cell, cells, x.numpy()), atol=1e-12)
    answer = lecture_head(head, weights, lecture(cell, cells, x.numpy()))
    np.testing.assert_allclose(model.clip_probabilities(steps)[0].detach().numpy(), answer, atol=1e-6)

    # In double precision throughout; clip_probabilities rounds to single, as prediction does.
    if head == "attention":
        probabilities = (steps.logits * steps.weights.double()[..., None]).sum(dim=1).softmax(dim=-1)
    else:
        probabilities = (steps.logits.softmax(dim=-1) * steps.weights.double()[..., None]).sum(dim=1)
    probabilities[0, 1].backward()
    rng = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        for _ in range(4):
            # Complex step: the derivative of an analytic function to rounding error, f(w + ih).imag / h.
            place = tuple(rng.integers(size) for size in parameter.shape)
            stepped = {key: value.astype(complex) for key, value in weights.items()}
            stepped[name][place] += 1e-30j
            inner = {key.removeprefix("recurrent."): value for key, value in stepped.items() if "recurrent." in key}
            expected = lecture_head(head, stepped, lecture(cell, inner, x.numpy().astype(complex)))[1].imag / 1e-30
            assert float(parameter.grad[place]) == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 3, "dropout": 0.5}, {"motion": True}])
@pytest.mark.parametrize("length", [1, 2, 16, 300])
def test_whole_chunked_and_frame_by_frame_are_equal(cell, options, length):
    model = network(cell, **options)
    features = torch.randn(B, length, D, generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        whole, _ = model(features)
        for size in (1, 7):
            state, parts = None, []
            for start in range(0, length, size):
                logits, state = model(features[:, start : start + size], state=state)
                parts.append(logits)
            torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("head", ["mean", "last", "ramp"])
@pytest.mark.parametrize("length", [1, 16, 300])
def test_a_stream_answers_as_the_clip_read_whole(cell, head, length):
    model = network(cell, head=head, motion=True)
    features = torch.randn(length, D, generator=torch.Generator().manual_seed(length))
    for size in (1, 7, 300):
        stream = Stream(model, "clip")
        answers = np.concatenate([stream.push(part.numpy()) for part in features.split(size)])
        assert answers.shape == (length, K)
        for end in {1, (length + 1) // 2, length}:  # the answer so far is that of the clip so far
            with torch.inference_mode():
                whole = model.clip_probabilities(model.steps(features[None, :end], torch.tensor([end])))
            np.testing.assert_allclose(answers[end - 1], whole[0].numpy(), atol=1e-5)
        frames = Stream(model, "frame")
        labelled = np.concatenate([frames.push(part.numpy()) for part in features.split(size)])
        with torch.inference_mode():
            np.testing.assert_allclose(labelled, model(features[None])[0][0].softmax(-1).numpy(), atol=1e-5)


def test_what_cannot_stream_says_so():
    with pytest.raises(ModelError, match="a bidirectional network reads a video from its end too"):
        Stream(network(bidirectional=True), "frame")
    with pytest.raises(ModelError, match=r"attention compares all timesteps.*heads mean, last, ramp"):
        Stream(network(head="attention"), "clip")
    Stream(network(head="attention"), "frame")  # the frame task has no clip's head
    with pytest.raises(ModelError, match=r"features of shape \(3, 2\); expected \(n, 5\)"):
        Stream(network(), "clip").push(np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_never_changes_a_clips_answer(head, bidirectional, features):
    model = network(head=head, bidirectional=bidirectional)
    lengths = torch.tensor([7, 4, 1])
    answers = model.clip_probabilities(model.steps(features, lengths))
    for video, length in enumerate(lengths.tolist()):
        alone = model.steps(features[video : video + 1, :length], lengths[video : video + 1])
        torch.testing.assert_close(answers[video], model.clip_probabilities(alone)[0], atol=1e-6, rtol=0)
        assert float(alone.weights.detach().sum()) == pytest.approx(1)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("motion", [False, True])
def test_lanes_go_on_where_each_recording_stopped(cell, motion, features):
    """Recordings of 7, 3 and 4 steps in two lanes, 2 steps at a time: the third follows the second in its lane."""
    model = network(cell, motion=motion)
    videos = [features[0], features[1, :3], features[2, :4]]
    plan = [[(0, 0, 0), (1, 0, 1)], [(0, 2, 0), (1, 2, 1)], [(0, 4, 0), (2, 0, 1)], [(0, 6, 0), (2, 2, 1)]]
    lanes, parts = Lanes(model, 2), {0: [], 1: [], 2: []}
    for rows in plan:
        chunks = [videos[video][start : start + 2] for video, start, _ in rows]
        lengths = torch.tensor([len(chunk) for chunk in chunks])
        batch = torch.nn.utils.rnn.pad_sequence(chunks, batch_first=True)
        index = torch.tensor([lane for *_, lane in rows])
        state = lanes.take(index, torch.tensor([start == 0 for _, start, _ in rows]), batch)
        logits, state = model(batch, lengths, state)
        assert not any(part.requires_grad for part in (lanes.take(index, torch.tensor([False, False]), batch) or ()))
        lanes.put(index, state)
        for (video, *_), row, length in zip(rows, logits, lengths.tolist(), strict=True):
            parts[video].append(row[:length])
    for video, whole in enumerate(videos):
        torch.testing.assert_close(torch.cat(parts[video]), model(whole[None])[0][0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"motion": True}])
def test_padding_never_changes_a_result(options, features):
    model = network(**options)
    lengths = torch.tensor([7, 4, 1])
    padded, state = model(features.clone().index_fill_(1, torch.tensor([6]), 99.0), torch.tensor([6, 4, 1]))
    for video, length in enumerate([6, 4, 1]):
        alone, alone_state = model(features[video : video + 1, :length])
        torch.testing.assert_close(padded[video, :length], alone[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(state[0][:, video], alone_state[0][:, 0], atol=1e-6, rtol=0)
        if "motion" in options:
            torch.testing.assert_close(state[-1][video], alone_state[-1][0])
    with_padding, _ = model(features, lengths)
    torch.testing.assert_close(with_padding[0], model(features[:1])[0][0], atol=1e-6, rtol=0)


def test_bidirectional_cannot_stream(features):
    model = network(bidirectional=True)
    _, state = model(features)
    with pytest.raises(ValueError, match="cannot carry a state on"):
        model(features, state=state)


def test_standardise_by_training_steps():
    model = network()
    steps = torch.tensor([[1.0, 5, 0, 0, 2], [3.0, 5, 0, 0, 6]])
    model.standardise_by([steps[:1], steps[1:]])
    torch.testing.assert_close(model.feature_mean, torch.tensor([2.0, 5, 0, 0, 4]))
    assert model.feature_std[0] == pytest.approx(2**0.5)
    assert 0 < model.feature_std[1] < 0.1  # a constant feature stays harmless


def test_step_weights_by_hand():
    lengths = torch.tensor([2, 3])
    expected = {
        "mean": [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]],
        "last": [[0, 1, 0], [0, 0, 1]],
        "ramp": [[1 / 3, 2 / 3, 0], [1 / 6, 2 / 6, 3 / 6]],
    }
    for head, weights in expected.items():
        torch.testing.assert_close(step_weights(head, lengths, 3), torch.tensor(weights, dtype=torch.float32))
    energies = torch.log(torch.tensor([[1.0, 3, 99], [1, 2, 5]]))
    weights = step_weights("attention", lengths, 3, energies)
    torch.testing.assert_close(weights, torch.tensor([[1 / 4, 3 / 4, 0], [1 / 8, 2 / 8, 5 / 8]]))


def test_motion_is_the_absolute_change_since_the_step_before():
    model = network(motion=True)
    x = torch.tensor([[[1.0, 0, 0, 0, 0], [3, 0, 0, 0, -1], [3, 2, 0, 0, -1]]])
    expected = torch.tensor([[0.0, 0, 0, 0, 0], [2, 0, 0, 0, 1], [0, 2, 0, 0, 0]])
    torch.testing.assert_close(model._inputs(x, x[:, :1])[0], torch.cat([x[0], expected], dim=1))
    assert model.feature_mean.shape == (2 * D,)
