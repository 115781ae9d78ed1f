"""The recurrent classifier: one network for both tasks, class scores at every timestep.

Axes: B videos, T timesteps, D feature size, H hidden size, K classes.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

State = tuple[Tensor, ...]  # h, or h and c; then, with `motion`, the features of the last step

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class RecurrentClassifier(nn.Module):
    r"""Standardise, recur, classify: (B, T, D) features to (B, T, K) logits.

    The cells, with x_t the input, h_t the hidden state, \\sigma the logistic function and * the elementwise product:

    - ``rnn`` (Elman 1990): h_t = tanh(W_x x_t + b_x + W_h h_{t-1} + b_h)
    - ``lstm`` (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000):
      i, f, o = \\sigma(W x_t + b + U h_{t-1} + c) each, g = tanh(of the same form),
      c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t)
    - ``gru`` (Cho et al. 2014, reset gate applied after the matrix product, as in cuDNN):
      r, z = \\sigma(W x_t + b + U h_{t-1} + c) each, n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c_n)),
      h_t = (1 - z) * n + z * h_{t-1}

    Dropout stands where LRCN has it: on the input features and after the recurrent layers (Donahue et al. 2015).

    With `motion` the input of a step is x_t beside |x_t - x_{t-1}|, how much each feature changed since the step
    before (0 at the first). A frozen CNN was trained on photographs and does not encode motion; a few hundred videos
    do not teach the recurrent weights to take differences of its features, so they are handed over.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        feature_size: int,
        num_classes: int,
        *,
        cell: str,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        input_dropout: float,
        dropout: float,
        motion: bool = False,
    ) -> None:
        super().__init__()
        self.cell_name = cell
        self.bidirectional = bidirectional
        self.motion = motion
        input_size = feature_size * (2 if motion else 1)
        self.register_buffer("feature_mean", torch.zeros(input_size))
        self.register_buffer("feature_std", torch.ones(input_size))
        self.input_dropout = nn.Dropout(input_dropout)
        self.recurrent = CELLS[cell](
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.output_dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size * (2 if bidirectional else 1), num_classes)

    def standardise_by(self, videos: Iterable[Tensor]) -> None:
        """Take mean and deviation of each input from the training split's videos, (T, D) each.

        An input that hardly varies keeps a floor under its deviation, so that it is not blown up to unit size.
        """
        steps = torch.cat([self._inputs(video[None], video[None, :1])[0] for video in videos])
        std, mean = torch.std_mean(steps.double(), dim=0)
        std = std.nan_to_num(0.0)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std.clamp_min(float(0.01 * std.mean() + 1e-6)))

    def forward(
        self, features: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Logits of every timestep, and the state after the last valid one.

        Args:
            features: (B, T, D) float.
            lengths: (B,) valid timesteps of each video; None = all T. Padding never changes a result.
            state: what an earlier call returned, to go on where it stopped (one direction only).

        Returns:
            logits (B, T, K), without meaning beyond a video's length; and the state.

        Raises:
            ValueError: a state is handed to a bidirectional network, which cannot stream.
        """
        if state is not None and self.bidirectional:
            raise ValueError("a bidirectional network reads the whole video at once; it cannot carry a state on")
        num_steps = features.shape[1]
        carried, before = (state, features[:, :1]) if not (self.motion and state) else (state[:-1], state[-1])
        inputs = (self._inputs(features, before) - self.feature_mean) / self.feature_std
        inputs = self.input_dropout(inputs)
        start = carried if carried is None or self.cell_name == "lstm" else carried[0]
        if lengths is None or bool((lengths == num_steps).all()):
            hidden, end = self.recurrent(inputs, start)
            before = features[:, -1:]
        else:
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            packed_hidden, end = self.recurrent(packed, start)
            hidden, _ = pad_packed_sequence(packed_hidden, batch_first=True, total_length=num_steps)
            before = features[torch.arange(len(lengths)), lengths.to(features.device) - 1][:, None]
        logits: Tensor = self.classifier(self.output_dropout(hidden))
        state = tuple(end) if self.cell_name == "lstm" else (end,)
        return logits, (*state, before) if self.motion else state

    def _inputs(self, features: Tensor, before: Tensor) -> Tensor:
        """What a step is told, (B, T, D or 2 D), from features (B, T, D) and those of the step before, (B, 1, D)."""
        if not self.motion:
            return features
        previous = torch.cat([before, features[:, :-1]], dim=1)
        return torch.cat([features, (features - previous).abs()], dim=-1)


def valid_steps(lengths: Tensor, num_steps: int) -> Tensor:
    """Mask (B, T) bool, True at real timesteps."""
    return torch.arange(num_steps, device=lengths.device)[None, :] < lengths[:, None]


def clip_probabilities(logits: Tensor, lengths: Tensor, head: Literal["mean", "last"]) -> Tensor:
    """One distribution per clip, (B, K), from the scores of its timesteps.

    ``mean`` averages the per-step class probabilities (LRCN: Donahue et al. 2015, section 4.1); ``last`` takes the last
    valid step, the only one that has seen everything.

    Args:
        logits: (B, T, K).
        lengths: (B,) valid timesteps.
        head: how timesteps become one answer.
    """
    probabilities = logits.softmax(dim=-1)
    if head == "last":
        return probabilities[torch.arange(len(lengths), device=logits.device), lengths.to(logits.device) - 1]
    mask = valid_steps(lengths.to(logits.device), logits.shape[1])[..., None]
    return (probabilities * mask).sum(dim=1) / mask.sum(dim=1)
