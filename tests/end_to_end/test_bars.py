"""A folder with everything that can be wrong with a file, and files that want more than to be read.

A bar is a number that has to hold whatever the files are. Bar 2, the right frame at every time, is `test_faults.py`.
"""

import csv
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.video.isolation import DecoderPool
from tests.conftest import decoding_children, run_unprivileged
from tests.faults import damaged, good, unusable
from tests.faults.case import changed, patched, video
from tests.faults.unusable import gif_bomb
from tests.videos import write

pytestmark = pytest.mark.slow
MODEL = "artifacts/toy/trainings/clip-rgb-fold1-seed0/model"
SECONDS_PER_FILE = 10


def lrcn(*arguments: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[bytes]":
    here = Path.cwd()
    try:
        os.chdir(cwd or here)
        done = run_unprivileged("-P", "-m", "pipeline.cli", *map(str, arguments))
    finally:
        os.chdir(here)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


def checked(folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code of `lrcn check --json`, and its rows by name; every file has exactly one."""
    done = lrcn("check", "--json", folder)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    by_name = {Path(row["path"]).name: row for row in rows}
    assert len(by_name) == len(rows)
    return done.returncode, by_name


def predicted(folder: Path, model: Path, out: Path) -> tuple[int, dict[str, str]]:
    """Exit code of `lrcn predict`, and its lines by name, as they were written."""
    done = lrcn("predict", folder, "--model", model, "--out", out)
    lines = (out / "predictions.jsonl").read_text(encoding="ascii").splitlines()
    with (out / "results.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [json.loads(line)["path"] for line in lines]
    by_name = {Path(json.loads(line)["path"]).name: line for line in lines}
    assert len(by_name) == len(lines)
    return done.returncode, by_name


def test_bar_1_bad_files_are_listed_and_change_nothing_for_the_good_ones(built_toy: Path, tmp_path: Path) -> None:
    """67 bad files and 20 good ones in one folder.

    Shown to fail without the whitelist of formats: a script is then the video that it names, pictures are videos.
    """
    folder, alone = tmp_path / "mixed", tmp_path / "alone"
    folder.mkdir()
    alone.mkdir()
    for number, fault in enumerate(good.rows()[:20]):
        for place in (folder, alone):
            fault.make(place / f"good{number:02d}{Path(fault.name).suffix}")
    bad = [*unusable.rows(), *damaged.rows()]
    expected = {fault.name: fault.status for fault in bad}
    for fault in bad:
        fault.make(folder / fault.name)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "circle.mp4").symlink_to("circle.mp4")
    (folder / "closed.mp4").write_bytes((folder / "good00.mp4").read_bytes() + b"\0")
    (folder / "closed.mp4").chmod(0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.mp4"))
        expected |= dict.fromkeys(("pipe.mp4", "dangling.mp4", "circle.mp4", "closed.mp4", "socket.mp4"), "rejected")
        assert len(expected) == 67
        begin = time.monotonic()
        code, rows = checked(folder)
        answer_code, answers = predicted(folder, built_toy / MODEL, tmp_path / "out")
        assert time.monotonic() - begin < SECONDS_PER_FILE * len(rows)

    code_alone, rows_alone = checked(alone)
    assert (code, code_alone, len(rows_alone)) == (1, 0, 20)
    assert {row["status"] for row in rows_alone.values()} == {"ok"}
    assert {name: row["status"] for name, row in rows.items() if name not in rows_alone} == expected
    for name in expected:
        assert rows[name]["reason"] or rows[name]["notes"], name
        assert not any(word in rows[name]["reason"] for word in ("died", "hangs", "limit for one file")), rows[name]
    for name, row in rows_alone.items():
        assert rows[name] == row | {"path": str(folder / name)}

    code_alone, answers_alone = predicted(alone, built_toy / MODEL, tmp_path / "out-alone")
    assert (answer_code, code_alone, len(answers_alone)) == (1, 0, 20)
    expected["closed.mp4"] = "failed"  # permission may be given, so it is tried again next time
    assert {name: json.loads(answers[name])["status"] for name in expected} == expected
    for name, line in answers_alone.items():
        assert answers[name] == line.replace(str(alone), str(folder))
        assert json.loads(line)["label"] in ("left", "right")


def many_streams(data: bytearray) -> bytearray:
    """An MP4 whose track is listed 10 000 times."""
    start = data.index(b"trak") - 4
    track = data[start : start + struct.unpack_from(">I", data, start)[0]]
    patched(
        data,
        data.index(b"moov") - 4,
        ">I",
        len(track) * 9_999 + struct.unpack_from(">I", data, data.index(b"moov") - 4)[0],
    )
    return data[:start] + track * 10_000 + data[start + len(track) :]


def wide(path: Path) -> None:
    """A picture that is one pixel wider than the limit allows, and really is that large."""
    import numpy as np

    picture = np.zeros((4608, 8193, 3), np.uint8)
    write(path, pictures=[picture], codec="png", pixel_format="rgb24")


BOMBS = {
    "16000x16000.gif": lambda path: path.write_bytes(gif_bomb(16000, 16000)),
    "65535x65535.gif": lambda path: path.write_bytes(gif_bomb(65535, 65535)),
    "16000x16000.mp4": next(fault.make for fault in unusable.rows() if fault.name == "bomb.mp4"),
    "16000x16000.mov": next(fault.make for fault in unusable.rows() if fault.name == "bomb.mov"),
    "8193x4608.mov": wide,
    "10000-streams.mp4": changed(video(num_frames=3), many_streams),
}


def peak_bytes(process: psutil.Process) -> int:
    """Largest memory that a process has held since it began."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize("name", BOMBS)
def test_bar_8_a_small_file_that_asks_for_gigabytes_is_refused_at_once(name: str, tmp_path: Path) -> None:
    """Shown to fail without the limit of pixels, for three of the six: FFmpeg has limits of its own, far up."""
    BOMBS[name](tmp_path / name)
    video()(tmp_path / "good.mp4")
    with DecoderPool() as pool:
        assert pool.check(tmp_path / "good.mp4").status == "ok"
        (child,) = decoding_children()
        begin = time.monotonic()
        verdict = pool.check(tmp_path / name)
        assert time.monotonic() - begin <= 2
        assert decoding_children() == [child], "the child was not to die of it"
        assert peak_bytes(child) <= 300 * 2**20
    assert verdict.status == "rejected"


@contextmanager
def server() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine that answers nothing, and the connections made to it."""
    made: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                made.append(address)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1], made
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class OpensSeen:
    """Counts how often files of a folder are opened, by whatever code (inotify(7): Linux)."""

    IN_OPEN = 0x20

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert self._descriptor >= 0
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(folder), self.IN_OPEN) >= 0

    def names(self) -> list[str]:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return []
        names, at = [], 0
        while at < len(data):
            size = struct.unpack_from("=iIII", data, at)[3]
            names.append(data[at + 16 : at + 16 + size].rstrip(b"\0").decode())
            at += 16 + size
        return names

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify, which sees what FFmpeg opens, is part of Linux")
def test_bar_8_files_that_name_other_files_or_addresses_are_not_followed(tmp_path: Path) -> None:
    """Shown to fail without the whitelists: the canary is opened; with relative paths as well: a connection is made."""
    outside, folder = tmp_path / "outside", tmp_path / "inbox"
    outside.mkdir()
    folder.mkdir()
    video(format="mpegts")(outside / "canary.ts")
    seen = OpensSeen(outside)
    (outside / "canary.ts").read_bytes()
    assert seen.names() == ["canary.ts"]  # it does see
    with server() as (port, connections):
        with socket.create_connection(("127.0.0.1", port)):
            pass
        url = f"http://127.0.0.1:{port}/b.ts"
        target, playlist = outside / "canary.ts", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n"
        lures = {
            "concat.mp4": f"ffconcat version 1.0\nfile '{target}'\n",
            "concat-relative.mp4": "ffconcat version 1.0\nfile '../outside/canary.ts'\n",
            "concat-url.mp4": f"ffconcat version 1.0\nfile '{url}'\n",
            "playlist.m3u8": f"{playlist}{target}\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
            "playlist.mp4": f"{playlist}file://{target}\n#EXT-X-ENDLIST\n",
            "session.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} TCP 96\n",
            f"concat:{target}".replace("/", "\\"): "text",
            "subfile,,start,0,end,0,,:x.ts": "text",
        }
        for name, text in lures.items():
            (folder / name).write_text(text)
        (folder / "concat:..").mkdir()
        (folder / "concat:../outside").mkdir()
        (folder / "concat:../outside/canary.ts").write_text("text")
        trap = Path("http:", f"127.0.0.1:{port}", "a.ts")
        (folder / trap).parent.mkdir(parents=True)
        (folder / trap).write_text("text")
        (folder / "list.csv").write_text(f"{trap}\nconcat:../outside/canary.ts\n")
        done = lrcn("check", "--json", "--from", "list.csv", ".", cwd=folder)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(connections) == 1  # the test's own
    assert seen.names() == []
    seen.close()
    assert done.returncode == 1
    assert {row["status"] for row in rows} == {"rejected"}
    found = {row["path"].removeprefix("./") for row in rows}
    assert found >= set(lures) | {str(trap), "concat:../outside/canary.ts"}
