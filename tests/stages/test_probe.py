"""Stage and command `probe` on toys: squares that move on noise, and in rooms that go with the class or not."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import cli
from pipeline.errors import ConfigError, LrcnError
from pipeline.features.store import FeatureStore
from pipeline.synthetic import write_video
from pipeline.video.changes import CHANGES
from tests.conftest import make_toy, run_stage, undrawn, untracked_in

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

NAME = "clip-rgb-fold1-seed0"
MODEL = f"artifacts/toy/trainings/{NAME}/model"
ROOMS = ((20, 40, 200), (40, 200, 20))


def with_probe(root: Path, videos: int) -> None:
    config = root / "configs/toy.yaml"
    config.write_text(config.read_text().replace("probe: null", f"probe: {{videos: {videos}}}"))


@pytest.mark.parametrize("task", ["clip", "frame"])
def test_the_stage(toy, task, capsys):
    videos = 4 if task == "clip" else 2
    with_probe(toy, videos)
    run_stage("probe", "--task", task)
    folder = toy / f"artifacts/toy/evaluations/probes/{task}-rgb-fold1-seed0"
    scores = json.loads((folder / "probe.json").read_text())
    assert (scores["videos"], list(scores["changes"])) == (videos, list(CHANGES))
    assert 0.1 < scores["foreground_share"] < 0.4
    for one in scores["changes"].values():
        assert 0 <= one["low"] <= one["flip_rate"] <= one["high"] <= 1
    table = pd.read_csv(folder / "probe.csv", keep_default_na=False)
    assert list(table["change"].unique()) == list(CHANGES)
    assert len(table) == videos * len(CHANGES)
    predicted = pd.read_csv(toy / f"artifacts/toy/evaluations/{task}-rgb-fold1-seed0/predictions.csv")
    if task == "clip":
        own = table.drop_duplicates("video_id").set_index("video_id")
        stored = predicted.set_index("video_id").loc[own.index]
        assert list(own["predicted"]) == list(stored["predicted"])
        assert np.allclose(own["score"], stored["score"], atol=1e-5)
        assert sorted(own["label"]) == ["left", "left", "right", "right"]
        assert scores["changes"]["mirrored"]["flip_rate"] >= 0.6  # left and right; the grain is mirrored too
    else:
        assert scores["changes"]["mirrored"]["num_items"] > 2 * 30
    assert (folder / "contact_sheet.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    if task == "clip":
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        run_stage("probe", "--task", task)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert re.search(r"background_replaced +\d\.\d{3}  \[", capsys.readouterr().out)


def test_other_features_than_the_frames_give_are_noticed(toy):
    with_probe(toy, 2)
    (folder,) = (path for path in (toy / "artifacts/toy/features").iterdir() if path.is_dir())
    key = yaml.safe_load((toy / MODEL / "model.yaml").read_text())["features_key"]
    store = FeatureStore(folder, key)
    for sha256 in store.entries():
        features = store.read(sha256)
        store.write(
            sha256, type(features)(features.values * np.float16(1.1), features.time_seconds, features.pts_seconds)
        )
    with pytest.raises(LrcnError, match="unchanged, the probe gets another answer than the evaluation"):
        run_stage("probe", "--task", "clip")


def test_an_experiment_without_a_probe(toy):
    with pytest.raises(ConfigError, match=r"configs/toy\.yaml: probe is empty; expected e\.g\. probe: \{videos: 60\}"):
        run_stage("probe", "--task", "clip")


def test_any_files_by_hand(toy, capsys):
    inbox = toy / "inbox"
    for label in ("left", "right"):
        for number in range(3):
            shutil.copy(toy / f"media/toy/{label}/g{number:02d}.mp4", _made(inbox) / f"{label}{number}.mp4")
    arguments = ["--model", MODEL, "--out", "out"]
    assert cli.main(["probe", "inbox", *arguments]) == 0
    scores = json.loads(Path("out/probe.json").read_text())
    assert (scores["videos"], scores["groups"], list(scores["changes"])) == (6, 6, list(CHANGES))
    assert scores["changes"]["mirrored"]["flip_rate"] >= 0.6
    assert "6 of 6 file(s) probed" in capsys.readouterr().out
    (inbox / "text.mp4").write_text("no video\n")
    assert cli.main(["probe", "inbox", *arguments]) == 1
    assert "probe: inbox/text.mp4: " in capsys.readouterr().err
    assert json.loads(Path("out/probe.json").read_text()) == scores
    assert cli.main(["probe", "inbox/text.mp4", *arguments]) == 2
    assert "none of 1 file(s) can be probed" in capsys.readouterr().err


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def built(root: Path, tied: bool) -> float:
    """Flip rate of `background_replaced` for squares in two rooms, which go with the class or with nothing."""
    make_toy(root, people=24)
    with_probe(root, 60)
    shutil.rmtree(root / "media/toy/long")  # of the frame task
    for name in ("labels.csv", "segments.csv"):
        lines = (root / "media/toy" / name).read_text().splitlines(keepends=True)
        (root / "media/toy" / name).write_text("".join(line for line in lines if not line.startswith("long/")))
    for path in sorted((root / "media/toy").glob("*/*.mp4")):
        label, number = path.parent.name, int(path.stem[1:])
        room = int(label == "right") if tied else number // 2 % 2
        rng = np.random.default_rng([number, label == "right"])
        grain = rng.integers(-24, 25, (1, 32, 32, 1))  # of the video's own: without it they would be near-duplicates
        noise = rng.integers(-8, 9, (11, 32, 32, 3))
        frames = np.clip(np.array(ROOMS[room]) + grain + noise, 0, 255).astype(np.uint8)
        for step in range(11):
            column = 2 * step if label == "right" else 20 - 2 * step
            frames[step, 11:21, column : column + 10] = (255, 120 + number * 5 % 120, 90)
        write_video(path, frames, fps=10)
    with untracked_in(root), undrawn():
        for stage in ("index", "decode", "audit", "finetune", "extract"):
            run_stage(stage)
        run_stage("train", "--task", "clip")
        run_stage("probe", "--task", "clip")
    scores = json.loads((root / f"artifacts/toy/evaluations/probes/{NAME}/probe.json").read_text())
    return float(scores["changes"]["background_replaced"]["flip_rate"])


def test_a_model_that_learned_the_background_is_found_out(tmp_path):
    """The same squares, in rooms that go with the class: the answer follows the room."""
    tied, untied = built(tmp_path / "tied", True), built(tmp_path / "untied", False)
    print(f"flip rate of background_replaced: tied {tied:.3f}, untied {untied:.3f}")
    assert tied >= 0.5
    assert tied >= 3 * untied
