"""Servers that a team has, started by tests on the loopback interface; and what a team does with git."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

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
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)


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
