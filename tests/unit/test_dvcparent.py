"""A process that stands for DVC starts one that stands for a stage, and is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pipeline.dvcparent import ending_with_dvc
from tests.conftest import wait_until
from tests.killing import runs

STAGE = """
import os, pathlib, signal, sys, time
from pipeline import dvcparent
dvcparent.CHECK_SECONDS, dvcparent.SECONDS_TO_END = 0.05, 0.3
told = pathlib.Path(sys.argv[1])
def stop(number, frame):
    told.write_text(signal.Signals(number).name)
    sys.exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else stop)
pathlib.Path(f"{told}.pid").write_text(str(os.getpid()))
while "late" in sys.argv and os.path.exists(f"/proc/{sys.argv[2]}/exe"):
    time.sleep(0.01)
with dvcparent.ending_with_dvc():
    pathlib.Path(f"{told}.begun").touch()
    time.sleep(20)
"""
DVC = (
    "import os, subprocess, sys\n"
    "subprocess.run([*sys.argv[2:], str(os.getpid())], env={**os.environ, **eval(sys.argv[1])})"
)


@contextmanager
def dvc_and_stage(
    told: Path, line: str = "{}", *words: str, shell: str = "sh", stage: str = "train@toy"
) -> Iterator[tuple[int, int]]:
    """Process ids of DVC and of the stage; line: what DVC's shell is given around the stage's command."""
    script = told.with_suffix(".py")
    script.write_text(STAGE)
    command = f'{sys.executable} {script} {told} "$0" {" ".join(words)}'
    environment = {"DVC_STAGE": stage, "PYTHONPATH": os.pathsep.join(sys.path)}
    dvc = subprocess.Popen(
        [sys.executable, "-S", "-c", DVC, repr(environment), shell, "-c", line.format(command)],
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    number = told.with_name(f"{told.name}.pid")
    wait_until(lambda: number.exists() and number.read_text(), seconds=10)
    pid = int(number.read_text())
    try:
        if "late" not in words:
            wait_until(told.with_name(f"{told.name}.begun").exists, seconds=10)
        yield dvc.pid, pid
    finally:
        for one in (pid, dvc.pid):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        dvc.wait()


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "{}"),  # puts a single command in its own place
        ("sh", "{}"),  # dash stays between the two
        ("bash", "setsid --wait {}"),  # a session of the stage's own, as torchrun's processes have
    ],
)
def test_a_stage_ends_by_sigterm_when_dvc_is_gone(tmp_path, shell, line):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    told = tmp_path / "told"
    with dvc_and_stage(told, line, shell=shell) as (dvc, stage):
        time.sleep(0.15)
        assert runs(stage)  # a mutant that takes every stage for an orphan ends here
        os.kill(dvc, signal.SIGKILL)
        wait_until(lambda: not runs(stage), seconds=3)
    assert told.read_text() == "SIGTERM"


def test_a_shell_in_between_counts_as_dvc_does(tmp_path):
    with dvc_and_stage(tmp_path / "told", "{}; true") as (_, stage):
        os.kill(psutil.Process(stage).ppid(), signal.SIGKILL)
        wait_until(lambda: not runs(stage), seconds=3)
    assert (tmp_path / "told").read_text() == "SIGTERM"


def test_dvc_that_is_gone_before_it_could_be_looked_at(tmp_path):
    """Mutant: without the look at sessions the process that adopted the stage is taken for DVC."""
    with dvc_and_stage(tmp_path / "told", "{}", "late") as (dvc, stage):
        os.kill(dvc, signal.SIGKILL)
        psutil.Process(dvc).wait(5)
        wait_until(lambda: not runs(stage), seconds=3)
    assert (tmp_path / "told").read_text() == "SIGTERM"


def test_a_stage_that_does_not_heed_sigterm_is_killed(tmp_path):
    with dvc_and_stage(tmp_path / "told", "{}", "deaf") as (dvc, stage):
        os.kill(dvc, signal.SIGKILL)
        wait_until(lambda: not runs(stage), seconds=3)
    assert not (tmp_path / "told").exists()


def test_by_hand_a_command_outlives_what_started_it(tmp_path):
    with dvc_and_stage(tmp_path / "told", stage="") as (dvc, stage):
        os.kill(dvc, signal.SIGKILL)
        time.sleep(0.3)
        assert runs(stage)


def test_what_has_ended_is_watched_no_more(monkeypatch):
    """A command that is called from Python leaves no thread that could end the caller."""
    monkeypatch.setenv("DVC_STAGE", "train@toy")
    import threading

    with ending_with_dvc():
        assert [thread for thread in threading.enumerate() if thread.name == "dvc"]
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "dvc"], seconds=2)
