"""The stages on a toy whose answer is known: a square moves left or right, and no single frame tells which."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.cards import read_dataset
from pipeline.data.tables import read_videos
from pipeline.errors import ConfigError, DataError, LrcnError, RejectedVideo, StoreError, ViewMismatch
from pipeline.evaluation.calibration import fit_calibration
from pipeline.features.backbones import read_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import FeatureStore
from pipeline.models.modelfolder import load_model
from pipeline.stages.layout import Layout
from pipeline.stages.samples import labelled_answers, read_samples
from pipeline.video.reader import VideoReader
from tests.conftest import ROOT, run_stage, undrawn, write_toy_video

pytestmark = pytest.mark.slow

ARTIFACTS = Path("artifacts/toy")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(root: Path, training: str) -> dict:
    return json.loads((root / ARTIFACTS / "evaluations" / training / "metrics.json").read_text())


def test_every_file_of_the_folder_is_accounted_for(built_toy):
    found = rows(built_toy / ARTIFACTS / "videos.csv")
    media = built_toy / "media/toy"
    assert [row["video_id"] for row in found] == sorted(
        p.relative_to(media).as_posix() for p in media.rglob("*") if p.is_file()
    )
    assert [(row["video_id"], row["status"]) for row in found if row["status"] != "ok"] == [
        ("labels.csv", "rejected"),
        ("segments.csv", "rejected"),
    ]
    assert len(rows(built_toy / ARTIFACTS / "decoded.csv")) == 60


def test_the_clip_model_reads_the_order_of_the_frames(built_toy):
    scores = metrics(built_toy, "clip-rgb-fold1-seed0")
    assert scores["test"]["video"]["num_videos"] == 8
    assert scores["test"]["video"]["top1"] == 1.0
    assert scores["controls"]["single_frame"]["top1"] <= 0.75
    assert scores["controls"]["majority"]["top1"] == 0.5
    assert scores["reversed_opposite"] == 1.0
    assert scores["controls"]["reversed"]["top1"] == 0.0


def test_the_frame_model_finds_the_segments(built_toy):
    scores = metrics(built_toy, "frame-rgb-fold1-seed0")["test"]["frame"]
    assert scores["acc"] >= 0.9
    assert scores["f1_50"] >= 0.8
    assert scores["background_class"] == 0


def test_predictions_hold_every_test_video_and_the_scores_follow_from_them(built_toy):
    found = rows(built_toy / ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/predictions.csv")
    assert {row["group"] for row in found} == {"g00", "g01", "g02", "g03"}
    assert np.mean([row["label"] == row["predicted"] for row in found]) == 1.0
    assert all(float(row["left"]) + float(row["right"]) == pytest.approx(1, abs=1e-5) for row in found)
    pooled = json.loads((built_toy / ARTIFACTS / "metrics.json").read_text())
    assert pooled["clip"]["rgb"]["test"]["video"]["top1"] == 1.0
    assert pooled["frame"]["rgb"]["test"]["frame"]["acc"] == pytest.approx(
        metrics(built_toy, "frame-rgb-fold1-seed0")["test"]["frame"]["acc"]
    )


def test_alarms_and_single_clips_are_scored_beside_videos(toy, capsys):
    card, config = Path("datasets/toy/card.yaml"), Path("configs/toy.yaml")
    card.write_text(card.read_text() + "alarms: [left]\n")
    text = config.read_text().replace("clip_frames: 0, clip_stride: 0", "clip_frames: 6, clip_stride: 5")
    config.write_text(text.replace("epochs: 30", "epochs: 6"))
    with undrawn():
        for task in ("clip", "frame"):
            run_stage("train", "--task", task)
            run_stage("evaluate", "--task", task)
        run_stage("report")
    printed = capsys.readouterr().out
    found = rows(ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/predictions.csv")
    assert list(found[0]) == [
        "video_id", "group", "seconds", "clips", "clips_right", "label", "predicted", "uncalibrated", "sure", "score",
        "left", "right",
    ]  # fmt: skip
    assert {(row["seconds"], row["clips"]) for row in found} == {("1.1", "2")}
    pooled = json.loads((ARTIFACTS / "metrics.json").read_text())
    for task in ("clip", "frame"):
        scores = metrics(toy, f"{task}-rgb-fold1-seed0")
        alarm = scores["detection"]["left"]
        assert alarm["rate_per_hour"] == 1.0
        assert alarm["num_events"] == 4  # of each task one for each of the four people tested
        assert alarm["recall_low"] <= alarm["recall"] <= alarm["recall_high"]
        assert (alarm["delay_seconds"] is None) == (task == "clip")
        assert pooled[task]["rgb"]["detection"]["left"] == pytest.approx(alarm)
        curve = rows(ARTIFACTS / f"evaluations/{task}-rgb-fold1-seed0/detection.csv")
        assert float(alarm["threshold"]) in [float(row["threshold"]) for row in curve]
    assert "hour(s) without; recall" in printed
    assert "too short to measure that rate: a single false alarm would be" in printed
    clip_level = metrics(toy, "clip-rgb-fold1-seed0")["test"]["clip"]
    assert clip_level["num_clips"] == 16
    assert clip_level["top1"] == sum(int(row["clips_right"]) for row in found) / 16
    assert pooled["clip"]["rgb"]["test"]["clip"] == pytest.approx(clip_level)


@pytest.mark.parametrize("task", ["clip", "frame"])
def test_answers_are_calibrated_by_what_the_validation_side_says(toy, task):
    name = f"{task}-rgb-fold1-seed0"
    model = load_model(ARTIFACTS / "trainings" / name / "model")
    tables = {side: rows(ARTIFACTS / "evaluations" / name / f"{side}.csv") for side in ("validation", "predictions")}
    plain = {}
    for side, split in (("validation", "val"), ("predictions", "test")):
        store = FeatureStore(ARTIFACTS / "features/shared", model.spec.features_key)
        samples = read_samples(Layout("toy"), store, read_dataset("datasets/toy"), task=task, fold=1, split=split)
        answers = [model.uncalibrated().predict(sample.features, model.spec.features_key) for sample in samples]
        plain[side] = labelled_answers(task, samples, answers)
        calibrated = model.spec.calibration.apply(plain[side][0])
        kept = [row for row in tables[side] if row["label"]]
        threshold = model.threshold(0.9)
        for row, before, after in zip(kept, plain[side][0], calibrated, strict=True):
            assert [float(row[name]) for name in model.classes] == [round(float(value), 6) for value in after]
            assert float(row["uncalibrated"]) == round(float(before.max()), 6)
            assert row["sure"] == str(int(threshold is not None and float(after.max()) >= threshold))
    assert model.spec.calibration == fit_calibration(*plain["validation"])
    own = metrics(toy, name)["calibration"]
    assert own["temperature"] == model.spec.calibration.temperature
    assert (own["wanted_precision"], own["threshold"]) == (0.9, model.threshold(0.9))
    kept = [row for row in tables["predictions"] if row["label"]]
    assert own["coverage"] == np.mean([row["sure"] == "1" for row in kept])
    pooled = json.loads((ARTIFACTS / "metrics.json").read_text())[task]["rgb"]["calibration"]
    assert {key: pooled[key] for key in own} == pytest.approx(own)


def test_another_wanted_precision_needs_no_training(toy):
    config = Path("configs/toy.yaml")
    before = load_model(ARTIFACTS / "trainings/frame-rgb-fold1-seed0/model")
    config.write_text(config.read_text().replace("precision: 0.9", "precision: 0.52"))
    run_stage("evaluate", "--task", "frame")
    own = metrics(toy, "frame-rgb-fold1-seed0")["calibration"]
    assert (own["wanted_precision"], own["threshold"]) == (0.52, dict(before.spec.calibration.thresholds)[0.55])


def test_the_report_is_one_page_that_loads_nothing(built_toy):
    page = (built_toy / ARTIFACTS / "report.html").read_text()
    assert "Squares that move left or right" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page


def test_features_through_the_store_and_straight_from_the_video_are_equal_bit_for_bit(built_toy):
    backbone = read_backbone(built_toy / ARTIFACTS / "backbone/shared/backbone.safetensors")
    model = load_model(built_toy / ARTIFACTS / "trainings/clip-rgb-fold1-seed0/model")
    store = FeatureStore(built_toy / ARTIFACTS / "features/shared", model.spec.features_key)
    videos = [row for row in rows(built_toy / ARTIFACTS / "videos.csv") if row["status"] == "ok"]
    readers = {row["sha256"]: VideoReader(built_toy / "media/toy" / row["video_id"]) for row in reversed(videos)}
    extractor = Extractor(backbone, 32, "cpu", workers=2)
    direct = dict(extractor.run((sha256, reader.frames(10.0, 32)) for sha256, reader in readers.items()))
    assert len(direct) == 60
    for sha256, features in direct.items():
        stored = store.read(sha256)
        for name in ("values", "time_seconds", "pts_seconds"):
            np.testing.assert_array_equal(getattr(features, name), getattr(stored, name))
        assert features.values.std() > 0


def test_a_second_run_does_nothing(toy, capsys):
    run_stage("decode")
    run_stage("extract")
    printed = capsys.readouterr().out
    assert "decode: 0 of 60 videos decoded" in printed
    assert "extract: 0 of 60 videos extracted" in printed


def test_adding_one_video_decodes_and_extracts_one_video(toy, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in (ARTIFACTS / "features/shared").iterdir()}
    write_toy_video(Path("media/toy/left/new.mp4"), "left", 77)
    for stage in ("index", "decode", "extract"):
        run_stage(stage)
    printed = capsys.readouterr().out
    assert "decode: 1 of 61 videos decoded" in printed
    assert "extract: 1 of 61 videos extracted" in printed
    after = {path.name: path.stat().st_mtime_ns for path in (ARTIFACTS / "features/shared").iterdir()}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()


def test_changed_parameters_never_meet_old_values(toy, capsys):
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("fps: 10.0", "fps: 5.0"))
    run_stage("decode")
    run_stage("extract")
    printed = capsys.readouterr().out
    assert "decode: 60 of 60" in printed
    assert "extract: 60 of 60" in printed
    with pytest.raises(ViewMismatch, match="made under key"):
        FeatureStore(ARTIFACTS / "features/shared", "0" * 16).read(
            next((ARTIFACTS / "features/shared").glob("*.safetensors")).stem
        )


def test_a_video_over_which_processes_died_is_not_stored_as_one_without_features(toy, monkeypatch):
    store = next((ARTIFACTS / "features/shared").glob("*.safetensors"))
    store.unlink()
    died = RejectedVideo("the process that had it died", is_transient=True)
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.stages.extract.features_of", lambda *_: iter([(store.stem, died)]))
        with pytest.raises(LrcnError, match=r"\.mp4: the process that had it died"):
            run_stage("extract")
    assert not store.exists()
    run_stage("extract")
    assert store.exists()


def test_damaged_entries_are_rebuilt(toy, capsys):
    trained = next(v.sha256 for v in read_videos(ARTIFACTS / "videos.csv") if v.video_id == "left/g10.mp4")
    frames = ARTIFACTS / "frames" / f"{trained}.mkv"
    features = ARTIFACTS / "features/shared" / f"{trained}.safetensors"
    good = features.read_bytes()
    for path in (frames, features):
        data = bytearray(path.read_bytes())
        data[-5] ^= 4
        path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        run_stage("train", "--task", "clip")
    run_stage("decode")
    run_stage("extract")
    printed = capsys.readouterr().out
    assert "decode: 1 of 60" in printed
    assert "extract: 1 of 60" in printed
    assert features.read_bytes() == good


def test_a_truncated_video_is_listed_and_the_rest_goes_on(toy, capsys):
    path = Path("media/toy/left/g10.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run_stage("index")
    run_stage("decode")
    found = {row["video_id"]: row for row in rows(ARTIFACTS / "videos.csv")}
    assert found["left/g10.mp4"]["status"] == "rejected"
    assert "index" in found["left/g10.mp4"]["reason"] or "incomplete" in found["left/g10.mp4"]["reason"]
    assert "59 ok" in capsys.readouterr().out


def test_no_video_at_all_is_an_error_with_the_way_out(toy):
    shutil.rmtree("media/toy")
    with pytest.raises(DataError, match=r"media/toy: no such folder; .*README\.md"):
        run_stage("index")


def test_a_task_the_experiment_does_not_train(toy):
    config = Path("configs/toy.yaml")
    config.write_text("\n".join(line for line in config.read_text().splitlines() if not line.startswith("  frame:")))
    with pytest.raises(ConfigError, match=r"train\.frame is empty"):
        run_stage("train", "--task", "frame")


def test_two_trainings_with_one_seed_are_equal(toy):
    model = ARTIFACTS / "trainings/clip-rgb-fold1-seed0/model/model.safetensors"
    scores = ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/metrics.json"
    before = model.read_bytes(), scores.read_bytes()
    run_stage("train", "--task", "clip")
    run_stage("evaluate", "--task", "clip")
    assert (model.read_bytes(), scores.read_bytes()) == before


def test_fine_tuning_gives_each_fold_its_own_features(toy, capsys):
    config = Path("configs/toy.yaml")
    config.write_text(
        config.read_text().replace(
            "finetune: null", "finetune: {epochs: 2, frames_per_video: 3, batch_size: 32, lr: 0.001}"
        )
    )
    run_stage("finetune")
    run_stage("extract")
    assert "extract: 60 of 60" in capsys.readouterr().out
    history = rows(ARTIFACTS / "histories/fold1.csv")
    assert len(history) == 2
    assert set(history[0]) == {
        "phase", "epoch", "train_loss", "val_loss", "val_frame_accuracy", "val_video_accuracy", "lr",
        "backbone_lr", "grad_norm",
    }  # fmt: skip
    shared, own = (
        json.loads((ARTIFACTS / f"backbone/{name}/backbone.json").read_text()) for name in ("shared", "fold1")
    )
    assert shared["weights_sha256"] != own["weights_sha256"]


END_TO_END = """finetune:
  epochs: 1
  frames_per_video: 3
  batch_size: 32
  lr: 0.0002
  end_to_end: {epochs: 3, clip_frames: 8, hidden_size: 16, lr: 0.005, backbone_lr: 0.0003, dropout: 0.1}
"""


def test_end_to_end_training_follows_and_goes_on_where_it_was_cut_off(toy, monkeypatch):
    from pipeline.stages import finetune as stage
    from pipeline.training import endtoend

    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("finetune: null\n", END_TO_END))
    run_stage("finetune")
    folder = ARTIFACTS / "backbone/fold1"
    curves, names = ARTIFACTS / "histories/fold1.csv", {"backbone.safetensors", "backbone.json"}
    assert {path.name for path in folder.iterdir()} == names
    history = rows(curves)
    assert [(row["phase"], row["epoch"]) for row in history] == [
        ("frames", "1"), ("windows", "2"), ("windows", "3"), ("windows", "4"),
    ]  # fmt: skip
    assert all(float(row["val_loss"]) > 0 and float(row["val_video_accuracy"]) >= 0 for row in history)
    weights = read_backbone(folder / "backbone.safetensors").weights_sha256
    shutil.rmtree(folder)
    curves.unlink()

    def cut(*arguments, **options):
        raise KeyboardInterrupt

    save, saved = endtoend.save_checkpoint, []

    def save_and_cut(path, *arguments, **options):
        save(path, *arguments, **options)
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(endtoend, "save_checkpoint", save_and_cut)
    with pytest.raises(KeyboardInterrupt):
        run_stage("finetune")
    checkpoints = ARTIFACTS / "checkpoints"
    assert {path.name[:-29] for path in checkpoints.iterdir()} == {"finetune-fold1-frames", "finetune-fold1-windows"}
    monkeypatch.setattr(endtoend, "save_checkpoint", save)
    monkeypatch.setattr(stage, "finetune", cut)  # single frames are not trained on again
    run_stage("finetune")
    assert {path.name for path in folder.iterdir()} == names
    assert not list(checkpoints.iterdir())
    assert read_backbone(folder / "backbone.safetensors").weights_sha256 == weights
    assert rows(curves) == history


def test_torchrun_spreads_end_to_end_training_and_one_process_writes(toy):
    config = Path("configs/toy.yaml")
    # Slowly, since this CNN's random weights blow rounding up: tests/unit/test_endtoend.py compares weights.
    settings = END_TO_END.replace("dropout: 0.1", "dropout: 0.0").replace(
        "backbone_lr: 0.0003", "backbone_lr: 0.000001"
    )
    config.write_text(config.read_text().replace("finetune: null\n", settings))
    run_stage("finetune")
    folder = ARTIFACTS / "backbone/fold1"
    curves = ARTIFACTS / "histories/fold1.csv"
    alone = rows(curves)
    shutil.rmtree(folder)
    curves.unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "pipeline.cli", "finetune", "--config", "configs/toy.yaml"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fine-tuned for 4 epochs") == 1
    assert {path.name for path in folder.iterdir()} == {"backbone.safetensors", "backbone.json"}
    for one, two in zip(alone, rows(curves), strict=True):
        assert float(two["val_loss"]) == pytest.approx(float(one["val_loss"]), abs=0.005)


def test_the_table_of_a_store_tells_every_change_of_what_is_in_it(toy):
    """Later stages depend on the tables alone."""
    features = ARTIFACTS / "features/shared"
    store = FeatureStore(features, None)
    table = rows(ARTIFACTS / "features/shared.csv")
    assert table == [{"sha256": sha256, "checksum": store.checksum(sha256)} for sha256 in store.entries()]
    assert len({row["checksum"] for row in table}) == 60
    frames = {row["sha256"]: row["checksum"] for row in rows(ARTIFACTS / "frames.csv")}
    assert sorted(frames) == [row["sha256"] for row in table]
    tables = [ARTIFACTS / "frames.csv", ARTIFACTS / "features/shared.csv"]
    before = [path.read_bytes() for path in tables]
    first = table[0]["sha256"]
    (ARTIFACTS / f"frames/{first}.mkv").unlink()
    (features / f"{first}.safetensors").unlink()
    for stage in ("decode", "extract"):
        run_stage(stage)
    assert [path.read_bytes() for path in tables] == before  # rebuilt, the same bytes
    record = ARTIFACTS / f"frames/{first}.json"
    written = json.loads(record.read_text())
    assert frames[first] == written["record_checksum"]
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("fps: 10.0", "fps: 5.0"))
    for stage in ("decode", "extract"):
        run_stage(stage)
    for path, text in zip(tables, before, strict=True):
        assert not set(path.read_bytes().splitlines()[1:]) & set(text.splitlines())


def test_footage_is_the_stored_frames_of_clips_and_segments(toy):
    from pipeline.stages.footage import labelled_footage
    from pipeline.stages.layout import stage_options
    from pipeline.training.windows import FrameMemory
    from pipeline.video.framestore import FrameStore
    from pipeline.video.reader import i420_to_rgb

    options = stage_options("", ["--config", "configs/toy.yaml"], fold=True)
    dataset = read_dataset("datasets/toy")
    store = FrameStore(ARTIFACTS / "frames", None)
    for budget in (0, 10**9):
        found, identity = labelled_footage(options, dataset, "val", FrameMemory(budget))
        assert len(found) == len(identity) == 8  # of each of two people: two clips, and two segments of a recording
        assert sorted(stretch.num_steps for stretch in found) == [11] * 8
        for stretch, (sha256, start, stop, number) in zip(found, identity, strict=True):
            assert stretch.class_index == number
            stored = [i420_to_rgb(frame.i420) for frame in store.read(sha256)][start:stop]
            assert np.array_equal(list(stretch.frames(3, 9)), stored[3:9])
            columns = [int(frame[16, :, 0].argmax()) for frame in stretch.frames(0, stretch.num_steps)]
            assert (columns[-1] > columns[0]) == (dataset.classes[number] == "right")


def test_only_labelled_videos_are_read_to_fine_tune_a_cnn(toy, monkeypatch):
    from pipeline.stages.finetune import labelled_frames
    from pipeline.stages.footage import labelled_stretches
    from pipeline.stages.layout import stage_options
    from pipeline.video.framestore import FrameStore

    segments = ARTIFACTS / "segments.csv"
    kept = [line for line in segments.read_text().splitlines() if "g04" not in line]  # of g04 nothing is labelled ...
    segments.write_text("\n".join([*kept, "long/g04.mp4,90,91,left"]) + "\n")  # ... that the video shows
    options = stage_options("", ["--config", "configs/toy.yaml"], fold=True)
    labelled, without = labelled_stretches(options, read_dataset("datasets/toy"), "val")
    found = {video.video_id: [tuple(stretch) for stretch in stretches] for video, stretches in labelled}
    assert found == {
        "left/g04.mp4": [(0, 0, 11)], "left/g05.mp4": [(0, 0, 11)], "long/g05.mp4": [(1, 5, 16), (0, 21, 32)],
        "right/g04.mp4": [(1, 0, 11)], "right/g05.mp4": [(1, 0, 11)],
    }  # fmt: skip
    assert without == 0
    read, original = [], FrameStore.read
    monkeypatch.setattr(FrameStore, "read", lambda store, sha256: [read.append(sha256), *original(store, sha256)][1:])
    frames = labelled_frames(options, read_dataset("datasets/toy"), "val", 2)
    assert read == [video.sha256 for video, _ in labelled]
    assert [video.class_index for video in frames] == [number for _, own in labelled for number, *_ in own]


def list_no_segments_of(*people: str) -> None:
    """Recordings of these people that no table lists, which the card takes for background."""
    card = Path("datasets/toy/card.yaml")
    card.write_text(card.read_text().replace("background: rest\n", "background: rest\nunlisted: background\n"))
    segments = Path("media/toy/segments.csv")
    kept = [line for line in segments.read_text().splitlines() if not any(who in line for who in people)]
    segments.write_text("\n".join(kept) + "\n")
    for stage in ("index", "audit"):
        run_stage(stage)


def test_recordings_that_are_background_throughout(toy, capsys):
    from pipeline.stages.footage import labelled_stretches
    from pipeline.stages.layout import stage_options

    list_no_segments_of("g04")
    printed = capsys.readouterr().out
    assert "warning: 1 video(s) without label and segments count as background, 'long/g04.mp4' first" in printed
    options = stage_options("", ["--config", "configs/toy.yaml"], fold=True)
    dataset = read_dataset("datasets/toy")
    stretches, _ = labelled_stretches(options, dataset, "val")  # of which the CNN is fine-tuned
    assert "long/g04.mp4" not in {video.video_id for video, _ in stretches}
    store = FeatureStore(ARTIFACTS / "features/shared", None)
    samples = read_samples(Layout("toy"), store, dataset, task="frame", fold=1, split="val")
    labels = {sample.video.video_id: sample.labels for sample in samples}
    assert list(labels) == ["long/g04.mp4", "long/g05.mp4"]
    assert len(labels["long/g04.mp4"]) == 36
    assert not labels["long/g04.mp4"].any()
    assert set(labels["long/g05.mp4"]) == {0, 1, 2}
    clips = read_samples(Layout("toy"), store, dataset, task="clip", fold=1, split="val")
    assert "long/g04.mp4" not in {sample.video.video_id for sample in clips}


def test_false_alarms_in_background_recordings_count(toy):
    list_no_segments_of("g00", "g01", "g09")
    for stage in ("train", "evaluate"):
        run_stage(stage, "--task", "frame")
    folder = ARTIFACTS / "evaluations/frame-rgb-fold1-seed0"
    found = [row for row in rows(folder / "predictions.csv") if row["video_id"] in ("long/g00.mp4", "long/g01.mp4")]
    assert len(found) == 72
    assert {row["label"] for row in found} == {"rest"}
    alarms = sum(row["predicted"] != "rest" for row in found)
    assert alarms > 0  # the square moves there as it does elsewhere: the model cannot know that nobody listed it
    all_rows = rows(folder / "predictions.csv")
    right = np.mean([row["label"] == row["predicted"] for row in all_rows])
    assert metrics(toy, "frame-rgb-fold1-seed0")["test"]["frame"]["acc"] == pytest.approx(right)


def test_the_report_says_how_videos_are_looked_at(toy):
    from pipeline.reporting.numbers import Source
    from pipeline.stages.facts import data_facts
    from pipeline.stages.layout import stage_options

    def words(**changes: str) -> tuple[str, str]:
        text = (toy / "configs/toy.yaml").read_text()
        for old, new in (("crops: 1", changes["crops"]), ("weights: random", changes["weights"])):
            text = text.replace(old, new)
        Path("configs/other.yaml").write_text(text.replace("finetune: null", changes["finetune"]))
        options = stage_options("", ["--config", "configs/other.yaml"])
        audit = Source("audit.json", json.loads((ARTIFACTS / "audit.json").read_text()))
        config = Source("configs/other.yaml", options.experiment.model_dump(mode="json"))
        options = replace(options, layout=Layout("toy"))
        facts = data_facts(options, read_dataset("datasets/toy"), audit, config)
        view, backbone = (re.sub("<[^>]*>", "", facts[name]) for name in ("view", "backbone"))
        return view, backbone

    assert words(crops="crops: 1", weights="weights: random", finetune="finetune: null") == (
        "10 frames a second, shorter side 32 pixels, centre 32 pixels, whole videos", "squeezenet1_1, weights: random",
    )  # fmt: skip
    tuned = "finetune: {epochs: 4, frames_per_video: 2, end_to_end: {epochs: 7, clip_frames: 5}}"
    assert words(crops="crops: 10", weights="weights: random, layer: features.3", finetune=tuned) == (
        "10 frames a second, shorter side 32 pixels, 10 crops of 32 pixels (centre and corners, and these mirrored), "
        "whole videos",
        "squeezenet1_1, layer features.3, weights: random, fine-tuned in each fold on single frames for 4 epochs, "
        "then with an LSTM on windows of 5 frames for 7 epochs",
    )
    model = load_model(ARTIFACTS / "trainings/clip-rgb-fold1-seed0/model")
    page = (ARTIFACTS / "report.html").read_text()
    assert f"<dt>shared features key</dt><dd>{model.spec.features_key}</dd>" in " ".join(page.split()).replace(
        "</dt> <dd>", "</dt><dd>"
    )


@pytest.mark.parametrize("keep", [0, 40])
def test_features_that_are_gone_or_cut_stop_training_and_are_not_left_out(toy, keep):
    path = sorted((ARTIFACTS / "features/shared").glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:keep]) if keep else path.unlink()
    features = FeatureStore(
        path.parent, load_model(ARTIFACTS / "trainings/clip-rgb-fold1-seed0/model").spec.features_key
    )
    dataset = read_dataset("datasets/toy")

    def read_all():
        for split, task in itertools.product(("train", "val", "test"), ("clip", "frame")):
            read_samples(Layout("toy"), features, dataset, task=task, fold=1, split=split)

    with pytest.raises(StoreError, match="run the extract stage again"):
        read_all()


def test_evaluation_refuses_features_of_another_view(toy):
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("short_side: 32, crop: 32", "short_side: 32, crop: 30"))
    run_stage("extract")
    with pytest.raises(ViewMismatch, match="another view"):
        run_stage("evaluate", "--task", "clip")


def test_a_video_that_failed_for_a_passing_reason_is_decoded_again(toy, capsys):
    videos = read_videos(Path("artifacts/toy/videos.csv"))
    video = next(video for video in videos if video.video_id == "left/g03.mp4")
    expected = (Path("artifacts/toy/frames") / f"{video.sha256}.mkv").read_bytes()
    Path("media/toy/left/g03.mp4").rename("media/toy/elsewhere")
    (Path("artifacts/toy/frames") / f"{video.sha256}.json").unlink()
    run_stage("decode")
    assert "left/g03.mp4: rejected: cannot be read: no such file" in capsys.readouterr().out
    Path("media/toy/left/g03.mp4").write_bytes(b"other contents")
    run_stage("decode")
    out = capsys.readouterr().out
    assert "left/g03.mp4: rejected: its content is no longer what videos.csv states" in out
    Path("media/toy/elsewhere").rename("media/toy/left/g03.mp4")
    run_stage("decode")
    assert "decode: 1 of 60 videos decoded" in capsys.readouterr().out
    assert (Path("artifacts/toy/frames") / f"{video.sha256}.mkv").read_bytes() == expected


def test_a_report_leaves_nothing_of_an_older_one(toy):
    """As of a stream that the experiment no longer has; DVC removes it before the stage, a run by hand does not."""
    for name in ("tables/clip-flow/per_class.csv", "figures/clip-flow/ladder.svg", "confusion/clip-flow.csv"):
        (ARTIFACTS / name).parent.mkdir(exist_ok=True)
        (ARTIFACTS / name).write_text("old")
    run_stage("report")
    names = ["clip-rgb", "frame-rgb"]
    expected = {"tables": names, "figures": names, "confusion": [f"{name}.csv" for name in names]}
    assert {name: sorted(path.name for path in (ARTIFACTS / name).iterdir()) for name in expected} == expected
