"""Stage `evaluate`: a model's scores on its test split, with controls and intervals, as tables, figures and JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.data.properties import Properties, read_properties
from pipeline.data.tables import SIDES
from pipeline.discovery import printable
from pipeline.evaluation.clip_metrics import confusion_matrix, per_class_table
from pipeline.evaluation.headline import headline_scores
from pipeline.evaluation.ladder import (
    Answers,
    FrameAnswers,
    Part,
    clip_controls,
    clip_level_scores,
    clip_scores,
    frame_controls,
    frame_scores,
)
from pipeline.evaluation.pooling import add_clip_level, pool_detection
from pipeline.features.backbones import describe_backbone
from pipeline.features.store import FeatureStore
from pipeline.models.modelfolder import Model
from pipeline.stages.answers import (
    alarm_words,
    alarms,
    calibration_section,
    headline,
    read_answers,
    write_detection,
    write_records,
    write_scores,
)
from pipeline.stages.drawing import draw_evaluation
from pipeline.stages.layout import StageOptions, dataset_of, stage_options
from pipeline.stages.leaks import leak_counts
from pipeline.stages.samples import Sample, labelled_answers, opposites, read_samples
from pipeline.stages.tracked import resumed_run
from pipeline.stages.trained import trained_model
from pipeline.view import features_key

NUM_SHOWN = 12  # test videos of which every timestep is shown


def main(argv: Sequence[str] | None = None) -> None:
    """Score one training; nothing here has been seen by it or chosen by its scores."""
    options = stage_options(__doc__, argv, task=True, stream=True, fold=True, seed=True)
    with options.layout.writing(options.layout.evaluation(options.training)):
        evaluate_one(options)


def evaluate_one(options: StageOptions) -> None:
    """Score the training that the options name."""
    experiment, layout, task, fold = options.experiment, options.layout, options.task, options.fold
    dataset = dataset_of(experiment)
    model = trained_model(options)
    name = options.representation
    backbone = describe_backbone(layout.backbone(name) / "backbone.safetensors")
    key = features_key(options.settings.view, backbone.name, backbone.weights_sha256)
    store = FeatureStore(layout.features(name), key)
    train, validation, test = (
        read_samples(layout, store, dataset, task=task, fold=fold, split=split) for split in SIDES
    )
    samples, seed = experiment.evaluate.bootstrap_samples, experiment.seed
    plain = model.uncalibrated()
    before = [plain.predict(sample.features, key) for sample in test]
    probs = [model.spec.calibration.apply(answer) for answer in before]
    groups = [sample.video.group for sample in test]
    num_classes = len(model.classes)
    properties = read_properties(layout.properties)
    sides = part(train, task, properties), part(test, task, properties)
    stacked, labels, _ = labelled_answers(task, test, probs)
    scores: dict[str, object]
    clips: Sequence[tuple[int, int]] = ()
    if task == "clip":
        ladder: Mapping[str, Any] = clip_controls(*sides, model.predict_features, num_classes, seed)
        runs = [Answers(stacked, ladder)]
        scores = clip_scores(runs, labels, groups, opposites(dataset, options.stream), samples=samples, seed=seed)
        if clips := clips_right(model, test):
            number, right = np.array(clips).T
            add_clip_level(scores, clip_level_scores([right], number, labels, groups, samples=samples, seed=seed))
    else:
        background = 0 if model.spec.background is not None else None
        ladder = frame_controls(*sides, model.predict_features, num_classes, seed, fps=model.spec.view.fps)
        truth = [sample.labels for sample in test]
        frames = [FrameAnswers(probs, ladder)]
        scores = frame_scores(frames, truth, groups, background, samples=samples, seed=seed)
    scores["leaks"] = leak_counts(layout, [fold])
    matrix = confusion_matrix(labels, stacked.argmax(axis=1), num_classes)
    per_class = per_class_table(stacked, labels, model.classes)
    folder = layout.evaluation(options.training)
    folder.mkdir(parents=True, exist_ok=True)
    threshold = model.threshold(experiment.evaluate.precision)
    write_records(folder / "predictions.csv", prediction_rows(model, test, probs, (before, threshold), clips))
    answers = [plain.predict(sample.features, key) for sample in validation]
    calibrated = [model.spec.calibration.apply(answer) for answer in answers]
    parts = clips_right(model, validation)
    write_records(
        folder / "validation.csv", prediction_rows(model, validation, calibrated, (answers, threshold), parts)
    )
    answered, watched = read_answers(folder / "predictions.csv"), alarms(options, dataset)
    scores["calibration"] = calibration_section(experiment, model.spec.calibration, answered)
    write_detection(folder / "detection.csv", answered, watched)
    if watched.classes:
        scores["detection"] = pool_detection(
            {options.seed: [(answered, answered)]}, watched, samples=samples, seed=seed
        )
    write_records(folder / "controls.csv", control_rows(model, test, ladder))
    shown = test[:: max(1, len(test) // NUM_SHOWN)][:NUM_SHOWN]
    write_records(folder / "over_time.csv", [row for sample in shown for row in over_time_rows(model, sample)])
    write_scores(folder, scores, per_class, matrix, model.classes)
    draw_evaluation(folder, model.spec.background)
    log_to_run(options, key, scores, per_class)
    print(f"evaluate: {options.name} {options.training}: {headline(task, scores)}")
    for line in alarm_words(scores):
        print(printable(line))


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


def part(samples: Sequence[Sample], task: str, properties: Properties) -> Part:
    """One side of the split as the controls take it."""
    return Part(
        features=Shown(samples, centre=True),
        shown=Shown(samples, centre=False),
        labels=[int(sample.labels[0]) for sample in samples] if task == "clip" else [s.labels for s in samples],
        groups=[sample.video.group for sample in samples],
        properties=properties.table([sample.video.video_id for sample in samples]),
    )


def clips_right(model: Model, samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """How many clips the view cuts out of each video, and of how many the class is right; nothing for whole videos."""
    if model.task != "clip" or not model.spec.view.clip_frames:
        return []
    answers = [model.predict_clips(sample.values).argmax(axis=1) for sample in samples]
    return [(len(clips), int((clips == s.labels[0]).sum())) for clips, s in zip(answers, samples, strict=True)]


def prediction_rows(
    model: Model,
    samples: Sequence[Sample],
    probs: Sequence[np.ndarray],
    judged: tuple[Sequence[np.ndarray], float | None] | None = None,
    clips: Sequence[tuple[int, int]] = (),
) -> Iterable[dict[str, object]]:
    """Rows of predictions.csv: one per video (clip task) or per timestep (frame task), all class probabilities.

    seconds: of a video on the view's grid, from the first frame shown to the end of its last timestep. judged: the
    probabilities before they were calibrated, the highest of which is `uncalibrated`, and the threshold from which on
    an answer is `sure`; without them the columns are those of controls.csv. clips: see `clips_right`; their columns are
    there where they are given.
    """
    before, threshold = judged or (probs, None)
    for index, (sample, answer, first) in enumerate(zip(samples, probs, before, strict=True)):
        steps = [None] if model.task == "clip" else range(len(answer))
        for step in steps:
            scores, uncalibrated = (answer, first) if step is None else (answer[step], first[step])
            truth = int(sample.labels[step or 0])
            row: dict[str, object] = {"video_id": sample.video.video_id, "group": sample.video.group}
            if step is None:
                row["seconds"] = round(float(sample.time_seconds[-1]) + 1 / model.spec.view.fps, 6)
                row |= dict(zip(("clips", "clips_right"), clips[index], strict=True)) if clips else {}
            else:
                row |= {"step": step, "time_seconds": round(float(sample.time_seconds[step]), 6)}
            row |= {
                "label": model.classes[truth] if truth != IGNORED else "",
                "predicted": model.classes[int(scores.argmax())],
            }
            score = float(scores.max())
            if judged is not None:
                sure = threshold is not None and score >= threshold
                row |= {"uncalibrated": round(float(uncalibrated.max()), 6), "sure": int(sure)}
            row["score"] = round(score, 6)
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
    options: StageOptions, features_key: str, scores: Mapping[str, Any], per_class: Sequence[Mapping[str, object]]
) -> None:
    """Add the headline, the tables and the figures to the run that trained the model."""
    folder = options.layout.evaluation(options.training)
    with resumed_run(options, features_key) as run:
        run.log_metrics({f"test/{name}": value for name, value in headline_scores(options.task, scores).items()})
        run.log_file(folder / "metrics.json")
        run.log_table(list(per_class), "per_class.json")
        run.log_file(folder / "predictions.csv")
        run.log_folder(folder / "figures", "figures")
