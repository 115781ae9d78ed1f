"""dvc.yaml lists everything a stage reads: DVC does not look into imports."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Experiment, load_experiment, parse
from pipeline.errors import ConfigError
from pipeline.stages import select
from pipeline.stages.select import EXPERIMENTS, stage_rows

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk, without what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from running_nodes(child)


def import_closure(entry: str) -> set[str]:
    """Files under pipeline/ that importing `entry` reads, found by parsing, not by running."""
    todo, seen = [entry], set()
    while todo:
        name = todo.pop()
        path = module_file(name)
        if path is None or path in seen:
            continue
        seen.add(path)
        parent = name.rpartition(".")[0]
        todo += [parent] if parent else []
        for node in running_nodes(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: relative import; this test cannot follow it"
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            todo += [name for name in names if name.split(".")[0] == "pipeline"]
    return {path.relative_to(ROOT).as_posix() for path in seen if path.stat().st_size}


def entry_of(stage: str) -> str:
    command, name = STAGES[stage]["do"]["cmd"].split()[:2]
    assert (command, name) == ("lrcn", stage)
    return f"pipeline.stages.{name}"


def code_deps(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["do"]["deps"] if dep.startswith("pipeline/")}


def other_files(stage: str) -> set[str]:
    """Files of the package that are read without being imported."""
    page = {f"pipeline/reporting/report.{ending}" for ending in ("html", "css", "js")}
    files = {"train": {"pipeline/serving.py"}, "report": page}
    return files.get(stage, set())


def test_the_stages_are_there():
    names = ["index", "decode", "audit", "finetune", "extract", "train", "evaluate", "probe", "fuse", "report"]
    assert list(STAGES) == names


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_the_code_it_runs(stage):
    needed = import_closure(entry_of(stage)) | other_files(stage)
    missing, stale = needed - code_deps(stage), code_deps(stage) - needed
    assert not missing, f"stage {stage!r} in dvc.yaml lacks deps: {sorted(missing)}"
    assert not stale, f"stage {stage!r} in dvc.yaml lists deps it does not import: {sorted(stale)}"


def test_the_closure_follows_imports():
    closure = import_closure("pipeline.stages.decode")
    assert {"pipeline/video/reader.py", "pipeline/view.py", "pipeline/errors.py"} <= closure
    assert "pipeline/tracking.py" not in closure


@pytest.mark.parametrize("entry", ["stages.decode", "inference.check", "inference.extract", "video.worker"])
def test_what_reads_files_cannot_open_an_address(entry):
    """Protocols of networks are named in one module, which the decoding processes of files do not have."""
    closure = import_closure(f"pipeline.{entry}")
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


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_of_a_stage_exists(stage):
    assert len(EXPERIMENT_VALUES) >= 8
    checked = 0
    for experiment, values in EXPERIMENT_VALUES.items():
        for key, row in rows_of(stage, values).items():
            for entry in STAGES[stage]["do"]["params"]:
                ((file, keys),) = entry.items()
                assert fill(file, key, row) == "configs/x.yaml"
                for wanted in keys or []:
                    found = values
                    for part in fill(wanted, key, row).split("."):
                        assert part in found, f"{experiment} has no {wanted}, which stage {stage!r} reads"
                        found = found[part]
                    checked += 1
    assert checked or stage == "report"  # which depends on all of the file


@pytest.mark.parametrize("stage", STAGES)
def test_a_row_gives_the_command_and_files_of_its_name(stage):
    for values in EXPERIMENT_VALUES.values():
        outs = set()
        rows = rows_of(stage, values)
        for key, row in rows.items():
            name = fill(STAGES[stage]["do"]["cmd"], key, row)
            assert name.startswith(f"lrcn {stage} --config configs/x.yaml")
            own = {fill(next(iter(out)) if isinstance(out, dict) else out, key, row) for out in outputs(stage)}
            assert outs.isdisjoint(own)
            outs |= own
            for dep in STAGES[stage]["do"]["deps"]:
                fill(dep, key, row)
        assert len(outs) == len(rows) * len(outputs(stage))


def outputs(stage: str) -> list[Any]:
    return [out for kind in ("outs", "metrics", "plots") for out in STAGES[stage]["do"].get(kind, [])]


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


def test_one_more_seed_changes_no_row_that_was_there():
    values = with_flow(yaml.safe_load((ROOT / "configs/demo.yaml").read_text()))
    before, after = (
        stage_rows({"demo": parse({**values, "num_seeds": count}, Experiment, "demo")}) for count in (2, 3)
    )
    for kind, rows in before.items():
        assert rows.items() <= after[kind].items()
    assert after["probes"] == before["probes"]
    assert len(after["trainings"]) == len(before["trainings"]) * 3 // 2
    reads = {stage: str(STAGES[stage]["do"]["params"]) for stage in STAGES}
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
    outs = {str(next(iter(out)) if isinstance(out, dict) else out) for out in STAGES["index"]["do"]["outs"]}
    assert outs == {str(path) for path in (layout.videos, layout.segments, layout.splits, layout.audit)}
