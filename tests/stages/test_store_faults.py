"""Stores under kill -9, full disks, flipped bits, several writers: what may be lost is work, never truth."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import cli
from pipeline.files import LOCK_NAME, locked
from pipeline.stages import decode, extract
from tests.conftest import ROOT, decoding_children, run_unprivileged, wait_until
from tests.stages.store_writers import (
    ENTRIES,
    read_until_stopped,
    serve_writers,
    sweep_until_stopped,
    write_again_and_again,
    write_as_a_stage,
    write_entries,
)

FRAMES, FEATURES = Path("artifacts/toy/frames"), Path("artifacts/toy/features/shared")
MODEL = "artifacts/toy/trainings/clip-rgb-fold1-seed0/model"
LRCN = [sys.executable, "-P", "-m", "pipeline.cli"]
DECODE = [*LRCN, "decode", "--config", "configs/toy.yaml"]
EXTRACT = [*LRCN, "extract", "--config", "configs/toy.yaml"]
INDEX = [*LRCN, "index", "--config", "configs/toy.yaml"]
CHECK = [*LRCN, "check", "media/toy/left"]
PREDICT = [*LRCN, "predict", "media/toy/left", "--model", MODEL, "--out", "out"]
EXTRACT_FILES = [*LRCN, "extract", "media/toy/left", "--backbone", "squeezenet1_1", "--weights", "random", "--fps", "5"]
EXTRACT_FILES += ["--out", "out"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its name; what is under a temporary name too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not Path(name).name.startswith(".")}


def start(function: Callable[..., None], *arguments: object) -> subprocess.Popen[str]:
    code = f"import sys; from {function.__module__} import {function.__name__} as work; work(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def writers() -> Iterator[subprocess.Popen[str]]:
    server = start(serve_writers)
    with server:
        yield server
        assert server.stdin is not None
        server.stdin.close()
        server.wait(timeout=20)


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_at_50_moments_of_writing(writers, tmp_path):
    """Mutants, by hand: writing under the final name leaves cut files there; without the sweep, temporary ones stay."""

    def ask(line: object) -> str:
        writers.stdin.write(f"{line}\n")
        writers.stdin.flush()
        return writers.stdout.readline()

    seconds = []
    for name in ("warm", "undisturbed"):
        begin = time.perf_counter()
        assert int(ask(tmp_path / name)) > 0
        assert ask("wait") == "ended\n"
        seconds.append(time.perf_counter() - begin)
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 3 * len(ENTRIES) + 1
    moments = random.Random(0)
    num_unfinished = num_leftovers = 0
    for number in range(50):
        folder = tmp_path / str(number)
        pid = int(ask(folder))
        time.sleep(moments.uniform(0, seconds[1]))
        os.kill(pid, signal.SIGKILL)
        assert ask("wait") == "ended\n"
        found = finished(folder) if folder.exists() else {}
        assert {name: found[name] for name in found if found[name] != expected[name]} == {}
        num_unfinished += len(found) < len(expected)
        num_leftovers += any(name.endswith(".tmp") for name in contents(folder))
        write_as_a_stage(folder)
        assert contents(folder) == expected
    assert num_unfinished >= 25, "the moments were too late to prove anything"
    assert num_leftovers >= 5


def kill_when(command: list[str], reached: Callable[[], bool]) -> None:
    """Start a stage, and kill -9 it when a condition holds; its own children must end by themselves."""
    stage = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    with stage:
        wait_until(reached)
        assert stage.poll() is None, "the stage was done before it could be killed"
        stage.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "folder", "suffix", "targets"),
    [(DECODE, FRAMES, ".json", (1, 25)), (EXTRACT, FEATURES, ".safetensors", (10,))],
)
def test_a_stage_killed_again_and_again_ends_as_if_it_had_not_been(toy, capsys, command, folder, suffix, targets):
    """Mutant, by hand: without the sweep, `.<name>.tmp` and `.lock` files stay behind."""
    expected = contents(folder)
    shutil.rmtree(folder)
    done = 0
    for target in targets:
        kill_when(command, lambda target=target: len(list(folder.glob(f"*{suffix}"))) >= target and folder.exists())
        found = finished(folder)
        assert {name: found[name] for name in found if found[name] != expected[name]} == {}
        assert len(list(folder.glob(f"*{suffix}"))) >= max(done, target)
        done = len(list(folder.glob(f"*{suffix}")))
    capsys.readouterr()
    assert cli.main(command[4:]) == 0
    assert f"{60 - done} of 60 videos" in capsys.readouterr().out
    assert contents(folder) == expected


@pytest.mark.slow
def test_by_hand_the_stage_of_a_killed_parent_goes_on_and_a_new_run_is_told(toy, capsys, monkeypatch):
    """Those of DVC end with it: tests/end_to_end/test_kills.py. Mutant, by hand: no lock, and a second one begins."""
    monkeypatch.setattr(decode, "WAIT_SECONDS", 0.2)
    shutil.rmtree(FRAMES)
    command = " ".join(["'" + part + "'" for part in DECODE])
    parent = subprocess.Popen(["sh", "-c", f"{command} & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        wait_until(lambda: (FRAMES / LOCK_NAME).is_file() and (FRAMES / LOCK_NAME).read_bytes() != b"")
        os.kill(pid, signal.SIGSTOP)  # it holds the lock for as long as we look
        parent.kill()
        assert cli.main(DECODE[4:]) == 2
        message = capsys.readouterr().err
        assert f"{FRAMES}: process {pid} on " in message
        assert message.count("\n") == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        parent.stdout.close()
        parent.wait()
    wait_until(lambda: cli.main(DECODE[4:]) == 0)  # the kernel takes a moment to end it
    assert not list(FRAMES.glob(".*"))


# --- signals and locks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_every_stopping_signal_takes_the_same_path(tmp_path, monkeypatch, capsys, number, code):
    """Mutant, by hand: without the handlers, SIGTERM and SIGHUP end this very test run."""
    before = signal.getsignal(number)

    def stopped_by_itself(name: str, arguments: list[str]) -> int:
        with locked(tmp_path):
            os.kill(os.getpid(), number)
            time.sleep(5)
        return 0

    monkeypatch.setattr(cli, "_run", stopped_by_itself)
    assert cli.main(["decode"]) == code
    assert "lrcn decode: stopped; what was finished is kept" in capsys.readouterr().err
    assert contents(tmp_path) == {}
    assert signal.getsignal(number) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_decoding_stops_within_5_seconds_and_what_is_there_is_valid(toy, number):
    """Its decoding processes are busy, for as long as one likes: they are paused.

    Mutant, by hand: a stage that waits for the videos under way, and for its queue, stops too late.
    """
    expected = contents(FRAMES)
    shutil.rmtree(FRAMES)
    with subprocess.Popen(DECODE, stderr=subprocess.PIPE, text=True) as stage:
        wait_until(lambda: len(decoding_children(stage.pid)) > 0)
        while len(list(FRAMES.glob("*.json"))) < 5:  # a little at a time: on a busy machine all would be done at once
            for child in decoding_children(stage.pid):
                child.resume()
            time.sleep(0.02)
            for child in decoding_children(stage.pid):
                child.suspend()
        time.sleep(0.2)  # what had come from them is dealt with
        begin = time.monotonic()
        stage.send_signal(number)
        _, message = stage.communicate(timeout=120)
        seconds = time.monotonic() - begin
    assert stage.returncode == 128 + number
    assert "lrcn decode: stopped; what was finished is kept" in message
    assert seconds < 5
    found = contents(FRAMES)
    assert {name: found[name] for name in found if found[name] != expected[name]} == {}
    assert 10 <= len(found) < len(expected)


def stands_still(pid: int) -> bool:
    """Whether a process computes next to nothing for half a second."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(0.5)
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("command", [INDEX, CHECK, PREDICT])
def test_every_command_stops_while_it_waits_for_decoding(toy, command):
    """Mutants, by hand: with `in_threads`, or the extractor, waiting for its threads this takes a minute."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        wait_until(lambda: len(decoding_children(running.pid)) > 0)
        for child in decoding_children(running.pid):
            child.suspend()
        wait_until(lambda: stands_still(running.pid), running)  # its libraries are loaded, and the main thread waits
        begin = time.monotonic()
        running.send_signal(signal.SIGTERM)
        _, message = running.communicate(timeout=120)
        seconds = time.monotonic() - begin
    assert running.returncode == 143
    assert message.count("\n") == 1
    assert "stopped; what was finished is kept" in message
    assert seconds < 5
    assert not {"results.csv", "videos.csv"} & set(finished(Path("out")))


@pytest.mark.slow
def test_commands_and_stages_refuse_a_folder_that_another_process_writes(toy, capsys, monkeypatch):
    for stage in (decode, extract):
        monkeypatch.setattr(stage, "WAIT_SECONDS", 0.0)
    for command, folder in (
        (DECODE, FRAMES),
        (EXTRACT, FEATURES),
        (PREDICT, Path("out")),
        (EXTRACT_FILES, Path("out")),
    ):
        with locked(folder):
            assert cli.main(command[4:]) == 2
        assert f"{folder}: process {os.getpid()} on " in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_without_permission_is_found_before_any_work(toy):
    folder = FRAMES
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o555)
    done = run_unprivileged(*DECODE[1:])
    folder.chmod(0o755)
    assert done.returncode == 2
    assert f"{folder}: cannot be written (Permission denied); give yourself access".encode() in done.stderr
    assert contents(folder) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("num_writers", "same"), [(3, "same"), (2, "other")])
def test_several_writers_and_readers_of_one_store(tmp_path, num_writers, same):
    """Another machine, to which locks do not reach, sweeps there all the time.

    Mutants, by hand: writers under the final name make the readers meet damaged entries within the first second; a
    sweep that goes by locks alone takes the writers' files away.
    """
    write_entries(tmp_path / "alone")
    folder = tmp_path / "shared"
    write_entries(folder)
    keys = ["key-0" if same == "same" else f"key-{number}" for number in range(num_writers)]
    readers = [start(read_until_stopped, folder, "key-0", same) for _ in range(2)]
    sweeper = start(sweep_until_stopped, folder)
    jobs = [start(write_again_and_again, folder, key) for key in keys]
    codes = []
    try:
        for job in jobs:
            with job:
                codes.append(job.wait(timeout=300))
    finally:
        (folder / "stop").touch()
    counts = []
    for reader in (*readers, sweeper):
        with reader:
            counts.append(reader.communicate(timeout=300)[0])
            codes.append(reader.returncode)
    (folder / "stop").unlink()
    assert set(codes) == {0}
    assert all(int(count) > 20 for count in counts)
    if same != "same":
        write_entries(folder)
    assert contents(folder) == contents(tmp_path / "alone")
