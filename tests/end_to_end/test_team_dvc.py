"""DVC as a team uses it: experiments, the run cache, push and pull, no git, an imported data set."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from tests.conftest import ROOT, write_toy_video
from tests.servers import clone, commit, dvc_repository
from tests.servers import run_in as run

pytestmark = pytest.mark.slow
EPOCHS = "configs/toy.yaml:train.clip.epochs=2"
RUN_FILE = Path("artifacts/toy/trainings/clip-rgb-fold1-seed0/mlflow_run.json")


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


@pytest.fixture(scope="module")
def repository(built_toy, tmp_path_factory) -> Path:
    """The toy as built, taken over by DVC, committed, with a folder as its remote."""
    root = tmp_path_factory.mktemp("team") / "repository"
    shutil.copytree(built_toy, root)
    dvc_repository(root, ROOT)
    run(root, "lrcn", "select", "toy")
    run(root, "lrcn", "code")
    run(root, "dvc", "remote", "add", "--default", "storage", str(root.parent / "storage"))
    run(root, "dvc", "commit", "--force", "--quiet")
    commit(root, "start")
    run(root, "dvc", "push", "--quiet", "--run-cache")
    return root


@pytest.fixture(scope="module")
def pulled(repository, tmp_path_factory) -> Path:
    """A clone without media, whose results came from the remote."""
    root = clone(repository, tmp_path_factory.mktemp("clone") / "repository")
    run(root, "dvc", "pull", "--quiet", "--run-cache")
    return root


@pytest.fixture
def complete(pulled, repository) -> Path:
    """The clone, its media being a link that git ignores."""
    if not (pulled / "media").exists():
        (pulled / "media").mkdir()
        (pulled / "media/toy").symlink_to(repository / "media/toy")
    return pulled


def test_a_clone_has_all_results_and_rebuilds_nothing(pulled, repository, monkeypatch, capsys):
    assert not (pulled / "media").exists()
    assert stages_run(run(pulled, "dvc", "repro", "--allow-missing")) == []
    shown = run(pulled, "dvc", "metrics", "show", "--json")
    scores = json.loads((repository / "artifacts/toy/scores.json").read_text())
    assert json.loads(shown)[""]["data"] == {"artifacts/toy/scores.json": {"data": scores}}
    monkeypatch.chdir(pulled)
    assert cli.main(["results", "artifacts/toy"]) == 0
    assert "clip task" in capsys.readouterr().out
    model = "artifacts/toy/trainings/clip-rgb-fold1-seed0/model"
    assert cli.main(["predict", str(repository / "media/toy/left"), "--model", model, "--out", "answers"]) == 0
    assert (pulled / "answers/results.csv").read_text().count(",left,") == 20
    (pulled / "media").mkdir()
    (pulled / "media/toy").symlink_to(repository / "media/toy")
    assert stages_run(run(pulled, "dvc", "repro")) == []
    assert "up to date" in run(pulled, "dvc", "status")


def test_plots_compare_curves_confusions_and_figures(pulled):
    run(pulled, "dvc", "plots", "show", "--out", "plots")
    page = (pulled / "plots/index.html").read_text()
    shown = set(re.findall(r"artifacts/toy/[\w./-]+?\.(?:csv|svg)", page)) | {
        path.name.removeprefix("workspace_").replace("_", "/", 3) for path in (pulled / "plots/static").iterdir()
    }
    for name in ("clip-rgb", "frame-rgb"):
        assert f"artifacts/toy/histories/{name}-fold1-seed0.csv" in shown
        assert f"artifacts/toy/confusion/{name}.csv" in shown
        for figure in ("ladder", "confusion", "calibration"):
            copy = f"workspace_artifacts_toy_figures_{name}_{figure}.svg"
            file = pulled / f"artifacts/toy/figures/{name}/{figure}.svg"
            assert (pulled / "plots/static" / copy).read_bytes() == file.read_bytes()
            assert f'src="static/{copy}"' in page
    counts = (pulled / "artifacts/toy/confusion/clip-rgb.csv").read_text().splitlines()
    assert counts[0] == "label,predicted,count"
    assert sum(int(row.rpartition(",")[2]) for row in counts[1:]) == 8  # 4 people of the test side, two videos each


def test_an_experiment_runs_what_it_changes_and_going_back_trains_nothing(complete):
    first = (complete / RUN_FILE).read_bytes()
    output = run(complete, "dvc", "exp", "run", "--name", "shorter", "--set-param", EPOCHS)
    assert stages_run(output) == ["train@toy-clip-rgb-fold1-seed0", "evaluate@toy-clip-rgb-fold1-seed0", "report@toy"]
    scores = json.loads((complete / "artifacts/toy/scores.json").read_text())
    changed = json.loads(run(complete, "dvc", "metrics", "diff", "HEAD", "shorter", "--json"))
    assert set(changed["artifacts/toy/scores.json"]) <= {f"clip.rgb.{name}" for name in scores["clip"]["rgb"]}
    run(complete, "dvc", "plots", "diff", "HEAD", "shorter", "--out", "compared")
    page = (complete / "compared/index.html").read_text()
    for revision in ("HEAD", "shorter"):
        copy = f"{revision}_artifacts_toy_figures_clip-rgb_ladder.svg"
        assert (complete / "compared/static" / copy).is_file()
        assert f'src="static/{copy}"' in page
    config = complete / "configs/toy.yaml"
    values = yaml.safe_load(config.read_text())
    values["train"]["clip"]["epochs"] = 30
    config.write_text(yaml.safe_dump(values))
    output = run(complete, "dvc", "repro")
    assert stages_run(output) == []
    assert "train@toy-clip-rgb-fold1-seed0' is cached" in output
    assert (complete / RUN_FILE).read_bytes() == first
    run(complete, "git", "checkout", "--quiet", "--", ".")
    run(complete, "dvc", "exp", "apply", "shorter")
    assert yaml.safe_load(config.read_text())["train"]["clip"]["epochs"] == 2
    assert stages_run(run(complete, "dvc", "repro")) == []


def test_in_a_temporary_copy_media_and_runs_are_those_of_the_repository(complete):
    """--queue runs in such a copy too; the media are a link that git ignores, and another rate needs decoding."""
    sqlite = {"MLFLOW_TRACKING_URI": ""}
    copy = ("dvc", "exp", "run", "--temp", "--allow-missing", "--single-item")
    change = ("--set-param", "configs/toy.yaml:train.frame.epochs=2")
    output = run(complete, *copy, *change, "train@toy-frame-rgb-fold1-seed0", environment=sqlite)
    assert stages_run(output) == ["train@toy-frame-rgb-fold1-seed0"]
    assert (complete / "mlflow.db").is_file()
    change = ("--set-param", "configs/toy.yaml:view.fps=5.0")
    output = run(complete, *copy, "--name", "slower", *change, "decode@toy")
    assert stages_run(output) == ["decode@toy"]
    assert "decode: 60 of 60 videos decoded" in output
    assert len((complete / "artifacts/toy/frames.csv").read_text().splitlines()) == 61
    assert "slower" in run(complete, "dvc", "exp", "list")


def test_rows_that_are_not_selected_are_named(complete):
    output = run(
        complete, "dvc", "exp", "run", "--set-param", "configs/toy.yaml:num_seeds=2", "report@toy", code=255
    )  # fmt: skip
    assert "clip-rgb-fold1-seed1/predictions.csv: no such file; run `lrcn select` again" in output


def test_without_git(repository, tmp_path):
    root = tmp_path / "unpacked"
    shutil.copytree(repository, root, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    (root / ".dvc/config.local").unlink(missing_ok=True)
    assert "is not a git repository" in run(root, "dvc", "status", code=255)
    run(root, "make", "--assume-old=venv", "no-git")
    assert stages_run(run(root, "dvc", "repro")) == []
    assert "scores.json" in run(root, "dvc", "metrics", "show")
    config = root / "configs/toy.yaml"
    config.write_text(config.read_text().replace("allow_leak: false", "allow_leak: true"))
    assert stages_run(run(root, "dvc", "repro", "index@toy")) == ["index@toy"]


def test_a_data_set_is_imported_from_another_repository(repository, tmp_path):
    """The same bytes rebuild nothing; one more video is in the tables when the import is updated."""
    root = clone(repository, tmp_path / "clone")
    (root / "media").mkdir()
    source = tmp_path / "source"
    source.mkdir()
    run(source, "git", "init", "--quiet")
    run(source, "dvc", "init", "--quiet")
    run(source, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "registry"))
    shutil.copytree(repository / "media/toy", source / "toy")
    run(source, "dvc", "add", "--quiet", "toy")
    run(source, "dvc", "push", "--quiet")
    commit(source, "data")
    run(root, "dvc", "import", "--quiet", str(source), "toy", "--out", "media/toy")
    run(root, "dvc", "pull", "--quiet", "code", "index@toy")
    assert stages_run(run(root, "dvc", "repro", "index@toy")) == []
    write_toy_video(source / "toy/right/late.mp4", "right", 90)
    (source / "toy/labels.csv").chmod(0o644)
    with (source / "toy/labels.csv").open("a") as file:
        file.write("right/late.mp4,right,g19\n")
    run(source, "dvc", "add", "--quiet", "toy")
    run(source, "dvc", "push", "--quiet")
    commit(source, "one more")
    run(root, "dvc", "update", "--quiet", "media/toy.dvc")
    assert stages_run(run(root, "dvc", "repro", "index@toy")) == ["index@toy"]
    assert "right/late.mp4," in (root / "artifacts/toy/videos.csv").read_text()
    commit(root, "one more video")
    again = clone(root, tmp_path / "again")
    run(again, "dvc", "pull", "--quiet", "media/toy.dvc")
    assert (again / "media/toy/right/late.mp4").read_bytes() == (source / "toy/right/late.mp4").read_bytes()
