from pathlib import Path

import pytest

from pipeline.data.annotations import folder_labels
from pipeline.data.groups import assign_groups, by_column, by_list, by_pattern, join_groups, read_headed_list
from pipeline.errors import DataError


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
    (tmp_path / "list.txt").write_text(text)
    groups, joined = read_headed_list(tmp_path / "list.txt", r"^source (\w)", r"^(x\d):")
    assert groups == {"x1": "A+C", "x2": "A+C", "x3": "B+D", "x4": "A+C", "x5": "B+D", "x6": "A+C"}
    assert joined == [["A", "C"], ["B", "D"]]
    with pytest.raises(DataError, match=r"row 1: 'intro' stands before any line that matches"):
        read_headed_list(tmp_path / "list.txt", r"^source (\w)", r"^(\w+)$")
    with pytest.raises(DataError, match=r"no line matches '\^\(y\)'"):
        read_headed_list(tmp_path / "list.txt", r"^source (\w)", r"^(y)")


def test_videos_of_one_source_join_their_groups():
    groups = {"a": "x", "b": "y", "c": "z", "d": "w", "e": "x", "f": "", "g": "v"}
    joined, names = join_groups(groups, [["a", "b"], ["c", "b"], ["a", "e"], ["f", "g"]])
    assert joined == {"a": "x+y+z", "b": "x+y+z", "c": "x+y+z", "d": "w", "e": "x+y+z", "f": "", "g": "v"}
    assert names == [["x", "y", "z"]]
    assert join_groups(groups, []) == (groups, [])
