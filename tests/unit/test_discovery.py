import io
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from pipeline.discovery import printable, walk
from pipeline.errors import LrcnError
from pipeline.inference.inputs import find_inputs, read_list
from tests.conftest import run_unprivileged


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str) -> None:
    """Files in the working folder, each with a content of its own."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name, encoding="utf-8", errors="surrogateescape")


def listed_from(data: bytes, monkeypatch) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
    return read_list("-")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_every_file_once_in_path_order(here):
    """Fails when links are taken in their place in the listing: a link then names a file that has a name there."""
    put("b/x.mp4", "a.mp4", "b/a.txt", "b/c/no suffix", "elsewhere/y.mp4")
    Path("b/again.mp4").symlink_to("x.mp4")
    Path("b/up").symlink_to(here / "b")
    Path("b/outside").symlink_to(here / "elsewhere")
    Path("b/hard.mp4").hardlink_to("b/x.mp4")
    found = find_inputs(["b", "a.mp4", "./a.mp4"])
    assert found.paths == found.files == ["a.mp4", "b/a.txt", "b/c/no suffix", "b/hard.mp4", "b/outside/y.mp4"]
    assert found.notes == ["4 further name(s) of listed files left out, first b/x.mp4"]


def test_hidden_files_are_left_out_and_counted_unless_they_are_named(here):
    put("a.mp4", ".hidden/x.mp4", "b/._x.mp4", ".x.mp4")
    found = find_inputs(["."])
    assert found.paths == ["./a.mp4"]
    assert found.notes == ["3 hidden file(s) or folder(s) left out, first ./.hidden"]
    assert find_inputs([".x.mp4", ".hidden"]).paths == [".hidden/x.mp4", ".x.mp4"]
    assert [entry.path for entry in walk(["."], enter_hidden=True)] == [
        "./.hidden/x.mp4", "./.x.mp4", "./a.mp4", "./b/._x.mp4",
    ]  # fmt: skip


def test_what_is_no_file_gets_a_reason(here):
    put("good.mp4")
    os.mkfifo("pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
    Path("dangling.mp4").symlink_to("none")
    Path("one.mp4").symlink_to("two.mp4")
    Path("two.mp4").symlink_to("one.mp4")
    found = find_inputs([".", "/dev/null"])
    assert found.files == ["./good.mp4"]
    assert found.reasons == {
        "./dangling.mp4": "a symbolic link to a file that does not exist",
        "./one.mp4": "symbolic links in a circle",
        "./pipe.mp4": "not a regular file (a pipe)",
        "./socket.mp4": "not a regular file (a socket)",
        "./two.mp4": "symbolic links in a circle",
        "/dev/null": "not a regular file (a device)",
    }


def test_folders_that_link_to_each_other_are_entered_once(here):
    """Without the memory of entered folders the walk was not done after 20 s: 12 folders have 12! ways through them."""
    folders = [f"f{number:02d}" for number in range(12)]
    put(*(f"{folder}/x.mp4" for folder in folders))
    for folder in folders:
        for other in folders:
            Path(folder, f"to {other}").symlink_to(here / other)
    assert find_inputs(["."]).paths == [f"./{folder}/x.mp4" for folder in folders]


def test_folders_deeper_than_a_path_can_be(here):
    """`os.walk` finds the first file and says nothing of the second; with a pattern, so did a walk without `closed`."""
    name, depth = "d" * 200, 0
    put("x.mp4")
    try:
        while depth < 25:  # 5000 bytes; the system takes 4096
            Path(name).mkdir()
            os.chdir(name)
            depth += 1
        Path("deep.mp4").write_text("x")
    finally:
        os.chdir(here)
    found, matching = find_inputs(["."]), find_inputs(["**/*.mp4"])
    shutil.rmtree(name)
    assert found.files == ["./x.mp4"]
    ((path, reason),) = found.reasons.items()
    assert len(path) > 4000
    assert reason.startswith("its path is longer than the system can open")
    assert (matching.files, list(matching.reasons.values())) == (["x.mp4"], [reason])


def test_folders_and_files_without_permission(here):
    """Fails when the walk passes over errors, as `os.walk` does: there is no row for the folder."""
    put("open/a.mp4", "locked/b.mp4", "blind/c.mp4")
    Path("locked").chmod(0)
    Path("blind").chmod(0o400)  # its names can be read, what they name cannot
    code = (
        "import json, sys; from pipeline.inference.inputs import find_inputs; "
        "print(json.dumps([vars(find_inputs(paths)) for paths in json.loads(sys.argv[1])]))"
    )
    asked = [["."], ["**/*.mp4"], ["locked/b.mp4", "open"], ["locked"]]
    done = run_unprivileged("-c", code, json.dumps(asked))
    Path("locked").chmod(0o700)
    Path("blind").chmod(0o700)
    assert done.returncode == 0, done.stderr
    folder, pattern, named, alone = json.loads(done.stdout)
    denied, unlisted = "cannot be read (Permission denied)", "the folder cannot be listed (Permission denied)"
    assert folder["reasons"] == {"./blind/c.mp4": denied, "./locked": unlisted}
    assert folder["paths"] == ["./blind/c.mp4", "./locked", "./open/a.mp4"]
    assert pattern["reasons"] == {"blind/c.mp4": denied, "locked": unlisted}
    assert named["reasons"] == {"locked/b.mp4": denied}
    assert alone["reasons"] == {"locked": unlisted}


def test_the_output_folder_is_not_entered(here):
    put("in/a.mp4", "in/out/results.csv", "empty/out/results.csv")
    assert find_inputs(["in"], out=Path("in/out")).paths == ["in/a.mp4"]
    assert find_inputs(["in/**/*"], out=Path("in/out")).paths == ["in/a.mp4"]
    assert find_inputs(["in"], out=Path("new")).paths == ["in/a.mp4", "in/out/results.csv"]
    with pytest.raises(LrcnError, match="empty: no file there"):
        find_inputs(["empty"], out=Path("empty/out"))
    with pytest.raises(LrcnError, match="in: is the output folder as well; choose another --out"):
        find_inputs(["in"], out=Path("in/../in"))


def test_nothing_to_answer_for(here):
    put("a.mp4", "hidden/.x")
    Path("hollow").mkdir()
    for paths, message in {
        ("none", "nor this"): "none: no such file or folder",
        ("*.avi",): r"\*\.avi: no such file or folder",
        ("hollow",): "hollow: no file there",
        ("hidden",): r"hidden: no file there; 1 hidden file\(s\) or folder\(s\) left out, first hidden/.x",
        (): "no file is named; name files or folders, or a list of them with --from",
    }.items():
        with pytest.raises(LrcnError, match=message):
            find_inputs(paths)
    found = find_inputs(["none", "*.avi", "hollow", "a.mp4", "none"])
    assert found.paths == ["*.avi", "a.mp4", "none"]
    assert found.reasons == {"*.avi": "no such file, nor one that fits as a pattern", "none": "no such file"}
    assert found.notes == ["hollow: no file there"]


# --- patterns ---------------------------------------------------------------------------------------------------------


def test_patterns(here):
    put(
        "a/x.mp4",
        "a/x.avi",
        "a/b/y.mp4",
        "a/b/c/z.mp4",
        "a/.hidden.mp4",
        "a/.git/x.mp4",
        "top.mp4",
        "m.mp4/in.txt",
        "[1]/1.avi",
    )
    Path("a/b/up").symlink_to(here / "a")
    for pattern, paths in {
        "*.mp4": ["m.mp4/in.txt", "top.mp4"],
        "a/*": ["a/b/c/z.mp4", "a/b/y.mp4", "a/x.avi", "a/x.mp4"],
        "a/?.[am]*": ["a/x.avi", "a/x.mp4"],
        "a/.h*": ["a/.hidden.mp4"],
        "**/*.mp4": ["a/b/c/z.mp4", "a/b/y.mp4", "a/x.mp4", "m.mp4/in.txt", "top.mp4"],
        "a/**": ["a/b/c/z.mp4", "a/b/y.mp4", "a/x.avi", "a/x.mp4"],
        "a/**/b/*.mp4": ["a/b/y.mp4"],
        "a/**/b/": ["a/b/c/z.mp4", "a/b/y.mp4"],
        "[1]/**/*.avi": ["[1]/1.avi"],
        "*/**/c": ["a/b/c/z.mp4"],
        f"{here}/**/y.*": [f"{here}/a/b/y.mp4"],
    }.items():
        assert find_inputs([pattern]).paths == paths, pattern
    assert find_inputs(["**/*.mp4"]).notes[0] == "2 hidden file(s) or folder(s) left out, first a/.git"


def test_a_file_named_like_a_pattern_is_that_file(here):
    put("x1.mp4", "x[1].mp4", "**", "a?.mp4", "ab.mp4")
    for name in ("x[1].mp4", "**", "a?.mp4"):
        assert find_inputs([name]).paths == [name]
    assert find_inputs([], ["*.mp4", "x[1].mp4"]).reasons == {"*.mp4": "no such file"}  # a list holds names alone


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_keep_every_byte(here, monkeypatch):
    names = ["-x.mp4", " a b ", "caf\udce9.mp4", "tab\t#.mp4", "*.mp4", "windows.mp4", "cr\r"]
    put(*names, "new\nline.mp4")
    lines = b"-x.mp4\n a b \ncaf\xe9.mp4\n\ntab\t#.mp4\n*.mp4\nwindows.mp4\r\n\r\ncr\r"
    assert listed_from(lines, monkeypatch) == names
    assert listed_from(b"new\nline.mp4\0\r\0caf\xe9.mp4\0", monkeypatch) == ["new\nline.mp4", "\r", "caf\udce9.mp4"]
    Path("list").write_bytes(lines)
    assert read_list("list") == names
    with pytest.raises(LrcnError, match=r"gone: the list cannot be read \(No such file or directory\)"):
        read_list("gone")


def test_a_missing_file_of_a_list_is_an_answer(here):
    put("a.mp4", "b/c.mp4")
    found = find_inputs([], ["gone.mp4", "a.mp4", "b", "a.mp4/x"])
    assert found.files == ["a.mp4", "b/c.mp4"]
    assert found.reasons == {"gone.mp4": "no such file", "a.mp4/x": "no such file"}
    assert find_inputs([], ["gone.mp4"]).paths == ["gone.mp4"]


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_that_are_no_utf8(here):
    name = b"caf\xe9.mp4"
    put(os.fsdecode(name))
    for asked in ("*.mp4", "**/*.mp4", os.fsdecode(name)):
        assert [os.fsencode(path) for path in find_inputs([asked]).paths] == [name]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso-8859-1", None])
def test_printable_names_are_one_line_on_any_terminal(encoding, monkeypatch):
    """Escaping by UTF-8 alone raises UnicodeEncodeError for the picture on a terminal of another encoding."""
    out = io.StringIO() if encoding is None else io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    text = printable("caf\udce9 \n\r\t\x1b[31m\u202e \u2028 🎬.mp4")
    monkeypatch.undo()
    picture = "🎬" if encoding in ("utf-8", None) else r"\U0001f3ac"
    assert text == rf"caf\udce9 \n\r\t\x1b[31m\u202e \u2028 {picture}.mp4"
    text.encode(encoding or "utf-8")
    assert printable('it\'s "plain" \\ 日本.mp4') == 'it\'s "plain" \\ 日本.mp4'
