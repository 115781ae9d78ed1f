"""Overlays of a folder of results: made once, again when an answer changes, gone when it is; one bad file costs one."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from pipeline.errors import RejectedVideo, StoreError
from pipeline.inference.answers import Answer, Segment, VideoFacts, output_name
from pipeline.inference.drawing import colour_of
from pipeline.inference.overlays import (
    OVERLAYS,
    overlay_pool,
    overlay_timeline,
    prune_overlays,
    update_overlays,
    write_overlay,
)
from pipeline.video.isolation import DecoderPool
from pipeline.video.limits import Limits
from tests.faults.case import textured

SCORES = {"fall": 0.7, "rest": 0.1, "walk": 0.2}
SEGMENTS = (Segment(0.2, 0.6, "fall", 0.95), Segment(0.8, 1.2, "walk", 0.5))


def answer_for(path: Path, **changes: Any) -> Answer:
    answer = Answer(
        str(path), "ok", label="fall", score=0.7, frames=12, seconds=1.2, scores=SCORES, segments=SEGMENTS,
        video=VideoFacts(30, 1.16, 96, 72, "h264"),
    )  # fmt: skip
    return replace(answer, **changes)


def update(folder: Path, answers: list[Answer], task: str = "frame", **options: Any) -> list[tuple[str, str]]:
    settings: dict[str, Any] = {"threshold": 0.8, "limits": Limits(), "workers": 2} | options
    return update_overlays(folder, answers, task=task, **settings)


def overlays_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Names, inodes and contents: a file that is made again has another inode."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in sorted((folder / OVERLAYS).glob("*.mp4"))}


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with overlay_pool() as made:
        yield made


def test_a_clip_of_one_window_shows_its_answer_all_the_time() -> None:
    timeline = overlay_timeline(answer_for(Path("a"), segments=SEGMENTS[:1]), 0.8, "clip")
    assert [timeline.at(second) for second in (0.0, 99.0)] == [Segment(0.0, float("inf"), "fall", 0.7)] * 2
    assert overlay_timeline(answer_for(Path("a")), 0.8, "frame").segments == SEGMENTS


@pytest.mark.slow
def test_the_overlay_shows_the_answer(tmp_path: Path, videos: Any, pool: DecoderPool) -> None:
    path = videos.write(tmp_path / "a.mp4", 30, pictures=[np.full((72, 96, 3), 120, np.uint8)] * 30)
    target = tmp_path / "out" / "a.mp4"
    assert write_overlay(answer_for(path), path, target, pool=pool, threshold=0.8, task="frame") == []
    found = pictures(target)
    assert len(found) == 30
    panel, strip = np.s_[4:18, 5:60], np.s_[-4:-1]
    has_panel = [bool(np.abs(picture[panel] - 120).mean() > 20) for picture in found]
    assert has_panel == [0.2 <= number / 25 < 0.6 or number / 25 >= 0.8 for number in range(30)]
    assert all(np.abs(picture[36:60] - 120).max() < 12 for picture in found)  # nothing is drawn there
    heads = [int((picture[strip].min(axis=(0, 2)) > 200).argmax()) for picture in found]
    np.testing.assert_allclose(heads, [number / 25 / 1.2 * 94 for number in range(30)], atol=2)
    expected = np.array(colour_of("fall", sorted(SCORES)))
    assert np.abs(found[0][strip][:, 20:44].mean(axis=(0, 1)) - expected).max() < 40  # 0.2 to 0.6 of 1.2 s
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.slow
def test_only_what_is_missing_is_made(tmp_path: Path, videos: Any, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [videos.write(tmp_path / f"{name}.mp4", 5, audio=name == "b") for name in "abc"]
    answers, folder = [answer_for(path) for path in paths], tmp_path / "out"
    assert update(folder, answers) == []
    first = overlays_in(folder)
    assert list(first) == sorted(f"{output_name(str(path))}.mp4" for path in paths)
    assert update(folder, answers) == []
    assert overlays_in(folder) == first

    names = [f"{output_name(str(path))}.mp4" for path in paths]
    changed = [answers[0], replace(answers[1], segments=SEGMENTS[:1]), answers[2]]
    (folder / OVERLAYS / names[2]).write_bytes(b"cut off")
    (folder / OVERLAYS / "mine.mp4").write_bytes(b"of the user")
    assert update(folder, changed) == []
    second = overlays_in(folder)
    assert second[names[0]] == first[names[0]]
    assert second[names[1]][1] != first[names[1]][1]
    assert second[names[2]][1] == first[names[2]][1]  # the same bytes again

    prune_overlays(folder, changed[:2], threshold=0.8, task="frame")
    assert sorted(overlays_in(folder)) == sorted([*names[:2], "mine.mp4"])
    prune_overlays(folder, changed[:2], threshold=0.5, task="frame")  # another answer is sure now
    assert list(overlays_in(folder)) == ["mine.mp4"]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_file_that_cannot_be_drawn_on_costs_its_own_overlay(tmp_path: Path, videos: Any) -> None:
    good, gone = videos.write(tmp_path / "good.mp4", 5), tmp_path / "gone.mp4"
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:200])
    answers = [answer_for(path) for path in (bad, gone, good)] + [Answer("x", "rejected", "no video")]
    said = dict(update(tmp_path / "out", answers))
    assert list(said) == [str(bad), str(gone)]
    assert said[str(gone)] == "no overlay: cannot be read: No such file or directory"
    assert said[str(bad)].startswith("no overlay: ")
    assert list(overlays_in(tmp_path / "out")) == [f"{output_name(str(good))}.mp4"]
    assert update(tmp_path / "out", answers) == list(said.items())  # tried again


@pytest.mark.slow
def test_a_damaged_file_gives_what_can_be_read(tmp_path: Path, videos: Any, pool: DecoderPool) -> None:
    whole = videos.write(tmp_path / "a.mkv", 60, size=(96, 72)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    write_overlay(
        answer_for(tmp_path / "a"), tmp_path / "cut.mkv", tmp_path / "o.mp4", pool=pool, threshold=None, task="clip"
    )  # fmt: skip
    assert 10 < len(pictures(tmp_path / "o.mp4")) < 50


@pytest.mark.slow
def test_a_file_that_hangs_is_given_up(tmp_path: Path, videos: Any) -> None:
    short, long = videos.write(tmp_path / "a.mp4", 3), videos.write(tmp_path / "b.mp4", 120, size=(320, 240))
    before = set(psutil.Process().children())
    with overlay_pool(Limits(seconds_without_progress=0.5)) as pool:
        # The first call starts the child, for which its limits do not count.
        write_overlay(answer_for(short), short, tmp_path / "o.mp4", pool=pool, threshold=0.8, task="frame")
        (child,) = set(psutil.Process().children()) - before
        child.suspend()
        with pytest.raises(RejectedVideo, match=r"decoding hangs: no picture came for 0\.5 s"):
            write_overlay(answer_for(long), long, tmp_path / "p.mp4", pool=pool, threshold=0.8, task="frame")
        assert not child.is_running()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "o.mp4"]


@pytest.mark.slow
def test_closing_the_pool_ends_the_work(tmp_path: Path, videos: Any) -> None:
    """As Ctrl-C does: neither the process nor a half-written file stays."""
    noise = textured(100, (320, 240)) * 8  # so much of it that a part is written long before the end
    path = videos.write(tmp_path / "a.mp4", pictures=noise, options={"preset": "ultrafast"})
    before = set(psutil.Process().children())
    found: list[BaseException] = []

    def work() -> None:
        try:
            write_overlay(answer_for(path), path, tmp_path / "o.mp4", pool=pool, threshold=0.8, task="frame")
        except RuntimeError as error:
            found.append(error)

    with overlay_pool() as pool:
        worker = threading.Thread(target=work)
        worker.start()
        deadline = time.monotonic() + 60
        while not any(part.stat().st_size for part in tmp_path.glob(".o.mp4.*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    worker.join(5)
    assert [str(error) for error in found] == ["the pool of decoding processes is closed"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]
    assert set(psutil.Process().children()) == before


@pytest.mark.slow
def test_a_full_disk_stops_the_run(tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = videos.write(tmp_path / "a.mp4", 5)
    full = '{"reason": "No space left on device", "errno": 28}'
    monkeypatch.setattr("pipeline.video.isolation._Child.answer", lambda child: (b"x", full.encode()))
    monkeypatch.setattr("pipeline.video.isolation._Child.wait_until_ready", lambda child: None)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device"):
        update(tmp_path / "out", [answer_for(path)])
    assert overlays_in(tmp_path / "out") == {}


@pytest.mark.slow
def test_predict_makes_them_beside_answers_it_has(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli import main

    command = [
        "predict",
        "media/toy/left",
        "--model",
        "artifacts/toy/trainings/clip-rgb-fold1-seed0/model",
        "--out",
        "o",
    ]
    assert main(command) == 0
    tables = (Path("o") / "results.csv").read_bytes()
    assert not (Path("o") / OVERLAYS).exists()
    assert main([*command, "--overlay"]) == 0
    assert "0 looked at now" in capsys.readouterr().out
    found = overlays_in(Path("o"))
    assert len(found) == 20
    assert (Path("o") / "results.csv").read_bytes() == tables
    assert main(command) == 0
    assert overlays_in(Path("o")) == found
