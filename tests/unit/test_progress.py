import io

import pytest

from pipeline.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_videos_frames_a_second_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    progress = Progress("extract", num_videos=2)
    seen = []
    for result in progress.over(iter("ab")):
        seen.append(result)
        progress.add_frames(16)
    assert seen == ["a", "b"]
    last = screen.getvalue().split("\r")[-1]
    assert "extract: 100%" in last
    assert "2/2" in last
    assert "frames/s" in last
    assert "<00:00" in last


def test_a_log_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    progress = Progress("extract", num_videos=1)
    progress.add_frames(16)
    assert list(progress.over(["a"])) == ["a"]
    assert log.getvalue() == ""
