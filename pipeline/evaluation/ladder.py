"""The control ladder: what simpler models reach on the same features and the same test videos.

A score means something only beside what a coin, the file header, one frame, or the frames in any order would have
scored. The difference to each control is paired, with an interval by bootstrap over groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.evaluation import controls, resampled
from pipeline.evaluation.clip_metrics import clip_metrics
from pipeline.evaluation.frame_controls import file_properties_labels, mean_pool_labels
from pipeline.evaluation.frame_metrics import VideoScores, frame_metrics, overlap_f1, video_scores
from pipeline.evaluation.intervals import Resamples

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Part:
    """One side of a split: features (T, D) and labels per video, groups (N,), file properties (N, P) with nan.

    features: of the centre crop, where there are ten. labels: a class index per video (clip task) or an array (T,) per
    video (frame task). shown: what the model is shown, all crops (T, C, D).
    """

    features: Sequence[np.ndarray]
    shown: Sequence[np.ndarray]
    labels: Sequence[int] | Sequence[np.ndarray]
    groups: Sequence[str]
    properties: np.ndarray


@dataclass(frozen=True)
class Answers:
    """Class probabilities on the test videos, (N, K): of a model, and of its controls."""

    model: np.ndarray
    controls: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FrameAnswers:
    """Class probabilities on the test videos, (T, K) of each: of a model, and of its controls."""

    model: Sequence[np.ndarray]
    controls: Mapping[str, Sequence[np.ndarray]]


def clip_controls(train: Part, test: Part, predict: Predict, num_classes: int, seed: int) -> dict[str, np.ndarray]:
    """Class probabilities (N, K) of each control on the test videos; `predict` is the model, `shown` to (K,)."""
    labels = np.asarray(train.labels)
    reading = (train.features, labels, test.features, num_classes, seed)
    order = np.random.default_rng([seed, len(test.features)])
    return {
        "majority": controls.majority(labels, len(test.features), num_classes),
        "file_properties": controls.file_properties(train.properties, labels, test.properties, num_classes, seed),
        "single_frame": controls.single_frame(*reading),
        "mean_pool": controls.mean_pool(*reading),
        "mean_and_motion": controls.mean_and_motion(*reading),
        "shuffled": np.stack([predict(order.permutation(video)) for video in test.shown]),
        "reversed": np.stack([predict(video[::-1]) for video in test.shown]),
    }


def clip_scores(
    runs: Sequence[Answers],
    labels: np.ndarray,
    groups: Sequence[str],
    opposite: Mapping[int, int],
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """Scores of a clip model and its controls, as written to `metrics.json`.

    runs: the answers of one training, or of several that differ in their seed; labels (N,). Of several, every score is
    their mean, and every interval is that of this mean, whole groups being drawn anew for all of them together.
    Scores with an interval (`_low`, `_high`): top1, mean_class_accuracy, macro_f1 and, of two classes, auc. `low`,
    `high` and `difference` of a control are of top1, `difference` being model minus control, paired; of two classes
    there is `difference_auc` too. `reversed_opposite` (where classes have an opposite): of the videos that were right,
    the share that gets the opposite class when played backwards.
    """
    resamples = Resamples(groups, samples=samples, seed=seed)
    own = _clip_values([run.model for run in runs], labels, resamples)
    scores: dict[str, object] = {}
    scores |= mean_of([clip_metrics(run.model, labels) for run in runs])
    for name, (_, drawn) in own.items():
        scores |= _bounds(resamples, drawn, f"{name}_")
    rungs: dict[str, object] = {}
    for name in runs[0].controls:
        control = _clip_values([np.asarray(run.controls[name]) for run in runs], labels, resamples)
        rungs[name] = _rung(resamples, own, control, ("top1", "auc"))
    scores["num_groups"] = resamples.num_groups
    result: dict[str, object] = {"test": {"video": scores}, "controls": rungs}
    if opposite and "reversed" in runs[0].controls:
        shares = [
            controls.reverse_opposites(
                run.model.argmax(axis=1), np.asarray(run.controls["reversed"]).argmax(axis=1), labels, opposite
            )
            for run in runs
        ]
        result["reversed_opposite"] = float(np.mean(shares))
    return result


def clip_level_scores(
    right: Sequence[np.ndarray],
    clips: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """Scores of single clips, before they are averaged to an answer for the video: `test.clip` of `metrics.json`.

    right: (N,) of each training, how many of a video's clips get its class; clips: (N,), how many there are; labels:
    (N,). top1 is the share of all clips that are right, with its interval over groups of videos; mean_class_accuracy
    the mean over the classes of that share. Empty where no video has more than one clip: the levels are one.
    """
    if clips.max() < 2:
        return {}
    resamples = Resamples(groups, samples=samples, seed=seed)
    mean_right = np.mean(right, axis=0)
    totals = resamples.totals(np.column_stack([mean_right, clips]))
    recalls = [mean_right[labels == index].sum() / clips[labels == index].sum() for index in np.unique(labels)]
    return {
        "top1": float(mean_right.sum() / clips.sum()),
        "mean_class_accuracy": float(np.mean(recalls)),
        **_bounds(resamples, totals[:, 0] / totals[:, 1], "top1_"),
        "num_clips": float(clips.sum()),
        "num_videos": float(len(clips)),
        "num_groups": resamples.num_groups,
    }


def frame_controls(
    train: Part, test: Part, predict: Predict, num_classes: int, seed: int, *, fps: float
) -> dict[str, list[np.ndarray]]:
    """Class probabilities of each control, (T, K) per test video; `predict` is the model, (T, D) to (T, K).

    `shuffled` shows the model the frames in random order, `reversed` backwards; its answers are put back in place.
    fps: timesteps a second.
    """
    lengths = [len(video) for video in test.features]
    labels = [np.asarray(video) for video in train.labels]
    rng = np.random.default_rng([seed, len(lengths)])
    shuffled = []
    for video in test.shown:
        order = rng.permutation(len(video))
        answers = predict(video[order])
        back = np.empty_like(answers)
        back[order] = answers
        shuffled.append(back)
    reading = (train.features, labels, test.features, num_classes, seed)
    return {
        "majority": controls.majority_labels(labels, lengths, num_classes),
        "file_properties": file_properties_labels(
            train.properties, labels, test.properties, lengths, num_classes, seed
        ),
        "single_frame": controls.single_frame_labels(*reading),
        "mean_pool": mean_pool_labels(*reading, fps=fps),
        "shuffled": shuffled,
        "reversed": [predict(video[::-1])[::-1] for video in test.shown],
    }


def frame_scores(
    runs: Sequence[FrameAnswers],
    labels: Sequence[np.ndarray],
    groups: Sequence[str],
    background: int | None,
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """The same for the frame task, (T, K) and (T,) of each video.

    Scores with an interval: acc, edit, f1_10, f1_25, f1_50 and frame_map, this from `num_samples_frame_map` resamples
    (`resampled.average_precisions`). A control's `low`, `high` and `difference` are of acc; edit and f1_50 have theirs.
    """
    num_classes = runs[0].model[0].shape[1]

    def of_videos(answers: Sequence[np.ndarray]) -> VideoScores:
        predicted = [video.argmax(axis=1) for video in answers]
        return video_scores(labels, predicted, num_classes=num_classes, background=background)

    models = [of_videos(run.model) for run in runs]
    scored = models[0].position
    resamples = Resamples(np.asarray(groups)[scored], samples=samples, seed=seed)
    own = _frame_values(models, resamples)
    scores: dict[str, object] = {}
    scores |= mean_of([score_frames(run.model, labels, num_classes, background) for run in runs])
    for name, (_, drawn) in own.items():
        scores |= _bounds(resamples, drawn, f"{name}_")
    truth = [labels[index] for index in scored]
    kept = np.concatenate([video != IGNORED for video in truth])
    group_of_frame = np.repeat(resamples.group_of_item, [len(video) for video in truth])[kept]
    precisions = [
        resampled.average_precisions(
            resamples,
            group_of_frame,
            np.concatenate(truth)[kept],
            np.concatenate([run.model[index] for index in scored])[kept],
            background,
        )
        for run in runs
    ]
    scores |= _bounds(resamples, np.mean(precisions, axis=0), "frame_map_")
    scores["num_samples_frame_map"] = len(precisions[0])
    rungs: dict[str, object] = {}
    for name in runs[0].controls:
        control = _frame_values([of_videos(run.controls[name]) for run in runs], resamples)
        rungs[name] = _rung(resamples, own, control, ("acc", "edit", "f1_50"))
    scores["num_groups"] = resamples.num_groups
    return {"test": {"frame": scores}, "controls": rungs}


# Of each score its value and its values in the resamples, (samples,), both the mean over the trainings.
_Values = Mapping[str, tuple[float, np.ndarray]]


def _clip_values(answers: Sequence[np.ndarray], labels: np.ndarray, resamples: Resamples) -> _Values:
    num_classes = answers[0].shape[1]
    found = []
    for probs in answers:
        predicted = probs.argmax(axis=1)
        scores = clip_metrics(probs, labels)
        drawn = {"top1": resampled.means(resamples, predicted == labels)}
        drawn |= resampled.class_means(resamples, labels, predicted, num_classes)
        if num_classes == 2:
            drawn["auc"] = resampled.aucs(resamples, probs[:, 1], labels == 1)
        found.append({name: (scores[name], values) for name, values in drawn.items()})
    return _mean_values(found)


def _frame_values(videos: Sequence[VideoScores], resamples: Resamples) -> _Values:
    found = []
    for each in videos:
        scores = {"acc": each.right.sum() / each.frames.sum(), "edit": each.edit.mean()}
        scores |= {name: overlap_f1(counts.sum(axis=0)) for name, counts in each.overlaps.items()}
        drawn = resampled.frame_means(resamples, each)
        found.append({name: (float(scores[name]), values) for name, values in drawn.items()})
    return _mean_values(found)


def _mean_values(found: Sequence[_Values]) -> _Values:
    return {
        name: (float(np.mean([one[name][0] for one in found])), np.mean([one[name][1] for one in found], axis=0))
        for name in found[0]
    }


def _rung(resamples: Resamples, own: _Values, control: _Values, names: Sequence[str]) -> dict[str, object]:
    """A control's scores, of which the first is the headline: its keys name no score."""
    rung: dict[str, object] = {}
    for place, name in enumerate(name for name in names if name in control):
        prefix, suffix = ("", "") if place == 0 else (f"{name}_", f"_{name}")
        value, drawn = control[name]
        rung |= {name: value, **_bounds(resamples, drawn, prefix)}
        rung[f"difference{suffix}"] = own[name][0] - value
        rung |= _bounds(resamples, own[name][1] - drawn, f"difference{suffix}_")
    return rung


def _bounds(resamples: Resamples, drawn: np.ndarray, prefix: str) -> dict[str, object]:
    interval = resamples.interval(drawn)
    return {f"{prefix}low": interval.low, f"{prefix}high": interval.high}


def mean_of(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over several trainings."""
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def score_frames(
    answers: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_classes: int, background: int | None
) -> dict[str, float]:
    """`frame_metrics` of class probabilities, (T, K) of each video."""
    predicted = [video.argmax(axis=1) for video in answers]
    return frame_metrics(labels, predicted, num_classes=num_classes, background=background, probs=answers)
