import builtins
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from pipeline.errors import ConfigError, WeightsError
from pipeline.features.backbones import (
    GIVEN,
    describe_backbone,
    given_features,
    load_backbone,
    read_backbone,
    save_backbone,
)
from pipeline.features.frozen import FrozenBackbone
from pipeline.features.store import read_arrays, write_arrays
from pipeline.video.flow import flow_image

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

NAME = "shufflenet_v2_x0_5"
REAL_WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "weights"


def torchvision_model(name: str) -> nn.Module:
    """A network in evaluation mode whose normalisation has seen data: otherwise deep features vanish."""
    options = {"init_weights": False, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return calibrated(torchvision.models.get_model(name, weights=None, **options))


def calibrated(model: nn.Module) -> nn.Module:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    if layers:
        size = 299 if isinstance(model, torchvision.models.Inception3) else 64  # its auxiliary head needs all of them
        with torch.no_grad():
            model.train()(torch.randn((4, 3, size, size), generator=torch.Generator().manual_seed(1)))
    return model.eval()


def noise(count: int = 2, size: int = 64) -> Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(5))


def normalised(frames: Tensor) -> Tensor:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return (frames - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def saved(model: nn.Module, path: Path) -> str:
    torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "last", "size", "crop"),
    [
        pytest.param("googlenet", "fc", 1024, 64, marks=pytest.mark.slow),
        pytest.param("mnasnet0_5", "classifier.1", 1280, 64, marks=pytest.mark.slow),
        ("mobilenet_v2", "classifier.1", 1280, 64),
        ("mobilenet_v3_small", "classifier.3", 1024, 64),
        pytest.param("regnet_y_400mf", "fc", 440, 64, marks=pytest.mark.slow),
        ("resnet18", "fc", 512, 64),
        (NAME, "fc", 1024, 64),
        pytest.param("alexnet", "classifier.6", 4096, 64, marks=pytest.mark.slow),
        pytest.param("densenet121", "classifier", 1024, 64, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", "classifier.1", 1280, 64, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "classifier.2", 768, 64, marks=pytest.mark.slow),
        pytest.param("inception_v3", "fc", 2048, 96, marks=pytest.mark.slow),
        pytest.param("swin_t", "head", 768, 64, marks=pytest.mark.slow),
        pytest.param("vit_b_32", "heads.head", 768, 224, marks=pytest.mark.slow),
    ],
)
def test_the_feature_is_what_enters_the_last_linear_layer(
    tmp_path: Path, name: str, last: str, size: int, crop: int
) -> None:
    model = torchvision_model(name)
    entered: list[Tensor] = []
    layer = model.get_submodule(last)
    assert isinstance(layer, nn.Linear)
    layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    backbone = load_backbone(name, saved(model, tmp_path / "weights.pth"), seed=1)
    assert not backbone.training
    assert backbone.feature_size == size
    with torch.inference_mode():
        features = backbone(noise(size=crop))
        model(normalised(noise(size=crop)))
    assert features.shape == (2, size)
    assert features.std() > 1e-3
    torch.testing.assert_close(features, entered[0], rtol=1e-4, atol=1e-5)


def test_squeezenet_ends_in_a_convolution_and_gives_pooled_features(tmp_path: Path) -> None:
    model = torchvision_model("squeezenet1_1")
    backbone = load_backbone("squeezenet1_1", saved(model, tmp_path / "weights.pth"), seed=1)
    with torch.inference_mode():
        expected = model.features(normalised(noise())).mean(dim=(2, 3))  # type: ignore[operator]
        features = backbone(noise())
    assert features.shape == (2, 512) == (2, backbone.feature_size)
    torch.testing.assert_close(features, expected)


@pytest.mark.slow
def test_other_families_have_a_last_layer_too() -> None:
    for name in ("efficientnet_v2_s", "resnext50_32x4d", "shufflenet_v2_x2_0", "squeezenet1_0", "wide_resnet50_2"):
        assert load_backbone(name, "random", seed=0).feature_size in (512, 1280, 2048)


def test_efficientnet_v2_l_has_a_normalisation_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, **_: nn.Sequential(nn.Linear(2, 1000)))
    assert load_backbone("efficientnet_v2_l", "random", 0).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert load_backbone("efficientnet_v2_s", "random", 0).mean.flatten().tolist() == pytest.approx(
        [0.485, 0.456, 0.406]
    )


def test_random_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first = load_backbone(NAME, "random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert load_backbone(NAME, "random", seed=3).weights_sha256 == first.weights_sha256
    assert load_backbone(NAME, "random", seed=4).weights_sha256 != first.weights_sha256
    torch.set_rng_state(before)


def test_the_hash_is_of_the_weights_not_of_their_place_in_memory() -> None:
    backbone = load_backbone(NAME, "random", seed=0)
    before = backbone.weights_sha256
    assert re.fullmatch("[0-9a-f]{64}", before)
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert backbone.weights_sha256 == before
    with torch.no_grad():
        next(backbone.parameters())[0, 0, 0, 0] += 1e-3
    assert backbone.weights_sha256 != before


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'resnet81' is none of .* did you mean 'resnet18'"):
        load_backbone("resnet81", "random", seed=0)
    with pytest.raises(ConfigError, match="'fasterrcnn_resnet50_fpn' is none of torchvision's"):
        load_backbone("fasterrcnn_resnet50_fpn", "default", seed=0)


def test_torchvision_of_another_torch_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *args: Any, **options: Any) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(WeightsError, match=r"nms does not exist\): the two do not belong together.*requirements\.lock"):
        load_backbone(NAME, "random", seed=0)


# Crops


def test_a_crop_that_fits_is_taken_and_the_mode_is_kept() -> None:
    backbone = load_backbone(NAME, "random", seed=0).train()
    averages = [buffer.clone() for buffer in backbone.buffers()]
    backbone.check_crop(64)
    assert backbone.training
    assert all(torch.equal(one, other) for one, other in zip(averages, backbone.buffers(), strict=True))


def test_a_crop_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"squeezenet1_1 cannot take frames of 10x10 pixels .* view\.crop .* 224"):
        load_backbone("squeezenet1_1", "random", seed=0).check_crop(10)


@pytest.mark.slow
def test_networks_of_one_size_say_which() -> None:
    with pytest.raises(ValueError, match=r"inception_v3 cannot take frames of 64x64 pixels .* made for, 299"):
        load_backbone("inception_v3", "random", seed=0).check_crop(64)
    with pytest.raises(ValueError, match=r"vit_b_32 cannot take frames of 96x96 pixels .* made for, 224"):
        load_backbone("vit_b_32", "random", seed=0).check_crop(96)


@pytest.mark.slow
def test_the_weights_of_a_vision_transformer_fix_its_size(tmp_path: Path) -> None:
    model = torchvision.models.get_model("vit_b_32", weights=None, image_size=96)
    backbone = load_backbone("vit_b_32", saved(model, tmp_path / "weights.pth"), seed=0)
    backbone.check_crop(96)
    assert backbone.usual_crop == 96
    save_backbone(backbone, tmp_path / "backbone.safetensors")
    read_backbone(tmp_path / "backbone.safetensors").check_crop(96)


# Files


class Evil:
    """Unpickling it makes the folder `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return dict(torchvision_model(NAME).state_dict())


@pytest.fixture
def state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}


def test_a_file_without_its_last_layer_or_with_another_number_of_classes_will_do(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    torch.save(state, tmp_path / "full.pth")
    full = load_backbone(NAME, str(tmp_path / "full.pth"), seed=0).weights_sha256
    del state["fc.bias"], state["fc.weight"]
    safetensors.torch.save_file(state, tmp_path / "cut.safetensors")
    torch.save({**state, "fc.weight": torch.zeros(7, 1024), "fc.bias": torch.zeros(7)}, tmp_path / "seven.pth")
    assert load_backbone(NAME, str(tmp_path / "cut.safetensors"), seed=1).weights_sha256 == full
    assert load_backbone(NAME, str(tmp_path / "seven.pth"), seed=2).weights_sha256 == full


def test_half_precision_and_missing_counters_will_do(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "half.pth")
    backbone = load_backbone(NAME, str(tmp_path / "half.pth"), seed=0)
    assert torch.equal(backbone.net.get_parameter("conv1.0.weight"), state["conv1.0.weight"].float())


@pytest.mark.slow
def test_old_densenet_names_are_known(tmp_path: Path) -> None:
    new = torchvision.models.get_model("densenet121", weights=None).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name): value for name, value in new.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(new, tmp_path / "new.pth")
    torch.save(old, tmp_path / "old.pth")
    one, other = (load_backbone("densenet121", str(tmp_path / f"{kind}.pth"), seed=0) for kind in ("new", "old"))
    assert one.weights_sha256 == other.weights_sha256


@pytest.mark.parametrize("file", ["none.pth", "none.safetensors"])
def test_a_missing_file(tmp_path: Path, file: str) -> None:
    with pytest.raises(WeightsError, match=f"{file}: no such weights file; expected `default`, `random`, or the path"):
        load_backbone(NAME, str(tmp_path / file), seed=0)


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    path = saved(torchvision_model("resnet18"), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"another architecture than resnet34 \(lacking: layer1\.2\.conv1\.weight"):
        load_backbone("resnet34", path, seed=0)
    with pytest.raises(WeightsError, match=r"not in the network: conv1\.weight, .* and \d+ more\)"):
        load_backbone("squeezenet1_1", path, seed=0)


def test_weights_of_another_width(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["conv1.0.weight"] = torch.zeros(8, 3, 3, 3)
    torch.save(state, tmp_path / "weights.pth")
    message = r"other shapes: conv1\.0\.weight float \(8, 3, 3, 3\) for float \(24, 3, 3, 3\)\)"
    with pytest.raises(WeightsError, match=message):
        load_backbone(NAME, str(tmp_path / "weights.pth"), seed=0)


def test_weights_of_another_kind_of_number(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["conv1.0.weight"] = state["conv1.0.weight"].to(torch.complex64)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"conv1\.0\.weight torch\.complex64 \(24, 3, 3, 3\) for float"):
        load_backbone(NAME, str(tmp_path / "weights.pth"), seed=0)


def test_weights_that_are_not_finite(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["conv1.0.weight"][3, 1, 1, 1] = torch.nan
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        WeightsError, match=r"weights\.pth: damaged weights \(conv1\.0\.weight holds values that are not"
    ):
        load_backbone(NAME, str(tmp_path / "weights.pth"), seed=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a list, expected a state dict"),
        ({}, "holds a dict, expected a state dict"),
        ({"model": {"conv1.weight": torch.zeros(1)}, "epoch": 3}, r"'model' is a dict, .*save model\.state_dict\(\)"),
        ({3: torch.zeros(1)}, "not a state dict"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, value: object, message: str) -> None:
    torch.save(value, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message):
        load_backbone(NAME, str(tmp_path / "weights.pth"), seed=0)


def test_damaged_files(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    for number, content in enumerate([b"", b"hello", good[: len(good) // 2], good[1000:], bytes(1000), b"\x80\x02."]):
        for suffix in (".pth", ".safetensors"):
            path = tmp_path / f"bad{number}{suffix}"
            path.write_bytes(content)
            with pytest.raises(WeightsError, match=f"{path.name}: damaged weights, or no state dict") as error:
                load_backbone(NAME, str(path), seed=0)
            assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="damaged weights, or no state dict"):
        load_backbone(NAME, str(tmp_path), seed=0)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_weights_file_does_not_run(tmp_path: Path, state: dict[str, Tensor], zipped: bool) -> None:
    marker, path = tmp_path / "code-has-run", tmp_path / "weights.pth"
    torch.save({**state, "evil": Evil(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"weights\.pth: damaged weights, or no state dict"):
        load_backbone(NAME, str(path), seed=0)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the file was one that runs code


# Saved backbones


def test_a_saved_backbone_comes_back_bit_for_bit(tmp_path: Path) -> None:
    backbone = load_backbone("mnasnet0_5", "random", seed=2)
    calibrated(backbone.net)
    path = tmp_path / "a.safetensors"
    save_backbone(backbone, path)
    again = read_backbone(path)
    assert (again.name, again.feature_size, again.training) == ("mnasnet0_5", 1280, False)
    assert again.weights_sha256 == backbone.weights_sha256 == read_arrays(path)[1]["weights_sha256"]
    assert describe_backbone(path) == ("mnasnet0_5", 1280, backbone.weights_sha256)
    with torch.inference_mode():
        features = backbone(noise())
        assert features.std() > 1e-3
        assert torch.equal(again(noise()), features)
    save_backbone(again, tmp_path / "b.safetensors")
    assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert load_backbone("mnasnet0_5", str(path), seed=0).weights_sha256 == backbone.weights_sha256
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_damaged_saved_backbone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    save_backbone(load_backbone(NAME, "random", seed=0), path)
    good = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(good), 15)
    for place in (3, 12, *places):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bad)
        with pytest.raises(WeightsError, match=r"backbone\.safetensors: .*damaged"):
            describe_backbone(path)
    path.write_bytes(good[:-8])
    with pytest.raises(WeightsError, match=r"backbone\.safetensors: .*damaged"):
        read_backbone(path)


def test_a_saved_backbone_knows_what_it_is(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "backbone.safetensors"
    with pytest.raises(WeightsError, match="no such weights file"):
        read_backbone(path)
    safetensors.torch.save_file(state, path)
    with pytest.raises(WeightsError, match="not a saved backbone"):
        read_backbone(path)
    backbone = load_backbone(NAME, "random", seed=0)
    save_backbone(backbone, path)
    with pytest.raises(WeightsError, match=f"weights of backbone {NAME}, expected resnet18"):
        load_backbone("resnet18", str(path), seed=0)
    write_arrays(path, backbone.arrays(), {"name": "resnet999", "weights_sha256": backbone.weights_sha256})
    with pytest.raises(WeightsError, match=r"backbone\.safetensors: backbone 'resnet999' is none of"):
        read_backbone(path)
    with pytest.raises(WeightsError, match=r"backbone\.safetensors: no features stated in its header"):
        describe_backbone(path)


# Real weights, where there are some


@pytest.mark.skipif(not REAL_WEIGHTS.is_dir(), reason=f"no real weights: {REAL_WEIGHTS} is not there")
@pytest.mark.parametrize(("name", "size"), [("mobilenet_v2", 1280), ("squeezenet1_1", 512)])
def test_real_weights(name: str, size: int) -> None:
    backbone = load_backbone(name, str(REAL_WEIGHTS / f"{name}-imagenet.pth"), seed=0)
    # A frame with something to see, and a plain one.
    with torch.inference_mode():
        features = backbone(torch.stack([noise(1, 128)[0], torch.full((3, 128, 128), 0.5)]))
    assert features.shape == (2, size)
    assert torch.isfinite(features).all()
    assert 0.1 < features.std() < 10
    assert (features[0] - features[1]).norm() > 0.3 * features[1].norm()


# Other layers, and flow


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet18", "layer1.0.relu", (64, 16, 16)),  # used twice in its block: the first use
        (NAME, "stage3", (96, 4, 4)),
        (NAME, "fc", (1000,)),
        ("squeezenet1_1", "features.7", (256, 7, 7)),
        pytest.param("mobilenet_v2", "features.4", (32, 8, 8), marks=pytest.mark.slow),
        pytest.param("swin_t", "features.3", (8, 8, 192), marks=pytest.mark.slow),
    ],
)
def test_a_layer_named_gives_that_layers_output_flattened(
    name: str, layer: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    size = 64
    model = torchvision_model(name)
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output.clone())

    model.get_submodule(layer).register_forward_hook(keep)
    frames = noise(size=size)
    backbone = load_backbone(name, saved(model, tmp_path / "weights.pth"), seed=1, layer=layer, crop=size)
    with torch.inference_mode():
        model(normalised(frames))
        found = backbone(frames)
    assert outputs[0].shape == (2, *shape)
    assert backbone.feature_size == found.shape[1] == np.prod(shape)
    torch.testing.assert_close(found, outputs[0].flatten(1))
    assert set(backbone.arrays()) <= set(model.state_dict())
    backbone.check_crop(size)

    save_backbone(backbone, tmp_path / "backbone.safetensors")
    again = read_backbone(tmp_path / "backbone.safetensors")
    assert (again.name, again.layer, again.feature_size) == (name, layer, backbone.feature_size)
    assert again.weights_sha256 == backbone.weights_sha256
    as_weights = load_backbone(name, str(tmp_path / "backbone.safetensors"), seed=1, layer=layer, crop=size)
    assert as_weights.weights_sha256 == backbone.weights_sha256
    with torch.inference_mode():
        assert torch.equal(again(frames), found)
        pixels = (frames * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        folded = FrozenBackbone(again, size)(pixels)
        plain = again(pixels.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-3)


def test_another_layer_is_another_identity_even_without_weights_of_its_own() -> None:
    before, after = (load_backbone("squeezenet1_1", "random", 0, layer=f"features.{k}") for k in (1, 2))
    assert before.arrays().keys() == after.arrays().keys()
    assert before.weights_sha256 != after.weights_sha256


def test_a_layers_features_grow_with_the_frame_and_another_crop_is_refused() -> None:
    backbone = load_backbone("squeezenet1_1", "random", 0, layer="features.3", crop=64)
    assert backbone.feature_size == 128 * 15 * 15
    with pytest.raises(ValueError, match=r"gives 123008 features of frames of 128x128 pixels at layer 'features.3'"):
        backbone.check_crop(128)
    assert load_backbone("squeezenet1_1", "random", 0, layer="features.3").feature_size == 128 * 55 * 55


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("resnet18", "fc6", r"resnet18 has no layer 'fc6'; expected one of its 67 modules, perhaps fc$"),
        ("resnet18", "layer1.0.con1", r"perhaps layer1.0.conv1,"),
        ("squeezenet1_1", "zzz", r"such as features, classifier$"),
    ],
)
def test_an_unknown_layer_is_named_with_its_neighbours(name: str, layer: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_backbone(name, "random", 0, layer=layer)


def test_a_layer_that_frames_do_not_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gives no features of frames of 16x16 pixels at layer 'features.12'"):
        load_backbone("squeezenet1_1", "random", 0, layer="features.12", crop=16)


def test_the_first_layer_for_flow_is_the_average_over_the_colours(tmp_path: Path) -> None:
    model = torchvision_model(NAME)
    path = saved(model, tmp_path / "weights.pth")
    rgb, flow = (load_backbone(NAME, path, 0, is_flow=is_flow) for is_flow in (False, True))
    photographs = model.state_dict()["conv1.0.weight"]
    adapted = torch.from_numpy(flow.arrays()["conv1.0.weight"])
    assert adapted.shape == photographs.shape
    for channel in range(3):
        torch.testing.assert_close(adapted[:, channel], photographs.mean(dim=1))
    others = {name: array for name, array in rgb.arrays().items() if name != "conv1.0.weight"}
    assert all(np.array_equal(array, flow.arrays()[name]) for name, array in others.items())
    # A grey picture, all channels equal, is answered as the photograph's network answers it.
    x = torch.rand(1, 1, 64, 64).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        torch.testing.assert_close(flow.net(x), rgb.net(x), rtol=1e-3, atol=1e-3)


def test_no_motion_is_nought_to_a_network_for_flow() -> None:
    backbone = load_backbone("resnet18", "random", 0, is_flow=True)
    still = flow_image(np.zeros((8, 8, 2), np.float32))
    assert ((torch.from_numpy(still).float() / 255).permute(2, 0, 1)[None] - backbone.mean).abs().max() < 1e-6
    assert backbone.std.flatten().tolist() == pytest.approx([(0.229 + 0.224 + 0.225) / 3] * 3)


def test_weights_of_a_network_for_flow_are_not_averaged_again(tmp_path: Path) -> None:
    backbone = load_backbone(NAME, "random", 0, is_flow=True)
    weight = backbone.arrays()["conv1.0.weight"]
    assert not np.array_equal(weight[:, 0], weight[:, 1])  # random weights have no colours to average
    path = tmp_path / "backbone.safetensors"
    save_backbone(backbone, path)
    assert read_backbone(path).is_flow
    torch.testing.assert_close(read_backbone(path).mean, backbone.mean)
    assert load_backbone(NAME, str(path), 0, is_flow=True).weights_sha256 == backbone.weights_sha256


def test_what_stands_for_ready_made_features_comes_back_and_tells_sets_apart(tmp_path: Path) -> None:
    made = given_features(2048, 29.97, feature_first=True, label_column="étiquette")
    save_backbone(made, tmp_path / "given.safetensors")
    found = read_backbone(tmp_path / "given.safetensors")
    assert (found.name, found.feature_size, found.weights_sha256) == (GIVEN, 2048, made.weights_sha256)
    assert describe_backbone(tmp_path / "given.safetensors") == (GIVEN, 2048, made.weights_sha256)
    assert float(found.arrays()["fps"]) == 29.97
    assert bool(found.arrays()["feature_first"])
    assert bytes(found.arrays()["label_column"]).decode() == "étiquette"
    others = [(2048, 30.0, True), (2048, 29.97, False), (64, 29.97, True), (2048, 29.97, True)]
    assert len({made.weights_sha256, *(given_features(*other).weights_sha256 for other in others)}) == 5
    with pytest.raises(WeightsError, match="no CNN to look at pictures with"):
        found(torch.zeros(1, 3, 8, 8))
