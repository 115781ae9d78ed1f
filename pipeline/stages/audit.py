"""Stage `audit`: do the sides of the split share pictures, and do file properties alone tell the classes."""

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.data.audit import describe_leaks, leak_problem
from pipeline.data.cards import Dataset
from pipeline.data.labels import class_index
from pipeline.data.properties import Properties, measure, write_properties
from pipeline.data.splits import Fold, Leak, find_picture_leaks, folds_of
from pipeline.data.tables import SIDES, Video, read_csv, read_splits, usable_videos
from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.errors import DataError, LeakError
from pipeline.evaluation.shortcut import PropertyFold, shortcut_scores
from pipeline.files import write_hashes, write_json
from pipeline.progress import Progress
from pipeline.stages.layout import Layout, StageOptions, dataset_of, stage_options
from pipeline.threads import in_threads
from pipeline.video.duplicates import find_copies
from pipeline.video.fingerprints import Fingerprint, fingerprint
from pipeline.video.framestore import FrameStore

SCORES = ("auc", "auc_low", "auc_high", "accuracy", "accuracy_low", "accuracy_high", "majority_accuracy")
NUM_SHOWN = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Write `properties.csv`, `leaks.json`, `shortcut.json`, `inputs.csv`; a leak that is not allowed is a LeakError.

    With `--premium`, which takes as long as training does and needs finished evaluations, `premium.json` too.
    """
    options = stage_options(__doc__, argv, allow_leak=True, premium=True)
    with options.layout.writing(options.layout.root):
        audit_all(options)
    if options.premium:
        # Imported by name: it trains, and the stage that DVC runs does not depend on the code that does.
        importlib.import_module("pipeline.stages.premium").leakage_premium(options)


def audit_all(options: StageOptions) -> None:
    """Audit the experiment's videos and splits."""
    layout = options.layout
    layout.leaks.unlink(missing_ok=True)  # of an earlier run: this one may find what stops the stages after it
    dataset = dataset_of(options.experiment)
    videos = usable_videos(layout.videos)
    decoded = {row["video_id"]: row for _, row in read_csv(layout.decoded, ["video_id", "status", "num_frames"])}
    if missing := [video.video_id for video in videos if video.video_id not in decoded]:
        raise DataError(
            f"{layout.decoded}: no row for {len(missing)} video(s), {missing[0]!r} first; run the stage decode again"
        )
    shown = [video for video in videos if decoded[video.video_id]["status"] != "rejected"]
    prints = fingerprints(options, shown)
    properties = measure(
        videos,
        {video.video_id: int(decoded[video.video_id]["num_frames"] or 0) for video in shown},
        {video_id: one.brightness for video_id, one in prints.items()},
    )
    write_properties(layout.properties, properties)
    folds = folds_of(read_splits(layout.splits))
    check_leaks(options, dataset, videos, prints, folds)
    check_shortcut(options, dataset, videos, properties, folds)
    write_inputs(layout, dataset)


def write_inputs(layout: Layout, dataset: Dataset) -> None:
    """Write `inputs.csv`: what trainings and their scores are made from, for DVC to look at one file instead of ten."""
    definition = sorted(path for path in dataset.folder.rglob("*") if path.is_file() and path.name != "README.md")
    tables = layout.videos, layout.segments, layout.splits, layout.decoded, layout.frames_table, layout.leaks
    write_hashes(layout.inputs, (*definition, *tables))


def fingerprints(options: StageOptions, videos: Sequence[Video]) -> dict[str, Fingerprint]:
    """Fingerprints of decoded videos by id, from one pass over the stored frames; none of ready-made features."""
    if options.experiment.backbone is None:
        return {}
    store = FrameStore(options.layout.frames, options.experiment.view.frames_key)
    contents = list(dict.fromkeys(video.sha256 for video in videos))
    progress = Progress("audit", len(contents))
    seen = in_threads(
        lambda sha256: fingerprint(progress.counting(store.read(sha256))),
        contents,
        num_workers(options.runtime.workers),
    )
    found = dict(zip(contents, progress.over(seen), strict=True))
    return {video.video_id: found[video.sha256] for video in videos}


def check_leaks(
    options: StageOptions,
    dataset: Dataset,
    videos: Sequence[Video],
    prints: dict[str, Fingerprint],
    folds: Sequence[Fold],
) -> None:
    """Write `leaks.json`; raises LeakError, and leaves it unwritten, for leaks that are not allowed."""
    layout, published = options.layout, dataset.card.splits.official
    compared = [video for video in videos if video.video_id in prints and len(prints[video.video_id].hashes)]
    sides = np.array(
        [[SIDES.index(fold[v.video_id]) if v.video_id in fold else -1 for fold in folds] for v in compared], np.int8
    ).reshape(-1, len(folds))
    copies = [
        (compared[copy.first].video_id, compared[copy.second].video_id, copy.mirrored)
        for copy in find_copies([prints[v.video_id] for v in compared], [v.group for v in compared], sides)
        if compared[copy.first].sha256 != compared[copy.second].sha256  # those are leaks of kind `content`
    ]
    index: dict[str, Any] = json.loads(layout.audit.read_text(encoding="utf-8"))
    leaks = [*(Leak(**leak) for leak in index["leaks"]), *find_picture_leaks(copies, folds)]
    if leaks and not (published or options.allow_leak):
        raise LeakError(leak_problem(dataset.folder / "card.yaml", leaks))
    facts = {
        "allowed": options.allow_leak,
        "published": published,
        "videos_compared": len(compared),
        "leaks": [asdict(leak) for leak in leaks],
    }
    write_json(layout.leaks, facts)
    what = "features have no pictures to compare" if options.experiment.backbone is None else (
        f"pictures of {len(compared)} of {len(videos)} videos compared"
    )  # fmt: skip
    print(f"audit: {what}; {len(leaks) or 'no'} leak(s) in {len(folds)} fold(s); see {layout.leaks}")
    if leaks:
        why = "the published split leaks" if published else "leaks allowed, every score will say so"
        print(printable(f"audit: warning: {why}: {describe_leaks(leaks)}"))


def check_shortcut(
    options: StageOptions,
    dataset: Dataset,
    videos: Sequence[Video],
    properties: Properties,
    folds: Sequence[Fold],
) -> None:
    """Write `shortcut.json` and say what it holds; nothing but nulls where no fold has labelled videos to test."""
    limit = options.experiment.audit.max_shortcut_auc
    labelled = [video for video in videos if video.label]
    sides = [{side: on_side(labelled, fold, side) for side in SIDES} for fold in folds]
    usable = [PropertyFold(side["train"], side["test"]) for side in sides if len(side["train"]) and len(side["test"])]
    scores: dict[str, Any] = {
        **dict.fromkeys(SCORES),
        **{"num_videos": 0, "num_groups": 0, "limit": limit, "above_limit": False, "importances": {}},
    }
    if usable:
        scores |= shortcut_scores(
            properties.table([video.video_id for video in labelled]),
            properties.names,
            np.array([class_index(video.label, dataset.classes) for video in labelled]),
            [video.group for video in labelled],
            usable,
            len(dataset.classes),
            samples=options.experiment.evaluate.bootstrap_samples,
            seed=options.experiment.seed,
        )
        scores["above_limit"] = bool(scores["auc"] > limit)
        scores |= {name: None if np.isnan(scores[name]) else scores[name] for name in SCORES}
    write_json(options.layout.shortcut, scores)
    if scores["auc"] is None:
        print("audit: no labelled videos of two classes to test; file properties were not tried as a shortcut")
        return
    print(
        f"audit: file properties alone: AUC {scores['auc']:.3f}{interval(scores, 'auc')}, "
        f"accuracy {scores['accuracy']:.3f}{interval(scores, 'accuracy')}, most frequent class "
        f"{scores['majority_accuracy']:.3f}, on {scores['num_videos']} test videos; see {options.layout.shortcut}"
    )
    if scores["above_limit"]:
        told = sorted(scores["importances"].items(), key=lambda item: -item[1])[:NUM_SHOWN]
        print(
            f"audit: warning: that AUC is above audit.max_shortcut_auc ({limit:g}): the classes were recorded "
            "differently, and a model may learn this instead of what happens. What tells most, by the AUC lost without "
            f"it: {', '.join(f'{name} {loss:.3f}' for name, loss in told)}"
        )


def on_side(videos: Sequence[Video], fold: Fold, side: str) -> np.ndarray:
    """Places of the videos that stand on a side of a fold."""
    return np.array([i for i, video in enumerate(videos) if fold.get(video.video_id) == side], dtype=np.int64)


def interval(scores: dict[str, Any], name: str) -> str:
    """The bounds of a score in words, "" where there are none."""
    low, high = scores[f"{name}_low"], scores[f"{name}_high"]
    return "" if low is None else f" [{low:.3f}, {high:.3f}]"
