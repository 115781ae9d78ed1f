"""`mlflow models serve` on loopback: correct, wrong and hostile requests to a real server, and what comes back."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.inference.recognizer import Recognizer

BIN = Path(sys.executable).parent
START_SECONDS = 180
MODEL = "artifacts/toy/trainings/{}-rgb-fold1-seed0/model"

pytestmark = pytest.mark.slow


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its children, which are a group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=10)


@pytest.fixture(scope="module")
def server(built_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The toy's clip model from the registry, behind a server that may read the toy's videos; its address."""
    root = tmp_path_factory.mktemp("served")
    code = (
        "import sys, mlflow\n"
        "from pathlib import Path\n"
        "from pipeline.tracking import Run\n"
        "with Run.start('toy', 'clip', {}, {}, sys.argv[1]) as run:\n"
        "    run.log_model(Path(sys.argv[2]), registered_name='toy-clip')\n"
        "mlflow.MlflowClient(sys.argv[1], sys.argv[1]).set_registered_model_alias('toy-clip', 'champion', '1')\n"
    )
    uri = f"sqlite:///{root}/mlflow.db"
    environment = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "LRCN_VIDEO_ROOT": str(built_toy / "media/toy"),
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, uri, str(built_toy / MODEL.format("clip"))],
        cwd=root, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/toy-clip@champion", "--env-manager", "local"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / command[0], *command[1:], "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(START_SECONDS * 4):
            assert process.poll() is None, (root / "log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/ping", timeout=5):
                    break
            except OSError:
                time.sleep(0.25)
        else:
            raise AssertionError((root / "log").read_text())
        yield address
    finally:
        ended(process)


def ask(server: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    """Status and answer of a request; what is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server}/invocations", data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, text


def records(server: str, rows: list[dict[str, Any]], **params: Any) -> list[dict[str, Any]]:
    status, answer = ask(server, {"dataframe_records": rows, "params": params})
    assert status == 200, answer
    return answer["predictions"]


def test_features_paths_and_bytes_get_the_answers_of_predict(server: str, built_toy: Path) -> None:
    video = built_toy / "media/toy/left/g01.mp4"
    features = [np.random.default_rng(0).normal(size=(steps, 512)).astype(np.float32) for steps in (3, 12)]
    rows = [
        {"path": "left/g01.mp4"},
        {"features": features[0].tolist()},
        {"video": base64.b64encode(video.read_bytes()).decode()},
        {"features": features[1].tolist()},
        {"path": "right/g02.mp4"},
    ]
    got = records(server, rows)
    with Recognizer.load(built_toy / MODEL.format("clip"), device="cpu") as recognizer:
        expected = [recognizer.predict(video), recognizer.predict(built_toy / "media/toy/right/g02.mp4")]
        by_features = [recognizer.model.predict_features(values) for values in features]
    assert [got[0]["scores"], got[4]["scores"]] == [answer.scores for answer in expected]
    assert (got[0]["label"], got[4]["label"]) == ("left", "right")
    assert got[2] == got[0]
    for record, probs in zip((got[1], got[3]), by_features, strict=True):
        np.testing.assert_allclose(list(record["scores"].values()), probs, atol=1e-6)
    assert set(got[0]) == {"status", "reason", "label", "score", "sure", "scores", "segments"}
    assert got[0]["segments"][0]["start_seconds"] == 0


@pytest.mark.parametrize("form", ["dataframe_split", "inputs", "instances"])
def test_every_form_of_mlflow_is_taken(server: str, form: str) -> None:
    rows: Any = [{"path": "left/g01.mp4"}]
    body = {"columns": ["path"], "data": [["left/g01.mp4"]]} if form == "dataframe_split" else rows
    status, answer = ask(server, {form: body})
    assert (status, answer["predictions"][0]["label"]) == (200, "left")


def test_bad_videos_are_rows_beside_good_ones(server: str, built_toy: Path) -> None:
    whole = (built_toy / "media/toy/left/g01.mp4").read_bytes()
    bad = [b"", b"garbage" * 100, bytes(5000), whole[:200]]
    rows = [
        *({"video": base64.b64encode(data).decode()} for data in bad),
        {"path": "gone.mp4"},
        {"path": "left/g01.mp4"},
    ]
    got = records(server, rows)
    assert [record["status"] for record in got] == ["rejected"] * 4 + ["failed", "ok"]
    assert all(record["reason"] and record["score"] is None and record["label"] == "" for record in got[:5])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{garbage", "valid JSON"),
        (b"\xff\xfe\x00", "valid JSON"),
        ([1, 2], "Received a list"),
        ({"rows": []}, "exactly one of the input fields"),
        ({"dataframe_records": []}, "0 rows with a value"),
        (
            {"dataframe_records": [{"feature": [[1.0]]}]},
            "0 rows with a value in one of the columns features, path, video",
        ),
        ({"dataframe_records": [{"features": [[0.0] * 511]}]}, r"row 0: features are of shape (1, 511)"),
        ({"dataframe_records": [{"features": [[0.0] * 512, [0.0]]}]}, "row 0: features are no array"),
        ({"dataframe_records": [{"features": []}]}, "row 0: features are of shape (0,)"),
        ({"dataframe_records": [{"features": [[float("nan")] * 512]}]}, "row 0: features hold nan or infinity"),
        ({"dataframe_records": [{"features": "text"}]}, "row 0: features are not all numbers"),
        ({"dataframe_records": [{"path": 3}]}, "row 0: path is no file name"),
        ({"dataframe_records": [{"path": "../../labels.csv"}]}, "does not lie below the folder this server may read"),
        ({"dataframe_records": [{"path": "/etc/passwd"}]}, "does not lie below the folder this server may read"),
        ({"dataframe_records": [{"video": "n o!"}]}, "row 0: video is no base64"),
        ({"dataframe_records": [{"video": "", "path": "left/g01.mp4"}]}, "row 0: path and video; expected exactly one"),
        ({"dataframe_records": [{"path": "left/g01.mp4"}], "params": {"precision": 2.0}}, "precision is 2.0; expected"),
        ({"dataframe_records": [{"path": "left/g01.mp4"}], "params": {"precision": "high"}}, "precision"),
        ({"dataframe_records": [{"path": "left/g01.mp4"}], "params": {"timesteps": True}}, "one answer per video"),
    ],
)
def test_what_is_no_question_is_a_400_with_a_line(server: str, body: Any, message: str) -> None:
    status, answer = ask(server, body)
    assert status == 400, answer
    assert message in json.loads(answer)["message"]


def test_other_kinds_of_content_are_refused(server: str) -> None:
    assert ask(server, b"path\nleft/g01.mp4\n", "text/plain")[0] == 415
    assert ask(server, b"path\nleft/g01.mp4\n", "text/csv")[0] == 400
