"""`dvc repro` from an empty repository, on the toy: what runs, what does not run again, and what MLflow holds."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.evaluation.headline import experiment_headline, headline_scores, main_score
from pipeline.metricnames import flatten
from pipeline.stages.tracked import canonical_sha256
from tests.conftest import ROOT, make_toy, run_stage, untracked_in, write_toy_video
from tests.servers import commit, dvc_repository
from tests.servers import run_tracked as run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    root = dvc_repository(make_toy(tmp_path_factory.mktemp("repro")), ROOT)
    run(root, "lrcn", "select", "toy")
    commit(root, "start")
    return root


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


FLOW = """
flow:
  method: dis
  backbone: {name: squeezenet1_1, weights: random}
  finetune: null
  train:
    clip: {hidden_size: 16, epochs: 2, batch_size: 8}
    frame: null
  weight: 0.5
"""
ALL = [
    "code", "index@toy", "decode@toy", "audit@toy", "finetune@toy-shared", "extract@toy-shared",
    "train@toy-clip-rgb-fold1-seed0",
    "train@toy-frame-rgb-fold1-seed0", "evaluate@toy-clip-rgb-fold1-seed0", "evaluate@toy-frame-rgb-fold1-seed0",
    "report@toy",
]  # fmt: skip


@pytest.fixture(scope="module")
def built(repository) -> Path:
    output = run(repository, "dvc", "repro")
    assert sorted(stages_run(output)) == sorted(ALL)
    return repository


READ = """
import json, sys
import mlflow
import numpy as np
import pandas as pd

client = mlflow.MlflowClient(sys.argv[1])
mlflow.set_tracking_uri(sys.argv[1])
runs = {}
for run_id in sys.argv[2:]:
    run = client.get_run(run_id)
    runs[run_id] = {
        "run_id": run_id, "metrics": run.data.metrics, "tags": run.data.tags, "params": run.data.params,
        "inputs": [given.dataset.name for given in run.inputs.dataset_inputs], "status": run.info.status,
        "files": [file.path for file in client.list_artifacts(run_id)],
        "epochs": len(client.get_metric_history(run_id, "val_loss")),
    }
(model,) = run.outputs.model_outputs
loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
x = np.random.default_rng(0).normal(size=(2, 9, 512)).astype(np.float32)
answers = loaded.predict(pd.DataFrame({"features": x.tolist()}), params={"timesteps": True})
print(json.dumps({"runs": runs, "answers": [answer["probabilities"] for answer in answers]}))
"""


def run_id_of(folder: Path) -> str:
    return json.loads((folder / "mlflow_run.json").read_text())["run_id"]


@pytest.fixture(scope="module")
def read(built) -> dict:
    """What another process, in another folder, reads from MLflow: the runs, and the last one's model's answers."""
    folders = ["", "trainings/clip-rgb-fold1-seed0", "trainings/frame-rgb-fold1-seed0"]
    ids = [run_id_of(built / "artifacts/toy" / folder) for folder in folders]
    environment = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-W", "ignore", "-c", READ, f"sqlite:///{built / 'mlflow.db'}", *ids]
    return json.loads(run(built.parent, *command, environment=environment).splitlines()[-1])


def test_again_does_nothing_nor_after_a_runtime_setting(built):
    (built / "configs/runtime.yaml").write_text("device: cpu\nworkers: 1\n")
    output = run(built, "dvc", "repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date" in output


def test_the_model_learned_the_direction(built):
    scores = json.loads((built / "artifacts/toy/metrics.json").read_text())
    assert scores["clip"]["rgb"]["test"]["video"]["top1"] == 1.0
    assert scores["clip"]["rgb"]["reversed_opposite"] == 1.0


def test_dvc_mlflow_and_the_page_show_the_same_scores_and_figures(built, read):
    text = run(built, "dvc", "metrics", "show", "--json")
    shown = json.loads(text[text.index("{") : text.rindex("}") + 1])[""]["data"]
    headline = shown["artifacts/toy/scores.json"]["data"]
    page = (built / "artifacts/toy/report.html").read_text()
    run(built, "dvc", "plots", "show", "--out", "plots")
    plotted = (built / "plots/index.html").read_text()
    everything = json.loads((built / "artifacts/toy/metrics.json").read_text())
    assert shown == {"artifacts/toy/scores.json": {"data": experiment_headline(everything)}}
    pooled = [*built.glob("artifacts/toy/figures/*/*.svg")]
    assert len(pooled) == 11
    for figure in pooled:
        copy = "workspace_" + "_".join(figure.relative_to(built).parts)
        assert (built / "plots/static" / copy).read_bytes() == figure.read_bytes()
        assert f'src="static/{copy}"' in plotted
    parent = read["runs"][run_id_of(built / "artifacts/toy")]
    assert parent["metrics"] == flatten(headline)
    files = built / "mlruns/toy" / parent["run_id"] / "artifacts"
    for file in ("metrics.json", "scores.json", "report.html"):
        assert (files / file).read_bytes() == (built / "artifacts/toy" / file).read_bytes()
    table = json.loads((files / "trainings.json").read_text())
    trainings = {row["name"]: row for row in (dict(zip(table["columns"], row, strict=True)) for row in table["data"])}
    lock = yaml.safe_load((built / "dvc.lock").read_text())["stages"]
    for name in ("clip-rgb-fold1-seed0", "frame-rgb-fold1-seed0"):
        task = name.split("-")[0]
        facts = json.loads((built / f"artifacts/toy/trainings/{name}/mlflow_run.json").read_text())
        scores = json.loads((built / f"artifacts/toy/evaluations/{name}/metrics.json").read_text())
        logged = read["runs"][facts["run_id"]]
        own = {key: value for key, value in logged["metrics"].items() if not key.startswith("system/")}
        expected = {f"test/{key}": value for key, value in headline_scores(task, scores).items()}
        curves = {"train_loss", "val_loss", "val_score", "lr", "grad_norm", "best_epoch", "best_val_loss"}
        assert own.keys() - expected.keys() == {*curves, "best_val_score"}
        assert {key: own[key] for key in expected} == expected
        score = expected[f"test/{main_score(task)}"]
        assert score == headline[task]["rgb"][main_score(task)]  # of one fold and seed
        assert (trainings[name]["run_id"], trainings[name]["key"]) == (facts["run_id"], facts["key"])
        assert trainings[name]["score"] == pytest.approx(score, abs=1e-9)
        tags = logged["tags"]
        assert (tags["mlflow.parentRunId"], tags["lrcn.kind"]) == (parent["run_id"], "training")
        assert (tags["lrcn.key"], tags["mlflow.runName"]) == (facts["key"], name)
        description = (built / f"artifacts/toy/trainings/{name}/model/model.yaml").read_bytes()
        assert tags["model.sha256"] == hashlib.sha256(description).hexdigest()
        assert tags["dvc.lock.sha256"] == canonical_sha256(lock[f"train@toy-{name}"])
        files = built / "mlruns/toy" / facts["run_id"] / "artifacts"
        evaluation = built / f"artifacts/toy/evaluations/{name}"
        assert (files / "metrics.json").read_bytes() == (evaluation / "metrics.json").read_bytes()
        drawn = [*built.glob(f"artifacts/toy/*/{name}/figures/*.svg")]
        assert {"ladder", "confusion", "calibration", "curves", "gradients"} <= {figure.stem for figure in drawn}
        for figure in drawn:
            svg = figure.read_text()
            assert svg.strip() in page
            assert (files / "figures" / figure.name).read_text() == svg


def test_one_training_value_reruns_train_evaluate_and_report(built):
    config = built / "configs/toy.yaml"
    config.write_text(
        config.read_text().replace("clip: {hidden_size: 32, epochs: 30", "clip: {hidden_size: 32, epochs: 2")
    )
    output = run(built, "dvc", "repro")
    assert stages_run(output) == ["train@toy-clip-rgb-fold1-seed0", "evaluate@toy-clip-rgb-fold1-seed0", "report@toy"]


def to_run(root: Path) -> list[str]:
    """The stages that DVC says have changed, or what they are made from."""
    text = run(root, "dvc", "status", "--json")
    return sorted(json.loads(text[text.index("{") : text.rindex("}") + 1]))


def test_one_more_seed_trains_that_seed_alone(built):
    """DVC says what it would run; it is not run, and taken back."""
    config = built / "configs/toy.yaml"
    before = config.read_text()
    config.write_text(before.replace("num_seeds: 1", "num_seeds: 2"))
    run(built, "lrcn", "select", "toy")
    assert to_run(built) == [
        "evaluate@toy-clip-rgb-fold1-seed1", "evaluate@toy-frame-rgb-fold1-seed1", "report@toy",
        "train@toy-clip-rgb-fold1-seed1", "train@toy-frame-rgb-fold1-seed1",
    ]  # fmt: skip
    config.write_text(before)
    run(built, "lrcn", "select", "toy")
    assert "up to date" in run(built, "dvc", "status")


def test_a_second_stream_leaves_the_first_alone_and_another_weight_both(built):
    """The new stages run in this process, but for the last two: each alone they are what DVC ran before."""
    config = built / "configs/toy.yaml"
    config.write_text(config.read_text().replace("flow: null", FLOW))
    run(built, "lrcn", "select", "toy")
    new = ["evaluate@toy-clip-flow-fold1-seed0", "extract@toy-flow-shared", "finetune@toy-flow-shared"]
    new += ["train@toy-clip-flow-fold1-seed0"]
    last = ["fuse@toy-clip-fused-fold1-seed0", "report@toy"]
    assert to_run(built) == sorted(new + last)
    with untracked_in(built):
        for stage in ("finetune", "extract", "train", "evaluate"):
            run_stage(stage, "--stream", "flow", *(["--task", "clip"] if stage in ("train", "evaluate") else []))
    run(built, "dvc", "commit", "--force", "--quiet", *new)
    assert stages_run(run(built, "dvc", "repro")) == last
    scores = json.loads((built / "artifacts/toy/metrics.json").read_text())
    assert {task: list(streams) for task, streams in scores.items()} == {
        "clip": ["rgb", "flow", "fused"], "frame": ["rgb"],
    }  # fmt: skip
    config.write_text(config.read_text().replace("weight: 0.5", "weight: validation"))
    assert to_run(built) == last


def test_one_more_video_is_decoded_and_extracted_alone(built):
    write_toy_video(built / "media/toy/right/late.mp4", "right", 90)
    stages = ["index@toy", "decode@toy", "extract@toy-shared"]  # without those between, which do nothing new
    output = run(built, "dvc", "repro", "--single-item", *stages)
    assert stages_run(output) == stages
    assert "decode: 1 of 61 videos decoded" in output
    assert "extract: 1 of 61 videos extracted" in output


def test_the_run_says_what_was_trained_on_what(built, read):
    found = read["runs"][run_id_of(built / "artifacts/toy/trainings/frame-rgb-fold1-seed0")]
    tags = found["tags"]
    assert found["status"] == "FINISHED"
    assert tags["dvc.stage"] == "train@toy-frame-rgb-fold1-seed0"
    assert re.fullmatch("[0-9a-f]{40}", tags["git.commit"])
    assert tags["git.dirty"] in ("true", "false")
    assert re.fullmatch("[0-9a-f]{16}", tags["features.key"])
    assert re.fullmatch("[0-9a-f]{64}", tags["videos.sha256"])
    assert (tags["fold"], tags["stream"], tags["seed"]) == ("1", "rgb", "0")
    assert found["params"]["train.frame.hidden_size"] == "32"
    assert found["metrics"]["test/acc"] >= 0.9
    assert found["epochs"] >= 5
    assert found["inputs"] == ["train", "val"]
    assert {"figures", "per_class.json", "config.yaml", "metrics.json", "predictions.csv"} <= set(found["files"])


def test_the_logged_model_predicts_in_another_process(built, read):
    from pipeline.models.modelfolder import load_model

    got = np.array(read["answers"])
    model = load_model(built / "artifacts/toy/trainings/frame-rgb-fold1-seed0/model")
    features = np.random.default_rng(0).normal(size=(2, 9, 512)).astype(np.float32)
    assert got.shape == (2, 9, 3)
    np.testing.assert_allclose(got, [model.predict_features(video) for video in features], atol=1e-5)
