"""An overlay in a browser: it plays and seeks, with its own length, size and sound."""

from pathlib import Path

import pytest

from pipeline.video.overlay import draw_over
from tests.end_to_end.chromium import find_chromium, look_at
from tests.unit.test_overlay import passed_over, write_with_beep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium or chrome on the PATH to play the video in"),
]
LOADED = """new Promise((done, fail) => {
  const video = document.querySelector("video")
  video.onerror = () => fail(video.error.message)
  const tell = () => done([video.videoWidth, video.videoHeight, video.duration])
  video.readyState ? tell() : video.onloadedmetadata = tell
})"""
SOUGHT = """new Promise(done => {
  const video = document.querySelector("video")
  video.onseeked = () => done([video.currentTime, video.readyState])
  video.currentTime = 1.2
})"""
PLAYED = """new Promise(done => {
  const video = document.querySelector("video")
  video.muted = true
  video.onended = () => done([
    video.currentTime, video.webkitDecodedFrameCount > 10, video.webkitAudioDecodedByteCount > 1000, video.error
  ])
  video.play()
})"""


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ac3"), ("a.avi", "libmp3lame")])
def test_it_plays_and_seeks(tmp_path: Path, name: str, codec: str) -> None:
    draw_over(write_with_beep(tmp_path / name, codec), tmp_path / "overlay.mp4", passed_over)
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><link rel="icon" href="data:,"><video src="overlay.mp4" preload="auto"></video>')
    seen = look_at(page, tmp_path / "profile", scripts=(LOADED, SOUGHT, PLAYED))
    assert seen.errors == []
    (width, height, duration), (time_seconds, ready), (end, has_pictures, has_sound, error) = seen.values
    assert (width, height) == (96, 72)
    assert duration == pytest.approx(2, abs=0.1)
    assert time_seconds == pytest.approx(1.2, abs=0.01)
    assert ready >= 2  # the picture of that time is there
    assert end == pytest.approx(duration, abs=0.1)
    assert (has_pictures, has_sound, error) == (True, True, None)
