import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import time
import uuid
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from pipeline import files
from pipeline.errors import ConfigError, StoreError
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.files import (
    LOCK_NAME,
    MACHINE,
    explaining_full_disk,
    leftovers,
    locked,
    replacing,
    sweep,
    write_table,
    write_text,
)
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import Frame, Verdict

SHA = "a" * 64


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of it")
        raise error


def test_a_file_is_synced_before_it_gets_its_name_and_the_folder_after(tmp_path, monkeypatch):
    """Mutants: without the first sync, or with it after the rename, the calls are others than these."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").resolve().suffix or "folder"))
        fsync(descriptor)

    def watched_replace(source, target):
        calls.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_text(tmp_path / "folder" / "a.txt", "words")
    assert calls == [("fsync", ".tmp"), ("rename", "a.txt"), ("fsync", "folder")]


def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    for error in (ConfigError("no such key"), ValueError("another problem"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write_half(tmp_path / "a.txt", error)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_only_what_dead_writers_left_is_swept(tmp_path):
    abandoned, foreign = f".b.txt.{MACHINE}{uuid.uuid4().hex[12:]}.tmp", ".mine.tmp"
    (tmp_path / abandoned).write_bytes(b"half a file")
    (tmp_path / foreign).write_bytes(b"another program's")
    (tmp_path / ".folder.tmp").mkdir()
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert [path.name for path in leftovers(tmp_path)] == [abandoned]
        sweep(tmp_path)
        assert names(tmp_path) == sorted([".folder.tmp", foreign, temporary.name])
    assert names(tmp_path) == [".folder.tmp", foreign, "a.txt"]


def test_what_a_writer_on_another_machine_has_begun_is_left_for_a_day(tmp_path, monkeypatch):
    """Its lock may not reach this one. Mutant: a sweep that goes by the lock alone removes it."""
    monkeypatch.setattr(files, "MACHINE", "0" * 12)
    with replacing(tmp_path / "a.txt") as temporary:
        monkeypatch.undo()
        temporary.write_text("whole")
        monkeypatch.setattr(fcntl, "flock", lambda descriptor, flags: None)  # as where locks are local
        sweep(tmp_path)
        assert names(tmp_path) == [temporary.name]
        monkeypatch.undo()
    dead = tmp_path / f".b.txt.{'0' * 32}.tmp"
    for hours, is_left in ((23, True), (25, False)):
        dead.write_text("half")
        os.utime(dead, (time.time() - hours * 3600,) * 2)
        sweep(tmp_path)
        assert dead.exists() == is_left
    assert names(tmp_path) == ["a.txt"]


def test_a_machine_keeps_its_name_and_is_told_from_others(monkeypatch, tmp_path):
    own = files._machine()
    assert own == MACHINE == files._machine()
    monkeypatch.setattr(files, "MACHINE_ID", tmp_path / "other")
    without = files._machine()
    (tmp_path / "other").write_text("1" * 32)
    monkeypatch.setattr("socket.gethostname", lambda: "node3")
    assert len({own, without, files._machine()}) == 3
    with replacing(tmp_path / "a.txt") as temporary:
        assert temporary.name.startswith(f".a.txt.{MACHINE}")
        temporary.touch()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_there_are_no_locks_files_are_written_and_nothing_is_swept(tmp_path, monkeypatch, number):
    def flock(descriptor, flags):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / f".b.txt.{MACHINE}{'0' * 20}.tmp"
    left.touch()
    with locked(tmp_path), locked(tmp_path), locked(tmp_path, shared=True):
        write_text(tmp_path / "a.txt", "words")
    assert names(tmp_path) == [left.name, "a.txt"]


def test_a_sweep_between_making_and_locking_a_file_does_no_harm(tmp_path, monkeypatch):
    """Mutant: a writer that does not look whether its file is still there after locking it meets FileNotFoundError."""
    flock, swept = fcntl.flock, []

    def late_flock(descriptor, flags):
        if not swept:
            swept.extend(tmp_path.glob(".*"))
            swept[0].unlink()
        flock(descriptor, flags)

    monkeypatch.setattr(fcntl, "flock", late_flock)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("words")
        sweep(tmp_path)
    assert len(swept) == 1
    assert (tmp_path / "a.txt").read_text() == "words"
    assert names(tmp_path) == ["a.txt"]


def test_a_second_writer_is_told_at_once_who_the_first_is(tmp_path):
    folder = tmp_path / "results"
    with locked(folder):
        start = time.perf_counter()
        with pytest.raises(StoreError, match=f"results: process {os.getpid()} on .+ is writing there; wait"):
            locked(folder).__enter__()
        assert time.perf_counter() - start < 0.5
    assert names(folder) == []
    with locked(folder):
        assert names(folder) == [LOCK_NAME]


def test_a_lock_may_lie_outside_of_its_folder(tmp_path):
    folder, lock = tmp_path / "results", tmp_path / "locks/results"
    folder.mkdir()
    (folder / f".a.txt.{MACHINE}{'0' * 20}.tmp").write_bytes(b"half a file")
    with locked(folder, lock=lock):
        assert names(folder) == []
        assert lock.read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(StoreError, match=rf"results: process {os.getpid()} on .+ is writing there"):
            locked(folder, lock=lock).__enter__()
    assert names(lock.parent) == []


def test_a_lock_dies_with_its_process_and_not_with_its_children(tmp_path):
    """Mutant: an inheritable descriptor keeps the folder locked until the sleeper ends."""
    script = (
        "import pathlib, subprocess, sys, os; from pipeline.files import MACHINE, locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    pathlib.Path(sys.argv[1], '.x.' + MACHINE + '0' * 20 + '.tmp').touch()\n"
        "    child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    sleeper = int(done.stdout)
    try:
        assert done.returncode == -9
        assert names(tmp_path) == [LOCK_NAME, f".x.{MACHINE}{'0' * 20}.tmp"]
        with locked(tmp_path):
            assert (tmp_path / LOCK_NAME).read_text().startswith(f"process {os.getpid()} on ")
        os.kill(sleeper, 0)  # it is still there
    finally:
        os.kill(sleeper, 9)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"file/out: cannot be written \(Not a directory\); give yourself access"):
        locked(tmp_path / "file" / "out").__enter__()


def test_a_full_device_is_named(tmp_path):
    with (
        pytest.raises(
            StoreError, match=r"a\.csv: cannot be written \(No space left on device; \d+\.\d MB free\); free"
        ),
        explaining_full_disk(tmp_path / "a.csv"),
        Path("/dev/full").open("w") as file,
    ):
        file.write("words")


@pytest.mark.parametrize(
    ("error", "free", "explained"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 10**9, True),
        (OSError("1024000 requested and 524256 written"), 4096, True),  # numpy
        (OSError("1024000 requested and 524256 written"), 10**9, False),
        (RuntimeError("unexpected pos 64 vs 0"), 0, True),  # torch
        (Exception("I/O error: No space left on device (os error 28)"), 10**9, True),  # safetensors
        (OSError(errno.EIO, "Input/output error"), 0, False),
        (ValueError("no frames to write"), 0, False),
    ],
)
def test_libraries_that_lose_the_number_of_the_error(tmp_path, monkeypatch, error, free, explained):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**10, 0, free))
    with pytest.raises(StoreError if explained else type(error)) as caught:
        write_half(tmp_path / "x", error)
    assert (caught.value is error) is not explained
    assert names(tmp_path) == []


def write_frames(folder: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 48, 32), np.uint8)
    write_pictures(folder, pictures)


def write_record(folder: Path) -> None:
    write_pictures(folder, np.zeros((300, 24, 16), np.uint8))


def write_pictures(folder: Path, pictures: np.ndarray) -> None:
    frames = [Frame(k / 7, k / 7, picture) for k, picture in enumerate(pictures)]
    FrameStore(folder, "key").write(SHA, frames, lambda: Verdict("ok"))


def write_features(folder: Path) -> None:
    values = np.random.default_rng(0).random((6, 40)).astype(np.float16)
    FeatureStore(folder, "key").write(SHA, VideoFeatures(values, np.arange(6.0), np.arange(6.0)))


def write_rows(folder: Path) -> None:
    write_table(folder / "videos.csv", ["number"], [[number] for number in range(3000)])


@pytest.mark.parametrize(
    ("write", "suffix"),
    [(write_frames, ".mkv"), (write_record, ".json"), (write_features, ".safetensors"), (write_rows, ".csv")],
)
def test_a_write_that_fails_at_any_of_20_points_leaves_what_was_there(tmp_path, write, suffix):
    """A limit on the size of files stands for the full disk: it stops PyAV's own writes too, at a chosen byte.

    Mutant: `replacing` that yields the final name loses the old files, at the first point of each of the four.
    """
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    size = max(map(len, before.values()))
    assert size == sum(len(data) for name, data in before.items() if name.endswith(suffix))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for point in range(20):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1 - size * point // 60, hard))
        try:
            with pytest.raises(StoreError, match=rf"{suffix}: cannot be written \(File too large; [\d.]+ MB free\)"):
                write(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for path in tmp_path.iterdir():
        path.unlink()
    write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
