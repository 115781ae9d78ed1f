"""What several kinds of tests share: a toy repository whose answer is known, and one run of all stages on it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests import servers

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TOY_CARD = """
name: toy
title: Squares that move left or right
licence: none
source: drawn by the test
media: media/toy
background: rest
opposites: [[left, right]]
labels: {csv: {file: labels.csv}}
segments: segments.csv
groups: [{column: who}]
splits:
  groups:
    folds: [{test: ['g0[0-3]'], validation: ['g0[45]']}]
"""
TOY_CONFIG = """
dataset: toy
seed: 0
num_seeds: 1
folds: [1]
view: {fps: 10.0, short_side: 32, crop: 32, clip_frames: 0, clip_stride: 0, crops: 1}
backbone: {name: squeezenet1_1, weights: random}
finetune: null
train:
  clip: {hidden_size: 32, epochs: 30, lr: 0.01, batch_size: 8, dropout: 0.0, patience: 30}
  frame: {hidden_size: 32, epochs: 30, lr: 0.01, batch_size: 4, dropout: 0.0, patience: 30}
flow: null
audit: {allow_leak: false, max_shortcut_auc: 0.65}
evaluate: {bootstrap_samples: 200, precision: 0.9, false_alarms_per_hour: 1.0}
probe: null
"""


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """Tests' matrices are tiny: threads waiting on each other would cost more than they compute."""
    torch.set_num_threads(1)


def square_frames(positions: list[int], color: tuple[int, int, int], seed: int) -> list[np.ndarray]:
    """A 10 pixel square at these columns before a grain of the seed's own and a little noise, (32, 32, 3) uint8 each.

    The grain, which is that of film, tells one video from another: without it they would be copies of each other.
    """
    rng = np.random.default_rng(seed)
    grain = rng.integers(0, 48, (32, 32, 1), dtype=np.uint8)
    frames = []
    for column in positions:
        frame = grain + rng.integers(0, 8, (32, 32, 3), dtype=np.uint8)
        frame[11:21, column : column + 10] = color
        frames.append(frame)
    return frames


def write_toy_video(path: Path, label: str, number: int) -> None:
    from pipeline.synthetic import write_video

    steps = list(range(0, 22, 2))
    columns = steps if label == "right" else steps[::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, square_frames(columns, (255, 120 + number * 5 % 120, 90), number), fps=10)


def describe_toy(root: Path) -> None:
    """The toy without its media: a data set, a configuration."""
    for name, text in {
        "datasets/toy/card.yaml": TOY_CARD,
        "datasets/toy/classes.txt": "left\nright\n",
        "configs/toy.yaml": TOY_CONFIG,
        "configs/runtime.yaml": "device: cpu\nworkers: 2\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def make_toy(root: Path, *, people: int = 20) -> Path:
    """A repository with data set, media and configuration, in which stages and commands can run."""
    from pipeline.synthetic import write_video

    describe_toy(root)
    media = root / "media/toy"
    labels, segments = ["path,label,who"], ["path,start_seconds,end_seconds,label"]
    for number in range(people):
        who = f"g{number:02d}"
        for label in ("left", "right"):
            write_toy_video(media / label / f"{who}.mp4", label, number)
            labels.append(f"{label}/{who}.mp4,{label},{who}")
        columns = [0] * 5 + list(range(0, 22, 2)) + [20] * 5 + list(range(20, -2, -2)) + [0] * 4
        (media / "long").mkdir(parents=True, exist_ok=True)
        write_video(media / "long" / f"{who}.mp4", square_frames(columns, (255, 160, 90), 100 + number), fps=10)
        labels.append(f"long/{who}.mp4,,{who}")
        segments += [f"long/{who}.mp4,0.5,1.6,right", f"long/{who}.mp4,2.1,3.2,left"]
    (media / "labels.csv").write_text("\n".join(labels) + "\n")
    (media / "segments.csv").write_text("\n".join(segments) + "\n")
    return root


def run_unprivileged(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Python in a process to which permissions apply: root reads everything, unless these two powers are taken away.

    Taking them is better than another user: the interpreter and the files may be root's alone.
    """
    command = [sys.executable, *arguments]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("runs as root, without setpriv (util-linux) to give up root's powers")
        powers = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}", *command]
    return subprocess.run(command, capture_output=True, check=False, timeout=120)


def decoding_children(parent: int | None = None) -> list[psutil.Process]:
    """The processes that decode for this one, or for another."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.Error):
            found += [child] if "pipeline.video.worker" in child.cmdline() else []
    return found


def run_stage(name: str, *arguments: str, config: str = "configs/toy.yaml") -> None:
    """A stage in this process, as DVC starts it."""
    import importlib

    importlib.import_module(f"pipeline.stages.{name}").main(["--config", config, *arguments])


def build(root: Path, *tasks: str, config: str = "configs/toy.yaml") -> None:
    """Every stage in this process, without tracking."""
    with untracked_in(root):
        for stage in ("index", "decode", "audit", "finetune", "extract"):
            run_stage(stage, config=config)
        for task in tasks:
            run_stage("train", "--task", task, config=config)
            run_stage("evaluate", "--task", task, config=config)
        run_stage("report", config=config)


def wait_until(
    is_so: Callable[[], object], process: "subprocess.Popen[str] | None" = None, *, seconds: float = 120
) -> None:
    """Wait for a condition, as long as a process runs; the limit is for a machine that does other things besides."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.005)


@contextmanager
def untracked_in(root: Path) -> Iterator[None]:
    """Run stages with `root` as the working folder and tracking off; both are put back."""
    before, environment = Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = "off"
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("MLFLOW_TRACKING_URI")
        if environment is not None:
            os.environ["MLFLOW_TRACKING_URI"] = environment


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures stay empty: drawing them is most of what a stage costs on a toy."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", lambda _, file, **__: file.write("<svg></svg>"))
        yield


@pytest.fixture(scope="session")
def built_toy(tmp_path_factory) -> Path:
    """The toy with every stage run on it, without tracking. Read only: tests that change something copy it."""
    root = make_toy(tmp_path_factory.mktemp("toy"))
    build(root, "clip", "frame")
    return root


@pytest.fixture
def toy(built_toy, tmp_path, monkeypatch) -> Path:
    """A copy of the built toy, being the working folder; tracking is off."""
    root = tmp_path / "toy"
    shutil.copytree(built_toy, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return root


@pytest.fixture(scope="session")
def s3_server() -> Iterator[servers.S3Server]:
    """A real S3-compatible server with an empty bucket."""
    pytest.importorskip("moto", reason="moto[server] is not installed (extra `dev`)")
    with servers.s3_server() as server:
        yield server
