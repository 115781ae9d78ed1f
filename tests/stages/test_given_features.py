"""Ready-made features through the stages: every label and number is compared with the files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.data.cards import read_dataset
from pipeline.data.tables import read_segments, read_splits, read_videos
from pipeline.errors import ConfigError, DataError, LrcnError
from pipeline.features.store import FeatureStore
from pipeline.inference import recognizer
from pipeline.models.modelfolder import load_model
from pipeline.stages.layout import Layout
from pipeline.stages.samples import read_samples
from tests.conftest import run_stage

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

CARD = """
name: toy
title: Drawn features
licence: none
source: drawn by the test
media: media/toy
features: {folder: features, fps: 29.97}
background: rest
labels: {frames: {folder: groundTruth, mapping: mapping.txt, tolerance: 4}}
groups: [{pattern: '(g\\d)_'}]
splits: {lists: {style: mstcn, folder: splits, folds: 1, validation: 0.34, seed: 0}}
"""
CONFIG = """
dataset: toy
seed: 0
folds: [1]
view: {fps: 9.99, short_side: 0, crop: 0}
backbone: null
train:
  frame: {hidden_size: 8, epochs: 3, lr: 0.01, batch_size: 4, dropout: 0.0}
audit: {allow_leak: false, max_shortcut_auc: 0.65}
evaluate: {bootstrap_samples: 50, precision: 0.9, false_alarms_per_hour: 1.0}
probe: null
"""
NAMES = ("rest", "up", "down")
RECORDINGS = [f"g{group}_{take}" for group in range(4) for take in range(2)]  # g3 is tested
ARTIFACTS = Path("artifacts/toy")


def labels_of(name: str) -> list[str]:
    """One to seven timesteps of each label: shorter than the grid's step too."""
    rng = np.random.default_rng([1, *name.encode()])
    runs = [[NAMES[k % 3]] * int(rng.integers(1, 8)) for k in range(30)]
    return [label for run in runs for label in run]


def values_of(name: str) -> np.ndarray:
    """(T, 5): a signature in noise, and the number of the timestep."""
    rng = np.random.default_rng([2, *name.encode()])
    numbers = np.array([NAMES.index(label) for label in labels_of(name)])
    values = rng.normal(size=(len(numbers), 5)).astype(np.float32)
    values[np.arange(len(numbers)), numbers] += 4
    values[:, 4] = np.arange(len(numbers))
    return values


def define(card: str = CARD, config: str = CONFIG) -> None:
    for name, text in {
        "datasets/toy/card.yaml": card,
        "datasets/toy/classes.txt": "up\ndown\n",
        "configs/toy.yaml": config,
        "configs/runtime.yaml": "device: cpu\nworkers: 2\n",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """Eight recordings in the MS-TCN layout, (D, T); the media folder is returned, the working folder is the root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    define()
    media = tmp_path / "media/toy"
    for folder in ("features", "groundTruth", "splits"):
        (media / folder).mkdir(parents=True)
    for name in RECORDINGS:
        np.save(media / "features" / f"{name}.npy", values_of(name).T)
        (media / "groundTruth" / f"{name}.txt").write_text("\n".join(labels_of(name)) + "\n")
    (media / "mapping.txt").write_text("0 rest\n1 up\n2 down\n")
    (media / "splits/train.split1.bundle").write_text("".join(f"{name}.txt\n" for name in RECORDINGS[:6]))
    (media / "splits/test.split1.bundle").write_text("\n".join(f"{name}.txt" for name in RECORDINGS[6:]))  # no last \n
    return media


def prepare() -> None:
    for stage in ("index", "decode", "audit", "finetune", "extract"):
        run_stage(stage)


def model_folder() -> Path:
    (found,) = (ARTIFACTS / "trainings").glob("*/model")
    return found


def samples(split: str):
    (folder,) = (path for path in (ARTIFACTS / "features").iterdir() if path.is_dir())
    store = FeatureStore(folder, None)
    return read_samples(Layout("toy"), store, read_dataset("datasets/toy"), task="frame", fold=1, split=split)


def rejected() -> dict[str, str]:
    return {Path(v.video_id).name: v.reason for v in read_videos(ARTIFACTS / "videos.csv") if v.status == "rejected"}


def test_every_number_and_every_label_arrives_where_it_belongs(toy):
    prepare()
    found = {s.video.video_id: s for split in ("train", "val", "test") for s in samples(split)}
    assert sorted(found) == [f"features/{name}.npy" for name in RECORDINGS]
    for name in RECORDINGS:
        sample = found[f"features/{name}.npy"]
        assert sample.features.values.dtype == np.float32
        np.testing.assert_array_equal(sample.features.values, values_of(name)[::3])
        assert [NAMES[label] for label in sample.labels] == labels_of(name)[::3]
        np.testing.assert_allclose(sample.features.time_seconds, np.arange(len(sample.labels)) / 9.99, atol=1e-9)


def test_the_tables_say_what_the_files_are(toy):
    prepare()
    video = next(v for v in read_videos(ARTIFACTS / "videos.csv") if v.video_id == "features/g0_0.npy")
    length = len(labels_of("g0_0"))
    assert (video.codec, video.pixel_format, video.width, video.height) == ("npy feature_first", "float32", 5, 0)
    assert (video.fps_header, video.num_frames_header) == (29.97, length)
    assert (video.duration_seconds_header, video.group) == (length / 29.97, "g0")
    assert {row.split for row in read_splits(ARTIFACTS / "splits.csv")} == {"train", "val", "test"}
    assert len({row.video_id for row in read_splits(ARTIFACTS / "splits.csv") if row.split == "test"}) == 2
    assert (ARTIFACTS / "frames/README.txt").read_text().startswith("No frames")
    with (ARTIFACTS / "decoded.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 8


def test_only_files_that_the_card_does_not_name_are_said_aloud(toy, capsys):
    run_stage("index")
    printed = capsys.readouterr().out
    assert "19 files in media/toy: 8 feature files, 0 rejected, 11 of the data set's own tables; " in printed
    assert "no feature files" not in printed
    (toy / "expected.json").write_text("{}")
    run_stage("index")
    printed = capsys.readouterr().out
    assert "8 feature files, 1 rejected, 11 of the data set's own tables; " in printed
    assert "index: warning: 1 other file(s) of the media folder are no feature files; audit.json lists them" in printed


def test_a_side_of_which_nothing_is_left_says_why(toy):
    for name in RECORDINGS[6:]:
        np.save(toy / "features" / f"{name}.npy", np.where(values_of(name) > 3, np.nan, 0).T)
    prepare()
    with pytest.raises(DataError, match=r"fold 1: test: 2 video\(s\) have a label of the frame task, none has "
                       r"features: 2 could not be decoded \(see .*decoded\.csv\), 0 give none"):  # fmt: skip
        samples("test")


def test_a_second_run_does_nothing_and_other_labels_import_again(toy, capsys):
    prepare()
    assert "8 of 8 feature files imported" in capsys.readouterr().out
    run_stage("extract")
    assert "0 of 8 feature files imported" in capsys.readouterr().out
    labels = toy / "groundTruth/g0_0.txt"
    labels.write_text("\n".join(labels_of("g0_0")[:-4]))
    prepare()
    assert "1 of 8 feature files imported" in capsys.readouterr().out


@pytest.mark.parametrize("difference", [-4, -1, 1, 4])
def test_small_differences_in_length_are_cut_off_and_noted(toy, capsys, difference):
    labels = labels_of("g3_1")
    (toy / "groundTruth/g3_1.txt").write_text("\n".join([*labels, *["up"] * 4][: len(labels) + difference]))
    prepare()
    printed = capsys.readouterr().out
    assert (
        "warning: 1 recording(s) have features and labels of different lengths, and were cut to the shorter" in printed
    )
    assert f"'features/g3_1.npy': {len(labels)} timesteps, {len(labels) + difference} labels" in printed
    sample = next(s for s in samples("test") if s.video.video_id == "features/g3_1.npy")
    length = len(labels) + min(difference, 0)
    np.testing.assert_array_equal(sample.features.values, values_of("g3_1")[:length:3])
    assert [NAMES[label] for label in sample.labels] == labels[:length:3]


def test_greater_differences_are_refused_with_the_file(toy):
    (toy / "groundTruth/g3_1.txt").write_text("\n".join(labels_of("g3_1")[:-5]))
    with pytest.raises(DataError, match=r"'features/g3_1\.npy' has \d+ timesteps, but .*g3_1\.txt \d+ labels; up to 4"):
        run_stage("index")


def test_labels_that_are_no_class_are_refused_with_the_row(toy):
    text = (toy / "groundTruth/g1_0.txt").read_text()
    (toy / "groundTruth/g1_0.txt").write_text("up\nleft\n" + "\n".join(text.split("\n")[2:]))
    with pytest.raises(DataError, match=r"g1_0\.txt, row 2: 'left' is no class"):
        run_stage("index")


def test_each_bad_file_has_its_reason_and_the_others_go_on(toy, capsys):
    # The training part of 6: one is cut, one has another size, one is no array, one is not finite.
    data = (toy / "features/g0_0.npy").read_bytes()
    (toy / "features/g0_0.npy").write_bytes(data[:-8])
    np.save(toy / "features/g0_1.npy", values_of("g0_1")[:, :4].T)
    (toy / "features/g1_0.npy").write_text("no array")
    broken = values_of("g3_0").T
    broken[2, 7] = np.nan
    np.save(toy / "features/g3_0.npy", broken)
    (toy / "notes.csv").write_text("1,2\n")
    prepare()
    reasons = rejected()
    assert reasons["g0_0.npy"] == f"cut off: {len(data) - 8} of {len(data)} bytes are there"
    assert reasons["g0_1.npy"].startswith("4 numbers a timestep (shape (4,")
    assert reasons["g0_1.npy"].endswith("but most files here have 5")
    assert reasons["g1_0.npy"] == "not a NumPy file (it does not begin as one)"
    assert reasons["notes.csv"] == "not below features/, where the card says the features are"
    assert reasons["g0_0.txt"] == reasons["mapping.txt"] == "a table of the data set"
    printed = capsys.readouterr().out
    assert "fold 1: 3 listed video(s) are not in the media folder" in printed
    assert "decode: features/g3_0.npy: rejected: 1 of" in printed
    assert "test: 1 video(s) have no features" in (samples("test") and capsys.readouterr().out)


def test_a_file_exchanged_after_index_is_not_used(toy, capsys):
    run_stage("index")
    np.save(toy / "features/g0_0.npy", values_of("g0_1").T)
    run_stage("decode")
    assert "features/g0_0.npy: rejected: its content is no longer what videos.csv states" in capsys.readouterr().out
    run_stage("finetune")
    np.save(toy / "features/g1_0.npy", values_of("g0_1").T)
    with pytest.raises(LrcnError, match=r"features/g1_0\.npy: its content is no longer"):
        run_stage("extract")


def test_mean_and_deviation_come_from_the_training_part_alone(toy):
    prepare()
    run_stage("train", "--task", "frame")
    before = load_model(model_folder()).network
    steps = np.concatenate([sample.features.values for sample in samples("train")])
    np.testing.assert_allclose(before.feature_mean.numpy(), steps.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(before.feature_std.numpy(), steps.std(axis=0, ddof=1), rtol=1e-5)
    tested = {Path(sample.video.video_id).stem for sample in samples("test")}
    for name in tested:
        np.save(toy / "features" / f"{name}.npy", 1000 * values_of(name).T)
    prepare()
    run_stage("train", "--task", "frame")
    after = load_model(model_folder()).network
    for name, tensor in before.state_dict().items():
        assert (tensor == after.state_dict()[name]).all(), name


def test_all_stages_and_prediction_from_files(toy, capsys):
    prepare()
    run_stage("train", "--task", "frame")
    run_stage("evaluate", "--task", "frame")
    run_stage("report")
    scores = json.loads((ARTIFACTS / "metrics.json").read_text())["frame"]["rgb"]["test"]["frame"]
    assert scores["num_frames"] == sum(len(labels_of(name)[::3]) for name in RECORDINGS[6:])
    assert scores["background_class"] == 0
    assert "none: the features came ready-made" in (ARTIFACTS / "report.html").read_text()

    model = str(model_folder())
    (toy / "video.mp4").write_bytes(b"any video")
    np.save(toy / "other.npy", np.zeros((4, 20), np.float32))
    np.savetxt(toy / "g3_0.csv", values_of("g3_0"), delimiter=",", fmt="%.9g")
    paths = [str(toy / name) for name in ("features/g3_0.npy", "g3_0.csv", "other.npy", "video.mp4")]
    assert main(["predict", *paths, "--model", model, "--out", "predictions"]) == 1
    with Path("predictions/results.csv").open() as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert rows["g3_0.npy"]["status"] == rows["g3_0.csv"]["status"] == "ok"
    assert rows["g3_0.npy"]["score"] == rows["g3_0.csv"]["score"]
    assert int(rows["g3_0.npy"]["frames"]) == len(labels_of("g3_0")[::3])
    assert "4 numbers a timestep (feature first); this model was trained on 5" in rows["other.npy"]["reason"]
    assert rows["video.mp4"]["status"] == "rejected"
    assert "no CNN to look at pictures with; expected files of features" in rows["video.mp4"]["reason"]


def test_a_bad_feature_file_stops_no_other(toy, monkeypatch):
    prepare()
    run_stage("train", "--task", "frame")
    inbox = toy / "inbox"
    inbox.mkdir()
    np.save(inbox / "good.npy", values_of("g3_0").T)
    with (inbox / "vast.npy").open("wb") as file:  # sparse: 256 GB of nothing
        shape = (5, 64 * 2**30 // 5)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 4 * shape[0] * shape[1])
    with (inbox / "vast.csv").open("wb") as file:
        file.truncate(2**40)
    np.save(inbox / "lost.npy", values_of("g3_0").T)
    np.save(inbox / "odd.npy", values_of("g3_0").T)
    real = recognizer.read_given

    def reads(path, *rest):
        if path.name == "lost.npy":
            raise OSError(5, "Input/output error")
        if path.name == "odd.npy":
            raise MemoryError("no room")
        return real(path, *rest)

    arguments = ["predict", str(inbox), "--model", str(model_folder()), "--out", "predictions", "--max-memory", "16"]
    with monkeypatch.context() as patch:
        patch.setattr(recognizer, "read_given", reads)
        assert main(arguments) == 1
    with Path("predictions/results.csv").open() as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "good.npy": "ok", "lost.npy": "failed", "odd.npy": "failed", "vast.csv": "failed", "vast.npy": "failed",
    }  # fmt: skip
    limit = "more than 16 MB, the limit for one file (--max-memory)"
    assert rows["vast.npy"]["reason"] == f"reading it needs 524288 MB of memory, {limit}"
    assert rows["vast.csv"]["reason"] == f"reading it needs 1048576 MB of memory, {limit}"
    assert rows["lost.npy"]["reason"] == "cannot be read: Input/output error"
    assert rows["odd.npy"]["reason"] == "not enough memory: no room"
    for name in ("vast.npy", "vast.csv"):
        (inbox / name).unlink()
    assert main(arguments) == 0  # what failed is tried again


def test_a_plain_folder_of_csv_files_with_a_label_column(toy):
    card = CARD.replace("folder: features, fps", "folder: ., fps")
    card = card.replace(
        "{frames: {folder: groundTruth, mapping: mapping.txt, tolerance: 4}}", "{frames: {column: label}}"
    )
    card = card.replace(
        "{lists: {style: mstcn, folder: splits, folds: 1, validation: 0.34, seed: 0}}",
        "{groups: {folds: [{test: [g3], validation: [g2]}]}}",
    )
    define(card)
    for path in sorted(toy.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name in RECORDINGS:
        labels = ["" if label == "rest" else label for label in labels_of(name)]
        lines = [",".join([*map(str, row), label]) for row, label in zip(values_of(name), labels, strict=True)]
        (toy / f"{name}.csv").write_text("a,b,c,d,e,label\n" + "\n".join(lines) + "\n")
    prepare()
    for sample in samples("test"):
        name = Path(sample.video.video_id).stem
        np.testing.assert_array_equal(sample.features.values, values_of(name)[::3])
        assert [NAMES[label] for label in sample.labels] == labels_of(name)[::3]
    assert {segment.label for segment in read_segments(ARTIFACTS / "segments.csv")} == {"up", "down"}
    run_stage("train", "--task", "frame")
    np.savetxt("bare.csv", values_of("g3_0"), delimiter=",", fmt="%.9g")
    Path("counted.csv").write_text("0,1,2,3,4\n" + Path("bare.csv").read_text())  # as pandas names columns
    paths = [str(toy / "g3_0.csv"), "bare.csv", "counted.csv"]
    assert main(["predict", *paths, "--model", str(model_folder()), "--out", "predictions"]) == 0
    with Path("predictions/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["score"] for row in rows}) == 1
    assert [int(row["frames"]) for row in rows] == [len(labels_of("g3_0")[::3])] * 3


@pytest.mark.parametrize(
    ("card", "config", "message"),
    [
        (CARD, CONFIG.replace("fps: 9.99", "fps: 30.0"), r"view\.fps is 30, but the features of toy come at 29\.97 a"),
        (
            CARD,
            CONFIG.replace("backbone: null", "backbone: {name: resnet18}").replace("short_side: 0, crop: 0",
                                                                                   "short_side: 32, crop: 32"),
            "dataset toy holds ready-made features .*expected backbone: null",
        ),
        (
            CARD.replace("features: {folder: features, fps: 29.97}\n", "").replace(
                "{frames: {folder: groundTruth, mapping: mapping.txt, tolerance: 4}}", "{folders: .}").replace(
                "{lists: {style: mstcn, folder: splits, folds: 1, validation: 0.34, seed: 0}}",
                "{kfold: {folds: 2, validation: 0.5, seed: 0}}"),
            CONFIG,
            "backbone is empty, but dataset toy holds videos",
        ),
        (CARD, CONFIG.replace("crop: 0", "crop: 16"), r"view\.short_side is 0; expected"),
        (CARD, CONFIG + "finetune: {epochs: 1, frames_per_video: 1}\n", "backbone is empty, as for .*finetune: null"),
    ],
)  # fmt: skip
def test_experiments_that_do_not_fit_their_data(toy, card, config, message):
    define(card, config)
    with pytest.raises(ConfigError, match=message):
        run_stage("index")


def test_missing_folders_are_named(toy):
    (toy / "features").rename(toy / "elsewhere")
    with pytest.raises(DataError, match=r"features: no such folder; the features of 'toy' are expected there"):
        run_stage("index")
    (toy / "elsewhere").rename(toy / "features")
    (toy / "groundTruth").rename(toy / "elsewhere")
    with pytest.raises(DataError, match=r"not one of the features' files has labels in .*groundTruth"):
        run_stage("index")


def test_two_files_of_one_recording_are_refused(toy):
    np.savetxt(toy / "features/g0_0.csv", values_of("g0_0"), delimiter=",")
    with pytest.raises(DataError, match=r"'features/g0_0\.npy' and 'features/g0_0\.csv' are both features of one"):
        run_stage("index")


def test_a_label_for_each_recording_trains_the_clip_task(toy):
    card = CARD.replace("{frames: {folder: groundTruth, mapping: mapping.txt, tolerance: 4}}", "{csv: {file: l.csv}}")
    card = card.replace(
        "{lists: {style: mstcn, folder: splits, folds: 1, validation: 0.34, seed: 0}}",
        "{groups: {folds: [{test: [g3], validation: [g2]}]}}",
    ).replace("background: rest\n", "")
    define(card, CONFIG.replace("frame: {", "clip: {"))
    rows = [f"features/{name}.npy,{'up' if name.endswith('0') else 'down'}" for name in RECORDINGS]
    (toy / "l.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    prepare()
    run_stage("train", "--task", "clip")
    run_stage("evaluate", "--task", "clip")
    run_stage("report")
    scores = json.loads((ARTIFACTS / "metrics.json").read_text())["clip"]["rgb"]["test"]["video"]
    assert scores["num_videos"] == 2
