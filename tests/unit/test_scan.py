import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.data import scan
from pipeline.data.scan import scan_media, until_settled
from pipeline.errors import DataError, RejectedVideo


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
        "lists/one.txt": "a table of the data set",
        "notes.txt": "no video stream",
        "odd.mp4": "its header cannot be read (ZeroDivisionError: rate 0/0)",
        "pipe.mp4": "not a regular file (a pipe)",
        "table.csv": "a table of the data set",
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
    """Without the memory of entered folders these 3 rows are 83, up to the system's limit of 40 links in a path."""
    put(tmp_path, "a/b/clip.mp4")
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "0 first").symlink_to(tmp_path / "a")
    again = "another name of a folder that is listed already"
    assert [(row.video_id, row.status, row.reason) for row in scan_media(tmp_path, read_header)] == [
        ("0 first", "rejected", again),
        ("a/b/clip.mp4", "ok", ""),
        ("a/b/loop", "rejected", again),
    ]


def test_a_folder_that_may_not_be_listed_is_a_row(tmp_path, monkeypatch):
    put(tmp_path, "a.mp4")
    put(tmp_path, "locked/b.mp4")
    real = os.scandir

    def denied(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:  # not by chmod: root lists everything
        patch.setattr(os, "scandir", denied)
        rows = scan_media(tmp_path, read_header)
    assert [(row.video_id, row.reason) for row in rows] == [
        ("a.mp4", ""),
        ("locked", "the folder cannot be listed (Permission denied)"),
    ]


# --- a folder that changes while it is read ---------------------------------------------------------------------------


def scan_settled(folder: Path, read) -> list[tuple[str, str]]:
    known = {}
    rows = until_settled(folder, lambda files: scan_media(folder, read, files=files, known=known))
    return [(row.video_id, row.sha256) for row in rows]


def expected(folder: Path, *names: str) -> list[tuple[str, str]]:
    return [(name, hashlib.sha256((folder / name).read_bytes()).hexdigest()) for name in names]


def test_what_comes_goes_or_changes_while_the_folder_is_read_is_taken_in(tmp_path, monkeypatch):
    """Mutants: without the second listing `d.mp4` is missing; with rows kept by name `c.mp4` has its old hash."""
    monkeypatch.setattr(scan, "SECONDS_BETWEEN_LISTINGS", 0.0)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        put(tmp_path, name)
    read = []

    def read_while_it_changes(path: Path) -> Header:
        read.append(path.name)
        if read == ["a.mp4", "b.mp4", "c.mp4"]:
            put(tmp_path, "d.mp4")
            put(tmp_path, "c.mp4", "video, another")
            (tmp_path / "b.mp4").unlink()
        return read_header(path)

    assert scan_settled(tmp_path, read_while_it_changes) == expected(tmp_path, "a.mp4", "c.mp4", "d.mp4")
    assert read == ["a.mp4", "b.mp4", "c.mp4", "c.mp4", "d.mp4"]  # what stayed is not read again


def test_an_error_counts_when_the_folder_rests(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "SECONDS_BETWEEN_LISTINGS", 0.0)
    put(tmp_path, "a.mp4")
    listings = []

    def make(files) -> list[str]:
        listings.append([file.video_id for file in files])
        if len(listings) == 1:
            put(tmp_path, "b.mp4")
        if "c.mp4" not in listings[-1]:
            raise DataError("labels.csv, row 3: no such file: 'c.mp4'")
        return listings[-1]

    with pytest.raises(DataError, match=r"row 3: no such file: 'c\.mp4'"):
        until_settled(tmp_path, make)
    assert listings == [["a.mp4"], ["a.mp4", "b.mp4"]]


def test_a_folder_that_never_rests_is_an_error_that_names_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "SECONDS_TO_SETTLE", 0.05)
    monkeypatch.setattr(scan, "SECONDS_BETWEEN_LISTINGS", 0.01)
    put(tmp_path, "camera.mp4")
    with pytest.raises(DataError, match=r"still changes after 0\.05 s \('camera\.mp4'\); wait until what writes"):
        until_settled(tmp_path, lambda files: put(tmp_path, "camera.mp4", f"video {time.monotonic_ns()} {files}"))
