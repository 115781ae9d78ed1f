"""The probe on two models that know the answer: one looks at a corner of the picture, one at what moves."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError, DataError, LrcnError, RejectedVideo, ViewMismatch
from pipeline.evaluation import probe
from pipeline.evaluation.probe import Clip, Prober, Subject, TooLong, left_out, read_clip, spread
from pipeline.features.backbones import Backbone
from pipeline.inference.proberesults import table_of, write_probe
from pipeline.video.changes import BACKGROUND_CHANGES, CHANGES
from pipeline.video.reader import Frame
from pipeline.view import View, features_key

VIEW = View(fps=10.0, short_side=48, crop=48)
ROOMS = ((30, 60, 180), (30, 180, 60))  # blue of class 0, green of class 1
SHIRTS = ((250, 40, 160), (250, 160, 40))


class Corner(nn.Module):
    """Mean colour of the top left corner, (B, 3)."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames[:, :, :6, :6].mean(dim=(2, 3))


class Shirt(nn.Module):
    """Mean colour of what is red, (B, 3)."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        red = (frames[:, :1] > 0.8).float()
        return (frames * red).sum(dim=(2, 3)) / (red.sum(dim=(2, 3)) + 0.001) + 0.1


def prober(network: nn.Module, task: str = "clip", view: View = VIEW) -> Prober:
    """Its model answers 0 where there is more blue, 1 where there is more green."""
    backbone = Backbone("simple", network, 3, [0.0] * 3, [1.0] * 3, 48).eval()
    key = features_key(view, "simple", backbone.weights_sha256)

    def predict(features: np.ndarray) -> np.ndarray:
        odds = np.exp(10 * features[:, [2, 1]])
        probs = odds / odds.sum(axis=1, keepdims=True)
        return probs.mean(axis=0) if task == "clip" else probs

    def require(features_key: str) -> None:
        if features_key != key:
            raise ViewMismatch("another backbone")

    model = SimpleNamespace(
        task=task, spec=SimpleNamespace(view=view), network=SimpleNamespace(feature_mean=torch.zeros(1)),
        predict_features=predict, require_features=require,
    )  # fmt: skip
    return Prober(model, backbone)


def clip_of(number: int, steps: int = 12, moves: bool = True) -> Clip:
    """A square that moves through a room, both in the colours of class `number % 2`."""
    rng = np.random.default_rng(number)
    frames = np.clip(np.array(ROOMS[number % 2]) + rng.integers(-2, 3, (steps, 48, 64, 3)), 0, 255).astype(np.uint8)
    for step in range(steps if moves else 0):
        frames[step, 20:34, 4 * step : 4 * step + 14] = SHIRTS[number % 2]
    times = np.arange(steps) / 10
    return Clip(frames, times, times)


def subjects(count: int = 6, task: str = "clip", **settings) -> list[Subject]:
    length = 1 if task == "clip" else 12
    return [
        Subject(f"v{number}", f"g{number}", np.full(length, number % 2), partial(clip_of, number, **settings))
        for number in range(count)
    ]


def flips(found: Prober, some: list[Subject]) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    for one in found.probe(some, some, seed=0):
        for shown in one.shown:
            rates.setdefault(shown.change, []).append(float(shown.flips.mean()))
    return rates


@pytest.mark.parametrize("task", ["clip", "frame"])
def test_a_model_that_looks_at_the_room_is_told_from_one_that_looks_at_the_shirt(task):
    room, shirt = (flips(prober(network, task), subjects(task=task)) for network in (Corner(), Shirt()))
    assert list(room) == list(shirt) == list(CHANGES)
    # Recordings have no class of their own: a borrowed background may be of the same room.
    assert set(room["background_replaced"]) == ({1.0} if task == "clip" else {0.0, 1.0})
    assert shirt["background_replaced"] == [0.0] * 6
    assert room["person_removed"] == room["background_blurred"] == room["frozen"] == [0.0] * 6
    assert shirt["background_median"] == shirt["mirrored"] == [0.0] * 6


def test_backgrounds_are_drawn_from_the_seed():
    def borrowed(seed: int) -> list[np.ndarray]:
        found = prober(Corner()).probe(subjects(5), subjects(9), seed=seed)
        return [one.versions["background_replaced"]()[0, 40, 60] for one in found]

    first, again, other = borrowed(0), borrowed(0), borrowed(1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unchanged_is_the_answer_of_the_evaluation_or_an_error():
    found, some = prober(Corner()), subjects(2)
    expected = [found.unchanged(clip_of(number))[0] for number in range(2)]
    answers = dict(zip(["v0", "v1"], expected, strict=True))
    assert len(list(found.probe(some, some, seed=0, expected=lambda one: answers[one.video_id]))) == 2
    answers["v1"] = answers["v1"] + [0.00002, -0.00002]
    with pytest.raises(LrcnError, match=r"v1: unchanged, the probe gets another answer .* differ by 2e-05"):
        list(found.probe(some, some, seed=0, expected=lambda one: answers[one.video_id]))
    with pytest.raises(LrcnError, match="differ by inf"):
        found.check("v0", np.zeros((1, 2)), np.zeros(3))
    with pytest.raises(LrcnError, match="differ by nan"):
        found.check("v0", np.zeros((1, 2)), np.full(2, np.nan))


def test_what_cannot_be_changed_is_counted(monkeypatch):
    def unreadable() -> Clip:
        raise RejectedVideo("no frame")

    some = [
        *subjects(2),
        Subject("still", "s", np.zeros(1, int), partial(clip_of, 0, moves=False)),
        Subject("broken", "b", np.zeros(1, int), unreadable),
    ]
    found = {one.subject.video_id: one for one in prober(Corner()).probe(some, some, seed=0)}
    assert [shown.change for shown in found["v0"].shown] == list(CHANGES)
    assert not {shown.change for shown in found["still"].shown} & set(BACKGROUND_CHANGES)
    assert found["still"].reasons == dict.fromkeys(BACKGROUND_CHANGES, "nothing moves")
    assert (found["broken"].shown, found["broken"].reasons) == ([], {"everything": "no frame"})
    assert left_out(found.values())["person_removed: nothing moves"] == 1
    alone = subjects(1)
    (one,) = prober(Corner()).probe(alone, alone, seed=0)
    assert one.reasons == {"background_replaced": "no other video of another class and group"}
    assert len(one.shown) == len(CHANGES) - 1


def test_results(tmp_path):
    some = subjects(6)
    probed = prober(Corner()).probe(some, some, seed=0)
    scores = write_probe(tmp_path / "out", probed, ("blue", "green"), "title", samples=20, seed=0)
    assert json.loads((tmp_path / "out/probe.json").read_text()) == scores
    assert (scores["videos"], scores["groups"], scores["left_out"]) == (6, 6, {})
    replaced = scores["changes"]["background_replaced"]
    assert (replaced["flip_rate"], replaced["low"], replaced["high"]) == (1.0, 1.0, 1.0)
    assert replaced["per_class"]["green"]["num"] == 3
    rows = (tmp_path / "out/probe.csv").read_text().splitlines()
    assert rows[0].startswith("video_id,group,change,label,predicted,score,predicted_after,score_after,flip_rate")
    assert len(rows) == 1 + 6 * len(CHANGES)
    assert "v0,g0,background_replaced,blue,blue," in rows[2]
    assert (tmp_path / "out/contact_sheet.jpg").stat().st_size > 10_000
    assert "  background_replaced     1.000  [1.000, 1.000]" in table_of(scores)


def test_one_group_has_no_interval_and_no_video_no_result(tmp_path):
    one = [Subject("still", "s", np.zeros(1, int), partial(clip_of, 0, moves=False))]
    scores = write_probe(tmp_path, prober(Corner()).probe(one, one, seed=0), ("blue", "green"), "", samples=5, seed=0)
    assert json.loads((tmp_path / "probe.json").read_text())["changes"]["frozen"]["low"] is None
    assert "one group only" in table_of(scores)
    assert "1 video(s) left out of background_blurred: nothing moves" in table_of(scores)
    with pytest.raises(DataError, match="no video could be probed"):
        write_probe(tmp_path, [], ("blue", "green"), "", samples=5, seed=0)


def test_models_that_see_no_colour_are_refused():
    for view, words in ((View(10.0, 48, 48, flow="dis"), "optical flow"), (View(10.0, 0, 0), "ready-made features")):
        with pytest.raises(ConfigError, match=f"this model looks at {words}; expected one of colour"):
            prober(Corner(), view=view)


def test_a_video_that_takes_too_much_memory(monkeypatch):
    frames = [Frame(0.0, 0.0, np.full((72, 64), 128, np.uint8))] * 3
    assert read_clip(frames).frames.shape == (3, 48, 64, 3)
    monkeypatch.setattr(probe, "MAX_BYTES", 20_000)
    with pytest.raises(TooLong, match="its frames need more than 0 MB"):
        read_clip(frames)


def test_videos_are_spread_over_the_classes():
    labels = [0] * 50 + [1] * 5 + [2] * 2
    chosen = spread(labels, 12, seed=3)
    assert chosen == sorted(set(chosen))
    assert np.bincount([labels[place] for place in chosen]).tolist() == [5, 5, 2]
    assert spread(labels, 12, seed=3) == chosen != spread(labels, 12, seed=4)
    assert spread(labels, 99, seed=0) == list(range(57))
