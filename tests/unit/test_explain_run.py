"""`lrcn explain` and MLflow: a run leads to its model and back, and where MLflow is away that is said, and no fault."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from pipeline import cli
from pipeline.explain import command
from pipeline.files import content_hash

pytestmark = pytest.mark.slow  # each asks a real database


@pytest.fixture
def tracked(make_model, uri, tmp_path, monkeypatch) -> SimpleNamespace:
    """A training's folder as the working folder has it, its run, and the run of its experiment."""
    model = make_model("clip").folder
    folder = tmp_path / "repository/artifacts/toy/trainings/clip-rgb-fold1-seed0"
    shutil.copytree(model, folder / "model")
    sha256 = content_hash(folder / "model/model.yaml")
    client = mlflow.MlflowClient(uri, uri)
    found = client.get_experiment_by_name("toy")
    experiment = found.experiment_id if found else client.create_experiment("toy")
    parent = client.create_run(experiment, run_name="toy", tags={"lrcn.kind": "experiment"}).info.run_id
    tags = {"lrcn.kind": "training", "model.sha256": sha256, "mlflow.parentRunId": parent, "lrcn.key": "c" * 32}
    run = client.create_run(experiment, run_name=folder.name, tags=tags).info.run_id
    (folder / "mlflow_run.json").write_text(json.dumps({"run_id": run, "key": "c" * 32}))
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield SimpleNamespace(client=client, run=run, parent=parent, sha256=sha256, folder=folder)
    for run_id in (run, parent):
        client.delete_run(run_id)


def explained(capsys, what: object) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = cli.main(["explain", str(what)])
    return code, [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_a_run_leads_to_its_model_and_versions_and_a_model_to_its_run(tracked, capsys, tmp_path):
    tracked.client.create_registered_model("toy-clip-rgb")
    version = tracked.client.create_model_version("toy-clip-rgb", str(tracked.folder / "model"), tracked.run)
    tracked.client.set_registered_model_alias("toy-clip-rgb", "champion", version.version)
    code, lines = explained(capsys, tracked.run[:8])
    assert code == 0
    assert lines[0] == f"run: toy/clip-rgb-fold1-seed0 {tracked.run}"
    same = f"model.sha256: {tracked.sha256}  holds"
    assert {same, f"parent run: {tracked.parent}", "registered: toy-clip-rgb version 1 (champion)"} <= set(lines)
    assert "model: artifacts/toy/trainings/clip-rgb-fold1-seed0/model" in lines
    shutil.copytree(tracked.folder / "model", tmp_path / "copy")
    code, lines = explained(capsys, tmp_path / "copy")
    assert code == 0
    assert lines.count(f"run: toy/clip-rgb-fold1-seed0 {tracked.run}") == lines.count(same) == 1


def test_a_name_trained_again_is_found_from_its_run_its_parent_and_its_model(tracked, capsys, make_model):
    shutil.rmtree(tracked.folder / "model")
    shutil.copytree(make_model("clip", seed=1).folder, tracked.folder / "model")
    new = content_hash(tracked.folder / "model/model.yaml")
    differs = f"DOES NOT HOLD: expected {tracked.sha256}, found {new}; "
    for what in (tracked.run, tracked.folder):
        code, lines = explained(capsys, what)
        assert code == 1
        assert any(line.startswith(f"model.sha256  {differs}") for line in lines)
    code, lines = explained(capsys, "toy")
    assert code == 1
    assert f"child run: clip-rgb-fold1-seed0 {tracked.run}" in lines
    assert any(line.startswith(f"model of clip-rgb-fold1-seed0  {differs}") for line in lines)


def test_a_run_whose_model_is_nowhere_here_is_explained_by_what_mlflow_keeps(tracked, capsys, monkeypatch, tmp_path):
    shutil.move(tracked.folder / "model", tmp_path / "fetched")
    shutil.rmtree(tracked.folder)
    asked = []
    monkeypatch.setattr(command, "model_folder", lambda address: asked.append(address) or tmp_path / "fetched")
    code, lines = explained(capsys, tracked.run)
    assert code == 0
    assert asked == [f"runs:/{tracked.run}/model"]
    assert f"model.sha256: {tracked.sha256}  holds" in lines
    assert any(line.startswith("model.safetensors: ") and line.endswith("holds") for line in lines)


def test_a_deleted_run_is_missed_and_one_that_is_not_delivered_yet_is_no_fault(tracked, capsys):
    link = tracked.folder / "mlflow_run.json"
    link.write_text(json.dumps({"run_id": None, "key": "c" * 32}))
    code, lines = explained(capsys, tracked.folder)
    assert code == 0
    assert f"run: toy/clip-rgb-fold1-seed0 {tracked.run}" in lines
    tracked.client.delete_tag(tracked.run, "model.sha256")
    assert f"run: toy/clip-rgb-fold1-seed0 {tracked.run}" in explained(capsys, tracked.folder)[1]  # by its key
    link.write_text(json.dumps({"run_id": None, "key": "d" * 32}))
    code, lines = explained(capsys, tracked.folder)
    assert code == 0
    assert f"run: {'d' * 32}  not checked: MLflow was away; `lrcn runs sync` delivers the run" in lines
    link.write_text(json.dumps({"run_id": "0" * 32}))
    code, lines = explained(capsys, tracked.folder)
    assert code == 1
    assert any(f"expected {'0' * 32}, found no such run in MLflow" in line for line in lines)


def test_scores_that_differ_from_the_evaluation_are_found(tracked, capsys):
    description = tracked.folder / "model/model.yaml"
    description.write_text(description.read_text().replace("provenance: {}", "provenance: {experiment: toy}"))
    tracked.client.set_tag(tracked.run, "model.sha256", content_hash(description))
    scores = Path("artifacts/toy/evaluations/clip-rgb-fold0-seed0/metrics.json")
    scores.parent.mkdir(parents=True)
    scores.write_text(json.dumps({"test": {"video": {"top1": 0.5}}}))
    tracked.client.log_metric(tracked.run, "test/top1", 0.5)
    code, lines = explained(capsys, tracked.run)
    assert (code, "scores: top1 0.500  holds" in lines) == (0, True)
    scores.write_text(json.dumps({"test": {"video": {"top1": 0.75}}}))
    code, lines = explained(capsys, tracked.run)
    assert code == 1
    assert any(
        line.startswith(f"scores ({scores})  DOES NOT HOLD: expected top1 0.5, found top1 0.75") for line in lines
    )


def test_the_entry_of_the_lock_is_the_one_that_the_run_was_given(tracked, capsys):
    entry = {"cmd": "lrcn train", "outs": [{"path": "x", "md5": "0" * 32}]}
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train@toy": entry}}))
    tracked.client.set_tag(tracked.run, "dvc.stage", "train@toy")
    assert "dvc.lock.sha256  not checked: the stage `report`, run by DVC, adds it" in explained(capsys, tracked.run)[1]
    text = '{"cmd":"lrcn train","outs":[{"md5":"' + "0" * 32 + '","path":"x"}]}'
    own = hashlib.sha256(text.encode()).hexdigest()
    tracked.client.set_tag(tracked.run, "dvc.lock.sha256", own)
    assert f"dvc.lock.sha256: {own}  holds" in explained(capsys, tracked.run)[1]
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train@toy": {**entry, "cmd": "other"}}}))
    code, lines = explained(capsys, tracked.folder)
    assert code == 1
    assert any(line.startswith(f"dvc.lock.sha256  DOES NOT HOLD: expected {own}, found ") for line in lines)


def test_a_run_while_mlflow_is_away(tracked, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, lines = explained(capsys, tracked.run[:6])
    assert code == 0
    assert any(
        line.startswith(f"run: {tracked.run[:6]}  not checked: http://127.0.0.1:9: no answer; ") for line in lines
    )
    assert any(line.startswith("model.safetensors: ") and line.endswith("holds") for line in lines)
    assert cli.main(["explain", "0" * 32]) == 2
    assert "MLflow cannot be asked: http://127.0.0.1:9: no answer" in capsys.readouterr().err


def test_two_runs_that_begin_alike_and_none_are_refused(tracked, capsys):
    assert cli.main(["explain", "clip-rgb-fold9-seed9"]) == 2
    assert "not known; expected a folder of results" in capsys.readouterr().err
    experiment = tracked.client.get_run(tracked.run).info.experiment_id
    other = tracked.client.create_run(experiment, run_name="toy").info.run_id
    assert cli.main(["explain", "toy"]) == 2
    assert "the beginning or name of 2 runs" in capsys.readouterr().err
    tracked.client.delete_run(other)
