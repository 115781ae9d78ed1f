"""The commands on any name that a file system allows: each file answered for once, by its name, no other touched."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli
from tests.conftest import run_unprivileged, write_toy_video

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

MODEL = "artifacts/toy/trainings/clip-rgb-fold1-seed0/model"
NAMES = [
    # bytes that are no UTF-8; what separates columns, rows, words and lists
    b"caf\xe9.mp4", b"a b.mp4", b" first.mp4", b"last ", b"tab\t.mp4", b'"quotes".mp4', b"it's.mp4", b"com,ma;.mp4",
    b"new\nline.mp4", b"cr\rlf\r\n.mp4", b"\r",
    # what shells, option parsers, spreadsheets and terminals take for something else
    b"-dash.mp4", b"--model", b"[a]*?.mp4", b"#1?v=2.mp4", b"$(reboot)`&|.mp4", b"back\\slash.mp4", b"=1+1.mp4",
    "🎬 \u202e.mp4".encode(), b"\x1b[31mred.mp4", b"NA",
    # what FFmpeg takes for a protocol or a series of pictures
    b"10:30:00.mp4", b"file:x.mp4", b"http:/127.0.0.1:9/x.mp4", b"a%03d.mp4", b"100%.mp4",
    b"n" * 251 + b".mp4", b"results.csv", b"up/x..mp4", b"a..mp4",
    # three pairs with equal stems
    b"stem/a.mp4", b"stem/a.avi", b"stem/b/c.mp4", b"stem/d/c.mp4", b"stem/e", b"stem/e.mp4",
    # twins but for the case, and but for the form in which Unicode writes an accent
    b"Twin.mp4", b"twin.mp4", "\u00e9.mp4".encode(), "e\u0301.mp4".encode(),
]  # fmt: skip


def label_of(number: int) -> str:
    return ("left", "right")[number % 2]


@pytest.fixture
def inbox(toy) -> dict[str, str]:
    """40 videos below `inbox`, each of its own bytes, label by path; and links in circles, which are no more files."""
    source = {label: toy / f"{label}.mp4" for label in ("left", "right")}
    for number, label in enumerate(source):
        write_toy_video(source[label], label, number)  # as tested: the toy knows no other grain
    labels = {}
    for number, name in enumerate(NAMES):
        path = toy / "inbox" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # An empty box at the end of an MP4 file changes nothing but its hash.
        path.write_bytes(source[label_of(number)].read_bytes() + b"\0\0\0\x09free" + bytes([number]))
        labels[f"inbox/{os.fsdecode(name)}"] = label_of(number)
    (toy / "inbox/up/again").symlink_to(toy / "inbox")
    (toy / "inbox/stem/all").symlink_to(toy / "inbox")
    (toy / "inbox/a link.mp4").symlink_to(toy / "inbox/twin.mp4")
    assert len(labels) == 40
    return labels


def snapshot(out: str) -> dict[bytes, tuple[object, ...]]:
    """All that lies in the working folder, but for the output folder: times, sizes, contents."""
    found = {}
    for folder, folders, names in os.walk(b"."):
        if folder == b".":
            folders[:] = [name for name in folders if name != os.fsencode(out)]
        # The working folder itself changes when the output folder is made in it.
        for path in [os.path.join(folder, name) for name in names] + ([folder] if folder != b"." else []):  # noqa: PTH118
            status = os.lstat(path)
            content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest() if path != folder else b""
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, content)
    return found


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def in_path_order(paths) -> list[str]:
    return sorted(paths, key=os.fsencode)


def test_predict_answers_for_forty_hostile_names(inbox, capsys):
    """Tried on broken variants, each of which fails: answers looked up by stem (`stem/a.mp4` twice, no `stem/a.avi`), a
    file written beside each input (the snapshot differs), a table written with errors="replace" (`caf?.mp4`), and one
    without quotes for carriage returns (a row more).
    """
    before = snapshot("out")
    assert cli.main(["predict", "inbox", "--model", MODEL, "--out", "out"]) == 0
    rows = table("out/results.csv")
    assert [row["path"] for row in rows] == in_path_order(inbox)
    assert {row["path"]: row["label"] for row in rows} == inbox
    predictions = [json.loads(line) for line in Path("out/predictions.jsonl").read_bytes().splitlines()]
    assert [row["path"] for row in predictions] == [row["path"] for row in rows]
    names = [os.fsencode(row["path"])[len("inbox/") :] for row in rows]
    assert sorted(names) == sorted(NAMES)
    assert sorted({row["path"] for row in table("out/segments.csv")}) == sorted(inbox)
    assert snapshot("out") == before
    assert sorted(path.name for path in Path("out").iterdir()) == [
        ".ledger.jsonl", "model.yaml", "predictions.jsonl", "report.html", "results.csv", "segments.csv", "thumbnails",
    ]  # fmt: skip
    assert len(list(Path("out/thumbnails").iterdir())) == 40
    printed = capsys.readouterr()
    assert "40 file(s), 40 looked at now: 40 ok" in printed.out
    assert "3 further name(s) of listed files left out, first inbox/a link.mp4" in printed.err
    assert cli.main(["predict", "inbox", "--model", MODEL, "--out", "out"]) == 0
    assert "40 file(s), 0 looked at now: 40 ok" in capsys.readouterr().out


def test_extract_keeps_forty_hostile_names_apart(inbox):
    """Fails when videos are told apart by stem: 37 of 40 are left."""
    before = snapshot("features")
    arguments = [
        "--backbone",
        "squeezenet1_1",
        "--weights",
        "random",
        "--fps",
        "5",
        "--short-side",
        "32",
        "--crop",
        "32",
    ]
    assert cli.main(["extract", "inbox", *arguments, "--out", "features"]) == 0
    rows = table("features/videos.csv")
    assert [row["path"] for row in rows] == in_path_order(inbox)
    assert len({row["sha256"] for row in rows}) == 40
    for row in rows:
        assert row["sha256"] == hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
    assert {path.stem for path in Path("features").glob("*.safetensors")} == {row["sha256"] for row in rows}
    assert snapshot("features") == before


def test_check_names_forty_files_exactly(inbox, capsys, monkeypatch):
    """Fails when names are printed as they are: UnicodeEncodeError at the first name that is no UTF-8."""
    assert cli.main(["check", "inbox"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 40 + 1
    assert lines[-1] == "40 ok"
    assert any(line.endswith(r"inbox/caf\udce9.mp4") for line in lines)
    assert all(line.isprintable() for line in lines)

    names = [os.fsdecode(name) for name in NAMES]
    Path("list").write_bytes(b"\0".join([*NAMES, b"gone\n.mp4", b""]))
    monkeypatch.chdir("inbox")
    assert cli.main(["check", "--json", "--from", "../list"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["path"] for row in rows] == in_path_order([*names, "gone\n.mp4"])
    assert [(row["path"], row["reason"]) for row in rows if row["status"] != "ok"] == [("gone\n.mp4", "no such file")]
    assert cli.main(["check", "--", "--model", "[a]*?.mp4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 ok"


def test_index_names_forty_files_exactly(inbox):
    """The stage gives each name a row of its own, links too, and no circle a second walk."""
    from pipeline.data.scan import scan_media
    from pipeline.data.tables import Video, read_videos, write_rows
    from pipeline.video.reader import read_header

    found = scan_media(Path("inbox"), read_header)
    again = ["stem/all", "up/again"]
    assert [row.video_id for row in found] == in_path_order([*map(os.fsdecode, NAMES), "a link.mp4", *again])
    assert [row.video_id for row in found if row.status != "ok"] == again
    write_rows("videos.csv", Video, found)
    assert read_videos("videos.csv") == found


def test_messages_are_one_line_each(toy, capsys):
    """Fails when an error is printed as it is: UnicodeEncodeError, or two lines."""
    for command in (["check"], ["predict", "--model", MODEL, "--out", "out"]):
        assert cli.main([*command, "--", "no\nsuch\udce9"]) == 2
        assert capsys.readouterr().err == f"lrcn {command[0]}: no\\nsuch\\udce9: no such file or folder\n"
    Path("a\nb\udce9.mp4").write_text("text")
    assert cli.main(["predict", "--model", MODEL, "--out", "o\nut\udce9", "a\nb\udce9.mp4", "--debug"]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith("see o\\nut\\udce9/results.csv\n")
    assert len(printed.out.splitlines()) == 1
    about_model, about_file = printed.err.splitlines()
    assert about_model.startswith("predict: no answer is called sure: ")
    assert about_file == r"predict: a\nb\udce9.mp4: rejected: a text file, not a video"
    assert cli.main(["check", "--", "--debug"]) == 2  # after the two dashes come file names
    assert "lrcn check: --debug: no such file or folder" in capsys.readouterr().err


def test_a_terminal_of_another_encoding(inbox):
    """Fails when names are escaped for UTF-8 whatever the output is: UnicodeEncodeError after one line."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, "-m", "pipeline.cli", "check", "inbox", "gone \udce9🎬.mp4"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert len(done.stdout.splitlines()) == 43
    assert rb"gone \udce9\U0001f3ac.mp4: no such file" in done.stdout
    assert rb"\u202e.mp4" in done.stdout


def test_files_and_folders_that_may_not_be_read(inbox):
    """Fails when the walk passes over errors: there is no row for the folder."""
    Path("inbox/up").chmod(0)
    Path("inbox/NA").chmod(0)
    done = run_unprivileged("-m", "pipeline.cli", "check", "inbox", "--json")
    Path("inbox/up").chmod(0o700)
    assert done.returncode == 1, done.stderr
    rows = {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == set(inbox) - {"inbox/up/x..mp4"} | {"inbox/up"}
    refused = {path: row["reason"] for path, row in rows.items() if row["status"] != "ok"}
    assert refused == {
        "inbox/NA": "cannot be read: Permission denied",
        "inbox/up": "the folder cannot be listed (Permission denied)",
    }


def test_stages_take_names_and_groups_that_are_no_utf8(toy, capsys, monkeypatch):
    """In training, in test and in tracking. Fails with the texts of Arrow, which are UTF-8: pandas 3 takes them."""
    media, card = Path("media/toy"), Path("datasets/toy/card.yaml")
    odd = {"g00": "caf\udce9 0", "g10": "\udcff\udcfe"}
    for table_name in ("labels.csv", "segments.csv"):
        text = (media / table_name).read_text()
        for who, name in odd.items():
            text = text.replace(f"{who}.mp4", f"{name}.mp4").replace(f",{who}\n", f",{name}\n")
        (media / table_name).write_bytes(os.fsencode(text))
    for folder in ("left", "right", "long"):
        for who, name in odd.items():
            (media / folder / f"{who}.mp4").rename(media / folder / f"{name}.mp4")
    card.write_text(card.read_text().replace("test: ['g0[0-3]']", "test: ['g0[1-3]', 'caf*']") + "alarms: [left]\n")
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("epochs: 30", "epochs: 2").replace("samples: 200", "samples: 20"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{toy}/mlflow.db")
    stages = ["index", "decode", "audit", "extract"]
    stages += [f"{stage} --task {task}" for task in ("clip", "frame") for stage in ("train", "evaluate")]
    for stage in [*stages, "report"]:
        assert cli.main([*stage.split(), "--config", "configs/toy.yaml"]) == 0, capsys.readouterr().err
    for task, folder in (("clip", "left"), ("frame", "long")):
        found = table(f"artifacts/toy/evaluations/{task}-rgb-fold1-seed0/predictions.csv")
        assert {row["group"] for row in found} == {odd["g00"], "g01", "g02", "g03"}
        assert f"{folder}/{odd['g00']}.mp4" in {row["video_id"] for row in found}
    timeline = Path("artifacts/toy/figures/frame-rgb/timeline.svg").read_text(encoding="utf-8")
    assert "long/caf? 0.mp4" in timeline
