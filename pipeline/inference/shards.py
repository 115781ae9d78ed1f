"""Shards of a folder of results: how large files are, and where their answers are gathered."""

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from pipeline import remote
from pipeline.files import locked
from pipeline.inference.inputs import Inputs
from pipeline.inference.ledger import Ledger, LedgerReader
from pipeline.remotenames import is_url
from pipeline.shards import SHARDS, Shard


def inputs_of_shard(inputs: Inputs, shard: Shard) -> Inputs:
    """The part of the inputs that a shard does. Bytes stand for frames, which only decoding tells."""
    part = shard.of({path: _size_bytes(path) for path in inputs.paths})
    return inputs.only(part.__contains__)


def _size_bytes(path: str) -> int | None:
    if is_url(path):
        return remote.known_size(path) or None
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a path stays the text it came as
    except OSError:
        return None


def take_over(out: Path, ledger: Ledger, states: dict[str, str]) -> list[str]:
    """Copy what the shards' ledgers say of files that look as they do in `states`; returns the paths.

    Raises StoreError when a shard is still at work.
    """
    taken = []
    for folder in _folders(out):
        with locked(folder):
            taken += _copy(folder, ledger, states)
    return taken


def borrow(out: Path, own: Path, ledger: Ledger, states: dict[str, str]) -> None:
    """Copy into a shard's ledger what has been gathered, or what other shards say, who may be at work.

    Files change shards when others come or go, or N is another. own: the shard's folder.
    """
    for folder in [out, *(folder for folder in _folders(out) if folder != own)]:
        if missing := {path: state for path, state in states.items() if ledger.status(path, state) is None}:
            _copy(folder, ledger, missing)


def _folders(out: Path) -> Iterable[Path]:
    return sorted((out / SHARDS).glob("*-of-*"))


def _copy(folder: Path, ledger: Ledger, states: dict[str, str]) -> list[str]:
    with closing(LedgerReader(folder, ledger.model_id)) as theirs:
        return ledger.take_over(theirs, states)
