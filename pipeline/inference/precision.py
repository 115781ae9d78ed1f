"""The wanted precision: from which score on an answer is called sure."""

import argparse
import sys

from pipeline.errors import LrcnError
from pipeline.models.modelspec import ModelSpec


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Add --precision."""
    parser.add_argument(
        "--precision",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="answers are called sure from the score on at which so many of them were right (default 0.9)",
    )


def threshold_of(spec: ModelSpec, precision: float) -> float | None:
    """A model's threshold for a wanted precision, None where it has none; raises LrcnError for an impossible one."""
    if not 0 < precision < 1:
        raise LrcnError(f"--precision is {precision}; expected a share between 0 and 1, such as 0.9")
    return spec.calibration.threshold(precision)


def tell_if_never_sure(spec: ModelSpec, precision: float, command: str) -> None:
    """Say so on stderr where no threshold reached the wanted precision, so that no answer is sure."""
    if threshold_of(spec, precision) is None:
        reached = [f"{wanted:g}" for wanted, at in spec.calibration.thresholds if at is not None]
        advice = f"it reaches {reached[-1]}: --precision {reached[-1]}" if reached else "it reaches none"
        print(
            f"{command}: no answer is called sure: on the validation side the model reached no precision of "
            f"{precision:g} ({advice})",
            file=sys.stderr,
        )
