"""Recurrent action recognition: video files in, a label per clip or a label per frame out.

Importing the package loads nothing heavy; torch, av, cv2 and mlflow are imported by the modules that need them.
"""

__version__ = "0.1.0"
