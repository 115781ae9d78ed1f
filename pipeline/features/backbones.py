"""Backbones: torchvision's classifiers without their last layer or cut earlier, and where their weights come from."""

import contextlib
import difflib
import math
import re
import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import ConfigError, WeightsError
from pipeline.features.store import checksum, write_arrays
from pipeline.files import content_hash

NUM_CLASSES = 1000  # ImageNet: what torchvision's constructors build, and how the last layer is recognised
DOWNLOAD_TIMEOUT_SECONDS = 10.0  # of silence; torch.hub itself would wait for ever
VIT_SIZE = 224  # pixels: torchvision's default for vision transformers, whose weights fix the size of the frames
GIVEN = "given"  # in the place of a network's name: features that came ready-made
NO_PICTURES = "this model was trained on ready-made features and has no CNN to look at pictures with"
NO_MOTION = 128 / 255  # in every channel of a flow image (pipeline/video/flow.py)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

# Only used in training, and left out by the constructors when asked: classifiers in the middle of the network.
AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
# torchvision's densenet files hold names from before dots were forbidden in them: `norm.1` is now `norm1`.
OLD_DENSENET_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


class Backbone(nn.Module):
    """A CNN (or vision transformer) from frames to vectors: (B, 3, crop, crop) float32 in [0, 1] -> (B, D) float32.

    The vector is what enters the classifier's last linear layer when dropout is off; of a network that ends in a
    convolution (SqueezeNet) it is what enters that, averaged over the picture. With `layer` it is that layer's output,
    flattened. Frames are RGB and normalised inside, with the mean and deviation that torchvision gives for the network
    (ImageNet's, but for efficientnet_v2_l); flow images with their middle and the mean of those deviations.

    name: torchvision's name. feature_size: D. usual_crop: side in pixels of the frames torchvision's weights expect.
    layer: where the network is cut, "" = before its last linear layer. is_flow: made for flow images, not RGB.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        net: nn.Module,
        feature_size: int,
        mean: list[float],
        std: list[float],
        crop: int,
        *,
        layer: str = "",
        is_flow: bool = False,
    ):
        super().__init__()
        self.name = name
        self.net = net
        self.feature_size = feature_size
        self.usual_crop = crop
        self.layer = layer
        self.is_flow = is_flow
        if is_flow:
            mean, std = [NO_MOTION] * 3, [sum(std) / 3] * 3
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, crop, crop) float32 in [0, 1] -> (B, D)."""
        return cast(Tensor, self.net((frames - self.mean) / self.std))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over the layer, and the names, dtypes, shapes and bytes of all weights, wherever they lie in memory.

        So that features of another layer have another key.
        """
        return checksum(self.arrays(), self.layer)

    def check_crop(self, crop: int) -> None:
        """Try one black frame; raises ValueError when the network cannot take frames of this size.

        Also when it gives another number of features: that of a layer before the pooling grows with the frame.
        """
        device, training = self.mean.device, self.training
        self.eval()
        try:
            with torch.inference_mode():
                shape = tuple(self(torch.zeros(1, 3, crop, crop, device=device)).shape)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f"backbone {self.name} cannot take frames of {crop}x{crop} pixels ({_one_line(error)}); "
                f"set view.crop to the size it was made for, {self.usual_crop}, or take another backbone"
            ) from None
        finally:
            self.train(training)
        if shape != (1, self.feature_size):
            raise ValueError(
                f"backbone {self.name} gives {shape[1]} features of frames of {crop}x{crop} pixels at layer "
                f"{self.layer!r}, expected {self.feature_size}; use the crop it was made for, or run finetune again"
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name, on the CPU and contiguous."""
        return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in self.net.state_dict().items()}


class _Given(nn.Module):
    """No network: what takes a backbone's place before ready-made features. Its "weights" are what they are."""

    def __init__(self, feature_size: int, fps: float, feature_first: bool, label_column: str) -> None:
        super().__init__()
        self.register_buffer("feature_size", torch.tensor(feature_size))
        self.register_buffer("fps", torch.tensor(fps, dtype=torch.float64))
        self.register_buffer("feature_first", torch.tensor(feature_first))
        self.register_buffer("label_column", torch.tensor(list(label_column.encode()), dtype=torch.uint8))

    def forward(self, frames: Tensor) -> Tensor:
        raise WeightsError(NO_PICTURES)


def given_features(feature_size: int, fps: float, feature_first: bool, label_column: str = "") -> Backbone:
    """Stands for the maker of ready-made features: their number and rate, and how their files are to be read.

    feature_first: `.npy` files are (D, T). label_column: of CSV files, which is no feature; "" when there is none.
    """
    facts = _Given(feature_size, fps, feature_first, label_column)
    return Backbone(GIVEN, facts, feature_size, [0.0] * 3, [1.0] * 3, 0).eval()


def load_backbone(
    name: str, weights: str, seed: int, *, layer: str = "", crop: int = 0, is_flow: bool = False
) -> Backbone:
    """A backbone in evaluation mode on the CPU.

    name: any of torchvision's classification models. weights: `default` (torchvision's best, downloaded once and
    checked against the hash in the file's name), `random` (drawn from `seed`; the global random state is left alone),
    or the path of a state dict, `.pth` or `.safetensors`, with or without the layers that are cut off.
    layer: path of the module whose output is the feature, such as `classifier.1`; of one that is used several times,
    its first use; "" = what enters the last linear layer. crop: pixels of the frames, on which the number of features
    may depend then; 0 = what torchvision's weights expect.
    is_flow: for flow images; weights trained on photographs are adapted to them, see `adapt_to_flow`.

    Raises ConfigError for an unknown name or layer, and WeightsError for weights that are missing, damaged, not a state
    dict, or of another architecture. Code hidden in a file does not run: only tensors are read from it.
    """
    cut = _Cut(layer, crop, is_flow)
    if weights == "random":
        return _build(name, cut, seed=seed)[0]
    made_for_flow = False
    if weights == "default":
        state, source = _default_state(name)
    else:
        state, made_for_flow = _file_state(Path(weights), name)
        source = weights
    backbone = _with_weights(name, cut, state, source)
    if is_flow and not made_for_flow:
        adapt_to_flow(backbone.net)
    return backbone


def adapt_to_flow(net: nn.Module) -> None:
    """Average the first convolution's weights over the colours, and give each channel of a flow image that average.

    Wang et al. 2016 (Temporal Segment Networks, section 3.2, cross modality pre-training): what the network learned of
    shapes in photographs serves for the shapes of motion, but red has no more to do with x than with y.
    """
    first = next((layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3), None)
    if first is None:
        raise WeightsError("no convolution of three channels to adapt to flow; take another backbone")
    with torch.no_grad():
        first.weight.copy_(first.weight.mean(dim=1, keepdim=True).expand_as(first.weight))


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write a backbone as `.safetensors`, whole or not at all, with all that `read_backbone` needs to know."""
    metadata = {
        "name": backbone.name,
        "layer": backbone.layer,
        "feature_size": str(backbone.feature_size),
        "stream": "flow" if backbone.is_flow else "rgb",
        "weights_sha256": backbone.weights_sha256,
    }
    write_arrays(path, backbone.arrays(), metadata)


def backbone_file(backbone: Backbone) -> bytes:
    """What `save_backbone` would write."""
    with tempfile.TemporaryDirectory(prefix="lrcn-") as folder:
        path = Path(folder, "backbone.safetensors")
        save_backbone(backbone, path)
        return path.read_bytes()


class SavedBackbone(NamedTuple):
    """What the file of a backbone says of it, see Backbone. feature_size: D."""

    name: str
    feature_size: int
    weights_sha256: str


def describe_backbone(path: Path) -> SavedBackbone:
    """What a file that `save_backbone` wrote holds, without building the network, which takes seconds.

    Raises WeightsError when the file is missing, damaged or of another kind.
    """
    saved = _described(path)[0]
    if saved.feature_size == 0:
        raise _wrong_size(path, "no")
    return saved


def _described(path: Path) -> tuple[SavedBackbone, dict[str, Tensor], dict[str, str]]:
    state, metadata = _read_safetensors(path)
    if not {"name", "weights_sha256"} <= metadata.keys():
        raise WeightsError(
            f"{path}: not a saved backbone (no name and hash in its header); expected a file that the finetune stage "
            "wrote, or name the network and give this file as its weights"
        )
    size = metadata.get("feature_size", "0")
    if not size.isdecimal():
        raise _wrong_size(path, repr(size))
    return SavedBackbone(metadata["name"], int(size), metadata["weights_sha256"]), state, metadata


def _wrong_size(path: Path, found: str) -> WeightsError:
    return WeightsError(f"{path}: {found} features stated in its header, expected a number; run finetune again")


def read_backbone(path: Path) -> Backbone:
    """The backbone `save_backbone` wrote; raises WeightsError when the file is missing, damaged or of another kind."""
    saved, state, metadata = _described(path)
    if saved.name == GIVEN:
        fps, feature_first = (state[name].item() for name in ("fps", "feature_first"))
        column = bytes(state["label_column"].tolist()).decode()
        return given_features(saved.feature_size, float(fps), bool(feature_first), column)
    cut = _Cut(metadata.get("layer", ""), 0, metadata.get("stream") == "flow", saved.feature_size)
    try:
        return _with_weights(saved.name, cut, state, str(path))
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None


class _Cut(NamedTuple):
    """What a backbone is to be made for, see load_backbone. feature_size: 0 = found by a trial with `crop` pixels."""

    layer: str
    crop: int
    is_flow: bool
    feature_size: int = 0


def _build(name: str, cut: _Cut, *, seed: int = 0, image_size: int = VIT_SIZE) -> tuple[Backbone, tuple[str, ...]]:
    """A backbone with random weights, and how the names of the weights that it leaves out begin."""
    models = _models_with(name)
    options: dict[str, Any] = {}
    if name in AUXILIARY_HEADS:
        # transform_input: these weights were made for inputs in [-1, 1]; torchvision converts from ImageNet's scaling.
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs' generators too, and leave them so.
        torch.default_generator.manual_seed(seed)
        net = models.get_model(name, weights=None, **options)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    crop = image_size if name.startswith("vit_") else preset.crop_size[0]
    unused: tuple[str, ...]
    if cut.layer:
        names = list(net.state_dict())
        net = _cut_at(name, net.eval(), cut.layer)
        own = net.state_dict()
        unused = tuple(key for key in names if key not in own)
        feature_size = cut.feature_size or _feature_size(name, net, cut.layer, cut.crop or crop)
    else:
        feature_size, path = _cut_last_layer(name, net)
        unused = (f"{path}.",)
    backbone = Backbone(
        name, net, feature_size, preset.mean, preset.std, crop, layer=cut.layer, is_flow=cut.is_flow
    )  # fmt: skip
    return backbone.eval(), unused


def _cut_at(name: str, net: nn.Module, layer: str) -> nn.Module:
    """The network up to a layer, whose output is flattened; weights keep their names, those behind it go.

    Raises ConfigError when the network has no such layer.
    """
    from torchvision.models.feature_extraction import create_feature_extractor

    paths = [path for path, _ in net.named_modules() if path]
    if layer not in paths:
        near = difflib.get_close_matches(layer, paths, n=3, cutoff=0.5)
        candidates = near or [path for path, _ in net.named_children()]
        raise ConfigError(
            f"backbone {name} has no layer {layer!r}; expected one of its {len(paths)} modules, "
            f"{'perhaps' if near else 'such as'} {', '.join(candidates)}"
        )
    try:
        cut = create_feature_extractor(net, {layer: "feature"}, suppress_diff_warning=True)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"backbone {name} cannot be cut at layer {layer!r} ({_one_line(error)}); take the layer before or after it"
        ) from None
    # It would return a dictionary. Not by a module around it: the weights keep their names.
    for graph in (cut.train_graph, cut.eval_graph):
        output = next(node for node in graph.nodes if node.op == "output")
        with graph.inserting_before(output):
            output.args = (graph.call_method("flatten", (output.args[0]["feature"], 1)),)
    cut.recompile()
    return cast(nn.Module, cut)


def _feature_size(name: str, net: nn.Module, layer: str, crop: int) -> int:
    """Features of one frame of `crop` pixels; raises ConfigError when the layer gives no array."""
    try:
        with torch.inference_mode():
            return int(net(torch.zeros(1, 3, crop, crop)).shape[1])
    except (RuntimeError, AssertionError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"backbone {name} gives no features of frames of {crop}x{crop} pixels at layer {layer!r} "
            f"({_one_line(error)}); take another layer or view.crop"
        ) from None


def _cut_last_layer(name: str, net: nn.Module) -> tuple[int, str]:
    """Take out the layer that gives the class scores; returns the number of features that entered it, and its path."""
    for path, layer in reversed(list(net.named_modules())):
        if isinstance(layer, nn.Linear) and layer.out_features == NUM_CLASSES:
            net.set_submodule(path, nn.Identity())
            return layer.in_features, path
        if isinstance(layer, nn.Conv2d) and layer.out_channels == NUM_CLASSES:
            # Around a last convolution stand dropout, ReLU and pooling: without it, only the pooling makes sense.
            net.set_submodule(path.rpartition(".")[0], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
            return layer.in_channels, path
    raise WeightsError(f"backbone {name}: no last layer with {NUM_CLASSES} outputs found; take another backbone")


def _with_weights(name: str, cut: _Cut, state: Mapping[str, Tensor], source: str) -> Backbone:
    """A backbone filled from a state dict; raises WeightsError naming the first weights that do not fit."""
    state = {OLD_DENSENET_NAME.sub(r"\1\2", key): value for key, value in state.items()}
    backbone, left_out = _build(name, cut, image_size=_vit_size(state))
    own = backbone.net.state_dict()
    unused = (*left_out, *AUXILIARY_HEADS.get(name, ()))
    # num_batches_tracked: counters that old files do not hold, and that no feature depends on.
    lacking = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    besides = [key for key in state if key not in own and not key.startswith(unused)]
    shared = [key for key in own if key in state]
    unequal = [
        f"{key} {_form(state[key])} for {_form(own[key])}" for key in shared if _form(state[key]) != _form(own[key])
    ]
    problems = [
        f"{what} {', '.join(keys[:3])}" + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        for what, keys in (("lacking:", lacking), ("not in the network:", besides), ("other shapes:", unequal))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{source}: weights of another architecture than {name} ({'; '.join(problems)}); "
            f"expected a state dict of torchvision's {name}"
        )
    for key in shared:
        if not torch.isfinite(state[key]).all():
            raise WeightsError(
                f"{source}: damaged weights ({key} holds values that are not finite); get the file again"
            )
        # One by one: load_state_dict demands version notes (of mnasnet) that a safetensors file cannot hold.
        own[key].copy_(state[key])
    return backbone


def _form(tensor: Tensor) -> str:
    """Shape and kind of number, for comparison and for messages: `float (64, 3, 7, 7)`."""
    kind = "float" if tensor.dtype.is_floating_point else "integer" if tensor.dtype in INTEGERS else str(tensor.dtype)
    return f"{kind} {tuple(tensor.shape)}"


def _vit_size(state: Mapping[str, Tensor]) -> int:
    """Side in pixels of the frames that a vision transformer's weights fix; torchvision's default for all others."""
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if positions is None or patches is None or positions.ndim != 3 or patches.ndim != 4:
        return VIT_SIZE
    return math.isqrt(positions.shape[1] - 1) * patches.shape[-1]  # one position is the class token's


def _default_state(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Torchvision's default weights and their file, from torch's cache or downloaded into it."""
    weights = _models_with(name).get_model_weights(name).DEFAULT
    file_name = Path(urllib.parse.urlparse(weights.url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    found = re.search(r"-([a-f0-9]+)\.", file_name)  # torch.hub.HASH_REGEX: the convention that check_hash relies on
    prefix = found.group(1) if found else ""
    if path.exists() and not content_hash(path).startswith(prefix):
        # torch trusts whatever lies there: a file already in its cache is never hashed again.
        raise WeightsError(
            f"{path}: SHA-256 is {content_hash(path)}, expected one that begins with {prefix} as its name says; "
            "delete the file and run again, it is downloaded anew"
        )
    try:
        # torch.hub reports on standard output, which belongs to results.
        with _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS), contextlib.redirect_stdout(sys.stderr):
            state = weights.get_state_dict(
                map_location="cpu", weights_only=True, check_hash=True, progress=sys.stderr.isatty()
            )
    except Exception as error:  # noqa: BLE001 - network, disk and damaged bytes fail in a dozen ways, all reported here
        if path.exists():
            raise _unreadable(path, error) from None
        raise WeightsError(
            f"backbone {name}: cannot download {weights.url} ({_one_line(error)}); put {file_name} "
            f"(SHA-256 begins with {prefix}) at {path}, or give the path of a weights file as backbone.weights"
        ) from None
    return _checked_state(state, path), str(path)


def _file_state(path: Path, name: str) -> tuple[Mapping[str, Tensor], bool]:
    """A state dict from a file the user names, and whether it was made for flow; raises WeightsError."""
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
        if metadata.get("name", name) != name:
            raise WeightsError(
                f"{path}: weights of backbone {metadata['name']}, expected {name}; change one of the two"
            )
        return state, metadata.get("stream") == "flow"
    try:
        return _checked_state(torch.load(path, map_location="cpu", weights_only=True), path), False
    except FileNotFoundError:
        raise _missing(path) from None
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged bytes make torch.load raise almost anything
        raise _unreadable(path, error) from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; raises WeightsError when the file is missing or does not fit the hash it states."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    expected = metadata.get("weights_sha256")
    if expected is not None and _state_checksum(state, metadata) != expected:
        raise _unreadable(path, "the weights do not fit the hash stored with them")
    return state, metadata


def _state_checksum(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """As Backbone.weights_sha256."""
    return checksum({name: tensor.numpy() for name, tensor in state.items()}, metadata.get("layer", ""))


def _checked_state(value: object, path: Path) -> Mapping[str, Tensor]:
    """The value when it is a state dict; raises WeightsError."""
    if not isinstance(value, dict) or not value:
        raise WeightsError(f"{path}: holds a {type(value).__name__}, expected a state dict (names to tensors)")
    wrong = next((key for key, item in value.items() if not (isinstance(key, str) and isinstance(item, Tensor))), None)
    if wrong is not None:
        raise WeightsError(
            f"{path}: not a state dict ({wrong!r} is a {type(value[wrong]).__name__}, expected names to tensors); "
            "save model.state_dict() alone"
        )
    return value


def _missing(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: no such weights file; expected `default`, `random`, or the path of a .pth or .safetensors state dict"
    )


def _unreadable(path: Path, reason: object) -> WeightsError:
    return WeightsError(
        f"{path}: damaged weights, or no state dict ({_one_line(reason)}); expected tensors by name, "
        "which load without running code; get the file again"
    )


def _one_line(reason: object) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


def _models_with(name: str) -> ModuleType:
    """torchvision.models; raises ConfigError when it knows no classifier of that name.

    Imported here, since torchvision takes a second to import and fails in a way of its own.
    """
    try:
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        # Seen: a CPU build of torch beside torchvision built for CUDA, "operator torchvision::nms does not exist".
        raise WeightsError(
            f"torchvision cannot be imported beside torch {torch.__version__} ({_one_line(error)}): "
            "the two do not belong together; install both from requirements.lock"
        ) from None
    models: ModuleType = torchvision.models
    known = torchvision.models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"backbone {name!r} is none of torchvision's {len(known)} classification models; did you mean {near!r}?"
        )
    return models


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Limit the silence of every connection opened inside; torch.hub offers no such limit, and would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
