"""How long DVC takes to find that there is nothing to do, with stand-ins for all results.

    python benchmarks/dvc_nothing.py [--experiments 3] [--folds 5] [--videos 13000] [--rounds 5] [--folder FOLDER]

Makes a repository of this dvc.yaml and code, with experiments of two tasks and the folds, each stage's outputs being
small files that name themselves, and `dvc commit`s it. Then times `dvc repro` and `dvc status` with nothing to do; and
the same once more with one store of features of as many videos, 40 KB each. The first call of each is not counted: it
fills DVC's table of hashes. Processor time is what counts on a machine that does other things too.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
FEATURES_BYTES = 40_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=13000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="folder to work in (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        names = [f"x{number}" for number in range(options.experiments)]
        make_repository(root, names, options.folds)
        outs = write_outputs(root)
        run(root, "dvc", "commit", "--force", "--quiet")
        print(f"{len(names)} experiments x 2 tasks x {options.folds} folds: {len(outs)} outputs")
        measure(root, options.rounds)
        store = root / "artifacts/x0/features/fold1"
        for number in range(options.videos):
            (store / f"{number:064x}.safetensors").write_bytes(number.to_bytes(8, "big") * (FEATURES_BYTES // 8))
        begin = time.perf_counter()
        run(root, "dvc", "commit", "--force", "--quiet", "extract@x0-fold1")
        print(f"one store of {options.videos} files: dvc commit {time.perf_counter() - begin:.1f} s")
        measure(root, options.rounds)


def make_repository(root: Path, names: list[str], folds: int) -> None:
    """A repository with this project's stages and an experiment of each name."""
    for folder in ("pipeline", "datasets/demo"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", root)
    shutil.copy(ROOT / ".gitignore", root)
    shutil.copy(ROOT / ".dvcignore", root)
    (root / "media/demo").mkdir(parents=True)
    (root / "media/demo/labels.csv").write_text("path,label\n")
    (root / "configs").mkdir()
    values = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    for name in names:
        text = yaml.safe_dump({**values, "folds": list(range(1, folds + 1))})
        (root / f"configs/{name}.yaml").write_text(text, encoding="utf-8")
    run(root, "lrcn", "select", *names)
    run(root, "git", "init", "--quiet")
    run(root, "dvc", "init", "--quiet")


def write_outputs(root: Path) -> list[Path]:
    """A stand-in for each output of each stage; a folder where a name has no suffix, with what is read in it."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        outs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]
        deps = {Path(dep.fs_path) for stage in repo.index.stages for dep in stage.deps}
    inside = [dep for dep in deps if dep.suffix and not dep.exists() and dep not in outs]
    for out in [*outs, *inside]:
        file = out if out.suffix else out / "file"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = out.relative_to(root).as_posix()
        file.write_text(f'{{"name": "{text}"}}\n' if out.suffix == ".json" else f"{text}\n")
    return outs


def measure(root: Path, rounds: int) -> None:
    for command in (("dvc", "repro"), ("dvc", "status")):
        seconds, busy = [], []
        for _ in range(rounds + 1):
            begin, before = time.perf_counter(), os.times()
            output = run(root, *command)
            seconds.append(time.perf_counter() - begin)
            after = os.times()
            busy.append(after.children_user + after.children_system - before.children_user - before.children_system)
            if "up to date" not in output:
                raise SystemExit(f"{' '.join(command)}: expected nothing to do, got\n{output}")
        by_clock = f"{min(seconds[1:]):.2f} s, at most {max(seconds[1:]):.2f} s in {rounds} rounds"
        print(f"{' '.join(command)}: {by_clock}; of the processor {min(busy[1:]):.2f} s", flush=True)


def run(root: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
