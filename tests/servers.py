"""Servers that a team has, started by tests on the loopback interface; and what a team does with git."""

import http.server
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
WHO = ("-c", "user.name=t", "-c", "user.email=t@example.org")


@dataclass(frozen=True)
class S3Server:
    """An S3-compatible server with one bucket. environment: the keys, which stand nowhere else."""

    endpoint: str
    bucket: str
    environment: Mapping[str, str] = field(
        default_factory=lambda: {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "not-in-any-file"}
    )


@contextmanager
def s3_server(bucket: str = "team") -> Iterator[S3Server]:
    """moto's server in a process of its own, on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = S3Server(f"http://127.0.0.1:{port}", bucket)
    try:
        make = urllib.request.Request(f"{server.endpoint}/{bucket}", method="PUT")
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(make, timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)


class Proxy:
    """A server's stand-in on another port, which can be away, and far away.

    latency_seconds: for which everything is on its way, each direction.
    """

    def __init__(self, endpoint: str, latency_seconds: float = 0.0) -> None:
        self._target = (endpoint.rpartition("/")[2].partition(":")[0], int(endpoint.rpartition(":")[2]))
        self._latency_seconds = latency_seconds
        self._open: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self._port = 0
        self.num_connections = 0
        self.back()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def back(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        listening.listen(64)
        self._listening, self._port = listening, listening.getsockname()[1]
        threading.Thread(target=self._accept, args=[listening], daemon=True).start()

    def away(self) -> None:
        """As when the server's process is killed: connections break, new ones are refused."""
        listening, self._listening = self._listening, None
        for connection in (listening, *list(self._open)):
            if connection is not None:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
        self._open.clear()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection = listening.accept()[0]
                if listening is not self._listening:
                    connection.close()
                    return
                self.num_connections += 1
                onward = socket.create_connection(self._target)
                self._open |= {connection, onward}
                for one, other in ((connection, onward), (onward, connection)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                    threading.Thread(target=self._read, args=[one, waiting], daemon=True).start()
                    threading.Thread(target=self._write, args=[other, waiting], daemon=True).start()

    def _read(self, connection: socket.socket, waiting: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
        data = b"begin"
        while data:
            try:
                data = connection.recv(2**18)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self._latency_seconds, data))

    def _write(self, connection: socket.socket, waiting: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
        with suppress(OSError):
            while True:
                due, data = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    connection.shutdown(socket.SHUT_WR)
                    return
                connection.sendall(data)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.away()


@contextmanager
def http_server(folder: Path, faults: dict[str, list[int]] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A folder by HTTP, as (address, requests so far).

    faults: by path, what the next requests get instead: a status, or 0 for an answer that breaks off half-way.
    """
    faults = {} if faults is None else faults
    seen: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def send_head(self) -> Any:
            seen.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}".strip())
            path = self.path.partition("?")[0]
            if self.command == "GET" and faults.get(path):
                status = faults[path].pop(0)
                if status:
                    self.send_error(status)
                    return None
                data = (folder / path.lstrip("/")).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return None
            return super().send_head()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()


def run_in(root: Path, *command: str, environment: Mapping[str, str] | None = None, code: int = 0) -> str:
    """Run a command of this Python's environment in a folder, without tracking unless told; returns what it printed."""
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    own |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": "off", **(environment or {})}
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **own}, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def run_tracked(root: Path, *command: str, environment: Mapping[str, str] | None = None, code: int = 0) -> str:
    """As run_in, with runs where they are by default."""
    return run_in(root, *command, environment={"MLFLOW_TRACKING_URI": "", **(environment or {})}, code=code)


def commit(root: Path, message: str) -> None:
    """Commit everything that git does not ignore."""
    run_in(root, "git", "add", "--all")
    run_in(root, "git", *WHO, "commit", "--quiet", "--message", message)


def clone(repository: Path, folder: Path) -> Path:
    """A fresh clone: what git has, and no result; local settings and media of the original stay behind."""
    run_in(repository, "git", "clone", "--quiet", str(repository), str(folder))
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        run_in(folder, "git", "config", key, value)  # `dvc exp run` commits
    return folder


def dvc_repository(root: Path, project: Path) -> Path:
    """Make a folder a repository of this project; what is in it stays, and nothing is selected, built or committed."""

    def copy_new(source: str, target: str) -> str:
        return target if Path(target).exists() else shutil.copy2(source, target)

    for name in ("pipeline", "configs", "datasets", ".dvc/plots"):
        ignored = shutil.ignore_patterns("__pycache__", "toy*")
        shutil.copytree(project / name, root / name, dirs_exist_ok=True, ignore=ignored, copy_function=copy_new)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore", "Makefile"):
        shutil.copy(project / name, root / name)
    run_in(root, "git", "init", "--quiet")
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        run_in(root, "git", "config", key, value)
    return root
