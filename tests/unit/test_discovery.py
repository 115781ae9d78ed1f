import os
from pathlib import Path

import pytest

from pipeline.errors import LrcnError
from pipeline.inference.discovery import find_files


def test_every_file_once_in_path_order(tmp_path):
    for name in ("b/x.mp4", "a.mp4", "b/a.txt", "b/c/no suffix", ".hidden/x.mp4", "b/._x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "b" / "again.mp4").symlink_to(tmp_path / "b" / "x.mp4")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "dangling.mp4").symlink_to(tmp_path / "none")
    found = find_files([str(tmp_path), str(tmp_path / "a.mp4")])
    names = [os.path.relpath(path, tmp_path) for path in found]
    assert names == ["a.mp4", "b/a.txt", "b/again.mp4", "b/c/no suffix", "b/dangling.mp4"]


def test_a_file_named_by_itself_may_be_hidden(tmp_path):
    (tmp_path / ".x.mp4").write_text("x")
    assert find_files([str(tmp_path / ".x.mp4")]) == [str(tmp_path / ".x.mp4")]


def test_the_output_folder_is_not_entered(tmp_path):
    for name in ("in/a.mp4", "in/out/results.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert find_files([str(tmp_path / "in")], exclude=[tmp_path / "in/out"]) == [str(tmp_path / "in/a.mp4")]


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(name)).write_text("x")
    assert [os.fsencode(path) for path in find_files([str(tmp_path)])] == [name]


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(LrcnError, match="none: no such file or folder"):
        find_files([str(tmp_path / "none")])
