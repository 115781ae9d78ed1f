"""The train stage as people run it: stopped and started again, on several processes."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import run_stage

COMMAND = [sys.executable, "-P", "-m", "pipeline.cli", "train", "--config", "configs/toy.yaml"]
FOLDER = Path("artifacts/toy/trainings/clip-rgb-fold1-seed0")
CHECKPOINTS = Path("artifacts/toy/checkpoints")
LONG = "clip: {hidden_size: 32, epochs: 60, lr: 0.003, batch_size: 8, dropout: 0.3, patience: 60, schedule: constant}"


def configure(text: str) -> None:
    """Other settings of the clip task."""
    path = Path("configs/toy.yaml")
    lines = path.read_text().split("\n")
    path.write_text("\n".join("  " + text if line.startswith("  clip:") else line for line in lines))


def weights() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "model/model.safetensors")


def history() -> list[dict[str, str]]:
    with (Path("artifacts/toy/histories/clip-rgb-fold1-seed0.csv")).open(newline="") as file:
        return list(csv.DictReader(file))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **more}


def kill_at_a_checkpoint(code: str) -> None:
    """Train the clip task by a command that begins with some code, and kill it when there is a checkpoint."""
    arguments = [sys.executable, "-c", code, *COMMAND[4:], "--task", "clip"]
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(CHECKPOINTS.glob("clip-rgb-fold1-seed0-*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_identical_model(toy, capsys):
    configure(LONG)
    run_stage("train", "--task", "clip")
    expected, rows = weights(), history()
    # Every epoch is saved and takes a while, so that the kill comes in the middle.
    slow = (
        "import sys, time; from pipeline.training import loop; loop.CHECKPOINT_SECONDS = 0.0; whole = loop.validate\n"
        "def validate(*a):\n    time.sleep(0.1); return whole(*a)\n"
        "loop.validate = validate\n"
        "from pipeline.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    kill_at_a_checkpoint(slow)
    assert len(list(CHECKPOINTS.glob("*.safetensors"))) == 1
    capsys.readouterr()
    run_stage("train", "--task", "clip")
    assert "begins anew" not in capsys.readouterr().out
    assert not list(CHECKPOINTS.glob("*.safetensors"))
    assert history() == rows
    for name, tensor in expected.items():
        assert torch.equal(tensor, weights()[name]), name


@pytest.mark.slow
def test_two_processes_train_what_one_does(toy):
    configure(LONG.replace("dropout: 0.3", "dropout: 0.0").replace("epochs: 60", "epochs: 4"))
    run_stage("train", "--task", "clip")
    expected, rows = weights(), history()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", *COMMAND[3:], "--task", "clip"]
    done = subprocess.run(
        command, env=environment(GLOO_SOCKET_IFNAME="lo"), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train: toy clip-rgb-fold1-seed0") == 1
    for name, tensor in expected.items():
        torch.testing.assert_close(weights()[name], tensor, atol=1e-5, rtol=0)
    for found, one in zip(history(), rows, strict=True):
        assert float(found["val_loss"]) == pytest.approx(float(one["val_loss"]), abs=1e-5)


@pytest.mark.slow
def test_how_far_the_gradients_reach_is_written(built_toy):
    with (built_toy / FOLDER / "gradients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["distance_steps", "before_training", "after_training"]
    assert [int(row["distance_steps"]) for row in rows] == list(range(len(rows)))
    assert all(float(row["before_training"]) > 0 and float(row["after_training"]) > 0 for row in rows)
    assert float(rows[-1]["before_training"]) < float(rows[0]["before_training"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
def test_a_killed_training_goes_on_in_its_mlflow_run(toy, monkeypatch):
    """The server is away until after the kill; the curve is whole, and every epoch is on it once."""
    import mlflow

    from pipeline.trackingunsent import deliver_unsent

    configure(LONG)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    slow = (
        "import sys, time; from pipeline.training import loop; loop.CHECKPOINT_SECONDS = 0.5\n"
        "whole = loop.Examiner.examine\n"
        "def examine(self):\n    time.sleep(0.1); return whole(self)\n"
        "loop.Examiner.examine = examine\n"
        "from pipeline.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    kill_at_a_checkpoint(slow)
    (waiting,) = Path("mlruns_unsent").iterdir()
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    assert "delivered" in deliver_unsent(Path("mlruns_unsent"), uri)[-1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(uri)
    trainings = [client.get_experiment_by_name("toy").experiment_id], "tags.`lrcn.kind` = 'training'"
    (found,) = client.search_runs(*trainings)
    assert (found.info.status, found.data.tags["lrcn.key"]) == ("KILLED", waiting.name)
    before = client.get_metric_history(found.info.run_id, "val_loss")
    assert before
    run_stage("train", "--task", "clip")
    (run,) = client.search_runs(*trainings)
    assert (run.info.run_id, run.info.status) == (found.info.run_id, "FINISHED")
    curve = client.get_metric_history(run.info.run_id, "val_loss")
    assert [point.step for point in curve] == list(range(1, 61))
    assert [point.timestamp for point in curve[: len(before)]] == [point.timestamp for point in before]
    assert [point.value for point in curve] == pytest.approx([float(row["val_loss"]) for row in history()])
    assert not list(CHECKPOINTS.iterdir())
