"""Stages and commands on optical flow, and on ten crops: through the store and straight from the video."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.features.backbones import read_backbone
from pipeline.features.store import FeatureStore
from pipeline.inference import extract as extract_command
from pipeline.inference import predict as predict_command
from pipeline.models.modelfolder import load_model
from pipeline.synthetic import write_video
from pipeline.video.flow import NO_FLOW
from pipeline.view import View, features_key
from tests.conftest import run_stage, square_frames, undrawn, write_toy_video

pytestmark = pytest.mark.slow

ARTIFACTS = Path("artifacts/toy")
FLOW = ("--stream", "flow")


@pytest.fixture(autouse=True)
def _undrawn() -> Iterator[None]:
    with undrawn():
        yield


def configure(flow: str = "", finetune: str = "null", **view: object) -> View:
    """Change the toy's view, which is the working folder's, and give it a flow stream; returns the view of that."""
    values = {"fps": 10.0, "short_side": 32, "crop": 32, "clip_frames": 0, "clip_stride": 0, "crops": 1, **view}
    config = yaml.safe_load(Path("configs/toy.yaml").read_text())
    config["view"] = values
    if flow:
        tuned = yaml.safe_load(finetune)
        own = {"backbone": config["backbone"], "finetune": tuned}
        train = {"clip": config["train"]["clip"], "frame": None}
        config["flow"] = {"method": flow, "weight": 0.5, "train": train, **own}
    Path("configs/toy.yaml").write_text(yaml.safe_dump(config))
    return View(**values, flow=flow)  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("crops", "method"),
    [(1, "dis"), (10, "farneback")],
)
def test_through_the_store_and_straight_from_the_video_are_equal_bit_for_bit(
    toy: Path, crops: int, method: str
) -> None:
    view = configure(crop=24, crops=crops, flow=method)
    stream = ["--stream", "flow" if method else "rgb"]
    run_stage("finetune", *stream)
    run_stage("extract", *stream)
    name = "flow-shared" if method else "shared"
    weights = ARTIFACTS / "backbone" / name / "backbone.safetensors"
    backbone = read_backbone(weights)
    assert backbone.is_flow == bool(method)
    key = features_key(view, backbone.name, backbone.weights_sha256)
    store = FeatureStore(ARTIFACTS / "features" / name, key)
    arguments = ["media/toy/left", "media/toy/long", "--out", "out", "--backbone", backbone.name]
    arguments += ["--weights", str(weights), "--fps", "10", "--short-side", "32", "--crop", "24"]
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


def test_flow_tells_left_from_right_and_predict_answers_as_the_stages_do(toy: Path) -> None:
    view = configure(flow="dis")
    for stage in ("finetune", "extract"):
        run_stage(stage, *FLOW)
    run_stage("train", "--task", "clip", *FLOW)
    run_stage("evaluate", "--task", "clip", *FLOW)
    found = rows(ARTIFACTS / "evaluations/clip-flow-fold1-seed0/predictions.csv")
    assert len(found) == 8
    assert all(row["label"] == row["predicted"] for row in found)
    folder = ARTIFACTS / "trainings/clip-flow-fold1-seed0/model"
    model = load_model(folder)
    assert model.spec.view == view
    store = FeatureStore(ARTIFACTS / "features/flow-shared", model.spec.features_key)
    assert predict_command.main(["media/toy/right", "--model", str(folder), "--out", "out"]) == 0
    scores = {Path(row["path"]).name: row for row in rows(Path("out/results.csv"))}
    for video in rows(ARTIFACTS / "videos.csv"):
        if video["video_id"].startswith("right/"):
            expected = model.predict(store.read(video["sha256"]), model.spec.features_key)
            answer = scores[Path(video["video_id"]).name]
            assert answer["label"] == model.classes[int(expected.argmax())]
            assert float(answer["score"]) == pytest.approx(float(expected.max()), abs=1e-6)
            assert int(answer["frames"]) == len(store.read(video["sha256"]).values)


def test_a_video_of_one_picture_is_listed_and_left_out_of_training(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(Path("media/toy/left/still.mp4"), square_frames([9], (255, 160, 90), 205), fps=10)
    write_video(Path("media/toy/left/still2.mp4"), square_frames([4], (255, 160, 90), 206), fps=10)  # of the test side
    write_toy_video(Path("media/toy/left/new.mp4"), "left", 77)
    with Path("media/toy/labels.csv").open("a") as labels:
        labels.write("left/still.mp4,left,g19\nleft/new.mp4,left,g18\nleft/still2.mp4,left,g01\n")
    configure(flow="farneback", finetune="{epochs: 1, frames_per_video: 2, batch_size: 16, flip: false}")
    for stage in ("index", "decode", "audit"):
        run_stage(stage)
    capsys.readouterr()
    run_stage("finetune", *FLOW)
    assert f"train: 1 video(s) left out: {NO_FLOW}" in capsys.readouterr().out
    run_stage("extract", *FLOW)
    printed = capsys.readouterr().out
    assert f"extract: left/still.mp4 has no features: {NO_FLOW}" in printed
    assert "extract: 63 of 63 videos extracted" in printed
    run_stage("extract", *FLOW)
    printed = capsys.readouterr().out
    assert "extract: 0 of 63 videos extracted" in printed
    assert f"left/still.mp4 has no features: {NO_FLOW}" in printed
    run_stage("train", "--task", "clip", *FLOW)
    assert "train: 1 video(s) give no features" in capsys.readouterr().out

    folder = ARTIFACTS / "trainings/clip-flow-fold1-seed0/model"
    assert predict_command.main(["media/toy/left/still.mp4", "--model", str(folder), "--out", "out"]) == 1
    [row] = rows(Path("out/results.csv"))
    assert (row["status"], row["reason"]) == ("rejected", NO_FLOW)

    # One timestep of colour is enough for all that follows, and the fusion answers by colour alone.
    for stage in ("finetune", "extract"):
        run_stage(stage)
    run_stage("train", "--task", "clip")
    for stream in ("rgb", "flow"):
        run_stage("evaluate", "--task", "clip", "--stream", stream)
    run_stage("fuse", "--task", "clip")
    run_stage("report")
    fused = {row["video_id"]: row for row in rows(ARTIFACTS / "evaluations/clip-fused-fold1-seed0/predictions.csv")}
    alone = {row["video_id"]: row for row in rows(ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/predictions.csv")}
    for name in ("left", "right"):  # rows rounded to six digits are made to add up to 1
        assert float(fused["left/still2.mp4"][name]) == pytest.approx(float(alone["left/still2.mp4"][name]), abs=2e-6)
    assert fused.keys() == alone.keys()


def test_ten_crops_from_training_to_the_report(toy: Path) -> None:
    configure(crop=24, crops=10)
    for stage in ("finetune", "extract"):
        run_stage(stage)
    run_stage("train", "--task", "clip")
    run_stage("evaluate", "--task", "clip")
    model = load_model(ARTIFACTS / "trainings/clip-rgb-fold1-seed0/model")
    store = FeatureStore(ARTIFACTS / "features/shared", model.spec.features_key)
    hashes = {video["video_id"]: video["sha256"] for video in rows(ARTIFACTS / "videos.csv")}
    controls = {
        (row["control"], row["video_id"]): row
        for row in rows(ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/controls.csv")
    }
    for row in rows(ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/predictions.csv"):
        values = store.read(hashes[row["video_id"]]).values.astype(np.float32)
        assert values.shape[1] == 10
        each = [model.predict_features(values[:, crop]) for crop in range(10)]
        assert float(row["left"]) == pytest.approx(float(np.mean(each, axis=0)[0]), abs=1e-5)
        backwards = [model.predict_features(values[::-1, crop]) for crop in range(10)]
        control = controls["reversed", row["video_id"]]
        assert float(control["left"]) == pytest.approx(float(np.mean(backwards, axis=0)[0]), abs=1e-5)
    run_stage("report")
