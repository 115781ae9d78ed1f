"""Scores at timesteps, `frames/<name>.parquet`: what segments, subtitles and exports are made of.

Columns: `time_seconds` (float64, from the first frame), `label` (the most probable class), `score` (its probability,
float32), and a float32 column of probabilities for each class, in the model's order, named like the class. Cards refuse
classes that are named like one of the first three; should a model have one all the same, its column has a `_` behind.
File metadata: `path` (JSON, which holds any bytes of a name), `classes` (JSON), `model`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.files import replacing
from pipeline.inference.answers import Answer, Timesteps, output_name

FIXED_COLUMNS = ("time_seconds", "label", "score")


def timesteps_path(folder: Path, path: str) -> Path:
    """Where a folder of results keeps the scores at the timesteps of a video."""
    return folder / "frames" / f"{output_name(path)}.parquet"


def has_timesteps(folder: Path, path: str, model: str) -> bool:
    """Whether the scores at the timesteps of a video are there, and this model's; reads no more than their metadata."""
    try:
        about = pq.read_schema(timesteps_path(folder, path)).metadata
        return bool(about[b"model"] == model.encode() and json.loads(about[b"path"]) == path)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return False


def write_timesteps(folder: Path, answer: Answer, classes: Sequence[str], model: str = "") -> None:
    """Keep the timesteps of a fresh answer; of one without any, remove what an earlier answer to the file left.

    folder: of the results. classes: K names in the order of the probabilities. model: identity of the model. The file
    appears whole or not at all. Raises StoreError when the disk is full.
    """
    target = timesteps_path(folder, answer.path)
    if answer.timesteps is None:
        target.unlink(missing_ok=True)
        return
    probs = answer.timesteps.probabilities
    columns: dict[str, object] = {
        "time_seconds": answer.timesteps.time_seconds.astype(np.float64),
        "label": pa.array([classes[k] for k in probs.argmax(axis=1)], pa.string()),
        "score": probs.max(axis=1).astype(np.float32),
    }
    for k, name in enumerate(_class_columns(classes)):
        columns[name] = np.ascontiguousarray(probs[:, k], np.float32)
    about = {"path": json.dumps(answer.path), "classes": json.dumps(list(classes)), "model": model}
    with replacing(target) as temporary, temporary.open("wb") as file:
        pq.write_table(pa.table(columns, metadata=about), file, use_dictionary=["label"], write_statistics=False)


def read_timesteps(folder: Path, path: str) -> Timesteps:
    """The timesteps that are kept for a video; raises StoreError when they are missing, damaged or another video's."""
    source = timesteps_path(folder, path)
    advice = "remove it and run again: the video is then answered anew"
    try:
        with pq.ParquetFile(source) as file:
            about = file.schema_arrow.metadata
            num_classes, whose = len(json.loads(about[b"classes"])), json.loads(about[b"path"])
            table = file.read(use_threads=False)
    except FileNotFoundError:
        raise StoreError(f"{source}: missing; run again: the video is then answered anew") from None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{source}: no whole table of scores ({reason}); {advice}") from error
    if whose != path:
        raise StoreError(f"{source}: holds the scores of {whose!r}, not of {path!r}; {advice}")
    if table.num_columns != len(FIXED_COLUMNS) + num_classes or not table.num_rows:
        shape = f"{table.num_rows} rows of {table.num_columns} columns"
        raise StoreError(f"{source}: {shape}; expected one or more of {len(FIXED_COLUMNS) + num_classes}; {advice}")
    probs = np.stack([column.to_numpy() for column in table.columns[len(FIXED_COLUMNS) :]], axis=1)
    return Timesteps(table.column("time_seconds").to_numpy(), np.ascontiguousarray(probs, np.float32))


def _class_columns(classes: Sequence[str]) -> list[str]:
    """Names of the columns of classes, none of them another column's.

    >>> _class_columns(["sit", "label", "label_"])
    ['sit', 'label_', 'label__']
    """
    taken = list(FIXED_COLUMNS)
    for name in classes:
        while name in taken:
            name += "_"
        taken.append(name)
    return taken[len(FIXED_COLUMNS) :]
