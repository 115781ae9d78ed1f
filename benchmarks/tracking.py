"""What a tracking server that is away costs a training, and whether everything is in MLflow after `lrcn runs sync`.

For each case a process of its own logs a training and its evaluation (60 epochs, tables, files, a model). Printed are
the seconds beside the same with tracking off, and the share of the epochs' metrics that MLflow has after delivery.

    python benchmarks/tracking.py [--case NAME ...]
"""

import argparse
import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from pipeline.features.backbones import given_features, save_backbone
from pipeline.models.calibration import Calibration
from pipeline.models.modelfolder import Model, ModelSpec, save_model
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.tracking import Parent, Run
from pipeline.trackingunsent import deliver_unsent
from pipeline.view import View, features_key

EPOCHS, METRICS = 60, ("train_loss", "val_loss", "val_score", "lr", "grad_norm")


def log_training(uri: str, model: Path, gate: Path | None) -> None:
    """What `train` and `evaluate` log; in the middle it waits for what the case does to the server."""
    parent = Parent("0" * 32, "demo", {"lrcn.kind": "experiment"})
    params = {f"section{n}": {"a": n, "b": n} for n in range(40)}
    processor = time.process_time()
    with Run.start("demo", "clip-rgb-fold1-seed0", {"lrcn.kind": "training"}, params, uri, "", parent=parent) as run:
        for epoch in range(1, EPOCHS + 1):
            run.log_epoch({name: epoch / EPOCHS for name in METRICS}, epoch)
            if gate and epoch == EPOCHS // 2:
                gate.touch()
                while gate.exists():
                    time.sleep(0.01)
                processor = time.process_time()
        run.log_text("text", "config.yaml")
        run.log_model(model, epoch=EPOCHS)
        facts = run.facts
    names = {"experiment": "demo", "name": "clip-rgb-fold1-seed0"}
    with Run.resume(facts["run_id"], uri, key=facts["key"], **names) as run:
        run.log_metrics({"test/top1": 0.5})
        run.log_table([{"class": "a", "f1": 0.5}], "per_class.json")
    print(time.process_time() - processor)


def small_model(folder: Path) -> Path:
    """A model folder."""
    backbone, view = given_features(5, 10.0, False), View(fps=10.0, short_side=0, crop=0)
    sizes = {"feature_size": 5, "cell": "lstm", "hidden_size": 256, "num_layers": 1, "bidirectional": False}
    sizes |= {"input_dropout": 0.0, "dropout": 0.5}
    key = features_key(view, backbone.name, backbone.weights_sha256)
    spec = ModelSpec("clip", ("a", "b"), None, sizes, view, backbone.name, key, {}, Calibration(0.5, ((0.8, 0.3),)))
    save_backbone(backbone, folder / "backbone.safetensors")
    torch.manual_seed(0)
    save_model(
        folder / "model", Model(spec, RecurrentClassifier(num_classes=2, **sizes)), folder / "backbone.safetensors"
    )
    return folder / "model"


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers everything with the status that its address begins with."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that is no MLflow."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{status}"
    server.shutdown()


@contextmanager
def silent(backlog: bool) -> Iterator[str]:
    """A port that takes connections and says nothing; with a full backlog it drops new ones, as a firewall does."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0 if backlog else 100))
        port = server.getsockname()[1]
        for _ in range(3 if backlog else 0):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlflow_server(root: Path) -> Iterator[tuple[str, int]]:
    """A real server on loopback, with SQLite and artifacts through it; its address and process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "server").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root}/server/mlflow.db",
        "--artifacts-destination",
        f"{root}/server/files",
    ]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    uri = f"http://127.0.0.1:{port}"
    import requests

    while True:
        try:
            if requests.get(f"{uri}/health", timeout=2).ok:
                break
        except requests.RequestException:
            time.sleep(0.2)
    yield uri, process.pid
    for number in (signal.SIGCONT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
    process.wait()


def timed(uri: str, root: Path, model: Path, between: Callable[[], None] | None = None) -> tuple[float, float, int]:
    """Seconds until the process has ended, those of its processor, and how many lines it said.

    between: what happens to the server after half of the epochs; then the second half is timed alone.
    """
    gate = root / "gate"
    command = [sys.executable, __file__, "--uri", uri, "--model", str(model)]
    command += ["--gate", str(gate)] if between else []
    begun, environment = time.monotonic(), {**os.environ, "DVC_ROOT": str(root)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    if between:
        while not gate.exists():
            time.sleep(0.01)
        between()
        begun = time.monotonic()
        gate.unlink()
    out, err = process.communicate(timeout=300)
    if process.returncode:
        raise SystemExit(err)
    return time.monotonic() - begun, float(out), err.count("tracking: ")


def arrived(root: Path) -> tuple[str, int]:
    """Deliver to a new database; the share of the metrics that is there, and the number of runs."""
    uri = f"sqlite:///{root}/after.db"
    deliver_unsent(root / "mlruns_unsent", uri)
    import mlflow

    return counted(mlflow.MlflowClient(uri))


def counted(client: object) -> tuple[str, int]:
    """The share of the metrics that MLflow has, and the number of trainings."""
    experiment = client.get_experiment_by_name("demo")  # type: ignore[attr-defined]
    runs = client.search_runs([experiment.experiment_id], "tags.`lrcn.kind` = 'training'")  # type: ignore[attr-defined]
    found = 0
    for run in runs:
        for name in METRICS:
            history = client.get_metric_history(run.info.run_id, name)  # type: ignore[attr-defined]
            found += len({point.step for point in history if point.value == point.step / EPOCHS})
        found += run.data.metrics.get("test/top1") == 0.5
    return f"{found} of {EPOCHS * len(METRICS) + 1}", len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append")
    for name in ("uri", "model", "gate"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.uri:
        log_training(options.uri, Path(options.model), Path(options.gate) if options.gate else None)
        return
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        model = small_model(top)
        (top / "file").write_text("no database")
        (top / "off").mkdir()
        off, processor_off, _ = timed("off", top / "off", model)
        half, processor_half, _ = timed("off", top / "off", model, lambda: None)
        print(f"tracking off: {off:.1f} s, the second half {half:.1f} s\n")
        print("| case | added seconds | of the processor | lines | metrics after sync | runs |")
        print("|---|---|---|---|---|---|")

        def row(case: str, added: float, processor: float, lines: int, found: tuple[str, int]) -> None:
            print(f"| {case} | {added:.1f} | {processor:.1f} | {lines} | {found[0]} | {found[1]} |", flush=True)

        with (
            socket.socket() as free,
            answering(404) as wrong,
            answering(500) as broken,
            silent(False) as hole,
            silent(True) as dropped,
        ):
            free.bind(("127.0.0.1", 0))
            cases = {
                "port closed": f"http://127.0.0.1:{free.getsockname()[1]}",
                "accepts, never answers": hole,
                "drops connections": dropped,
                "no such scheme": "nosuch://x",
                "a server that is no MLflow": wrong,
                "a server that answers 500": broken,
                "file that is no database": f"sqlite:///{top}/file",
                "folder that cannot be": f"sqlite:///{top}/file/mlflow.db",
                "database server away": "postgresql://127.0.0.1:9/x",
                "database server never answers": f"{hole.replace('http', 'postgresql+psycopg2')}/x",
            }  # fmt: skip
            for case, uri in cases.items():
                if not options.case or case in options.case:
                    root = top / case.replace(" ", "_")
                    root.mkdir()
                    seconds, processor, lines = timed(uri, root, model)
                    row(case, seconds - off, processor - processor_off, lines, arrived(root))
        for case, number in (("killed in the middle", signal.SIGKILL), ("silent in the middle", signal.SIGSTOP)):
            if options.case and case not in options.case:
                continue
            root = top / case.replace(" ", "_")
            with mlflow_server(root) as (uri, group):
                seconds, processor, lines = timed(uri, root, model, partial(os.killpg, group, number))
            import mlflow

            with mlflow_server(root) as (uri, _):  # it is back, with the same database
                said = deliver_unsent(root / "mlruns_unsent", uri)
                if "delivered" not in said[-1]:
                    raise SystemExit("\n".join(said))
                found = counted(mlflow.MlflowClient(uri))
                row(case, seconds - half, processor - processor_half, lines, found)


if __name__ == "__main__":
    main()
