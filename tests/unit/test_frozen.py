import threading

import pytest
import torch
from torch import Tensor, nn

from pipeline.features.backbones import Backbone, load_backbone
from pipeline.features.frozen import FrozenBackbone, compute_context, fold_batch_norm

CROP = 64


def noise(count: int = 4) -> Tensor:
    return torch.randint(0, 256, (count, CROP, CROP, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def calibrated(net: nn.Module, frames: Tensor) -> None:
    """Normalisation that has seen data, so that folding has something to fold."""
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
                layer.weight.uniform_(0.5, 2)
                layer.bias.uniform_(-1, 1)
        net.train()(frames)
    net.eval()


def num_norms(net: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())


def check_frozen(name: str, norms_left: int) -> None:
    backbone = load_backbone(name, "random", seed=0)
    pixels = noise()
    frames = pixels.permute(0, 3, 1, 2).float() / 255
    calibrated(backbone, frames)
    before = backbone.weights_sha256
    frozen = FrozenBackbone(backbone, CROP)
    with torch.inference_mode():
        expected, found = backbone(frames), frozen(pixels)
    assert num_norms(frozen) == norms_left
    assert backbone.weights_sha256 == before  # finetune and the store's key use the network as it was
    assert float((found - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "resnet18"])
def test_a_frozen_backbone_gives_its_features(name: str) -> None:
    check_frozen(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norms_left"),
    [("densenet121", 62), ("googlenet", 0), ("mnasnet0_5", 0), ("regnet_y_400mf", 0), ("efficientnet_b0", 0)],
)
def test_other_families_can_be_frozen_too(name: str, norms_left: int) -> None:
    check_frozen(name, norms_left)


class Twice(nn.Module):
    """Calls one convolution twice, and reads another one's output beside its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.read = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.shared(self.shared(x)))
        x = self.read(x)
        return x + self.other(x)


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_others_read_is_not_folded() -> None:
    net, x = Twice(), torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    calibrated(net, x)
    folded = fold_batch_norm(net)
    assert num_norms(folded) == 2
    assert torch.equal(folded(x), net(x))


def test_a_network_that_cannot_be_traced_is_used_as_it_is() -> None:
    net = Untraceable()
    assert fold_batch_norm(net) is net


def test_pixels_are_normalised_as_by_the_backbone() -> None:
    backbone = Backbone("none", nn.Identity(), 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], CROP).eval()
    pixels = noise()
    expected = backbone(pixels.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(FrozenBackbone(backbone, CROP)(pixels), expected, rtol=0, atol=2e-6)


def test_a_computing_thread_computes_alone() -> None:
    found: list[tuple[int, bool]] = []

    def compute() -> None:
        with compute_context(torch.device("cpu")):
            found.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))

    before = torch.get_num_threads()
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert found == [(1, True)]
