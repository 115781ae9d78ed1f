import hashlib
import os

import pytest

from pipeline.data.tables import (
    Segment,
    Split,
    Video,
    read_csv,
    read_segments,
    read_splits,
    read_videos,
    video_ids,
    write_rows,
)
from pipeline.errors import DataError

SHA = hashlib.sha256(b"").hexdigest()


def test_videos_come_back_as_they_were(tmp_path):
    odd_names = ["a,b.mp4", 'quo"te.mp4', "new\nline.mp4", "Icon\r", os.fsdecode(b"latin-\xe9.avi"), " é .mp4"]
    rows = [Video(name, SHA, 7, "ok", label="NA", group="007") for name in odd_names]
    rows += [
        Video("b.mp4", SHA, 2**40, "ok", "", "h264", "yuv420p", 320, 240, 90, 30000 / 1001, 2.1021, 63, True, 340977),
        Video("c.txt", "", 0, "rejected", "no video stream, only text"),
    ]
    write_rows(tmp_path / "sub" / "videos.csv", Video, rows)
    assert read_videos(tmp_path / "sub" / "videos.csv") == rows
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["videos.csv"]


def test_the_text_of_a_table(tmp_path):
    write_rows(tmp_path / "splits.csv", Split, [Split("a.mp4", 1, "train"), Split("b, c.mp4", 2, "val")])
    assert (tmp_path / "splits.csv").read_bytes() == b'video_id,fold,split\na.mp4,1,train\n"b, c.mp4",2,val\n'
    assert read_splits(tmp_path / "splits.csv")[1] == Split("b, c.mp4", 2, "val")


def test_segments_come_back(tmp_path):
    segments = [Segment("a.mp4", 0.0, 1 / 3, "sit"), Segment("a.mp4", 1 / 3, 1.0, "stand")]
    write_rows(tmp_path / "segments.csv", Segment, segments)
    assert read_segments(tmp_path / "segments.csv") == segments


def test_every_bad_row_is_named(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("video_id,fold,split\na,1,train\na,one,train\nb,0,test\nc,1,tset\na,1,val\n")
    with pytest.raises(DataError, match=r"splits\.csv has 4 problem\(s\)") as caught:
        read_splits(path)
    for part in (
        "row 3: fold is 'one'; expected a whole number",
        "row 4: fold is 0; folds count from 1",
        "row 5: split is 'tset'; expected one of train, val, test",
        "row 6: 'a' stands in row 2 already",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Segment("a", 2.0, 1.0, "x"), "from 2.0 to 1.0 s; expected 0 <= start < end"),
        (Segment("a", -1.0, 1.0, "x"), "from -1.0"),
        (Segment("a", 0.0, float("nan"), "x"), "to nan"),
        (Segment("a", 0.0, float("inf"), "x"), "to inf"),
        (Segment("a", 0.0, 1.0, ""), "label is empty"),
        (Video("a", "", 0, "ok"), "expected 64 hex digits"),
        (Video("a", SHA, 0, "ok", "why"), "status is 'ok' with reason 'why'"),
        (Video("a", SHA, 0, "rejected"), "status is 'rejected' with reason ''"),
    ],
)
def test_a_bad_row_is_never_written(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        write_rows(tmp_path / "x.csv", type(row), [row])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_table(tmp_path):
    path = tmp_path / "splits.csv"
    write_rows(path, Split, [Split("a", 1, "test")])
    with pytest.raises(DataError, match="row 3: 'b' stands in row 2"):
        write_rows(path, Split, [Split("b", 1, "test"), Split("b", 1, "val")])
    assert read_splits(path) == [Split("a", 1, "test")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video_id,fold\na,1\n", "row 1: no column split; there are video_id, fold"),
        ("", "row 1: no column video_id, fold, split; there are none"),
        ("video_id,fold,split,fold\na,1,val,1\n", "row 1: a column is named twice"),
        ("video_id,fold,split\na,1\n", r"row 2: 2 value\(s\) for 3 column\(s\); put values that hold a comma"),
        ("video_id,fold,split,more\na,1,val,x\n", "columns is 'video_id, fold, split, more'; expected exactly"),
    ],
)
def test_what_is_no_table(tmp_path, text, message):
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path / "splits.csv")


def test_a_missing_table(tmp_path):
    with pytest.raises(DataError, match=r"videos\.csv: no such file"):
        read_videos(tmp_path / "videos.csv")


def test_rows_of_a_spreadsheet(tmp_path):
    (tmp_path / "x.csv").write_bytes('\ufeffpath,label\r\n"a\nb",NA\r\n\r\nc,\r\n'.encode())
    assert list(read_csv(tmp_path / "x.csv", ["label"])) == [
        (3, {"path": "a\nb", "label": "NA"}),
        (5, {"path": "c", "label": ""}),
    ]


def test_the_videos_of_a_side():
    splits = [Split("b", 1, "train"), Split("a", 1, "train"), Split("c", 1, "test"), Split("a", 2, "test")]
    assert video_ids(splits, 1, "train") == ["b", "a"]
    with pytest.raises(DataError, match="no test video in fold 3; there are folds 1, 2"):
        video_ids(splits, 3, "test")
