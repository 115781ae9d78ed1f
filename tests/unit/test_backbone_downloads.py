"""Torchvision's default weights, from a server on this machine."""

import hashlib
import http.server
import io
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from pipeline.errors import WeightsError
from pipeline.features import backbones
from pipeline.features.backbones import load_backbone

NAME = "shufflenet_v2_x0_5"


class Evil:
    """Unpickling it makes the folder `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class Server:
    """Answers every request with `content`, or with nothing at all."""

    def __init__(self, content: bytes | None) -> None:
        self.requests = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                if content is None:
                    outer.silence.wait(20)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.silence = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.silence.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache, empty, in a folder of this test's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def content() -> bytes:
    """The bytes of a weights file."""
    buffer = io.BytesIO()
    torch.save(torchvision.models.get_model(NAME, weights=None).state_dict(), buffer)
    return buffer.getvalue()


def point_to(monkeypatch: pytest.MonkeyPatch, server: str, content: bytes) -> str:
    """Let torchvision believe that its weights are at the server, and are this content; returns the file's name."""
    file = f"{NAME}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    weights = torchvision.models.get_model_weights(NAME).DEFAULT
    monkeypatch.setattr(weights.value, "url", f"{server}/models/{file}")
    return file


def test_default_weights_are_downloaded_once(
    cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(content) as server:
        file = point_to(monkeypatch, server.url, content)
        backbone = load_backbone(NAME, "default", seed=0)
        assert server.requests == 1
    assert (cache / file).read_bytes() == content
    assert load_backbone(NAME, "default", seed=1).weights_sha256 == backbone.weights_sha256
    assert load_backbone(NAME, str(cache / file), seed=2).weights_sha256 == backbone.weights_sha256
    assert capsys.readouterr().out == ""


def test_a_download_that_is_not_what_its_name_says_is_not_kept(
    cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(content[:-1] + b"?") as server:
        point_to(monkeypatch, server.url, content)
        with pytest.raises(WeightsError, match=r"cannot download .*invalid hash value"):
            load_backbone(NAME, "default", seed=0)
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_says_what_to_put_where(
    cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    file = point_to(monkeypatch, url, content)
    prefix = file.split("-")[1].removesuffix(".pth")
    with pytest.raises(WeightsError) as error:
        load_backbone(NAME, "default", seed=0)
    message = str(error.value)
    assert f"cannot download {url}/models/{file} (" in message
    assert f"put {file} (SHA-256 begins with {prefix}) at {cache / file}" in message
    assert "\n" not in message


def test_a_silent_server_is_given_up(cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "DOWNLOAD_TIMEOUT_SECONDS", 0.2)
    with Server(None) as server:
        point_to(monkeypatch, server.url, content)
        with pytest.raises(WeightsError, match=r"cannot download .*timed out"):
            load_backbone(NAME, "default", seed=0)
    assert socket.getdefaulttimeout() is None


def test_a_cached_file_that_is_not_what_its_name_says_is_not_read(
    cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = point_to(monkeypatch, "http://127.0.0.1:9", content)
    cache.mkdir(parents=True)
    torch.save({"evil": Evil(tmp_path / "code-has-run")}, cache / file)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was read"))
    with pytest.raises(WeightsError, match=rf"{file}: SHA-256 is [0-9a-f]{{64}}, expected one that begins with"):
        load_backbone(NAME, "default", seed=0)


def test_code_in_a_cached_file_does_not_run(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"evil": Evil(tmp_path / "code-has-run")}, buffer)
    file = point_to(monkeypatch, "http://127.0.0.1:9", buffer.getvalue())
    cache.mkdir(parents=True)
    (cache / file).write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=f"{file}: damaged weights, or no state dict"):
        load_backbone(NAME, "default", seed=0)
    assert not (tmp_path / "code-has-run").exists()


def test_all_default_files_carry_their_hash_in_their_name() -> None:
    for name in torchvision.models.list_models(module=torchvision.models):
        url = torchvision.models.get_model_weights(name).DEFAULT.url
        assert re.search(r"-[a-f0-9]{8,}\.pth$", url), url
