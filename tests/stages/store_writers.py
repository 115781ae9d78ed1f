"""Writers and readers of stores, to be run in processes of their own; imports little, so that they start fast."""

import fcntl
import os
import sys
import time
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.errors import StoreError, ViewMismatch
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.files import locked, write_table
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import Frame, Verdict

ENTRIES = [f"{number:064x}" for number in range(3)]


def frames_of(key: str, sha256: str) -> list[Frame]:
    rng = np.random.default_rng([ord(key[-1]), int(sha256, 16)])
    return [Frame(k / 7, k / 7, rng.integers(0, 256, (48, 32), np.uint8)) for k in range(6)]


def features_of(key: str, sha256: str) -> VideoFeatures:
    rng = np.random.default_rng([ord(key[-1]), int(sha256, 16)])
    return VideoFeatures(rng.random((60, 64)).astype(np.float16), np.arange(60.0), np.arange(60.0))


def write_entries(folder: Path, key: str = "key-0", *, only_missing: bool = True) -> None:
    """What a stage does: the entries that are missing, one after the other, and a table."""
    frames, features = FrameStore(folder / "frames", key), FeatureStore(folder / "features", key)
    for sha256 in ENTRIES:
        if not only_missing or not frames.has(sha256):
            frames.write(sha256, frames_of(key, sha256), lambda: Verdict("ok"))
        if not only_missing or not features.has(sha256):
            features.write(sha256, features_of(key, sha256))
    write_table(folder / "table.csv", ["sha256"], [[sha256] for sha256 in ENTRIES])


def write_as_a_stage(folder: Path) -> None:
    with locked(folder), locked(folder / "frames"), locked(folder / "features"):
        write_entries(folder)


def serve_writers() -> None:
    """For each folder named on standard input: a process that writes there, until it ends or is killed.

    Imports once, so that each starts fast. A second line asks for its end: until then its pid is nobody else's.
    """
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            write_as_a_stage(Path(line.rstrip("\n")))
            os._exit(0)
        print(pid, flush=True)
        sys.stdin.readline()
        os.waitpid(pid, 0)
        print("ended", flush=True)


def write_again_and_again(folder: str, key: str) -> None:
    for _ in range(20):
        write_entries(Path(folder), key, only_missing=False)


def sweep_until_stopped(folder: str) -> None:
    """As another machine does whose locks do not reach this one; prints how often unfinished files were there."""
    files.MACHINE = "0" * 12
    fcntl.flock = lambda descriptor, flags: None
    count = 0
    while not Path(folder, "stop").exists():
        for store in ("frames", "features"):
            count += any(Path(folder, store).glob(".*.tmp"))
            files.sweep(Path(folder, store))
        time.sleep(0.001)
    print(count)


def read_until_stopped(folder: str, key: str, same: str) -> None:
    """Compares what it reads with what was written, byte for byte; prints how many reads succeeded.

    same: "same" when all writers write the same; otherwise an entry may be that of another key, and then is refused.
    """
    frames, features = FrameStore(Path(folder, "frames"), key), FeatureStore(Path(folder, "features"), key)
    count = 0
    while not Path(folder, "stop").exists():
        for sha256 in ENTRIES:
            try:
                found = [frame.i420.tobytes() for frame in frames.read(sha256)]
                assert found == [frame.i420.tobytes() for frame in frames_of(key, sha256)], "frames of another"
                assert np.array_equal(features.read(sha256).values, features_of(key, sha256).values), "others' features"
                count += 1
            except (StoreError, ViewMismatch):
                assert same != "same"
            time.sleep(0.002)  # two readers that never wait can starve the writers, and the disk, on two cores
    print(count)
