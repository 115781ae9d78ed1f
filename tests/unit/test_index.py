import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.data.annotations import check_ends
from pipeline.data.cards import read_dataset
from pipeline.data.index import index_dataset, write_index
from pipeline.data.tables import Segment, read_segments, read_splits, read_videos
from pipeline.errors import DataError, LeakError, RejectedVideo


def read_header(path: Path) -> SimpleNamespace:
    """Stands in for the demuxer: files that begin with `video` are videos of 4 seconds."""
    if not path.read_bytes().startswith(b"video"):
        raise RejectedVideo("no video stream")
    unknown = path.read_bytes().startswith(b"video without duration")
    return SimpleNamespace(
        codec="h264",
        pixel_format="yuv420p",
        width=64,
        height=48,
        rotation_degrees=0,
        fps_header=25.0,
        duration_seconds_header=None if unknown else 4.0,
        num_frames_header=100,
        has_audio=False,
        bit_rate=1000,
    )


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
    assert audit["files"] == {"total": 11, "ok": 9, "rejected": 0, "tables": 2}
    assert audit["videos"] == {"in_splits": 9, "labelled": 6, "with_segments": 3, "unlabelled": 0, "groups": 3}
    assert audit["rejected"] == audit["warnings"] == []  # the card's own tables are nothing to look at


def test_files_that_the_card_does_not_name_are_said_aloud(tiny):
    put(tiny / "media", "notes.txt", "text")
    audit = index(tiny).audit
    assert audit["files"] == {"total": 12, "ok": 9, "rejected": 1, "tables": 2}
    assert audit["warnings"] == ["1 other file(s) of the media folder are no videos; audit.json lists them"]
    assert [row["video_id"] for row in audit["rejected"]] == ["notes.txt"]


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


def test_segments_beside_the_videos_join_those_of_the_table(tiny):
    """Subtitles are found by a pattern, are no media themselves, and may not say a second time what the table says."""
    define(tiny, CARD.replace("segments: segments.csv", "segments: [segments.csv, '**/*.srt']"))
    put(tiny / "media", "clips/p1-up.srt", "1\n00:00:01,000 --> 00:00:02,500\nup\n")
    found = index(tiny)
    assert Segment("clips/p1-up.mp4", 1.0, 2.5, "up") in found.segments
    assert len(found.segments) == 7
    srt = next(video for video in found.videos if video.video_id == "clips/p1-up.srt")
    assert (srt.status, srt.reason) == ("rejected", "a table of the data set")
    put(tiny / "media", "clips/p2-all.srt", "1\n00:00:01,000 --> 00:00:02,500\nupp\n")
    message = r"cue 1: label 'upp' is no class, did you mean 'up'\?.*cue 1: .*overlaps that of segments\.csv, row"
    with pytest.raises(DataError, match=message):
        index(tiny)


def test_segments_that_are_not_refused(tiny):
    put(tiny / "media", "long.mp4", "video without duration")
    append(tiny / "media" / "videos.csv", "long.mp4,,p1")
    for line in ("long.mp4,100,200,up", "clips/p1-all.mp4,3,4.05,idle", "clips/p1-up.mp4,0,1,up"):
        append(tiny / "media" / "segments.csv", line)
    assert len(index(tiny).segments) == 9


def test_a_header_that_ends_too_early_is_measured(tiny):
    asked = []

    def measure(path: Path) -> tuple[float, float] | None:
        asked.append(path.name)
        return {"p1-all.mp4": (8.0, 8.1), "p2-all.mp4": (5.0, 5.1)}.get(path.name)

    for line in ("clips/p1-all.mp4,3,5,up", "clips/p1-all.mp4,5,8,up", "clips/p2-all.mp4,3,4,up"):
        append(tiny / "media" / "segments.csv", line)
    assert len(index(tiny, measure=measure).segments) == 9
    assert asked == ["p1-all.mp4"]  # once, and no other
    for line in ("clips/p2-all.mp4,4.5,5.5,up", "clips/p3-all.mp4,3,4.5,up"):
        append(tiny / "media" / "segments.csv", line)
    with pytest.raises(DataError, match=r"segments\.csv has 2 problem\(s\): ") as caught:
        index(tiny, measure=measure)
    for part in (
        "row 11: segment ends at 5.5 s, after its video 'clips/p2-all.mp4', which lasts 5.0 s",
        "row 12: segment ends at 4.5 s, after its video 'clips/p3-all.mp4', which lasts 4.0 s",
    ):
        assert part in str(caught.value)


def test_segments_after_the_last_frame_are_refused_once_that_is_known(tmp_path):
    segments = [Segment("a.mp4", 0, 2.05, "up"), Segment("b.mp4", 1, 3, "up"), Segment("c.mp4", 0, 99, "up")]
    check_ends(tmp_path / "segments.csv", segments, {"a.mp4": (2.0, 2.1), "b.mp4": (2.5, 3.0)})
    with pytest.raises(
        DataError,
        match=r"segments\.csv has 1 problem\(s\): row 3: 'up': segment ends at 3 s, after its video 'b\.mp4', "
        r"which lasts 2\.5 s; mend the data set's own table",
    ):
        check_ends(tmp_path / "segments.csv", segments, {"a.mp4": (2.0, 2.1), "b.mp4": (2.5, 2.6)})


def test_a_listed_video_that_says_nothing_is_refused(tiny):
    put(tiny / "media", "new.mp4")
    append(tiny / "media" / "videos.csv", "new.mp4,,p1")
    with pytest.raises(DataError, match=r"videos\.csv .*row 11: 'new\.mp4' has the label '', and nothing in segments"):
        index(tiny)


def test_unlisted_recordings_are_background_where_the_card_says_so(tiny):
    for name in ("new.mp4", "calm/p2.mp4", "calm/p3.mp4"):
        put(tiny / "media", name)
    append(tiny / "media" / "videos.csv", "new.mp4,,p1")
    card = CARD.replace("groups: [{column: person}]", "groups: [{column: person}, {pattern: '(p[0-9])'}]")
    define(tiny, card.replace("background: idle\n", "background: idle\nunlisted: background\n"))
    found = index(tiny)
    sides = {row.video_id: row.split for row in found.splits if row.fold == 1}
    assert (sides["new.mp4"], sides["calm/p2.mp4"], sides["calm/p3.mp4"]) == ("test", "val", "train")
    assert found.audit["background"] == ["calm/p2.mp4", "calm/p3.mp4", "new.mp4"]
    assert found.audit["unlabelled"] == []
    assert found.audit["folds"][0]["train"]["videos"] == 4
    line = "3 video(s) without label and segments count as background, 'calm/p2.mp4' first"
    assert line in found.audit["warnings"]


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("background: idle\n", "unlisted: `background` has no name; say what the frame task calls it"),
        ("segments: segments.csv\n", "unlisted: videos count as unlisted beside a table of `segments`"),
    ],
)
def test_unlisted_needs_a_background_and_segments(tiny, old, message):
    define(tiny, CARD.replace(old, "") + "unlisted: background\n")
    with pytest.raises(DataError, match=rf"card\.yaml: {message}"):
        index(tiny)


def test_a_class_of_one_video_is_refused_with_its_row(tiny):
    define(tiny, CARD, classes="up\ndown\nacross\n")
    put(tiny / "media", "clips/p3-across.mp4")
    append(tiny / "media" / "videos.csv", "clips/p3-across.mp4,across,p3")
    with pytest.raises(
        DataError,
        match=r"classes\.txt has 1 problem\(s\): row 3: class 'across' has one video, 'clips/p3-across\.mp4', which",
    ):
        index(tiny)
    define(tiny, CARD.replace("  groups:\n", "  groups:\n    official: true\n"), classes="up\ndown\nacross\n")
    assert "fold 1: no test labelled video of across" in index(tiny).audit["warnings"]


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


def test_an_allowed_leak_is_reported(tiny):
    put(tiny / "media", "clips/p3-up.mp4", "video clips/p1-up.mp4")
    audit = index(tiny, allow_leak=True).audit
    assert [(leak["fold"], leak["kind"]) for leak in audit["leaks"]] == [(1, "content"), (2, "content")]
    assert any(line.startswith("leaks allowed: fold 1: the same bytes in ") for line in audit["warnings"])


def test_the_line_of_the_message_joins_copies(tiny):
    put(tiny / "media", "clips/p3-up.mp4", "video clips/p1-up.mp4")
    append(tiny / "media" / "videos.csv", "clips/more.mp4,up,p4")
    append(tiny / "media" / "videos.csv", "clips/less.mp4,down,p4")
    put(tiny / "media", "clips/more.mp4")
    put(tiny / "media", "clips/less.mp4")
    line = 'together: [["clips/p1-up.mp4", "clips/p3-up.mp4"]]'
    with pytest.raises(LeakError, match=re.escape(f"`{line}`; audit.allow_leak (--allow-leak)")):
        index(tiny)
    define(tiny, CARD + line + "\n")
    found = index(tiny)
    assert {v.group for v in found.videos if v.video_id[6:8] in ("p1", "p3")} == {"p1+p3"}
    assert {row.split for row in found.splits if row.fold == 1 and row.video_id[6:8] in ("p1", "p3")} == {"test"}
    assert found.audit["joined_groups"] == [["p1", "p3"]]
    assert "groups p1 and p3 share a source and count as one" in found.audit["warnings"]
    define(tiny, CARD + "together: [[clips/p1-up.mp4, clips/gone.mp4], [labels.txt, clips/p2-up.mp4]]\n")
    with pytest.raises(
        DataError, match=r"card\.yaml has 2 problem\(s\): together: 'clips/gone\.mp4' is no usable.*'lab"
    ):
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
    warnings = index(tiny).audit["warnings"]  # enough for the clip task, and said aloud for the frame task
    assert [line for line in warnings if "segment" in line] == [
        "fold 1: no train segment of up",
        "fold 2: no train segment of up",
    ]
    rows = text.splitlines()
    (tiny / "media" / "videos.csv").write_text(
        "\n".join(row for row in rows if ",up," not in row and ",down," not in row)
    )
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


def test_groups_from_a_list_and_validation_as_a_share(tmp_path):
    define(
        tmp_path,
        LISTS[: LISTS.index("splits:")]
        + """
groups: [{list: sources.txt, head: '^from (.+)$', member: '^(x.+)$'}, {pattern: 'y', name: other}]
splits: {groups: {folds: [{test: [A+B]}, {test: [C], validation: [other]}], validation: 0.3}}
""",
    )
    for name in ("up/x1", "down/x2", "up/x3", "down/x4", "up/x5", "down/x6", "up/y1", "down/y2"):
        put(tmp_path / "media", f"videos/{name}.mp4")
    put(tmp_path / "media", "sources.txt", "from A\nx1\nx2\nfrom B\nx2\nx3\nfrom C\nx4\nx5\nfrom D\nx5\nx6\n")
    found = index(tmp_path)  # C and D are one group, to be named by either
    groups = {Path(video.video_id).stem: video.group for video in found.videos}
    assert groups == {
        **dict.fromkeys(["x1", "x2", "x3"], "A+B"),
        **dict.fromkeys(["x4", "x5", "x6"], "C+D"),
        **dict.fromkeys(["y1", "y2"], "other"),
        "sources": "",
    }
    assert found.audit["joined_groups"] == [["A", "B"], ["C", "D"]]
    assert "groups A and B share a source and count as one" in found.audit["warnings"]
    sides = {(row.fold, groups[Path(row.video_id).stem]): row.split for row in found.splits}
    assert {sides[1, "C+D"], sides[1, "other"]} == {"train", "val"}
    assert (sides[1, "A+B"], sides[2, "A+B"], sides[2, "C+D"], sides[2, "other"]) == ("test", "train", "test", "val")


def test_published_lists_that_name_paths(tmp_path):
    define(tmp_path, LISTS.replace("hmdb51", "ucf101"))
    for number in range(6):
        put(tmp_path / "media", f"videos/{('up', 'down')[number % 2]}/{number}.avi")
    put(tmp_path / "media", "lists/trainlist01.txt", "up/0.avi 1\ndown/1.avi 2\nup/2.avi 1\ndown/3.avi 2\n")
    put(tmp_path / "media", "lists/testlist01.txt", "up/4.avi\ndown/5.avi\n")
    found = index(tmp_path)
    assert [row.video_id for row in found.splits if row.split == "test"] == ["videos/down/5.avi", "videos/up/4.avi"]
    put(tmp_path / "media", "lists/trainlist01.txt", "Up/0.avi 1\n")
    put(tmp_path / "media", "lists/testlist01.txt", "Up/4.avi\n")
    with pytest.raises(DataError, match=r"holds none of the 2 videos listed for fold 1, e\.g\. \['videos/Up/0\.avi'\]"):
        index(tmp_path)


def test_nothing_is_annotated(tmp_path):
    define(tmp_path, LISTS.replace("folders: videos", "folders: other"))
    put(tmp_path / "media", "videos/up/0.avi")
    with pytest.raises(DataError, match="no video has a label or a segment"):
        index(tmp_path)
