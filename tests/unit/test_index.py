import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.data.annotations import folder_labels
from pipeline.data.cards import read_dataset
from pipeline.data.groups import assign_groups, by_column, by_list, by_pattern, read_headed_list
from pipeline.data.index import index_dataset, write_index
from pipeline.data.scan import scan_media
from pipeline.data.tables import Segment, read_segments, read_splits, read_videos
from pipeline.errors import DataError, LeakError, RejectedVideo


@dataclass(frozen=True)
class Header:
    codec: str = "h264"
    pixel_format: str = "yuv420p"
    width: int = 64
    height: int = 48
    rotation_degrees: int = 0
    fps_header: float | None = 25.0
    duration_seconds_header: float | None = 4.0
    num_frames_header: int = 100
    has_audio: bool = False
    bit_rate: int = 1000


def read_header(path: Path) -> Header:
    """Stands in for the demuxer: files that begin with `video` are videos."""
    content = path.read_bytes()
    if content.startswith(b"crash"):
        raise ZeroDivisionError("rate 0/0")
    if not content.startswith(b"video"):
        raise RejectedVideo("no video\n stream")
    return Header(duration_seconds_header=float("nan")) if content.startswith(b"video without duration") else Header()


def put(folder: Path, name: str, content: str | None = None) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"video {name}" if content is None else content)


CARD = """
name: tiny
title: Two classes
licence: none
source: drawn
media: media
background: idle
labels: {csv: {file: videos.csv}}
segments: segments.csv
groups: [{column: person}]
splits:
  groups:
    folds:
      - {test: [p1], validation: [p2]}
      - {test: [p2], validation: [p1]}
"""


@pytest.fixture
def tiny(tmp_path):
    """Three people, each with two clips and an untrimmed recording."""
    define(tmp_path, CARD)
    rows, segments = ["path,label,person"], ["path,start_seconds,end_seconds,label"]
    for person in ("p1", "p2", "p3"):
        for label in ("up", "down", ""):
            put(tmp_path / "media", f"clips/{person}-{label or 'all'}.mp4")
            rows.append(f"clips/{person}-{label or 'all'}.mp4,{label},{person}")
        segments += [f"clips/{person}-all.mp4,0.5,1,up", f"clips/{person}-all.mp4,1,2,down"]
    (tmp_path / "media" / "videos.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "media" / "segments.csv").write_text("\n".join(segments) + "\n")
    return tmp_path


def define(folder: Path, card: str, classes: str = "up\ndown\n") -> None:
    put(folder / "tiny", "card.yaml", card)
    put(folder / "tiny", "classes.txt", classes)


def index(folder: Path, **options):
    return index_dataset(read_dataset(folder / "tiny"), folder / "media", read_header, **options)


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


# --- the media folder -------------------------------------------------------------------------------------------------


def test_every_file_is_answered_for(tmp_path):
    put(tmp_path, "b/clip.mp4")
    put(tmp_path, "B.mp4")
    put(tmp_path, "empty.mp4", "")
    put(tmp_path, "notes.txt", "text")
    put(tmp_path, "table.csv", "a,b")
    put(tmp_path, "lists/one.txt", "a")
    put(tmp_path, "b/._clip.mp4")
    put(tmp_path, ".cache/clip.mp4")
    put(tmp_path, "odd.mp4", "crash")
    put(tmp_path, "unknown.mp4", "video without duration")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "B.mp4")
    (tmp_path / "broken.mp4").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / os.fsdecode(b"\xe9.mp4")).write_text("video")

    rows = scan_media(tmp_path, read_header, tables=["table.csv", "lists"], workers=3)
    assert {row.video_id: row.reason for row in rows} == {
        ".cache/clip.mp4": "a hidden file, which systems and editors leave behind",
        "B.mp4": "",
        "b/._clip.mp4": "a hidden file, which systems and editors leave behind",
        "b/clip.mp4": "",
        "broken.mp4": "a symbolic link to a file that does not exist",
        "empty.mp4": "no video stream",
        "link.mp4": "",
        "lists/one.txt": "a table of the data set, not a video",
        "notes.txt": "no video stream",
        "odd.mp4": "its header cannot be read (ZeroDivisionError: rate 0/0)",
        "pipe.mp4": "neither a file nor a link to one",
        "table.csv": "a table of the data set, not a video",
        "unknown.mp4": "",
        "\udce9.mp4": "",
    }
    assert [row.video_id for row in rows] == sorted((row.video_id for row in rows), key=os.fsencode)
    by_id = {row.video_id: row for row in rows}
    assert by_id["B.mp4"].sha256 == by_id["link.mp4"].sha256 == hashlib.sha256(b"video B.mp4").hexdigest()
    assert (by_id["B.mp4"].size_bytes, by_id["B.mp4"].codec, by_id["B.mp4"].duration_seconds_header) == (
        11,
        "h264",
        4.0,
    )
    assert by_id["unknown.mp4"].duration_seconds_header is None
    assert scan_media(tmp_path, read_header, tables=["table.csv", "lists"], workers=1) == rows


def test_what_may_not_be_read(tmp_path, monkeypatch):
    put(tmp_path, "a.mp4")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # not by chmod: root reads everything
        patch.setattr(hashlib, "file_digest", denied)
        assert scan_media(tmp_path, read_header)[0].reason == "cannot be read (Permission denied)"
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=rf"{tmp_path.name}: the folder cannot be listed \(Permission denied\)"):
        scan_media(tmp_path, read_header)


def test_a_folder_linked_into_itself(tmp_path):
    put(tmp_path, "a/b/clip.mp4")
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="loop: a symbolic link that leads back into its own folder"):
        scan_media(tmp_path, read_header)


def test_missing_media(tiny):
    (tiny / "media").rename(tiny / "elsewhere")
    with pytest.raises(DataError, match=r"media: no such folder.*'tiny'.*symbolic link will do.*tiny/README\.md"):
        index(tiny)
    (tiny / "media").symlink_to(tiny / "elsewhere")
    assert len(index(tiny).videos) == 11


def test_no_video_at_all(tiny):
    for path in (tiny / "media" / "clips").iterdir():
        path.write_text("text")
    with pytest.raises(DataError, match=r"no usable video among 11 file\(s\); 'clips/p1-all\.mp4': no video stream"):
        index(tiny)


# --- labels, groups, segments -----------------------------------------------------------------------------------------


def test_the_tables_of_a_data_set(tiny, tmp_path):
    found = index(tiny, workers=2)
    write_index(found, tmp_path / "out")
    assert read_videos(tmp_path / "out" / "videos.csv") == found.videos
    assert read_segments(tmp_path / "out" / "segments.csv") == found.segments
    assert read_splits(tmp_path / "out" / "splits.csv") == found.splits
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit == found.audit

    by_id = {video.video_id: video for video in found.videos}
    assert (by_id["clips/p1-up.mp4"].label, by_id["clips/p1-up.mp4"].group) == ("up", "p1")
    assert (by_id["clips/p2-all.mp4"].label, by_id["clips/p2-all.mp4"].group) == ("", "p2")
    assert by_id["videos.csv"].status == by_id["segments.csv"].status == "rejected"
    assert found.segments[:2] == [
        Segment("clips/p1-all.mp4", 0.5, 1.0, "up"),
        Segment("clips/p1-all.mp4", 1.0, 2.0, "down"),
    ]
    assert {(row.fold, row.split, row.video_id[6:8]) for row in found.splits} == {
        (1, "test", "p1"),
        (1, "val", "p2"),
        (1, "train", "p3"),
        (2, "test", "p2"),
        (2, "val", "p1"),
        (2, "train", "p3"),
    }
    assert audit["folds"][0]["train"] == {
        "videos": 3,
        "groups": 1,
        "classes": {"down": 1, "up": 1},
        "segments": {"down": 1, "up": 1},
    }
    assert audit["files"] == {"total": 11, "ok": 9, "rejected": 2}
    assert audit["videos"] == {"in_splits": 9, "labelled": 6, "with_segments": 3, "unlabelled": 0, "groups": 3}
    assert audit["warnings"] == ["2 other file(s) of the media folder are no videos; see `rejected`"]


def test_a_video_without_label_is_listed_and_counted(tiny):
    put(tiny / "media", "new.mp4")
    found = index(tiny)
    assert next(v for v in found.videos if v.video_id == "new.mp4").label == ""
    assert found.audit["unlabelled"] == ["new.mp4"]
    assert "1 video(s) without a label are in no split, 'new.mp4' first" in found.audit["warnings"]
    assert "new.mp4" not in {row.video_id for row in found.splits}


def test_an_annotated_file_that_is_no_video_is_said_aloud(tiny):
    put(tiny / "media", "broken.mp4", "text")
    append(tiny / "media" / "videos.csv", "broken.mp4,up,p1")
    found = index(tiny)
    assert "'broken.mp4' has annotations but is no usable video: no video stream" in found.audit["warnings"]
    assert "broken.mp4" not in {row.video_id for row in found.splits}


def test_every_bad_label_is_named_with_its_row(tiny):
    for line in ("clips/p1-up.mp4,up,p1", "gone.mp4,up,p1", "clips/p1-up.mp4,upp,p1"):
        append(tiny / "media" / "videos.csv", line)
    with pytest.raises(DataError, match=r"videos\.csv has 4 problem\(s\)") as caught:
        index(tiny)
    for part in (
        "row 11: 'clips/p1-up.mp4' stands in row 2 already",
        "row 12: 'gone.mp4' is no file of the media folder",
        "row 13: 'clips/p1-up.mp4' stands in row 2 already",
        "row 13: label 'upp' is no class, did you mean 'up'?",
    ):
        assert part in str(caught.value)


def test_a_path_may_be_written_another_way(tiny):
    text = (tiny / "media" / "videos.csv").read_text().replace("clips/p1-up", "./clips//p1-up")
    (tiny / "media" / "videos.csv").write_text(text)
    assert next(v for v in index(tiny).videos if v.video_id == "clips/p1-up.mp4").label == "up"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clips/p1-all.mp4,3,3,up", "row 8: segment from 3.0 to 3.0 s; expected 0 <= start < end"),
        ("clips/p1-all.mp4,-1,0.2,up", "row 8: segment from -1.0 to 0.2 s"),
        ("clips/p1-all.mp4,3,nan,up", "row 8: segment from 3.0 to nan s"),
        ("clips/p1-all.mp4,a,4,up", "row 8: 'a' to '4'; expected seconds"),
        ("clips/p1-all.mp4,3,4.2,up", "row 8: segment ends at 4.2 s, after its video .* which lasts 4.0 s"),
        ("clips/p1-all.mp4,1.5,3,up", "row 8: segment from 1.5 s overlaps that of row 3, which ends at 2.0 s"),
        ("clips/p1-all.mp4,0,3.5,up", "row 2: segment from 0.5 s overlaps that of row 8, which ends at 3.5 s"),
        ("clips/p9.mp4,3,4,up", "row 8: 'clips/p9.mp4' is no file of the media folder"),
        ("clips/p1-all.mp4,3,4,dwn", "row 8: label 'dwn' is no class, did you mean 'down'?"),
    ],
)
def test_segments_that_are_refused(tiny, line, message):
    append(tiny / "media" / "segments.csv", line)
    with pytest.raises(DataError, match=rf"segments\.csv has \d problem\(s\): .*{message}"):
        index(tiny)


def test_segments_that_are_not_refused(tiny):
    put(tiny / "media", "long.mp4", "video without duration")
    append(tiny / "media" / "videos.csv", "long.mp4,,p1")
    for line in ("long.mp4,100,200,up", "clips/p1-all.mp4,3,4.05,idle", "clips/p1-up.mp4,0,1,up"):
        append(tiny / "media" / "segments.csv", line)
    assert len(index(tiny).segments) == 9


def test_labels_from_folders():
    ids = ["set/up/a.mp4", "set/deep/down/b.mp4", "set/up/down/c.mp4", "set/d.mp4", "other/up/e.mp4"]
    assert folder_labels(ids, "set", ["up", "down"], Path("media")) == {
        "set/up/a.mp4": "up",
        "set/deep/down/b.mp4": "down",
        "set/up/down/c.mp4": "up",
        "set/d.mp4": "",
        "other/up/e.mp4": "",
    }
    with pytest.raises(
        DataError, match=r"folder 'dwn' \(2 video\(s\), 'dwn/a' first\) is no class, did you mean 'down'"
    ):
        folder_labels(["dwn/a", "dwn/b", "up/c"], ".", ["up", "down"], Path("media"))


def test_group_rules():
    assert by_pattern(r"(?P<class>\w+)/(?P<group>.+)_(?P=class)_", None)("hug/The_hug_1_hug_f.avi") == "The_hug_1"
    assert by_pattern(r"_(g\d)", None)("a_g7.avi") == "g7"
    assert by_pattern(r"^cam", "camera")("cam1.avi") == "camera"
    rules = [by_column({"a": "x", "b": ""}), by_list({"b": "y"}), by_pattern("^(c)", None)]
    assert assign_groups(["a", "f/b.mp4", "b", "c", "d"], rules) == {
        "a": "x",
        "f/b.mp4": "y",
        "b": "y",
        "c": "c",
        "d": "",
    }
    assert assign_groups(["a", "b"], []) == {"a": "a", "b": "b"}


def test_a_headed_list_joins_the_heads_of_a_stem_listed_twice(tmp_path):
    text = "intro\nsource A\nx1: 0.5\nx2: 1\nsource B\nx3:\nsource C\nx2: 7\nx4:\nsource D\nx3:\nx5:\nsource A\nx6:\n"
    put(tmp_path, "list.txt", text)
    groups, joined = read_headed_list(tmp_path / "list.txt", r"^source (\w)", r"^(x\d):")
    assert groups == {"x1": "A+C", "x2": "A+C", "x3": "B+D", "x4": "A+C", "x5": "B+D", "x6": "A+C"}
    assert joined == [["A", "C"], ["B", "D"]]
    with pytest.raises(DataError, match=r"row 1: 'intro' stands before any line that matches"):
        read_headed_list(tmp_path / "list.txt", r"^source (\w)", r"^(\w+)$")
    with pytest.raises(DataError, match=r"no line matches '\^\(y\)'"):
        read_headed_list(tmp_path / "list.txt", r"^source (\w)", r"^(y)")


def test_a_video_without_group_is_refused(tiny):
    put(tiny / "media", "new.mp4")
    append(tiny / "media" / "videos.csv", "new.mp4,up,")
    with pytest.raises(DataError, match=r"card\.yaml has 1 problem\(s\): groups: no rule matches 'new\.mp4'"):
        index(tiny)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_copy_on_two_sides_is_a_leak(tiny):
    put(tiny / "media", "clips/p3-up.mp4", "video clips/p1-up.mp4")
    with pytest.raises(LeakError, match=r"2 leak\(s\): fold 1: the same bytes in t.*p1-up\.mp4.*p3-up\.mp4.*Remove"):
        index(tiny)


def test_a_leak_of_a_published_split_is_reported(tiny):
    define(tiny, CARD.replace("  groups:\n", "  groups:\n    official: true\n"))
    put(tiny / "media", "clips/p3-up.mp4", "video clips/p1-up.mp4")
    audit = index(tiny).audit
    assert [leak["kind"] for leak in audit["leaks"]] == ["content", "content"]
    assert audit["duplicates"][0]["video_ids"] == ["clips/p1-up.mp4", "clips/p3-up.mp4"]
    assert any(line.startswith("the published split leaks: fold 1: the same bytes in ") for line in audit["warnings"])


def test_copies_on_one_side_are_reported(tiny):
    put(tiny / "media", "clips/p3-up.mp4", "video clips/p3-down.mp4")
    line = "'clips/p3-down.mp4' and 'clips/p3-up.mp4' have the same bytes (labels ['down', 'up'])"
    assert line in index(tiny).audit["warnings"]


def test_a_class_that_is_nowhere_to_be_learnt(tiny):
    text = (tiny / "media" / "videos.csv").read_text()
    (tiny / "media" / "videos.csv").write_text(text.replace("p3-up.mp4,up", "p3-up.mp4,down"))
    with pytest.raises(DataError, match=r"fold 1 has no training video of 1 class\(es\), up; add some"):
        index(tiny)
    (tiny / "media" / "videos.csv").write_text(text.replace(",up,", ",down,"))
    with pytest.raises(DataError, match="every labelled video is 'down'; a classifier needs at least two classes"):
        index(tiny)
    (tiny / "media" / "videos.csv").write_text(text)
    segments = (tiny / "media" / "segments.csv").read_text()
    (tiny / "media" / "segments.csv").write_text(segments.replace("p3-all.mp4,0.5,1,up", "p3-all.mp4,0.5,1,down"))
    with pytest.raises(DataError, match=r"fold 1 has no training segment of 1 class\(es\), up"):
        index(tiny)


def test_a_side_without_a_video(tiny):
    define(tiny, CARD.replace("{test: [p1], validation: [p2]}", "{test: [p7], validation: [p2]}"))
    with pytest.raises(DataError, match="fold 1 has no test video"):
        index(tiny)


def test_a_split_that_is_not_as_published_is_reported(tiny):
    card = CARD + "  expected: [{train: 6, test: 3}, {train: 7, test: 4}]\n"
    define(tiny, card.replace("test: [p1]", "test: [p1, p8]"))
    found = index(tiny)
    assert found.audit["unmet_expectations"] == [
        {"fold": 2, "side": "train", "expected": 7, "found": 6},
        {"fold": 2, "side": "test", "expected": 4, "found": 3},
    ]
    assert "fold 2: 6 train videos, published 7; is the media complete?" in found.audit["warnings"]
    assert "fold 1: no video belongs to 'p8'; is the media complete?" in found.audit["warnings"]


LISTS = """
name: tiny
title: Lists
licence: none
source: drawn
media: media
labels: {folders: videos}
splits: {lists: {style: hmdb51, folder: lists, folds: 1, validation: 0.2, seed: 0}}
"""


def test_published_lists_with_a_validation_part(tmp_path):
    define(tmp_path, LISTS)
    for label in ("up", "down"):
        for number in range(8):
            put(tmp_path / "media", f"videos/{label}/{number}.avi")
        uses = [1, 1, 1, 1, 2, 2, 0, 1]
        lines = [f"{number}.avi {use} \n" for number, use in enumerate(uses)] + ["gone.avi 2 \n"]
        put(tmp_path / "media", f"lists/{label}_test_split1.txt", "".join(lines))
    found = index(tmp_path)
    sides = {row.video_id: row.split for row in found.splits}
    assert {v for v, side in sides.items() if side == "test"} == {
        f"videos/{label}/{number}.avi" for label in ("up", "down") for number in (4, 5)
    }
    assert "videos/up/6.avi" not in sides
    assert len(sides) == 14
    assert [sum(v.startswith(f"videos/{c}") and s == "val" for v, s in sides.items()) for c in ("up", "down")] == [1, 1]
    assert found.audit["warnings"][0] == (
        "fold 1: 2 listed video(s) are not in the media folder, 'videos/up/gone.avi' first"
    )
    assert next(v for v in found.videos if v.video_id.startswith("lists")).reason.startswith("a table of the data set")

    (tmp_path / "media" / "lists").rename(tmp_path / "tiny" / "lists")  # beside the card they are found as well
    assert index(tmp_path).splits == found.splits
    (tmp_path / "tiny" / "lists").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"media/lists: no such folder; the published lists are expected there or in"):
        index(tmp_path)


def test_made_folds_need_no_order_of_files(tiny):
    define(tiny, CARD[: CARD.index("splits:")] + "splits: {kfold: {folds: 3, validation: 0.5, seed: 1}}\n")
    found = index(tiny, workers=2)
    assert {row.fold for row in found.splits} == {1, 2, 3}
    assert index(tiny, workers=1) == found
