"""Parts of a list of videos, done by several calls at a time into one store, and who may write there meanwhile."""

import argparse
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import locked

SHARDS = ".shards"
SECONDS_TO_BEGIN = 2.0  # that a shard waits: another one that ends has the lock for itself for a moment


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` parts of the videos, from 1 on."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, sizes: Mapping[str, int | None]) -> set[str]:
        """The keys in this part; sizes: of each video in frames, or in anything else that time grows with.

        In the order of the SHA-256 of their keys the videos lie side by side, each as long as it is, and `count` equal
        stretches are laid over them: a video belongs to the stretch that its middle is in. So no part is further from
        an equal share than the size of the largest video, and whatever the order of the list, each video is in one
        part. The order is one that has nothing to do with names, so new videos move each border by a part of their own
        size, and few of the others to another part. (Dealing out to the part with the least so far comes closer to
        equal shares, and moves most.) An unknown size counts as the mean of the known ones.
        """
        known = [max(1, size) for size in sizes.values() if size is not None]
        usual = max(1, sum(known) // len(known)) if known else 1
        counted = {key: usual if size is None else max(1, size) for key, size in sizes.items()}
        twice_total, twice_before, keys = 2 * sum(counted.values()), 0, set[str]()
        for key in sorted(counted, key=lambda key: hashlib.sha256(os.fsencode(key)).digest()):
            # In integers: every machine draws the borders at the same place.
            twice_middle = twice_before + counted[key]
            if twice_middle * self.count // twice_total == self.number - 1:
                keys.add(key)
            twice_before += 2 * counted[key]
        return keys

    def folder(self, store: Path) -> Path:
        """What it keeps of its own beside a store."""
        return store / SHARDS / f"{self.number}-of-{self.count}"


def shard(text: str) -> Shard:
    """The shard that an option `I/N` names; raises ArgumentTypeError for any other text."""
    parts = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    number, count = (int(part) for part in parts.groups()) if parts else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is no shard; expected I/N with I from 1 to N, such as 2/8")
    return Shard(number, count)


def add_shard_argument(parser: argparse._ActionsContainer, what: str) -> None:
    """Add --shard. what: is done by the call without it that gathers."""
    parser.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help=f"do only the I-th of N parts of the videos, beside the others; a call without --shard then {what}",
    )


@contextmanager
def writing(store: Path, shard: Shard | None, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Be the only writer of a store, or with a shard one of several of which none does the same part.

    wait_seconds: as for `locked`. Raises StoreError, naming who writes, while another has the part, a shard a store
    that is wanted as a whole, or the reverse.
    """
    if shard is None:
        with locked(store, wait_seconds=wait_seconds):
            yield
        return
    wait_seconds = max(wait_seconds, SECONDS_TO_BEGIN)
    with (
        locked(store, shared=True, wait_seconds=wait_seconds),
        locked(shard.folder(store), wait_seconds=wait_seconds),
    ):
        yield


def forget_shards(store: Path) -> None:
    """Remove what is left of shards of a store that keep nothing of their own; for its only writer."""
    shutil.rmtree(store / SHARDS, ignore_errors=True)
