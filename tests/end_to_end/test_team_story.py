"""A team's whole way: a clone, its results from S3, one value changed, compared, promoted, used by alias, explained."""

import json
import re
from pathlib import Path

import pytest

from pipeline.metricnames import flatten
from tests.conftest import ROOT, build, make_toy
from tests.mlflowruns import mlflow_run
from tests.servers import clone, commit, dvc_repository, run_tracked

pytestmark = pytest.mark.slow
NAME = "clip-rgb-fold1-seed0"
TRAINING = f"artifacts/toy/trainings/{NAME}"


def run(root: Path, *command: str, **more) -> str:
    """With runs where they are by default, and a cache of the test's own."""
    environment = {"XDG_CACHE_HOME": str(root.parent / "cache"), **more.pop("environment", {})}
    return run_tracked(root, *command, environment=environment, **more)


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A repository whose toy has ten people to test on, and the clip task alone; built, and taken over by DVC."""
    root = make_toy(tmp_path_factory.mktemp("story") / "origin", people=30)
    sides = "test: ['g0[0-3]'], validation: ['g0[45]']", "test: ['g0?'], validation: ['g1[0-3]']"
    frame = "frame: {hidden_size: 32, epochs: 30, lr: 0.01, batch_size: 4, dropout: 0.0, patience: 30}", "frame: null"
    for file, (before, after) in {"datasets/toy/card.yaml": sides, "configs/toy.yaml": frame}.items():
        text = (root / file).read_text()
        assert before in text
        (root / file).write_text(text.replace(before, after))
    build(root, "clip")
    dvc_repository(root, ROOT)
    run(root, "lrcn", "select", "toy")
    run(root, "lrcn", "code")
    return root


def test_from_a_clone_to_an_answer_and_back_to_its_videos(origin, s3_server, tmp_path):
    keys = s3_server.environment
    run(origin, "dvc", "add", "--quiet", "media/toy")
    run(origin, "dvc", "remote", "add", "--default", "team", f"s3://{s3_server.bucket}/lrcn")
    run(origin, "dvc", "remote", "modify", "team", "endpointurl", s3_server.endpoint)
    run(origin, "dvc", "commit", "--force", "--quiet")
    commit(origin, "built")
    run(origin, "dvc", "push", "--quiet", environment=keys)

    root = clone(origin, tmp_path / "clone")
    run(root, "dvc", "pull", "--quiet", environment=keys)
    for file in sorted((origin / TRAINING / "model").iterdir()):
        assert (root / TRAINING / "model" / file.name).read_bytes() == file.read_bytes()
    secret = keys["AWS_SECRET_ACCESS_KEY"]
    assert not [path for path in origin.glob(".dvc/config*") if secret in path.read_text()]
    assert stages_run(run(root, "dvc", "repro")) == []

    smaller = "configs/toy.yaml:train.clip.hidden_size=24"
    output = run(root, "dvc", "exp", "run", "--name", "smaller", "--set-param", smaller)
    assert stages_run(output) == [f"train@toy-{NAME}", f"evaluate@toy-{NAME}", "report@toy"]

    shown = json.loads(run(root, "dvc", "exp", "show", "--json"))
    (baseline,) = [entry for entry in shown if entry["rev"] != "workspace"]
    (experiment,) = [each for group in baseline["experiments"] for each in group["revs"]]
    assert experiment["name"] == "smaller"
    headline = experiment["data"]["metrics"]["artifacts/toy/scores.json"]["data"]
    parent, child = (
        mlflow_run(root, json.loads((root / folder / "mlflow_run.json").read_text())["run_id"])
        for folder in ("artifacts/toy", TRAINING)
    )
    assert parent["metrics"] == flatten(headline)
    of_test = {name: value for name, value in child["metrics"].items() if name.startswith("test/")}
    assert of_test == {f"test/{name}": value for name, value in headline["clip"]["rgb"].items()}  # one fold, one seed
    assert child["tags"]["dvc.exp"] == "smaller"

    output = run(root, "lrcn", "promote", TRAINING, "--as", "champion")
    assert "toy-clip-rgb" in output
    videos = sorted(path.relative_to(root).as_posix() for path in (root / "media/toy/left").glob("*.mp4"))
    run(root, "lrcn", "predict", "media/toy/left", "--model", "models:/toy-clip-rgb@champion", "--out", "answers")
    rows = (root / "answers/results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == videos

    tested, trained = "media/toy/left/g00.mp4", "media/toy/left/g20.mp4"
    told = run(root, "lrcn", "explain", "answers", "--file", tested)
    assert "DOES NOT HOLD" not in told
    for link in (NAME, f"train@toy-{NAME}", "videos.csv", "splits.csv", "champion"):
        assert link in told, told
    assert "test" in told
    assert "trained on" in run(root, "lrcn", "explain", "answers", "--file", trained)
    back = run(root, "lrcn", "explain", trained, "--results", "answers")
    assert NAME in back
    assert "answers" in back
    with (root / tested).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    broken = run(root, "lrcn", "explain", "answers", "--file", tested, code=1)
    assert "DOES NOT HOLD" in broken
