"""Recurrent action recognition: video files in, a label per clip or a label per frame out.

    from pipeline import Recognizer
    Recognizer.load("MODEL").predict("clip.mp4")

Importing the package loads nothing heavy; torch, av, cv2 and mlflow are imported by the modules that need them.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.inference.recognizer import Recognizer

__all__ = ["Recognizer", "__version__"]
__version__ = "0.1.0"

# How long a CPU thread of PyTorch spins before it sleeps. The default takes the cores from the very threads it waits
# for when anything else runs: training on two cores fell from 400 to 16 frames/s beside one busy process, with this
# to 100; alone it is as fast as the default. Read by the OpenMP library when PyTorch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    if name != "Recognizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # By its name, so that it is no import of every module in the package: no stage depends on it.
    return importlib.import_module("pipeline.inference.recognizer").Recognizer
