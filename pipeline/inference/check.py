"""`lrcn check PATH...`: decode every file once and say which are ok, damaged or rejected, and why."""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from pipeline.device import num_workers
from pipeline.inference.discovery import find_files
from pipeline.video.reader import Verdict, check_file

FIELDS = (
    "num_frames", "width", "height", "rotation_degrees", "first_pts_seconds", "duration_seconds", "codec",
    "pixel_format",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row per file; 0 when all are ok, 1 when some are damaged or rejected."""
    parser = argparse.ArgumentParser(prog="lrcn check", description=__doc__, allow_abbrev=False)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and folders")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--workers", type=int, default=0, help="files decoded at a time; 0 = one per core (default)")
    options = parser.parse_args(argv)
    files = find_files(options.paths)
    counts: dict[str, int] = {}
    if not options.json:
        print(f"{'status':<9} {'frames':>7} {'size':>11} {'seconds':>8}  codec    path: reason")
    with ThreadPoolExecutor(num_workers(options.workers)) as pool:
        for path, verdict in zip(files, pool.map(check_file, files), strict=True):
            counts[verdict.status] = counts.get(verdict.status, 0) + 1
            print(as_json(path, verdict) if options.json else as_row(path, verdict), flush=True)
    if not options.json:
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no file")
    return 0 if set(counts) <= {"ok"} else 1


def as_json(path: str, verdict: Verdict) -> str:
    """One line of JSON in ASCII, so that any file name survives."""
    values = asdict(verdict)
    row = {"path": path, "status": verdict.status, "reason": verdict.reason, "notes": list(verdict.notes)}
    return json.dumps(row | {name: values[name] for name in FIELDS})


def as_row(path: str, verdict: Verdict) -> str:
    """One line of the table, control characters and stray bytes of a name escaped."""
    name = path.encode("utf-8", "backslashreplace").decode("utf-8")
    name = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
    size = f"{verdict.width}x{verdict.height}" if verdict.width else ""
    seconds = "" if verdict.duration_seconds is None else f"{verdict.duration_seconds:.2f}"
    text = "; ".join(part for part in (verdict.reason, *verdict.notes) if part)
    return (
        f"{verdict.status:<9} {verdict.num_frames or '':>7} {size:>11} {seconds:>8}  {verdict.codec or '':<8} "
        f"{name}" + (f": {text}" if text else "")
    )
