"""`lrcn check PATH...`: decode every file once and say which are ok, damaged or rejected, and why."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.inference.inputs import add_decoding_arguments, add_input_arguments, inputs_of, limits_of
from pipeline.prefetch import reading_ahead
from pipeline.threads import in_threads
from pipeline.video.isolation import DecoderPool
from pipeline.video.verdict import Verdict

FIELDS = (
    "num_frames", "width", "height", "rotation_degrees", "first_pts_seconds", "duration_seconds", "codec",
    "pixel_format",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row per file; 0 when all are ok, 1 when some are damaged or rejected."""
    parser = argparse.ArgumentParser(prog="lrcn check", description=__doc__, allow_abbrev=False)
    add_input_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    add_decoding_arguments(parser)
    options = parser.parse_args(argv)
    limits = limits_of(options)
    inputs = inputs_of(options, "check")
    counts: dict[str, int] = {}
    if not options.json:
        print(f"{'status':<9} {'frames':>7} {'size':>11} {'seconds':>8}  codec    path: reason")
    with DecoderPool(limits) as decoders:
        found = reading_ahead(inputs.files, in_threads(decoders.check, inputs.files, num_workers(options.workers)))
        for path in inputs.paths:
            verdict = Verdict.rejected(inputs.reasons[path]) if path in inputs.reasons else next(found)
            counts[verdict.status] = counts.get(verdict.status, 0) + 1
            print(as_json(path, verdict) if options.json else as_row(path, verdict), flush=True)
    if not options.json:
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    return 0 if set(counts) <= {"ok"} else 1


def as_json(path: str, verdict: Verdict) -> str:
    """One line of JSON in ASCII, so that any file name survives."""
    values = asdict(verdict)
    row = {"path": path, "status": verdict.status, "reason": verdict.reason, "notes": list(verdict.notes)}
    return json.dumps(row | {name: values[name] for name in FIELDS})


def as_row(path: str, verdict: Verdict) -> str:
    """One line of the table."""
    size = f"{verdict.width}x{verdict.height}" if verdict.width else ""
    seconds = "" if verdict.duration_seconds is None else f"{verdict.duration_seconds:.2f}"
    text = "; ".join(part for part in (verdict.reason, *verdict.notes) if part)
    return printable(
        f"{verdict.status:<9} {verdict.num_frames or '':>7} {size:>11} {seconds:>8}  {verdict.codec or '':<8} "
        f"{path}" + (f": {text}" if text else "")
    )
