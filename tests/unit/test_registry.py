"""`lrcn promote`: what is registered and moved when the gate holds, what is left alone when not, and the way back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, registry, trackingstore
from pipeline.files import content_hash
from pipeline.models.modelfolder import Model
from pipeline.modelstore import model_folder
from tests.mlflowruns import add_run, rung, scores
from tests.mlflowservers import silent_server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
NAME = "demo-clip-rgb"


@pytest.fixture
def client(own_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a database of the test's own, which the commands use too."""
    import mlflow

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own_uri)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(own_uri, own_uri)


@pytest.fixture
def train(client: Any, make_model: Callable[..., Model]) -> Callable[..., str]:
    """Makes a tested training, with a model of that seed and score; its run id."""

    def made(seed: int = 0, score: float = 0.9, **options: Any) -> str:
        folder = make_model("clip", seed=seed).folder
        return add_run(client, model=folder, **{"files": {"metrics.json": scores(score)}, **options})

    return made


def promote(run: str, *options: str) -> int:
    return cli.main(["promote", run, "--as", "champion", *options])


def champion(client: Any) -> str:
    return str(client.get_model_version_by_alias(NAME, "champion").version)


def test_a_first_promotion_registers_moves_the_alias_and_writes_down_why(
    client: Any, own_uri: str, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = train()
    assert promote(run_id[:12]) == 0
    out = capsys.readouterr().out
    assert f"promote: clip-rgb-fold1-seed0 ({run_id[:8]}) as {NAME}@champion" in out
    assert f"promote: {NAME} version 1 is champion (before: nobody): models:/{NAME}@champion" in out
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.run_id == run_id
    folder = model_folder(f"models:/{NAME}@champion", own_uri)
    assert version.tags["model.sha256"] == content_hash(folder / "model.yaml")
    lines = json.loads(version.tags["gate"])
    assert [f"  {'note' if line['holds'] is None else 'ok  '}  {line['text']}" for line in lines] == out.splitlines()[
        1:-1
    ]
    assert len(lines) == 10
    assert version.tags["previous_holder"] == "nobody"
    assert version.tags["promoted_by"]
    score, _, promotion, *_ = version.description.splitlines()
    assert score == "top1 0.900 [0.850, 0.950], clip-rgb-fold1-seed0"
    assert promotion.startswith(version.tags["promoted_at"])
    assert "- test: top1 0.900 [0.850, 0.950] on 160 videos, 10 groups of its fold" in version.description


def test_a_gate_that_does_not_hold_registers_nothing(
    client: Any, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = scores(0.5, majority=rung(0.1, -0.1, 0.3))
    assert promote(train(files={"metrics.json": bad}, tags={"leaks.group": "3"}), "--min-score", "0.6") == 1
    out, err = capsys.readouterr()
    assert [line.split("  ")[2] for line in out.splitlines() if line.startswith("  FAIL")] == [
        "audit: the sides of its split leak (3 by group), so the test score says nothing; mend the card",
        "control `always the most frequent class`: +0.100 [-0.100, 0.300] on its fold: not shown to be better (low end "
        "must be above 0)",
        "--min-score 0.6: the test score is 0.500",
    ]
    assert "3 of these do not hold: nothing was registered, and champion stays with nobody" in err
    assert client.search_registered_models() == []


def test_a_worse_model_leaves_the_alias_where_it_is_and_a_better_one_takes_it(
    client: Any, train: Callable[..., str]
) -> None:
    assert promote(train(0, 0.8)) == 0
    assert promote(train(1, 0.7)) == 1
    assert (champion(client), len(client.search_model_versions(f"name='{NAME}'"))) == ("1", 1)
    assert promote(train(2, 0.85)) == 0
    assert champion(client) == "2"
    assert client.get_model_version(NAME, "2").tags["previous_holder"] == "version 1"


def test_a_second_promotion_of_a_model_reuses_its_version(client: Any, train: Callable[..., str]) -> None:
    run_id = train()
    assert promote(run_id) == 0
    assert promote(run_id) == 0
    assert cli.main(["promote", run_id, "--as", "candidate"]) == 0
    assert promote(train()) == 0  # the same model, trained and logged once more
    (version,) = client.search_model_versions(f"name='{NAME}'")
    assert len(json.loads(version.tags["promotions"])) == 4
    assert sorted(client.get_registered_model(NAME).aliases) == ["candidate", "champion"]


def test_a_holder_of_another_split_asks_for_a_floor(
    client: Any, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(train(0, 0.95)) == 0
    other = train(1, 0.8, tags={"splits.sha256": "9" * 64})
    assert promote(other) == 1
    assert "it was tested on other videos (splits.sha256), so the scores do not compare; give --min-score" in (
        capsys.readouterr().out
    )
    assert promote(other, "--min-score", "0.75") == 0
    assert champion(client) == "2"


def test_the_way_back(client: Any, train: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    first = train(0, 0.8)
    assert promote(first) == 0
    assert promote(train(1, 0.9)) == 0
    assert promote(first) == 1  # on its scores alone it would not be taken
    client.delete_run(first)  # a way back needs the version alone
    capsys.readouterr()
    assert promote(f"models:/{NAME}/1") == 0
    assert champion(client) == "1"
    out = capsys.readouterr().out
    assert "ok    version 1 passed this gate before (" in out
    assert "note  champion goes back from version 2, has 0.900 [0.850, 0.950]" in out
    version = client.get_model_version(NAME, "1")
    assert len(json.loads(version.tags["promotions"])) == 2
    assert version.description.startswith("top1 0.800 [0.750, 0.850], clip-rgb-fold1-seed0\n")
    assert len(json.loads(version.tags["gate"])) == 10  # what it was tested on stays
    assert version.tags["previous_holder"] == "version 2"


def test_a_version_registered_by_hand_goes_through_the_whole_gate(
    client: Any, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    client.create_registered_model("other")
    leaky, good = train(0, 0.5, tags={"leaks.group": "1"}), train(1, 0.9)
    model = f"models:/{registry.logged_models(client, leaky)[0].model_id}"
    client.create_model_version("other", model, leaky)
    client.create_model_version("other", model, good)  # the scores of another model
    client.create_model_version("other", "/somewhere")
    assert promote("models:/other/1") == 1
    assert "leak (1 by group)" in capsys.readouterr().out
    assert promote("models:/other/2") == 1
    assert "FAIL  its model in MLflow is" in capsys.readouterr().out
    assert promote("models:/other/3") == 2
    assert "models:/other/3: registered without a run" in capsys.readouterr().err


def test_a_version_with_another_alias_goes_through_the_whole_gate(
    client: Any, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(train(0, 0.9)) == 0
    assert cli.main(["promote", train(1, 0.8), "--as", "trial"]) == 0  # there is no trial that it must not be below
    capsys.readouterr()
    assert promote(f"models:/{NAME}/2") == 1
    assert "FAIL  version 1, champion now, has 0.900" in capsys.readouterr().out
    assert champion(client) == "1"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("models:/demo-clip-rgb/7", "models:/demo-clip-rgb/7: the registry has no such version"),
        ("0123456789", "0123456789: MLflow has no such run"),
        ("fusion", "a fusion's (clip-rgb-fold1-seed0), which has no model; expected a training's"),
        ("experiment", "an experiment's (clip-rgb-fold1-seed0), which has no model"),
    ],
)
def test_what_cannot_be_promoted_is_named(
    client: Any, what: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(add_run(client, kind=what) if what in ("fusion", "experiment") else what) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


def test_a_run_without_a_model_or_with_another_one_does_not_pass(
    client: Any, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(add_run(client, files={"metrics.json": scores()})) == 1
    assert "FAIL  the run has no model in MLflow" in capsys.readouterr().out
    swapped = train()
    client.set_tag(swapped, "model.sha256", "d" * 64)
    assert promote(swapped) == 1
    assert "but the run trained dddddddddddd" in capsys.readouterr().out


def test_a_model_damaged_in_mlflow_is_not_promoted(
    client: Any, own_uri: str, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = train()
    model_id = client.get_run(run_id).outputs.model_outputs[0].model_id
    location = client.get_logged_model(model_id).artifact_location
    stored = next(Path(location.removeprefix("file://")).rglob("model.safetensors"))
    stored.write_bytes(b"other")
    assert promote(run_id) == 2
    assert "model.safetensors: its SHA-256 is not the one in model.yaml" in capsys.readouterr().err
    assert client.search_registered_models() == []


def test_the_scores_of_all_folds_and_the_shortcut_come_from_the_experiments_run(
    client: Any, train: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"files": {"metrics.json": scores(majority=rung(0.5, -0.1, 0.8))}}
    parent = add_run(client, "demo", kind="experiment")
    run_id = train(parent=parent, **few)
    assert promote(run_id) == 1
    together = {"clip": {"rgb": scores(majority=rung(0.3, 0.14, 0.46))}}
    shortcut = {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7, "limit": 0.65, "above_limit": False}
    for file, value in (("metrics.json", together), ("shortcut.json", shortcut), ("trainings.json", {"data": [["x"]]})):
        client.log_text(parent, json.dumps(value), file)
    assert promote(run_id) == 1  # the report is of other trainings
    table = {"columns": ["name", "run_id", "key"], "data": [["n", None, client.get_run(run_id).data.tags["lrcn.key"]]]}
    client.log_text(parent, json.dumps(table), "trainings.json")  # reported before MLflow got the training
    assert promote(run_id) == 0
    client.delete_registered_model(NAME)
    client.log_text(parent, json.dumps({"columns": ["name", "run_id"], "data": [["n", run_id]]}), "trainings.json")
    capsys.readouterr()
    assert promote(run_id) == 0
    out = capsys.readouterr().out
    assert "+0.300 [0.140, 0.460] over all folds" in out
    assert "AUC 0.600 [0.500, 0.700] (limit 0.65)" in out


def test_an_alias_moved_by_somebody_else_meanwhile_stays(
    client: Any, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(train(0, 0.7)) == 0
    assert promote(train(1, 0.8)) == 0
    add_version = registry._add_version

    def slow(*arguments: Any) -> Any:
        client.set_registered_model_alias(NAME, "champion", "1")
        return add_version(*arguments)

    monkeypatch.setattr(registry, "_add_version", slow)
    assert promote(train(2, 0.9)) == 2
    assert f"{NAME}: version 1 became champion while this was decided; run again" in capsys.readouterr().err
    assert champion(client) == "1"


@pytest.mark.parametrize("alias", ["latest", "Latest", "v3", "a b", "", "x" * 256])
def test_an_alias_that_mlflow_refuses_is_refused_first(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["promote", "abcd", "--as", alias]) == 2
    assert "no alias that MLflow takes" in capsys.readouterr().err


def test_a_floor_is_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("abcd", "--min-score", "90") == 2
    assert "--min-score is 90; expected a share between 0 and 1" in capsys.readouterr().err


def test_a_registry_that_is_silent_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackingstore, "PROBE_SECONDS", 0.2)
    with silent_server() as (port, taken):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
        assert promote("abcdef") == 2
        assert len(taken) == 1
    err = capsys.readouterr().err
    assert "no answer; start the server" in err
    assert "secret" not in err
    assert err.count("\n") == 1


def test_predict_takes_the_promoted_model(train: Callable[..., str], tmp_path: Path, capsys: Any) -> None:
    import numpy as np

    assert promote(train()) == 0
    np.save(tmp_path / "a.npy", np.ones((9, 5), np.float32))
    options = ["--model", f"models:/{NAME}@champion", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(["predict", str(tmp_path / "a.npy"), *options, "--precision", "0.8"]) == 0
    assert "1 looked at now" in capsys.readouterr().out
