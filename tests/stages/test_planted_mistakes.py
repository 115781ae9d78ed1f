"""Mistakes of labels and splits, planted one by one: each stops the command line before the first epoch.

The message names the file, the row (where the mistake stands in one) and the value.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.features.store import FeatureStore, checksum, read_arrays, write_arrays
from pipeline.stages.answers import read_answers
from tests.conftest import TOY_CARD, make_toy
from tests.videos import write

pytestmark = pytest.mark.slow  # each case is a data set and a command

CARD, CLASSES = "datasets/toy/card.yaml", "datasets/toy/classes.txt"
MEDIA = "media/toy"
LABELS, SEGMENTS = f"{MEDIA}/labels.csv", f"{MEDIA}/segments.csv"
Edit = Callable[[], object]


def swap(file: str, old: str, new: str) -> Edit:
    """Replace a text that stands in the file, wherever it does."""

    def edit() -> None:
        text = Path(file).read_text()
        assert old in text, f"{file} does not hold {old!r}"
        Path(file).write_text(text.replace(old, new))

    return edit


def add(file: str, line: str) -> Edit:
    """Put a line at the end of the file."""
    return lambda: Path(file).write_text(Path(file).read_text() + line + "\n")


def refuses(capsys, plant: Edit, says: list[str], *stages: str) -> None:
    """Plant a mistake, run the stages: the last is refused with a message that holds all texts; nothing is trained."""
    plant()
    *before, last = stages
    for stage in before:
        assert cli.main([*stage.split(), "--config", "configs/toy.yaml"]) == 0
    capsys.readouterr()
    assert cli.main([*last.split(), "--config", "configs/toy.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lrcn {last.split()[0]}: ")
    assert error.count("\n") == 1
    for text in says:
        assert text in error, error
    assert not [path for path in Path("artifacts/toy/trainings").rglob("*") if path.is_file()]


# --- tables of labels and segments, made splits -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Eight people: g00 to g03 are tested, g04 and g05 validate, g06 and g07 train."""
    return make_toy(tmp_path_factory.mktemp("drawn"), people=8)


@pytest.fixture
def toy(drawn, tmp_path, monkeypatch) -> Path:
    root = tmp_path / "toy"
    shutil.copytree(drawn, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return root


TABLES: dict[str, tuple[Edit, list[str]]] = {
    "a label that is no class": (
        swap(LABELS, "left/g00.mp4,left", "left/g00.mp4,lefd"),
        [LABELS, "row 2", "label 'lefd' is no class, did you mean 'left'?"],
    ),
    "a label in other letters": (
        swap(LABELS, "left/g00.mp4,left", "left/g00.mp4,Left"),
        [LABELS, "row 2", "label 'Left' is no class, did you mean 'left'?"],
    ),
    "a label with a space behind it": (
        swap(LABELS, "left/g00.mp4,left", "left/g00.mp4,left "),
        [LABELS, "row 2", "label 'left ' is no class"],
    ),
    "an empty label": (
        swap(LABELS, "left/g00.mp4,left", "left/g00.mp4,"),
        [LABELS, "row 2: 'left/g00.mp4' has the label ''"],
    ),
    "a video listed twice": (
        add(LABELS, "left/g00.mp4,right,g00"),
        [LABELS, "row 26: 'left/g00.mp4' stands in row 2 already"],
    ),
    "a video that is not there": (
        add(LABELS, "left/g99.mp4,left,g00"),
        [LABELS, "row 26: 'left/g99.mp4' is no file of the media folder"],
    ),
    "a row with too many columns": (
        add(LABELS, "left/g00.mp4,left,g00,again"),
        [LABELS, "row 26: 4 value(s) for 3 column(s)"],
    ),
    "a row with too few columns": (
        swap(LABELS, "left/g00.mp4,left,g00", "left/g00.mp4,left"),
        [LABELS, "row 2: 2 value(s) for 3 column(s)"],
    ),
    "a video without a group": (
        swap(LABELS, "left/g00.mp4,left,g00", "left/g00.mp4,left,"),
        [CARD, "groups: no rule matches 'left/g00.mp4' (labels.csv, row 2)"],
    ),
    "no table of labels": (lambda: Path(LABELS).unlink(), [LABELS, "no such file"]),
    "a segment that is no class": (
        swap(SEGMENTS, "long/g00.mp4,0.5,1.6,right", "long/g00.mp4,0.5,1.6,rihgt"),
        [SEGMENTS, "row 2: label 'rihgt' is no class, did you mean 'right'?"],
    ),
    "a segment without a label": (
        swap(SEGMENTS, "long/g00.mp4,0.5,1.6,right", "long/g00.mp4,0.5,1.6,"),
        [SEGMENTS, "row 2: label '' is no class"],
    ),
    "segments that overlap": (
        swap(SEGMENTS, "long/g00.mp4,2.1,3.2", "long/g00.mp4,1.5,3.2"),
        [SEGMENTS, "row 3: segment from 1.5 s overlaps that of row 2, which ends at 1.6 s ('long/g00.mp4')"],
    ),
    "a segment given twice": (
        add(SEGMENTS, "long/g00.mp4,0.5,1.6,right"),
        [SEGMENTS, "row 18: segment from 0.5 s overlaps that of row 2"],
    ),
    "a segment that ends before it starts": (
        swap(SEGMENTS, "long/g00.mp4,0.5,1.6", "long/g00.mp4,1.6,0.5"),
        [SEGMENTS, "row 2: segment from 1.6 to 0.5 s"],
    ),
    "a segment before the video": (
        swap(SEGMENTS, "long/g00.mp4,0.5,1.6", "long/g00.mp4,-0.5,1.6"),
        [SEGMENTS, "row 2: segment from -0.5 to 1.6 s"],
    ),
    "a segment after the end of its video": (
        swap(SEGMENTS, "long/g00.mp4,2.1,3.2", "long/g00.mp4,2.1,9.5"),
        [SEGMENTS, "row 3: segment ends at 9.5 s, after its video 'long/g00.mp4', which lasts 3.6 s"],
    ),
    "a time that is no number": (
        swap(SEGMENTS, "long/g00.mp4,0.5,1.6", "long/g00.mp4,0:00.5,1.6"),
        [SEGMENTS, "row 2: '0:00.5' to '1.6'; expected seconds"],
    ),
    "a time that is not a number at all": (
        swap(SEGMENTS, "long/g00.mp4,0.5,1.6", "long/g00.mp4,nan,1.6"),
        [SEGMENTS, "row 2: segment from nan to 1.6 s"],
    ),
    "a segment of an unknown video": (
        add(SEGMENTS, "long/g99.mp4,0.5,1.6,right"),
        [SEGMENTS, "row 18: 'long/g99.mp4' is no file of the media folder"],
    ),
    "a column of another name": (
        swap(SEGMENTS, "path,start_seconds", "path,start"),
        [SEGMENTS, "row 1: no column start_seconds; there are path, start, end_seconds, label"],
    ),
    "a class without a training video": (
        lambda: [swap(LABELS, f"right/g0{n}.mp4,right", f"right/g0{n}.mp4,left")() for n in (6, 7)],
        [CARD, "fold 1 has no training video of 1 class(es), right"],
    ),
    "a class without a video": (
        add(CLASSES, "up"),
        [CARD, "fold 1 has no training video of 1 class(es), up"],
    ),
    "a class of one video": (
        lambda: [add(CLASSES, "up")(), swap(LABELS, "left/g06.mp4,left", "left/g06.mp4,up")()],
        [CLASSES, "row 3: class 'up' has one video, 'left/g06.mp4'"],
    ),
    "a class named twice": (add(CLASSES, "left"), [CLASSES, "row 3: 'left' is given twice"]),
    "a class that a result table's column is called": (
        add(CLASSES, "score"),
        [CLASSES, "row 3: 'score' is a column of the result tables"],
    ),
    "the background among the classes": (add(CLASSES, "rest"), [CARD, "background 'rest' is one of the classes"]),
    "a background that a result table's column is called": (
        swap(CARD, "background: rest", "background: label"),
        [CARD, "background 'label' is a column of the result tables"],
    ),
    "a group for two sides": (
        swap(CARD, "validation: ['g0[45]']", "validation: ['g0[45]', g00]"),
        [CARD, "'g00' (1 group(s) in all) is named for test and validation"],
    ),
    "the same bytes on two sides": (
        lambda: shutil.copy("media/toy/left/g00.mp4", "media/toy/left/g07.mp4"),
        [CARD, "fold 1: the same bytes in test ('left/g00.mp4') and train ('left/g07.mp4')"],
    ),
    "no validation video": (
        swap(CARD, "validation: ['g0[45]']", "validation: [h05]"),
        [CARD, "fold 1 has no val video"],
    ),
    "no test video": (swap(CARD, "test: ['g0[0-3]']", "test: [h00]"), [CARD, "fold 1 has no test video"]),
    "more folds than groups": (
        swap(
            CARD, TOY_CARD[TOY_CARD.index("  groups:\n    folds") :], "  kfold: {folds: 9, validation: 0.2, seed: 0}\n"
        ),
        [CARD, "8 group(s) for 9 folds"],
    ),
    "a card that names an unknown column": (
        swap(CARD, "groups: [{column: who}]", "groups: [{column: whom}]"),
        [LABELS, "row 1: no column whom; there are path, label, who"],
    ),
    "a card with an unknown key": (
        swap(CARD, "opposites:", "oposites:"),
        [CARD, "oposites: unknown key, did you mean 'opposites'?"],
    ),
    "a name that YAML reads as a value": (
        swap(CARD, "background: rest", "background: no"),
        [CARD, "background: expected a valid string, got False (YAML reads words like no"],
    ),
    "opposites that are no classes": (
        swap(CARD, "[[left, right]]", "[[left, up]]"),
        [CARD, "opposites: 'up' is not in classes.txt"],
    ),
}


@pytest.mark.parametrize("mistake", TABLES)
def test_tables_and_made_splits(toy, capsys, mistake):
    plant, says = TABLES[mistake]
    refuses(capsys, plant, says, "index")


def test_nothing_is_wrong_with_the_toy_itself(toy):
    assert cli.main(["index", "--config", "configs/toy.yaml"]) == 0


def test_a_segment_after_the_end_of_a_video_that_states_no_length(toy, capsys):
    def plant() -> None:
        write(Path("media/toy/long/g06.mkv"), 36, fps=10, container_options={"live": "1"})
        Path("media/toy/long/g06.mp4").unlink()
        for file in (LABELS, SEGMENTS):
            swap(file, "long/g06.mp4", "long/g06.mkv")()
        swap(SEGMENTS, "long/g06.mkv,2.1,3.2", "long/g06.mkv,2.1,9.5")()

    says = ["artifacts/toy/segments.csv", "row 15: 'left': segment ends at 9.5 s, after its video 'long/g06.mkv'"]
    refuses(capsys, plant, [*says, "which lasts 3.6 s"], "index", "decode")
    swap(SEGMENTS, "2.1,9.5", "2.1,3.7")()
    assert [cli.main([stage, "--config", "configs/toy.yaml"]) for stage in ("index", "decode")] == [0, 0]


def test_segments_after_the_end_that_a_wrong_header_states_are_no_mistake(toy, capsys):
    path = Path("media/toy/long/g06.mp4")
    data = bytearray(path.read_bytes())
    for box in (b"mdhd", b"tkhd", b"mvhd"):  # lengths of 1 s; the tables of frames stay
        start = data.index(box) + 4
        scale, length = (12, 16) if box != b"tkhd" else (None, 20)
        ticks = int.from_bytes(data[start + scale : start + scale + 4], "big") if scale else 1000
        data[start + length : start + length + 4] = ticks.to_bytes(4, "big")
    path.write_bytes(data)
    for stage in ("index", "decode"):
        assert cli.main([stage, "--config", "configs/toy.yaml"]) == 0, capsys.readouterr().err
    assert ",1.0," in next(
        line for line in Path("artifacts/toy/videos.csv").read_text().splitlines() if "long/g06" in line
    )


def test_segments_in_lost_frames_are_no_mistake_but_said(toy, capsys):
    path = write(Path("media/toy/long/g06.avi"), 36, size=(320, 240), fps=10, codec="mpeg4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    Path("media/toy/long/g06.mp4").unlink()
    for file in (LABELS, SEGMENTS):
        swap(file, "long/g06.mp4", "long/g06.avi")()
    for stage in ("index", "decode"):
        assert cli.main([stage, "--config", "configs/toy.yaml"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "decode: long/g06.avi: damaged: " in printed
    assert re.search(r"decode: long/g06\.avi: frames end at \d\.\d+ s, its segment 'left' later", printed)


def test_a_class_whose_training_videos_cannot_be_decoded(toy, capsys):
    def plant() -> None:
        for name in ("g06", "g07"):  # the header stays, the frames are nonsense of their own
            path = Path(f"media/toy/right/{name}.mp4")
            data = path.read_bytes()
            start = data.index(b"mdat") + 4
            noise = np.random.default_rng(int(name[1:])).bytes(len(data[start : data.index(b"moov") - 4]))
            path.write_bytes(data[:start] + noise + data[start + len(noise) :])

    says = ["not one training video of right has features", "artifacts/toy/decoded.csv"]
    refuses(capsys, plant, says, "index", "decode", "finetune", "extract", "train --task clip")


def test_a_stored_feature_that_is_not_a_number(toy, capsys):
    for stage in ("index", "decode", "finetune", "extract"):
        assert cli.main([stage, "--config", "configs/toy.yaml"]) == 0

    def plant() -> None:  # with a checksum that fits: written so, not damaged since
        for path in Path("artifacts/toy/features/shared").glob("*.safetensors"):
            arrays, facts = read_arrays(path)
            arrays["values"][3, 7] = np.nan
            facts["checksum"] = checksum(arrays, f"{facts['key']} {path.stem} {facts['damage']}")
            write_arrays(path, arrays, facts)
        assert "not finite" in FeatureStore(path.parent, None).fault(path.stem)

    says = [".safetensors: unusable features", "1 of 11 feature vectors are not finite", "the first at 0.300 s"]
    refuses(capsys, plant, says, "train --task clip")


# --- published lists --------------------------------------------------------------------------------------------------


TRAINING, TESTING = f"{MEDIA}/lists/trainlist01.txt", f"{MEDIA}/lists/testlist01.txt"
LISTS = """
name: toy
title: Squares by published lists
licence: none
source: drawn by the test
media: media/toy
labels: {folders: .}
groups: [{pattern: '(g[0-9]+)'}]
splits: {lists: {style: ucf101, folder: lists, folds: 1, validation: 0.34, seed: 0}}
"""


@pytest.fixture
def listed(toy) -> Path:
    """The clips of the toy with UCF101's kind of lists: g00 to g02 are tested."""
    Path(CARD).write_text(LISTS)
    for path in (LABELS, SEGMENTS):
        Path(path).unlink()
    shutil.rmtree("media/toy/long")
    Path(TRAINING).parent.mkdir()
    classes = list(enumerate(("left", "right"), start=1))
    Path(TRAINING).write_text("".join(f"{c}/g{n:02d}.mp4 {i}\n" for i, c in classes for n in range(3, 8)))
    Path(TESTING).write_text("".join(f"{c}/g{n:02d}.mp4\n" for _, c in classes for n in range(3)))
    return toy


def by_class(*lines: str) -> Edit:
    """HMDB51's kind of lists instead, that of `left` with further lines."""

    def edit() -> None:
        swap(CARD, "style: ucf101", "style: hmdb51")()
        for label in ("left", "right"):
            uses = [f"g{n:02d}.mp4 {2 if n < 3 else 1} " for n in range(8)]
            own = [*uses, *(lines if label == "left" else ())]
            Path(f"{MEDIA}/lists/{label}_test_split1.txt").write_text("\n".join(own) + "\n")

    return edit


PUBLISHED: dict[str, tuple[Edit, list[str]]] = {
    "a list that names a file twice": (
        add(TRAINING, "left/g04.mp4 1"),
        [TRAINING, "row 11: 'left/g04.mp4' is listed already, for train"],
    ),
    "a list that names a file for two sides": (
        add(TESTING, "left/g04.mp4"),
        [TESTING, "row 7: 'left/g04.mp4' is listed already, for train"],
    ),
    "a list that is missing": (lambda: Path(TESTING).unlink(), [TESTING, "the list cannot be read"]),
    "lists of other files": (
        lambda: [swap(TRAINING, "/g", "/h")(), swap(TESTING, "/g", "/h")()],
        [MEDIA, "holds none of the 16 videos listed for fold 1", "'left/h03.mp4'"],
    ),
    "a folder that is no class": (
        lambda: Path("media/toy/left").rename("media/toy/lefft"),
        [MEDIA, "folder 'lefft' (8 video(s), 'lefft/g00.mp4' first) is no class, did you mean 'left'?"],
    ),
    "a use that is none": (
        by_class("g08.mp4 3"),
        [f"{MEDIA}/lists/left_test_split1.txt", "row 9: 'g08.mp4 3'; expected a file name and 0, 1 or 2"],
    ),
    "a file with two uses": (
        by_class("g00.mp4 1"),
        [f"{MEDIA}/lists/left_test_split1.txt", "row 9: 'left/g00.mp4' is listed already, for test"],
    ),
}


@pytest.mark.parametrize("mistake", PUBLISHED)
def test_published_lists(listed, capsys, mistake):
    plant, says = PUBLISHED[mistake]
    refuses(capsys, plant, says, "index")


def test_nothing_is_wrong_with_the_lists_themselves(listed):
    assert cli.main(["index", "--config", "configs/toy.yaml"]) == 0
    by_class()()
    assert cli.main(["index", "--config", "configs/toy.yaml"]) == 0


# --- a label for each timestep ----------------------------------------------------------------------------------------


STEPS = """
name: toy
title: Drawn features
licence: none
source: drawn by the test
media: media/toy
features: {folder: features, fps: 10.0, layout: time_first}
background: rest
labels: {frames: {folder: groundTruth, mapping: mapping.txt, tolerance: 2}}
groups: [{pattern: '(g[0-9])_'}]
splits: {lists: {style: mstcn, folder: splits, folds: 1, validation: 0.34, seed: 0}}
"""
STEPS_CONFIG = """
dataset: toy
seed: 0
folds: [1]
view: {fps: 10.0, short_side: 0, crop: 0}
backbone: null
train:
  frame: {hidden_size: 4, epochs: 1, batch_size: 4}
"""
TRUTH = f"{MEDIA}/groundTruth/g0_0.txt"


@pytest.fixture
def steps(tmp_path, monkeypatch) -> Path:
    """Eight recordings of 30 timesteps in MS-TCN's layout; g3 is tested."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    names = [f"g{group}_{take}" for group in range(4) for take in range(2)]
    bundles = {"train": names[:6], "test": names[6:]}
    texts = {
        CARD: STEPS,
        CLASSES: "left\nright\n",
        "configs/toy.yaml": STEPS_CONFIG,
        f"{MEDIA}/mapping.txt": "0 rest\n1 left\n2 right\n",
        **{f"{MEDIA}/splits/{side}.split1.bundle": "".join(f"{n}.txt\n" for n in b) for side, b in bundles.items()},
        **{f"{MEDIA}/groundTruth/{name}.txt": "rest\n" * 10 + "left\n" * 10 + "right\n" * 10 for name in names},
    }
    for name, text in texts.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    Path(f"{MEDIA}/features").mkdir()
    for number, name in enumerate(names):
        values = np.random.default_rng(number).normal(size=(30, 5)).astype(np.float32)
        np.save(f"{MEDIA}/features/{name}.npy", values)
    return tmp_path


TIMESTEPS: dict[str, tuple[Edit, list[str]]] = {
    "more labels than timesteps": (
        lambda: [add(TRUTH, "rest")() for _ in range(3)],
        [CARD, "'features/g0_0.npy' has 30 timesteps", f"{TRUTH} 33 labels", "tolerance"],
    ),
    "fewer labels than timesteps": (
        lambda: Path(TRUTH).write_text("rest\n" * 20),
        [CARD, "'features/g0_0.npy' has 30 timesteps", f"{TRUTH} 20 labels"],
    ),
    "a timestep's label that is no class": (
        swap(TRUTH, "rest\nleft\n", "rest\nleff\n"),
        [CARD, f"{TRUTH}, row 11: 'leff' is no class"],
    ),
    "an empty line among the labels": (
        swap(TRUTH, "rest\nleft\n", "rest\n\nleft\n"),
        [f"{TRUTH}, row 11: no label; expected one a line"],
    ),
    "a mapping of other classes": (
        add(f"{MEDIA}/mapping.txt", "3 up"),
        [f"{MEDIA}/mapping.txt", "only here: up"],
    ),
    "a mapping that names a class twice": (
        add(f"{MEDIA}/mapping.txt", "3 left"),
        [f"{MEDIA}/mapping.txt", "row 4: 'left' is given twice"],
    ),
    "a bundle that names a recording twice": (
        add(f"{MEDIA}/splits/train.split1.bundle", "g1_0.txt"),
        [f"{MEDIA}/splits/train.split1.bundle", "row 7: 'g1_0' is listed already, for train"],
    ),
    "a recording in both bundles": (
        add(f"{MEDIA}/splits/test.split1.bundle", "g1_0.txt"),
        [f"{MEDIA}/splits/test.split1.bundle", "row 3: 'g1_0' is listed already, for train"],
    ),
}


@pytest.mark.parametrize("mistake", TIMESTEPS)
def test_labels_of_timesteps(steps, capsys, mistake):
    plant, says = TIMESTEPS[mistake]
    refuses(capsys, plant, says, "index")


def test_a_feature_file_with_nan_never_reaches_training(steps, capsys):
    """Like a video that cannot be decoded: listed with its reason, and left out; the others go on."""
    values = np.load(f"{MEDIA}/features/g0_0.npy")
    values[4, 2] = np.nan
    np.save(f"{MEDIA}/features/g0_0.npy", values)
    for stage in ("index", "decode", "finetune", "extract"):
        assert cli.main([stage, "--config", "configs/toy.yaml"]) == 0
    assert (
        "decode: features/g0_0.npy: rejected: 1 of 30 timesteps hold numbers that are not finite, 4 first (nan)"
        in capsys.readouterr().out
    )
    assert len(list(Path("artifacts/toy/features/shared").glob("*.safetensors"))) == 7


# --- names that other tools take for something else -------------------------------------------------------------------


ODD = ("None", "NA", "null", "nan", "007", "1e5", "no", "off")


def test_class_and_group_names_come_through_unchanged(steps, capsys):
    """As tables of clips of features: eight classes, of each a clip in each of the groups NA (tested), 01, 1e5."""
    groups = ("NA", "01", "1e5")
    shutil.rmtree(f"{MEDIA}/features")
    Path(f"{MEDIA}/features").mkdir()
    rows = ["path,label,who"]
    for group in groups:
        for number, label in enumerate(ODD):
            values = np.random.default_rng(number).normal(size=(6, 8)).astype(np.float32)
            values[:, number] += 9 + groups.index(group)
            np.save(f"{MEDIA}/features/{group}-{label}.npy", values)
            rows.append(f"features/{group}-{label}.npy,{label},{group}")
    Path(LABELS).write_text("\n".join(rows) + "\n")
    Path(CLASSES).write_text("".join(f"{label}\n" for label in ODD))
    Path(CARD).write_text(
        STEPS[: STEPS.index("background")]
        + "background: 'N/A'\nopposites: [['no', 'off'], ['007', '1e5']]\nlabels: {csv: {file: labels.csv}}\n"
        + "groups: [{column: who}]\nsplits: {groups: {folds: [{test: ['NA'], validation: ['01']}]}}\n"
    )
    task = "clip: {hidden_size: 16, epochs: 2, lr: 0.01, batch_size: 8}"
    Path("configs/toy.yaml").write_text(
        STEPS_CONFIG[: STEPS_CONFIG.index("  frame")] + f"  {task}\nevaluate: {{bootstrap_samples: 10}}\n"
    )
    for stage in ("index", "decode", "audit", "finetune", "extract", "train --task clip", "evaluate --task clip"):
        assert cli.main([*stage.split(), "--config", "configs/toy.yaml"]) == 0, capsys.readouterr().err
    folder = Path("artifacts/toy/evaluations/clip-rgb-fold1-seed0")
    found = read_answers(folder / "predictions.csv")
    assert sorted(found["label"]) == sorted(ODD)
    assert set(found["predicted"]) <= set(ODD)
    assert set(found["group"]) == {"NA"}
    assert [name for name in found.columns if name in ODD] == list(ODD)
    assert (folder / "confusion.csv").read_text().split("\n")[0] == ",".join(ODD)
