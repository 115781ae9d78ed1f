"""Stage `evaluate`: a model's scores on its test split, with controls and intervals, as tables, figures and JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.data.tables import SIDES
from pipeline.device import choose_device
from pipeline.evaluation.clip_metrics import confusion_matrix, per_class_table
from pipeline.evaluation.ladder import (
    Answers,
    FrameAnswers,
    Part,
    clip_controls,
    clip_scores,
    frame_controls,
    frame_scores,
)
from pipeline.features.backbones import read_backbone
from pipeline.features.store import FeatureStore
from pipeline.models.modelfolder import Model, load_model
from pipeline.stages.answers import headline, write_records, write_scores
from pipeline.stages.figures import draw_evaluation
from pipeline.stages.layout import dataset_of, stage_options
from pipeline.stages.samples import Sample, opposites, read_samples
from pipeline.tracking import Run, flatten, tracking_uri
from pipeline.view import features_key

NUM_SHOWN = 12  # test videos of which every timestep is shown
PROPERTIES = ("size_bytes", "width", "height", "fps_header", "duration_seconds_header", "bit_rate", "has_audio")


def main(argv: Sequence[str] | None = None) -> None:
    """Score one training; nothing here has been seen by it or chosen by its scores."""
    options = stage_options(__doc__, argv, task=True, stream=True, fold=True, seed=True)
    experiment, layout, task, fold = options.experiment, options.layout, options.task, options.fold
    dataset = dataset_of(experiment)
    training = layout.training(options.training)
    model = load_model(training / "model", str(choose_device(options.runtime.device)))
    name = options.representation
    backbone = read_backbone(layout.backbone(name) / "backbone.safetensors")
    key = features_key(options.settings.view, backbone.name, backbone.weights_sha256)
    store = FeatureStore(layout.features(name), key)
    train, validation, test = (
        read_samples(layout, store, dataset, task=task, fold=fold, split=split) for split in SIDES
    )
    samples, seed = experiment.evaluate.bootstrap_samples, experiment.seed
    probs = [model.predict(sample.features, key) for sample in test]
    groups = [sample.video.group for sample in test]
    num_classes = len(model.classes)
    sides = part(train, task), part(test, task)
    scores: dict[str, object]
    if task == "clip":
        stacked, labels = np.stack(probs), np.array([sample.labels[0] for sample in test])
        ladder: Mapping[str, Any] = clip_controls(*sides, model.predict_features, num_classes, seed)
        runs = [Answers(stacked, ladder)]
        scores = clip_scores(runs, labels, groups, opposites(dataset, options.stream), samples=samples, seed=seed)
    else:
        background = 0 if model.spec.background is not None else None
        ladder = frame_controls(*sides, model.predict_features, num_classes, seed)
        truth = [sample.labels for sample in test]
        frames = [FrameAnswers(probs, ladder)]
        scores = frame_scores(frames, truth, groups, background, samples=samples, seed=seed)
        kept = np.concatenate([sample.labels != IGNORED for sample in test])
        stacked, labels = np.concatenate(probs)[kept], np.concatenate(truth)[kept]
    matrix = confusion_matrix(labels, stacked.argmax(axis=1), num_classes)
    per_class = per_class_table(stacked, labels, model.classes)
    folder = layout.evaluation(options.training)
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "predictions.csv", prediction_rows(model, test, probs))
    answers = [model.predict(sample.features, key) for sample in validation]
    write_records(folder / "validation.csv", prediction_rows(model, validation, answers))
    write_records(folder / "controls.csv", control_rows(model, test, ladder))
    shown = test[:: max(1, len(test) // NUM_SHOWN)][:NUM_SHOWN]
    write_records(folder / "over_time.csv", [row for sample in shown for row in over_time_rows(model, sample)])
    write_scores(folder, scores, per_class, matrix, model.classes)
    draw_evaluation(folder, model.spec.background)
    log_to_run(training / "mlflow_run.json", scores, per_class, folder)
    print(f"evaluate: {options.name} {options.training}: {headline(task, scores)}")


class Shown(Sequence[np.ndarray]):
    """The features of videos, read one by one when they are asked for: (T, D), or of ten crops (T, 10, D); float32.

    centre: of ten crops the first alone, (T, D).
    """

    def __init__(self, samples: Sequence[Sample], centre: bool) -> None:
        self._samples, self._centre = samples, centre

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        values = self._samples[index].values
        return values[:, 0] if self._centre and values.ndim == 3 else values


def part(samples: Sequence[Sample], task: str) -> Part:
    """One side of the split as the controls take it."""
    return Part(
        features=Shown(samples, centre=True),
        shown=Shown(samples, centre=False),
        labels=[int(sample.labels[0]) for sample in samples] if task == "clip" else [s.labels for s in samples],
        groups=[sample.video.group for sample in samples],
        properties=np.array([[_number(getattr(s.video, name)) for name in PROPERTIES] for s in samples]),
    )


def prediction_rows(
    model: Model, samples: Sequence[Sample], probs: Sequence[np.ndarray]
) -> Iterable[dict[str, object]]:
    """Rows of predictions.csv: one per video (clip task) or per timestep (frame task), all class probabilities."""
    for sample, answer in zip(samples, probs, strict=True):
        steps = [(None, answer)] if model.task == "clip" else list(enumerate(answer))
        for step, scores in steps:
            truth = int(sample.labels[step or 0])
            row: dict[str, object] = {"video_id": sample.video.video_id, "group": sample.video.group}
            if step is not None:
                row |= {"step": step, "time_seconds": round(float(sample.time_seconds[step]), 6)}
            row |= {
                "label": model.classes[truth] if truth != IGNORED else "",
                "predicted": model.classes[int(scores.argmax())],
                "score": round(float(scores.max()), 6),
            }
            yield row | {name: round(float(value), 6) for name, value in zip(model.classes, scores, strict=True)}


def over_time_rows(model: Model, sample: Sample) -> Iterable[dict[str, object]]:
    """Rows of over_time.csv: how sure the model is at each timestep, and what the step counts in a clip's answer."""
    values = sample.values
    steps = model.step_probabilities(values)
    weights = model.time_weights(values) if model.task == "clip" else np.ones(len(values))
    whole = model.predict_features(values)
    for step, (time, probs, weight) in enumerate(zip(sample.time_seconds, steps, weights, strict=True)):
        truth = int(sample.labels[step])
        answer = int((whole if model.task == "clip" else probs).argmax())
        yield {
            "video_id": sample.video.video_id,
            "time_seconds": round(float(time), 6),
            "label": model.classes[truth] if truth != IGNORED else "",
            "predicted": model.classes[answer],
            "label_probability": round(float(probs[truth]), 6) if truth != IGNORED else "",
            "predicted_probability": round(float(probs[answer]), 6),
            "weight": round(float(weight), 6),
        }


def control_rows(
    model: Model, samples: Sequence[Sample], ladder: Mapping[str, Sequence[np.ndarray]]
) -> Iterable[dict[str, object]]:
    """Rows of controls.csv: what each control answered for each video (clip task) or timestep (frame task)."""
    for name, answers in ladder.items():
        for row in prediction_rows(model, samples, answers):
            yield {"control": name, **row}


def log_to_run(
    run_file: Path, scores: Mapping[str, object], per_class: Sequence[Mapping[str, object]], folder: Path
) -> None:
    """Add the scores and figures to the run that trained the model."""
    facts = json.loads(run_file.read_text(encoding="utf-8"))
    with Run.resume(facts["run_id"], tracking_uri(Path()), experiment=facts["experiment"], name=facts["name"]) as run:
        run.log_metrics({k: v for k, v in flatten(scores).items() if isinstance(v, int | float)})
        run.log_table(list(per_class), "per_class.json")
        run.log_file(folder / "predictions.csv")
        run.log_folder(folder / "figures", "figures")


def _number(value: object) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]
