"""`lrcn probe PATH... --model M --out DIR`: change background, order and light of videos; does the answer turn?

Writes `DIR/probe.json` (flip rates), `DIR/probe.csv` (a row per video and change) and `DIR/contact_sheet.jpg` (videos
whose answer turned). What is right is not known here: a class is what the model said of the unchanged video, and every
file counts as a source of its own. With `--config` it is the pipeline's stage, which takes the videos of a test split.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.device import choose_device, num_workers
from pipeline.discovery import printable
from pipeline.errors import LrcnError, VideoError
from pipeline.evaluation.probe import Clip, Prober, Subject, read_clip
from pipeline.features.backbones import read_backbone
from pipeline.files import locked
from pipeline.inference.inputs import add_decoding_arguments, add_input_arguments, inputs_of, limits_of
from pipeline.inference.proberesults import table_of, write_probe
from pipeline.models.modelfolder import load_model
from pipeline.modelstore import model_folder
from pipeline.progress import Progress
from pipeline.video.isolation import DecoderPool
from pipeline.view import View

BOOTSTRAP_SAMPLES = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Probe every file; 0 when all were, 1 when some could not be."""
    options_given = itertools.takewhile(lambda argument: argument != "--", argv or ())
    if any(argument.split("=")[0] == "--config" for argument in options_given):
        from pipeline.stages.probe import main as stage

        stage(argv)
        return 0
    parser = argparse.ArgumentParser(prog="lrcn probe", description=__doc__, allow_abbrev=False)
    add_input_arguments(parser)
    parser.add_argument("--model", required=True, help="a model folder, models:/NAME@ALIAS, runs:/RUN_ID/model")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, help="of the backgrounds that are borrowed (default 0)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add_decoding_arguments(parser)
    options = parser.parse_args(argv)
    limits = limits_of(options)
    options.model = model_folder(options.model)
    inputs = inputs_of(options, "probe", out=options.out)
    model = load_model(options.model, str(choose_device(options.device)))
    backbone = read_backbone(options.model / "backbone.safetensors")
    prober = Prober(model, backbone, num_workers(options.workers))
    failures = dict(inputs.reasons)
    with locked(options.out), DecoderPool(limits) as decoders:
        subjects = []
        for path in Progress("predict", len(inputs.files)).over(inputs.files):
            load = partial(_load, decoders, path, model.spec.view)
            try:
                answer = prober.unchanged(load())
            except (VideoError, OSError) as error:
                failures[path] = str(error)
                continue
            subjects.append(Subject(path, path, answer.argmax(axis=1), load))
        for path, reason in failures.items():
            print(printable(f"probe: {path}: {reason}"), file=sys.stderr)
        if not subjects:
            raise LrcnError(f"none of {len(inputs.paths)} file(s) can be probed; expected a video that can be read")
        results = Progress("probe", len(subjects)).over(prober.probe(subjects, subjects, seed=options.seed))
        scores = write_probe(
            options.out,
            results,
            model.classes,
            "Answers that turned",
            samples=BOOTSTRAP_SAMPLES,
            seed=options.seed,
        )
    print(printable(f"probe: {len(subjects)} of {len(inputs.paths)} file(s) probed; see {options.out}"))
    print(table_of(scores))
    return 1 if failures else 0


def _load(decoders: DecoderPool, path: str, view: View) -> Clip:
    return read_clip(decoders.reader(path).frames(view.fps, view.short_side))
