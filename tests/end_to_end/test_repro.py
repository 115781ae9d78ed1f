"""`dvc repro` from an empty repository, on the toy: what runs, what does not run again, and what MLflow holds."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.evaluation.headline import experiment_headline, headline_scores, main_score
from pipeline.metricnames import flatten
from pipeline.stages.tracked import canonical_sha256
from tests.conftest import ROOT, make_toy, write_toy_video
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


def test_again_does_nothing(built):
    output = run(built, "dvc", "repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date" in output


def test_the_model_learned_the_direction(built):
    scores = json.loads((built / "artifacts/toy/metrics.json").read_text())
    assert scores["clip"]["rgb"]["test"]["video"]["top1"] == 1.0
    assert scores["clip"]["rgb"]["reversed_opposite"] == 1.0
    shown = run(built, "dvc", "metrics", "show", "--json")
    assert "artifacts/toy/scores.json" in shown


def test_dvc_mlflow_and_the_page_show_the_same_scores_and_figures(built):
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
    parent = mlflow_run(built, json.loads((built / "artifacts/toy/mlflow_run.json").read_text())["run_id"])
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
        logged = mlflow_run(built, facts["run_id"])
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


def mlflow_run(root: Path, run_id: str) -> dict:
    """Id, metrics and tags of a run, read by a process of its own."""
    return json.loads(
        run(
            root,
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "import json, mlflow\n"
            f"data = mlflow.MlflowClient('sqlite:///mlflow.db').get_run('{run_id}').data\n"
            f"print(json.dumps({{'run_id': '{run_id}', 'metrics': data.metrics, 'tags': data.tags}}))",
        ).splitlines()[-1]
    )


def test_runtime_settings_rebuild_nothing(built):
    (built / "configs/runtime.yaml").write_text("device: cpu\nworkers: 1\n")
    assert stages_run(run(built, "dvc", "repro")) == []


def test_one_training_value_reruns_train_evaluate_and_report(built):
    config = built / "configs/toy.yaml"
    config.write_text(config.read_text().replace("clip: {hidden_size: 32", "clip: {hidden_size: 24"))
    output = run(built, "dvc", "repro")
    assert stages_run(output) == ["train@toy-clip-rgb-fold1-seed0", "evaluate@toy-clip-rgb-fold1-seed0", "report@toy"]


def test_one_more_seed_trains_that_seed_alone(built):
    """DVC says what it would run; it is not run, and taken back."""
    config = built / "configs/toy.yaml"
    before = config.read_text()
    config.write_text(before.replace("num_seeds: 1", "num_seeds: 2"))
    run(built, "lrcn", "select", "toy")
    text = run(built, "dvc", "status", "--json")
    assert sorted(json.loads(text[text.index("{") : text.rindex("}") + 1])) == [
        "evaluate@toy-clip-rgb-fold1-seed1", "evaluate@toy-frame-rgb-fold1-seed1", "report@toy",
        "train@toy-clip-rgb-fold1-seed1", "train@toy-frame-rgb-fold1-seed1",
    ]  # fmt: skip
    config.write_text(before)
    run(built, "lrcn", "select", "toy")
    assert "up to date" in run(built, "dvc", "status")


def test_a_second_stream_leaves_the_first_alone(built):
    config = built / "configs/toy.yaml"
    config.write_text(config.read_text().replace("flow: null", FLOW))
    run(built, "lrcn", "select", "toy")
    assert sorted(stages_run(run(built, "dvc", "repro"))) == [
        "evaluate@toy-clip-flow-fold1-seed0", "extract@toy-flow-shared", "finetune@toy-flow-shared",
        "fuse@toy-clip-fused-fold1-seed0", "report@toy", "train@toy-clip-flow-fold1-seed0",
    ]  # fmt: skip
    scores = json.loads((built / "artifacts/toy/metrics.json").read_text())
    assert {task: list(streams) for task, streams in scores.items()} == {
        "clip": ["rgb", "flow", "fused"], "frame": ["rgb"],
    }  # fmt: skip


def test_another_weight_fuses_and_reports_alone(built):
    config = built / "configs/toy.yaml"
    config.write_text(config.read_text().replace("weight: 0.5", "weight: validation"))
    assert sorted(stages_run(run(built, "dvc", "repro"))) == ["fuse@toy-clip-fused-fold1-seed0", "report@toy"]


def test_one_more_video_is_decoded_and_extracted_alone(built):
    write_toy_video(built / "media/toy/right/late.mp4", "right", 90)
    output = run(built, "dvc", "repro", "extract")
    assert "decode: 1 of 61 videos decoded" in output
    assert "extract: 1 of 61 videos extracted" in output


def test_the_run_says_what_was_trained_on_what(built):
    found = json.loads(
        run(
            built,
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "import json, mlflow\n"
            "mlflow.set_tracking_uri('sqlite:///mlflow.db')\n"
            "run = mlflow.search_runs(search_all_experiments=True,\n"
            "    filter_string=\"tags.task = 'frame' and tags.seed = '0'\",\n"
            "    output_format='list')[0]\n"
            "client = mlflow.MlflowClient()\n"
            "print(json.dumps({'tags': run.data.tags, 'params': run.data.params, 'metrics': run.data.metrics,\n"
            "    'inputs': [i.dataset.name for i in run.inputs.dataset_inputs], 'status': run.info.status,\n"
            "    'files': [f.path for f in client.list_artifacts(run.info.run_id)],\n"
            "    'epochs': len(client.get_metric_history(run.info.run_id, 'val_loss'))}))",
        ).splitlines()[-1]
    )
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


def test_the_logged_model_predicts_in_another_process(built):
    code = (
        "import json, sys, mlflow, numpy as np, pandas as pd\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "run_id = json.load(open(sys.argv[2]))['run_id']\n"
        "(model,) = mlflow.get_run(run_id).outputs.model_outputs\n"
        "loaded = mlflow.pyfunc.load_model(f'models:/{model.model_id}')\n"
        "x = np.random.default_rng(0).normal(size=(2, 9, 512)).astype(np.float32)\n"
        "records = loaded.predict(pd.DataFrame({'features': x.tolist()}), params={'timesteps': True})\n"
        "print(json.dumps([record['probabilities'] for record in records]))\n"
    )
    folder = built / "artifacts/toy/trainings/frame-rgb-fold1-seed0"
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, f"sqlite:///{built / 'mlflow.db'}", folder / "mlflow_run.json"],
        cwd=built.parent, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    got = np.array(json.loads(done.stdout.splitlines()[-1]))
    from pipeline.models.modelfolder import load_model

    model = load_model(folder / "model")
    features = np.random.default_rng(0).normal(size=(2, 9, 512)).astype(np.float32)
    assert got.shape == (2, 9, 3)
    np.testing.assert_allclose(got, [model.predict_features(video) for video in features], atol=1e-5)
