"""`lrcn synthesize`: draw the demo data set."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.discovery import printable
from pipeline.synthetic import draw_dataset


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what is missing; a finished data set is left as it is."""
    parser = argparse.ArgumentParser(prog="lrcn synthesize", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("media/demo"), help="folder (default media/demo)")
    parser.add_argument("--people", type=int, default=40, help="persons, each one group (default 40)")
    parser.add_argument("--clips", type=int, default=2, help="clips per person and class (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tqdm(desc="draw", disable=not sys.stderr.isatty(), unit="video") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        draw_dataset(
            options.out,
            seed=options.seed,
            num_people=options.people,
            clips_per_class=options.clips,
            progress=show,
        )
    print(printable(f"synthesize: {options.out} is complete"))
