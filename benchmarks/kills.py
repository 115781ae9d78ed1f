"""`dvc repro`, killed and run again: what is left behind, who writes meanwhile, and whether the outputs are the same.

A toy of eight stages is built once. Then, for each kind of kill, stage after stage is made to run again on a copy
(its entry is taken out of `dvc.lock`, and its results out of the stores), the kill comes at a random moment between the
start of `dvc repro` and its end, and `dvc repro` is run again at once, until it says that there is nothing to do.

    python benchmarks/kills.py --kills 10 --seed 0
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)

from tests.killing import (  # noqa: E402
    KILLS,
    Watch,
    differences,
    kill,
    make_repository,
    outputs,
    run_states,
    runs,
    start_repro,
)
from tests.servers import run_tracked  # noqa: E402

STORES = {"decode@toy": "frames", "extract@toy-shared": "features"}  # which DVC leaves where they are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each kind (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--folder", type=Path, help="to work in; what is built there is used again (default: a new one)"
    )
    parser.add_argument("--kind", choices=KILLS, action="append", help="only this kind; may be given several times")
    options = parser.parse_args()
    print(time.strftime("%Y-%m-%d"), platform.machine(), f"{len(os.sched_getaffinity(0))} cores", end=", ")
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        run(folder, options.kills, options.kind or list(KILLS), random.Random(options.seed))


def run(folder: Path, num_kills: int, kinds: list[str], rng: random.Random) -> None:
    # One path for all: DVC's own records hold it.
    built, root = folder / "built", folder / "toy"
    times = folder / "seconds.json"
    shutil.rmtree(root, ignore_errors=True)
    if not built.exists():
        make_repository(root)
        print(f"undisturbed: {repro(root):.0f} s", flush=True)
        root.rename(built)
    expected = outputs(built)
    stages = list(yaml.safe_load((built / "dvc.lock").read_text())["stages"])
    print(f"{len(stages)} stages, {len(expected)} files", flush=True)
    took: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    for stage in stages:
        if stage not in took:
            prepare(built, root, stage)
            took[stage] = repro(root)
            other = differences(outputs(root), expected) or "none"
            print(f"again from {stage}: {took[stage]:.1f} s; other files: {other}", flush=True)
    times.write_text(json.dumps(took))
    for place, kind in enumerate(kinds):
        chosen = [stages[(place * num_kills + number) % len(stages)] for number in range(num_kills)]
        trials = [trial(built, root, kind, stage, took, expected, rng) for stage in chosen]
        hit = Counter(str(one["hit"]).partition("@")[0] for one in trials)
        left = sum((Counter(one["states"]) for one in trials), Counter())
        print(f"{kind}: {num_kills} kills, in {', '.join(f'{name} {count}' for name, count in hit.items())}")
        print(f"  the stage outlived the kill by {max(one['outlived'] for one in trials):.2f} s at most")
        print(f"  second writers: {[problem for one in trials for problem in one['problems']] or 'none'}", end="; ")
        print(f"{sum(one['looks'] for one in trials)} looks")
        print(f"  `dvc repro` again: exit codes {dict(Counter(one['code'] for one in trials))}", end="; ")
        print(f"other files: {sorted({name for one in trials for name in one['differ']}) or 'none'}")
        print(f"  runs in MLflow: {dict(left)}", flush=True)


def prepare(built: Path, root: Path, stage: str) -> None:
    """A copy in which one stage has to run again."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(built, root, symlinks=True)
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    del lock["stages"][stage]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    shutil.rmtree(root / ".dvc/cache/runs", ignore_errors=True)  # from which DVC would restore the results
    if stage in STORES:
        shutil.rmtree(root / "artifacts/toy" / STORES[stage])
    (root / "repro.log").unlink(missing_ok=True)


def repro(root: Path) -> float:
    """Seconds of an undisturbed `dvc repro`."""
    begin = time.monotonic()
    code = start_repro(root).wait()
    if code:
        raise SystemExit(f"dvc repro ended with {code}:\n{(root / 'repro.log').read_text()}")
    return time.monotonic() - begin


def trial(
    built: Path, root: Path, kind: str, stage: str, took: dict[str, float], expected: dict[str, str], rng: random.Random
) -> dict:
    """One kill and what followed."""
    hit, seconds = None, took[stage]
    while hit is None:  # it had ended before the moment came
        prepare(built, root, stage)
        before = run_states(root)
        with Watch(root) as watch:
            dvc = start_repro(root)
            time.sleep(rng.uniform(0.2, seconds))
            hit = kill(kind, dvc)
            if hit is None:
                dvc.wait()
                seconds *= 0.8
                continue
            moment, old = time.monotonic(), [pid for pid in watch.seen if runs(pid)]
            again = start_repro(root).wait()
    done = run_tracked(root, "dvc", "status")
    if not again and "up to date" not in done:
        again = f"0, and then: {re.sub(chr(10), ' ', done)}"
    states = Counter(run_states(root))
    states.subtract(before)
    found = {
        "hit": hit,
        "outlived": max([watch.seen[pid] - moment for pid in old] + [0.0]),
        "problems": watch.problems(),
        "looks": watch.num_looks,
        "code": again,
        "differ": differences(outputs(root), expected),
        "states": {name: count for name, count in states.items() if count},
    }
    if again or found["differ"] or found["problems"]:
        print(f"{kind}, {stage}:\n{(root / 'repro.log').read_text()}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
