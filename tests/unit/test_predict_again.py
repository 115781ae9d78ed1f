"""`lrcn predict` once more into the same folder: killed at any call that writes, with another model, after shards."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.files import MACHINE
from pipeline.inference import predict as predicting
from pipeline.inference import recognizer
from pipeline.inference.given import read_given
from pipeline.inference.ledger import LEDGER

# Each run is a child of its own, of one process that has loaded all; it dies at the n-th call that writes.
DYING = """
import json, os, signal, sys
from pathlib import Path
from pipeline import cli
from pipeline.inference import predict, recognizer

def dying_at(point):
    calls = 0
    def wrapped(function):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)
        return call
    os.fsync, os.write = wrapped(os.fsync), wrapped(os.write)
    Path.replace, Path.unlink = wrapped(Path.replace), wrapped(Path.unlink)

codes = []
for point, arguments in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        os.dup2(2, 1)
        dying_at(point)
        os._exit(cli.main(arguments))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@pytest.fixture
def models(
    make_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    """Two frame models of ready-made features, and files for them in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    Path("in").mkdir()
    for number in range(3):
        np.save(f"in/{number}.npy", np.random.default_rng(number).normal(0, 3, (40, 5)).astype(np.float32))
    Path("in/bad.npy").write_bytes(b"no array")
    first, second = (str(make_model("frame", seed).folder) for seed in (1, 2))
    return first, second


def command(model: str, out: str) -> list[str]:
    return ["predict", "in", "--model", model, "--out", out, "--min-duration", "0.3", "--export", "fiftyone"]


def contents(out: str) -> dict[str, bytes]:
    """What is in a folder of results but its ledgers."""
    found = [path for path in Path(out).rglob("*") if path.is_file() and path.name != LEDGER]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def test_what_killed_writers_left_goes_from_every_folder(models):
    assert cli.main(command(models[0], "out")) == 1
    folders = [Path("out"), *(path for path in Path("out").rglob("*") if path.is_dir())]
    assert Path("out/exports/fiftyone") in folders
    for folder in folders:
        (folder / f".half.{MACHINE}{'0' * 20}.tmp").touch()
    assert cli.main(command(models[0], "out")) == 1
    assert not list(Path("out").rglob("*.tmp"))


def test_what_shards_said_counts_only_with_the_scores_of_the_same_model(models, capsys):
    """The scores at timesteps lie in one place for all models; those of another must not shape this one's segments."""
    first, second = models
    assert cli.main(command(first, "expected")) == 1
    assert cli.main(["predict", "in", "--model", first, "--out", "out", "--shard", "1/1"]) == 1
    assert cli.main(command(second, "out")) == 1
    capsys.readouterr()
    assert cli.main(command(first, "out")) == 1
    assert "4 file(s), 3 looked at now, 4 answer(s) taken from shards" in capsys.readouterr().out
    assert contents("out") == contents("expected")
    for path in Path("out/frames").iterdir():
        assert pq.read_schema(path).metadata == pq.read_schema(Path("expected/frames", path.name)).metadata


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [
        (Path.unlink, "cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(b"more"), "changed while it was read; run again when it is complete"),
    ],
)
def test_a_file_that_goes_or_changes_while_it_is_read_has_no_answer(models, meanwhile, reason, monkeypatch):
    def read(path: Path, *arguments: Any) -> Any:
        features = read_given(path, *arguments)
        if path.name == "1.npy":
            meanwhile(path)
        return features

    monkeypatch.setattr(recognizer, "read_given", read)
    assert cli.main(command(models[0], "out")) == 1
    with Path("out/results.csv").open(newline="") as file:
        found = {row["path"]: (row["status"], row["reason"], row["label"] != "") for row in csv.DictReader(file)}
    assert found["in/1.npy"] == ("failed", reason, False)
    assert found["in/0.npy"] == found["in/2.npy"] == ("ok", "", True)
    assert sorted(path.name[:2] for path in Path("out/frames").iterdir()) == ["0.", "2."]


@pytest.mark.parametrize("name", ["frames", "results.csv", "report.html", "subtitles", "exports"])
def test_something_else_in_the_place_of_a_result_is_an_error_in_one_line(models, name, capsys):
    Path("out").mkdir()
    if "." in name:
        Path("out", name).mkdir()
    else:
        Path("out", name).touch()
    assert cli.main(command(models[0], "out")) == 2
    said = capsys.readouterr().err.split("(it reaches 0.8: --precision 0.8)\n")[-1]
    assert re.fullmatch(rf"lrcn predict: out/{name}(/[\w.-]+)?: (File exists|(Is|Not) a directory); see to .+\n", said)


def test_nothing_to_do_needs_no_pytorch():
    """It takes most of the time that a second run may take."""
    code = f"import sys, {predicting.__name__}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_killed_at_any_call_that_writes_it_gets_to_the_same_bytes_with_either_model(models):
    """From a folder of the first model's results, with the second model; then to the end with one or the other."""
    expected = []
    for model in models:
        assert cli.main(command(model, "out")) == 1
        expected.append(contents("out"))
        shutil.rmtree("out")
    assert cli.main(command(models[0], "base")) == 1
    points = [3, 8, 13, 18, 24, 30, 37, 44]  # answers, tables, subtitles, exports, page
    runs: list[tuple[int, list[str]]] = []
    for point in points:
        shutil.copytree("base", f"{point}")
        runs.append((point, command(models[1], f"{point}")))
        runs.append((0, command(models[point % 2], f"{point}")))
    done = subprocess.run(
        [sys.executable, "-c", DYING, json.dumps(runs)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [-9, 1] * len(points), done.stderr
    for point in points:
        assert contents(f"{point}") == expected[point % 2], point
