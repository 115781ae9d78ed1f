"""MLflow tracking: what arrives, what state a run ends in, and that a tracking server that is away stops nothing."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import trackingstore
from pipeline.errors import ModelError, TrackingError
from pipeline.metricnames import clean_names, flatten
from pipeline.models.modelfolder import Model
from pipeline.tracking import Run, ensure_database, tracking_uri
from tests.mlflowservers import silent_server

pytestmark = [
    pytest.mark.slow,
    # MLflow's own type hints (said when mlflow.pyfunc is imported) and its own use of SQLAlchemy.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What MLflow does not take is kept below the working folder."""
    before = dict(os.environ)
    for key in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        os.environ.pop(key, None)
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


def start(uri: str, **params: object) -> Run:
    return Run.start("demo", "clip-rgb-fold1-seed0", {"features.key": "k"}, params, uri, "What it is.")


def look(uri: str, run_id: str | None) -> Any:
    import mlflow

    return mlflow.MlflowClient(uri).get_run(run_id)


def artifact(uri: str, run_id: str | None, file: str) -> Path:
    return Path(next(Path(uri.removeprefix("sqlite:///")).parent.glob(f"mlruns/demo/{run_id}/artifacts/{file}")))


# Where runs are kept


def test_runs_are_kept_at_the_root_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", "/repository")  # set by DVC; the stage itself may run in a temporary copy
    assert tracking_uri(tmp_path) == "sqlite:////repository/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert tracking_uri(tmp_path) == "sqlite:////repository/other.db"
    for uri in ("sqlite:////elsewhere/x.db", "http://tracking.example:5000", "off"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert tracking_uri(tmp_path) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///:memory:",
        "sqlite://",
        "sqlite:///?x=1",
        "sqlite:///file:a?mode=memory&uri=true",
        "sqlite+pysqlite://",
    ],
)
def test_a_database_in_memory_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=rf"MLFLOW_TRACKING_URI is {re.escape(uri)}, a database that ends with"):
        tracking_uri(Path())


def test_a_relative_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(Path()) == f"sqlite:///{tmp_path}/mlflow.db"


def test_importing_the_module_loads_no_mlflow() -> None:
    code = "import sys, pipeline.tracking; sys.exit('mlflow' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_a_database_is_made_in_one_step(migrated: Path) -> None:
    names = {path.name for path in migrated.parent.iterdir()}
    assert names == {"mlflow.db", "mlflow.db.lock"}
    assert trackingstore._revision(migrated) == trackingstore._newest_revision()


def test_a_current_database_is_left_alone(own_uri: str) -> None:
    path = Path(own_uri.removeprefix("sqlite:///"))
    before = path.read_bytes()
    ensure_database(own_uri)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.before-*"))


def test_an_old_database_is_copied_before_it_is_upgraded(own_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(own_uri.removeprefix("sqlite:///"))
    upgraded: list[Path] = []
    monkeypatch.setattr(trackingstore, "_newest_revision", lambda: "a newer one")
    monkeypatch.setattr(trackingstore, "_migrate", upgraded.append)
    ensure_database(own_uri)
    assert upgraded == [path]
    (backup,) = path.parent.glob("mlflow.db.before-*")
    assert trackingstore._revision(backup) == trackingstore._revision(path)


def test_a_database_of_a_newer_mlflow_turns_tracking_off(own_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(own_uri.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with start(own_uri) as run:
        assert not run.is_live
    assert "ffffffffffff" in capsys.readouterr().err


# Names


def test_nested_values_are_flattened() -> None:
    nested = {"test": {"video": {"top1": 0.9, "ece": None}}, "folds": [1, 2]}
    assert flatten(nested) == {"test/video/top1": 0.9, "test/video/ece": None, "folds": [1, 2]}
    assert flatten({"train": {"lr": 0.1}}, ".") == {"train.lr": 0.1}


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("test/video/top1", "test/video/top1"),
        ("f1@10", "f1_10"),
        ("a//b/../c", "a/b/c"),
        ("走 1", "走 1"),
        ("", "unnamed"),
        ("x" * 300, "x" * 240),
    ],
)
def test_names_become_what_mlflow_takes(name: str, clean: str) -> None:
    assert clean_names([name]) == {name: clean}


def test_two_names_never_become_one() -> None:
    assert clean_names(["f1@10", "f1#10"]) == {"f1@10": "f1_10", "f1#10": "f1_10_2"}


# What arrives


def test_parameters_tags_and_curves_arrive(uri: str) -> None:
    with start(uri, train={"lr": 0.01, "cell": "lstm"}, folds=[1, 2]) as run:
        for epoch in range(3):
            run.log_epoch({"train_loss": 1.0 - 0.1 * epoch, "val@score": 0.5}, epoch)
    found = look(uri, run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "clip-rgb-fold1-seed0"
    assert found.data.params == {"train.lr": "0.01", "train.cell": "lstm", "folds": "[1, 2]"}
    assert found.data.tags["features.key"] == "k"
    assert found.data.tags["mlflow.note.content"] == "What it is."
    assert found.data.metrics["val_score"] == 0.5
    import mlflow

    history = mlflow.MlflowClient(uri).get_metric_history(run.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.9), (2, 0.8)]


def test_many_parameters_and_metrics_arrive(uri: str) -> None:
    with start(uri, **{f"p{number}": number for number in range(250)}) as run:
        run.log_metrics({f"m{number}": number for number in range(1200)})
    found = look(uri, run.run_id)
    assert len(found.data.params) == 250
    assert found.data.metrics["m1199"] == 1199


def test_numbers_that_are_none_are_left_out_and_named(uri: str) -> None:
    with start(uri) as run:
        run.log_epoch({"loss": float("nan"), "score": 0.5}, 0)
        run.log_metrics({"auc": None, "bound": float("inf")})
    found = look(uri, run.run_id)
    assert found.data.metrics == {"score": 0.5}
    assert found.data.tags["metrics.not_finite"] == "auc, bound, loss"


def test_system_metrics_arrive(uri: str) -> None:
    os.environ["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"] = "0.05"
    with start(uri) as run:
        for _ in range(100):
            time.sleep(0.05)
            if any(name.startswith("system/cpu") for name in look(uri, run.run_id).data.metrics):
                break
    assert "system/cpu_utilization_percentage" in look(uri, run.run_id).data.metrics


def test_samples_of_the_system_grow_rarer_as_a_run_grows_older(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(uri) as run:
        run.log_epoch({"loss": 1.0}, 0)
        assert run._sampler._monitor.sampling_interval == 1.0
        run._sampler._started -= 600
        run.log_epoch({"loss": 1.0}, 1)
        assert run._sampler._monitor.sampling_interval == pytest.approx(20, rel=0.05)
        run._sampler._monitor.sampling_interval = 0.0  # so that the thread ends now
        run._sampler._started -= 86400
        run.log_epoch({"loss": 1.0}, 2)
        assert run._sampler._monitor.sampling_interval == 60


def test_files_go_beside_the_database(uri: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    with start(uri) as run:
        run.log_text("text", "a/b.txt")
        run.log_dict({"x": 1}, "c.json")
        run.log_file(tmp_path / "report.html")
    assert artifact(uri, run.run_id, "a/b.txt").read_text() == "text"
    assert artifact(uri, run.run_id, "c.json").exists()
    assert artifact(uri, run.run_id, "report.html").exists()


def test_a_table_logged_again_replaces_the_first(uri: str) -> None:
    with start(uri) as run:
        run.log_table(pd.DataFrame({"video_id": ["a"], "score": [0.1]}), "predictions.json")
        run.log_table([{"video_id": "走", "score": None}], "predictions.json")
    table = json.loads(artifact(uri, run.run_id, "predictions.json").read_text())
    assert table == {"columns": ["video_id", "score"], "data": [["走", None]]}
    shown = json.loads(look(uri, run.run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "predictions.json", "type": "table"}]


def test_a_table_that_mlflow_cannot_show_is_refused(uri: str) -> None:
    with start(uri) as run, pytest.raises(ValueError, match=r"'predictions\.csv'; expected a name that ends in \.json"):
        run.log_table([{"a": 1}], "predictions.csv")


def test_the_files_of_a_folder_arrive_as_they_are(uri: str, tmp_path: Path) -> None:
    for name in ("ladder", "confusion"):
        (tmp_path / f"{name}.svg").write_text(f"<svg>{name} 走る</svg>")
    with start(uri) as run:
        run.log_folder(tmp_path, "figures")
    for name in ("ladder", "confusion"):
        assert artifact(uri, run.run_id, f"figures/{name}.svg").read_text() == f"<svg>{name} 走る</svg>"


def test_the_videos_table_is_recorded_with_a_digest_of_every_row(uri: str) -> None:
    table = pd.DataFrame({"video_id": ["a.mp4", "b.mp4"], "label": ["x", ""]})
    with start(uri) as run:
        run.log_dataset(table, "artifacts/demo/videos.csv", "demo", "training")
        run.log_dataset(table.assign(label=["x", "y"]), "artifacts/demo/videos.csv", "demo", "test")
    inputs = {entry.tags[0].value: entry.dataset for entry in look(uri, run.run_id).inputs.dataset_inputs}
    assert set(inputs) == {"training", "test"}
    assert inputs["training"].name == "demo"
    assert inputs["training"].digest != inputs["test"].digest


def test_the_videos_table_may_hold_a_name_that_is_no_utf_8(uri: str) -> None:
    with pd.option_context("mode.string_storage", "python"), start(uri) as run:
        run.log_dataset(pd.DataFrame({"video_id": ["caf\udce9.mp4"], "label": ["x"]}), "videos.csv", "demo", "training")
    (found,) = look(uri, run.run_id).inputs.dataset_inputs
    assert found.dataset.name == "demo"


def test_a_refused_value_is_said_and_the_rest_goes_on(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with start(uri) as run:
        run.set_tags({"what?": 1})
        run.log_metrics({"score": 0.5})
    assert "not logged: Invalid value" in capsys.readouterr().err
    assert look(uri, run.run_id).data.metrics == {"score": 0.5}


# How a run ends


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), "FAILED"),
        (SystemExit(2), "FAILED"),
        (SystemExit("message"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_a_run_says_how_it_ended(uri: str, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), start(uri) as run:  # noqa: PT012
        assert look(uri, run.run_id).info.status == "RUNNING"
        raise error
    assert look(uri, run.run_id).info.status == status


def test_a_training_goes_on_as_the_same_run(uri: str) -> None:
    with start(uri) as training:
        training.log_metrics({"val": 0.7, "lost": None})
    with Run.resume(training.run_id, uri, experiment="demo", name="clip-rgb-fold1-seed0") as evaluation:
        assert look(uri, training.run_id).info.status == "RUNNING"
        evaluation.log_metrics({"test/video/top1": 0.9, "auc": None})
    found = look(uri, training.run_id)
    assert evaluation.run_id == training.run_id
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"val": 0.7, "test/video/top1": 0.9}
    assert found.data.tags["metrics.not_finite"] == "auc, lost"


def test_a_training_lasts_as_long_as_it_trained(uri: str) -> None:
    with start(uri) as training:
        pass
    ended = look(uri, training.run_id).info.end_time
    with Run.resume(training.run_id, uri, experiment="demo", name="clip-rgb-fold1-seed0") as evaluation:
        time.sleep(0.002)  # MLflow counts milliseconds
        evaluation.log_metrics({"test/top1": 0.9})
    found = look(uri, training.run_id).info
    assert (found.status, found.end_time) == ("FINISHED", ended)


def test_a_description_that_was_edited_stays(uri: str) -> None:
    import mlflow

    for text in ("top1 0.8", "top1 0.9"):
        with Run.start("demo", "report", {}, {}, uri, text, key="e" * 32) as run:
            pass
        assert look(uri, run.run_id).data.tags["mlflow.note.content"] == text
    mlflow.MlflowClient(uri).set_tag(run.run_id, "mlflow.note.content", "Fold 3 has mislabelled videos.")
    with Run.start("demo", "report", {"fold": 2}, {}, uri, "top1 0.95", key="e" * 32):
        pass
    tags = look(uri, run.run_id).data.tags
    assert (tags["mlflow.note.content"], tags["fold"]) == ("Fold 3 has mislabelled videos.", "2")


def test_a_run_that_is_gone_is_replaced(uri: str) -> None:
    import mlflow

    with start(uri) as deleted:
        pass
    mlflow.MlflowClient(uri).delete_run(deleted.run_id)
    for missing in (deleted.run_id, "0123456789abcdef0123456789abcdef"):
        with Run.resume(missing, uri, experiment="demo", name="clip-rgb-fold1-seed0") as run:
            assert run.run_id != missing
        assert look(uri, run.run_id).data.tags["replaces_run"] == missing
    with Run.resume(None, uri, experiment="demo", name="clip-rgb-fold1-seed0") as run:
        assert run.is_live


# Tracking that is away


def use_everything(run: Run, root: Path) -> None:
    folder = root / "logged"
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text("a")
    run.log_epoch({"loss": 1.0}, 0)
    run.log_metrics({"loss": None})
    run.set_tags({"a": 1})
    run.log_table([{"a": 1}], "t.json")
    run.log_folder(folder, "figures")
    run.log_text("x", "t.txt")
    run.log_dict({}, "d.json")
    run.log_file(folder / "a.txt")
    run.log_dataset(pd.DataFrame({"a": ["1"]}), "s", "n", "test")
    assert run.log_model(folder) is None


def test_tracking_can_be_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start("off", lr=0.1) as run:
        use_everything(run, tmp_path)
    with Run.resume("x", "off", experiment="demo", name="n") as resumed:
        assert resumed.run_id == "x"
    assert run.run_id is None
    assert re.fullmatch("[0-9a-f]{32}", str(run.facts["key"]))
    assert not (tmp_path / "mlruns_unsent").exists()
    assert capsys.readouterr().err == ""


def test_a_server_that_is_away_is_reported_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start(f"http://me:secret@127.0.0.1:{port}") as run:
        use_everything(run, tmp_path)
    assert run.run_id is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"http://127.0.0.1:{port}: no answer from the server" in lines[0]
    assert "secret" not in lines[0]


def test_a_server_lost_in_the_middle_is_reported_once(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow

    def fail(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("API request failed")

    with start(uri) as run:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail)
        use_everything(run, tmp_path)
        assert run.run_id
        assert not run.is_live
    # On a busy machine MLflow's own monitor has time for lines of its own.
    own = [line for line in capsys.readouterr().err.splitlines() if "INFO mlflow" not in line]
    assert len(own) == 1


def test_mistakes_of_our_own_are_not_hidden(uri: str) -> None:
    with pytest.raises(TypeError, match="int"), start(uri) as run:
        run.log_text(1, "t.txt")  # type: ignore[arg-type]
    assert look(uri, run.run_id).info.status == "FAILED"


def test_a_server_that_never_answers_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trackingstore.PROBE_SECONDS <= 5
    monkeypatch.setattr(trackingstore, "PROBE_SECONDS", 0.2)
    with silent_server() as (port, taken):
        with start(f"http://127.0.0.1:{port}") as run:
            use_everything(run, tmp_path)
        assert len(taken) == 1
    assert "no answer from the server" in capsys.readouterr().err


def test_a_server_that_falls_silent_is_tried_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = trackingstore.SETTINGS
    attempts = 1 + int(settings["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    waits = int(settings["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + int(settings["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"])
    assert attempts * waits < 10
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with silent_server(answers=1) as (port, taken):
        with start(f"http://127.0.0.1:{port}") as run:
            use_everything(run, tmp_path)
        assert len(taken) == 1 + attempts
    assert capsys.readouterr().err.count("\n") == 1


# Several at once

STARTS = """
import sys, time
from pathlib import Path
from pipeline.tracking import Parent, Run, tracking_uri
gate = Path(sys.argv[1])
(gate / sys.argv[2]).touch()
while len(list(gate.iterdir())) < 3: time.sleep(0.01)
parent = Parent("p" * 32, "demo", {"lrcn.kind": "experiment"})
with Run.start("demo", sys.argv[2], {}, {}, tracking_uri(Path(sys.argv[3])), parent=parent) as run:
    for epoch in range(20): run.log_epoch({"loss": float(epoch)}, epoch)
sys.exit(0 if run.run_id else 1)
"""


def test_several_first_starts_at_once(tmp_path: Path) -> None:
    gate, root = tmp_path / "gate", tmp_path / "root"
    gate.mkdir()
    arguments = [sys.executable, "-P", "-c", STARTS, str(gate)]
    started = [subprocess.Popen([*arguments, name, str(root)]) for name in "abcd"]
    assert [process.wait(timeout=300) for process in started] == [0, 0, 0, 0]
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("demo").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`lrcn.kind` = 'experiment'")
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys("abcd", "FINISHED")
    assert [len(client.get_metric_history(run.info.run_id, "loss")) for run in runs] == [20] * 4


# Models


@pytest.mark.parametrize("task", ["clip", "frame"])
def test_a_logged_model_loads_without_pickle_and_answers_rows(
    uri: str, make_model: Callable[..., Model], task: str
) -> None:
    import mlflow

    model = make_model(task)
    assert model.folder
    with start(uri, lr=0.1) as run:
        run.log_epoch({"val_loss": 0.9}, 0)
        run.log_epoch({"val_loss": 0.4}, 1)
        name = run.log_model(model.folder, epoch=1)
        assert "MLFLOW_TRACKING_URI" not in os.environ
    assert name

    client = mlflow.MlflowClient(uri)
    experiment = look(uri, run.run_id).info.experiment_id
    (logged,) = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run.run_id}'")
    assert (logged.status, logged.source_run_id, logged.params) == ("READY", run.run_id, {"lr": "0.1"})
    assert [(metric.key, metric.value) for metric in logged.metrics] == [("val_loss", 0.4)]
    folder = Path(client.list_logged_model_artifacts(logged.model_id)[0].path)
    assert not list(folder.rglob("*.pkl"))

    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    with trackingstore.current(uri):
        loaded = mlflow.pyfunc.load_model(name)
    videos = [np.random.default_rng(0).normal(size=(steps, 5)).astype(np.float32) for steps in (7, 40)]
    records = loaded.predict(
        pd.DataFrame({"features": [video.tolist() for video in videos]}), params={"timesteps": task == "frame"}
    )
    for record, video in zip(records, videos, strict=True):
        expected = model.predict_features(video)
        if task == "clip":
            np.testing.assert_allclose(list(record["scores"].values()), expected, atol=1e-6)
        else:
            np.testing.assert_allclose(record["probabilities"], expected, atol=1e-6)
    with pytest.raises(mlflow.MlflowException, match=r"row 0: features are of shape \(1, 6\); expected .*\(T, 5\)"):
        loaded.predict(pd.DataFrame({"features": [[[0.0] * 6]]}))
    with pytest.raises(mlflow.MlflowException, match="precision"):
        loaded.predict(pd.DataFrame({"features": [videos[0].tolist()]}), params={"precision": "high"})


def test_a_model_can_be_registered(uri: str, make_model: Callable[..., Model]) -> None:
    import mlflow

    folder = make_model("clip").folder
    assert folder
    with start(uri) as run:
        run.log_model(folder, registered_name="demo-clip")
    (version,) = mlflow.MlflowClient(uri, uri).search_model_versions("name='demo-clip'")
    assert (version.version, version.run_id) in [(1, run.run_id), ("1", run.run_id)]


def test_serving_refuses_a_damaged_folder(make_model: Callable[..., Model]) -> None:
    from mlflow.pyfunc.model import PythonModelContext

    from pipeline.serving import RecognizerModel

    folder = make_model("clip").folder
    assert folder
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="SHA-256 is not the one"):
        RecognizerModel().load_context(PythonModelContext({"model": str(folder)}, None))


def test_a_server_gives_a_video_no_longer_than_a_request_may_take(
    make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.pyfunc.model import PythonModelContext

    from pipeline.serving import RecognizerModel

    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "45")
    served = RecognizerModel()
    served.load_context(PythonModelContext({"model": str(make_model("clip").folder)}, None))
    assert served._served._recognizer._limits.seconds_per_file == 45
