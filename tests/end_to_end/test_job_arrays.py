"""The job array of docs/cluster.md, by a stand-in for SLURM: four parts at once, gathered, are one run."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline.features.frozen import Replica
from pipeline.inference import recognizer
from pipeline.video import isolation
from tests.conftest import ROOT, run_stage

pytestmark = pytest.mark.slow

MODEL = "artifacts/toy/trainings/clip-rgb-fold1-seed0/model"
SBATCH = """#!/bin/bash
# Runs all tasks of an array at once, waits for them, and ends with the worst exit code.
[ "$1" = --wait ] && shift
last=$(sed -n 's/^#SBATCH --array=1-//p' "$1")
for task in $(seq "$last"); do
    SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$last bash "$@" &
    tasks+=" $!"
done
for task in $tasks; do
    wait "$task" || worst=$?
done
exit "${worst:-0}"
"""
LRCN = f'#!/bin/bash\nexec {sys.executable} -P -m pipeline.cli "$@"\n'


@pytest.fixture
def arrays(toy: Path) -> Path:
    """The toy, being the working folder, with the script of the page beside it, and an inbox with a bad file."""
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)
    assert "--array=1-4" in script
    Path("shard.sh").write_text(script)
    for name, text in (("sbatch", SBATCH), ("lrcn", LRCN)):
        path = Path("bin", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    shutil.copytree("media/toy/left", "inbox")
    Path("inbox/bad.mp4").write_text("no video")
    return toy


def sbatch(*arguments: str) -> tuple[int, list[str]]:
    """What the page's command does; returns the worst exit code, and the lines that the parts printed, in order."""
    environment = {**os.environ, "PATH": f"{Path.cwd() / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment["PYTHONUNBUFFERED"] = ""  # else a line is written in pieces, between which another part's may come
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        ["sbatch", "--wait", "shard.sh", *arguments], env=environment, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, sorted(done.stdout.splitlines())


def contents(*paths: Path | str) -> dict[str, bytes]:
    """All files there, by their path from the folder that is named."""
    found = {}
    for top in map(Path, paths):
        for path in [top] if top.is_file() else top.rglob("*"):
            if path.is_file():
                found[f"{top.name}/{path.relative_to(top)}"] = path.read_bytes()
    assert found
    return found


def never(*_: object, **__: object) -> None:
    raise AssertionError("what the parts have done must not be done again")


def test_four_parts_of_predict_at_once_and_gathered_are_one_run(arrays, capsys, monkeypatch):
    command = ["predict", "inbox", "--model", MODEL, "--out"]
    assert cli.main([*command, "whole"]) == 1
    code, lines = sbatch(*command, "shared")
    assert code == 1  # of the part with the bad file
    numbers = [re.match(r"predict: (\d+) file\(s\), shard (\d)/4, (\d+) looked at now: ", line) for line in lines]
    assert sorted(found[2] for found in numbers if found) == ["1", "2", "3", "4"]
    assert sum(int(found[1]) for found in numbers if found) == 21
    assert not Path("shared/results.csv").exists()
    monkeypatch.setattr(recognizer, "load_model", never)
    capsys.readouterr()
    assert cli.main([*command, "shared"]) == 1
    assert (
        "predict: 21 file(s), 0 looked at now, 21 answer(s) taken from shards: 20 ok, 1 rej" in capsys.readouterr().out
    )
    whole, shared = contents("whole"), contents("shared")
    ledgers = {name for name in shared if "ledger" in name}
    assert shared.keys() - ledgers == {name.replace("whole/", "shared/") for name in whole if "ledger" not in name}
    for name in shared.keys() - ledgers - {"shared/report.html"}:
        assert shared[name] == whole[name.replace("shared/", "whole/")], name


def test_two_devices_answer_as_one(arrays, monkeypatch):
    """Two CPUs stand in for two GPUs, each of which computes."""
    command = ["predict", "inbox", "--model", MODEL, "--device", "cpu", "--out"]
    assert cli.main([*command, "one"]) == 1
    devices, used = [torch.device("cpu"), torch.device("cpu")], set()
    vectors, lock, meeting = Replica.vectors, threading.Lock(), threading.Barrier(2)

    def watched(self: Replica, pixels: torch.Tensor) -> np.ndarray:
        with lock:
            is_first = self not in used
            used.add(self)
        if is_first:
            meeting.wait(60)  # for the other device's first batch
        return vectors(self, pixels)

    monkeypatch.setattr(recognizer, "choose_devices", lambda name: devices)
    monkeypatch.setattr(Replica, "vectors", watched)
    assert cli.main([*command, "two"]) == 1
    assert len(used) == 2
    for name in ("results.csv", "predictions.jsonl", "segments.csv"):
        assert Path("two", name).read_bytes() == Path("one", name).read_bytes()


def test_four_parts_of_extract_and_gathered_are_one_run(arrays, capsys, monkeypatch):
    """The parts one after the other, to spare PyTorch's start: at once they run in the tests beside this one."""
    weights = arrays / "artifacts/toy/backbone/shared/backbone.safetensors"
    command = ["extract", "inbox", "--backbone", "squeezenet1_1", "--weights", str(weights), "--fps", "10"]
    command += ["--short-side", "32", "--crop", "32", "--out"]
    assert cli.main([*command, "whole"]) == 1
    capsys.readouterr()
    codes = [cli.main([*command, "shared", "--shard", f"{number}/4"]) for number in (3, 1, 4, 2)]
    assert sorted(codes) == [0, 0, 0, 1]  # one part has the bad file
    lines = sorted(capsys.readouterr().out.splitlines())
    numbers = [re.match(r"extract: shard (\d)/4, (\d+) of (\d+) file\(s\) have features", line) for line in lines]
    assert sorted(found[1] for found in numbers if found) == ["1", "2", "3", "4"]
    assert [sum(int(found[group]) for found in numbers if found) for group in (2, 3)] == [20, 21]
    assert not Path("shared/videos.csv").exists()
    monkeypatch.setattr(isolation, "IsolatedReader", never)
    capsys.readouterr()
    assert cli.main([*command, "shared"]) == 1
    assert "extract: 20 of 21 file(s) have features, 0 looked at now; see shared" in capsys.readouterr().out
    assert {name.removeprefix("shared/"): data for name, data in contents("shared").items()} == {
        name.removeprefix("whole/"): data for name, data in contents("whole").items()
    }


def test_four_parts_of_the_stages_and_gathered_are_one_run(arrays, capsys):
    """The parts that decode at once; those that extract one after the other, to spare PyTorch's start."""
    frames, features = Path("artifacts/toy/frames"), Path("artifacts/toy/features/shared")
    decoded = [frames, Path("artifacts/toy/frames.csv"), Path("artifacts/toy/decoded.csv")]
    extracted = [features, Path("artifacts/toy/features/shared.csv")]
    whole = contents(*decoded, *extracted)
    for path in (*decoded, *extracted):
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def expect_parts(stage: str, lines: list[str]) -> None:
        done = f"{stage.removesuffix('e')}ed"
        numbers = [re.match(rf"{stage}: shard (\d)/4, (\d+) of (\d+) videos {done}, the rest", line) for line in lines]
        assert [found[1] for found in numbers if found] == ["1", "2", "3", "4"]
        for group in (2, 3):
            assert sum(int(found[group]) for found in numbers if found) == 60
        run_stage(stage)
        assert f"{stage}: 0 of 60 videos {done}, the rest was there; 0 old entries" in capsys.readouterr().out

    code, lines = sbatch("decode", "--config", "configs/toy.yaml")
    assert code == 0
    assert not any(path.is_file() for path in decoded)
    expect_parts("decode", lines)
    for number in (3, 1, 4, 2):
        run_stage("extract", "--shard", f"{number}/4")
    assert not extracted[1].exists()
    expect_parts("extract", sorted(capsys.readouterr().out.splitlines()))
    assert contents(*decoded, *extracted) == whole
