"""Parts of a folder run: which files are whole, whose they are, how much is computed at a time, how it ends."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline.device import Halving, choose_devices
from pipeline.errors import ConfigError, LrcnError, RejectedVideo
from pipeline.inference import predict
from pipeline.inference.answers import Answer, reason_of, status_of
from pipeline.inference.inputs import find_inputs
from pipeline.inference.ledger import Ledger, file_state
from pipeline.inference.watching import Looks


def state(size: int, changed_at: float, made_at: float | None = None) -> str:
    return f"{size} {int((made_at or changed_at) * 1e9)} {int(changed_at * 1e9)}"


# Which files are whole


def test_a_file_is_whole_when_it_looks_the_same_twice_and_was_left_alone_for_as_long():
    looks = Looks(10)
    old, new = state(5, 0), state(5, 95)
    assert looks.whole({"old": old, "new": new}, 100) == []  # one look says nothing
    assert looks.whole({"old": old, "new": new}, 101) == ["old"]
    assert looks.whole({"old": old, "new": new}, 104.9) == ["old"]
    assert looks.whole({"old": old, "new": new}, 105) == ["old", "new"]
    assert looks.whole({"old": state(6, 106), "new": new}, 130) == ["new"]
    assert looks.whole({"old": state(6, 106)}, 140) == ["old"]
    assert looks.whole({"old": state(6, 106), "new": new}, 150) == ["old"]  # it was away: to be looked at twice again


def test_a_copy_that_keeps_old_dates_is_as_new_as_its_change_time():
    looks = Looks(10)
    copied = state(5, 99, made_at=3)
    looks.whole({"a": copied}, 100)
    assert looks.whole({"a": copied}, 105) == []
    assert looks.whole({"a": copied}, 109) == ["a"]


def test_times_of_a_clock_that_is_ahead_and_files_that_cannot_be_read_wait_for_nothing():
    looks, found = Looks(10), {"ahead": state(5, 1e6), "closed": "cannot be read: Permission denied"}
    looks.whole(found, 100)
    assert looks.whole(found, 101) == ["ahead", "closed"]


def test_growing_files_are_said_once():
    looks = Looks(10)
    assert looks.newly_growing({"a": state(1, 1)}) == []
    looks.whole({"a": state(1, 1)}, 2)
    assert looks.newly_growing({"a": state(2, 2), "b": state(1, 1)}) == ["a"]
    looks.whole({"a": state(2, 2), "b": state(1, 1)}, 3)
    assert looks.newly_growing({"a": state(3, 3), "b": state(2, 3)}) == ["b"]


def test_a_file_on_disk_is_whole_after_its_last_change(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    looks, states = Looks(100), {str(path): file_state(str(path))}
    looks.whole(states)
    assert looks.whole(states) == []
    assert looks.whole(states, time.time() + 101) == [str(path)]


# Files that may come


def test_nothing_there_is_no_error_where_files_may_come(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("inbox").mkdir()
    assert find_inputs(["inbox"], may_come=True).paths == []
    assert find_inputs(["*.mp4", "inbox/**/*.mp4"], may_come=True).paths == []
    with pytest.raises(LrcnError, match="inbx: no such file or folder"):
        find_inputs(["inbx"], may_come=True)
    with pytest.raises(LrcnError, match=r"\*.mp4: no such file or folder"):
        find_inputs(["*.mp4"])
    Path("inbox/a.mp4").touch()
    found = find_inputs(["gone.mp4", "inbox/*.mp4"], may_come=True)
    assert (found.paths, found.reasons) == (["inbox/a.mp4"], {})
    assert found.notes == ["gone.mp4: no such file or folder"]
    assert find_inputs(["gone.mp4", "inbox/*.mp4"]).reasons == {"gone.mp4": "no such file"}
    with pytest.raises(LrcnError, match=r"gone.mp4: no such file or folder"):
        find_inputs(["gone.mp4", "other/*.mp4"], may_come=True)


# Watching


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watch", "inbox"], "'inbox' is no number of seconds from 0.1 to 86400; put --watch behind the paths"),
        (["a.mp4", "--watch", "0"], "'0' is no number of seconds"),
        (["a.mp4", "--watch", "nan"], "'nan' is no number of seconds"),
        (["a.mp4", "--watch", "5", "--shard", "1/2"], "--shard: not allowed with argument --watch"),
    ],
)
def test_impossible_watching_is_refused(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", *options, "--model", "m", "--out", "o"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_standard_input_cannot_be_watched(capsys):
    assert cli.main(["predict", "--from", "-", "--watch", "--model", "m", "--out", "o"]) == 2
    assert "--from - and --watch: standard input comes once" in capsys.readouterr().err


def test_files_whose_turn_it_was_when_the_results_were_taken_away_are_answered_for_later(tmp_path, monkeypatch):
    """Mutant: a file counts as seen before it is answered for."""
    monkeypatch.chdir(tmp_path)
    out, away, paths = Path("out"), Path("away"), ["a.mp4", "b.mp4", "c.mp4"]
    out.mkdir()
    for path in paths:
        Path(path).touch()
    ledger, runs, waits = Ledger(out, "m"), list[list[str]](), list[int]()

    def run(todo: list[str], states: dict[str, str]) -> None:
        runs.append(todo)
        for path in todo:
            if len(runs) == 2 and path == "b.mp4":
                out.rename(away)
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", "out/thumbnails")
            ledger.add(Answer(path, "failed" if path == "c.mp4" else "ok"), states[path])

    def wait(seconds: float) -> None:
        waits.append(len(runs))
        if len(waits) == 3:
            away.rename(out)
        if len(waits) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(predict, "wait", wait)
    options = SimpleNamespace(watch=0.0, out=out, place=out, paths=paths, list=None)
    with closing(ledger), pytest.raises(KeyboardInterrupt):
        predict.watch(options, find_inputs(paths), ledger, SimpleNamespace(run=run), lambda answers: None)
    assert runs == [[], paths, ["b.mp4", "c.mp4"], []]  # the first look alone tells of no file that it is whole
    assert [ledger.last_status(path) for path in paths] == ["ok", "ok", "failed"]


# How much at a time


@pytest.mark.parametrize(
    ("name", "num_gpus", "expected"),
    [("auto", 3, ["cuda:0", "cuda:1", "cuda:2"]), ("cuda", 1, ["cuda:0"]), ("auto", 0, ["cpu"]), ("cpu", 3, ["cpu"])],
)
def test_extraction_takes_every_gpu_that_is_visible(monkeypatch, name, num_gpus, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: num_gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
    assert [str(device) for device in choose_devices(name)] == expected


def test_no_gpu_where_one_is_asked_for_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is 'cuda', but PyTorch sees no GPU: take `auto` or `cpu`, or look"):
        choose_devices("cuda")


def test_half_as_many_rows_while_memory_is_short_and_it_is_said_once(capsys):
    rows, sizes = np.arange(100), []

    def compute(some: slice) -> np.ndarray:
        sizes.append(len(rows[some]))
        if sizes[-1] > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5 GiB. GPU 0 has ...")
        return rows[some] * 2

    at_a_time = Halving(64, "frames")
    assert np.concatenate(list(at_a_time.over(100, compute))).tolist() == (rows * 2).tolist()
    assert sizes[:3] == [64, 32, 16]
    assert sizes[3:] == [8] * 12 + [4]
    assert list(at_a_time.over(0, compute)) == []
    assert at_a_time.rows == 8
    said = "lrcn: the GPU has no memory for 64 frames at a time (CUDA out of memory): 32 from now on"
    assert capsys.readouterr().err == f"{said}, fewer where need be\n"


def test_a_row_that_does_not_fit_is_an_error_with_a_reason():
    def compute(some: slice) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")

    with pytest.raises(MemoryError, match=r"no memory for one of its frames \(CUDA out of memory\); try --device cpu"):
        list(Halving(5, "frames").over(3, compute))


def test_other_errors_are_none_of_memory():
    def compute(some: slice) -> int:
        raise RuntimeError("out of memory")

    at_a_time = Halving(4, "frames")
    with pytest.raises(RuntimeError, match="out of memory"):
        list(at_a_time.over(4, compute))
    assert at_a_time.rows == 4


def test_a_file_that_takes_too_much_memory_says_so_and_is_tried_again():
    assert reason_of(MemoryError()) == "not enough memory"
    assert reason_of(MemoryError("Unable to allocate 5 GiB")) == "not enough memory: Unable to allocate 5 GiB"
    assert status_of(MemoryError()) == "failed"
    assert status_of(RejectedVideo("no", is_transient=True)) == "failed"


# How it ends

BUSY = """
import hashlib, time
from pipeline.inference.ending import ending_soon
def swallow():
    try:
        print("ready", flush=True)
        {work}
    except BaseException as error:
        print(type(error).__name__, *error.args, flush=True)
        {after}
with ending_soon("predict", 1.0):
    swallow()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "after", "code", "output"),
    [
        ("time.sleep(60)", "raise", -signal.SIGINT, "KeyboardInterrupt 15\n"),
        ("time.sleep(60)", "time.sleep(60)", 143, "KeyboardInterrupt 15\n"),  # whoever cleans up takes too long
        ("hashlib.pbkdf2_hmac('md5', b'', b'', 10**9)", "raise", 143, ""),  # no step of Python for minutes
    ],
)
def test_a_command_ends_soon_whatever_it_is_doing(work, after, code, output):
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", BUSY.format(work=work, after=after)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        rest, errors = running.communicate(timeout=60)
    assert (rest.decode(), running.returncode) == (output, code), errors
    assert code < 0 or b"lrcn predict: stopped at once; what was finished is kept" in errors
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_as_before_afterwards_and_errors_on_the_way_out_hide_none(number):
    from pipeline.inference.ending import ending_soon

    before = signal.getsignal(number)
    threads = threading.active_count()

    def interrupted_while_importing() -> None:
        with ending_soon("predict"):
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            except KeyboardInterrupt:
                raise ImportError("half a library") from None

    with pytest.raises(KeyboardInterrupt, match=f"^{number.value}$"):
        interrupted_while_importing()
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_until_libraries_are_loaded(number):
    from pipeline.inference.ending import ending_soon, uninterrupted

    loaded = []

    def interrupted_while_loading() -> None:
        with ending_soon("predict"):
            with uninterrupted():
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
                loaded.append(1)
            loaded.append(2)

    with pytest.raises(KeyboardInterrupt, match=f"^{number.value}$"):
        interrupted_while_loading()
    assert loaded == [1]


def test_in_another_thread_nothing_happens():
    from pipeline.inference.ending import ending_soon

    found = []

    def work() -> None:
        with ending_soon("predict"):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
