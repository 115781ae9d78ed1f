"""`lrcn extract PATH... --backbone B --fps R --out DIR`: one feature vector per frame of every video.

Writes `DIR/<sha256 of the video>.safetensors` (values, time_seconds, pts_seconds) and `DIR/videos.csv`, which says
which file belongs to which video. With `--config` it is the pipeline's stage, which works from the frame store.
"""

import argparse
import csv
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.device import choose_device, num_workers
from pipeline.errors import ConfigError, LrcnError, RejectedVideo
from pipeline.features.backbones import load_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import FeatureStore
from pipeline.files import write_table
from pipeline.inference.discovery import find_files
from pipeline.video.reader import Frame, VideoReader
from pipeline.view import View, features_key

COLUMNS = ("path", "status", "reason", "sha256", "num_frames")


def main(argv: Sequence[str] | None = None) -> int:
    """Extract every file; 0 when all were done, 1 when some could not be."""
    if any(argument.split("=")[0] == "--config" for argument in argv or ()):
        from pipeline.stages.extract import main as stage

        stage(argv)
        return 0
    parser = argparse.ArgumentParser(prog="lrcn extract", description=__doc__, allow_abbrev=False)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and folders")
    parser.add_argument("--backbone", required=True, help="a classification model of torchvision, e.g. resnet50")
    parser.add_argument("--weights", default="default", help="a weights file (default: torchvision's own)")
    parser.add_argument("--fps", type=float, required=True, help="frames per second of video")
    parser.add_argument("--short-side", type=int, default=256, help="pixels after resizing (default 256)")
    parser.add_argument("--crop", type=int, default=224, help="pixels of the square in the middle (default 224)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--workers", type=int, default=0, help="videos decoded at a time; 0 = one per core (default)")
    options = parser.parse_args(argv)
    try:
        view = View(options.fps, options.short_side, options.crop)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    backbone = load_backbone(options.backbone, options.weights, seed=0)
    backbone.check_crop(view.crop)
    files = find_files(options.paths, exclude=[options.out])
    store = FeatureStore(options.out, features_key(view, backbone.name, backbone.weights_sha256))
    extractor = Extractor(backbone, view.crop, choose_device(options.device), workers=num_workers(options.workers))
    return extract_files(files, store, extractor, view, options.out)


def extract_files(files: Sequence[str], store: FeatureStore, extractor: Extractor, view: View, out: Path) -> int:
    """Write features and the table; returns the exit code. Equal files are done once, stored ones not again."""
    rows: dict[str, list[object]] = {}
    known = {row["sha256"]: (row["status"], row["reason"]) for row in previous_rows(out / "videos.csv")}
    todo: dict[str, str] = {}
    for path in files:
        try:
            sha256 = content_hash(path)
        except OSError as error:
            rows[path] = [path, "rejected", f"cannot be read: {error.strerror}", "", 0]
            continue
        rows[path] = [path, *known.get(sha256, ("ok", "")), sha256, 0]
        if not store.has(sha256):
            todo.setdefault(sha256, path)
    readers = {sha256: VideoReader(path) for sha256, path in todo.items()}
    jobs: Iterator[tuple[str, Iterator[Frame]]] = (
        (sha256, reader.frames(view.fps, view.short_side)) for sha256, reader in list(readers.items())
    )
    verdicts: dict[str, tuple[str, str]] = {}
    bar = tqdm(extractor.run(jobs), "extract", len(todo), disable=not sys.stderr.isatty(), unit="video")
    for sha256, result in bar:
        reader = readers.pop(sha256)
        if isinstance(result, Exception):
            status = "rejected" if isinstance(result, RejectedVideo) else "failed"
            verdicts[sha256] = (status, str(result))
        else:
            store.write(sha256, result)
            verdicts[sha256] = (reader.verdict.status, reader.verdict.reason)
    for row in rows.values():
        sha256 = str(row[3])
        if sha256 in verdicts:
            row[1], row[2] = verdicts[sha256]
        if sha256 and store.has(sha256):
            row[4] = len(store.read(sha256).values)
    write_table(out / "videos.csv", COLUMNS, list(rows.values()))
    bad = [row for row in rows.values() if row[1] in ("rejected", "failed")]
    print(f"extract: {len(rows) - len(bad)} of {len(rows)} file(s) have features, {len(todo)} looked at now; see {out}")
    for row in bad:
        print(f"extract: {row[0]}: {row[1]}: {row[2]}", file=sys.stderr)
    if not rows:
        raise LrcnError("no file to extract; name files, or folders that hold some")
    return 1 if bad else 0


def previous_rows(path: Path) -> list[dict[str, str]]:
    """The table of an earlier call, which knows what was damaged; nothing when there was none."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def content_hash(path: str) -> str:
    """SHA-256 of a regular file; anything else (a pipe would block for ever) is refused as an OSError."""
    if not os.path.isfile(path):  # noqa: PTH113
        raise OSError(0, "not a regular file")
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()
