"""`lrcn predict --engine ray` beside the plain run: the same bytes, how fast, and after kills.

    python benchmarks/engine.py --model artifacts/fight/trainings/clip-rgb-fold1-seed0/model
        [--media FOLDER] [--videos 300] [--bad 10] [--kills 5] [--rounds 3] [--seed 0] [--folder FOLDER]

Takes videos of `--media`, or draws clips of 320x240, and bad files of tests/faults among them. Plain runs and runs with
a Ray of their own in turns, on the same cores; then runs in which, at random moments, a decoding task, a backbone's
actor, and the command itself are killed, each called again until it is done. The rate is that of the answers from the
first to the last one in the ledger, and so are the seconds of processors, of all processes together.
"""

import argparse
import itertools
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.material import clips  # noqa: E402
from pipeline.inference.ledger import LEDGER  # noqa: E402
from tests import clusters  # noqa: E402
from tests.faults import damaged, unusable  # noqa: E402

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")


@dataclass
class Run:
    """What was seen of a call: moments of answers, and processor seconds of all its processes then."""

    said: str = ""
    code: int = 0
    answers: list[tuple[float, int, float]] = field(default_factory=list)  # time, lines in the ledger, seconds

    def over(self) -> tuple[float, int, float]:
        """Seconds, answers and processor seconds from the first answer to the last."""
        first, last = self.answers[0], self.answers[-1]
        return last[0] - first[0], last[1] - first[1], last[2] - first[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--media", type=Path)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--bad", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="folder to work in (default: a temporary one)")
    options = parser.parse_args()
    print(time.strftime("%Y-%m-%d"), platform.machine(), f"{len(os.sched_getaffinity(0))} cores", end=", ")
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        make_inbox(folder / "inbox", options)
        model = str(options.model.absolute())
        compare(folder, model, options.rounds)
        plain = clusters.contents(folder / "plain0")
        for kind in ("decode", "Backbones", "command"):
            killed(folder, model, kind, plain, options)


def make_inbox(inbox: Path, options: argparse.Namespace) -> None:
    inbox.mkdir(parents=True, exist_ok=True)
    if options.media is None:
        sources = clips("h264_short", options.videos - options.bad, inbox.parent, seconds=4.0)
    else:
        found = sorted(path for path in options.media.rglob("*") if path.suffix in VIDEO_SUFFIXES)
        sources = found[: options.videos - options.bad]
    for path in sources:
        with suppress(FileExistsError):
            (inbox / path.name).symlink_to(path.resolve())
    faults = [*unusable.rows(), *damaged.rows()]
    for number, fault in enumerate(faults[:: len(faults) // options.bad][: options.bad]):
        (inbox / f"bad{number}").mkdir(exist_ok=True)
        fault.make(inbox / f"bad{number}" / fault.name)
    print(f"{len(sources)} videos, {options.bad} bad files", flush=True)


def predict(folder: Path, model: str, out: str, engine: str, each: Callable[[int, int], None] | None = None) -> Run:
    """A call; each: told of the process and the number of answers, a hundred times a second."""
    arguments = ["predict", "inbox", "--model", model, "--out", out, "--engine", engine]
    log = folder / f"{out}.log"
    process = clusters.lrcn(arguments, folder, clusters.environment())
    run, seconds = Run(), dict[int, float]()
    while process.poll() is None:
        lines = clusters.num_lines(folder / out / LEDGER)
        if lines and (not run.answers or lines > run.answers[-1][1]):
            for member in clusters.descendants(process.pid):
                with suppress(psutil.Error):
                    times = member.cpu_times()
                    seconds[member.pid] = times.user + times.system
            run.answers.append((time.monotonic(), lines, sum(seconds.values())))
        if each is not None:
            each(process.pid, lines)
        time.sleep(0.01)
    run.said, run.code = process.communicate()[0], process.returncode
    log.write_text(run.said)
    return run


def compare(folder: Path, model: str, rounds: int) -> None:
    """Runs in turns: are the files the same, and how fast is each?"""
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    costs: dict[str, list[float]] = {"local": [], "ray": []}
    for number, engine in itertools.product(range(rounds), rates):
        out = f"{'plain' if engine == 'local' else engine}{number}"
        run = predict(folder, model, out, engine)
        seconds, count, processors = run.over()
        rates[engine].append(count / seconds)
        costs[engine].append(1000 * processors / count)
        is_same = clusters.contents(folder / out) == clusters.contents(folder / "plain0")
        said = "".join(re.findall(r"Ray started in.*", run.said))
        print(
            f"{out}: exit {run.code}, {rates[engine][-1]:.2f} videos/s, {costs[engine][-1]:.0f} ms of processors",
            end="",
        )
        print(f" a video, files the same: {is_same}. {said}", flush=True)
    for what, found in (("rate", rates), ("processor time a video", costs)):
        ratio = statistics.median(found["ray"]) / statistics.median(found["local"])
        print(f"{what}, Ray against plain, medians of {rounds}: {ratio:.2f}", flush=True)


def killed(folder: Path, model: str, kind: str, plain: dict[str, bytes], options: argparse.Namespace) -> None:
    """Runs with a kill each, called again until they are done; are the files the same, with a line for each video?"""
    rng = random.Random(f"{options.seed} {kind}")
    same, calls, kept, lines = 0, 0, [], 0
    for number in range(options.kills):
        out, moment, told = f"killed-{kind}{number}", rng.randrange(options.videos * 9 // 10), [0]

        def each(pid: int, answers: int, moment: int = moment, told: list[int] = told) -> None:
            if answers >= moment and not told[0]:
                victims = [psutil.Process(pid)] if kind == "command" else clusters.workers(pid, kind)[:1]
                told[0] = clusters.kill(victims)

        run = predict(folder, model, out, "ray", each)
        calls += 1
        kept.append(clusters.num_lines(folder / out / LEDGER))
        while run.code not in (0, 1):
            run = predict(folder, model, out, "ray")
            calls += 1
        found = clusters.contents(folder / out)
        same += found == plain and told == [1]
        lines += found[LEDGER].count(b"\n") - plain[LEDGER].count(b"\n")
    print(
        f"{kind} killed {options.kills} times, {calls} calls, answers kept {kept}: files the same {same} times, "
        f"{lines} videos done again that were stored",
        flush=True,
    )


if __name__ == "__main__":
    main()
