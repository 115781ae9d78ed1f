"""Data-set cards: `datasets/<name>/card.yaml` and `classes.txt`. Strict, typed, every problem reported at once."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.config import Name, Positive, parse, read_yaml
from pipeline.errors import ConfigError, DataError
from pipeline.remotenames import is_url, without_secrets


def _relative(path: str) -> str:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path:
        raise ValueError(f"{path!r} is not a relative path with forward slashes that stays below its folder")
    return str(pure)


def _media(path: str) -> str:
    if not is_url(path):
        return _relative(path)
    if path.startswith("http") or without_secrets(path) != path:
        raise ValueError(
            f"{without_secrets(path)!r} is no folder of an object store without credentials; expected one such as "
            "s3://bucket/folder, or a relative path"
        )
    return path.rstrip("/")


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return pattern


# Columns of predictions.csv and controls.csv, which have a column for each class beside these.
RESERVED = {
    "video_id", "group", "seconds", "clips", "clips_right", "step", "time_seconds", "label", "predicted",
    "uncalibrated", "sure", "score", "control",
}  # fmt: skip
Text = Annotated[str, Field(min_length=1)]
RelativePath = Annotated[str, AfterValidator(_relative)]
MediaPath = Annotated[str, AfterValidator(_media)]
Regex = Annotated[str, AfterValidator(_regex)]
Share = Annotated[float, Field(gt=0, le=0.5)]
Seed = Annotated[int, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CsvLabels(_Section):
    """A table in the media folder: a row per video, its path below the media folder and its class (or nothing)."""

    file: RelativePath
    path: Text = "path"
    label: Text = "label"


class FrameLabels(_Section):
    """A label for each timestep of ready-made features: exactly one of `folder` and `column`.

    folder: text files below the media folder, `folder/NAME.txt` for the recording NAME, a label a line.
    column: the column of the features' own CSV files that holds the labels; an empty cell is the background where
        the card has one, and else no label.
    mapping: a text file of lines `index name` (MS-TCN's mapping.txt); its names are compared with classes.txt.
    tolerance: timesteps by which labels and features may differ in length; both are then cut to the shorter.
    """

    folder: RelativePath | None = None
    column: Text | None = None
    mapping: RelativePath | None = None
    tolerance: Annotated[int, Field(ge=0)] = 10

    @model_validator(mode="after")
    def _one_way(self) -> "FrameLabels":
        _expect_one("labels.frames", folder=self.folder, column=self.column)
        return self


class Labels(_Section):
    """How files get their labels: exactly one of the three.

    folders: the folder (`.`: the media folder) below which the first folder named like a class gives the label.
    csv: a table.
    frames: a label for each timestep.
    """

    folders: RelativePath | None = None
    csv: CsvLabels | None = None
    frames: FrameLabels | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Labels":
        _expect_one("labels", folders=self.folders, csv=self.csv, frames=self.frames)
        return self


class Features(_Section):
    """Media that are ready-made features instead of video: a `.npy` or `.csv` file for each recording.

    folder: below the media folder; `.` is the media folder itself.
    fps: timesteps a second in the files, as whoever made them states it.
    layout: axes of the `.npy` files, (T, D) or (D, T); `auto` takes the axis on which most files agree for D. The rows
        of a CSV file are timesteps.
    """

    folder: RelativePath
    fps: Annotated[float, Field(gt=0, le=1000)]
    layout: Literal["auto", "time_first", "feature_first"] = "auto"


class GroupRule(_Section):
    """One way to find a video's group. A card's rules are tried in order; the first that matches a video decides.

    column: a column of the labels' table.
    pattern: searched in the video's path; the group is `name` when given, else the part captured under the name
        `group`, else the first part captured.
    list: a text file in the media folder. A line that matches `head` starts a group, named by what it captures; a line
        that matches `member` puts the file with the captured stem into it. A stem under two heads joins both groups.
    """

    column: Text | None = None
    pattern: Regex | None = None
    name: Text | None = None
    list: RelativePath | None = None
    head: Regex | None = None
    member: Regex | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "GroupRule":
        _expect_one("groups", column=self.column, pattern=self.pattern, list=self.list)
        if (self.list is None) != (self.head is None) or (self.list is None) != (self.member is None):
            raise ValueError("groups: `head` and `member` go with `list`, and `list` needs both")
        if self.name is not None and self.pattern is None:
            raise ValueError(f"groups: the name {self.name!r} goes with a `pattern`")
        must_capture = [self.head, self.member] if self.name else [self.pattern, self.head, self.member]
        for regex in must_capture:
            if regex is not None and not re.compile(regex).groups:
                raise ValueError(f"groups: {regex!r} captures nothing; put parentheses around the part that counts")
        return self


class KFoldSplits(_Section):
    """Made folds: stratified by label, grouped; each group is tested once.

    validation: share of the training part that is cut off by the same rule.
    """

    folds: Annotated[int, Field(ge=2)]
    validation: Share
    seed: Seed


class GroupFold(_Section):
    """Which groups are tested, and which validate; `*`, `?` and `[1-7]` stand for parts of names as in a shell."""

    test: Annotated[list[Text], Field(min_length=1)]
    validation: Annotated[list[Text], Field(min_length=1)] | None = None


class GroupSplits(_Section):
    """Folds by the names of groups, which stay as they are when a video is added.

    validation, seed: share of the training part cut off for validation in folds that name no validation groups.
    official: these are a published split; leaks are reported, not refused, so that scores stay comparable.
    """

    folds: Annotated[list[GroupFold], Field(min_length=1)]
    validation: Share | None = None
    seed: Seed = 0
    official: bool = False

    @model_validator(mode="after")
    def _validates(self) -> "GroupSplits":
        missing = [number for number, fold in enumerate(self.folds, start=1) if fold.validation is None]
        if missing and self.validation is None:
            raise ValueError(f"splits.groups: no validation in fold(s) {missing}; name groups, or give a share")
        return self


class ListSplits(_Section):
    """Published list files, in `folder` below the media folder or else beside the card.

    ucf101: `trainlist01.txt`, `testlist01.txt`, ...: a path on each line, below the folder that holds the classes.
    hmdb51: `<class>_test_split1.txt`, ...: a file name and 1 (training), 2 (test) or 0 (unused) on each line.
    mstcn: `train.split1.bundle`, `test.split1.bundle`, ...: NAME.txt on each line, for the features' file NAME.
    """

    style: Literal["ucf101", "hmdb51", "mstcn"]
    folder: RelativePath
    folds: Positive
    validation: Share
    seed: Seed


class ExpectedFold(_Section):
    """Published sizes of a fold; `train` counts the validation part too."""

    train: Positive
    test: Positive


class Splits(_Section):
    """Which splits exist: exactly one of `kfold`, `groups`, `lists`; `expected` is checked and only reported."""

    kfold: KFoldSplits | None = None
    groups: GroupSplits | None = None
    lists: ListSplits | None = None
    expected: list[ExpectedFold] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Splits":
        _expect_one("splits", kfold=self.kfold, groups=self.groups, lists=self.lists)
        if self.expected is not None and len(self.expected) != self.num_folds:
            raise ValueError(f"splits.expected: {len(self.expected)} entries for {self.num_folds} fold(s)")
        return self

    @property
    def num_folds(self) -> int:
        """How many folds there are; they count from 1."""
        if self.kfold is not None:
            return self.kfold.folds
        if self.groups is not None:
            return len(self.groups.folds)
        return self.lists.folds if self.lists is not None else 0

    @property
    def official(self) -> bool:
        """Whether the splits are published ones, in which leaks are reported and not refused."""
        return self.lists is not None or (self.groups is not None and self.groups.official)


class Card(_Section):
    """`card.yaml`: what the media is, how labels come, which splits exist.

    media: the media folder, relative to the repository's root; a symbolic link will do. Or a folder of an object store,
        such as s3://bucket/folder, which DVC does not look at.
    features: what to know of media that are ready-made features; without it the media are videos.
    background: what the frame task calls stretches without an action; without it such timesteps are ignored.
    unlisted: `background` says that a usable video without a label and without a segment shows no action from end to
        end: it is trained on and tested as such. Without it such videos are left out, and counted.
    opposites: pairs of classes that are each other played backwards.
    alarms: classes that are watched for: scored by false alarms per hour and delay as well.
    segments: where segments stand, below the media folder: a table with path, start_seconds, end_seconds, label; a file
        of ActivityNet or Label Studio; a pattern of ELAN files or subtitles, such as `'*.eaf'`; or a list of these.
    groups: rules that say which videos come from one source; without rules each video is its own group.
    together: lists of videos (paths below the media folder) that are one source whatever the rules say, such as copies
        that `lrcn audit` found; their groups become one.
    """

    name: Name
    title: Text
    licence: Text
    source: Text
    media: MediaPath
    features: Features | None = None
    background: Text | None = None
    unlisted: Literal["background"] | None = None
    opposites: list[Annotated[list[Text], Field(min_length=2, max_length=2)]] = []
    alarms: list[Text] = []
    labels: Labels
    segments: RelativePath | Annotated[list[RelativePath], Field(min_length=1)] | None = None
    groups: list[GroupRule] = []
    together: list[Annotated[list[Text], Field(min_length=2)]] = []
    splits: Splits

    @property
    def segment_names(self) -> list[str]:
        """What `segments` names."""
        return [self.segments] if isinstance(self.segments, str) else self.segments or []


@dataclass(frozen=True)
class Dataset:
    """A data set's definition: its card, its class names in order, and the folder both stand in."""

    folder: Path
    card: Card
    classes: tuple[str, ...]


def read_dataset(folder: Path | str) -> Dataset:
    """Read `card.yaml` and `classes.txt` of a folder; raises DataError with one line that lists every problem."""
    folder = Path(folder)
    problems: list[str] = []
    card = None
    try:
        card = parse(read_yaml(folder / "card.yaml"), Card, folder / "card.yaml")
    except ConfigError as error:
        problems.append(str(error))
    classes, class_problems = _read_classes(folder / "classes.txt")
    problems += class_problems
    if card is not None:
        problems += [f"{folder / 'card.yaml'}: {problem}" for problem in _check(card, classes, folder)]
    if card is None or problems:
        raise DataError("  |  ".join(problems))
    return Dataset(folder, card, classes)


def _read_classes(path: Path) -> tuple[tuple[str, ...], list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return (), [f"{path}: no such file; expected the names of the classes, one a line, in order"]
    except (OSError, UnicodeDecodeError) as error:
        return (), [f"{path}: cannot be read ({error})"]
    names = lines[:-1] if lines[-1] == "" else lines
    problems = [
        f"{path}, row {row}: {name!r} is no class name; expected text without spaces around it"
        for row, name in enumerate(names, start=1)
        if not name or name != name.strip()
    ]
    problems += [
        f"{path}, row {row}: {name!r} is a column of the result tables; choose another name"
        for row, name in enumerate(names, start=1)
        if name in RESERVED
    ]
    problems += [
        f"{path}, row {row}: {name!r} is given twice; it stands in row {names.index(name) + 1} already"
        for row, name in enumerate(names, start=1)
        if name and names.index(name) + 1 < row
    ]
    if len(names) < 2:
        problems.append(f"{path}: {len(names)} class(es); a classifier needs at least two")
    return tuple(names), problems


def _check(card: Card, classes: tuple[str, ...], folder: Path) -> list[str]:
    """Problems between the parts of a definition."""
    problems = []
    if card.name != folder.resolve().name:
        problems.append(f"name is {card.name!r}; expected {folder.resolve().name!r}, the folder's name")
    if card.background in classes:
        problems.append(f"background {card.background!r} is one of the classes; take it out of classes.txt")
    if card.background in RESERVED:
        problems.append(f"background {card.background!r} is a column of the result tables; choose another name")
    if card.unlisted and card.background is None:
        problems.append("unlisted: `background` has no name; say what the frame task calls it in `background`")
    if card.unlisted and card.segments is None and card.labels.frames is None:
        problems.append("unlisted: videos count as unlisted beside a table of `segments` (or labels.frames); name one")
    paired = [name for pair in card.opposites for name in pair]
    problems += [f"opposites: {name!r} is not in classes.txt" for name in paired if name not in classes]
    problems += [f"opposites: {name!r} is paired twice" for name, count in Counter(paired).items() if count > 1]
    problems += [f"alarms: {name!r} is not in classes.txt" for name in card.alarms if name not in classes]
    problems += [f"alarms: {name!r} is given twice" for name, count in Counter(card.alarms).items() if count > 1]
    if card.features is None and card.labels.frames is not None:
        problems.append("labels: `frames` label the timesteps of ready-made features; say where they are in `features`")
    if card.features is None and card.splits.lists is not None and card.splits.lists.style == "mstcn":
        problems.append(
            "splits.lists: style mstcn lists files of ready-made features; say where they are in `features`"
        )
    if card.features is not None and is_url(card.media):
        problems.append("media: ready-made features are read from a folder; copy them, and name their folder")
    if card.segments is not None and card.labels.frames is not None:
        problems.append("segments: labels.frames states the label of each timestep already; take one of the two out")
    if card.labels.csv is None and any(rule.column is not None for rule in card.groups):
        problems.append("groups: a `column` needs a table of labels (labels.csv)")
    if card.together and card.splits.official:
        problems.append("together: the splits are published ones, which it would change; their leaks are reported")
    return problems


def _expect_one(where: str, **ways: object) -> None:
    given = [name for name, way in ways.items() if way is not None]
    if len(given) != 1:
        raise ValueError(f"{where}: got {' and '.join(given) or 'nothing'}; expected exactly one of {', '.join(ways)}")
