"""A backbone made ready for extraction: pixels in, batch normalisation folded into the convolutions."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.device import Halving
from pipeline.features.backbones import Backbone


class FrozenBackbone(nn.Module):
    """The network of a backbone for inference: (B, crop, crop, 3) uint8 RGB -> (B, D), and faster.

    It follows the backbone to its device, in channels-last layout and evaluation mode, and shares the weights that
    folding does not change. Features differ from the backbone's by rounding (about 1e-6 of their size).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone, crop: int) -> None:
        super().__init__()
        device = backbone.mean.device
        self.net = fold_batch_norm(backbone.net.eval()).to(memory_format=torch.channels_last)
        # One multiplication and one addition over whole rows of pixels. Broadcast over the three channels, which lie
        # innermost, the same arithmetic takes as long as a third of MobileNetV3-small.
        scale, shift = 1 / (255 * backbone.std), -backbone.mean / backbone.std
        self.register_buffer("scale", scale.view(3).repeat(crop).to(device), persistent=False)
        self.register_buffer("shift", shift.view(3).repeat(crop).to(device), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, crop, crop, 3) uint8 -> (B, D), of the dtype in which the network computes."""
        rows = pixels.flatten(2).float().mul_(self.scale).add_(self.shift)
        # (B, H, W, 3) seen as (B, 3, H, W) is channels-last already: no copy, and the fast layout.
        return cast(Tensor, self.net(rows.view(pixels.shape).permute(0, 3, 1, 2)))


@dataclass(eq=False)
class Replica:
    """The network on one device, and how many frames that computes at a time. Threads may share it."""

    device: torch.device
    network: FrozenBackbone
    at_a_time: Halving

    def vectors(self, pixels: Tensor) -> np.ndarray:
        """(B, crop, crop, 3) uint8 in main memory -> (B, D) float16.

        Raises MemoryError when the device has none left for a single frame.
        """

        def some(rows: slice) -> np.ndarray:
            on_device = pixels[rows].to(self.device, non_blocking=True)
            return cast(np.ndarray, self.network(on_device).to(torch.float16).cpu().numpy())

        return np.concatenate(list(self.at_a_time.over(len(pixels), some)))


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """The network with every BatchNorm2d folded into the Conv2d before it, where nothing else reads that one's output.

    In evaluation mode; weights that do not change are shared. A network whose code torch.fx cannot trace is returned
    as it is.
    """
    try:
        traced = fx.symbolic_trace(net)
    except Exception:  # noqa: BLE001 - code that looks at its data fails in any way; unfolded it is only slower
        return net
    layers = dict(traced.named_modules())
    num_calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = layers[str(before.target)], layers[str(node.target)]
        called_once = num_calls[before.target] == num_calls[node.target] == 1
        if called_once and type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            traced.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


@contextlib.contextmanager
def compute_context(device: torch.device) -> Iterator[None]:
    """Settings of one thread that computes features, beside others that do the same.

    On a CPU it computes alone: torch.set_num_threads holds for the calling thread, and for those begun later. On a GPU
    it has a stream of its own, so that its copies run beside another thread's computing, and computes in short numbers.
    """
    with torch.inference_mode():
        if device.type != "cuda":
            torch.set_num_threads(1)
            yield
            return
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.default_stream(device))  # on which the weights were copied
        # Emulated bfloat16 (GPUs before Ampere) is slower than float32.
        with torch.cuda.device(device):
            half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        # No cache of converted weights: all threads share it, and one might read what another's stream still writes.
        with torch.cuda.stream(stream), torch.autocast("cuda", dtype=half, cache_enabled=False):
            yield
