"""Recordings in the MS-TCN layout, from their card alone: what the LSTM gains over single timesteps is predicted.

The drawer knows the chain its recordings come from, and so the best possible scores without time and with it.
"""

import csv
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.evaluation.frame_metrics import frame_metrics
from pipeline.synthetic_recordings import CLASSES, METRICS
from tests.conftest import ROOT, build
from tests.servers import dvc_repository
from tests.servers import run_in as run

pytestmark = pytest.mark.slow
SHARE = 0.8  # of the margin between the best scores with time and without, which the LSTM must gain
SLACK = 0.03  # by which the regression may miss the best scores without time, and the LSTM pass the best with it


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, str]:
    """A repository in which every stage has run, taken over by DVC, and what the stages printed."""
    root = dvc_repository(tmp_path_factory.mktemp("recordings"), ROOT)
    run(root, "lrcn", "synthesize", "--recordings")
    run(root, "lrcn", "select", "recordings")
    run(root, "lrcn", "code")
    with redirect_stdout(StringIO()) as printed:
        build(root, "frame", config="configs/recordings.yaml")
    run(root, "dvc", "commit", "--force", "--quiet")
    return root, printed.getvalue()


def scores_of(rows: list[dict[str, str]]) -> dict[str, float]:
    """Scores of a table of predictions, one row for each timestep."""
    videos: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        videos.setdefault(row["video_id"], []).append(row)
    truth, predicted = (
        [np.array([CLASSES.index(row[column]) for row in steps]) for steps in videos.values()]
        for column in ("label", "predicted")
    )
    assert len(videos) == 20
    return frame_metrics(truth, predicted, num_classes=len(CLASSES), background=0)


def test_all_stages_run_and_a_second_time_none(built):
    root, output = built
    assert len(yaml.safe_load((root / "dvc.lock").read_text())["stages"]) == 9  # `code` too
    for line in ("nothing to decode; 80 feature files read", "80 of 80 feature files imported"):
        assert line in output
    assert "Data and pipelines are up to date" in run(root, "dvc", "repro")


def test_the_lstm_gains_what_the_chain_predicts(built):
    root, _ = built
    expected = json.loads((root / "media/recordings/expected.json").read_text())["fold1"]
    (folder,) = (root / "artifacts/recordings/evaluations").iterdir()
    with (folder / "predictions.csv").open(newline="") as file:
        lstm = scores_of(list(csv.DictReader(file)))
    with (folder / "controls.csv").open(newline="") as file:
        single = scores_of([row for row in csv.DictReader(file) if row["control"] == "single_frame"])
    for name in METRICS:
        margin = expected["margin"][name]
        assert margin > 0.3
        # Accuracy is what Bayes' rule is best at; a fitted regression may have a point more or less of the others.
        assert single[name] == pytest.approx(expected["single_frame"][name], abs=SLACK + 0.02 * (name != "acc")), name
        assert lstm[name] - single[name] >= SHARE * margin, (name, lstm[name], single[name], expected)
        assert lstm[name] <= expected["whole_recording"][name] + SLACK, name
