"""The leakage premium on the toy, in which every person is drawn alike: dividing people changes little."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.splits import folds_of
from pipeline.data.tables import read_splits, read_videos
from pipeline.errors import ConfigError, DataError
from pipeline.stages import premium as stage
from pipeline.stages.layout import stage_options
from tests.conftest import run_stage, undrawn

pytestmark = pytest.mark.slow  # trains two models anew

ARTIFACTS = Path("artifacts/toy")
NAMES = ("clip-rgb-fold1-seed0", "frame-rgb-fold1-seed0")


@pytest.fixture(autouse=True)
def _undrawn():
    with undrawn():
        yield


def measure() -> dict:
    return stage.leakage_premium(stage_options("", ["--config", "configs/toy.yaml"]))


def snapshot() -> dict[str, tuple[int, bytes]]:
    """Everything but the premium's own files."""
    files = [path for path in ARTIFACTS.rglob("*") if path.is_file()]
    own = [path for path in files if "premium" in path.parts or path.name == "premium.json"]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path not in own}


def test_the_premium_is_measured_beside_the_experiment_and_goes_on_where_it_was_cut_off(toy, capsys, monkeypatch):
    before, environment = snapshot(), dict(os.environ)
    train, trained = stage.train_one, []

    def cut(options, world):
        if trained:
            raise KeyboardInterrupt
        train(options, world)
        trained.append(options.training)

    monkeypatch.setattr(stage, "train_one", cut)
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert dict(os.environ) == environment
    assert not (ARTIFACTS / "evaluations/premium.json").exists()
    monkeypatch.setattr(
        stage, "train_one", lambda options, world: [trained.append(options.training), train(options, world)]
    )
    found = measure()
    assert trained == list(NAMES)
    assert snapshot() == before
    assert dict(os.environ) == environment
    assert json.loads((ARTIFACTS / "evaluations/premium.json").read_text()) == found
    assert {task: (one["metric"], one["folds"]) for task, one in found.items()} == {
        "clip": ("top1", 1), "frame": ("acc", 1),
    }  # fmt: skip
    for task, level, score in (("clip", "video", "top1"), ("frame", "frame", "acc")):
        for side, folder in (("grouped", ARTIFACTS), ("random", ARTIFACTS / "premium")):
            metrics = json.loads((folder / f"evaluations/{task}-rgb-fold1-seed0/metrics.json").read_text())
            own = metrics["test"][level]
            expected = {"score": own[score], "low": own[f"{score}_low"], "high": own[f"{score}_high"]}
            assert found[task][side] == pytest.approx(expected, abs=1e-12)
        premium = found[task]["random"]["score"] - found[task]["grouped"]["score"]
        assert found[task]["premium"] == pytest.approx(premium, abs=1e-12)
    assert "audit: leakage premium of toy: random split " in capsys.readouterr().out
    # What is left: the split, which has the sizes of the real one, its leaks, and the evaluations.
    assert {path.name for path in (ARTIFACTS / "premium").iterdir()} == {
        "evaluations", "leaks.json", "made_from.txt", "splits.csv",
    }  # fmt: skip
    real, random = (folds_of(read_splits(f / "splits.csv"))[0] for f in (ARTIFACTS, ARTIFACTS / "premium"))
    labels = {video.video_id: video.label for video in read_videos(ARTIFACTS / "videos.csv")}
    assert sorted((s, labels[v]) for v, s in real.items()) == sorted((s, labels[v]) for v, s in random.items())
    leaks = json.loads((ARTIFACTS / "premium/leaks.json").read_text())
    assert leaks["allowed"] is True
    assert {leak["kind"] for leak in leaks["leaks"]} == {"group"}
    tested = pd.read_csv(ARTIFACTS / f"premium/evaluations/{NAMES[0]}/predictions.csv")["video_id"]
    assert set(tested) == {v for v, side in random.items() if side == "test" and labels[v]}
    assert measure() == found
    assert trained == list(NAMES)  # nothing was left to train
    model = ARTIFACTS / f"trainings/{NAMES[0]}/model/model.safetensors"
    model.write_bytes((ARTIFACTS / f"trainings/{NAMES[1]}/model/model.safetensors").read_bytes())  # another model
    assert measure() == found  # from the start, without a cut, to the same numbers
    assert trained == [*NAMES, *NAMES]


def test_a_cnn_of_the_fold_is_made_anew_for_the_random_fold(toy, capsys):
    config = Path("configs/toy.yaml")
    text = config.read_text().replace("finetune: null", "finetune: {epochs: 1, frames_per_video: 2}")
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("  frame:")) + "\n")
    for name in ("finetune", "extract", "train --task clip", "evaluate --task clip"):
        run_stage(*name.split())
    capsys.readouterr()
    before = snapshot()
    found = measure()
    assert list(found) == ["clip"]
    printed = capsys.readouterr().out
    assert "finetune: squeezenet1_1" in printed
    assert "extract: 60 of 60 videos extracted" in printed
    assert snapshot() == before
    assert not (ARTIFACTS / "premium/backbone").exists()


def test_there_is_no_premium_of_nothing(toy):
    config = Path("configs/toy.yaml")
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if not line.startswith(("  clip:", "  frame:"))) + "\n")
    config.write_text(config.read_text().replace("train:\n", "train: {}\n"))
    with pytest.raises(ConfigError, match=r"train\.clip and train\.frame are empty; the premium is that of the RGB"):
        measure()
    assert not (ARTIFACTS / "evaluations/premium.json").exists()


def test_what_must_be_there_first(toy):
    predictions = ARTIFACTS / f"evaluations/{NAMES[1]}/predictions.csv"
    text = predictions.read_text()
    predictions.write_text(text.replace("long/g00.mp4", "long/g19.mp4"))
    with pytest.raises(DataError, match=r"predictions\.csv: 'long/g19\.mp4' is no test video of fold 1"):
        measure()
    predictions.unlink()
    with pytest.raises(DataError, match=rf"{NAMES[1]}/predictions\.csv: no such file"):
        measure()
    predictions.write_text(text)
    assert not (ARTIFACTS / "premium").exists()
    videos = ARTIFACTS / "videos.csv"
    lines = videos.read_text().splitlines()
    ungrouped = [f"{line.rpartition(',')[0]},{n}" for n, line in enumerate(lines[1:])]
    videos.write_text("\n".join([lines[0], *ungrouped]) + "\n")
    with pytest.raises(DataError, match=r"splits\.csv: a random split divides no group, so there is no premium"):
        measure()


SOURCES_CARD = """
name: toy
title: Clips that show their source and nothing of their class
licence: none
source: drawn by the test
media: media/toy
features: {folder: features, fps: 10.0, layout: time_first}
labels: {csv: {file: labels.csv}}
groups: [{column: source}]
splits: {kfold: {folds: 3, validation: 0.3, seed: 0}}
"""
SOURCES_CONFIG = """
dataset: toy
seed: 0
folds: [1, 2, 3]
view: {fps: 10.0, short_side: 0, crop: 0}
backbone: null
train:
  clip: {hidden_size: 16, epochs: 15, lr: 0.01, batch_size: 8, dropout: 0.0}
evaluate: {bootstrap_samples: 300}
"""


def test_what_a_model_knows_of_sources_alone_is_found_to_be_premium(tmp_path, monkeypatch):
    """Each source has a look and, at random, a class: grouped folds leave nothing to learn, random ones everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    rows = ["path,label,source"]
    texts = {"datasets/toy/card.yaml": SOURCES_CARD, "datasets/toy/classes.txt": "left\nright\n"}
    for name, text in {**texts, "configs/toy.yaml": SOURCES_CONFIG}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    Path("media/toy/features").mkdir(parents=True)
    for source in range(24):
        look = 3 * np.random.default_rng(source).normal(size=32)
        for take in range(4):
            noise = np.random.default_rng([source, take]).normal(size=(6, 32))
            np.save(f"media/toy/features/s{source:02d}-{take}.npy", (look + noise).astype(np.float32))
            rows.append(f"features/s{source:02d}-{take}.npy,{('left', 'right')[source % 2]},s{source:02d}")
    Path("media/toy/labels.csv").write_text("\n".join(rows) + "\n")
    for name in ("index", "decode", "audit", "finetune", "extract"):
        run_stage(name)
    for fold, name in itertools.product("123", ("train", "evaluate")):
        run_stage(name, "--task", "clip", "--fold", fold)
    found = measure()["clip"]
    assert found["folds"] == 3
    assert found["random"]["score"] > 0.8
    assert found["grouped"]["score"] < 0.6
    assert found["premium_low"] > 0.1
