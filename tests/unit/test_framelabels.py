import pytest

from pipeline.data.framelabels import check_mapping, read_label_file, runs
from pipeline.errors import DataError


def test_a_label_a_line(tmp_path):
    for text in ("up\nup\ndown", "up\nup\ndown\n", "\ufeffup\r\nup \r\ndown\r\n\n"):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
        assert read_label_file(tmp_path / "a.txt") == ["up", "up", "down"]


def test_label_files_that_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("up\n\ndown\n")
    with pytest.raises(DataError, match=r"a\.txt, row 2: no label; expected one a line"):
        read_label_file(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"b\.txt: the labels cannot be read"):
        read_label_file(tmp_path / "b.txt")


def test_runs_meet_without_gaps():
    found = runs("a.npy", ["a", "a", "b", "a"], 29.97)
    assert [s.label for s in found] == ["a", "b", "a"]
    assert [s.end_seconds for s in found[:-1]] == [s.start_seconds for s in found[1:]]
    assert found[-1].end_seconds == 4 / 29.97
    assert runs("a.npy", ["", ""], 10) == []


def test_a_mapping_with_the_classes_and_the_background(tmp_path):
    (tmp_path / "mapping.txt").write_text("0 up\n1 down\n\n2 idle\n")
    check_mapping(tmp_path / "mapping.txt", ["idle", "up", "down"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 up\n1 left\n", r"only here: left; only there: idle, down.*change classes\.txt or `background`"),
        ("0 up\n1 down\n2 idle\n3 rest\n", "only here: rest; only there: none"),
        ("0 up\ndown\n2 idle\n", "row 2: 'down'; expected a number and a class name"),
        ("0 up\n1 up\n", "row 2: 'up' is given twice"),
    ],
)
def test_a_mapping_that_differs(tmp_path, text, message):
    (tmp_path / "mapping.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        check_mapping(tmp_path / "mapping.txt", ["idle", "up", "down"])
    with pytest.raises(DataError, match="the mapping cannot be read"):
        check_mapping(tmp_path / "missing.txt", ["up"])
