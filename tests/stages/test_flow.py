"""Stages and commands on optical flow, and on ten crops: through the store and straight from the video."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.features.backbones import read_backbone
from pipeline.features.store import FeatureStore
from pipeline.inference import extract as extract_command
from pipeline.inference import predict as predict_command
from pipeline.models.modelfolder import load_model
from pipeline.synthetic import write_video
from pipeline.video.flow import NO_FLOW
from pipeline.view import View, features_key
from tests.conftest import run_stage, square_frames, write_toy_video

ARTIFACTS = Path("artifacts/toy")
WEIGHTS = ARTIFACTS / "backbone/shared/backbone.safetensors"


def configure(**view: object) -> View:
    """Change the toy's view, which is the working folder's."""
    values = {"fps": 10.0, "short_side": 32, "crop": 32, "clip_frames": 0, "clip_stride": 0, "crops": 1, **view}
    path = Path("configs/toy.yaml")
    lines = path.read_text().splitlines()
    changed = "view: {" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"
    path.write_text("\n".join(changed if line.startswith("view:") else line for line in lines) + "\n")
    return View(**values)  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("crops", "method"),
    [(1, "dis"), pytest.param(10, "farneback", marks=pytest.mark.slow), pytest.param(10, "", marks=pytest.mark.slow)],
)
def test_through_the_store_and_straight_from_the_video_are_equal_bit_for_bit(
    toy: Path, crops: int, method: str
) -> None:
    view = configure(crop=24, crops=crops, **({"flow": method} if method else {}))
    run_stage("finetune")
    run_stage("extract")
    backbone = read_backbone(WEIGHTS)
    assert backbone.is_flow == bool(method)
    key = features_key(view, backbone.name, backbone.weights_sha256)
    store = FeatureStore(ARTIFACTS / "features/shared", key)
    arguments = ["media/toy/left", "media/toy/long", "--out", "out", "--backbone", backbone.name]
    arguments += ["--weights", str(WEIGHTS), "--fps", "10", "--short-side", "32", "--crop", "24"]
    arguments += ["--crops", str(crops), *(["--flow", method] if method else [])]
    assert extract_command.main(arguments) == 0
    direct = FeatureStore("out", key)
    assert len(direct.entries()) == 40
    for sha256 in direct.entries():
        one, other = direct.read(sha256), store.read(sha256)
        assert one.num_crops == crops
        for name in ("values", "time_seconds", "pts_seconds"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert one.values.std() > 0
        assert one.time_seconds[0] == pytest.approx(0.1 if method else 0.0)


@pytest.mark.slow
def test_flow_tells_left_from_right_and_predict_answers_as_the_stages_do(toy: Path) -> None:
    view = configure(flow="dis")
    for stage in ("finetune", "extract"):
        run_stage(stage)
    run_stage("train", "--task", "clip")
    run_stage("evaluate", "--task", "clip")
    found = rows(ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/predictions.csv")
    assert len(found) == 8
    assert all(row["label"] == row["predicted"] for row in found)
    folder = ARTIFACTS / "trainings/clip-rgb-fold1-seed0/model"
    model = load_model(folder)
    assert model.spec.view == view
    store = FeatureStore(ARTIFACTS / "features/shared", model.spec.features_key)
    assert predict_command.main(["media/toy/right", "--model", str(folder), "--out", "out"]) == 0
    scores = {Path(row["path"]).name: row for row in rows(Path("out/results.csv"))}
    for video in rows(ARTIFACTS / "videos.csv"):
        if video["video_id"].startswith("right/"):
            expected = model.predict(store.read(video["sha256"]), model.spec.features_key)
            answer = scores[Path(video["video_id"]).name]
            assert answer["label"] == model.classes[int(expected.argmax())]
            assert float(answer["score"]) == pytest.approx(float(expected.max()), abs=1e-6)
            assert int(answer["frames"]) == len(store.read(video["sha256"]).values)


@pytest.mark.slow
def test_a_video_of_one_picture_is_listed_and_left_out_of_training(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(Path("media/toy/left/still.mp4"), square_frames([9], (255, 160, 90), 5), fps=10)
    write_toy_video(Path("media/toy/left/new.mp4"), "left", 77)
    with Path("media/toy/labels.csv").open("a") as labels:
        labels.write("left/still.mp4,left,g19\nleft/new.mp4,left,g18\n")
    configure(flow="farneback")
    text = Path("configs/toy.yaml").read_text()
    tuned = "finetune: {epochs: 1, frames_per_video: 2, batch_size: 16, flip: false}"
    Path("configs/toy.yaml").write_text(text.replace("finetune: null", tuned))
    for stage in ("index", "decode"):
        run_stage(stage)
    capsys.readouterr()
    run_stage("finetune")
    assert f"train: 1 video(s) left out: {NO_FLOW}" in capsys.readouterr().out
    run_stage("extract")
    printed = capsys.readouterr().out
    assert f"extract: left/still.mp4 has no features: {NO_FLOW}" in printed
    assert "extract: 62 of 62 videos extracted" in printed
    run_stage("extract")
    printed = capsys.readouterr().out
    assert "extract: 0 of 62 videos extracted" in printed
    assert f"left/still.mp4 has no features: {NO_FLOW}" in printed
    run_stage("train", "--task", "clip")
    assert "train: 1 video(s) give no features" in capsys.readouterr().out

    folder = ARTIFACTS / "trainings/clip-rgb-fold1-seed0/model"
    assert predict_command.main(["media/toy/left/still.mp4", "--model", str(folder), "--out", "out"]) == 1
    [row] = rows(Path("out/results.csv"))
    assert (row["status"], row["reason"]) == ("rejected", NO_FLOW)
