import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.answers import Answer, Segment
from pipeline.inference.resultfolder import write_results
from pipeline.inference.resultsettings import ResultSettings
from pipeline.inference.subtitles import subrip, webvtt
from tests.resultreaders import read_srt, read_vtt

TIMELINE = (Segment(0.5, 2.0, "sit down", 0.934), Segment(3599.999, 3661.25, "stand up", 0.4))
FRAME = ResultSettings("frame", ("idle", "sit down", "stand up"), "idle", threshold=0.5)
ANSWER = Answer("a b.mp4", "ok", label="sit down", score=0.6, segments=TIMELINE)


def test_webvtt_and_subrip_to_the_letter():
    assert webvtt(TIMELINE, 0.5) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nsit down 93 %\n\n"
        "00:59:59.999 --> 01:01:01.250\nstand up 40 % (unsure)\n"
    )
    assert subrip(TIMELINE, 0.5) == (
        "1\n00:00:00,500 --> 00:00:02,000\nsit down 93 %\n\n2\n00:59:59,999 --> 01:01:01,250\nstand up 40 % (unsure)\n"
    )
    assert "sit down 93 % (unsure)" in webvtt(TIMELINE, None)
    assert webvtt((), 0.5) == "WEBVTT\n"
    assert subrip((), 0.5) == ""


@settings(max_examples=60)
@given(
    labels=st.lists(st.text("a1&<>-;% \n\r\t\0\x1b\x85\u2028\u200d走\ud800", min_size=1).filter(str.strip), max_size=4),
    times=st.lists(st.integers(0, 400_000_000), min_size=8, max_size=8, unique=True).map(sorted),
)
def test_any_class_name_and_time_comes_back(labels, times):
    timeline = [
        Segment(times[2 * k] / 1000, times[2 * k + 1] / 1000, label, 1 / (k + 1)) for k, label in enumerate(labels)
    ]
    expected = [(s.start_seconds, s.end_seconds) for s in timeline]
    for found in (read_vtt(webvtt(timeline, 0.5)), read_srt(subrip(timeline, 0.5))):
        assert [(start, end) for start, end, _ in found] == expected


@pytest.mark.parametrize(
    ("label", "in_vtt", "in_srt"),
    [
        ("a & b", "a &amp; b 90 %", "a & b 90 %"),
        ("<i>", "&lt;i&gt; 90 %", "\u2039i\u203a 90 %"),
        ("a --> b", "a --&gt; b 90 %", "a --\u203a b 90 %"),
        ("two\n\nlines", "two lines 90 %", "two lines 90 %"),
        ("nul\0", "nul\ufffd 90 %", "nul\ufffd 90 %"),
        ("走る", "走る 90 %", "走る 90 %"),
    ],
)
def test_what_would_break_a_cue_is_escaped(label, in_vtt, in_srt):
    timeline = [Segment(0.0, 1.0, label, 0.9)]
    assert webvtt(timeline, 0.5).splitlines()[-1] == in_vtt
    assert subrip(timeline, 0.5).splitlines()[-1] == in_srt


def test_no_cue_is_empty():
    assert "00:00:01.000 --> 00:00:01.001" in webvtt([Segment(1.0, 1.0001, "sit", 0.9)], 0.5)


def test_files_are_written_for_timelines_and_removed_when_they_are_gone(tmp_path):
    folder = tmp_path / "subtitles"
    write_results(tmp_path, [ANSWER, Answer("b.mp4", "rejected", "empty file")], FRAME)
    names = sorted(path.name for path in folder.iterdir())
    assert [name[:8] for name in names] == ["a_b.mp4-", "a_b.mp4-"]
    assert {name[-4:] for name in names} == {".vtt", ".srt"}
    (folder / "my own.vtt").write_text("WEBVTT\n")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_results(tmp_path, [ANSWER], FRAME)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before  # the same text is left alone
    write_results(tmp_path, [dataclasses.replace(ANSWER, status="rejected")], FRAME)
    assert [path.name for path in folder.iterdir()] == ["my own.vtt"]


def test_a_clip_model_has_subtitles_where_it_read_windows(tmp_path):
    settings = ResultSettings("clip", ("sit down", "stand up"))
    write_results(tmp_path, [dataclasses.replace(ANSWER, segments=TIMELINE[:1])], settings)
    assert not (tmp_path / "subtitles").exists()
