"""Runs that MLflow could not take: all of them arrives later, once, whatever happened to the process or the server."""

import base64
import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest

from pipeline import trackingclient, trackingstore
from pipeline.config import load_experiment
from pipeline.models.modelfolder import Model
from pipeline.tracking import Parent, Run
from pipeline.trackingclient import while_it_answers
from pipeline.trackingevents import Away, Receiver
from pipeline.trackingstore import answers
from pipeline.trackingunsent import deliver_unsent, unsent_keys
from tests.conftest import ROOT
from tests.mlflowservers import Relay, postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PARENT = Parent(
    "p" * 32, "demo pppppppp", {"lrcn.kind": "experiment", "dataset": "d"}, {"train.lr": "0.1"}, ["metrics.`test/top1`"]
)
EPOCHS = 5


@pytest.fixture(autouse=True)
def unsent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs wait: below the working folder, which is the test's own."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mlruns_unsent"


@pytest.fixture
def away() -> str:
    """The address of a server that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://me:secret@127.0.0.1:{free.getsockname()[1]}"


def client(uri: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(uri, uri)


def runs(uri: str, kind: str = "training") -> list[Any]:
    found = client(uri).get_experiment_by_name("demo")
    return list(client(uri).search_runs([found.experiment_id], f"tags.`lrcn.kind` = '{kind}'")) if found else []


def start(uri: str, **more: Any) -> Run:
    tags = {"lrcn.kind": "training", "fold": 1}
    return Run.start("demo", "clip-rgb-fold1-seed0", tags, {"lr": 0.1}, uri, "About.", parent=PARENT, **more)


def log_all(run: Run, folder: Path, model: Path | None = None) -> None:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "figures/a.svg").write_text("<svg>走</svg>")
    (folder / "metrics.json").write_text('{"a": 1}')
    for epoch in range(1, EPOCHS + 1):
        run.log_epoch({"val_loss": 1 / epoch, "lr": 0.1}, epoch)
    run.log_metrics({"test/top1": 0.9, "test/auc": None})
    run.log_table([{"class": "走", "f1": 0.5}], "per_class.json")
    run.log_dict({"train": {"lr": 0.1}}, "config.yaml")
    run.log_file(folder / "metrics.json")
    run.log_folder(folder / "figures", "figures")
    run.log_dataset(pd.DataFrame({"video_id": ["a"]}), "videos.csv", "train", "train")
    if model:
        run.log_model(model, epoch=2)
    run.set_tags({"model.sha256": "abc"})


def check_all(uri: str, run: Any, status: str = "FINISHED") -> None:
    """Everything that `log_all` logs is there, once."""
    import yaml

    history = client(uri).get_metric_history(run.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == [(n, 1 / n) for n in range(1, EPOCHS + 1)]
    assert run.info.start_time <= history[0].timestamp <= history[-1].timestamp <= run.info.end_time
    assert (run.info.run_name, run.info.status) == ("clip-rgb-fold1-seed0", status)
    own = {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
    assert own == {"val_loss": 1 / EPOCHS, "lr": 0.1, "test/top1": 0.9}
    assert run.data.params == {"lr": "0.1"}
    tags = run.data.tags
    assert (tags["fold"], tags["model.sha256"], tags["metrics.not_finite"]) == ("1", "abc", "test/auc")
    assert tags["mlflow.note.content"] == "About."
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["train"]
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (root / "figures/a.svg").read_text() == "<svg>走</svg>"
    assert (root / "metrics.json").read_bytes() == b'{"a": 1}'
    assert yaml.safe_load((root / "config.yaml").read_text()) == {"train": {"lr": 0.1}}
    assert (root / "per_class.json").exists()
    assert tags["mlflow.loggedArtifacts"] == '[{"path": "per_class.json", "type": "table"}]'
    (parent,) = runs(uri, "experiment")
    assert tags["mlflow.parentRunId"] == parent.info.run_id


def own_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What this package said; MLflow's sampling thread may add lines where its log level was set by another test."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("tracking: ")]


def test_a_run_without_a_server_arrives_later_as_it_was(
    away: str, own_uri: str, unsent: Path, tmp_path: Path, make_model: Callable[..., Model], capsys: Any
) -> None:
    model = make_model("clip").folder
    assert model
    with start(away) as run:
        log_all(run, tmp_path / "out", model)
        shutil.rmtree(tmp_path / "out")  # as the next `dvc repro` does
        (model / "model.safetensors").rename(tmp_path / "moved")
    assert run.run_id is None
    assert unsent_keys(unsent) == [run.key]
    said = capsys.readouterr().err
    assert "secret" not in said
    assert f"kept in {unsent / run.key}, `lrcn runs sync` sends it" in said
    (line,) = deliver_unsent(unsent, own_uri)
    (found,) = runs(own_uri)
    assert line == f"demo/clip-rgb-fold1-seed0: delivered, run {found.info.run_id}"
    assert found.data.tags["lrcn.key"] == run.key
    check_all(own_uri, found)
    assert len(found.outputs.model_outputs) == 1
    (point,) = client(own_uri).get_logged_model(found.outputs.model_outputs[0].model_id).metrics[:1]
    assert (point.key, point.step) in [("val_loss", 2), ("lr", 2)]
    assert not unsent.exists()
    assert deliver_unsent(unsent, own_uri) == [f"{unsent}: nothing waits to be sent"]


def test_what_is_delivered_twice_is_there_once(
    away: str, own_uri: str, unsent: Path, tmp_path: Path, make_model: Callable[..., Model]
) -> None:
    with start(away) as run:
        log_all(run, tmp_path / "out", make_model("clip").folder)
    shutil.copytree(unsent, tmp_path / "again")
    for folder in (unsent, tmp_path / "again"):
        (line,) = deliver_unsent(folder, own_uri)
        assert "delivered" in line
    (found,) = runs(own_uri)
    check_all(own_uri, found)
    assert len(found.outputs.model_outputs) == 1


def test_a_server_lost_in_the_middle_loses_nothing(
    own_uri: str, unsent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import mlflow

    whole, calls = mlflow.MlflowClient.log_batch, []

    def fail_later(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise mlflow.MlflowException("API request failed")
        return whole(*arguments, **more)

    with start(own_uri) as run, monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "log_batch", fail_later)
        log_all(run, tmp_path / "out")
        assert not run.is_live
    assert capsys.readouterr().err.count("API request failed; what follows of this run is kept in") == 1
    assert runs(own_uri)[0].info.status == "RUNNING"
    (line,) = deliver_unsent(unsent, own_uri)
    assert line.endswith(f"delivered, run {run.run_id}")
    (found,) = runs(own_uri)
    check_all(own_uri, found)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_trackingunsent import log_all, start
run = start(sys.argv[1])
log_all(run, Path("out"))
with open(run._session.folder / "events.jsonl", "a") as file: file.write('{"kind": "metrics", "values": [["val_l')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_kept_arrives_up_to_its_last_whole_line(away: str, own_uri: str, unsent: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", KILLED, away], env=environment, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (line,) = deliver_unsent(unsent, own_uri)
    assert "delivered" in line
    (found,) = runs(own_uri)
    check_all(own_uri, found, "KILLED")


def test_a_run_that_is_being_written_is_left_to_its_process(away: str, own_uri: str, unsent: Path) -> None:
    with start(away):
        (line,) = deliver_unsent(unsent, own_uri)
        assert f"process {os.getpid()} on {socket.gethostname()} is writing there" in line
        assert not runs(own_uri)
    deliver_unsent(unsent, own_uri)
    assert runs(own_uri)[0].info.status == "FINISHED"


def test_what_follows_a_run_that_waits_waits_behind_it(
    away: str, own_uri: str, unsent: Path, tmp_path: Path, capsys: Any
) -> None:
    with start(away) as training:
        training.log_epoch({"val_loss": 1.0}, 1)
    with start(own_uri):
        pass
    assert f"1 run(s) wait in {unsent}; `lrcn runs sync` sends them" in capsys.readouterr().err
    facts = training.facts
    assert facts["run_id"] is None
    names = {"experiment": "demo", "name": "clip-rgb-fold1-seed0"}
    with Run.resume(None, own_uri, key=training.key, **names) as evaluation:
        assert not evaluation.is_live
        evaluation.log_metrics({"test/top1": 0.9})
    assert "what came before waits to be sent; what follows" in capsys.readouterr().err
    assert len(list((unsent / training.key).iterdir())) == 2
    assert len(deliver_unsent(unsent, own_uri)) == 2
    (found,) = [run for run in runs(own_uri) if run.data.tags["lrcn.key"] == training.key]
    assert (found.data.metrics, found.info.status) == ({"val_loss": 1.0, "test/top1": 0.9}, "FINISHED")
    assert found.data.params == {"lr": "0.1"}
    with Run.resume(None, own_uri, key=training.key, **names) as probe:
        assert probe.run_id == found.info.run_id


def test_tags_of_a_run_that_waits_wait_behind_it(away: str, own_uri: str, unsent: Path, capsys: Any) -> None:
    with start(away) as training:
        training.log_epoch({"val_loss": 1.0}, 1)
    with Run.start("demo", PARENT.name, PARENT.tags, {}, own_uri, key=PARENT.key) as report:
        report.log_metrics({"clip/rgb/top1": 0.9})
        report.set_tags_of(training.facts, {"dvc.lock.sha256": "abc"})
        report.log_metrics({"clip/rgb/recall": 0.8})
    assert "clip-rgb-fold1-seed0 waits to be sent; what follows of this run is kept in" in capsys.readouterr().err
    deliver_unsent(unsent, own_uri)
    assert not unsent.exists()
    (found,), (parent,) = runs(own_uri), runs(own_uri, "experiment")
    assert found.data.tags["dvc.lock.sha256"] == "abc"
    assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.metrics == {"clip/rgb/top1": 0.9, "clip/rgb/recall": 0.8}


def test_what_mlflow_refuses_is_said_and_left_out(away: str, own_uri: str, unsent: Path) -> None:
    with start(away) as run:
        run.set_tags({"what?": 1})
        run.log_metrics({"score": 0.5})
    refused, delivered = deliver_unsent(unsent, own_uri)
    assert "clip-rgb-fold1-seed0: not logged: Invalid" in refused
    assert delivered.endswith("but for 1 event(s)")
    assert runs(own_uri)[0].data.metrics == {"score": 0.5}
    assert not unsent.exists()


def test_delivery_ends_at_the_first_run_that_is_not_taken(
    away: str, own_uri: str, unsent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        with start(away, key=f"{number}" * 32) as run:
            run.log_metrics({"number": number})
    (line,) = deliver_unsent(unsent, away)
    assert "no answer from the server; 3 run(s) wait in" in line
    assert "secret" not in line
    assert "3 run(s) wait, but MLFLOW_TRACKING_URI is `off`" in deliver_unsent(unsent, "off")[0]
    whole = Receiver.deliver

    def deliver(self: Receiver, event: Any) -> Any:
        if event.get("key") == "1" * 32:
            raise Away("it died")
        return whole(self, event)

    with monkeypatch.context() as patched:
        patched.setattr(Receiver, "deliver", deliver)
        first, second = deliver_unsent(unsent, own_uri)
    assert "delivered" in first
    assert "it died; 2 run(s) wait in" in second
    assert unsent_keys(unsent) == ["1" * 32, "2" * 32]
    deliver_unsent(unsent, own_uri)
    assert sorted(run.data.metrics["number"] for run in runs(own_uri)) == [0, 1, 2]


def test_a_damaged_line_is_said(away: str, own_uri: str, unsent: Path) -> None:
    with start(away) as run:
        run.log_metrics({"score": 0.5})
    (file,) = unsent.glob("*/*/events.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:-1], b"\x00\x00\n", lines[-1]]))
    damaged, _ = deliver_unsent(unsent, own_uri)
    assert "clip-rgb-fold1-seed0: 1 line(s) of its events.jsonl were damaged; what they said is lost" in damaged
    (found,) = runs(own_uri)
    assert (found.data.metrics, found.info.status) == ({"score": 0.5}, "FINISHED")


def test_what_does_not_say_where_it_belongs_is_kept(away: str, own_uri: str, unsent: Path) -> None:
    with start(away) as run:
        run.log_metrics({"score": 0.5})
    (file,) = unsent.glob("*/*/events.jsonl")
    file.write_bytes(b"\x00" + file.read_bytes())
    (line,) = deliver_unsent(unsent, own_uri)
    assert f"not delivered yet: {file}: its first line is damaged" in line
    assert unsent_keys(unsent) == [run.key]


def test_a_run_that_is_refused_holds_up_no_other(away: str, own_uri: str, unsent: Path) -> None:
    for experiment in ("deleted", "demo"):
        with Run.start(experiment, "clip-rgb-fold1-seed0", {"lrcn.kind": "training"}, {}, away) as run:
            run.log_metrics({"score": 0.5})
    store = client(own_uri)
    store.delete_experiment(store.create_experiment("deleted"))
    refused, delivered = deliver_unsent(unsent, own_uri)
    assert "not delivered yet: deleted/clip-rgb-fold1-seed0 is refused (The experiment 1 must be in" in refused
    assert "demo/clip-rgb-fold1-seed0: delivered" in delivered
    assert len(unsent_keys(unsent)) == 1
    store.restore_experiment("1")
    assert len(deliver_unsent(unsent, own_uri)) == 1
    assert not unsent.exists()


@pytest.mark.parametrize("uri", ["nosuch://x", "./mlruns"])
def test_an_address_that_is_none_delivers_nothing(uri: str, away: str, unsent: Path) -> None:
    with start(away):
        pass
    (line,) = deliver_unsent(unsent, uri)
    assert line.startswith(f"{uri}: ")
    assert "1 run(s) wait in" in line


def test_where_nothing_can_be_kept_the_stage_goes_on(away: str, unsent: Path, tmp_path: Path, capsys: Any) -> None:
    unsent.write_text("a file in its place")
    with start(away) as run:
        log_all(run, tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "nor can it be kept" in lines[1]


# Addresses that are wrong


class Other(http.server.BaseHTTPRequestHandler):
    """A server that is no MLflow: every answer has the status that its address begins with."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"what")

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("case", ["scheme", "no database", "no folder", "404", "500", "postgresql"])
def test_a_wrong_address_costs_a_line_and_no_event(
    case: str, other: str, own_uri: str, unsent: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("this is no database, and no folder either")
    uris = {
        "scheme": "nosuch://x",
        "no database": f"sqlite:///{tmp_path}/file",
        "no folder": f"sqlite:///{tmp_path}/file/mlflow.db",
        "postgresql": "postgresql://me:secret@127.0.0.1:9/x",
    }
    with start(uris.get(case, f"{other}/{case}")) as run:
        log_all(run, tmp_path / "out")
        assert not run.is_live
    (line,) = capsys.readouterr().err.splitlines()
    assert "what follows of this run is kept in" in line
    assert "secret" not in line
    deliver_unsent(unsent, own_uri)
    check_all(own_uri, runs(own_uri)[0])


@pytest.mark.parametrize("kind", ["postgresql+psycopg2", "mysql+pymysql"])
def test_a_database_server_that_says_nothing_is_away(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackingstore, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"{kind}://me@127.0.0.1:{server.getsockname()[1]}/mlflow"
        assert not answers(uri)
        connection, _ = server.accept()  # of the first question
        connection.close()

        def answer() -> None:
            taken, _ = server.accept()
            with taken:
                taken.sendall(b"N")
                while taken.recv(100):  # until it is closed at the other end
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        assert answers(uri)
        thread.join()


# Runs that go on, and their parents


def test_a_training_that_goes_on_is_one_run_with_one_curve(own_uri: str, tmp_path: Path) -> None:
    memory = tmp_path / "checkpoints/clip.run.jsonl"
    stopped = start(own_uri, memory=memory)
    for epoch in (1, 2, 3):
        stopped.log_epoch({"val_loss": 1 / epoch}, epoch)
    with memory.open("a") as file:
        file.write('{"step": 9, "ti')  # the process was killed
    with start(own_uri, memory=memory) as run:
        assert (run.run_id, run.key) == (stopped.run_id, stopped.key)
        for epoch in (1, 2, 3, 4):
            run.log_epoch({"val_loss": 1 / epoch}, epoch)
    (found,) = runs(own_uri)
    assert found.info.status == "FINISHED"
    history = client(own_uri).get_metric_history(run.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == [(n, 1 / n) for n in (1, 2, 3, 4)]


def test_parameters_that_changed_are_said(own_uri: str, tmp_path: Path, capsys: Any) -> None:
    start(own_uri, memory=tmp_path / "memory")
    with Run.start(
        "demo", "clip-rgb-fold1-seed0", {}, {"lr": 0.1, "folds": [1]}, own_uri, memory=tmp_path / "memory"
    ) as run:
        pass
    with Run.start("demo", "n", {}, {"folds": [1, 2], "new": 1}, own_uri, memory=tmp_path / "memory"):
        pass
    assert "so it keeps others than folds = [1, 2]" in capsys.readouterr().err
    assert client(own_uri).get_run(run.run_id).data.params == {"lr": "0.1", "folds": "[1]", "new": "1"}


def test_of_two_parents_one_stays_with_all_children(own_uri: str) -> None:
    ends = [start(own_uri).run_id]
    (first,) = runs(own_uri, "experiment")
    # Another machine, which saw no parent a moment ago, has made its own and a child.
    experiment = first.info.experiment_id
    tags = {"lrcn.key": PARENT.key, "lrcn.kind": "experiment"}
    second = client(own_uri).create_run(experiment, first.info.start_time + 1, tags=tags)
    child = client(own_uri).create_run(
        experiment, tags={"mlflow.parentRunId": second.info.run_id, "lrcn.kind": "training"}
    )
    ends += [child.info.run_id, start(own_uri).run_id]
    assert [run.info.run_id for run in runs(own_uri, "experiment")] == [first.info.run_id]
    assert {run.info.run_id: run.data.tags["mlflow.parentRunId"] for run in runs(own_uri)} == dict.fromkeys(
        ends, first.info.run_id
    )
    with Run.start("demo", PARENT.name, PARENT.tags, {}, own_uri, key=PARENT.key) as report:
        assert report.run_id == first.info.run_id
        report.set_tags_of({"run_id": ends[0], "key": "k", "experiment": "demo", "name": "n"}, {"a": 1})
    assert client(own_uri).get_run(ends[0]).data.tags["a"] == "1"
    assert client(own_uri).get_run(ends[0]).info.status == "RUNNING"


SYNC = """
import sys
from pathlib import Path
from pipeline.trackingunsent import deliver_unsent
gate = Path(sys.argv[1])
(gate / sys.argv[2]).touch()
while len(list(gate.iterdir())) < 2: pass
print(*deliver_unsent(Path("mlruns_unsent"), sys.argv[3]), sep="\\n")
"""


def test_a_data_set_that_two_runs_name_for_the_first_time_at_once(
    own_uri: str, unsent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    whole, calls = mlflow.MlflowClient.log_inputs, []

    def beaten_once(self: Any, *arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise mlflow.MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id")
        whole(self, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", beaten_once)
    with start(own_uri) as run:
        log_all(run, tmp_path / "out")
    assert len(calls) == 2
    assert not unsent_keys(unsent)
    check_all(own_uri, runs(own_uri)[0])


def test_two_deliveries_at_once(away: str, own_uri: str, unsent: Path, tmp_path: Path) -> None:
    for _ in range(6):
        with start(away) as run:
            log_all(run, tmp_path / "out")
    (tmp_path / "gate").mkdir()
    command = [sys.executable, "-c", SYNC, str(tmp_path / "gate")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([*command, name, own_uri], env=environment, stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    said = "".join(process.communicate(timeout=120)[0] for process in started)
    assert said.count(": delivered, run ") == 6
    assert not unsent.exists()
    assert len(runs(own_uri)) == 6
    for found in runs(own_uri):
        check_all(own_uri, found)


# Servers


@pytest.fixture
def server(tmp_path: Path, migrated: Path) -> Iterator[str]:
    """An MLflow server on loopback, with SQLite and artifacts through it."""
    import requests

    shutil.copyfile(migrated, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "files")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{uri}/health", timeout=5).ok:
                    break
            time.sleep(0.2)
        # It opens its database for its first answer; on a busy machine that takes longer than a request may.
        requests.post(f"{uri}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, timeout=60)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_has_it_once_and_gives_the_model_back(
    away: str, server: str, unsent: Path, tmp_path: Path, make_model: Callable[..., Model], monkeypatch: Any
) -> None:
    from pipeline.modelstore import model_folder

    model = make_model("clip").folder
    assert model
    with start(away) as run:
        log_all(run, tmp_path / "out", model)
    shutil.copytree(unsent, tmp_path / "again")
    for folder in (unsent, tmp_path / "again"):
        (line,) = deliver_unsent(folder, server)
        assert "delivered" in line
    (found,) = runs(server)
    history = client(server).get_metric_history(found.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == [(n, 1 / n) for n in range(1, EPOCHS + 1)]
    assert (found.info.status, found.data.params) == ("FINISHED", {"lr": "0.1"})
    assert len(found.inputs.dataset_inputs) == len(found.outputs.model_outputs) == 1
    files = {file.path for file in client(server).list_artifacts(found.info.run_id)}
    assert files == {"config.yaml", "figures", "metrics.json", "per_class.json"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetched = model_folder(f"runs:/{found.info.run_id}/model", server)
    assert (fetched / "model.yaml").read_bytes() == (model / "model.yaml").read_bytes()
    with start(server) as later:
        log_all(later, tmp_path / "out")
        empty(tmp_path / "server.db")
        later.log_metrics({"test/top1": 0.9})
    assert [(run.info.run_id, run.data.params) for run in runs(server)] == [(later.run_id, {"lr": "0.1"})]
    assert len(client(server).get_metric_history(later.run_id, "val_loss")) == EPOCHS


def test_a_call_lasts_as_long_as_the_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackingclient.ASK_SECONDS + trackingstore.PROBE_SECONDS + 1 < 10
    monkeypatch.setattr(trackingclient, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(trackingclient, "answers", lambda uri: True)
    ended = threading.Event()
    slow = threading.Timer(0.1, ended.set)
    slow.start()
    assert while_it_answers("http://x", lambda: ended.wait(10)) is True
    with pytest.raises(ValueError, match="of the upload"):
        while_it_answers("http://x", lambda: int("of the upload"))
    ended.clear()
    with pytest.raises(TimeoutError, match="no answer any more"):  # of a connection that was lost on the way
        while_it_answers("postgresql://x", lambda: ended.wait(10), limit_seconds=0.02)
    monkeypatch.setattr(trackingclient, "answers", lambda uri: False)
    with pytest.raises(TimeoutError, match="no answer any more"):
        while_it_answers("http://x", lambda: ended.wait(10))
    ended.set()


def test_a_database_server_that_falls_silent_in_the_middle_is_left(
    unsent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(trackingclient, "answers", lambda uri: asked.append(uri) or answers(uri))
    with postgres() as direct:
        relay = Relay(urlsplit(direct).port or 0)
        try:
            relayed = direct.replace(f":{urlsplit(direct).port}/", f":{relay.port}/")
            with start(relayed, memory=tmp_path / "memory") as run:
                run.log_epoch({"val_loss": 1.0, "lr": 0.1}, 1)
                assert run.is_live
                relay.swallow()
                asked.clear()
                log_all(run, tmp_path / "out")
            assert asked == [relayed]  # once, and then nothing more is sent
            (line,) = own_lines(capsys)
            assert "no answer any more; what follows of this run is kept in" in line
            assert deliver_unsent(unsent, direct)[0].endswith(f"delivered, run {run.run_id}")
            (found,) = runs(direct)
            history = client(direct).get_metric_history(run.run_id, "val_loss")
            assert [(point.step, point.value) for point in history] == [(n, 1 / n) for n in range(1, EPOCHS + 1)]
            assert (found.info.status, found.data.metrics["test/top1"]) == ("FINISHED", 0.9)
        finally:
            relay.close()


# A database that is exchanged under a run


def empty(database: Path) -> None:
    """Take all runs and experiments out of a database that somebody has open."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in tables - {"alembic_version", "workspaces"}:
            connection.execute(f"DELETE FROM {table}")


def test_a_run_whose_database_was_emptied_begins_again_and_loses_nothing(
    own_uri: str, unsent: Path, tmp_path: Path, make_model: Callable[..., Model], capsys: Any
) -> None:
    with start(own_uri, memory=tmp_path / "memory") as run:  # an epoch that is logged twice is the same point
        first = run.run_id
        run.log_table([{"class": "走", "f1": 0.5}], "per_class.json")
        for epoch in (1, 2, 3):
            run.log_epoch({"val_loss": 1 / epoch, "lr": 0.1}, epoch)
        (tmp_path / "gone.txt").write_text("x")
        run.log_file(tmp_path / "gone.txt")
        (tmp_path / "gone.txt").unlink()
        empty(tmp_path / "mlflow.db")
        log_all(run, tmp_path / "out", make_model("clip").folder)
        assert run.is_live
    missing, again = own_lines(capsys)
    assert "not logged again: gone.txt is no longer there" in missing.replace(f"{tmp_path}/", "")
    assert f"run {first} is no longer there; begun again as {run.run_id}" in again
    (found,) = runs(own_uri)
    assert (found.info.run_id, found.data.tags["replaces_run"]) == (run.run_id, first)
    check_all(own_uri, found)
    assert len(found.outputs.model_outputs) == 1
    assert not unsent.exists()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("log_batch", "INTERNAL_ERROR"),
        ("create_run", "INTERNAL_ERROR"),
        ("create_run", "INVALID_PARAMETER_VALUE"),
    ],
)
def test_what_was_not_told_again_waits(
    own_uri: str, unsent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, call: str, code: str
) -> None:
    import mlflow
    from mlflow.protos import databricks_pb2

    def fail(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("It does not", error_code=getattr(databricks_pb2, code))

    with start(own_uri, memory=tmp_path / "memory") as run:
        for epoch in range(1, EPOCHS):
            run.log_epoch({"val_loss": 1 / epoch, "lr": 0.1}, epoch)
        (tmp_path / "gone.txt").write_text("x")
        run.log_file(tmp_path / "gone.txt")
        (tmp_path / "gone.txt").unlink()
        empty(tmp_path / "mlflow.db")
        with monkeypatch.context() as patched:
            patched.setattr(mlflow.MlflowClient, call, fail)
            run.set_tags({"note": "1"})
        assert not run.is_live
        log_all(run, tmp_path / "out")
    missing, kept = own_lines(capsys)
    assert "gone.txt is no longer there" in missing
    assert "It does not; what follows of this run is kept in" in kept
    (line,) = deliver_unsent(unsent, own_uri)
    assert "delivered" in line
    check_all(own_uri, runs(own_uri)[0])


def test_a_run_begun_again_does_not_end_before_it_began(own_uri: str, tmp_path: Path) -> None:
    with start(own_uri) as training:
        pass
    time.sleep(0.002)  # MLflow counts milliseconds
    with Run.resume(training.run_id, own_uri, experiment="demo", name="n", tags={"lrcn.kind": "training"}) as run:
        empty(tmp_path / "mlflow.db")
        run.log_metrics({"test/top1": 0.9})
    (found,) = runs(own_uri)
    assert found.info.start_time <= found.info.end_time


def test_one_of_many_things_that_are_missing_does_not_begin_a_run_again(own_uri: str, capsys: Any) -> None:
    with start(own_uri) as run:
        run.set_tags_of({"run_id": "0" * 32, "key": "k", "experiment": "demo", "name": "fold9"}, {"a": 1})
    assert "not logged: there is no run of fold9 to be tagged" in capsys.readouterr().err
    assert len(runs(own_uri)) == 1


# The experiment's run and its page


def test_the_first_training_makes_the_experiments_run_with_its_settings_and_a_view_of_scores(own_uri: str) -> None:
    for _ in range(2):
        with start(own_uri):
            pass
    (parent,) = runs(own_uri, "experiment")
    assert (parent.info.run_name, parent.info.status) == ("demo pppppppp", "RUNNING")
    assert parent.data.params == {"train.lr": "0.1"}
    experiment = client(own_uri).get_experiment_by_name("demo")
    value = json.loads(experiment.tags["mlflow.sharedViewState.scores"])
    form, _, packed = value["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert (value["name"], form, state["selectedColumns"]) == ("scores", "deflate", ["metrics.`test/top1`"])
    client(own_uri).set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.scores", "somebody's own")
    with start(own_uri):
        pass
    assert client(own_uri).get_experiment_by_name("demo").tags["mlflow.sharedViewState.scores"] == "somebody's own"


def test_the_view_has_the_main_scores_of_each_task_and_stream() -> None:
    from pipeline.stages.tracked import columns_of

    assert columns_of(load_experiment(ROOT / "configs/fight.yaml")) == [
        "metrics.`clip/rgb/top1`", "metrics.`clip/flow/top1`", "metrics.`clip/fused/top1`", "metrics.`test/top1`",
        "metrics.`test/gain_over_single_frame`", "metrics.`best_val_score`",
        "tags.`task`", "tags.`stream`", "tags.`fold`", "tags.`seed`",
    ]  # fmt: skip
