"""`lrcn predict PATH... --model M --out DIR`: label every video of files and folders."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.errors import LrcnError
from pipeline.files import locked
from pipeline.inference.answers import Answer
from pipeline.inference.inputs import Inputs, add_decoding_arguments, add_input_arguments, inputs_of, limits_of
from pipeline.inference.ledger import CHANGED, Ledger, file_state, model_identity
from pipeline.inference.overlays import NO_OVERLAY, add_overlay_argument, prune_overlays, update_overlays
from pipeline.inference.recognizer import Recognizer
from pipeline.inference.results import write_results
from pipeline.models.modelfolder import ModelSpec, read_spec
from pipeline.progress import Progress
from pipeline.video.limits import Limits


def main(argv: Sequence[str] | None = None) -> int:
    """Answer for every file; 0 when each got a label, 1 when some did not."""
    parser = argparse.ArgumentParser(prog="lrcn predict", description=__doc__, allow_abbrev=False)
    add_input_arguments(parser)
    parser.add_argument("--model", required=True, type=Path, help="a model folder")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.9,
        help="answers are called sure from the score on at which so many of them were right (default 0.9)",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add_overlay_argument(parser)
    add_decoding_arguments(parser)
    options = parser.parse_args(argv)
    limits = limits_of(options)
    inputs = inputs_of(options, "predict", out=options.out)
    with locked(options.out):
        return predict_into(options, limits, inputs)


def predict_into(options: argparse.Namespace, limits: Limits, inputs: Inputs) -> int:
    """Bring the folder of results up to date; returns the exit code."""
    spec = read_spec(options.model)
    try:
        ledger = Ledger(options.out, model_identity(options.model))
    except OSError as error:
        raise LrcnError(f"{options.out}: cannot be written ({error.strerror}); choose another --out") from None
    states = {path: file_state(path) for path in inputs.files}
    todo = [path for path in inputs.files if ledger.get(path, states[path]) is None]
    try:
        if todo:
            with Recognizer.load(
                options.model, device=options.device, workers=options.workers, limits=limits
            ) as recognizer:
                progress = Progress("predict", len(todo))
                for answer in progress.over(recognizer.predict_files(todo, progress.add_frames)):
                    if file_state(answer.path) != states[answer.path]:
                        answer = Answer(answer.path, "failed", CHANGED)
                    ledger.add(answer, states[answer.path])
    finally:
        ledger.close()
    answers_in_order = [
        Answer(path, "rejected", inputs.reasons[path]) if path in inputs.reasons else ledger.answers[path][1]
        for path in inputs.paths
    ]
    threshold = threshold_of(spec, options.precision)
    write_results(options.out, answers_in_order, threshold, spec.task)
    said = []
    if options.overlay:
        workers = num_workers(options.workers)
        said = update_overlays(
            options.out, answers_in_order, threshold=threshold, task=spec.task, limits=limits, workers=workers
        )
    else:
        prune_overlays(options.out, answers_in_order, threshold=threshold, task=spec.task)
    num_without = sum(note.startswith(NO_OVERLAY) for _, note in said)
    counts = {
        status: sum(answer.status == status for answer in answers_in_order)
        for status in ("ok", "damaged", "rejected", "failed")
    }
    print(
        f"predict: {len(inputs.paths)} file(s), {len(todo)} looked at now: "
        + ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        + (f", {num_without} without overlay" if num_without else "")
        + printable(f"; see {options.out / 'results.csv'}")
    )
    for answer in answers_in_order:
        if answer.status in ("rejected", "failed"):
            print(printable(f"predict: {answer.path}: {answer.status}: {answer.reason}"), file=sys.stderr)
    for path, note in said:
        print(printable(f"predict: {path}: {note}"), file=sys.stderr)
    return 1 if counts["rejected"] + counts["failed"] else 0


def threshold_of(spec: ModelSpec, precision: float, command: str = "predict") -> float | None:
    """The model's threshold for a wanted precision; says on stderr when it has none, so that no answer is sure."""
    if not 0 < precision < 1:
        raise LrcnError(f"--precision is {precision}; expected a share between 0 and 1, such as 0.9")
    threshold = spec.calibration.threshold(precision)
    if threshold is None:
        reached = [f"{wanted:g}" for wanted, at in spec.calibration.thresholds if at is not None]
        advice = f"it reaches {reached[-1]}: --precision {reached[-1]}" if reached else "it reaches none"
        print(
            f"{command}: no answer is called sure: on the validation side the model reached no precision of "
            f"{precision:g} ({advice})",
            file=sys.stderr,
        )
    return threshold
