"""A folder of short clips and bad files through `lrcn predict`: each answered for once, how fast, and after kills.

    python benchmarks/predict.py --model artifacts/demo/trainings/clip-rgb-fold1-seed0/model
        [--clips 2000] [--bad 100] [--kills 20] [--rounds 2] [--seed 0] [--folder FOLDER]

Draws clips of a second and bad files of every kind of tests/faults into nested folders, 40 of the clips under hostile
names, each file with bytes of its own. Then, through the command line: a run over all; one over the good ones alone,
whose rows must be the same bytes; a second call; `lrcn extract` over the same clips with the model's own backbone and
view, in turns with `lrcn predict`; and a run that is ended by SIGKILL at random moments and called again until it is
done, whose tables must be those of the first one. Files whose work a kill lost are those that had been opened (inotify
tells) and had no line in the ledger.
"""

import argparse
import csv
import ctypes
import json
import os
import platform
import random
import resource
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the bad files and hostile names of the tests

from pipeline.inference.ledger import LEDGER  # noqa: E402
from pipeline.models.modelspec import read_spec  # noqa: E402
from pipeline.synthetic import write_video  # noqa: E402
from tests.faults import damaged, unusable  # noqa: E402
from tests.stages.test_names import NAMES  # noqa: E402

TABLES = ("results.csv", "predictions.jsonl", "segments.csv")
NUM_DRAWN = 50  # clips that are drawn; the others are these with other bytes at the end
FPS, SIZE = 15, (96, 128)
IN_OPEN = 0x20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--bad", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="folder to work in (default: a temporary one)")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGHUP):  # what a shell has ignored in the background, its commands ignore too
        signal.signal(number, signal.default_int_handler)
    print(time.strftime("%Y-%m-%d"), platform.machine(), f"{len(os.sched_getaffinity(0))} cores", end=", ")
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() if options.folder is None else _kept(options.folder) as folder:
        run(options, Path(folder))


@contextmanager
def _kept(folder: Path) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    yield str(folder)


def run(options: argparse.Namespace, folder: Path) -> None:
    os.chdir(folder)
    good = draw(Path("inbox"), options.clips, options.bad, options.seed)
    Path("good.list").write_bytes(b"\0".join(map(os.fsencode, good)) + b"\0")
    predict = ["predict", "inbox", "--model", str(options.model.absolute()), "--out"]
    alone = ["predict", "--from", "good.list", *predict[2:]]

    watched(["predict", good[-1], *predict[2:], "one"], Path("one"))  # so that the disk cache is loaded
    whole = watched([*predict, "whole"], Path("whole"))
    rows = table("whole")
    found = len({row["path"] for row in rows}), len(rows)
    print(
        f"all: exit {whole.code}, {found[1]} rows, {found[0]} paths, of {options.clips + options.bad} files; ", end=""
    )
    print(f"{whole.seconds:.1f} s, first answer after {whole.first_seconds:.1f} s, peak {whole.peaks} MB by quarters")
    again = watched([*predict, "whole"], Path("whole"))
    print(f"second call: exit {again.code}, {again.seconds:.2f} s, {again.cpu_seconds:.2f} s of processors", flush=True)

    watched([*alone, "alone"], Path("alone"))
    is_equal = rows_of("whole", good) == rows_of("alone", good)
    print(f"rows of the {len(good)} good files the same bytes as without the bad ones: {is_equal}", flush=True)

    whole_bytes = size_of(Path("whole", LEDGER))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        print(f"{number.name}: " + ", ".join(ended([*predict, f"ended-{number}"], number, whole_bytes, options.seed)))
    compare_speed(options, alone)
    if options.kills:
        pause = whole.first_seconds + 1.5 * whole.seconds / options.kills
        outs = killed(options, [*predict, "killed"], pause)
        same = [Path(out, name).read_bytes() == Path("whole", name).read_bytes() for out in outs for name in TABLES]
        print(f"tables the same bytes as of the run that was not killed: {all(same)}")


def draw(inbox: Path, num_clips: int, num_bad: int, seed: int) -> list[str]:
    """Make the folder; returns the paths of the good files."""
    rng = np.random.default_rng(seed)
    drawn = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(min(NUM_DRAWN, num_clips)):
            grain = rng.integers(0, 90, (*SIZE, 1), dtype=np.uint8)
            pictures = []
            for step in range(FPS):
                picture = np.repeat(grain, 3, axis=2) + rng.integers(0, 8, (*SIZE, 3), dtype=np.uint8)
                left = step * 6 if number % 2 else (FPS - 1 - step) * 6
                picture[30:60, left : left + 24] = rng.integers(100, 256, 3)
                pictures.append(picture)
            write_video(Path(scratch, "a.mp4"), pictures, fps=FPS)
            drawn.append(Path(scratch, "a.mp4").read_bytes())
        good = []
        for number in range(num_clips):
            name = (
                NAMES[number] if number < len(NAMES) else f"{number // 500}/{number // 50 % 10}/{number}.mp4".encode()
            )
            path = inbox / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            # An empty box at the end of an MP4 file changes nothing but its hash.
            path.write_bytes(drawn[number % len(drawn)] + struct.pack(">I4sI", 12, b"free", number))
            good.append(str(path))
        faults = [*unusable.rows(), *damaged.rows()]
        for number in range(num_bad):
            fault = faults[number % len(faults)]
            path = inbox / f"{number % 4}" / f"bad {number}" / fault.name
            path.parent.mkdir(parents=True)
            fault.make(path)
    return good


class Run:
    """What was seen of one run of a command."""

    def __init__(self, code: int, seconds: float, cpu_seconds: float, first_seconds: float, samples: list[float]):
        self.code, self.seconds, self.cpu_seconds, self.first_seconds = code, seconds, cpu_seconds, first_seconds
        quarter = max(1, len(samples) // 4)
        self.peaks = [round(max(samples[at : at + quarter])) for at in range(0, len(samples), quarter)][:4]


def command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "off"}


def start(arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command(arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def watched(arguments: Sequence[str], out: Path) -> Run:
    """Run a command to its end; memory is the proportional set size of it and its children, in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin, first, samples = time.monotonic(), 0.0, []
    process = start(arguments)
    next_sample = begin
    while process.poll() is None:
        time.sleep(0.02)
        if not first and (out / LEDGER).exists() and (out / LEDGER).stat().st_size:
            first = time.monotonic() - begin
        if time.monotonic() > next_sample:
            next_sample = time.monotonic() + 1
            with suppress(psutil.Error):
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
                samples.append(sum(member.memory_full_info().pss for member in family) / 1e6)
    seconds = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(process.returncode, seconds, cpu, first, samples or [0.0])


def table(out: str) -> list[dict[str, str]]:
    with Path(out, "results.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def rows_of(out: str, paths: Sequence[str]) -> list[list[bytes]]:
    """What every table says of some files."""
    wanted, found = set(paths), []
    lines = Path(out, "predictions.jsonl").read_bytes().splitlines()
    found.append([line for line in lines if json.loads(line)["path"] in wanted])
    for name in ("results.csv", "segments.csv"):
        with Path(out, name).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            found.append([repr(row).encode() for row in csv.reader(file) if row[0] in wanted])
    return found


def ended(arguments: Sequence[str], number: signal.Signals, whole_bytes: int, seed: int) -> Iterator[str]:
    """Seconds from a signal to the end, and the exit code: while it loads, twice, and with half of the answers."""
    rng = random.Random(seed)
    for moment in (rng.uniform(0.3, 1.5), rng.uniform(2, 4), None):
        process, ledger = start(arguments), Path(arguments[-1], LEDGER)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment or 0.1)
        while moment is None and process.poll() is None and size_of(ledger) < whole_bytes / 2:
            time.sleep(0.02)
        begin = time.monotonic()
        process.send_signal(number)
        code = process.wait()
        when = f"after {moment:.1f} s" if moment else "half-way"
        yield f"{when}: exit {code} within {time.monotonic() - begin:.2f} s"


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def compare_speed(options: argparse.Namespace, predict: Sequence[str]) -> None:
    view = read_spec(options.model).view
    extract = ["extract", "--from", "good.list", "--backbone", read_spec(options.model).backbone]
    extract += ["--weights", str(options.model.absolute() / "backbone.safetensors"), "--fps", str(view.fps)]
    extract += ["--short-side", str(view.short_side), "--crop", str(view.crop), "--out"]
    ratios, cpu_ratios = [], []
    for number in range(options.rounds):
        first = watched([*extract, f"features-{number}"], Path())
        second = watched([*predict, f"speed-{number}"], Path())
        if first.code or second.code:
            print(f"lrcn extract ended with {first.code}, lrcn predict with {second.code}; expected 0 and 0")
            return
        ratios.append(first.seconds / second.seconds)
        cpu_ratios.append(first.cpu_seconds / second.cpu_seconds)
        print(f"extract {first.seconds:.1f} s ({first.cpu_seconds:.1f} of processors), ", end="")
        print(f"predict {second.seconds:.1f} s ({second.cpu_seconds:.1f}), load {os.getloadavg()[0]:.1f}", flush=True)
    if ratios:
        print(f"throughput over that of extraction: {statistics.median(ratios):.2f} by the clock, ", end="")
        print(f"{statistics.median(cpu_ratios):.2f} in processor time", flush=True)


def killed(options: argparse.Namespace, arguments: Sequence[str], pause_seconds: float) -> list[str]:
    """Kill the command at random moments and call it again until it is done, and all over until it was killed enough.

    Returns the folders of results.
    """
    rng, outs, lost, twice = random.Random(options.seed), [f"{arguments[-1]}-0"], list[int](), 0
    with Opened(Path("inbox")) as opened:
        while len(lost) < options.kills:
            process = start([*arguments[:-1], outs[-1]])
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0.2, pause_seconds))
            if process.returncode is not None:
                opened.taken()
                outs.append(f"{arguments[-1]}-{len(outs)}")
                continue
            process.kill()
            process.wait()
            lost.append(len(opened.taken() - answered(Path(outs[-1], LEDGER))))
    codes = {watched([*arguments[:-1], out], Path()).code for out in outs}
    for out in outs:
        counts: dict[str, int] = {}
        for line in Path(out, LEDGER).read_bytes().split(b"\n"):
            with suppress(ValueError):
                answer = json.loads(line)["answer"]
                counts[answer["path"]] = counts.get(answer["path"], 0) + (answer["status"] != "failed")
        twice += sum(count > 1 for count in counts.values())
    print(f"{len(lost)} kills in {len(outs)} runs, in the end exit {codes}: {twice} answers given twice; files under")
    print(f"way, looked at again, per kill: median {statistics.median(lost):g}, at most {max(lost)}", flush=True)
    return outs


def answered(ledger: Path) -> set[bytes]:
    """Paths of the whole lines of a ledger, from the root."""
    found = set()
    for line in ledger.read_bytes().split(b"\n") if ledger.exists() else []:
        with suppress(ValueError):
            found.add(os.path.abspath(os.fsencode(json.loads(line)["answer"]["path"])))  # noqa: PTH100
    return found


class Opened:
    """The files below a folder that anyone opens."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC)
        self._folders: dict[int, bytes] = {}
        for path, _, _ in os.walk(os.fsencode(folder.absolute())):
            self._folders[self._libc.inotify_add_watch(self._descriptor, path, IN_OPEN)] = path
        self._found: set[bytes] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while data := os.read(self._descriptor, 2**16):
                at = 0
                while at < len(data):
                    watch, _, _, size = struct.unpack_from("iIII", data, at)
                    name = data[at + 16 : at + 16 + size].rstrip(b"\0")
                    at += 16 + size
                    if name and watch in self._folders:
                        with self._lock:
                            self._found.add(os.path.join(self._folders[watch], name))  # noqa: PTH118

    def taken(self) -> set[bytes]:
        """Those since the last call."""
        time.sleep(0.2)  # until the last events are read
        with self._lock:
            found, self._found = self._found, set()
        return {path for path in found if os.path.isfile(path)}  # noqa: PTH113

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


if __name__ == "__main__":
    main()
