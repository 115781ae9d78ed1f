"""A data set's definition and its media folder become tables: what exists, what it is labelled, how it is split.

The later stages depend on these tables, never on the folder.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.data import splits
from pipeline.data.annotations import Ends, LabelTable, folder_labels, read_label_table, read_segments_of
from pipeline.data.audit import build_audit, check_folds, leak_problem
from pipeline.data.cards import Card, Dataset, ListSplits
from pipeline.data.featurefiles import FeatureFiles
from pipeline.data.framelabels import label_recordings
from pipeline.data.groups import GroupRule, assign_groups, by_column, by_list, by_pattern, join_groups, read_headed_list
from pipeline.data.labels import frame_classes
from pipeline.data.remotetables import tables_beside
from pipeline.data.scan import MediaFile, ReadHeader, list_media, scan_media
from pipeline.data.segmentfiles import segment_files
from pipeline.data.tables import Segment, Split, Video, refuse, write_rows
from pipeline.errors import DataError, LeakError
from pipeline.files import write_json
from pipeline.remotenames import Url


@dataclass(frozen=True)
class Index:
    """The tables of a data set. `audit["warnings"]` is for the console; the rest of the audit is for a reviewer."""

    videos: list[Video]
    segments: list[Segment]
    splits: list[Split]
    audit: dict[str, Any]


def index_dataset(
    dataset: Dataset,
    media: Path | Url,
    read_header: ReadHeader,
    *,
    workers: int = 1,
    allow_leak: bool = False,
    measure: Callable[[Path | Url], Ends | None] = lambda path: None,
    files: Sequence[MediaFile] | None = None,
    known: dict[MediaFile, Video] | None = None,
) -> Index:
    """Scan the media, read the annotations, make and check the splits.

    media: the media folder, or one of an object store; the card's `media` is relative to the repository's root.
    read_header: states what a video file's container says, or raises RejectedVideo; ready-made features are read here.
    workers: files read at a time; no result depends on it. measure: the ends of a video as decoding it finds them, or
    None; asked only where a segment ends after what the header states. files, known: see `scan_media`. Raises DataError
    naming file and row of what cannot be used, and LeakError when a made split puts one group, or the same bytes, on
    two sides; with allow_leak that is a warning, as it is in published splits.
    """
    if isinstance(media, Url):
        files = list_media(media) if files is None else files
    card = dataset.card
    with tables_beside(media, {*_own_tables(card), *card.segment_names}, files or ()) as tables:
        return _index(dataset, media, tables, read_header, workers, allow_leak, measure, files, known)


def _index(
    dataset: Dataset,
    source: Path | Url,
    media: Path,
    read_header: ReadHeader,
    workers: int,
    allow_leak: bool,
    measure: Callable[[Path | Url], Ends | None],
    files: Sequence[MediaFile] | None,
    known: dict[MediaFile, Video] | None,
) -> Index:
    """As `index_dataset`. source: where the media are. media: the same folder, or one with the tables of it."""
    card = dataset.card
    if not (media.is_dir() if source is media else files):
        raise DataError(
            f"{media}: no such folder; the media of {card.name!r} is expected there (a symbolic link will do); "
            f"{dataset.folder / 'README.md'} says where to get it"
        )
    segments_stated = segment_files(media, card.segment_names)
    if card.features is not None:
        if isinstance(source, Url):
            raise DataError(f"{source}: ready-made features are read from a folder; copy them, and name their folder")
        given = FeatureFiles(card, media, workers=workers)
        read_header = lambda path: given.header(Path(path))  # noqa: E731
    tables = {*_own_tables(card), *segments_stated}
    videos = scan_media(source, read_header, tables=tables, workers=workers, files=files, known=known)
    usable = [video.video_id for video in videos if video.status == "ok"]
    if not usable:
        first = f"; {videos[0].video_id!r}: {videos[0].reason}" if videos else ""
        raise DataError(
            f"{media}: no usable {media_kind(card)} among {len(videos)} file(s){first}; "
            f"see {dataset.folder / 'README.md'}"
        )

    table = _labels(dataset, media, videos, usable)
    labels = table.labels
    by_id = {video.video_id: video for video in videos}
    names = frame_classes(dataset.classes, card.background)
    segments: list[Segment] = []
    label_notes: list[str] = []
    if segments_stated:
        segments, label_notes = read_segments_of(
            media, segments_stated, by_id, names, lambda video_id: measure(source / video_id)
        )
    if card.labels.frames is not None:
        videos, segments, label_notes = label_recordings(dataset, media, videos)
    rules, joined = _group_rules(card, media, table.columns)
    groups = assign_groups(usable, rules)
    _check_together(dataset, groups)
    groups, joined_here = join_groups(groups, card.together)
    joined += joined_here
    videos = [replace(v, label=labels.get(v.video_id, ""), group=groups.get(v.video_id, "")) for v in videos]

    annotated = {segment.video_id for segment in segments}
    listed = {v.video_id for v in videos if v.status == "ok" and (v.label or v.video_id in annotated)}
    background = [v for v in usable if v not in listed] if card.unlisted else []
    if not card.unlisted:
        _refuse_empty_labels(card, media, table, [video_id for video_id in usable if video_id not in listed])
    members = [v for v in videos if v.video_id in listed or v.video_id in set(background)]
    _check_members(dataset, media, members, table)
    folds, notes = _make_folds(dataset, media, members)
    bundles = card.splits.lists is not None and card.splits.lists.style == "mstcn"
    with _in(dataset):
        check_folds(folds, members, segments, dataset.classes, published=bundles)
    leaks = splits.find_leaks(members, folds)
    if leaks and not (card.splits.official or allow_leak):
        raise LeakError(leak_problem(dataset.folder / "card.yaml", leaks))
    audit = build_audit(
        card.name,
        videos,
        segments,
        folds,
        leaks=leaks,
        published=card.splits.official,
        joined_groups=joined,
        expected=[{"train": fold.train, "test": fold.test} for fold in card.splits.expected or []],
        notes=[*label_notes, *notes],
        what=media_kind(card),
        background=background,
    )
    return Index(videos, segments, splits.table(folds), audit)


def media_kind(card: Card) -> str:
    """What a usable file of a data set is."""
    return "video" if card.features is None else "feature file"


def write_index(index: Index, folder: Path | str) -> None:
    """Write `videos.csv`, `segments.csv`, `splits.csv` and, last, `audit.json`; each appears whole or not at all."""
    folder = Path(folder)
    write_rows(folder / "videos.csv", Video, index.videos)
    write_rows(folder / "segments.csv", Segment, index.segments)
    write_rows(folder / "splits.csv", Split, index.splits)
    write_json(folder / "audit.json", index.audit)


def _own_tables(card: Card) -> set[str]:
    """Paths below the media folder that the card names, beside those of segments."""
    paths = [rule.list for rule in card.groups]
    paths += [card.labels.csv.file] if card.labels.csv else []
    paths += [card.splits.lists.folder] if card.splits.lists else []
    paths += [card.labels.frames.folder, card.labels.frames.mapping] if card.labels.frames else []
    return {path for path in paths if path is not None}


def _labels(dataset: Dataset, media: Path, videos: list[Video], usable: list[str]) -> LabelTable:
    """Label by video, and the further columns of the labels' table."""
    card = dataset.card
    if card.labels.frames is not None:
        return LabelTable({}, {}, {})
    if card.labels.csv is None:
        return LabelTable(folder_labels(usable, card.labels.folders or ".", dataset.classes, media), {}, {})
    return read_label_table(
        media / card.labels.csv.file,
        path_column=card.labels.csv.path,
        label_column=card.labels.csv.label,
        columns={rule.column for rule in card.groups if rule.column is not None},
        files={video.video_id for video in videos},
        classes=dataset.classes,
    )


def _refuse_empty_labels(card: Card, media: Path, table: LabelTable, unlabelled: list[str]) -> None:
    """Refuse rows of the labels' table that say nothing: the videos would be left out, though somebody listed them."""
    beside = f", and nothing in {', '.join(card.segment_names)}" if card.segments else ""
    refuse(
        media / card.labels.csv.file if card.labels.csv else media,
        [
            f"row {table.rows[video_id]}: {video_id!r} has the label ''{beside}; give it a class, take the row out"
            + (", or state `unlisted: background` in the card" if card.segments else "")
            for video_id in unlabelled
            if video_id in table.rows
        ],
    )


@contextmanager
def _in(dataset: Dataset) -> Iterator[None]:
    """Say that the card is where a problem with the splits stands."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{dataset.folder / 'card.yaml'}: {error}") from None


def _group_rules(
    card: Card, media: Path, columns: Mapping[str, Mapping[str, str]]
) -> tuple[list[GroupRule], list[list[str]]]:
    """The card's rules as functions, and the groups that a list's double entries joined."""
    rules: list[GroupRule] = []
    joined: list[list[str]] = []
    for rule in card.groups:
        if rule.column is not None:
            rules.append(by_column(columns[rule.column]))
        elif rule.pattern is not None:
            rules.append(by_pattern(rule.pattern, rule.name))
        elif rule.list is not None and rule.head is not None and rule.member is not None:
            members, joined_here = read_headed_list(media / rule.list, rule.head, rule.member)
            rules.append(by_list(members))
            joined += joined_here
    return rules, joined


def _check_together(dataset: Dataset, groups: Mapping[str, str]) -> None:
    refuse(
        dataset.folder / "card.yaml",
        [
            f"together: {video_id!r} is no usable video; expected its path below the media folder, as in videos.csv"
            for videos in dataset.card.together
            for video_id in videos
            if video_id not in groups
        ],
    )


def _check_members(dataset: Dataset, media: Path, members: list[Video], table: LabelTable) -> None:
    if not members:
        raise DataError(f"{media}: no video has a label or a segment; see {dataset.folder / 'README.md'}")
    labels = {video.label for video in members if video.label}
    if len(labels) == 1:
        raise DataError(f"{media}: every labelled video is {labels.pop()!r}; a classifier needs at least two classes")
    if not dataset.card.splits.official:
        counts = Counter(video.label for video in members if video.label)
        refuse(
            dataset.folder / "classes.txt",
            [
                f"row {row}: class {name!r} has one video, "
                f"{next(video.video_id for video in members if video.label == name)!r}, which cannot be both trained "
                "on and tested; add some, or take the class out"
                for row, name in enumerate(dataset.classes, start=1)
                if counts[name] == 1
            ],
        )
    stands = dataset.card.labels.csv.file if dataset.card.labels.csv else ""
    refuse(
        dataset.folder / "card.yaml",
        [
            f"groups: no rule matches {video.video_id!r}"
            + (f" ({stands}, row {table.rows[video.video_id]})" if video.video_id in table.rows else "")
            + "; add one, or state the video's group where the others' stand"
            for video in members
            if not video.group
        ],
    )


def _make_folds(dataset: Dataset, media: Path, members: list[Video]) -> tuple[list[splits.Fold], list[str]]:
    """The card's folds over the usable, annotated videos, and what is to be said about them."""
    card = dataset.card.splits
    if card.kfold is not None:
        kfold = card.kfold
        with _in(dataset):
            return splits.kfold(members, folds=kfold.folds, validation=kfold.validation, seed=kfold.seed), []
    if card.lists is not None:
        return _listed_folds(dataset, media, members, card.lists)
    folds, notes = [], []
    for number, named in enumerate(card.groups.folds if card.groups else [], start=1):
        with _in(dataset):
            fold, unused = splits.by_groups(members, named.test, named.validation or [])
        if unused:
            notes.append(f"fold {number}: no video belongs to {', '.join(map(repr, unused))}; is the media complete?")
        if named.validation is None and card.groups and card.groups.validation is not None:
            with _in(dataset):
                fold = splits.with_validation(fold, members, card.groups.validation, card.groups.seed)
        folds.append(fold)
    return folds, notes


def _listed_folds(
    dataset: Dataset, media: Path, members: list[Video], lists: ListSplits
) -> tuple[list[splits.Fold], list[str]]:
    folder = next((f for f in (media / lists.folder, dataset.folder / lists.folder) if f.is_dir()), None)
    if folder is None:
        raise DataError(
            f"{media / lists.folder}: no such folder; the published lists are expected there or in "
            f"{dataset.folder / lists.folder}; {dataset.folder / 'README.md'} says where to get them"
        )
    features = dataset.card.features
    root = features.folder if features and lists.style == "mstcn" else dataset.card.labels.folders or "."
    prefix = "" if root == "." else f"{root}/"
    present = {video.video_id for video in members}
    by_name = {video_id.rpartition(".")[0]: video_id for video_id in present}  # bundles name recordings, not files
    folds, notes = [], []
    for number in range(1, lists.folds + 1):
        if lists.style == "mstcn":
            bundled = splits.read_mstcn_bundles(folder, number)
            listed = {by_name.get(prefix + name, prefix + name)[len(prefix) :]: s for name, s in bundled.items()}
        elif lists.style == "ucf101":
            listed = splits.read_ucf101_lists(folder, number)
        else:
            listed = splits.read_hmdb51_lists(folder, number, dataset.classes)
        fold = {prefix + path: side for path, side in listed.items()}
        missing = [video_id for video_id in fold if video_id not in present]
        if len(missing) == len(fold):
            raise DataError(
                f"{media}: holds none of the {len(fold)} videos listed for fold {number}, e.g. {missing[:1]}"
            )
        if missing:
            notes.append(
                f"fold {number}: {len(missing)} listed video(s) are not in the media folder, {missing[0]!r} first"
            )
        fold = {video_id: side for video_id, side in fold.items() if video_id in present}
        with _in(dataset):
            folds.append(splits.with_validation(fold, members, lists.validation, lists.seed))
    return folds, notes
