"""dvc.yaml lists everything a stage reads: DVC does not look into imports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Experiment, load_experiment, parse
from pipeline.errors import ConfigError, LrcnError
from pipeline.stages import code, select
from pipeline.stages.select import EXPERIMENTS, stage_rows

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def body(stage: str) -> dict[str, Any]:
    """What a stage says of each of its runs."""
    return STAGES[stage].get("do", STAGES[stage])


def test_the_stages_are_there():
    assert list(STAGES) == ["code", *code.STAGES]
    names = ["index", "decode", "audit", "finetune", "extract", "train", "evaluate", "probe", "fuse", "report"]
    assert list(code.STAGES) == names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_command_and_depends_on_its_code(stage):
    assert body(stage)["cmd"].split()[:2] == ["lrcn", stage]
    of_code = [dep for dep in body(stage)["deps"] if dep.startswith(("pipeline", "artifacts/code/"))]
    assert of_code == (["pipeline"] if stage == "code" else [f"artifacts/code/{stage}.csv"])
    if stage == "code":
        assert body(stage)["outs"] == [code.TABLES.as_posix()]


@pytest.mark.slow
def test_the_table_of_a_stage_has_what_python_loads():
    """Parsing finds what importing finds, and what a stage imports later, inside its functions."""
    script = (
        "import sys, pipeline.stages.train\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'pipeline'), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {Path(file).relative_to(ROOT).as_posix() for file in done.stdout.split() if Path(file).stat().st_size}
    assert loaded <= set(code.code_of(ROOT, "train"))


def test_the_closure_follows_imports():
    closure = code.import_closure(ROOT, "pipeline.stages.decode")
    assert {"pipeline/video/reader.py", "pipeline/view.py", "pipeline/errors.py", "pipeline/__init__.py"} <= closure
    assert "pipeline/tracking.py" not in closure
    assert set(code.PAGE) <= set(code.code_of(ROOT, "report"))
    assert {"pipeline/serving.py", "pipeline/tracking.py"} <= set(code.code_of(ROOT, "train"))
    for stage in code.STAGES:
        assert all((ROOT / file).is_file() for file in code.code_of(ROOT, stage))


def test_code_that_cannot_be_followed(tmp_path):
    module = tmp_path / "pipeline/stages/x.py"
    module.parent.mkdir(parents=True)
    module.write_text("import os\nfrom . import y\n")
    with pytest.raises(LrcnError, match=r"pipeline/stages/x\.py, line 2: a relative import; expected from pipeline"):
        code.import_closure(tmp_path, "pipeline.stages.x")
    module.write_text("def f(:\n")
    with pytest.raises(LrcnError, match=r"pipeline/stages/x\.py, line 1: invalid syntax; expected Python code"):
        code.import_closure(tmp_path, "pipeline.stages.x")


@pytest.mark.slow
def test_a_change_reaches_the_tables_of_the_stages_that_import_it(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)

    def tables() -> dict[str, bytes]:
        code.main([])
        return {name: (code.TABLES / f"{name}.csv").read_bytes() for name in code.STAGES}

    before = tables()
    for file in (Path("pipeline/training/loop.py"), Path("pipeline/inference/ending.py")):  # the second is of no stage
        file.write_text(file.read_text() + "# another line\n")
    after = tables()
    assert [name for name in code.STAGES if before[name] != after[name]] == ["train"]
    assert "files in 10 stages; see artifacts/code" in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["stages.decode", "inference.check", "inference.extract", "video.worker"])
def test_what_reads_files_cannot_open_an_address(entry):
    """Protocols of networks are named in one module, which the decoding processes of files do not have."""
    closure = code.import_closure(ROOT, f"pipeline.{entry}")
    assert "pipeline/video/limits.py" in closure
    assert not {"pipeline/video/live.py", "pipeline/video/liveworker.py", "pipeline/video/feed.py"} & closure


def with_flow(values: dict[str, Any]) -> dict[str, Any]:
    """The same experiment with a second stream like its first."""
    own = {name: values[name] for name in ("backbone", "finetune", "train")}
    return {**values, "num_seeds": 2, "flow": {"method": "dis", **own, "weight": "validation"}}


EXPERIMENT_VALUES = {
    f"{path.stem}{suffix}": change(yaml.safe_load(path.read_text()))
    for path in sorted((ROOT / "configs").glob("*.yaml"))
    if path.name not in ("experiments.yaml", "runtime.yaml")
    for suffix, change in (("", dict), (" with flow", with_flow))
    if not suffix or yaml.safe_load(path.read_text())["backbone"]  # ready-made features have no flow
}


def rows_of(stage: str, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kind = STAGES[stage]["foreach"].removeprefix("${").removesuffix("}")
    return stage_rows({"x": parse(values, Experiment, "x")})[kind]


def fill(text: str, key: str, row: dict[str, Any]) -> str:
    for name, value in row.items():
        text = text.replace(f"${{item.{name}}}", str(value))
    text = text.replace("${key}", key)
    assert "${" not in text, f"{text}: no such column in {row}"
    return text


@pytest.mark.parametrize("stage", code.STAGES)
def test_every_parameter_of_a_stage_exists(stage):
    assert len(EXPERIMENT_VALUES) >= 8
    checked = 0
    for experiment, values in EXPERIMENT_VALUES.items():
        for key, row in rows_of(stage, values).items():
            for entry in body(stage).get("params", []):
                ((file, keys),) = entry.items()
                assert fill(file, key, row) == "configs/x.yaml"
                for wanted in keys or []:
                    found = values
                    for part in fill(wanted, key, row).split("."):
                        assert part in found, f"{experiment} has no {wanted}, which stage {stage!r} reads"
                        found = found[part]
                    checked += 1
    assert checked or stage == "report"  # which depends on all of the file


@pytest.mark.parametrize("stage", code.STAGES)
def test_a_row_gives_the_command_and_files_of_its_name(stage):
    for values in EXPERIMENT_VALUES.values():
        outs = set()
        rows = rows_of(stage, values)
        for key, row in rows.items():
            name = fill(body(stage)["cmd"], key, row)
            assert name.startswith(f"lrcn {stage} --config configs/x.yaml")
            own = {fill(next(iter(out)) if isinstance(out, dict) else out, key, row) for out in outputs(stage)}
            assert outs.isdisjoint(own)
            outs |= own
            for dep in body(stage)["deps"]:
                fill(dep, key, row)
        assert len(outs) == len(rows) * len(outputs(stage))


def outputs(stage: str) -> list[Any]:
    return [out for kind in ("outs", "metrics", "plots") for out in body(stage).get(kind, [])]


def test_the_rows_of_two_streams_and_two_seeds():
    values = with_flow(yaml.safe_load((ROOT / "configs/demo.yaml").read_text()))
    values["flow"]["train"] = {"clip": values["train"]["clip"], "frame": None}
    values["flow"]["finetune"] = None
    values["folds"] = [1, 2]
    rows = stage_rows({"demo": parse(values, Experiment, "demo")})
    found = {name: row["prefix"] for name, row in rows["representations"].items()}
    assert found == {"demo-fold1": "", "demo-fold2": "", "demo-flow-shared": "flow."}
    assert rows["representations"]["demo-flow-shared"]["method"] == "flow.method"
    ends = [f"fold{fold}-seed{seed}" for fold in (1, 2) for seed in (0, 1)]
    kinds = ("clip-rgb", "frame-rgb", "clip-flow")
    assert sorted(rows["trainings"]) == sorted(f"demo-{kind}-{end}" for kind in kinds for end in ends)
    assert rows["trainings"]["demo-clip-flow-fold2-seed1"] == {
        "experiment": "demo", "dataset": "demo", "name": "clip-flow-fold2-seed1", "task": "clip", "stream": "flow",
        "fold": 2, "representation": "flow-shared", "prefix": "flow.", "seed": 1,
    }  # fmt: skip
    first = [f"fold{fold}-seed0" for fold in (1, 2)]
    assert sorted(rows["probes"]) == sorted(f"demo-{task}-rgb-{end}" for task in ("clip", "frame") for end in first)
    assert rows["probes"].items() <= rows["trainings"].items()
    assert sorted(rows["fusions"]) == [f"demo-clip-fused-{end}" for end in ends]
    assert rows["fusions"]["demo-clip-fused-fold2-seed1"] == {
        "experiment": "demo", "dataset": "demo", "name": "clip-fused-fold2-seed1", "rgb": "clip-rgb-fold2-seed1",
        "flow": "clip-flow-fold2-seed1", "task": "clip", "fold": 2, "seed": 1,
    }  # fmt: skip


def test_an_experiment_without_a_probe_has_no_row_of_it():
    values = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    assert stage_rows({"demo": parse({**values, "probe": None}, Experiment, "demo")})["probes"] == {}
    assert stage_rows({"demo": parse(values, Experiment, "demo")})["probes"] != {}


def test_two_experiments_do_not_share_a_row():
    """demo's flow stream and demo-flow's colours would both be demo-flow-shared, and one of them not be built."""
    values = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    flow = with_flow({**values, "finetune": None})
    both = {"demo": parse(flow, Experiment, "demo"), "demo-flow": parse({**values, "finetune": None}, Experiment, "x")}
    with pytest.raises(ConfigError, match="experiments demo and demo-flow: both have a row demo-flow-shared; rename"):
        stage_rows(both)


def test_one_more_seed_changes_no_row_that_was_there():
    values = with_flow(yaml.safe_load((ROOT / "configs/demo.yaml").read_text()))
    before, after = (
        stage_rows({"demo": parse({**values, "num_seeds": count}, Experiment, "demo")}) for count in (2, 3)
    )
    for kind, rows in before.items():
        assert rows.items() <= after[kind].items()
    assert after["probes"] == before["probes"]
    assert len(after["trainings"]) == len(before["trainings"]) * 3 // 2
    reads = {stage: str(body(stage).get("params", [])) for stage in STAGES}
    assert not [stage for stage, params in reads.items() if "num_seeds" in params]


def test_the_rows_follow_from_the_experiments():
    rows = yaml.safe_load((ROOT / EXPERIMENTS).read_text())
    experiments: dict[str, Experiment] = {
        name: load_experiment(ROOT / "configs" / f"{name}.yaml") for name in rows["experiments"]
    }
    assert rows == stage_rows(experiments), f"run `lrcn select {' '.join(experiments)}`"


def test_select_names_what_a_valid_file_leaves_out_and_dvc_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = with_flow(yaml.safe_load((ROOT / "configs/demo.yaml").read_text()))
    (tmp_path / "configs").mkdir()
    (tmp_path / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    del values["num_seeds"], values["view"]["clip_frames"], values["view"]["clip_stride"]  # no stage names them
    Path("configs/whole.yaml").write_text(yaml.safe_dump(values))
    select.main(["whole"])
    rows = Path(EXPERIMENTS).read_text()
    del values["finetune"], values["evaluate"], values["view"]["crops"], values["flow"]["method"]
    Path("configs/brief.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as error:
        select.main(["whole", "brief"])
    assert str(error.value) == (
        "dvc.yaml names parameters that a configuration leaves to their defaults, which DVC does not know: "
        'configs/brief.yaml: add evaluate: {"bootstrap_samples": 1000, "precision": 0.9, "false_alarms_per_hour": '
        '1.0}, finetune: null, flow.method: "dis", view.crops: 1'
    )
    assert Path(EXPERIMENTS).read_text() == rows
    del values["flow"]  # then its method is asked for no more
    Path("configs/brief.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"finetune: null, view\.crops: 1$"):
        select.main(["brief"])


def test_outputs_lie_where_the_code_writes_them():
    from pipeline.stages.layout import Layout

    layout = Layout("${key}")
    outs = {str(next(iter(out)) if isinstance(out, dict) else out) for out in body("index")["outs"]}
    assert outs == {str(path) for path in (layout.videos, layout.segments, layout.splits, layout.audit)}
    folders = {
        "train": layout.training("${item.name}"), "evaluate": layout.evaluation("${item.name}"),
        "probe": layout.probe("${item.name}"), "fuse": layout.evaluation("${item.name}"),
        "finetune": layout.backbone("${item.representation}"),
    }  # fmt: skip
    for stage, folder in folders.items():
        assert list(map(name_of, body(stage)["outs"])) == [str(folder).replace("${key}", "${item.experiment}")]
    curves = {"train": layout.history("${item.name}"), "finetune": layout.history("${item.representation}")}
    for stage, path in curves.items():
        assert list(map(name_of, body(stage)["plots"])) == [str(path).replace("${key}", "${item.experiment}")]
    table = {"decode": layout.frames_table, "extract": layout.features_table("${item.representation}")}
    for stage, path in table.items():
        assert str(path).replace("${key}", KEYS[stage]) in map(name_of, body(stage)["outs"])


KEYS = {"decode": "${key}", "extract": "${item.experiment}"}


def name_of(entry: Any) -> str:
    return str(next(iter(entry)) if isinstance(entry, dict) else entry)


def test_the_headline_is_the_only_metric():
    """Each number of a metrics file is a column of `dvc exp show`."""
    metrics = {stage: body(stage)["metrics"] for stage in STAGES if "metrics" in body(stage)}
    assert metrics == {"report": ["artifacts/${key}/scores.json"]}


def test_no_stage_depends_on_a_store_but_on_its_table():
    """DVC looks at every file of a folder for each stage that depends on it; only the stage that fills it has to."""
    stores = {"artifacts/${key}/frames", "artifacts/${item.experiment}/frames"}
    stores.add("artifacts/${item.experiment}/features/${item.representation}")
    written = {name_of(out) for stage in STAGES for out in outputs(stage)}
    assert written & stores == stores - {"artifacts/${item.experiment}/frames"}
    for stage in STAGES:
        assert stores.isdisjoint(body(stage)["deps"]), stage


def test_the_table_of_inputs_is_renewed_with_every_file_it_stands_for():
    """A stage that depends on the table names none of these files."""
    from pipeline.stages.layout import Layout

    layout = Layout("${key}")
    tables = (layout.videos, layout.segments, layout.splits, layout.decoded, layout.frames_table)
    listed = {"datasets/${item.dataset}", *map(str, tables)}
    assert listed <= set(body("audit")["deps"])
    assert {str(layout.inputs), str(layout.leaks)} <= set(body("audit")["outs"])
    users = [s for s in STAGES if any(dep.endswith("/inputs.csv") for dep in body(s)["deps"])]
    assert users == ["finetune", "train", "evaluate", "probe", "fuse", "report"]
    for stage in users:
        deps = {dep.replace("${item.experiment}", "${key}") for dep in body(stage)["deps"]}
        assert not deps & {*listed, str(layout.leaks)}, stage


def test_every_output_is_cached_so_that_a_clone_can_pull_it():
    """One that is not would also keep its stage out of DVC's run cache."""
    for stage in STAGES:
        for out in outputs(stage):
            assert not isinstance(out, dict) or "cache" not in next(iter(out.values())), f"{stage}: {out}"


def test_plots_have_templates_that_are_there():
    from dvc_render.vega_templates import TEMPLATES

    known = {template.DEFAULT_NAME for template in TEMPLATES} | {path.stem for path in ROOT.glob(".dvc/plots/*.json")}
    used = {
        next(iter(plot.values())).get("template", "linear")
        for stage in STAGES
        for plot in body(stage).get("plots", [])
        if isinstance(plot, dict)
    }
    assert used == {"linear", "confusion_counts"}
    assert used <= known
