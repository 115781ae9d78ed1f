"""A backbone as an ONNX graph, by PyTorch's exporter."""

import logging
import warnings
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.features.frozen import FrozenBackbone
from pipeline.models.onnxgraphs import OPSET


def backbone_graph(backbone: FrozenBackbone, crop: int) -> Any:
    """`pixels` (B, crop, crop, 3) uint8 RGB, or flow images, -> `features` (B, D) float32, B any number; a ModelProto.

    Raises ModelError for a network that PyTorch cannot export.
    """
    # Of two, since a size of 1 is taken for fixed.
    example = torch.zeros(2, crop, crop, 3, dtype=torch.uint8, device=backbone.scale.device)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's about its own insides
            program = torch.onnx.export(
                backbone, (example,), dynamo=True, input_names=["pixels"], output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("B", min=1)},), opset_version=OPSET, verbose=False,
            )  # fmt: skip
    except Exception as error:  # of a dozen kinds, by network and version
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"PyTorch {torch.__version__} cannot export this backbone ({reason}); try another version"
        ) from error
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto
