"""Stage `fuse`: the answers of the RGB and the flow stream averaged, scored as `evaluate` scores each of them."""

from collections.abc import Sequence

from pipeline.data.labels import IGNORED
from pipeline.data.tables import Side, read_splits, video_ids
from pipeline.discovery import printable
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.calibration import fit_calibration
from pipeline.evaluation.clip_metrics import confusion_matrix, per_class_table
from pipeline.evaluation.fusion import Aligned, align, choose_weight
from pipeline.evaluation.headline import headline_scores
from pipeline.stages.answers import (
    alarm_words,
    alarms,
    calibration_section,
    headline,
    pooled,
    read_answers,
    write_detection,
    write_records,
    write_scores,
)
from pipeline.stages.drawing import draw_evaluation
from pipeline.stages.layout import StageOptions, dataset_of, stage_options, training_name
from pipeline.stages.leaks import leak_counts
from pipeline.stages.samples import task_classes
from pipeline.stages.tracked import fusion_run

FILES: dict[Side, str] = {"val": "validation.csv", "test": "predictions.csv"}


def main(argv: Sequence[str] | None = None) -> None:
    """Fuse two trainings of one task, fold and seed; the test side chooses nothing."""
    options = stage_options(__doc__, argv, task=True, fold=True, seed=True)
    name = training_name(options.task, "fused", options.fold, options.seed)
    with options.layout.writing(options.layout.evaluation(name)):
        fuse_one(options, name)


def fuse_one(options: StageOptions, name: str) -> None:
    """Fuse the trainings that the options name; name: of the fusion."""
    flow, task = options.experiment.flow, options.task
    if flow is None or task not in options.experiment.fused_tasks:
        raise ConfigError(
            f"configs/{options.name}.yaml: there is no flow stream for the {task} task; expected settings in train and "
            "in flow.train, or run `lrcn select` again"
        )
    dataset = dataset_of(options.experiment)
    classes = task_classes(dataset, task)
    validation, test = read_aligned(options, classes, "val"), read_aligned(options, classes, "test")
    chosen: dict[str, float] = {}
    if flow.weight == "validation":
        weight, loss = choose_weight(validation)
        chosen = {"validation_nll": loss}
    else:
        weight = flow.weight
    # A mean of calibrated probabilities is less sure than it might be: where the streams differ it is in between.
    labelled = validation.labels != IGNORED
    calibration = fit_calibration(
        validation.fused(weight)[labelled], validation.labels[labelled], validation.items["group"][labelled].to_numpy()
    )
    before = test.fused(weight)
    probs = calibration.apply(before)
    threshold = calibration.threshold(options.experiment.evaluate.precision)
    predictions, controls = test.table(probs, before, threshold), test.controls()
    scores = pooled(options, dataset, task, "fused", {options.seed: [(predictions, controls)]})
    scores = {name: scores[name] for name in ("test", "controls", "detection") if name in scores}
    scores["calibration"] = calibration_section(options.experiment, calibration, predictions)
    scores["fusion"] = {
        "flow_weight": weight,
        **chosen,
        "videos_rgb_alone": test.videos_rgb_alone,
        "videos_flow_alone": test.videos_flow_alone,
        "steps_rgb_alone": test.steps_rgb_alone,
    }
    scores["leaks"] = leak_counts(options.layout, [options.fold])
    known = test.labels != IGNORED
    matrix = confusion_matrix(test.labels[known], probs[known].argmax(axis=1), len(classes))
    folder = options.layout.evaluation(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, table in (("predictions.csv", predictions), ("controls.csv", controls)):
        records = table.to_dict("records")
        write_records(folder / file, ({str(key): value for key, value in row.items()} for row in records))
    per_class = per_class_table(probs[known], test.labels[known], classes)
    write_scores(folder, scores, per_class, matrix, classes)
    write_detection(folder / "detection.csv", predictions, alarms(options, dataset))
    figures = draw_evaluation(folder, dataset.card.background if task == "frame" else None)
    about = f"{options.training} and its flow stream; {task} task of {dataset.card.title}"
    with fusion_run(options, name, about) as run:
        run.log_metrics({f"test/{score}": value for score, value in headline_scores(task, scores).items()})
        run.log_file(folder / "metrics.json")
        run.log_table(per_class, "per_class.json")
        run.log_file(folder / "predictions.csv")
        run.log_folder(figures, "figures")
    print(f"fuse: {options.name} {name}: flow weighs {weight:g}; {headline(task, scores)}{alone(test)}")
    for line in alarm_words(scores):
        print(printable(line))


def read_aligned(options: StageOptions, classes: Sequence[str], split: Side) -> Aligned:
    """Both streams' answers on one side of the fold; raises DataError for a video that is not on it."""
    layout, fold = options.layout, options.fold
    paths = {
        stream: layout.evaluation(training_name(options.task, stream, fold, options.seed)) / FILES[split]
        for stream in ("rgb", "flow")
    }
    tables = {stream: read_answers(path) for stream, path in paths.items()}
    side = set(video_ids(read_splits(layout.splits), fold, split))
    for stream, table in tables.items():
        others = sorted(set(table["video_id"]) - side)
        if others:
            raise DataError(
                f"{paths[stream]}: {len(others)} video(s) that are not on the {split} side of fold {fold}, the first "
                f"is {others[0]}; run the stage `evaluate` of the {stream} stream again"
            )
    try:
        return align(tables["rgb"], tables["flow"], classes)
    except DataError as error:
        raise DataError(f"{paths['rgb']} and {paths['flow']}: {error}") from None


def alone(test: Aligned) -> str:
    """In words, what only one of the streams could answer."""
    parts = [
        f"{count} {what}"
        for count, what in (
            (test.videos_rgb_alone, "video(s) answered by RGB alone"),
            (test.videos_flow_alone, "video(s) answered by flow alone"),
            (test.steps_rgb_alone, "timestep(s) of first pictures answered by RGB alone"),
        )
        if count
    ]
    return "".join(f"; {part}" for part in parts)
