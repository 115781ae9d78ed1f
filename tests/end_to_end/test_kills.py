"""`dvc repro` killed in four ways while it builds the toy, and run again: the same files, and one writer at a time.

`benchmarks/kills.py` has the table of ten kills of each kind.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import make_toy, run_stage, untracked_in
from tests.killing import (
    CONFIG,
    KILLS,
    Watch,
    differences,
    is_training,
    kill,
    make_repository,
    outputs,
    run_states,
    runs,
    stage_of,
    start_repro,
)

pytestmark = pytest.mark.slow
TRAIN = "train@toy-clip-rgb-fold1-seed0"
# In the order of the stages in which they come.
MOMENTS = {
    "group SIGKILL": "index@toy",
    "stage SIGKILL": "decode@toy",
    "dvc SIGTERM": "extract@toy-shared",
    "dvc SIGKILL": TRAIN,
}
PROVENANCE = "model.yaml"  # says which stage of DVC made the model, and from which commit


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    """The files of the stages up to the training, run one after the other in this process."""
    root = make_toy(tmp_path_factory.mktemp("undisturbed"), people=10)
    (root / "configs/toy.yaml").write_text(CONFIG)
    with untracked_in(root):
        for stage in ("index", "decode", "audit", "finetune", "extract"):
            run_stage(stage)
        run_stage("train", "--task", "clip")
    return {path: digest for path, digest in outputs(root).items() if not path.endswith(PROVENANCE)}


def killed_in(root: Path, kind: str, stage: str, pause: float) -> int:
    """Start `dvc repro` and kill it a moment after a stage has begun, `train` after an epoch; the stage's process."""
    dvc = start_repro(root, TRAIN)
    deadline = time.monotonic() + 120
    while (found := stage_of(dvc.pid)) is None or found[1] != stage or (stage == TRAIN and not is_training(root)):
        assert dvc.poll() is None, (root / "repro.log").read_text()
        assert time.monotonic() < deadline, (root / "repro.log").read_text()
        time.sleep(0.05)  # each look at all processes costs some milliseconds
    time.sleep(0 if stage == TRAIN else pause)
    assert kill(kind, dvc) == stage
    return found[0]


def test_a_killed_repro_leaves_no_second_writer_and_goes_on_to_the_same_files(tmp_path, undisturbed):
    root = make_repository(tmp_path.resolve() / "toy")
    rng = random.Random(0)
    with Watch(root) as watch:
        for kind, stage in MOMENTS.items():
            process = killed_in(root, kind, stage, rng.uniform(0, 0.5))
        deadline = time.monotonic() + 20
        while runs(process):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert run_states(root) == {"KILLED": 1}
        assert start_repro(root, TRAIN).wait() == 0, (root / "repro.log").read_text()
    log = (root / "repro.log").read_text()
    assert "Traceback" not in log
    assert "is writing there" not in log
    assert log.count("the DVC that started this stage has ended") <= 2
    assert set(MOMENTS) == set(KILLS)
    assert not [pid for pid in watch.seen if runs(pid)]
    assert "RUNNING" not in run_states(root)
    assert watch.problems() == []
    assert watch.writers
    # The tables of the stage `code` are of no stage that was run for comparison.
    compared = {
        path for path in outputs(root) if not path.endswith(PROVENANCE) and not path.startswith("artifacts/code/")
    }
    found = {path: digest for path, digest in outputs(root).items() if path in compared}
    assert differences(found, undisturbed) == []


def test_the_watch_sees_two_writers_and_one_that_goes_on(tmp_path):
    root = tmp_path.resolve()
    (root / "artifacts").mkdir()
    code = "import sys, time; file = open(sys.argv[1], 'w'); print(flush=True); time.sleep(60)"
    begun = []

    def begin(name: str) -> None:
        command = [sys.executable, "-c", code, f"artifacts/{name}"]
        environment = {**os.environ, "DVC_STAGE": "decode@toy"}
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE)
        begun.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    try:
        with Watch(root) as watch:
            begin("a.csv")
            time.sleep(0.3)
            assert watch.problems() == []
            begin("b.csv")
            time.sleep(0.3)
            begun[1].kill()
            begun[1].wait()
            time.sleep(0.3)
    finally:
        for process in begun:
            with process:
                process.kill()
    first, second = (process.pid for process in begun)
    assert watch.problems()[0] == f"processes {tuple(sorted((first, second)))} write at the same time"
    assert f"process {first} goes on after process {second} began" in watch.problems()
