"""Requests to a served model: what is answered, what is refused and how."""

import base64
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pipeline.errors import LrcnError, RequestError
from pipeline.features.store import VideoFeatures
from pipeline.inference import served
from pipeline.inference.recognizer import Recognizer
from pipeline.inference.served import Served
from pipeline.models.modelfolder import Model, ModelSpec
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.view import View


def drawn(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, 5)).astype(np.float32)


@pytest.fixture
def serve(make_model: Callable[..., Model]) -> Callable[[str], tuple[Model, Served]]:
    def make(task: str) -> tuple[Model, Served]:
        model = make_model(task)
        assert model.folder
        return model, Served(Recognizer.load(model.folder, device="cpu"))

    return make


def test_rows_of_several_lengths_get_the_models_answers(serve) -> None:
    model, asked = serve("clip")
    videos = [drawn(7), drawn(1, 1), drawn(40, 2)]
    records = asked.answer([{"features": video.tolist()} for video in videos], precision=0.8)
    for record, video in zip(records, videos, strict=True):
        expected = model.predict_features(video)
        assert record["scores"] == dict(zip(model.classes, map(float, expected), strict=True))
        assert (record["status"], record["reason"]) == ("ok", "")
        assert record["label"] == model.classes[int(expected.argmax())]
        assert record["score"] == float(expected.max())
        assert record["sure"] is True
        assert record["segments"] == [
            {
                "start_seconds": 0.0,
                "end_seconds": round(len(video) / 10, 3),
                "label": record["label"],
                "score": record["score"],
                "sure": True,
            }
        ]


def test_no_answer_is_sure_above_the_precisions_of_the_model(serve) -> None:
    _, asked = serve("clip")
    (record,) = asked.answer([{"features": drawn(7)}], precision=0.9)
    assert record["sure"] is False
    with pytest.raises(RequestError, match=r"precision is 1; expected a share between 0 and 1"):
        asked.answer([{"features": drawn(7)}], precision=1)


def test_a_frame_model_gives_segments_and_its_timesteps_on_request(serve) -> None:
    model, asked = serve("frame")
    plain, full = (asked.answer([{"features": drawn(30)}], timesteps=wanted)[0] for wanted in (False, True))
    assert full["sure"] is None
    np.testing.assert_array_equal(np.float32(full["probabilities"]), model.predict_features(drawn(30)))
    assert full["time_seconds"] == [step / 10 for step in range(30)]
    assert plain == {key: value for key, value in full.items() if key not in ("time_seconds", "probabilities")}
    steps = model.predict_features(drawn(30)).argmax(axis=1)
    covered = [round(s["end_seconds"] * 10) - round(s["start_seconds"] * 10) for s in full["segments"]]
    assert sum(covered) == (steps == 1).sum() > 0


def test_whole_numbers_are_numbers(serve) -> None:
    _, asked = serve("clip")
    (whole,), (point,) = (
        asked.answer([{"features": rows}]) for rows in ([[0, 1, 2, 3, 4]], [[0.0, 1.0, 2.0, 3.0, 4.0]])
    )
    assert whole == point


def test_ten_crops_are_asked_for_where_the_view_has_ten() -> None:
    sizes: dict[str, Any] = {
        "feature_size": 5, "cell": "gru", "hidden_size": 4, "num_layers": 1, "bidirectional": False,
        "input_dropout": 0.0, "dropout": 0.0,
    }  # fmt: skip
    spec = ModelSpec("clip", ("a", "b"), None, sizes, View(10.0, 32, 32, crops=10), "any", "key", {})
    model = Model(spec, RecurrentClassifier(num_classes=2, **sizes))
    fake = SimpleNamespace(model=model)
    fake.answer = partial(Recognizer.answer, cast(Recognizer, fake))
    features = np.random.default_rng(0).normal(size=(7, 10, 5)).astype(np.float32)
    (record,) = Served(cast(Recognizer, fake)).answer([{"features": features.tolist()}])
    np.testing.assert_array_equal(np.float32(list(record["scores"].values())), model.predict_features(features))
    with pytest.raises(RequestError, match=r"of shape \(7, 5\); expected numbers of shape \(T, 10, 5\)"):
        Served(cast(Recognizer, fake)).answer([{"features": features[:, 0]}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "row 1: no value; expected exactly one of features, path, video"),
        ({"features": None, "path": float("nan")}, "row 1: no value"),
        ({"feature": [[0.0] * 5]}, "row 1: no value"),
        ({"features": [[0.0] * 5], "path": "a.mp4"}, "row 1: features and path; expected exactly one"),
        ({"features": 3}, "row 1: features are no array; expected numbers of shape"),
        ({"features": "abc"}, "row 1: features are not all numbers"),
        ({"features": []}, r"row 1: features are of shape \(0,\)"),
        ({"features": [0.0] * 5}, r"row 1: features are of shape \(5,\)"),
        ({"features": [[0.0] * 5, [0.0] * 4]}, "row 1: features are no array"),
        ({"features": [[0.0] * 6]}, r"row 1: features are of shape \(1, 6\); expected numbers of shape \(T, 5\)"),
        ({"features": [[[0.0] * 5]]}, r"row 1: features are of shape \(1, 1, 5\)"),
        ({"features": [["0"] * 5]}, "row 1: features are not all numbers"),
        ({"features": [[True] * 5]}, "row 1: features are not all numbers"),
        ({"features": [[0.0, 0.0, 0.0, 0.0, None]]}, "row 1: features are not all numbers"),
        ({"features": [[0.0, 0.0, 0.0, 0.0, float("nan")]]}, "row 1: features hold nan or infinity"),
        ({"features": [[1e39, 0.0, 0.0, 0.0, 0.0]]}, "row 1: features hold nan or infinity"),
        ({"video": "not base64!"}, "row 1: video is no base64"),
        ({"video": "é"}, "row 1: video is no base64"),
        ({"video": 3}, "row 1: video is a int; expected bytes, or text in base64"),
    ],
)
def test_a_wrong_row_is_refused_before_anything_is_answered(serve, row, message, monkeypatch) -> None:
    _, asked = serve("clip")
    monkeypatch.setattr(Recognizer, "answer", None)
    with pytest.raises(RequestError, match=message):
        asked.answer([{"features": drawn(7)}, row])


def test_sizes_have_limits(serve, monkeypatch) -> None:
    _, asked = serve("clip")
    monkeypatch.setattr(served, "ROWS_MAX", 2)
    monkeypatch.setattr(served, "STEPS_MAX", 10)
    monkeypatch.setattr(served, "VIDEO_BYTES_MAX", 10)
    assert len(asked.answer([{"features": drawn(10)}, {"video": bytes(10)}])) == 2
    for rows, message in [
        ([], "0 rows with a value in one of the columns features, path, video; expected 1 to 2"),
        ([{"features": drawn(1)}] * 3, "3 rows"),
        ([{"features": drawn(11)}], "row 0: 11 timesteps; expected at most 10"),
        ([{"video": bytes(11)}], "row 0: a video of 11 bytes; expected at most 10"),
    ]:
        with pytest.raises(RequestError, match=message):
            asked.answer(rows)


# Paths


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may be read, in one that may not, with a file of features in each."""
    folder = tmp_path / "allowed"
    (folder / "deeper").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "deeper"):
        np.save(place / "a.npy", drawn(9))
    monkeypatch.setenv("LRCN_VIDEO_ROOT", str(folder))
    return folder


def test_files_below_the_root_are_answered_in_the_order_of_the_rows(serve, root) -> None:
    model, asked = serve("clip")
    (root / "link.npy").symlink_to(root / "deeper" / "a.npy")
    names = ["deeper/a.npy", "missing.npy", "a.npy", str(root / "a.npy"), "link.npy", "a.npy"]
    mixed = [*({"path": name} for name in names), {"features": drawn(3)}]
    *files, last = asked.answer(mixed)
    expected = dict(zip(model.classes, map(float, model.predict_features(drawn(9))), strict=True))
    assert [record["status"] for record in files] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    assert all(record["scores"] == expected for record in files if record["status"] == "ok")
    assert "No such file" in files[1]["reason"]
    assert last["scores"] != expected


@pytest.mark.parametrize(
    "name", ["../a.npy", "deeper/../../a.npy", "{above}/a.npy", "link.npy", "folder/a.npy", ".", ""]
)
def test_paths_that_lead_out_of_the_root_are_refused(serve, root, name) -> None:
    _, asked = serve("clip")
    (root / "link.npy").symlink_to(root.parent / "a.npy")
    (root / "folder").symlink_to(root.parent)
    with pytest.raises(RequestError, match="does not lie below the folder this server may read"):
        asked.answer([{"path": name.format(above=root.parent)}])


def test_a_name_that_begins_like_the_root_lies_outside(serve, root) -> None:
    _, asked = serve("clip")
    other = root.with_name("allowed too")
    other.mkdir()
    np.save(other / "a.npy", drawn(9))
    with pytest.raises(RequestError, match="does not lie below"):
        asked.answer([{"path": str(other / "a.npy")}])


def test_without_a_root_no_path_is_read(serve, root, monkeypatch) -> None:
    _, asked = serve("clip")
    monkeypatch.delenv("LRCN_VIDEO_ROOT")
    with pytest.raises(
        RequestError, match="reads no paths; send the bytes as `video`, or start it with LRCN_VIDEO_ROOT"
    ):
        asked.answer([{"path": str(root / "a.npy")}])
    monkeypatch.setenv("LRCN_VIDEO_ROOT", str(root))
    for path in (3, "a\0.npy", "a\ud800.npy"):
        with pytest.raises(RequestError, match="path is no file name"):
            asked.answer([{"path": path}])


# Bytes


def test_bytes_are_read_from_a_file_that_is_gone_afterwards(serve, tmp_path, monkeypatch) -> None:
    _, asked = serve("clip")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[bytes] = []

    def read(path: Path, *_: object) -> VideoFeatures:
        assert path.parent.stat().st_mode & 0o077 == 0
        seen.append(path.read_bytes())
        return VideoFeatures(drawn(9), np.arange(9.0), np.arange(9.0))

    monkeypatch.setattr("pipeline.inference.recognizer.read_given", read)
    before = set(tmp_path.iterdir())
    text = base64.encodebytes(bytes(range(256))).decode()  # in several lines
    records = asked.answer([{"video": b"one"}, {"video": text}, {"video": bytearray(b"three")}])
    assert seen == [b"one", bytes(range(256)), b"three"]
    assert [record["status"] for record in records] == ["ok"] * 3
    assert set(tmp_path.iterdir()) == before


def test_a_request_that_nobody_waits_for_lets_the_next_one_go(serve, tmp_path, monkeypatch) -> None:
    """Fails where all videos of a request are read however long it takes: 100 times a tenth of a second."""
    model, _ = serve("clip")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before, read = set(tmp_path.iterdir()), threading.Event()

    def slow(*_: object) -> VideoFeatures:
        read.set()
        time.sleep(0.1)
        return VideoFeatures(drawn(9), np.arange(9.0), np.arange(9.0))

    monkeypatch.setattr("pipeline.inference.recognizer.read_given", slow)
    asked = Served(Recognizer.load(model.folder, device="cpu"), seconds=0.25)
    with ThreadPoolExecutor() as threads:
        long = threads.submit(asked.answer, [{"video": bytes([n])} for n in range(100)])
        assert read.wait(10)
        (features,) = asked.answer([{"features": drawn(3)}])  # these wait for nobody
        with pytest.raises(LrcnError, match=r"^[1-9] of 100 videos were read within 0.25 s; send fewer at a time"):
            long.result(10)
    assert features["status"] == "ok"
    assert [record["status"] for record in asked.answer([{"video": b"one"}])] == ["ok"]
    assert set(tmp_path.iterdir()) == before
    with asked._lock, pytest.raises(LrcnError, match=r"not begun within 0.25 s: other requests were before it"):
        asked.answer([{"video": b"one"}])


def test_a_video_that_cannot_be_used_is_a_row_with_a_reason(serve) -> None:
    _, asked = serve("clip")
    good, bad = asked.answer([{"features": drawn(3)}, {"video": b"no video"}])
    assert good["status"] == "ok"
    assert (bad["status"], bad["label"], bad["score"], bad["sure"], bad["segments"]) == ("rejected", "", None, None, [])
    assert "expected files of features" in bad["reason"]


def test_timesteps_are_of_frame_models_alone(serve) -> None:
    _, asked = serve("clip")
    with pytest.raises(RequestError, match="timesteps is true, but this model gives one answer per video"):
        asked.answer([{"features": drawn(3)}], timesteps=True)
