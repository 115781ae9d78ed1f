"""The page of results: what it holds, in which order, and that no file name can do harm in it."""

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inference.answers import Answer, Segment, VideoFacts, output_name
from pipeline.inference.page import FIELDS, MAX_SCORES, confidence_of, relative_url, script_json, write_page

CLASSES = ["left", "right", "</script><b>up</b>"]
FACTS = VideoFacts(30, 2.9, 64, 48, "h264")
HOSTILE = "x</script><script>window.hacked = 1</script>/caf\udce9 \n\u202e\"'&amp;.mp4"


def answer(path: str, score: float, label: str = "left", **values: Any) -> Answer:
    other = "right" if label == "left" else "left"
    known: dict[str, Any] = {
        "runner_up": other,
        "runner_up_score": 1 - score,
        "frames": 30,
        "seconds": 3.0,
        "scores": {label: score, other: 1 - score},
        "segments": (Segment(0.0, 3.0, label, score),),
        "video": FACTS,
    }
    return Answer(path, values.pop("status", "ok"), label=label, score=score, **{**known, **values})


def data_of(page: Path) -> dict[str, Any]:
    """The page's data, each row as a mapping."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    data = json.loads(text)
    data["rows"] = [dict(zip(FIELDS, row, strict=True)) for row in data["rows"]]
    return dict(data)


def write(folder: Path, answers: list[Answer], **values: Any) -> Path:
    options = {"threshold": 0.8, "task": "clip", "classes": CLASSES, "model": "models/a", "precision": 0.9}
    write_page(folder, answers, **{**options, **values})
    return folder / "report.html"


def test_the_worst_come_first(tmp_path: Path) -> None:
    answers = [
        answer("e.mp4", 0.99),
        answer("d.mp4", 0.81),
        answer("c.mp4", 0.7),
        answer("b.mp4", 0.7),
        answer("a.mp4", 0.95, status="damaged", reason="27 of 60 frames"),
        Answer("z.mp4", "rejected", "no video stream"),
        Answer("y.mp4", "failed", "out of memory"),
    ]
    rows = data_of(write(tmp_path, answers))["rows"]
    assert [row["path"][0] for row in rows] == ["y", "z", "a", "b", "c", "d", "e"]
    assert [row["sure"] for row in rows] == [None, None, True, False, False, True, True]


def test_a_frame_models_answer_is_as_sure_as_its_least_sure_segment(tmp_path: Path) -> None:
    segments = (Segment(0, 1, "left", 0.99), Segment(1.5, 2, "right", 0.6))
    torn = answer("torn.mp4", 0.5, segments=segments)
    idle = answer("idle.mp4", 1.0, segments=())
    rows = data_of(write(tmp_path, [idle, torn], task="frame"))["rows"]
    assert confidence_of(torn, "frame") == 0.6
    assert [(row["path"], row["confidence"], row["sure"]) for row in rows] == [
        ("torn.mp4", 0.6, False),
        ("idle.mp4", 1.0, True),
    ]
    assert rows[0]["segments"] == [0, 1, 0, 0.99, 1, 1.5, 2, 1, 0.6, 0]


def test_no_name_and_no_class_gets_out_of_its_place(tmp_path: Path) -> None:
    page = write(tmp_path, [answer(HOSTILE, 0.9, "</script><b>up</b>", reason="<i>")], model="<u>\udce9")
    text = page.read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert all(tag not in text for tag in ("window.hacked = 1</", "<b>up", "<i>", "<u>"))
    data = data_of(page)
    assert data["rows"][0]["path"] == HOSTILE
    assert data["classes"] == CLASSES


def test_only_this_script_may_run(tmp_path: Path) -> None:
    text = write(tmp_path, []).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_same_results_give_the_same_page_wherever_they_lie(tmp_path: Path) -> None:
    answers = [answer(str(tmp_path / "in" / name), 0.9) for name in ("b.mp4", "a.mp4")]
    first, second = (write(tmp_path / name, order) for name, order in (("x", answers), ("y", answers[::-1])))
    assert first.read_bytes() == second.read_bytes()


def test_files_are_named_from_the_folder_that_holds_them_all(tmp_path: Path) -> None:
    paths = [str(tmp_path / "in put" / name) for name in ("a/1:2.mp4", "b/caf\udce9#?.mp4")]
    data = data_of(write(tmp_path / "out", [answer(path, 0.9) for path in paths]))
    assert data["roots"][0] == "../in%20put/"
    assert unquote_to_bytes(data["roots"][1]) == b"file://" + os.fsencode(tmp_path / "in put") + b"/"
    assert [row["url"] for row in data["rows"]] == ["a/1%3A2.mp4", "b/caf%E9%23%3F.mp4"]


def test_what_is_no_video_has_no_address(tmp_path: Path) -> None:
    there = tmp_path / "there.txt"
    there.touch()
    answers = [
        answer("features.npy", 0.9, video=None),
        Answer("gone.mp4", "rejected", "no such file"),
        Answer(str(there), "rejected", "a text file"),
    ]
    rows = {row["path"]: row["url"] for row in data_of(write(tmp_path, answers))["rows"]}
    assert rows == {"features.npy": "", "gone.mp4": "", str(there): "there.txt"}


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_an_address_keeps_every_byte_of_a_name(name: bytes) -> None:
    path = os.fsdecode(b"/clips/x" + name)
    address = relative_url(path, "/out/here")
    assert address.isascii()
    assert set(address) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/%")
    assert unquote_to_bytes(address) == b"../../clips/x" + name


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_json_in_a_script_reads_back(text: str) -> None:
    written = script_json([text])
    assert "<" not in written
    written.encode("utf-8")
    # Python joins an escaped pair of surrogates to one character, as JavaScript does.
    assert json.loads(written) == json.loads(json.dumps([text]))


def test_what_was_written_for_a_file_is_found(tmp_path: Path) -> None:
    for folder, ending in (("thumbnails", "jpg"), ("subtitles", "srt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{output_name('a.mp4')}.{ending}").touch()
    (tmp_path / "results.csv").touch()
    page = write(tmp_path, [answer("a.mp4", 0.8), answer("b.mp4", 0.9)])
    data = data_of(page)
    kinds = [tuple(kind) for kind in data["outputs"]]
    expected = 1 << kinds.index(("thumbnails", "jpg")) | 1 << kinds.index(("subtitles", "srt"))
    assert [row["outputs"] for row in data["rows"]] == [expected, 0]
    assert re.findall(r'<a href="([^"]*)"', page.read_text()) == [
        "results.csv",
        "subtitles/",
        "thumbnails/",
    ]


def test_of_many_classes_the_page_holds_the_best(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(400)]
    scores = {name: (1 + number) / 80200 for number, name in enumerate(classes)}
    one = Answer("a.mp4", "ok", label=classes[-1], score=scores[classes[-1]], scores=scores, video=FACTS)
    (row,) = data_of(write(tmp_path, [one], classes=classes))["rows"]
    assert row["scores"][::2] == list(range(399, 399 - MAX_SCORES, -1))


def test_a_row_takes_less_than_a_kilobyte(tmp_path: Path) -> None:
    classes = [f"a class of people who do something {number}" for number in range(101)]
    many = [
        Answer(
            f"recordings/of a camera with a long name/2026-11-{number % 30:02d}/clip_{number:06d}.mp4",
            "ok",
            label=classes[number % 101],
            score=0.5,
            runner_up=classes[0],
            runner_up_score=0.1,
            frames=75,
            seconds=7.5,
            scores={name: 1 / (7 + number + place) for place, name in enumerate(classes)},
            segments=tuple(Segment(start, start + 0.75, classes[start], 0.123456) for start in range(10)),
            video=FACTS,
        )
        for number in range(1000)
    ]
    assert write(tmp_path, many, classes=classes).stat().st_size < 1_000_000


def test_the_heading_counts(tmp_path: Path) -> None:
    text = write(
        tmp_path, [answer("a.mp4", 0.9), answer("b.mp4", 0.5, "right"), Answer("c", "failed", "x")]
    ).read_text()
    assert "<h1>3 files, 2 labelled</h1>" in text
    assert "1 answer is sure: the score is at least 0.800, from which on 90\N{NO-BREAK SPACE}% of" in text
    assert re.findall(r'data-filter="(\w+)" data-value="([^"]*)"', text) == [
        ("status", "ok"),
        ("status", "failed"),
        ("label", "left"),
        ("label", "right"),
    ]
    assert "No answer is called sure" in write(tmp_path, [answer("a.mp4", 0.9)], threshold=None).read_text()


def test_a_label_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the label 'down' is none of the model's 3 classes"):
        write(tmp_path, [answer("a.mp4", 0.9, "down")])
    assert list(tmp_path.iterdir()) == []
