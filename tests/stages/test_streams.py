"""Two streams and two seeds through the stages: what is written where, and that the fusion is what it says."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import cli
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.fusion import WEIGHTS
from tests.conftest import describe_toy, run_stage, undrawn, untracked_in
from tests.pagenumbers import Page

EVALUATIONS = Path("artifacts/toy/evaluations")
FLOW = """
flow:
  method: dis
  backbone: {name: squeezenet1_1, weights: random}
  train:
    clip: {hidden_size: 16, epochs: 4, lr: 0.01, batch_size: 8, dropout: 0.0}
    frame: {hidden_size: 16, epochs: 4, lr: 0.01, batch_size: 8, dropout: 0.0}
  weight: validation
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scores(name: str) -> dict:
    return json.loads((EVALUATIONS / name / "metrics.json").read_text())


def pooled() -> dict:
    return json.loads(Path("artifacts/toy/metrics.json").read_text())


@pytest.fixture(scope="module")
def built_streams(built_toy, tmp_path_factory) -> Path:
    """The built toy with a flow stream and a second seed."""
    root = tmp_path_factory.mktemp("streams") / "toy"
    shutil.copytree(built_toy, root)
    with untracked_in(root), undrawn():
        config = Path("configs/toy.yaml")
        config.write_text(config.read_text().replace("flow: null", FLOW).replace("num_seeds: 1", "num_seeds: 2"))
        for stage in ("finetune", "extract"):
            run_stage(stage, "--stream", "flow")
        for task in ("clip", "frame"):
            for stream, seed in (("rgb", "1"), ("flow", "0"), ("flow", "1")):
                run_stage("train", "--task", task, "--stream", stream, "--seed", seed)
                run_stage("evaluate", "--task", task, "--stream", stream, "--seed", seed)
            for seed in ("0", "1"):
                run_stage("fuse", "--task", task, "--seed", seed)
        run_stage("report")
    return root


@pytest.fixture
def streams(built_streams, tmp_path, monkeypatch) -> Path:
    """A copy of it, being the working folder; tracking is off."""
    root = tmp_path / "toy"
    shutil.copytree(built_streams, root, ignore=shutil.ignore_patterns("frames", "media", "features"))
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return root


@pytest.mark.slow
def test_every_stream_and_seed_has_a_folder_of_its_own(built_streams, streams):
    names = {
        f"{task}-{stream}-fold1-seed{seed}"
        for task in ("clip", "frame")
        for stream in ("rgb", "flow")
        for seed in (0, 1)
    }
    assert {path.name for path in Path("artifacts/toy/trainings").iterdir()} == names
    fused = {name.replace("flow", "fused") for name in names if "flow" in name}
    assert {path.name for path in EVALUATIONS.iterdir()} == names | fused
    assert {path.name for path in (built_streams / "artifacts/toy/features").iterdir()} == {
        "shared", "shared.csv", "flow-shared", "flow-shared.csv",
    }  # fmt: skip
    weights = {(Path("artifacts/toy/trainings") / name / "model/model.safetensors").read_bytes() for name in names}
    assert len(weights) == len(names)


@pytest.mark.slow
def test_the_validation_side_is_answered_in_the_same_form(streams):
    for task, videos in (("clip", 4), ("frame", 2)):
        folder = EVALUATIONS / f"{task}-rgb-fold1-seed0"
        validation, predictions = rows(folder / "validation.csv"), rows(folder / "predictions.csv")
        assert list(validation[0]) == list(predictions[0])
        assert {row["group"] for row in validation} == {"g04", "g05"}
        assert len({row["video_id"] for row in validation}) == videos
        assert {row["group"] for row in predictions} == {"g00", "g01", "g02", "g03"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_fusion_is_the_weighted_mean_of_the_two_tables(streams, seed):
    tables = {
        stream: {row["video_id"]: float(row["left"]) for row in rows(EVALUATIONS / name / "predictions.csv")}
        for stream in ("rgb", "flow", "fused")
        for name in [f"clip-{stream}-fold1-seed{seed}"]
    }
    found = scores(f"clip-fused-fold1-seed{seed}")
    weight = found["fusion"]["flow_weight"]
    assert weight in WEIGHTS
    assert len(tables["fused"]) == 8
    temperature = found["calibration"]["temperature"]
    for video, left in tables["fused"].items():
        mean = (1 - weight) * tables["rgb"][video] + weight * tables["flow"][video]
        expected = mean ** (1 / temperature) / (mean ** (1 / temperature) + (1 - mean) ** (1 / temperature))
        assert left == pytest.approx(expected, abs=1e-5)
    alone = {stream: scores(f"clip-{stream}-fold1-seed{seed}")["test"]["video"]["top1"] for stream in ("rgb", "flow")}
    for stream, top1 in alone.items():
        control = found["controls"][stream]
        assert control["top1"] == top1
        assert control["difference"] == pytest.approx(found["test"]["video"]["top1"] - top1)
    assert {"per_class.csv", "confusion.csv", "controls.csv"} <= {
        path.name for path in (EVALUATIONS / f"clip-fused-fold1-seed{seed}").iterdir()
    }


@pytest.mark.slow
def test_the_frame_task_is_fused_step_by_step(streams):
    fused = rows(EVALUATIONS / "frame-fused-fold1-seed0/predictions.csv")
    rgb = rows(EVALUATIONS / "frame-rgb-fold1-seed0/predictions.csv")
    flow = {
        (row["video_id"], row["time_seconds"]): row
        for row in rows(EVALUATIONS / "frame-flow-fold1-seed0/predictions.csv")
    }
    weight = scores("frame-fused-fold1-seed0")["fusion"]["flow_weight"]
    temperature = scores("frame-fused-fold1-seed0")["calibration"]["temperature"]
    named = ("video_id", "group", "step", "time_seconds", "label")
    assert [[row[name] for name in named] for row in fused] == [[row[name] for name in named] for row in rgb]
    for both, one in zip(fused, rgb, strict=True):
        other = flow.get((one["video_id"], one["time_seconds"]), one)
        mean = [(1 - weight) * float(one[name]) + weight * float(other[name]) for name in ("rest", "left", "right")]
        powers = [value ** (1 / temperature) for value in mean]
        expected = [power / sum(powers) for power in powers]
        assert [float(both[name]) for name in ("rest", "left", "right")] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_scores_are_means_over_the_seeds(streams, capsys):
    found = pooled()
    assert {task: list(streams) for task, streams in found.items()} == {
        task: ["rgb", "flow", "fused"] for task in ("clip", "frame")
    }
    assert [stream for stream, own in found["clip"].items() if "reversed_opposite" in own] == ["rgb"]
    for stream, own in found["clip"].items():
        each = [scores(f"clip-{stream}-fold1-seed{seed}")["test"]["video"] for seed in (0, 1)]
        for name in ("top1", "auc"):
            values = [one[name] for one in each]
            assert own["test"]["video"][name] == pytest.approx(np.mean(values))
            assert own["deviation"][name] == pytest.approx(np.std(values, ddof=1))
            assert [own["seeds"][seed][name] for seed in ("0", "1")] == pytest.approx(values)
            assert f"{name}_low" in own["test"]["video"]
    assert cli.main(["results", "artifacts/toy"]) == 0
    out = capsys.readouterr().out
    assert "toy, clip task, both streams: 8 test videos" in out
    assert "the mean over 2 seeds ±" in out
    assert "optical flow, or RGB where there is no flow" in out


@pytest.mark.slow
def test_calibration_over_streams_and_seeds(streams):
    found = pooled()
    for task, level in (("clip", "video"), ("frame", "frame")):
        for stream in ("rgb", "flow", "fused"):
            each = [scores(f"{task}-{stream}-fold1-seed{seed}")["calibration"] for seed in (0, 1)]
            own = found[task][stream]["calibration"]
            assert own["wanted_precision"] == 0.9
            for name in ("ece_before", "ece_after", "coverage"):
                assert own[name] == pytest.approx(np.mean([one[name] for one in each]))
            assert own["temperature"] == pytest.approx(np.sqrt(each[0]["temperature"] * each[1]["temperature"]))
            assert own["num_without_threshold"] == sum(one["threshold"] is None for one in each)
            if task == "clip":
                assert own["ece_after"] == pytest.approx(found[task][stream]["test"][level]["ece"], abs=1e-5)
    table = rows(EVALUATIONS / "clip-fused-fold1-seed0/predictions.csv")
    threshold = scores("clip-fused-fold1-seed0")["calibration"]["threshold"]
    assert [row["sure"] for row in table] == [
        str(int(threshold is not None and float(row["score"]) >= threshold - 1e-6)) for row in table
    ]


@pytest.mark.slow
def test_the_page_shows_the_streams(streams):
    page = " ".join(Path("artifacts/toy/report.html").read_text().split())
    assert re.search(r"<td[^>]*>both streams</td>", page)
    assert "the mean over 2 seeds" in " ".join("".join(Page(page).text).split())
    assert 'id="clip-fused-fold1-seed0"' in page
    assert 'id="clip-fused-fold1-seed1"' not in page
    assert "chosen on the validation side of each fold" in page


@pytest.mark.slow
def test_a_given_weight_is_taken_and_the_test_side_chooses_nothing(streams, capsys):
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("weight: validation", "weight: 0.25"))
    run_stage("fuse", "--task", "clip")
    chosen = scores("clip-fused-fold1-seed0")
    path = EVALUATIONS / "clip-rgb-fold1-seed0/predictions.csv"
    table = pd.read_csv(path)
    table[["left", "right"]] = table[["right", "left"]].to_numpy()
    table.to_csv(path, index=False)
    run_stage("fuse", "--task", "clip")
    other = scores("clip-fused-fold1-seed0")
    assert other["test"] != chosen["test"]
    for name in ("temperature", "threshold"):
        assert other["calibration"][name] == chosen["calibration"][name]
    assert scores("clip-fused-fold1-seed0")["fusion"]["flow_weight"] == 0.25
    assert "validation_nll" not in scores("clip-fused-fold1-seed0")["fusion"]
    assert "fuse: toy clip-fused-fold1-seed0: flow weighs 0.25; top1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_video_without_flow_is_counted_and_answered_by_rgb(streams, capsys):
    path = EVALUATIONS / "clip-flow-fold1-seed0/predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    run_stage("fuse", "--task", "clip")
    assert scores("clip-fused-fold1-seed0")["fusion"]["videos_rgb_alone"] == 1
    assert "1 video(s) answered by RGB alone" in capsys.readouterr().out
    fused = rows(EVALUATIONS / "clip-fused-fold1-seed0/predictions.csv")
    rgb = rows(EVALUATIONS / "clip-rgb-fold1-seed0/predictions.csv")
    assert len(fused) == 8
    video = lines[1].split(",")[0]
    answers = [next(float(row["left"]) for row in table if row["video_id"] == video) for table in (fused, rgb)]
    odds = [answer / (1 - answer) for answer in answers]
    temperature = scores("clip-fused-fold1-seed0")["calibration"]["temperature"]  # the fusion's own
    assert odds[0] == pytest.approx(odds[1] ** (1 / temperature), rel=1e-4)  # tables hold six digits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
def test_a_fusion_made_again_stays_one_run_until_its_settings_change(streams, tmp_path, monkeypatch):
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for _ in range(2):
        run_stage("fuse", "--task", "clip")
        shutil.rmtree(EVALUATIONS / "clip-fused-fold1-seed0")  # as DVC does
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy").experiment_id
    fusions = "tags.`lrcn.kind` = 'fusion'"
    (run,) = client.search_runs([experiment], fusions)
    assert (run.info.run_name, run.info.status) == ("clip-fused-fold1-seed0", "FINISHED")
    assert run.data.params["flow.weight"] == "validation"
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("weight: validation", "weight: 0.25"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    run_stage("fuse", "--task", "clip")  # leaves no run, and forgets none
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_stage("fuse", "--task", "clip")
    newer, older = client.search_runs([experiment], fusions, order_by=["start_time DESC"])
    assert older.info.run_id == run.info.run_id
    assert newer.data.params["flow.weight"] == "0.25"
    (parent,) = client.search_runs([experiment], "tags.`lrcn.kind` = 'experiment'")
    assert {one.data.tags["mlflow.parentRunId"] for one in (newer, older)} == {parent.info.run_id}
    assert parent.info.run_name == f"toy {parent.data.tags['lrcn.settings'][:8]}"
    assert parent.data.params["flow.train.clip.hidden_size"] == "16"
    assert "flow.weight" not in parent.data.params  # both weights are below the one run
    file = Path(newer.info.artifact_uri.removeprefix("file://")) / "metrics.json"
    assert json.loads(file.read_text())["fusion"]["flow_weight"] == 0.25


@pytest.mark.slow
def test_answers_of_another_side_are_refused(streams):
    folder = EVALUATIONS / "clip-flow-fold1-seed0"
    shutil.copy(folder / "validation.csv", folder / "predictions.csv")
    with pytest.raises(
        DataError, match=r"flow.*predictions\.csv: 4 video\(s\) that are not on the test side of fold 1"
    ):
        run_stage("fuse", "--task", "clip")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"validation\.csv: no such file; run `lrcn select` again"):
        run_stage("fuse", "--task", "clip")


def test_an_experiment_without_flow_has_nothing_to_fuse(tmp_path, monkeypatch):
    describe_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no flow stream for the clip task"):
        run_stage("fuse", "--task", "clip")
    with pytest.raises(ConfigError, match="flow is empty"):
        run_stage("train", "--task", "clip", "--stream", "flow")
