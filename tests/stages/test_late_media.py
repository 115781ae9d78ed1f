"""Media that come while a run is under way: DVC hashes the folder after the stage, so that nobody would look again."""

import csv
import shutil
from pathlib import Path

import pytest

from pipeline.data import scan
from pipeline.stages import index
from tests.conftest import run_stage, write_toy_video

pytestmark = pytest.mark.slow
ROOT = Path("artifacts/toy")


def names() -> list[str]:
    with (ROOT / "videos.csv").open(newline="") as file:
        return [row["video_id"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("moment", ["size_and_hash", "write_index"])
def test_a_video_that_comes_while_index_runs_is_in_its_tables(toy, monkeypatch, moment):
    """At the first file that is hashed, or when the tables are just written."""
    monkeypatch.setattr(scan, "SECONDS_BETWEEN_LISTINGS", 0.0)
    module = {"size_and_hash": scan, "write_index": index}[moment]
    original, late = getattr(module, moment), Path("media/toy/right/late.mp4")

    def and_a_video_comes(*arguments):
        if not late.exists():
            write_toy_video(late, "right", 90)
        return original(*arguments)

    monkeypatch.setattr(module, moment, and_a_video_comes)
    assert "right/late.mp4" not in names()
    run_stage("index")
    assert "right/late.mp4" in names()
    assert len(names()) == 63


def test_decode_says_what_came_after_index(toy, capsys):
    run_stage("decode")
    assert "have come" not in capsys.readouterr().out
    write_toy_video(Path("media/toy/right/late.mp4"), "right", 90)
    shutil.copy("media/toy/right/late.mp4", "media/toy/right/later.mp4")
    run_stage("decode")
    printed = capsys.readouterr().out
    assert "decode: 2 file(s) have come to media/toy since `index` listed it, 'right/late.mp4' first" in printed
    assert "`dvc repro` again, with `--force index@toy` if it finds nothing to do" in printed
    assert "decode: 0 of 60 videos decoded" in printed


def test_decode_needs_no_media_when_all_frames_are_there(toy, capsys):
    shutil.rmtree("media")
    run_stage("decode")
    assert "decode: 0 of 60 videos decoded" in capsys.readouterr().out
