"""Real files that video readers get wrong, against values measured by an independent program (see their README)."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import RejectedVideo
from pipeline.video.reader import VideoReader, check_file, read_header

FOLDER = Path(__file__).parents[2] / "../shared/data/edge-cases"
EXPECTED = FOLDER / "expected.csv"
NUM_FILES = 50
LONG = {"long_1080p_lowbitrate.mp4", "long_180p_av1.mp4"}
# They take long to decode, so only in the full run.
HEAVY = {"8k24fps_300ms.mp4", "sample.video.mp4", "edit_list_positive_shift.mp4", "sample_vvc.mp4"}


def expected_rows() -> list[dict[str, str]]:
    if not EXPECTED.is_file():
        return []
    with EXPECTED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


ROWS = expected_rows()
FILES = [
    pytest.param(row, id=row["file"], marks=[pytest.mark.slow] if row["file"] in LONG | HEAVY else []) for row in ROWS
]
needs_files = pytest.mark.skipif(not ROWS, reason=f"{EXPECTED} is not there: the edge-case files are kept apart")


@needs_files
def test_all_files_are_there() -> None:
    assert len(ROWS) == NUM_FILES
    assert [row["file"] for row in ROWS if not (FOLDER / row["file"]).is_file()] == []


@needs_files
@pytest.mark.parametrize("row", FILES)
def test_the_verdict_on_an_edge_case(row: dict[str, str]) -> None:
    verdict = check_file(FOLDER / row["file"])
    found = {
        "outcome": verdict.status,
        "num_frames": verdict.num_frames,
        "width": verdict.width,
        "height": verdict.height,
        "rotation_degrees": verdict.rotation_degrees,
        "codec": verdict.codec,
        "pixel_format": verdict.pixel_format,
    }
    expected = {name: type(value)(row[name]) for name, value in found.items() if row[name]}
    assert {name: found[name] for name in expected} == expected, verdict
    for name, value in (
        ("first_pts_seconds", verdict.first_pts_seconds),
        ("duration_seconds", verdict.duration_seconds),
    ):
        if row[name]:
            assert value == pytest.approx(float(row[name]), abs=1e-6), name
    assert bool(verdict.reason) == (verdict.status != "ok")
    assert "\n" not in verdict.reason


@needs_files
@pytest.mark.slow
def test_the_command_says_of_all_edge_cases_what_is_expected() -> None:
    command = [sys.executable, "-P", "-m", "pipeline.cli", "check", "--json", str(FOLDER)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    found = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    for row in ROWS:
        answer = found[row["file"]]
        assert answer["status"] == row["outcome"], row["file"]
        for name in ("num_frames", "width", "height", "rotation_degrees"):
            assert str(answer[name]) == (row[name] or str(answer[name])), (row["file"], name)
    others = {"README.md", "expected.csv", *(path.name for path in (FOLDER / "LICENSES").iterdir())}
    assert set(found) == {row["file"] for row in ROWS} | others


@needs_files
@pytest.mark.parametrize("row", FILES)
def test_frames_and_header_of_an_edge_case(row: dict[str, str]) -> None:
    reader = VideoReader(FOLDER / row["file"])
    if row["outcome"] == "rejected":
        with pytest.raises(RejectedVideo, match=r"\w"):
            list(reader.frames(fps=8, short_side=32))
        return
    frames = 0
    for frame in reader.frames(fps=8, short_side=32):
        assert frame.time_seconds == frames / 8
        height, width = frame.i420.shape[0] * 2 // 3, frame.i420.shape[1]
        assert min(width, height) == 32
        assert (width > height) <= (int(row["width"]) > int(row["height"]))
        frames += 1
    assert reader.verdict.status == row["outcome"]
    assert frames >= 1
    assert frames / 8 >= float(row["duration_seconds"]) - 1e-6
    header = read_header(FOLDER / row["file"])
    assert (header.codec, header.width, header.height, header.rotation_degrees) == (
        row["codec"],
        int(row["width"]),
        int(row["height"]),
        int(row["rotation_degrees"]),
    )
