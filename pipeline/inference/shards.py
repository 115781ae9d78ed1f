"""One folder of results made by several calls at a time: which files are whose, and where answers are gathered."""

import argparse
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import locked
from pipeline.inference.ledger import Ledger, LedgerReader

SHARDS = ".shards"


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` parts of the files, from 1 on."""

    number: int
    count: int

    def holds(self, path: str) -> bool:
        """Whether a file is in this part: by the SHA-256 of its path, so that new files move no other."""
        digest = hashlib.sha256(os.fsencode(path)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def folder(self, out: Path) -> Path:
        """Where its ledger lies."""
        return out / SHARDS / f"{self.number}-of-{self.count}"


def shard(text: str) -> Shard:
    """The shard that an option `I/N` names; raises ArgumentTypeError for any other text."""
    parts = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    number, count = (int(part) for part in parts.groups()) if parts else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is no shard; expected I/N with I from 1 to N, such as 2/8")
    return Shard(number, count)


def take_over(out: Path, ledger: Ledger, states: dict[str, str]) -> list[str]:
    """Copy what the shards' ledgers say of files that look as they do in `states`; returns the paths.

    Raises StoreError when a shard is still at work.
    """
    taken = []
    for folder in sorted((out / SHARDS).glob("*-of-*")):
        with locked(folder):
            theirs = LedgerReader(folder, ledger.model_id)
            try:
                taken += ledger.take_over(theirs, states)
            finally:
                theirs.close()
    return taken
