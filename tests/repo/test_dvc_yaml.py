"""dvc.yaml lists everything a stage reads: DVC does not look into imports."""

import ast
from pathlib import Path

import pytest
import yaml

from pipeline.config import Experiment, load_experiment
from pipeline.stages.select import EXPERIMENTS, stage_rows

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


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
        for node in ast.walk(ast.parse(path.read_text())):
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
    files = {"train": {"pipeline/serving.py"}, "report": {"pipeline/reporting/report.html"}}
    return files.get(stage, set())


def test_the_seven_stages_are_there():
    assert list(STAGES) == ["index", "decode", "finetune", "extract", "train", "evaluate", "report"]


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


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_of_a_stage_exists(stage):
    configs = sorted((ROOT / "configs").glob("*.yaml"))
    experiments = [path for path in configs if path.name not in ("experiments.yaml", "runtime.yaml")]
    assert len(experiments) >= 4
    for entry in STAGES[stage]["do"]["params"]:
        (keys,) = entry.values()
        for path in experiments:
            values = yaml.safe_load(path.read_text())
            for key in keys or []:
                found = values
                row = {"${item.task}": "clip", "${item.prefix}": "", "${item.method}": "view.fps"}
                for name, value in row.items():
                    key = key.replace(name, value)
                for part in key.split("."):
                    assert part in found, f"{path.name} has no {key}, which stage {stage!r} reads"
                    found = found[part]


def test_the_rows_follow_from_the_experiments():
    rows = yaml.safe_load((ROOT / EXPERIMENTS).read_text())
    experiments: dict[str, Experiment] = {
        name: load_experiment(ROOT / "configs" / f"{name}.yaml") for name in rows["experiments"]
    }
    assert rows == stage_rows(experiments), f"run `lrcn select {' '.join(experiments)}`"


def test_outputs_lie_where_the_code_writes_them():
    from pipeline.stages.layout import Layout

    layout = Layout("${key}")
    outs = {str(next(iter(out)) if isinstance(out, dict) else out) for out in STAGES["index"]["do"]["outs"]}
    assert outs == {str(path) for path in (layout.videos, layout.segments, layout.splits, layout.audit)}
