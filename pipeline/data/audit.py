"""What a reviewer wants to know of a prepared data set: counts, what was left out, and what looks wrong."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.data.groups import joined
from pipeline.data.scan import OWN_TABLE
from pipeline.data.splits import Fold, Leak
from pipeline.data.tables import SIDES, Segment, Side, Video
from pipeline.errors import DataError

WORDS = {"content": "the same bytes", "pictures": "the same pictures"}


def check_folds(
    folds: Sequence[Fold],
    videos: Iterable[Video],
    segments: Iterable[Segment],
    classes: Sequence[str],
    *,
    published: bool = False,
) -> None:
    """Refuse folds that cannot be trained and tested on; raises DataError naming the fold and the classes.

    Every side must hold a video. Each class must have a labelled training video, or a training segment where no video
    has a label. Where videos have labels and others have segments, the audit counts the classes without a segment.
    published: the folds and their rare actions are somebody else's; classes without training are left to the audit.
    """
    videos, segments = list(videos), list(segments)
    for number, fold in enumerate(folds, start=1):
        for side in SIDES:
            if side not in fold.values():
                raise DataError(f"splits: fold {number} has no {side} video; change the splits in the card")
        labels = Counter(v.label for v in videos if v.label and fold.get(v.video_id) == "train")
        actions = Counter(s.label for s in segments if fold.get(s.video_id) == "train")
        what, counts = ("video", labels) if any(v.label for v in videos) else ("segment", actions)
        if (missing := [name for name in classes if not counts[name]]) and not published:
            raise DataError(
                f"splits: fold {number} has no training {what} of {len(missing)} class(es), "
                f"{', '.join(missing[:10])}; add some, change the splits in the card, "
                "or take the class out of classes.txt"
            )


def count_fold(number: int, fold: Fold, videos: Iterable[Video], segments: Iterable[Segment]) -> dict[str, Any]:
    """Numbers of videos, groups, labels and segments on each side of a fold."""
    videos, segments = list(videos), list(segments)
    counts: dict[str, Any] = {"fold": number}
    for side in SIDES:
        there = [video for video in videos if fold.get(video.video_id) == side]
        counts[side] = {
            "videos": len(there),
            "groups": len({video.group for video in there}),
            "classes": _sorted_counts(video.label for video in there if video.label),
            "segments": _sorted_counts(segment.label for segment in segments if fold.get(segment.video_id) == side),
        }
    return counts


def duplicates(videos: Iterable[Video]) -> list[dict[str, Any]]:
    """Videos with the same bytes, with their labels."""
    found: dict[str, list[Video]] = {}
    for video in videos:
        found.setdefault(video.sha256, []).append(video)
    return [
        {"sha256": sha256, "video_ids": [v.video_id for v in same], "labels": sorted({v.label for v in same})}
        for sha256, same in sorted(found.items())
        if len(same) > 1
    ]


def build_audit(
    name: str,
    videos: Sequence[Video],
    segments: Sequence[Segment],
    folds: Sequence[Fold],
    *,
    leaks: Sequence[Leak],
    published: bool,
    joined_groups: Sequence[Sequence[str]],
    expected: Sequence[Mapping[Side, int]],
    notes: Sequence[str],
    what: str,
    background: Sequence[str] = (),
) -> dict[str, Any]:
    """The contents of `audit.json`: plain values that depend on the data alone.

    expected: published sizes by fold, `train` counting the validation part. `warnings` holds the lines to be printed:
    notes, and everything found here that is worth a look and no reason to stop. published: the splits are somebody
    else's; leaks in others have been allowed. what: the word for a file of the media. background: videos that show no
    action. Files that the card names, such as tables of labels, are counted apart and are nothing to look at.
    """
    usable = [video for video in videos if video.status == "ok"]
    members = set().union(*folds)
    same = duplicates(usable)
    counts = [count_fold(number, fold, videos, segments) for number, fold in enumerate(folds, start=1)]
    sizes = [{"train": c["train"]["videos"] + c["val"]["videos"], "test": c["test"]["videos"]} for c in counts]
    unmet = [
        {"fold": number, "side": side, "expected": count, "found": found[side]}
        for number, (published, found) in enumerate(zip(expected, sizes, strict=False), start=1)
        for side, count in published.items()
        if count != found[side]
    ]
    rejected = [video for video in videos if video.status == "rejected" and video.reason != OWN_TABLE]
    num_tables = len(videos) - len(usable) - len(rejected)
    unlabelled = [video.video_id for video in usable if not video.label and video.video_id not in members]
    return {
        "dataset": name,
        "files": {"total": len(videos), "ok": len(usable), "rejected": len(rejected), "tables": num_tables},
        "videos": {
            "in_splits": len(members),
            "labelled": sum(bool(video.label) for video in usable),
            "with_segments": len({segment.video_id for segment in segments}),
            "unlabelled": len(unlabelled),
            "groups": len({video.group for video in usable if video.video_id in members}),
        },
        "folds": counts,
        "rejected": [{"video_id": v.video_id, "reason": v.reason, "label": v.label} for v in rejected],
        "unlabelled": unlabelled,
        "background": list(background),
        "duplicates": same,
        "joined_groups": [list(names) for names in joined_groups],
        "leaks": [asdict(leak) for leak in leaks],
        "unmet_expectations": unmet,
        "warnings": [
            *notes,
            *_rejected_lines(rejected, segments, what),
            *(
                [f"{len(unlabelled)} video(s) without a label are in no split, {unlabelled[0]!r} first"]
                if unlabelled
                else []
            ),
            *(
                [f"{len(background)} {what}(s) without label and segments count as background, {background[0]!r} first"]
                if background
                else []
            ),
            *_first(
                f"{' and '.join(map(repr, d['video_ids']))} have the same bytes (labels {d['labels']})" for d in same
            ),
            *_first(f"groups {' and '.join(names)} share a source and count as one" for names in joined_groups),
            *(
                f"fold {u['fold']}: {u['found']} {u['side']} videos, published {u['expected']}; is the media complete?"
                for u in unmet
            ),
            *(
                [f"{'the published split leaks' if published else 'leaks allowed'}: {describe_leaks(leaks)}"]
                if leaks
                else []
            ),
            *_absent_lines(counts),
        ],
    }


def leak_problem(where: object, leaks: Sequence[Leak]) -> str:
    """The message of a LeakError: the first leaks, what to write into the card, and the way around."""
    copies = [leak for leak in leaks if leak.kind != "group"]
    together = joined({video for videos in leak.sides.values() for video in videos} for leak in copies)
    lines = json.dumps([sorted(videos) for videos in together], ensure_ascii=False)
    cure = f"Remove the copies, or state in the card that they are of one source: `together: {lines}`"
    return (
        f"{where}: {len(leaks)} leak(s): {describe_leaks(leaks)}. "
        f"{cure if copies else 'Change the splits in the card'}; "
        "audit.allow_leak (--allow-leak) goes on all the same, and every score then says so"
    )


def describe_leaks(leaks: Sequence[Leak], shown: int = 3) -> str:
    """The first leaks in words, with a pair of videos each, and how many there are."""
    lines = []
    for leak in leaks[:shown]:
        (one, ones), (other, others), *_ = leak.sides.items()
        what = f"group {leak.value!r}" if leak.kind == "group" else WORDS[leak.kind]
        lines.append(f"fold {leak.fold}: {what} in {one} ({ones[0]!r}) and {other} ({others[0]!r})")
    more = f" and {len(leaks) - shown} more" if len(leaks) > shown else ""
    return "; ".join(lines) + more


def _rejected_lines(rejected: Sequence[Video], segments: Sequence[Segment], what: str) -> list[str]:
    annotated = {segment.video_id for segment in segments}
    lost = [video for video in rejected if video.label or video.video_id in annotated]
    lines = _first(f"{video.video_id!r} has annotations but is no usable {what}: {video.reason}" for video in lost)
    if len(rejected) > len(lost):
        lines.append(
            f"{len(rejected) - len(lost)} other file(s) of the media folder are no {what}s; audit.json lists them"
        )
    return lines


def _absent_lines(counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Classes that one side of a fold lacks and another has, by labelled videos and by segments apart."""
    lines = []
    for fold in counts:
        labels, actions = ({name for side in SIDES for name in fold[side][key]} for key in ("classes", "segments"))
        known = {"classes": labels, "segments": actions | labels if actions else set()}
        for side in SIDES:
            for what, key in (("labelled video", "classes"), ("segment", "segments")):
                absent = sorted(known[key] - set(fold[side][key]))
                if absent:
                    lines.append(f"fold {fold['fold']}: no {side} {what} of {', '.join(absent[:10])}")
    return lines


def _first(lines: Iterable[str], shown: int = 5) -> list[str]:
    """The first lines and how many more there are: the audit has them all, the console needs to be read."""
    lines = list(lines)
    return lines if len(lines) <= shown else [*lines[:shown], f"and {len(lines) - shown} more like this"]


def _sorted_counts(labels: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(labels).items()))
