"""`lrcn store verify FOLDER...` and `lrcn store prune FOLDER --videos TABLE`: look after stored frames and features."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from pipeline.data.tables import read_csv
from pipeline.discovery import printable
from pipeline.errors import DataError, LrcnError
from pipeline.features.store import FeatureStore
from pipeline.files import leftovers, locked
from pipeline.video.framestore import FrameStore

USABLE = ("ok", "damaged")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 when all is well, 1 when `verify` found something damaged."""
    parser = argparse.ArgumentParser(prog="lrcn store", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="read every entry and say which are damaged", allow_abbrev=False)
    verify.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="stores of frames or features")
    prune = commands.add_parser("prune", help="remove what no video of a table needs", allow_abbrev=False)
    prune.add_argument("folder", type=Path, metavar="FOLDER", help="a store of frames or features")
    prune.add_argument("--videos", required=True, type=Path, help="the table of videos to keep, e.g. videos.csv")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    options = parser.parse_args(argv)
    if options.command == "verify":
        stores = [store_in(folder) for folder in options.folders]
        return 1 if sum(verify_store(store) for store in stores) else 0
    prune_store(store_in(options.folder), options.videos, options.dry_run)
    return 0


def store_in(folder: Path) -> FrameStore | FeatureStore:
    """The store in a folder, for entries of any key; raises LrcnError when there is none."""
    for store in (FrameStore(folder, None), FeatureStore(folder, None)):
        if store.entries():
            return store
    raise LrcnError(f"{folder}: no stored frames or features there; expected files named by 64 hex digits")


def verify_store(store: FrameStore | FeatureStore) -> int:
    """Read every entry and print what is wrong with it; returns how many are damaged."""
    entries = store.entries()
    faults = [store.fault(sha256) for sha256 in tqdm(entries, "verify", disable=not sys.stderr.isatty())]
    bad = [fault for fault in faults if fault]
    for fault in bad:
        print(printable(f"store: {fault}"))
    print(printable(f"store: {store.folder}: {len(entries)} videos, {len(bad)} of them damaged"))
    return len(bad)


def prune_store(store: FrameStore | FeatureStore, table: Path, dry_run: bool) -> None:
    """Remove entries of no usable video of a table, damaged ones, and what dead writers left; print each."""
    keep = {row["sha256"] for _, row in read_csv(table, ["sha256", "status"]) if row["status"] in USABLE}
    if not keep:
        raise DataError(f"{table}: no usable video in it, so nothing would stay; expected the table of this store")
    verb = "would remove" if dry_run else "removed"
    abandoned = {path: path.stat().st_size for path in leftovers(store.folder)}
    num_removed, num_bytes = len(abandoned), sum(abandoned.values())
    with nullcontext() if dry_run else locked(store.folder):  # taking the lock removes what dead writers left
        for path, size in abandoned.items():
            print(printable(f"store: {verb} {path}: left by a writer that is dead ({size} bytes)"))
        for sha256 in store.entries():
            reason = "of no usable video in the table" if sha256 not in keep else store.fault(sha256)
            if reason:
                size = store.size_bytes(sha256)
                if not dry_run:
                    store.remove(sha256)
                print(printable(f"store: {verb} {sha256} ({size} bytes): {reason}"))
                num_removed, num_bytes = num_removed + 1, num_bytes + size
    print(printable(f"store: {store.folder}: {verb} {num_removed} of {num_bytes} bytes in all"))
