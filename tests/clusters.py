"""Ray on this machine for tests and benchmarks: nodes as process groups, what runs in them, and what they leave."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DEADLINE = 180.0  # seconds for what takes a few on a quiet machine


def environment(**more: str) -> dict[str, str]:
    """Of commands and nodes: this checkout's code, no tracking, a thread each."""
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    own |= {"MLFLOW_TRACKING_URI": "off", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **own, **more}


@contextmanager
def cluster(num_nodes: int, num_cpus: int = 1) -> Iterator[dict[str, str]]:
    """A cluster of nodes, each a process group, by the commands of `docs/cluster.md`; gives the environment of others.

    Only who has the token reaches it. (`ray stop` would end every Ray of this machine.)
    """
    first, further = re.findall("^ray start .*", (ROOT / "docs/cluster.md").read_text(), re.MULTILINE)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    own = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    own["RAY_ADDRESS"] = f"{socket.gethostbyname(socket.gethostname())}:{port}"
    common = [f"--num-cpus={num_cpus}", "--num-gpus=0", f"--object-store-memory={2 * 10**8}", "--block"]
    nodes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        first = first.replace("--port=6379", f"--port={port} --temp-dir={folder}")
        further = further.replace("HEAD:6379", own["RAY_ADDRESS"])
        try:
            for number in range(num_nodes):
                log = Path(folder, f"node{number}.log")
                command = [*(further if number else first).split(), *common]
                command[0] = str(BIN / "ray")
                with log.open("wb") as file:
                    nodes.append(
                        subprocess.Popen(
                            command, env=own, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                        )
                    )
                deadline = time.monotonic() + DEADLINE
                while b"Ray runtime started" not in log.read_bytes():
                    assert nodes[-1].poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)
            yield own
        finally:
            everything = [process for node in nodes for process in descendants(node.pid)]
            for node in nodes:
                node.terminate()
            for node in nodes:
                with suppress(subprocess.TimeoutExpired):
                    node.wait(10)
            for process in everything:
                with suppress(psutil.Error):
                    process.kill()


def descendants(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    with suppress(psutil.Error):
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return []


def workers(pid: int, kind: str) -> list[psutil.Process]:
    """Ray's processes below one that are at a task or actor of this name: `decode`, `timed`, `Backbones`."""
    found = []
    for process in descendants(pid):
        with suppress(psutil.Error, IndexError):
            title = process.cmdline()[0]
            found += [process] if title.startswith("ray::") and kind in title else []
    return found


def lrcn(arguments: Sequence[str], cwd: Path, env: dict[str, str]) -> "subprocess.Popen[str]":
    """A command, begun, in a process group of its own."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finished(process: "subprocess.Popen[str]", *codes: int) -> str:
    """What a command printed, when it has ended with one of these exit codes."""
    said = process.communicate(timeout=DEADLINE)[0]
    assert process.returncode in codes, (process.returncode, said)
    return said


def kill(processes: Sequence[psutil.Process]) -> int:
    """Kill some; returns how many were still there."""
    count = 0
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
            count += 1
    return count


def num_lines(path: Path) -> int:
    """Whole lines of a file, 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes by path of all files, but for the lines of a ledger, which come in any order, as a set."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            data = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            found[name] = b"\n".join(sorted(data.split(b"\n"))) if path.name == ".ledger.jsonl" else data
    return found
