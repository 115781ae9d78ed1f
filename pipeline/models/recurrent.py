"""The recurrent classifier: one network for both tasks, class scores at every timestep.

Axes: B videos, T timesteps, D feature size, H hidden size, K classes.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pipeline.errors import ModelError

Head = Literal["mean", "last", "ramp", "attention"]
HEADS: tuple[Head, ...] = get_args(Head)
State = tuple[Tensor, ...]  # h, or h and c; then, with `motion`, the features of the last step

BLOCK_STEPS = 4096  # timesteps read at a time where nothing asks for more
CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Steps(NamedTuple):
    """What a network says of whole clips: logits (B, T, K) of each step, weights (B, T) of the steps in the clip's
    answer (they add up to 1 over a clip's valid steps and are 0 beyond), and the state at the end.
    """

    logits: Tensor
    weights: Tensor
    state: State


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

    A clip's answer is a weighted mean over its valid steps t = 1 .. L, by `head`:

    - ``mean``: of the class probabilities, equal weights (LRCN: Donahue et al. 2015, section 4.1)
    - ``last``: the probabilities of step L alone, the only one that has seen everything
    - ``ramp``: of the class probabilities, weights 2 t / (L (L + 1)) (Ng et al. 2015, "Beyond Short Snippets")
    - ``attention``: of the logits, weights a = softmax over t of v . tanh(W h_t + b) (Raffel & Ellis 2015; the
      classifier being linear, that is the classifier of the context vector sum_t a_t h_t)

    Dropout stands where LRCN has it: on the input features and after the recurrent layers (Donahue et al. 2015).

    With `memory_steps` T the gates of LSTM and GRU begin such that the state of a unit lasts 1 to T - 1 steps: biases
    of the forget gate (GRU: update gate) of log u, u drawn from 1 .. T - 1, and of the input gate of -log u (Tallec &
    Ollivier 2018, eq. 16). PyTorch's own weights halve a state at each step.

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
        head: Head = "mean",
        memory_steps: int = 0,
    ) -> None:
        super().__init__()
        self.cell_name = cell
        self.feature_size = feature_size
        self.head = head
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
        output_size = hidden_size * (2 if bidirectional else 1)
        self.classifier = nn.Linear(output_size, num_classes)
        if head == "attention":
            self.attention = nn.Sequential(
                nn.Linear(output_size, output_size), nn.Tanh(), nn.Linear(output_size, 1, bias=False)
            )
        if memory_steps:
            self._remember(memory_steps)

    def _remember(self, num_steps: int) -> None:
        size = self.recurrent.hidden_size
        for name, bias in self.recurrent.named_parameters():
            if self.cell_name == "rnn" or not name.startswith("bias"):
                continue
            lasting = torch.log(torch.rand(size) * max(num_steps - 2, 0) + 1)
            # Of the two biases that are added up one has all; the gates lie i, f, g, o and r, z, n.
            share = lasting if name.startswith("bias_ih") else torch.zeros(size)
            with torch.no_grad():
                bias[size : 2 * size] = share
                if self.cell_name == "lstm":
                    bias[:size] = -share

    def standardise_by(self, videos: Iterable[Tensor]) -> None:
        """Take mean and deviation of each input from the training split's videos, (T, D) each, on any device.

        An input that hardly varies keeps a floor under its deviation, so that it is not blown up to unit size.
        """
        count, mean, squares = 0, torch.zeros_like(self.feature_mean, dtype=torch.float64), torch.zeros(())
        blocks = (
            self._inputs(video[None, at : at + BLOCK_STEPS].float(), video[None, max(at - 1, 0)][:, None].float())[0]
            for video in videos
            for at in range(0, len(video), BLOCK_STEPS)
        )
        for block in blocks:
            steps = block.to(mean.device).double()
            # Merging counts, means and squared deviations (Chan, Golub & LeVeque 1983): one block in memory at a time.
            own_squares, own_mean = torch.var_mean(steps, dim=0, correction=0)
            difference, total = own_mean - mean, count + len(steps)
            squares = squares + own_squares * len(steps) + difference**2 * (count * len(steps) / total)
            mean, count = mean + difference * (len(steps) / total), total
        std = (squares / max(count - 1, 1)).sqrt()
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
        hidden, state = self._recur(features, lengths, state)
        return self.classifier(self.output_dropout(hidden)), state

    def steps(self, features: Tensor, lengths: Tensor, state: State | None = None) -> Steps:
        """Logits, and what each step counts in its clip's answer; arguments as in `forward`."""
        hidden, state = self._recur(features, lengths, state)
        energies = self.attention(hidden)[..., 0] if self.head == "attention" else None
        weights = step_weights(self.head, lengths.to(hidden.device), hidden.shape[1], energies)
        return Steps(self.classifier(self.output_dropout(hidden)), weights, state)

    def read(self, features: Tensor) -> Tensor:
        """Logits (B, T, K) of videos of one length; a causal network reads them block by block, in bounded memory."""
        if self.bidirectional:
            return self.forward(features)[0]
        parts, state = [], None
        for block in torch.split(features, BLOCK_STEPS, dim=1):
            logits, state = self.forward(block, state=state)
            parts.append(logits)
        return torch.cat(parts, dim=1)

    def clip_probabilities(self, steps: Steps) -> Tensor:
        """Class probabilities of each clip, (B, K)."""
        weights = steps.weights[..., None]
        logits = steps.logits.float()
        if self.head == "attention":
            return (logits * weights).sum(dim=1).softmax(dim=-1)
        return (logits.softmax(dim=-1) * weights).sum(dim=1)

    def require_stream(self, task: str) -> None:
        """Raise ModelError when the network needs the end of a video to answer for its beginning."""
        if self.bidirectional:
            raise ModelError(
                "a bidirectional network reads a video from its end too and cannot follow a stream; "
                "train one with bidirectional: false"
            )
        if task == "clip" and self.head == "attention":
            raise ModelError(
                "attention compares all timesteps of a clip and cannot follow a stream; "
                f"train with one of the heads {', '.join(head for head in HEADS if head != 'attention')}"
            )

    def _recur(self, features: Tensor, lengths: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """Hidden states (B, T, H) and the state after the last valid step."""
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
        state = tuple(end) if self.cell_name == "lstm" else (end,)
        return hidden, (*state, before) if self.motion else state

    def _inputs(self, features: Tensor, before: Tensor) -> Tensor:
        """What a step is told, (B, T, D or 2 D), from features (B, T, D) and those of the step before, (B, 1, D)."""
        if not self.motion:
            return features
        previous = torch.cat([before, features[:, :-1]], dim=1)
        return torch.cat([features, (features - previous).abs()], dim=-1)


class Lanes:
    """The states of recordings that are read side by side, chunk by chunk, each in a lane of its own.

    hidden parts of a state have the lane on axis 1, `(layers, lanes, H)`; the features of the last step (`motion`) on
    axis 0.
    """

    def __init__(self, network: RecurrentClassifier, num_lanes: int) -> None:
        self._num_hidden = 2 if network.cell_name == "lstm" else 1
        self._num_lanes = num_lanes
        self._state: State | None = None

    def take(self, lanes: Tensor, begins: Tensor, features: Tensor) -> State | None:
        """The state to go on with; zeros where a recording begins.

        lanes: (B,) int64. begins: (B,) bool, where a recording begins. features: (B, T, D), the lanes' next chunk.
        """
        if self._state is None or bool(begins.all()):
            return None
        device = features.device
        lanes, begins = lanes.to(device), begins.to(device)
        hidden = [part[:, lanes].masked_fill(begins[None, :, None], 0.0) for part in self._state[: self._num_hidden]]
        before = [part[lanes] for part in self._state[self._num_hidden :]]
        return *hidden, *(torch.where(begins[:, None, None], features[:, :1], part) for part in before)

    def put(self, lanes: Tensor, state: State) -> None:
        """Keep the state behind a chunk, cut off from the graph: back-propagation ends at the chunk's first step."""
        if self._state is None:
            self._state = tuple(
                part.new_zeros(self._size(part.shape, 1 if number < self._num_hidden else 0))
                for number, part in enumerate(state)
            )
        for number, part in enumerate(state):
            axis = 1 if number < self._num_hidden else 0
            self._state[number].index_copy_(axis, lanes.to(part.device), part.detach())

    def _size(self, shape: torch.Size, axis: int) -> list[int]:
        return [self._num_lanes if number == axis else size for number, size in enumerate(shape)]


def valid_steps(lengths: Tensor, num_steps: int) -> Tensor:
    """Mask (B, T) bool, True at real timesteps."""
    return torch.arange(num_steps, device=lengths.device)[None, :] < lengths[:, None]


def step_weights(head: Head, lengths: Tensor, num_steps: int, energies: Tensor | None = None) -> Tensor:
    """Weight of each step in its clip's answer, (B, T) float32; see RecurrentClassifier.

    lengths: (B,) valid timesteps. energies: (B, T), v . tanh(W h_t + b); of the attention head alone.
    """
    mask = valid_steps(lengths, num_steps)
    if head == "attention":
        assert energies is not None
        return energies.float().masked_fill(~mask, -torch.inf).softmax(dim=-1)
    steps = torch.arange(1, num_steps + 1, device=lengths.device)[None, :]
    if head == "last":
        return (steps == lengths[:, None]).float()
    weights = (steps * mask).float() if head == "ramp" else mask.float()
    return weights / weights.sum(dim=-1, keepdim=True)
