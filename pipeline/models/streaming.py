"""Following a video as it comes: one timestep, or some, at a time, with the state carried on."""

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.calibration import UNCALIBRATED, Calibration
from pipeline.models.recurrent import RecurrentClassifier, State


class Stream:
    """One pass of a causal network over one video; equal to reading it whole, to 1e-5.

    >>> stream = model.stream()  # doctest: +SKIP
    >>> for feature in features: probabilities = stream.push(feature[None])[-1]  # doctest: +SKIP

    Raises ModelError for a network that needs the end of a video: bidirectional, or a clip model with attention.
    """

    def __init__(self, network: RecurrentClassifier, task: str, calibration: Calibration = UNCALIBRATED) -> None:
        network.require_stream(task)
        self._calibration = calibration
        self._network = network
        self._task = task
        self._state: State | None = None
        self._num_steps = 0
        self._total: Tensor | None = None  # of the clip's weighted probabilities so far
        self._weight = 0.0

    def push(self, features: np.ndarray) -> np.ndarray:
        """Go on by the next timesteps' features (n, D); n of 1 or more.

        Returns:
            (n, K) float32, calibrated. Frame model: class probabilities of each of the timesteps. Clip model: behind
            each of them, the answer for all that has come so far.
        """
        device = self._network.feature_mean.device
        size = self._network.feature_size
        if features.ndim != 2 or features.shape[1] != size or len(features) == 0:
            raise ModelError(f"features of shape {features.shape}; expected (n, {size}) with n of 1 or more")
        steps = torch.from_numpy(np.array(features, dtype=np.float32, order="C")).to(device)
        with torch.inference_mode():
            logits, self._state = self._network(steps[None], state=self._state)
            probabilities = logits[0].float().softmax(dim=-1)
            if self._task == "clip" and self._network.head != "last":
                probabilities = self._running_mean(probabilities)
        self._num_steps += len(features)
        return self._calibration.apply(np.asarray(probabilities.cpu()))

    def _running_mean(self, probabilities: Tensor) -> Tensor:
        """Behind each timestep, the weighted mean over all so far; the weights of `ramp` are the steps' numbers."""
        count = torch.arange(1, len(probabilities) + 1, device=probabilities.device, dtype=torch.float64)
        weights = count + self._num_steps if self._network.head == "ramp" else torch.ones_like(count)
        totals = (probabilities.double() * weights[:, None]).cumsum(dim=0)
        sums = weights.cumsum(dim=0) + self._weight
        if self._total is not None:
            totals = totals + self._total
        self._total, self._weight = totals[-1], float(sums[-1])
        return (totals / sums[:, None]).float()
