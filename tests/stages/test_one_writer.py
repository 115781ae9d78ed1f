"""Two processes of one stage: the second one waits a moment, and then says who writes."""

import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from pipeline.errors import StoreError
from pipeline.files import locked
from pipeline.stages import decode, extract, layout
from pipeline.stages.layout import Layout
from tests.conftest import ROOT, describe_toy, run_stage

TOY = Layout("toy")
# Stage: its options, and the folder it writes into.
STAGES = {
    "index": ([], TOY.root),
    "decode": ([], TOY.frames),
    "audit": ([], TOY.root),
    "finetune": ([], TOY.backbone("shared")),
    "extract": ([], TOY.features("shared")),
    "train": (["--task", "clip"], TOY.training("clip-rgb-fold1-seed0")),
    "evaluate": (["--task", "clip"], TOY.evaluation("clip-rgb-fold1-seed0")),
    "probe": (["--task", "clip"], TOY.probe("clip-rgb-fold1-seed0")),
    "fuse": (["--task", "clip"], TOY.evaluation("clip-fused-fold1-seed0")),
    "report": ([], TOY.root),
}


@pytest.fixture
def described(tmp_path, monkeypatch) -> Path:
    """A toy of which there is nothing but its description."""
    describe_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    for module in (layout, decode, extract):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    return tmp_path


def writing(folder: Path):
    """What a stage of this folder holds; the stores have their lock inside, where `lrcn store` looks for it."""
    return locked(folder) if folder in (TOY.frames, TOY.features("shared")) else TOY.writing(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_writer_is_told_who_the_first_is(described, stage):
    arguments, folder = STAGES[stage]
    begin = time.monotonic()
    with writing(folder), pytest.raises(StoreError, match=f"{folder}: process {os.getpid()} on .+ is writing there"):
        run_stage(stage, *arguments)
    assert time.monotonic() - begin >= 0.2
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_every_stage_of_dvc_is_tried_here():
    # Of `code`, which any experiment's run may start, two writers write the same.
    assert {*STAGES, "code"} == set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def test_the_command_exits_with_2(described, capsys):
    with TOY.writing(TOY.root):
        assert cli.main(["report", "--config", "configs/toy.yaml"]) == 2
    assert "lrcn report: artifacts/toy: process" in capsys.readouterr().err


def test_one_that_is_just_ending_is_waited_for(tmp_path):
    holder = ExitStack()
    holder.enter_context(locked(tmp_path))
    ending = threading.Timer(0.3, holder.close)
    ending.start()
    begin = time.monotonic()
    with locked(tmp_path, wait_seconds=10):
        assert time.monotonic() - begin > 0.2
    ending.join()


def test_different_trainings_run_at_once(described):
    with TOY.writing(TOY.training("clip-rgb-fold1-seed0")), TOY.writing(TOY.training("clip-rgb-fold1-seed1")):
        assert sorted(path.name for path in (TOY.root / "locks").iterdir()) == [
            "toy-trainings-clip-rgb-fold1-seed0", "toy-trainings-clip-rgb-fold1-seed1",
        ]  # fmt: skip
    assert list((TOY.root / "locks").iterdir()) == []


def test_of_torchruns_processes_the_first_holds_the_lock(described, monkeypatch):
    folder = TOY.training("clip-rgb-fold1-seed0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with TOY.writing(folder):
        with pytest.raises(StoreError, match="is writing there"):
            TOY.writing(folder).__enter__()
        monkeypatch.setenv("RANK", "1")
        with TOY.writing(folder):
            pass
