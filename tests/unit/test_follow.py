"""Answers while a video goes on are those of reading it whole."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.features.backbones import given_features, load_backbone, save_backbone
from pipeline.inference.live import Follower
from pipeline.inference.recognizer import Recognizer
from pipeline.inference.stream import _Log, follow_feed
from pipeline.models.calibration import Calibration
from pipeline.models.modelfolder import Model, ModelSpec, load_model, save_model
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.video.feed import Event, FeedFrame
from pipeline.video.reader import Frame
from pipeline.view import View, features_key
from tests.conftest import write_toy_video

ARCHITECTURE = {
    "feature_size": 5, "cell": "lstm", "hidden_size": 8, "num_layers": 1, "bidirectional": False,
    "input_dropout": 0.0, "dropout": 0.0,
}  # fmt: skip
VIEW = View(fps=10, short_side=96, crop=96)


def make(task, longest_steps=0, view=VIEW, **architecture) -> Model:
    torch.manual_seed(3)
    architecture = {**ARCHITECTURE, **architecture}
    spec = ModelSpec(
        task=task, classes=("a", "b", "c"), background=None, architecture=architecture, view=view, backbone="none",
        features_key="0", provenance={}, calibration=Calibration(0.4, ((0.9, 0.5),)), longest_steps=longest_steps,
    )  # fmt: skip
    return Model(spec, RecurrentClassifier(num_classes=3, **architecture))


def features(num_steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num_steps, 5)).astype(np.float32) * 3


def pushed(follower: Follower, values: np.ndarray, steps=None, first: int = 0):
    steps = range(len(values)) if steps is None else steps
    return [answer for step in steps for answer in follower.push((first + step) / 10, values[step])]


def rows(answers) -> np.ndarray:
    return np.array([list(answer.scores.values()) for answer in answers])


def test_a_frame_model_says_at_each_timestep_what_it_says_of_the_whole():
    values, model = features(40), make("frame")
    answers = pushed(Follower(model), values)
    np.testing.assert_allclose(rows(answers), model.predict_features(values), atol=1e-5)
    assert [answer.time_seconds for answer in answers] == [step / 10 for step in range(40)]
    assert all(answer.is_final and answer.window_seconds is None for answer in answers)
    assert len({answer.label for answer in answers}) > 1
    assert all(answer.score == max(answer.scores.values()) == answer.scores[answer.label] for answer in answers)


@pytest.mark.parametrize("longest", [1, 2, 5, 8])
@pytest.mark.parametrize("head", ["mean", "last", "ramp"])
def test_windows_are_those_of_reading_a_recording_whole(longest, head):
    values, model = features(41), make("clip", longest, head=head)
    starts, size = model.clips_of(41)
    assert size == longest
    answers = pushed(Follower(model), values, first=1)  # optical flow begins later too
    final = [answer for answer in answers if answer.is_final]
    # The last window of a whole recording is moved to its end, which a stream does not know.
    in_step = [number for number, start in enumerate(starts) if start % max(1, longest // 2) == 0]
    np.testing.assert_allclose(rows(final), model.predict_clips(values)[in_step], atol=1e-5)
    begins = [round((start + 1) / 10, 3) for start in np.array(starts)[in_step]]
    assert [answer.window_seconds[0] for answer in final] == pytest.approx(begins)
    assert all(answer.window_seconds[1] == pytest.approx(answer.time_seconds + 0.1) for answer in final)


def test_within_a_window_the_answer_is_for_what_has_come_of_it():
    values, model = features(12), make("clip", 8)
    answers = pushed(Follower(model), values)
    assert [answer.is_final for answer in answers] == [False] * 7 + [True] + [False] * 3 + [True]
    np.testing.assert_allclose(rows(answers[2:3])[0], model.predict_features(values[:3]), atol=1e-5)
    np.testing.assert_allclose(rows(answers[9:10])[0], model.predict_features(values[4:10]), atol=1e-5)
    assert answers[9].window_seconds == (0.4, 1.2)


def test_missing_timesteps_are_missing_and_windows_keep_their_times():
    values, model = features(40), make("clip", 8)
    steps = [*range(6), *range(9, 16), *range(30, 36)]
    answers = pushed(Follower(model), values, steps)
    final = {answer.window_seconds: rows([answer])[0] for answer in answers if answer.is_final}
    # [0, 8) and [12, 20) ended unseen; [16, 24) and [20, 28) had nothing at all.
    assert sorted(final) == [(0.0, 0.8), (0.4, 1.2), (0.8, 1.6), (1.2, 2.0), (2.4, 3.2), (2.8, 3.6)]
    for window, kept in {(0.0, 0.8): range(6), (0.4, 1.2): [4, 5, 9, 10, 11], (2.4, 3.2): [30, 31]}.items():
        np.testing.assert_allclose(final[window], model.predict_features(values[list(kept)]), atol=1e-5)
    assert len(answers) == len(steps) + 2  # those that ended in between come before the timestep that ended them


def test_an_overlay_has_one_picture_for_each_frame(capsys):
    """A window that ended while timesteps were missing is answered for with the next frame, at a time before it."""
    frames = [Frame(step / 10, step / 10, np.zeros((6, 4), np.uint8)) for step in (*range(6), *range(9, 12))]
    drawn, follower, values = [], Follower(make("clip", 8)), features(12)
    answered = [follower.push(frame.time_seconds, values[round(frame.time_seconds * 10)]) for frame in frames]
    recognizer = SimpleNamespace(
        stream=lambda given: (a for _, some in zip(given, answered, strict=True) for a in some)
    )
    items = [*(FeedFrame(frame, 0.0, 0.0) for frame in frames), Event("end", 1.2, "the source ended")]
    overlay = SimpleNamespace(write=lambda answer, frame: drawn.append((answer.time_seconds, frame.frame.time_seconds)))
    feed = type("", (), {"__iter__": lambda self: iter(items), "num_dropped": 3})()
    follow_feed(recognizer, feed, _Log(None, False, True), overlay)
    assert drawn == [(frame.time_seconds, frame.time_seconds) for frame in frames]
    assert len(capsys.readouterr().out.splitlines()) == len(frames) + 2  # and the window, and the end


def test_without_a_length_of_training_videos_the_answer_is_for_all_so_far():
    values, model = features(6), make("clip")
    answers = pushed(Follower(model), values)
    np.testing.assert_allclose(rows(answers)[-1], model.predict_features(values), atol=1e-5)
    assert not any(answer.is_final or answer.window_seconds for answer in answers)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (make("frame", bidirectional=True), "bidirectional network"),
        (make("clip", head="attention"), "attention compares all timesteps"),
        (make("clip", view=replace(VIEW, clip_frames=4, clip_stride=2)), "clips of 4 timesteps"),
        (make("frame", view=replace(VIEW, crops=10)), "averages over 10 crops"),
    ],
)
def test_a_model_that_needs_the_end_says_so(model, message):
    with pytest.raises(ModelError, match=message):
        Follower(model)


def saved(folder, model: Model, backbone) -> None:
    save_backbone(backbone, folder / "backbone.safetensors")
    key = features_key(model.spec.view, backbone.name, backbone.weights_sha256)
    model.spec = replace(model.spec, features_key=key, backbone=backbone.name)
    save_model(folder / "model", model, folder / "backbone.safetensors")


@pytest.mark.slow  # importing torchvision
def test_pictures_from_python_give_typed_answers(tmp_path, videos):
    backbone = load_backbone("squeezenet1_1", "random", seed=0)
    saved(tmp_path, make("frame", view=View(10, 32, 32), feature_size=backbone.feature_size), backbone)
    pictures = [(number / 20, videos.draw(number * 999, 32, 32)) for number in range(8)]
    with Recognizer.load(tmp_path / "model", device="cpu") as recognizer:
        answers = list(recognizer.stream(pictures))
        again = list(recognizer.stream(iter(pictures)))
    assert [answer.time_seconds for answer in answers] == [0.0, 0.1, 0.2, 0.3]
    assert answers == again  # each call is a video of its own
    assert answers[0].label in load_model(tmp_path / "model").classes
    assert sum(answers[0].scores.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow  # importing torchvision
@pytest.mark.parametrize("in_order", [True, False])
def test_a_file_that_is_named_twice_is_answered_twice(tmp_path, in_order):
    """Fails with readers looked up by path: KeyError."""
    backbone = load_backbone("squeezenet1_1", "random", seed=0)
    saved(tmp_path, make("clip", view=View(10, 32, 32), feature_size=backbone.feature_size), backbone)
    write_toy_video(tmp_path / "a.mp4", "left", 0)
    (tmp_path / "b.mp4").write_text("text")
    paths = [str(tmp_path / name) for name in ("a.mp4", "a.mp4", "b.mp4", "a.mp4", "b.mp4")]
    with Recognizer.load(tmp_path / "model", device="cpu") as recognizer:
        answers = list(recognizer.predict_files(paths, in_order=in_order))
        assert {answer.path: answer for answer in answers}[paths[0]] == recognizer.predict(paths[0])
    assert sorted(answer.path for answer in answers) == sorted(paths)
    assert {(answer.path, answer.status) for answer in answers} == {(paths[0], "ok"), (paths[2], "rejected")}


def test_a_model_of_ready_made_features_has_no_pictures_to_look_at(tmp_path):
    backbone = given_features(5, 10.0, feature_first=False)
    saved(tmp_path, make("frame", view=View(10, 0, 0)), backbone)
    with (
        Recognizer.load(tmp_path / "model", device="cpu") as recognizer,
        pytest.raises(ModelError, match="ready-made features, not on pictures"),
    ):
        recognizer.stream(())
