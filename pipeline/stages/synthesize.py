"""`lrcn synthesize`: draw the demo data set, its variant with a shortcut, or recordings as ready-made features."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.discovery import printable
from pipeline.synthetic import draw_dataset
from pipeline.synthetic_recordings import draw_recordings


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what is missing; a finished data set is left as it is."""
    parser = argparse.ArgumentParser(prog="lrcn synthesize", description=__doc__, allow_abbrev=False)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--recordings", action="store_true", help="the data set `recordings`: features, no video")
    kinds.add_argument(
        "--tied", action="store_true", help="the data set `demo_tied`: the background follows from the class"
    )
    parser.add_argument("--out", type=Path, help="folder (default media/demo, media/recordings or media/demo_tied)")
    parser.add_argument("--people", type=int, default=40, help="persons, each one group (default 40)")
    parser.add_argument("--clips", type=int, default=2, help="clips per person and class (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    name = "recordings" if options.recordings else "demo_tied" if options.tied else "demo"
    out = options.out or Path("media") / name
    if options.recordings:
        for fold, scores in draw_recordings(out, seed=options.seed).items():
            single, best = scores["single_frame"], scores["whole_recording"]
            print(
                f"synthesize: {fold}: at best accuracy {single['acc']:.3f}, F1@50 {single['f1_50']:.3f} from single "
                f"timesteps; {best['acc']:.3f}, {best['f1_50']:.3f} from the whole recording"
            )
        print(printable(f"synthesize: {out} is complete"))
        return
    with tqdm(desc="draw", disable=not sys.stderr.isatty(), unit="video") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        draw_dataset(
            out,
            seed=options.seed,
            num_people=options.people,
            clips_per_class=options.clips,
            recordings_per_person=0 if options.tied else 2,
            tied=options.tied,
            progress=show,
        )
    print(printable(f"synthesize: {out} is complete"))
