"""A team's tracking server, started with the command of docs/team.md, on SQLite or on PostgreSQL."""

import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PASSWORD = "not-for-logs"
READY_SECONDS = 120


def documented(start: str) -> list[str]:
    """The words of the one line of docs/team.md that begins like this."""
    lines = (ROOT / "docs/team.md").read_text(encoding="utf-8").splitlines()
    (found,) = (line for line in lines if line.startswith(start))
    return shlex.split(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def silent_server(answers: int = 0) -> Iterator[tuple[int, list[int]]]:
    """Its port, and a list with an entry for each connection: it answers the first ones (200), then says nothing."""
    taken: list[int] = []
    kept = []  # open for as long as the server is there

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                taken.append(len(taken) + 1)
                kept.append(connection)
                if len(taken) <= answers:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], taken
        server.shutdown(socket.SHUT_RDWR)  # ends accept
        thread.join()
    for connection in kept:
        connection.close()


class Relay:
    """Passes bytes on to another port until it is told to keep them: as a network does that swallows packets."""

    def __init__(self, to_port: int) -> None:
        self._to, self._swallows, self._open = to_port, threading.Event(), []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        """Connections stay open and new ones are taken, but nothing arrives any more."""
        self._swallows.set()

    def close(self) -> None:
        for one in (self._server, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if not self._swallows.is_set():
                    other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@contextmanager
def mlflow_server(folder: Path, database: str) -> Iterator[str]:
    """The documented server with its artifacts in `folder`; its address. Its log is `folder/server.log`."""
    port = str(free_port())
    words = [word.replace("/srv/mlflow", str(folder)) for word in documented("mlflow server")]
    words[words.index("--port") + 1] = port
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": database}
    for line in ("export MLFLOW_DISABLE_TELEMETRY", "export MLFLOW_SERVER_ENABLE_JOB_EXECUTION"):
        key, _, value = documented(line)[1].partition("=")
        environment[key] = value
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *words], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _healthy(f"http://127.0.0.1:{port}/health"):
            ended = server.poll() is not None or time.monotonic() > deadline
            assert not ended, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """PostgreSQL with an empty database `mlflow`, run by an unprivileged user; the URI, password included."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2-binary, of the extra [dev], is not installed")
    binaries = found[-1].parent
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            pytest.skip("runs as root, and there is no user `postgres` or `nobody` for PostgreSQL")
    # Not below pytest's folder, which that user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="lrcn-postgres-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        port = free_port()
        data = str(folder / "data")
        access = ["--username=lrcn", "--auth=scram-sha-256", f"--pwfile={folder}/password", "--no-sync"]
        _run([f"{binaries}/initdb", "-D", data, "--encoding=UTF8", "--locale=C", *access], user)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [f"{binaries}/postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F"],
                user=user, cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            where = ["-h", "127.0.0.1", "-p", str(port), "-U", "lrcn"]
            deadline = time.monotonic() + READY_SECONDS
            while subprocess.run([f"{binaries}/pg_isready", "-q", *where], check=False).returncode:
                ended = server.poll() is not None or time.monotonic() > deadline
                assert not ended, (folder / "log").read_text()
                time.sleep(0.1)
            _run([f"{binaries}/createdb", *where, "mlflow"], user)
            yield f"postgresql+psycopg2://lrcn:{PASSWORD}@127.0.0.1:{port}/mlflow"
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown: connections are closed
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _run(command: list[str], user: str | None) -> None:
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    done = subprocess.run(
        command, user=user, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
