"""`lrcn predict` on a folder of clips and bad files, killed, ended, in shards, and while the folder fills up.

`benchmarks/predict.py` does the first of these with 2,000 clips, 100 bad files and 20 kills.
"""

import csv
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline import cli
from pipeline.features.store import FeatureStore
from pipeline.inference import recognizer
from pipeline.inference.ledger import LEDGER
from pipeline.inference.recognizer import Recognizer
from tests.conftest import decoding_children, run_unprivileged, untracked_in, wait_until, write_toy_video
from tests.faults import damaged, unusable
from tests.faults.case import Fault
from tests.stages.test_names import NAMES

pytestmark = pytest.mark.slow

CLIP, FRAME = (f"artifacts/toy/trainings/{task}-rgb-fold1-seed0/model" for task in ("clip", "frame"))
TABLES = ("results.csv", "predictions.jsonl", "segments.csv")
NUM_CLIPS, SEED = 42, 2026


def rows(out: Path | str) -> dict[str, dict[str, str]]:
    with Path(out, "results.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        found = list(csv.DictReader(file))
    by_path = {row["path"]: row for row in found}
    assert len(by_path) == len(found)
    return by_path


def tables(out: Path | str) -> dict[str, bytes]:
    return {name: Path(out, name).read_bytes() for name in TABLES}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def ledger_entries(out: Path | str) -> list[dict[str, str]]:
    """What each whole line of a ledger says."""
    found = []
    for line in Path(out, LEDGER).read_bytes().split(b"\n") if Path(out, LEDGER).exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line)["answer"])
    return found


@contextmanager
def running(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-P", "-m", "pipeline.cli", "predict", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def root(built_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the toy, being the working folder, with clips and bad files of every kind in nested folders."""
    root = tmp_path_factory.mktemp("folder") / "toy"
    shutil.copytree(built_toy, root, ignore=shutil.ignore_patterns("frames"))
    with untracked_in(root):
        clips = {}
        for number, label in enumerate(("left", "right")):
            write_toy_video(root / f"{label}.mp4", label, number)
            clips[label] = (root / f"{label}.mp4").read_bytes()
        for number in range(NUM_CLIPS):
            name = os.fsdecode(NAMES[number]) if number < len(NAMES) else f"deep/{number % 3}/{number}.mp4"
            path = Path("inbox") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # An empty box at the end of an MP4 file changes nothing but its hash.
            path.write_bytes(clips[("left", "right")[number % 2]] + struct.pack(">I4sI", 12, b"free", number))
        good = [path for path in Path("inbox").rglob("*") if path.is_file()]
        assert len(good) == NUM_CLIPS
        Path("good.list").write_bytes(b"\0".join(os.fsencode(path) for path in good) + b"\0")
        for number, fault in enumerate(faults()):
            path = Path("inbox") / f"{number % 4}" / f"bad {number}" / fault.name
            path.parent.mkdir(parents=True)
            fault.make(path)
        assert cli.main(["predict", "inbox", "--model", CLIP, "--out", "whole"]) == 1
        yield root


def faults() -> list[Fault]:
    return [*unusable.rows(), *damaged.rows()]


@pytest.fixture
def folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return root


def test_every_file_has_one_row_and_the_good_ones_the_same_as_without_the_bad_ones(folder, capsys):
    whole = rows("whole")
    assert len(whole) == NUM_CLIPS + len(faults())
    for number, fault in enumerate(faults()):
        row = whole[f"inbox/{number % 4}/bad {number}/{fault.name}"]
        assert row["status"] == fault.status, fault
        assert (row["label"] != "") == (fault.status != "rejected"), fault
        assert re.search(fault.reason, row["reason"]), fault
    assert cli.main(["predict", "--from", "good.list", "--model", CLIP, "--out", "alone"]) == 0
    alone = rows("alone")
    assert len(alone) == NUM_CLIPS
    assert alone == {path: whole[path] for path in alone}
    lines = set(Path("whole/predictions.jsonl").read_bytes().splitlines())
    assert set(Path("alone/predictions.jsonl").read_bytes().splitlines()) < lines


def test_killed_and_ended_it_gets_to_the_same_bytes_and_answers_nothing_twice(folder, capsys):
    """A kill costs the files that were being decoded or computed, and no answer that was there."""
    before = contents(Path("inbox"))
    rng, total = random.Random(SEED), len(rows("whole"))
    points = sorted(rng.sample(range(1, total * 3 // 4), 2))
    ends = [signal.SIGKILL, signal.SIGTERM]
    known: list[str] = []
    for point, number in zip(points, ends, strict=True):
        with running("inbox", "--model", CLIP, "--out", "killed") as process:
            wait_until(lambda: len(ledger_entries("killed")) >= point, process)  # noqa: B023
            children = decoding_children(process.pid)
            begin = time.monotonic()
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == (143 if number == signal.SIGTERM else -number), errors
        if number == signal.SIGTERM:
            assert errors.splitlines()[-1].startswith("lrcn predict: stopped")
            assert time.monotonic() - begin < 20
        assert psutil.wait_procs(children, timeout=10)[1] == []
        answered = [entry["path"] for entry in ledger_entries("killed") if entry["status"] != "failed"]
        assert answered[: len(known)] == known  # nothing that was there is lost
        known = answered
        assert not Path("killed/results.csv").exists()
    capsys.readouterr()
    assert cli.main(["predict", "inbox", "--model", CLIP, "--out", "killed"]) == 1
    assert f"{total} file(s), {total - len(known)} looked at now" in capsys.readouterr().out
    assert tables("killed") == tables("whole")
    final = [entry["path"] for entry in ledger_entries("killed")]
    assert len(final) == len(set(final)) == total
    assert contents(Path("inbox")) == before
    assert not list(Path("killed").glob(".*.tmp"))


def test_shards_do_each_file_once_and_the_call_without_them_gathers_it_all(folder, monkeypatch, capsys):
    command = ["predict", "--from", "good.list", "--model", CLIP, "--out", "sharded"]
    counts = []
    for number in (1, 2, 3):
        assert cli.main([*command, "--shard", f"{number}/3"]) == 0
        assert f"shard {number}/3, " in capsys.readouterr().out
        counts.append(len(ledger_entries(f"sharded/.shards/{number}-of-3")))
        assert sorted(path.name for path in Path("sharded").iterdir()) == [".shards", "thumbnails"]
    assert sum(counts) == NUM_CLIPS
    assert min(counts) > NUM_CLIPS / 6
    assert cli.main([*command, "--shard", "2/3"]) == 0  # again: there is nothing to do
    assert ", 0 looked at now" in capsys.readouterr().out

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what shards have answered must not load the model")

    monkeypatch.setattr(recognizer, "load_model", never)
    from pipeline.files import locked

    with locked(Path("sharded/.shards/3-of-3")):
        assert cli.main(command) == 2
    assert "sharded/.shards/3-of-3: process" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert f"0 looked at now, {NUM_CLIPS - sum(counts[:2])} answer(s) taken from shards" in capsys.readouterr().out
    alone = {path: row for path, row in rows("whole").items() if path in rows("sharded")}
    assert len(alone) == NUM_CLIPS
    assert rows("sharded") == alone
    assert cli.main(command) == 0
    assert "taken" not in capsys.readouterr().out


def test_a_folder_that_fills_up_is_watched(folder, tmp_path):
    drop = tmp_path / "drop"
    drop.mkdir()
    out = drop / "out"  # inside the watched folder: never an input

    def label_of(name: str) -> str | None:
        with suppress(FileNotFoundError):
            row = rows(out).get(str(drop / name))
            return row and (row["label"] or row["status"])
        return None

    def names() -> list[str]:
        return sorted(Path(path).name for path in rows(out))

    with running(str(drop), str(drop / "*.none"), "--model", CLIP, "--out", str(out), "--watch", "0.5") as process:
        wait_until(out.exists, process)
        shutil.copy("left.mp4", drop / "a.mp4")
        (drop / "text.mp4").write_text("no video")
        growing = (drop / "growing.mp4").open("wb")
        data = Path("right.mp4").read_bytes()
        for at in range(0, len(data), len(data) // 20 + 1):  # it is written on for as long as all the others take
            growing.write(data[at : at + len(data) // 20 + 1])
            growing.flush()
            time.sleep(0.1)
        while label_of("a.mp4") != "left":
            growing.write(struct.pack(">I4sI", 12, b"free", 0))
            growing.flush()
            time.sleep(0.1)
            assert process.poll() is None
        assert label_of("text.mp4") == "rejected"
        assert label_of("growing.mp4") is None
        growing.close()
        wait_until(lambda: label_of("growing.mp4") == "right", process)
        shutil.copy("right.mp4", drop / "text.mp4")
        wait_until(lambda: label_of("text.mp4") == "right", process)
        (drop / "a.mp4").unlink()
        wait_until(lambda: names() == ["growing.mp4", "text.mp4"], process)
        wait_until(lambda: "a.mp4" not in (out / "report.html").read_text(encoding="utf-8"), process)  # written last
        time.sleep(0.2)
        drop.rename(tmp_path / "away")
        time.sleep(1.2)
        assert not drop.exists()  # nothing is made in its place
        (tmp_path / "away").rename(drop)
        shutil.copy("left.mp4", drop / "b.mp4")
        wait_until(lambda: label_of("b.mp4") == "left", process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert names() == ["b.mp4", "growing.mp4", "text.mp4"]
    assert "growing.mp4" in next(line for line in errors.splitlines() if "still being written" in line)
    assert errors.count("rejected: ") == 1
    assert errors.count("; waiting for it") == 1
    assert sum(map(int, re.findall(r"(\d+) looked at now", output))) == 5  # text.mp4 twice
    answers = [entry["path"] for entry in ledger_entries(out)]
    assert answers.count(str(drop / "growing.mp4")) == 1
    assert "b.mp4" in (out / "report.html").read_text(encoding="utf-8")  # though it ended while that was to be written
    assert {path.name for path in drop.iterdir()} == {"b.mp4", "growing.mp4", "text.mp4", "out"}


def test_a_watch_that_is_ended_in_the_middle_writes_what_is_there(folder):
    with running("inbox", "--model", CLIP, "--out", "ended", "--watch", "0.3") as process:
        wait_until(lambda: len(ledger_entries("ended")) >= 10, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = rows("ended")
    assert 10 <= len(found) == len(ledger_entries("ended"))
    assert found == {path: row for path, row in rows("whole").items() if path in found}
    assert f"{len(found)} file(s), {len(found)} looked at now" in output


def test_a_path_that_is_asked_for_twice_is_answered_twice(folder):
    with Recognizer.load(CLIP, device="cpu") as loaded:
        for in_order in (True, False):
            answers = list(loaded.predict_files(["left.mp4", "none.mp4", "left.mp4"], in_order=in_order))
            found = sorted((answer.path, answer.status, answer.label) for answer in answers)
            assert found == [("left.mp4", "ok", "left"), ("left.mp4", "ok", "left"), ("none.mp4", "failed", "")]


def test_an_output_folder_that_cannot_be_written_is_found_before_anything_is_decoded(folder, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    command = ["-m", "pipeline.cli", "predict", "left.mp4", "--model", CLIP, "--out"]
    for out in (tmp_path / "closed", tmp_path / "closed/out"):
        done = run_unprivileged(*command, str(out))
        assert done.returncode == 2
        assert f"lrcn predict: {out}: cannot be written (Permission denied)".encode() in done.stderr
        assert done.stdout == b""


@pytest.mark.parametrize("model", [CLIP, FRAME])
def test_the_scores_of_a_folder_are_those_of_the_test_split(folder, model, request):
    """To the bit: what `evaluate` computes from stored features, and what is computed from the files."""
    task = "clip" if model == CLIP else "frame"
    evaluation = folder / f"artifacts/toy/evaluations/{task}-rgb-fold1-seed0/predictions.csv"
    with evaluation.open(newline="") as file:
        tested: dict[str, list[dict[str, str]]] = {}
        for row in csv.DictReader(file):
            tested.setdefault(f"media/toy/{row['video_id']}", []).append(row)
    assert cli.main(["predict", *tested, "--model", model, "--out", f"test-{task}"]) == 0
    found = rows(f"test-{task}")
    lines = Path(f"test-{task}/predictions.jsonl").read_text().splitlines()
    scores = {line["path"]: line["scores"] for line in map(json.loads, lines)}
    with (folder / "artifacts/toy/videos.csv").open(newline="") as file:
        sha256 = {f"media/toy/{row['video_id']}": row["sha256"] for row in csv.DictReader(file)}
    assert set(found) == set(tested)
    assert len(tested) >= 4
    with Recognizer.load(model, device="cpu") as loaded:
        key = loaded.model.spec.features_key
        store = FeatureStore(folder / "artifacts/toy/features/shared", key)
        for answer in loaded.predict_files(list(tested)):
            expected = loaded.model.predict(store.read(sha256[answer.path]), key)
            table = tested[answer.path]
            if task == "clip":
                assert np.float32([*answer.scores.values()]).tobytes() == expected.tobytes()
                assert found[answer.path]["label"] == table[0]["predicted"]
                assert found[answer.path]["score"] == table[0]["score"]
                for name in loaded.model.classes:
                    assert scores[answer.path][name] == float(table[0][name])
            else:
                assert answer.timesteps is not None
                assert answer.timesteps.probabilities.tobytes() == expected.tobytes()
                assert len(table) == len(expected)
                for row, probs in zip(table, answer.timesteps.probabilities, strict=True):
                    assert [float(row[name]) for name in loaded.model.classes] == [round(float(p), 6) for p in probs]
                predicted = [row["predicted"] for row in table]
                for name in loaded.model.classes:
                    share = predicted.count(name) / len(predicted)
                    assert scores[answer.path][name] == round(share, 6)
