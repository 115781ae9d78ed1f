from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config import Experiment, parse
from pipeline.errors import ConfigError
from pipeline.stages.layout import Layout, media_folder, representation, stage_options, training_name

SETTINGS = {"epochs": 2, "frames_per_video": 2}
EXPERIMENT = {
    "dataset": "toy",
    "seed": 3,
    "num_seeds": 2,
    "folds": [1, 2],
    "view": {"fps": 10.0, "short_side": 32, "crop": 32},
    "backbone": {"name": "squeezenet1_1"},
    "train": {"clip": {}},
    "flow": {"backbone": {"name": "resnet18"}, "finetune": SETTINGS, "train": {"clip": {}}},
}


def experiment(**changes: object) -> Experiment:
    return parse({**EXPERIMENT, **changes}, Experiment, "toy.yaml")


def test_names_of_cnns() -> None:
    assert representation(experiment(), "rgb", 2) == "shared"
    assert representation(experiment(finetune=SETTINGS), "rgb", 2) == "fold2"
    assert representation(experiment(), "flow", 2) == "flow-fold2"
    unchanged = {**EXPERIMENT["flow"], "finetune": None}
    assert representation(experiment(flow=unchanged), "flow", 2) == "flow-shared"


def test_names_of_trainings() -> None:
    assert training_name("frame", "flow", 2, 5) == "frame-flow-fold2-seed5"
    layout = Layout("toy")
    name = training_name("clip", "fused", fold=1, seed=0)
    assert layout.evaluation(name).as_posix() == "artifacts/toy/evaluations/clip-fused-fold1-seed0"
    assert layout.training("x").as_posix() == "artifacts/toy/trainings/x"


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(experiment().model_dump_json())
    return str(path)


def test_options_of_a_stage(config) -> None:
    takes = {"task": True, "stream": True, "fold": True, "seed": True}
    given = ["--config", config, "--task", "clip", "--stream", "flow", "--fold", "2", "--seed", "4"]
    options = stage_options("", given, **takes)
    assert (options.stream, options.fold, options.seed) == ("flow", 2, 4)
    assert (options.training, options.representation) == ("clip-flow-fold2-seed4", "flow-fold2")
    assert options.settings.view.flow == "dis"
    assert options.settings.backbone.name == "resnet18"
    default = stage_options("", given[:4], **takes)
    assert default.training == "clip-rgb-fold1-seed3"
    assert default.settings.view.flow == ""


def test_a_seed_that_is_not_trained(config) -> None:
    with pytest.raises(ConfigError, match=r"--seed is 5; expected one that .*toy\.yaml trains \(3, 4\)"):
        stage_options("", ["--config", config, "--seed", "5"], seed=True)


@pytest.mark.parametrize("number", [0, 9])
def test_a_fold_that_is_not_trained(config, number) -> None:
    with pytest.raises(ConfigError, match=rf"--fold is {number}; expected one that .*toy\.yaml trains \(1, 2\)"):
        stage_options("", ["--config", config, "--fold", str(number)], fold=True)


def test_the_first_fold_is_the_default(tmp_path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(experiment(folds=[2, 3]).model_dump_json())
    assert stage_options("", ["--config", str(path)], fold=True).fold == 2


def test_a_stream_that_is_not_there(tmp_path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(experiment(flow=None).model_dump_json())
    options = stage_options("", ["--config", str(path), "--stream", "flow"], stream=True)
    with pytest.raises(ConfigError, match="flow is empty"):
        print(options.settings)


def test_media_of_a_stage_that_runs_in_a_copy_of_the_repository(tmp_path, monkeypatch) -> None:
    """As `dvc exp run --temp` does: what git ignores is not in the copy, and DVC_ROOT names the repository."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "repository/media/toy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "copy")
    options = SimpleNamespace(media=None)
    dataset = SimpleNamespace(card=SimpleNamespace(media="media/toy"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert media_folder(options, dataset) == Path("media/toy")  # missing: whoever reads it says so
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    assert media_folder(options, dataset) == tmp_path / "repository/media/toy"
    Path("media/toy").mkdir(parents=True)
    assert media_folder(options, dataset) == Path("media/toy")
    options.media = tmp_path
    assert media_folder(options, dataset) == tmp_path
