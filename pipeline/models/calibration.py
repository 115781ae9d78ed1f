"""What makes a model's probabilities mean what they say: a temperature, and how sure an answer must be to be given.

`pipeline/evaluation/calibration.py` fits both on a validation side.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """A temperature, and for wanted precisions the lowest confidence of an answer that is sure.

    temperature: 1 leaves probabilities as they are, above 1 they are less sure, below 1 surer. thresholds: pairs of a
    wanted precision, increasing, and the calibrated confidence that reaches it, None where none does.

    Raises ValueError for a temperature that is no number above 0, and for thresholds in another form.
    """

    temperature: float = 1.0
    thresholds: tuple[tuple[float, float | None], ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.temperature, int | float) and 0 < self.temperature < math.inf):
            raise ValueError(f"calibration: temperature is {self.temperature!r}; expected a number above 0")
        try:
            table = tuple((float(wanted), None if at is None else float(at)) for wanted, at in self.thresholds)
        except (TypeError, ValueError):
            raise ValueError(
                f"calibration: thresholds is {self.thresholds!r}; expected pairs of a precision and a confidence"
            ) from None
        if any(low[0] >= high[0] for low, high in pairwise(table)) or any(not 0 < wanted < 1 for wanted, _ in table):
            raise ValueError(
                f"calibration: the precisions of thresholds are {[wanted for wanted, _ in table]}; expected increasing "
                "numbers between 0 and 1"
            )
        object.__setattr__(self, "thresholds", table)

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """Calibrated probabilities p_k^(1/T) / sum over classes (Guo et al. 2017, section 4.2), shape and dtype kept.

        probs: (..., K) float, rows summing to 1. Where they are a softmax this divides its logits by T; where they are
        a mean of softmaxes (over clips, crops, timesteps) it is the same formula with log p for logits. The most
        probable class stays the same.
        """
        if self.temperature == 1:
            return probs
        exact = np.asarray(probs, dtype=np.float64)
        # Divided by the largest first, so that a low temperature leaves no row without a probability above 0.
        powers = (exact / exact.max(axis=-1, keepdims=True)) ** (1 / self.temperature)
        calibrated: np.ndarray = (powers / powers.sum(axis=-1, keepdims=True)).astype(probs.dtype)
        best = probs.argmax(axis=-1, keepdims=True)
        # A high temperature may round two neighbours to one number, of which argmax would take the first.
        tied = calibrated.argmax(axis=-1, keepdims=True) != best
        if tied.any():
            above = np.nextafter(calibrated.max(axis=-1, keepdims=True), np.asarray(2, probs.dtype))
            np.put_along_axis(calibrated, best, np.where(tied, above, np.take_along_axis(calibrated, best, -1)), -1)
        return calibrated

    def threshold(self, precision: float) -> float | None:
        """Lowest confidence of a sure answer for a wanted precision: that of the next higher one in the table.

        None where no confidence reaches it, or the table ends below it.

        >>> Calibration(1.0, ((0.8, 0.6), (0.9, 0.75), (0.95, None))).threshold(0.85)
        0.75
        """
        return next((at for wanted, at in self.thresholds if wanted >= precision - 1e-9), None)


UNCALIBRATED = Calibration()
