from pathlib import Path

import pytest

from pipeline.data.cards import read_dataset
from pipeline.errors import DataError

GOOD = """
name: tiny
title: Two classes
licence: none
source: drawn
media: media/tiny
background: idle
opposites: [[up, down]]
labels: {csv: {file: videos.csv}}
segments: segments.csv
groups: [{column: person}]
splits: {kfold: {folds: 2, validation: 0.5, seed: 0}}
"""


def read(tmp_path: Path, card: str = GOOD, classes: str = "up\ndown\n"):
    folder = tmp_path / "tiny"
    folder.mkdir(exist_ok=True)
    (folder / "card.yaml").write_text(card)
    (folder / "classes.txt").write_text(classes)
    return read_dataset(folder)


def test_a_card_and_its_defaults(tmp_path):
    dataset = read(tmp_path)
    assert dataset.classes == ("up", "down")
    assert dataset.card.opposites == [["up", "down"]]
    assert (dataset.card.labels.csv.path, dataset.card.labels.csv.label) == ("path", "label")
    assert dataset.card.splits.num_folds == 2
    assert not dataset.card.splits.official
    assert dataset.card.alarms == []
    assert read(tmp_path, GOOD + "alarms: [down]\n").card.alarms == ["down"]


def test_all_problems_at_once(tmp_path):
    bad = GOOD.replace("licence:", "license:").replace("column:", "colum:").replace("folds: 2", "folds: 1")
    with pytest.raises(DataError) as caught:
        read(tmp_path, bad, "up\nup\n")
    message = str(caught.value)
    for part in (
        "card.yaml has 4 problem(s)",
        "license: unknown key, did you mean 'licence'?",
        "licence: missing",
        "groups.0.colum: unknown key, did you mean 'column'?",
        "splits.kfold.folds: expected greater than or equal to 2, got 1",
        "classes.txt, row 2: 'up' is given twice; it stands in row 1 already",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: tiny", "name: other", "name is 'other'; expected 'tiny', the folder's name"),
        ("name: tiny", "name: tiny\nalarms: [fall]", "alarms: 'fall' is not in classes.txt"),
        ("name: tiny", "name: tiny\nalarms: [idle]", "alarms: 'idle' is not in classes.txt"),
        ("name: tiny", "name: tiny\nalarms: [up, up]", "alarms: 'up' is given twice"),
        ("media: media/tiny", "media: /data", "'/data' is not a relative path"),
        ("media: media/tiny", "media: ../data", "'../data' is not a relative path"),
        ("background: idle", "background: up", "background 'up' is one of the classes"),
        ("background: idle", "background: step", "background 'step' is a column of the result tables"),
        ("[[up, down]]", "[[up, left]]", "opposites: 'left' is not in classes.txt"),
        ("[[up, down]]", "[[up, down], [down, up]]", "'up' is paired twice"),
        ("[[up, down]]", "[[up]]", r"opposites\.0: .*at least 2 items"),
        ("{csv: {file: videos.csv}}", "{folders: ., csv: {file: videos.csv}}", "labels: got folders and csv; expected"),
        ("{csv: {file: videos.csv}}", "{}", "labels: got nothing; expected exactly one of folders, csv"),
        ("{csv: {file: videos.csv}}", "{folders: .}", "a `column` needs a table of labels"),
        ("[{column: person}]", "[{pattern: '('}]", "'\\(' is not a regular expression"),
        ("[{column: person}]", "[{pattern: 'a+'}]", "'a\\+' captures nothing"),
        ("[{column: person}]", "[{column: p, name: x}]", "the name 'x' goes with a `pattern`"),
        ("[{column: person}]", "[{list: l.txt, head: '(a)'}]", "`head` and `member` go with `list`"),
        ("[{column: person}]", "[{list: l.txt, head: a, member: '(a)'}]", "'a' captures nothing"),
        ("splits:", "together: [[a.mp4]]\nsplits:", r"together\.0: .*at least 2 items"),
        (
            "{kfold: {folds: 2, validation: 0.5, seed: 0}}",
            "{groups: {official: true, validation: 0.1, folds: [{test: [a]}]}}\ntogether: [[a.mp4, b.mp4]]",
            "together: the splits are published ones",
        ),
        ("validation: 0.5", "validation: 0.6", "expected less than or equal to 0.5"),
        ("seed: 0}}", "seed: 0}, expected: [{train: 1, test: 1}]}", "1 entries for 2 fold"),
        ("{kfold: {folds: 2, validation: 0.5, seed: 0}}", "{groups: {folds: [{test: [a]}]}}", r"in fold\(s\) \[1\]"),
    ],
)
def test_what_a_card_may_not_say(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(DataError, match=message):
        read(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("up\n", r"1 class\(es\); a classifier needs at least two"),
        ("up\n\ndown\n", "row 2: '' is no class name"),
        ("up\ndown \n", "row 2: 'down ' is no class name"),
    ],
)
def test_what_a_class_list_may_not_hold(tmp_path, classes, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, GOOD, classes)


def test_windows_line_ends(tmp_path):
    assert read(tmp_path, GOOD, "up\r\ndown\r\n").classes == ("up", "down")


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"card\.yaml: no such file.*classes\.txt: no such file"):
        read_dataset(tmp_path)


FEATURES = """
name: tiny
title: Two classes
licence: none
source: drawn
media: media/tiny
features: {folder: features, fps: 15}
labels: {frames: {folder: groundTruth, mapping: mapping.txt}}
splits: {lists: {style: mstcn, folder: splits, folds: 2, validation: 0.2, seed: 0}}
"""


def test_a_card_of_ready_made_features_and_its_defaults(tmp_path):
    card = read(tmp_path, FEATURES).card
    assert (card.features.folder, card.features.fps, card.features.layout) == ("features", 15.0, "auto")
    assert (card.labels.frames.folder, card.labels.frames.tolerance) == ("groundTruth", 10)
    assert (card.splits.num_folds, card.splits.official, card.background) == (2, True, None)
    assert read(tmp_path).card.features is None


def test_all_problems_of_a_card_of_features_at_once(tmp_path):
    bad = FEATURES.replace("fps: 15", "fps: 0, layout: TD").replace("mapping:", "maping:").replace("mstcn", "bundle")
    with pytest.raises(DataError) as caught:
        read(tmp_path, bad)
    for part in (
        "card.yaml has 4 problem(s)",
        "features.fps: expected greater than 0, got 0",
        "features.layout: expected 'auto', 'time_first' or 'feature_first', got 'TD'",
        "labels.frames.maping: unknown key, did you mean 'mapping'?",
        "splits.lists.style: expected 'ucf101', 'hmdb51' or 'mstcn', got 'bundle'",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fps: 15", "", "features.fps: "),
        ("{folder: groundTruth, ", "{folder: groundTruth, column: label, ", "labels.frames: got folder and column"),
        ("{folder: groundTruth, ", "{", "labels.frames: got nothing; expected exactly one of folder, column"),
        ("{frames: ", "{folders: ., frames: ", "labels: got folders and frames"),
        ("mapping.txt}", "mapping.txt, tolerance: -1}", "labels.frames.tolerance: expected greater than or equal to 0"),
        ("features: {folder: features, fps: 15}\n", "", r"say where they are in `features`.*style mstcn lists files"),
        ("media: media/tiny\n", "media: media/tiny\nsegments: s.csv\n", "segments: labels.frames states the label"),
    ],
)
def test_what_a_card_of_features_may_not_say(tmp_path, old, new, message):
    assert old in FEATURES
    with pytest.raises(DataError, match=message):
        read(tmp_path, FEATURES.replace(old, new))
