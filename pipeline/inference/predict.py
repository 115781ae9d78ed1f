"""`lrcn predict PATH... --model M --out DIR`: label every video of files and folders."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.device import choose_device, num_workers
from pipeline.discovery import printable
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.features.backbones import GIVEN, read_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import VideoFeatures
from pipeline.files import locked
from pipeline.inference.given import read_given
from pipeline.inference.inputs import Inputs, add_decoding_arguments, add_input_arguments, inputs_of, limits_of
from pipeline.inference.results import (
    CHANGED,
    Answer,
    Ledger,
    Segment,
    file_state,
    model_identity,
    runs_of_labels,
    status_of,
    write_results,
)
from pipeline.models.modelfolder import Model, load_model
from pipeline.progress import Progress
from pipeline.video.isolation import DecoderPool
from pipeline.video.limits import Limits
from pipeline.view import features_key


def main(argv: Sequence[str] | None = None) -> int:
    """Answer for every file; 0 when each got a label, 1 when some did not."""
    parser = argparse.ArgumentParser(prog="lrcn predict", description=__doc__, allow_abbrev=False)
    add_input_arguments(parser)
    parser.add_argument("--model", required=True, type=Path, help="a model folder")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add_decoding_arguments(parser)
    options = parser.parse_args(argv)
    limits = limits_of(options)
    inputs = inputs_of(options, "predict", out=options.out)
    with locked(options.out):
        return predict_into(options, limits, inputs)


def predict_into(options: argparse.Namespace, limits: Limits, inputs: Inputs) -> int:
    """Bring the folder of results up to date; returns the exit code."""
    try:
        ledger = Ledger(options.out, model_identity_of(options.model))
    except OSError as error:
        raise LrcnError(f"{options.out}: cannot be written ({error.strerror}); choose another --out") from None
    states = {path: file_state(path) for path in inputs.files}
    todo = [path for path in inputs.files if ledger.get(path, states[path]) is None]
    try:
        if todo:
            model = load_model(options.model, str(choose_device(options.device)))
            progress = Progress("predict", len(todo))
            with DecoderPool(limits) as decoders:
                answers = predict_files(
                    model, options.model, decoders, limits, todo, options.workers, progress.add_frames
                )
                for answer in progress.over(answers):
                    if file_state(answer.path) != states[answer.path]:
                        answer = Answer(answer.path, "failed", CHANGED)
                    ledger.add(answer, states[answer.path])
    finally:
        ledger.close()
    answers_in_order = [
        Answer(path, "rejected", inputs.reasons[path]) if path in inputs.reasons else ledger.answers[path][1]
        for path in inputs.paths
    ]
    write_results(options.out, answers_in_order)
    counts = {
        status: sum(answer.status == status for answer in answers_in_order)
        for status in ("ok", "damaged", "rejected", "failed")
    }
    print(
        f"predict: {len(inputs.paths)} file(s), {len(todo)} looked at now: "
        + ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        + printable(f"; see {options.out / 'results.csv'}")
    )
    for answer in answers_in_order:
        if answer.status in ("rejected", "failed"):
            print(printable(f"predict: {answer.path}: {answer.status}: {answer.reason}"), file=sys.stderr)
    return 1 if counts["rejected"] + counts["failed"] else 0


def model_identity_of(folder: Path) -> str:
    """Identity of a model folder; raises ModelError through `load_model` when there is no model."""
    if not (folder / "model.yaml").is_file():
        load_model(folder)
    return model_identity(folder)


def predict_files(
    model: Model,
    folder: Path,
    decoders: DecoderPool,
    limits: Limits,
    paths: Sequence[str],
    workers: int,
    progress: Callable[[int], None] = lambda num_frames: None,
) -> Iterator[Answer]:
    """Answers in the order of the paths; a file that cannot be used is an answer with a reason, never an exception.

    progress: as for Extractor.run.
    """
    device = model.network.feature_mean.device
    backbone = read_backbone(folder / "backbone.safetensors")
    view = model.spec.view
    model.require_features(features_key(view, backbone.name, backbone.weights_sha256))
    if backbone.name == GIVEN:
        for path in paths:
            try:
                features = read_given(Path(path), backbone, view.fps, limits.memory_bytes)
                yield answer_for(path, model, features, "ok", "")
            except Exception as error:  # noqa: BLE001 - one file's failure is its answer, the others go on
                yield Answer(path, status_of(error), reason_of(error))
        return
    extractor = Extractor(
        backbone, view.crop, device, workers=num_workers(workers), crops=view.crops, flow=view.flow
    )  # fmt: skip
    readers = {path: decoders.reader(path) for path in paths}
    jobs = ((path, readers[path].frames(view.fps, view.short_side)) for path in paths)
    for path, result in extractor.run(jobs, progress):
        reader = readers.pop(path)
        if isinstance(result, Exception):
            yield Answer(path, status_of(result), reason_of(result))
        else:
            try:
                yield answer_for(path, model, result, reader.verdict.status, reader.verdict.reason)
            except Exception as error:  # noqa: BLE001 - one file's failure is its answer, the others go on
                yield Answer(path, status_of(error), reason_of(error))


def reason_of(error: Exception) -> str:
    """Why a file has no answer; what nobody foresaw is named by its type too."""
    if isinstance(error, RejectedVideo):
        return str(error)
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def answer_for(path: str, model: Model, features: VideoFeatures, status: str, reason: str) -> Answer:
    """Label, runner-up, scores and segments of one video."""
    probs = model.predict_features(features.values.astype(np.float32))
    step = 1 / model.spec.view.fps
    seconds = round(float(features.time_seconds[-1]) + step, 3)
    if model.task == "clip":
        overall = probs
        segments = clip_segments(model, features, seconds)
    else:
        # The label of an untrimmed video is the action that fills most of it; the shares of time are its scores.
        overall = np.bincount(probs.argmax(axis=1), minlength=len(model.classes)) / len(probs)
        segments = runs_of_labels(probs, features.time_seconds, step, model.classes, model.spec.background)
    ranked = list(np.argsort(-overall, kind="stable"))
    if model.spec.background is not None and overall[ranked[0]] < 1:
        ranked = [k for k in ranked if model.classes[k] != model.spec.background]
    second = ranked[1] if len(ranked) > 1 else None
    return Answer(
        path=path,
        status=status,
        reason=reason,
        label=model.classes[ranked[0]],
        score=round(float(overall[ranked[0]]), 6),
        runner_up="" if second is None else model.classes[second],
        runner_up_score=None if second is None else round(float(overall[second]), 6),
        frames=len(probs) if model.task == "frame" else len(features.values),
        seconds=seconds,
        scores={name: round(float(value), 6) for name, value in zip(model.classes, overall, strict=True)},
        segments=segments,
    )


def clip_segments(model: Model, features: VideoFeatures, seconds: float) -> tuple[Segment, ...]:
    """The label of each clip of the view, with its time."""
    scores = model.predict_clips(features.values.astype(np.float32))
    starts = model.spec.view.clip_starts(len(features.values))
    size = model.spec.view.clip_frames or len(features.values)
    found = []
    for start, row in zip(starts, scores, strict=True):
        end = min(seconds, round(float(features.time_seconds[start]) + size / model.spec.view.fps, 3))
        begin = round(float(features.time_seconds[start]), 3)
        found.append(Segment(begin, end, model.classes[int(row.argmax())], round(float(row.max()), 6)))
    return tuple(found)
