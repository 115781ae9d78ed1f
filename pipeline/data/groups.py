"""Groups: which videos come from one source and must never be divided between the sides of a split."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError

# From a video's id to its group, or None when the rule does not know the video.
GroupRule = Callable[[str], str | None]


def by_column(groups: Mapping[str, str]) -> GroupRule:
    """Groups that a table states; an empty value counts as not stated."""
    return lambda video_id: groups.get(video_id) or None


def by_pattern(pattern: str, name: str | None) -> GroupRule:
    """Groups read off the path: `name` when given, else the part captured as `group`, else the first part captured.

    >>> by_pattern(r"_(g[0-9]+)_", None)("Archery/v_Archery_g07_c01.avi")
    'g07'
    """
    regex = re.compile(pattern)

    def rule(video_id: str) -> str | None:
        match = regex.search(video_id)
        if match is None:
            return None
        return name or match["group" if "group" in regex.groupindex else 1] or None

    return rule


def by_list(members: Mapping[str, str]) -> GroupRule:
    """Groups of file stems, as `read_headed_list` returns them."""
    return lambda video_id: members.get(PurePosixPath(video_id).stem)


def read_headed_list(path: Path, head: str, member: str) -> tuple[dict[str, str], list[list[str]]]:
    """Read a text list in which lines that match `head` start a group and lines that match `member` name file stems.

    Returns the group of each stem, and the groups that were joined because a stem stands under several of them: nobody
    can say which is right, so their videos are kept together, under the names joined by `+`. Raises DataError when the
    file cannot be read, names no member, or names one before the first head.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"{path}: the list of groups cannot be read ({error.strerror})") from None
    heads_of: dict[str, set[str]] = {}
    current: str | None = None
    for row, line in enumerate(lines, start=1):
        if match := re.search(head, line):
            current = match[1]
        elif match := re.search(member, line):
            if current is None:
                raise DataError(f"{path}, row {row}: {match[1]!r} stands before any line that matches {head!r}")
            heads_of.setdefault(match[1], set()).add(current)
    if not heads_of:
        raise DataError(f"{path}: no line matches {member!r}; check `head` and `member` in the card")
    clusters = joined(heads_of.values())
    name_of = {head: "+".join(sorted(cluster)) for cluster in clusters for head in cluster}
    return {stem: name_of[min(heads)] for stem, heads in heads_of.items()}, [sorted(c) for c in clusters if len(c) > 1]


def assign_groups(video_ids: Iterable[str], rules: Sequence[GroupRule]) -> dict[str, str]:
    """Group of each video: the first rule that knows it decides, "" when none does; its own id without any rules."""
    if not rules:
        return {video_id: video_id for video_id in video_ids}
    return {video_id: next(filter(None, (rule(video_id) for rule in rules)), "") for video_id in video_ids}


def join_groups(groups: Mapping[str, str], together: Iterable[Iterable[str]]) -> tuple[dict[str, str], list[list[str]]]:
    """Groups of videos, those joined that hold videos of one list of `together`, under their names joined by `+`.

    Returns the group of each video, and the names of the groups that were joined.
    """
    clusters = [
        cluster for cluster in joined({groups[v] for v in videos} - {""} for videos in together) if len(cluster) > 1
    ]
    name_of = {group: "+".join(sorted(cluster)) for cluster in clusters for group in cluster}
    return {v: name_of.get(group, group) for v, group in groups.items()}, [sorted(cluster) for cluster in clusters]


def joined(sets: Iterable[set[str]]) -> list[set[str]]:
    """Union of all sets that share an element, in order of first appearance."""
    clusters: list[set[str]] = []
    for members in sets:
        touching = [cluster for cluster in clusters if cluster & members]
        merged = members.union(*touching)
        if touching:
            clusters[clusters.index(touching[0])] = merged
            for cluster in touching[1:]:
                clusters.remove(cluster)
        else:
            clusters.append(merged)
    return clusters
