"""Recurrent action recognition: video files in, a label per clip or a label per frame out.

Importing the package loads nothing heavy; torch, av, cv2 and mlflow are imported by the modules that need them.
"""

import os

__version__ = "0.1.0"

# Threads that wait by spinning take the cores from the ones they wait for: beside one other busy process, fine-tuning on
# two cores ran at 16 frames/s with PyTorch's default and at 180 with this. Read once, when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
