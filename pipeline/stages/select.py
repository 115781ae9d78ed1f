"""Choose the experiments that `dvc repro` builds: writes `configs/experiments.yaml`, the rows of dvc.yaml's stages.

A plain matrix over experiment, task and fold is a full product; experiments differ in their tasks and folds, so the
rows are written out. They follow from each experiment's own file, and a test compares the two.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment, load_experiment, read_yaml
from pipeline.data.cards import read_dataset
from pipeline.data.scan import list_media
from pipeline.errors import ConfigError
from pipeline.files import write_table, write_text
from pipeline.remotenames import Url, media_at
from pipeline.stages.layout import representation, training_name

EXPERIMENTS, STAGES = Path("configs/experiments.yaml"), Path("dvc.yaml")
OBJECT_COLUMNS = ("path", "state")
HEADER = "# Written by `lrcn select {names}`: what `dvc repro` builds, a row for each run of a stage.\n"


def stage_rows(experiments: Mapping[str, Experiment]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of the kinds of stages in dvc.yaml: per experiment, CNN, training, probe of a training, fusion of two.

    prefix: where the stream's settings stand in the experiment's file, "" or `flow.`. method: the parameter that says
    how flow is computed; RGB has none and names one that its stages depend on anyway. Raises ConfigError where two
    experiments have a row of one name, of which DVC would build one.
    """
    rows: dict[str, dict[str, dict[str, Any]]] = {
        "experiments": {}, "representations": {}, "trainings": {}, "probes": {}, "fusions": {},
    }  # fmt: skip
    for name, experiment in experiments.items():
        both = {"experiment": name, "dataset": experiment.dataset}
        rows["experiments"][name] = both
        for stream, fold in itertools.product(experiment.streams, experiment.folds):
            own = {
                "stream": stream,
                "fold": fold,
                "representation": representation(experiment, stream, fold),
                "prefix": "" if stream == "rgb" else f"{stream}.",
            }
            method = "flow.method" if stream == "flow" else "view.fps"
            key = f"{name}-{own['representation']}"
            there = rows["representations"].setdefault(key, {**both, **own, "method": method})
            if there["experiment"] != name:
                raise ConfigError(
                    f"experiments {there['experiment']} and {name}: both have a row {key}; rename one of them"
                )
            for task, seed in itertools.product(experiment.stream(stream).tasks, experiment.seeds):
                training = training_name(task, stream, fold, seed)
                row = {**both, "name": training, "task": task, **own, "seed": seed}
                rows["trainings"][f"{name}-{training}"] = row
                if experiment.probe is not None and stream == "rgb" and seed == experiment.seed:
                    rows["probes"][f"{name}-{training}"] = dict(row)  # a second copy: YAML would refer to the first
        for task, fold, seed in itertools.product(experiment.fused_tasks, experiment.folds, experiment.seeds):
            fused, rgb, flow = (training_name(task, stream, fold, seed) for stream in ("fused", "rgb", "flow"))
            of = {"name": fused, "rgb": rgb, "flow": flow, "task": task, "fold": fold, "seed": seed}
            rows["fusions"][f"{name}-{fused}"] = {**both, **of}
    return rows


def require_parameters(
    stages: Mapping[str, Any], experiments: Mapping[str, Experiment], texts: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ConfigError where an experiment's file leaves out a key that a stage names as its parameter.

    The file is valid without it, but DVC knows no defaults: "Parameters ... are missing".

    Args:
        stages: of dvc.yaml, by name.
        experiments, texts: by name, an experiment, and its file as read.
    """
    problems = []
    for name, experiment in experiments.items():
        rows = stage_rows({name: experiment})
        wanted = {
            _filled(parameter, row)
            for stage in stages.values()
            for row in rows.get(str(stage.get("foreach", ""))[2:-1], {}).values()
            for entry in stage["do"].get("params", [])
            if isinstance(entry, dict)  # a name alone is a key of params.yaml, which is no experiment
            for file, parameters in entry.items()
            if _filled(file.replace("${key}", name), row) == f"configs/{name}.yaml"
            for parameter in parameters or []
        }
        defaults = experiment.model_dump(mode="json")
        missing = {key for key in wanted if not _has(texts[name], key)}
        whole = sorted(key for key in missing if not any(key.startswith(f"{other}.") for other in missing))
        lacking = [f"{key}: {json.dumps(_at(defaults, key))}" for key in whole]
        if lacking:
            problems.append(f"configs/{name}.yaml: add {', '.join(lacking)}")
    if problems:
        raise ConfigError(
            f"{STAGES} names parameters that a configuration leaves to their defaults, which DVC does not know: "
            + "  |  ".join(problems)
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of the named experiments; raises ConfigError where `dvc repro` would lack a parameter."""
    parser = argparse.ArgumentParser(prog="lrcn select", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiments", nargs="+", help="names of files in configs/, e.g. demo fight")
    names = parser.parse_args(argv).experiments
    files = {name: Path("configs") / f"{name}.yaml" for name in names}
    experiments = {name: load_experiment(file) for name, file in files.items()}
    require_parameters(
        read_yaml(STAGES)["stages"], experiments, {name: read_yaml(file) for name, file in files.items()}
    )
    for dataset in sorted({experiment.dataset for experiment in experiments.values()}):
        list_objects(dataset)
    rows = stage_rows(experiments)
    text = HEADER.format(names=" ".join(names)) + yaml.safe_dump(
        rows, sort_keys=False, default_flow_style=None, width=200
    )
    write_text(EXPERIMENTS, text)
    print(f"{EXPERIMENTS}: {len(rows['trainings'])} training(s) of {', '.join(names)}; `dvc repro` builds them")


def list_objects(dataset: str) -> None:
    """Of a data set whose media are in an object store, write what is there: DVC looks at this table instead."""
    folder = Path("datasets") / dataset
    if not (folder / "card.yaml").is_file():
        return  # the stage `index` says so
    media = media_at(read_dataset(folder).card.media)
    if isinstance(media, Url):
        table = Path("media") / dataset / "objects.csv"
        files = list_media(media)
        write_table(table, OBJECT_COLUMNS, [[file.video_id, *file.state] for file in files])
        print(f"{table}: {len(files)} objects in {media}; run this again when they change")


def _filled(text: str, row: Mapping[str, Any]) -> str:
    """A text of dvc.yaml with a row's values in their places."""
    for column, value in row.items():
        text = text.replace(f"${{item.{column}}}", str(value))
    return text


def _has(values: Any, key: str) -> bool:
    """Whether a nested mapping has a key such as `view.crops`."""
    first, _, rest = key.partition(".")
    return isinstance(values, Mapping) and first in values and (not rest or _has(values[first], rest))


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values
