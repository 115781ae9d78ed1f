import numpy as np
import pytest
import torch

from pipeline.models.recurrent import RecurrentClassifier, clip_probabilities

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


def by_hand(model: RecurrentClassifier, x: np.ndarray) -> np.ndarray:
    """The equations of the docstring for one video (T, D), written out."""
    rnn = model.recurrent
    w, u = (p.detach().double().numpy() for p in (rnn.weight_ih_l0, rnn.weight_hh_l0))
    b, c = (p.detach().double().numpy() for p in (rnn.bias_ih_l0, rnn.bias_hh_l0))
    h, cell, out = np.zeros(H), np.zeros(H), []
    for x_t in x:
        a, r = w @ x_t + b, u @ h + c
        if model.cell_name == "rnn":
            h = np.tanh(a + r)
        elif model.cell_name == "lstm":
            i, f, g, o = np.split(a + r, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(cell)
        else:
            (ar, az, an), (rr, rz, rn) = np.split(a, 3), np.split(r, 3)
            reset, update = sigmoid(ar + rr), sigmoid(az + rz)
            h = (1 - update) * np.tanh(an + reset * rn) + update * h
        out.append(h)
    weight, bias = (p.detach().double().numpy() for p in (model.classifier.weight, model.classifier.bias))
    return np.array(out) @ weight.T + bias


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_cells_follow_their_equations(cell, features):
    model = network(cell)
    logits, _ = model(features)
    for video in range(B):
        expected = by_hand(model, features[video].double().numpy())
        np.testing.assert_allclose(logits[video].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"motion": True}])
def test_whole_chunked_and_frame_by_frame_are_equal(cell, options, features):
    model = network(cell, **options)
    whole, _ = model(features)
    for size in (1, 3):
        state, parts = None, []
        for start in range(0, T, size):
            logits, state = model(features[:, start : start + size], state=state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


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


def test_clip_heads_by_hand():
    logits = torch.log(torch.tensor([[[0.9, 0.1], [0.5, 0.5], [0.001, 0.999]], [[0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]]))
    lengths = torch.tensor([2, 3])
    mean = clip_probabilities(logits, lengths, "mean")
    torch.testing.assert_close(mean, torch.tensor([[0.7, 0.3], [1.1 / 3, 1.9 / 3]]))
    last = clip_probabilities(logits, lengths, "last")
    torch.testing.assert_close(last, torch.tensor([[0.5, 0.5], [0.3, 0.7]]))


def test_motion_is_the_absolute_change_since_the_step_before():
    model = network(motion=True)
    x = torch.tensor([[[1.0, 0, 0, 0, 0], [3, 0, 0, 0, -1], [3, 2, 0, 0, -1]]])
    expected = torch.tensor([[0.0, 0, 0, 0, 0], [2, 0, 0, 0, 1], [0, 2, 0, 0, 0]])
    torch.testing.assert_close(model._inputs(x, x[:, :1])[0], torch.cat([x[0], expected], dim=1))
    assert model.feature_mean.shape == (2 * D,)
