"""A team's tracking server, with the documented command: trainings at once, artifacts through it, a promoted model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import pytest

from pipeline import cli
from pipeline.trackingstore import answers
from tests.mlflowruns import add_run, scores
from tests.mlflowservers import PASSWORD, mlflow_server, postgres

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
NAME = "toy-clip-rgb"


class Server(NamedTuple):
    """A running server: its address, its folder."""

    uri: str
    folder: Path


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "srv"
    folder.mkdir()
    sqlite = nullcontext(f"sqlite:///{folder}/mlflow.db")
    with postgres() if request.param == "postgresql" else sqlite as database, mlflow_server(folder, database) as uri:
        assert answers(database)
        yield Server(uri, folder)
    assert PASSWORD not in (folder / "server.log").read_text()


def two_train_at_once(server: Server, toy: Path, monkeypatch: pytest.MonkeyPatch) -> "dict[str, Run]":
    """The runs by name, as the server has them."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    config = toy / "configs/toy.yaml"
    config.write_text(
        config.read_text().replace("frame: {hidden_size: 32, epochs: 30", "frame: {hidden_size: 32, epochs: 3")
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.cli", "train", "--config", "configs/toy.yaml", "--task", task],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for task in ("clip", "frame")
    ]  # fmt: skip
    outputs = [process.communicate(timeout=180)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert not any("tracking:" in output for output in outputs), outputs

    client = mlflow.MlflowClient(server.uri, server.uri)
    experiment = client.get_experiment_by_name("toy")
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    (parent,) = (run for run in runs.values() if run.data.tags["lrcn.kind"] == "experiment")
    names = ["clip-rgb-fold1-seed0", "frame-rgb-fold1-seed0"]
    assert sorted(runs) == [*names, f"toy {parent.data.tags['lrcn.settings'][:8]}"]
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in names} == {parent.info.run_id}
    assert parent.data.params["train.clip.hidden_size"] == "32"  # before there is a report
    assert "mlflow.sharedViewState.scores" in experiment.tags
    for name in ("clip-rgb-fold1-seed0", "frame-rgb-fold1-seed0"):
        run_id = runs[name].info.run_id
        assert runs[name].info.status == "FINISHED"
        epochs = pd.read_csv(toy / f"artifacts/toy/histories/{name}.csv")
        assert [point.value for point in client.get_metric_history(run_id, "val_loss")] == epochs["val_loss"].tolist()
        stored = next((server.folder / "artifacts").rglob(f"{run_id}/artifacts/config.yaml"))
        assert "hidden_size: 32" in stored.read_text()
    return runs


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_two_train_at_once_on_sqlite(server: Server, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_train_at_once(server, toy, monkeypatch)


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_two_train_at_once_and_the_better_model_is_predicted_with(
    server: Server, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs = two_train_at_once(server, toy, monkeypatch)
    client = mlflow.MlflowClient(server.uri, server.uri)
    assert cli.main(["evaluate", "--config", "configs/toy.yaml", "--task", "clip"]) == 0
    training = "artifacts/toy/trainings/clip-rgb-fold1-seed0"
    capsys.readouterr()
    # Right of all 8 videos; but these are of 4 people, too few to tell it from a forest on file properties.
    assert cli.main(["promote", training, "--as", "champion"]) == 1
    out, err = capsys.readouterr()
    assert [line.split("`")[1] for line in out.splitlines() if line.startswith("  FAIL")] == [
        "file properties alone (size, rate, light, ...)"
    ]
    assert "champion stays with nobody" in err
    assert client.search_registered_models() == []
    # The same model with scores of more people.
    better = add_run(
        client, experiment="toy", files={"metrics.json": scores()}, model=Path(training, "model").absolute()
    )
    assert cli.main(["promote", better, "--as", "champion"]) == 0
    out, err = capsys.readouterr()
    assert f"promote: {NAME} version 1 is champion (before: nobody)" in out
    assert err == ""
    address = ["--model", f"models:/{NAME}@champion"]
    assert cli.main(["predict", "media/toy/left/g00.mp4", *address, "--out", str(tmp_path / "out")]) == 0
    (answer,) = map(json.loads, (tmp_path / "out/predictions.jsonl").read_text().splitlines())
    assert answer["label"] == "left"
    fetched = [path.read_bytes() for path in (tmp_path / "cache").rglob("model.safetensors")]
    assert fetched == [Path(training, "model/model.safetensors").read_bytes()] * 2  # of both runs, through the server

    capsys.readouterr()
    assert cli.main(["runs", "list", "--json"]) == 0
    listed = {line["run_id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed[runs["clip-rgb-fold1-seed0"].info.run_id]["score"] == 1.0
    assert listed[runs["frame-rgb-fold1-seed0"].info.run_id]["score"] is None
    assert cli.main(["doctor"]) in (0, 2)
    assert f"tracking: {server.uri}: MLflow {mlflow.__version__}" in capsys.readouterr().out
