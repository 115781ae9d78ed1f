"""`dvc repro` on a small toy, killed: the repository, the kill, who writes meanwhile, and what comes out."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.conftest import BIN, ROOT, TOY_CONFIG, make_toy
from tests.servers import commit, dvc_repository, run_tracked

CONFIG = TOY_CONFIG.replace("bootstrap_samples: 200", "bootstrap_samples: 20").replace("epochs: 30", "epochs: 3")
CONFIG = "".join("  frame: null\n" if "  frame:" in line else line for line in CONFIG.splitlines(keepends=True))
# Name: the signal, and whom it is sent to.
KILLS = {
    "dvc SIGKILL": (signal.SIGKILL, "dvc"),
    "dvc SIGTERM": (signal.SIGTERM, "dvc"),
    "stage SIGKILL": (signal.SIGKILL, "stage"),
    "group SIGKILL": (signal.SIGKILL, "group"),
}
RUN_FILE = "mlflow_run.json"  # names a run, so it differs from one run to the next
STEP_SECONDS = 0.01


def make_repository(root: Path) -> Path:
    """A repository of eight stages and 30 videos, nothing of it built; MLflow's database is there and empty."""
    make_toy(root, people=10)
    (root / "configs/toy.yaml").write_text(CONFIG)
    dvc_repository(root, ROOT)
    run_tracked(root, "lrcn", "select", "toy")
    commit(root, "start")
    from pipeline.trackingstore import ensure_database

    ensure_database(f"sqlite:///{root / 'mlflow.db'}")
    return root


def runs(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] != b"Z"
    return False


def first_of(pid: int, pids: list[int]) -> int:
    """The furthest of a process's ancestors that is one of these; the process itself when none is."""
    with suppress(OSError):
        while (parent := int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[1])) in pids:
            pid = parent
    return pid


def start_repro(root: Path, *targets: str) -> "subprocess.Popen[str]":
    """`dvc repro` in a session, and so a process group, of its own; what it prints is added to `repro.log`."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = (root / "repro.log").open("a")
    with log:
        return subprocess.Popen(
            ["dvc", "repro", *targets], cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip


def stage_of(dvc: int) -> tuple[int, str] | None:
    """Process and name of the stage that a DVC runs at this moment."""
    with suppress(psutil.Error):
        for child in psutil.Process(dvc).children(recursive=True):
            with suppress(psutil.Error):
                name = child.environ().get("DVC_STAGE")
                if name and any(part.endswith("/lrcn") for part in child.cmdline()):
                    return child.pid, name
    return None


def kill(kind: str, dvc: "subprocess.Popen[str]") -> str | None:
    """Kill what `kind` says, as soon as it is there; the stage that was running, None when none was any more."""
    number, whom = KILLS[kind]
    stage = stage_of(dvc.pid)
    while stage is None and whom == "stage":
        if dvc.poll() is not None:
            return None
        time.sleep(STEP_SECONDS)
        stage = stage_of(dvc.pid)
    if dvc.poll() is not None:
        return None
    with suppress(ProcessLookupError):
        if whom == "group":
            os.killpg(dvc.pid, number)
        else:
            os.kill(dvc.pid if whom == "dvc" or stage is None else stage[0], number)
    dvc.wait(timeout=60)
    return stage[1] if stage else "between two stages"


class Watch:
    """Which processes of stages there are and have files below `artifacts/` open for writing, 100 times a second.

    A second writer is a process that has a file open while another has, or one that goes on after another had one. What
    a process started counts as itself: between fork and exec it has the same files open.
    """

    def __init__(self, root: Path) -> None:
        self._cwd, self._artifacts = str(root), f"{root}/artifacts/"
        self._stages: dict[int, bool] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: dict[int, float] = {}  # process of a stage: when it was seen last
        self.writers: list[tuple[int, ...]] = []  # processes that wrote at the same time, without repetitions
        self.num_looks = 0
        self._before = {*psutil.pids()}  # none of these is a stage of what is watched

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def problems(self) -> list[str]:
        """The second writers, in words."""
        found = [f"processes {pids} write at the same time" for pids in self.writers if len(pids) > 1]
        order = [pid for pids in self.writers for pid in pids]
        for place, pid in enumerate(order):
            if pid in order[: max(place - 1, 0)] and order[place - 1] != pid:
                found.append(f"process {pid} goes on after process {order[place - 1]} began")
        return found

    def _look(self) -> None:
        while not self._over.wait(STEP_SECONDS):
            self.num_looks += 1
            pids = {*psutil.pids()} - self._before
            stages = [pid for pid in pids if self._is_of_stage(pid)]
            self.seen |= dict.fromkeys(stages, time.monotonic())
            now = tuple(sorted({first_of(pid, stages) for pid in stages if self._writes(pid)}))
            if now and (not self.writers or self.writers[-1] != now):
                self.writers.append(now)

    def _is_of_stage(self, pid: int) -> bool:
        if pid not in self._stages or not self._stages[pid]:  # again: its environment comes with its program
            try:
                inside = str(Path(f"/proc/{pid}/cwd").readlink()) == self._cwd
                environment = Path(f"/proc/{pid}/environ").read_bytes() if inside else b""
                self._stages[pid] = inside and b"DVC_STAGE=" in environment
            except OSError:
                self._stages[pid] = False
        elif not runs(pid):
            return False
        return self._stages[pid]

    def _writes(self, pid: int) -> bool:
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    path = str(descriptor.readlink())
                    if not path.startswith(self._artifacts) or "/locks/" in path or path.endswith("/.lock"):
                        continue
                    flags = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().split("flags:")[1].split()[0]
                    if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                        return True
        return False


def outputs(root: Path) -> dict[str, str]:
    """SHA-256 by path of all files below `artifacts/`, but for those that name an MLflow run."""
    found = {}
    for path in sorted((root / "artifacts").rglob("*")):
        if path.is_file() and path.name != RUN_FILE:
            found[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Paths that are missing, too many or other bytes."""
    return sorted(path for path in {*found, *expected} if found.get(path) != expected.get(path))


def is_training(root: Path) -> bool:
    """Whether a training has logged an epoch to MLflow."""
    with sqlite3.connect(root / "mlflow.db") as database:
        return bool(database.execute("SELECT 1 FROM metrics WHERE key = 'train_loss'").fetchall())


def run_states(root: Path) -> dict[str, int]:
    """How many MLflow runs of trainings there are in each state; their experiment's is open until `report` has run."""
    with sqlite3.connect(root / "mlflow.db") as database:
        query = (
            "SELECT status, count(*) FROM runs JOIN tags USING (run_uuid) "
            "WHERE tags.key = 'lrcn.kind' AND tags.value = 'training' GROUP BY status"
        )
        return dict(database.execute(query).fetchall())
