"""A recurrent network as ONNX graphs: whole sequences, and step by step with the state handed in and out.

Written operator by operator, LSTM, GRU and RNN being operators of ONNX (opset 18): batch and time stay free whatever
the version of PyTorch, which its exporters do not promise for recurrent layers. Axes as in `recurrent.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.calibration import Calibration
from pipeline.models.recurrent import RecurrentClassifier

OPSET = 18
IR_VERSION = 9  # what ONNX Runtime has read since 1.15
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # ONNX has them i, o, f, c and z, r, h
DTYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64}


def sequence_graph(network: RecurrentClassifier, task: str, calibration: Calibration) -> onnx.ModelProto:
    """Whole sequences: `features` (B, T, D) float32, `lengths` (B,) int64 of 1 to T -> `probabilities`, `uncalibrated`.

    float32, (B, K) for the clip task: each sequence is one clip; (B, T, K) for the frame task, 0 beyond a length. A
    mean over clips or crops is one of `uncalibrated`, and is calibrated then, as Model does.
    """
    g = _Graph()
    features, lengths = (
        g.input("features", "float32", ["B", "T", network.feature_size]),
        g.input("lengths", "int64", ["B"]),
    )
    hidden, _ = _recur(g, network, features, g.slice(features, 1, 0, 1), g.op("Cast", lengths, to=TensorProto.INT32))
    logits = g.linear(hidden, network.classifier)
    numbers = g.op("Unsqueeze", g.counts(features), g.ints(0))  # (1, T): 1 to T
    lengths = g.op("Unsqueeze", lengths, g.ints(1))  # (B, 1)
    mask = g.op("LessOrEqual", numbers, lengths)
    if task == "frame":
        probabilities = g.op("Softmax", logits, axis=-1)
        valid = g.op("Unsqueeze", g.float32(mask), g.ints(2))
        answers = [g.op("Mul", part, valid) for part in (g.calibrated(probabilities, calibration), probabilities)]
        return g.model("sequence", answers, ["B", "T", network.classifier.out_features])
    weights = g.op("Unsqueeze", _weights(g, network, hidden, numbers, lengths, mask), g.ints(2))
    if network.head == "attention":
        total = g.op("ReduceSum", g.op("Mul", logits, weights), g.ints(1), keepdims=0)
        probabilities = g.op("Softmax", total, axis=-1)
    else:
        weighted = g.op("Mul", g.op("Softmax", logits, axis=-1), weights)
        probabilities = g.op("ReduceSum", weighted, g.ints(1), keepdims=0)
    answers = [g.calibrated(probabilities, calibration), probabilities]
    return g.model("sequence", answers, ["B", network.classifier.out_features])


def step_graph(network: RecurrentClassifier, task: str, calibration: Calibration) -> onnx.ModelProto:
    """A stream: the next timesteps' `features` (B, T, D) and the state -> `probabilities` (B, T, K), and `next_` state.

    Before a stream's first timestep every state is 0. The state: `num_steps` (B,) int64 so far; `h`, and `c` of an
    LSTM, (layers, B, H) float32; `before` (B, 1, D) float32, the last features (with `motion`); `total` (B, K) float64,
    the sum behind a clip model's running mean. Probabilities as `Stream.push` gives them.

    Raises ModelError for a network that cannot follow a stream.
    """
    network.require_stream(task)
    g = _Graph()
    size, num_classes = network.feature_size, network.classifier.out_features
    features, num_steps = g.input("features", "float32", ["B", "T", size]), g.input("num_steps", "int64", ["B"])
    layers: list[int | str] = [network.recurrent.num_layers, "B", network.recurrent.hidden_size]
    carried = [g.input(name, "float32", layers) for name in ("h", "c")[: 2 if network.cell_name == "lstm" else 1]]
    before = ""
    if network.motion:
        began = g.op("Greater", g.op("Reshape", num_steps, g.ints(-1, 1, 1)), g.ints(0))
        before = g.op("Where", began, g.input("before", "float32", ["B", 1, size]), g.slice(features, 1, 0, 1))
        g.output("next_before", g.slice(features, 1, -1, 2**31), "float32", ["B", 1, size])
    hidden, ends = _recur(g, network, features, before, "", carried)
    for name, end in zip(("next_h", "next_c"), ends, strict=False):
        g.output(name, end, "float32", layers)
    probabilities = g.op("Softmax", g.linear(hidden, network.classifier), axis=-1)
    steps = g.size(features, 1)
    g.output("next_num_steps", g.op("Add", num_steps, steps), "int64", ["B"])
    if task == "clip" and network.head != "last":
        # (B, T): the number of each timestep in its stream. In float64, as the sum has no end.
        numbers = g.op("Add", g.op("Unsqueeze", num_steps, g.ints(1)), g.op("Unsqueeze", g.counts(features), g.ints(0)))
        number = g.op("Unsqueeze", g.op("Cast", numbers, to=TensorProto.DOUBLE), g.ints(2))
        exact, sums = g.op("Cast", probabilities, to=TensorProto.DOUBLE), number
        if network.head == "ramp":
            exact = g.op("Mul", exact, number)
            one, half = g.constant(np.float64(1)), g.constant(np.float64(0.5))
            sums = g.op("Mul", g.op("Mul", number, g.op("Add", number, one)), half)
        start = g.op("Unsqueeze", g.input("total", "float64", ["B", num_classes]), g.ints(1))
        totals = g.op("Add", g.op("CumSum", exact, g.constant(np.int64(1))), start)
        last = g.op("Squeeze", g.slice(totals, 1, -1, 2**31), g.ints(1))
        g.output("next_total", last, "float64", ["B", num_classes])
        probabilities = g.float32(g.op("Div", totals, sums))
    return g.model("step", [g.calibrated(probabilities, calibration)], ["B", "T", num_classes])


def forms(values: Sequence[onnx.ValueInfoProto]) -> dict[str, dict[str, Any]]:
    """Dtype and shape of a graph's inputs or outputs, by name."""
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
        found[value.name] = {"dtype": str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), "shape": shape}
    return found


def _recur(
    g: "_Graph", network: RecurrentClassifier, features: str, before: str, lengths: str, carried: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Hidden states (B, T, H) and the states at the end, (layers, B, H) each."""
    inputs = features
    if network.motion:
        previous = g.op("Concat", before, g.slice(features, 1, 0, -1), axis=1)
        inputs = g.op("Concat", features, g.op("Abs", g.op("Sub", features, previous)), axis=-1)
    mean, std = (g.constant(part.cpu().numpy()) for part in (network.feature_mean, network.feature_std))
    inputs = g.op("Div", g.op("Sub", inputs, mean), std)
    layer_input = g.op("Transpose", inputs, perm=[1, 0, 2])
    rnn, cell = network.recurrent, network.cell_name
    suffixes = ("", "_reverse") if network.bidirectional else ("",)
    options: dict[str, Any] = {
        "hidden_size": rnn.hidden_size,
        "direction": "bidirectional" if network.bidirectional else "forward",
    } | ({"linear_before_reset": 1} if cell == "gru" else {})
    ends: list[list[str]] = []
    for layer in range(rnn.num_layers):
        parts = {
            kind: [_gates(getattr(rnn, f"{kind}_l{layer}{suffix}").detach().cpu().numpy(), cell) for suffix in suffixes]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        biases = np.concatenate([np.stack(parts["bias_ih"]), np.stack(parts["bias_hh"])], axis=1)
        weights = [g.constant(array) for array in (np.stack(parts["weight_ih"]), np.stack(parts["weight_hh"]), biases)]
        starts = [g.slice(state, 0, layer, layer + 1) for state in carried]
        # Y of (T, directions, B, H), then the states at the end.
        found = g.ops(OPERATORS[cell], [layer_input, *weights, lengths, *starts], 3 if cell == "lstm" else 2, **options)
        joined = g.op("Transpose", found[0], perm=[0, 2, 1, 3])
        layer_input = g.op("Reshape", joined, g.ints(0, 0, rnn.hidden_size * len(suffixes)))
        ends.append(found[1:])
    states = [g.op("Concat", *state, axis=0) for state in zip(*ends, strict=True)]
    return g.op("Transpose", layer_input, perm=[1, 0, 2]), states


def _gates(array: np.ndarray, cell: str) -> np.ndarray:
    """A weight or bias with its gates in ONNX's order."""
    parts = np.split(array, len(GATES[cell]))
    return np.concatenate([parts[gate] for gate in GATES[cell]])


def _weights(g: "_Graph", network: RecurrentClassifier, hidden: str, numbers: str, lengths: str, mask: str) -> str:
    """Weight of each timestep in its clip's answer, (B, T) float32; see step_weights."""
    if network.head == "attention":
        first, _, second = network.attention
        inner = g.op("Tanh", g.linear(hidden, first))
        energies = g.op("Squeeze", g.linear(inner, second), g.ints(2))
        return g.op("Softmax", g.op("Where", mask, energies, g.constant(np.float32(-np.inf))), axis=-1)
    if network.head == "last":
        return g.float32(g.op("Equal", numbers, lengths))
    weights = g.float32(mask)
    if network.head == "ramp":
        weights = g.op("Mul", weights, g.float32(numbers))
    return g.op("Div", weights, g.op("ReduceSum", weights, g.ints(1), keepdims=1))


class _Graph:
    """Nodes as they are added; every method returns the name of its result."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], list(shape)))
        return name

    def output(self, name: str, source: str, dtype: str, shape: Sequence[int | str]) -> None:
        self._nodes.append(helper.make_node("Identity", [source], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], list(shape)))

    def ops(self, kind: str, inputs: Sequence[str], num_outputs: int, **options: Any) -> list[str]:
        outputs = [f"{kind.lower()}_{len(self._nodes)}_{number}" for number in range(num_outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, **options))
        return outputs

    def op(self, kind: str, *inputs: str, **options: Any) -> str:
        return self.ops(kind, inputs, 1, **options)[0]

    def constant(self, value: "np.ndarray | np.generic") -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def float32(self, value: str) -> str:
        return self.op("Cast", value, to=TensorProto.FLOAT)

    def slice(self, value: str, axis: int, start: int, end: int) -> str:
        return self.op("Slice", value, self.ints(start), self.ints(end), self.ints(axis))

    def size(self, value: str, axis: int) -> str:
        """Size of an axis, a number without axes."""
        return self.op("Gather", self.op("Shape", value), self.constant(np.int64(axis)))

    def counts(self, features: str) -> str:
        """1 to T, (T,) int64."""
        one = self.constant(np.int64(1))
        return self.op("Range", one, self.op("Add", self.size(features, 1), one), one)

    def linear(self, value: str, layer: Any) -> str:
        found = self.op("MatMul", value, self.constant(layer.weight.detach().cpu().numpy().T))
        return found if layer.bias is None else self.op("Add", found, self.constant(layer.bias.detach().cpu().numpy()))

    def calibrated(self, probabilities: str, calibration: Calibration) -> str:
        """See Calibration.apply."""
        if calibration.temperature == 1:
            return probabilities
        largest = self.op("ReduceMax", probabilities, self.ints(-1), keepdims=1)
        exponent = self.constant(np.float32(1 / calibration.temperature))
        powers = self.op("Pow", self.op("Div", probabilities, largest), exponent)
        return self.op("Div", powers, self.op("ReduceSum", powers, self.ints(-1), keepdims=1))

    def model(self, name: str, answers: Sequence[str], shape: Sequence[int | str]) -> onnx.ModelProto:
        """The graph, its answers named `probabilities` and, where there are two, `uncalibrated`."""
        states, self._outputs = self._outputs, []
        for label, answer in zip(("probabilities", "uncalibrated"), answers, strict=False):
            self.output(label, answer, "float32", shape)
        graph = helper.make_graph(self._nodes, name, self._inputs, [*self._outputs, *states], self._constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="lrcn-pipeline"
        )
        onnx.checker.check_model(model, full_check=True)
        return model
