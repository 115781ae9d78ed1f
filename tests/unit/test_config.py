from pathlib import Path

import pytest

from pipeline.config import Runtime, load_experiment, load_runtime
from pipeline.errors import ConfigError

GOOD = """
dataset: demo
seed: 0
folds: [1]
view: {fps: 10, short_side: 96, crop: 96, clip_frames: 0, clip_stride: 0}
backbone: {name: resnet18, weights: default}
finetune: null
train:
  clip: {lr: 0.01, hidden_size: 4}
  frame: null
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_experiment(path)


def test_values_and_defaults(tmp_path):
    experiment = load(tmp_path, GOOD)
    assert experiment.stream("rgb").tasks == ("clip",)
    assert experiment.stream("rgb").settings("clip").lr == 0.01
    assert experiment.stream("rgb").settings("clip").cell == "lstm"
    assert experiment.view.fps == 10.0
    assert experiment.finetune is None


def test_all_problems_at_once_with_the_nearest_key(tmp_path):
    bad = (
        GOOD.replace("seed: 0", "sed: 0").replace("lr: 0.01", "lr: 1e-3").replace("hidden_size: 4", "hiden_size: true")
    )
    bad = bad.replace("crop: 96", "crop: true").replace("weights: default", "weigths: default")
    with pytest.raises(ConfigError, match=r"x\.yaml has 6 problem\(s\)") as caught:
        load(tmp_path, bad)
    message = str(caught.value)
    for part in (
        "seed: missing",
        "sed: unknown key, did you mean 'seed'?",
        "train.clip.lr: expected a valid number, got '1e-3' (YAML reads 1e-3 as text; write 0.001)",
        "train.clip.hiden_size: unknown key, did you mean 'hidden_size'?",
        "view.crop: expected a valid integer, got True",
        "backbone.weigths: unknown key, did you mean 'weights'?",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("crop: 96", "crop: 128", r"view\.crop is 128; expected 16 to view\.short_side \(96\)"),
        ("fps: 10", "fps: 0", r"view\.fps is 0\.0; expected a rate above 0"),
        ("fps: 10", "fps: .nan", r"fps"),
        ("clip_frames: 0", "clip_frames: 16", r"expected both above 0"),
        ("hidden_size: 4", "hidden_size: 0", r"hidden_size: expected greater than or equal to 1, got 0"),
        ("hidden_size: 4", "cell: lstmm", r"train\.clip\.cell: expected 'lstm', 'gru' or 'rnn', got 'lstmm'"),
        ("folds: [1]", "folds: []", r"folds"),
        ("folds: [1]", "folds: [2, 1, 2]", r"folds: 2 is given twice"),
        ("folds: [1]", "folds: [1]\nevaluate: {precision: 0.995}", r"precision: expected less than or equal to 0\.99"),
        ("seed: 0", "seed: 0\nseed: 1", r"key 'seed' is given twice"),
        ("dataset: demo", "dataset: ../x", r"dataset"),
    ],
)
def test_values_out_of_range(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, GOOD.replace(old, new))


def test_no_yaml_and_no_file(tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path, "a: [")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load(tmp_path, "- 1")
    with pytest.raises(ConfigError, match="no such file"):
        load_experiment(tmp_path / "none.yaml")


def test_python_objects_in_yaml_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path, f"dataset: !!python/object/apply:os.system ['touch {tmp_path}/evil']")
    assert not (tmp_path / "evil").exists()


def test_runtime_defaults_when_there_is_no_file(tmp_path):
    assert load_runtime(tmp_path / "none.yaml") == Runtime(device="auto", workers=0)
    (tmp_path / "r.yaml").write_text("device: gpu\n")
    with pytest.raises(ConfigError, match="device: expected 'auto', 'cpu' or 'cuda', got 'gpu'"):
        load_runtime(tmp_path / "r.yaml")
