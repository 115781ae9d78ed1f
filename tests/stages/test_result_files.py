"""Every file that `lrcn predict` writes about an untrimmed recording says the same, read by a reader of its own."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.inference.answers import output_name
from pipeline.inference.timesteps import read_timesteps, timesteps_path
from pipeline.synthetic import write_video
from tests.conftest import square_frames
from tests.resultreaders import read_activitynet, read_eaf, read_fiftyone, read_label_studio, read_srt, read_vtt

pytestmark = pytest.mark.slow
FPS = 10
MODELS = "artifacts/toy/trainings/{}-rgb-fold1-seed0/model"
EXPORTS = [f"--export={name}" for name in ("activitynet", "elan", "fiftyone", "label-studio")]


@pytest.fixture
def recording(toy) -> str:
    """Three minutes in which the square moves right, rests, moves left, rests, again and again."""
    turn = [0] * 9 + list(range(0, 22, 2)) + [20] * 9 + list(range(20, -2, -2))
    path = toy / "inbox" / "three & a half <turns>.mp4"
    path.parent.mkdir()
    write_video(path, square_frames((turn * 45)[: 180 * FPS], (255, 160, 90), 7), fps=FPS)
    return str(path.relative_to(toy))


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def assert_all_say(expected: list[tuple[float, float, str]], recording: str) -> None:
    name, exports = output_name(recording), Path("out/exports")
    times, labels = np.array([(start, end) for start, end, _ in expected]), [label for _, _, label in expected]
    eaf, _, url = read_eaf(exports / "elan" / f"{name}.eaf")
    assert url == f"file://{Path.cwd()}/{recording}"
    for found, tolerance in (
        (read_vtt(Path(f"out/subtitles/{name}.vtt").read_text(encoding="utf-8")), 1e-9),
        (read_srt(Path(f"out/subtitles/{name}.srt").read_text(encoding="utf-8")), 1e-9),
        (eaf, 1e-9),
        (read_activitynet(exports / "activitynet.json")[recording], 1e-9),
        (read_label_studio(exports)[recording], 1 / FPS),
        (read_fiftyone(exports / "fiftyone", FPS)[str(Path.cwd() / recording)], 1 / FPS),
    ):
        assert [label for _, _, label in found] == labels
        assert np.abs(np.array([(start, end) for start, end, _ in found]) - times).max() <= tolerance


def test_a_frame_model_on_three_minutes(recording, capsys):
    arguments = ["predict", recording, "--model", MODELS.format("frame"), "--out", "out", *EXPORTS]
    assert cli.main([*arguments, "--min-duration", "0.3", "--merge-gap", "0.3"]) == 0
    found = [(float(r["start_seconds"]), float(r["end_seconds"]), r["label"]) for r in table("out/segments.csv")]
    assert {label for _, _, label in found} == {"left", "right"}
    assert len(found) >= 45
    assert min(end - start for start, end, _ in found) >= 0.3 - 1e-9
    assert_all_say(found, recording)

    steps = read_timesteps(Path("out"), recording)
    assert len(steps.time_seconds) == 180 * FPS
    np.testing.assert_allclose(steps.probabilities.sum(axis=1), 1, atol=1e-5)
    (answer,) = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
    shares = np.bincount(steps.probabilities.argmax(axis=1), minlength=3) / len(steps.time_seconds)
    assert answer["score"] == pytest.approx(max(shares[1:]), abs=1e-6)

    # Without options the segments are the runs themselves; nothing is looked at again for that.
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "0 looked at now" in capsys.readouterr().out
    runs = 1 + np.flatnonzero(np.diff(steps.probabilities.argmax(axis=1)))
    best = steps.probabilities.argmax(axis=1)[np.r_[0, runs]]
    assert len(table("out/segments.csv")) == (best != 0).sum() >= len(found)

    # A table of scores that is gone is made again.
    timesteps_path(Path("out"), recording).unlink()
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "1 looked at now" in capsys.readouterr().out
    np.testing.assert_array_equal(read_timesteps(Path("out"), recording).probabilities, steps.probabilities)


def test_a_clip_model_on_three_minutes_reads_windows(recording, capsys):
    arguments = ["predict", recording, "media/toy/left/g00.mp4", "--model", MODELS.format("clip"), "--out", "out"]
    assert cli.main([*arguments, *EXPORTS]) == 0
    rows = [row for row in table("out/segments.csv") if row["path"] == recording]
    starts, ends = [float(row["start_seconds"]) for row in rows], [float(row["end_seconds"]) for row in rows]
    assert starts[1] < ends[0]  # windows as they are: each begins in the middle of the one before
    assert (starts[0], ends[-1]) == (0.0, 180.0)
    timeline = read_vtt(Path(f"out/subtitles/{output_name(recording)}.vtt").read_text())
    assert (timeline[0][0], timeline[-1][1]) == (0.0, 180.0)
    assert all(end == start for (_, end, _), (start, _, _) in pairwise(timeline))
    assert_all_say(timeline, recording)
    assert len(list(Path("out/subtitles").iterdir())) == 2  # a clip that was read at once has no subtitles

    assert cli.main([*arguments, "--min-duration", "1"]) == 2
    assert "--min-duration is for frame models" in capsys.readouterr().err
