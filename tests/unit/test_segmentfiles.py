"""Segments as annotation tools write them, and as our own results state them, come back as the same segments."""

import json
import re
from pathlib import Path

import pytest

from pipeline.data.segmentfiles import read_segment_files, segment_files
from pipeline.data.tables import Segment
from pipeline.errors import DataError
from pipeline.inference import answers, exports
from pipeline.inference.elan import eaf
from pipeline.inference.exports import LeftOut
from pipeline.inference.resultsettings import ResultSettings
from pipeline.inference.subtitles import subrip, webvtt

TIMELINE = [answers.Segment(0.52, 1.24, "sit & <rest>", 0.934), answers.Segment(2.0, 3661.25, "stand", 0.5)]
FACTS = answers.VideoFacts(100, 3700.0, 64, 48, "h264")


def stated(media: Path, *names: str, videos=("day1/a b.mp4", "day2/c.mp4")):
    return read_segment_files(media, segment_files(media, names), videos)


def put(media: Path, name: str, text: str) -> None:
    (media / name).parent.mkdir(parents=True, exist_ok=True)
    (media / name).write_text(text, encoding="utf-8")


def segments_of(found, video_id="day1/a b.mp4"):
    assert found.problems == []
    return [(s.start_seconds, s.end_seconds, s.label) for _, s in found.segments if s.video_id == video_id]


AS_SHOWN = [(0.52, 1.24, "sit & <rest>"), (2.0, 3661.25, "stand")]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".vtt", webvtt(TIMELINE, 0.9)),
        (".srt", subrip(TIMELINE, 0.9)),
        (".eaf", eaf("elsewhere/day1/a b.mp4", TIMELINE, Path("/results/exports/elan"))),
    ],
)
@pytest.mark.parametrize("stem", [answers.output_name("day1/a b.mp4"), "day1/a b", "day1/a b.mp4"])
def test_what_predict_writes_is_read_back(tmp_path, suffix, text, stem):
    put(tmp_path, stem + suffix, text)
    assert segments_of(stated(tmp_path, f"**/*{suffix}")) == AS_SHOWN


def test_an_exported_elan_file_names_its_video_whatever_it_is_called(tmp_path):
    put(tmp_path, "corrected/mine.eaf", eaf("new/c.mp4", TIMELINE, Path("/results")))
    assert segments_of(stated(tmp_path, "corrected/*.eaf"), "day2/c.mp4") == AS_SHOWN


def test_activitynet_as_exported_and_as_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with exports.writing_activitynet(tmp_path, ResultSettings("frame", ("stand",)), LeftOut()) as add:
        add(answers.Answer("day1/a b.mp4", "ok", label="stand", video=FACTS), TIMELINE)
    assert segments_of(stated(tmp_path, "activitynet.json")) == AS_SHOWN
    videos = {
        "c": {"subset": "training", "annotations": [{"segment": [1, 2.5], "label": "stand"}]},
        "v_gone": {"subset": "training", "annotations": [{"segment": [1, 2], "label": "stand"}]},
        "tested": {"subset": "testing", "annotations": []},
    }
    put(tmp_path, "published.json", json.dumps({"database": videos}))
    found = stated(tmp_path, "published.json", videos=["v_c.mp4"])
    assert found.segments == [("published.json, 'c', segment 1", Segment("v_c.mp4", 1.0, 2.5, "stand"))]
    assert found.notes == ["published.json: 1 video(s) with segments are not in the media folder, 'v_gone' first"]


def test_label_studio_counts_frames_from_one(tmp_path):
    region = {"type": "timelinelabels", "value": {"ranges": [{"start": 1, "end": 25}], "timelinelabels": ["stand"]}}
    other = {"type": "choices", "value": {"choices": ["good"]}}
    early = {"result": [{**region, "value": {**region["value"], "timelinelabels": ["of an earlier annotator"]}}]}
    task = {
        "data": {"video": "/data/local-files/?d=videos/a%20b.mp4", "fps": 25.0},
        "annotations": [early, {"result": [region, other]}],
    }
    put(tmp_path, "export.json", json.dumps([task, {"data": {"video": "c.mp4", "fps": 25.0}, "annotations": []}]))
    assert segments_of(stated(tmp_path, "export.json")) == [(0.0, 1.0, "stand")]


def test_subtitles_of_other_hands(tmp_path):
    text = "\ufeffWEBVTT - title\r\n\r\nNOTE who\r\nmade this\r\n\r\nSTYLE\r\n::cue {}\r\n\r\n"
    text += "first\r\n00:01.000 --> 00:02.500 align:start\r\n<v Ann><b>stand</b>\r\n\r\n"
    text += "01:00:00.000 --> 01:00:01.000\r\nsit\r\ndown\r\n"
    put(tmp_path, "day1/a b.vtt", text)
    assert segments_of(stated(tmp_path, "day1/*.vtt")) == [(1.0, 2.5, "stand"), (3600.0, 3601.0, "sit down")]


def test_tables_and_files_together_say_which_is_meant(tmp_path):
    put(tmp_path, "one.csv", "path,start_seconds,end_seconds,label\nday2/c.mp4,0,1,stand\n")
    put(tmp_path, "day1/a b.srt", "1\n00:00:01,000 --> 00:00:02,000\nstand\n\n2\n00:00:03,000 -> 4\nstand\n")
    put(tmp_path, "day1/.hidden.srt", "no subtitles")
    found = stated(tmp_path, "one.csv", "*/*.srt")
    assert [where for where, _ in found.segments] == ["one.csv, row 2", "day1/a b.srt, cue 1"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("x.srt", "1\n00:00:01,000 --> 00:00:02,000\nstand\n", r"x\.srt: belongs to no video"),
        ("c.srt", "1\n00:00:01 --> 00:00:02\nstand\n", r"cue 1: '00:00:01 --> 00:00:02'; expected 00:00:01\.500"),
        ("c.eaf", "<D><TIER TIER_ID='a'>{0}</TIER><TIER TIER_ID='b'>{0}</TIER></D>", r"tiers a, b; .*'label'"),
        ("c.eaf", "<D><TIER TIER_ID='a'>{0}</TIER></D>", r"c\.eaf, annotation a1: has no time"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_a_problem(tmp_path, name, text, problem):
    put(tmp_path, name, text.format("<ALIGNABLE_ANNOTATION ANNOTATION_ID='a1'/>"))
    found = stated(tmp_path, name)
    assert found.segments == []
    assert len(found.problems) == 1
    assert re.search(problem, found.problems[0])


def test_two_videos_of_one_name_are_told_apart_by_the_folder(tmp_path):
    videos = ["day1/a.mp4", "day2/a.mp4"]
    cue = "1\n00:00:01,000 --> 00:00:02,000\nstand\n"
    put(tmp_path, "day2/a.srt", cue)
    assert [s.video_id for _, s in stated(tmp_path, "*/*.srt", videos=videos).segments] == ["day2/a.mp4"]
    put(tmp_path, "a.srt", cue)
    assert stated(tmp_path, "*.srt", videos=videos).problems == [
        "a.srt: may belong to 'day1/a.mp4' and to 'day2/a.mp4'; name it like its video, and put it beside it"
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.eaf", "<D>", r"c\.eaf: no ELAN document"),
        ("c.vtt", "1\n", r"c\.vtt: does not begin with WEBVTT"),
        ("c.json", "{", r"c\.json: no JSON"),
        ("c.json", '{"videos": {}}', r"c\.json: neither ActivityNet's nor Label Studio's"),
        ("c.json", '[{"data": {"video": "c.mp4"}, "annotations": [{"result": [{"type": "timelinelabels", "value": '
         '{"ranges": [{"start": 1, "end": 2}], "timelinelabels": ["stand"]}}]}]}]', r"KeyError: 'fps'"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_errors(tmp_path, name, text, message):
    put(tmp_path, name, text)
    with pytest.raises(DataError, match=message):
        stated(tmp_path, name)


def test_missing_files_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"gone\.eaf: no such file"):
        stated(tmp_path, "gone.eaf")
    with pytest.raises(DataError, match=r"\*\.vtt: no file fits this pattern"):
        stated(tmp_path, "*.vtt")
