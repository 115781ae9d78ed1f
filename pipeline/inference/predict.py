"""`lrcn predict PATH... --model M --out DIR`: label every video of files and folders."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.device import choose_device, num_workers
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.features.backbones import read_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import VideoFeatures
from pipeline.inference.discovery import find_files
from pipeline.inference.results import (
    Answer,
    Ledger,
    Segment,
    file_state,
    model_identity,
    runs_of_labels,
    write_results,
)
from pipeline.models.modelfolder import Model, load_model
from pipeline.video.reader import Frame, VideoReader
from pipeline.view import View, features_key


def main(argv: Sequence[str] | None = None) -> int:
    """Answer for every file; 0 when each got a label, 1 when some did not."""
    parser = argparse.ArgumentParser(prog="lrcn predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and folders")
    parser.add_argument("--model", required=True, type=Path, help="a model folder")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--workers", type=int, default=0, help="videos decoded at a time; 0 = one per core (default)")
    options = parser.parse_args(argv)
    files = find_files(options.paths, exclude=[options.out])
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(options.out, model_identity_of(options.model))
    except OSError as error:
        raise LrcnError(f"{options.out}: cannot be written ({error.strerror}); choose another --out") from None
    states = {path: file_state(path) for path in files}
    todo = [path for path in files if ledger.get(path, states[path]) is None]
    try:
        if todo:
            model = load_model(options.model, str(choose_device(options.device)))
            answers = predict_files(model, options.model, todo, options.workers)
            for answer in tqdm(answers, "predict", len(todo), disable=not sys.stderr.isatty(), unit="video"):
                if file_state(answer.path) != states[answer.path]:
                    answer = Answer(answer.path, "failed", "changed while it was read; run again when it is complete")
                ledger.add(answer, states[answer.path])
    finally:
        ledger.close()
    answers_in_order = [ledger.answers[path][1] for path in files]
    write_results(options.out, answers_in_order)
    counts = {
        status: sum(answer.status == status for answer in answers_in_order)
        for status in ("ok", "damaged", "rejected", "failed")
    }
    print(
        f"predict: {len(files)} file(s), {len(todo)} looked at now: "
        + ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        + f"; see {options.out / 'results.csv'}"
    )
    for answer in answers_in_order:
        if answer.status in ("rejected", "failed"):
            print(f"predict: {answer.path}: {answer.status}: {answer.reason}", file=sys.stderr)
    return 1 if counts["rejected"] + counts["failed"] else 0


def model_identity_of(folder: Path) -> str:
    """Identity of a model folder; raises ModelError through `load_model` when there is no model."""
    if not (folder / "model.yaml").is_file():
        load_model(folder)
    return model_identity(folder)


def predict_files(model: Model, folder: Path, paths: Sequence[str], workers: int) -> Iterator[Answer]:
    """Answers in the order of the paths; a file that cannot be used is an answer with a reason, never an exception."""
    device = model.network.feature_mean.device
    backbone = read_backbone(folder / "backbone.safetensors")
    view = model.spec.view
    model.require_features(features_key(view, backbone.name, backbone.weights_sha256))
    extractor = Extractor(backbone, view.crop, device, workers=num_workers(workers))
    readers = {path: VideoReader(path) for path in paths}
    jobs = ((path, frames_of(readers[path], view)) for path in paths)
    for path, result in extractor.run(jobs):
        reader = readers.pop(path)
        if isinstance(result, RejectedVideo):
            yield Answer(path, "rejected", str(result))
        elif isinstance(result, Exception):
            yield Answer(path, "failed", f"{type(result).__name__}: {result}")
        else:
            try:
                yield answer_for(path, model, result, reader.verdict.status, reader.verdict.reason)
            except Exception as error:  # noqa: BLE001 - one file's failure is its answer, the others go on
                yield Answer(path, "failed", f"{type(error).__name__}: {error}")


def frames_of(reader: VideoReader, view: View) -> Iterator[Frame]:
    """The frames that a view takes from a video."""
    yield from reader.frames(view.fps, view.short_side)


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
