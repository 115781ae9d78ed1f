"""`lrcn promote RUN --as ALIAS`: a training's model becomes a registered version with an alias, if its scores allow."""

import argparse
import getpass
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.discovery import printable
from pipeline.errors import ConfigError
from pipeline.registry import carry_out, decide
from pipeline.trackingruns import asking
from pipeline.trackingstore import tracking_uri

MARKS = {True: "ok  ", False: "FAIL", None: "note"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print every line of the decision; 0 when the alias has moved, 1 when it must not, 2 when MLflow cannot do it."""
    parser = argparse.ArgumentParser(prog="lrcn promote", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "run",
        metavar="RUN",
        help="id of a training's run, the beginning of one, or the training's folder; models:/NAME/VERSION to go back",
    )
    parser.add_argument("--as", dest="alias", metavar="ALIAS", required=True, help="e.g. champion")
    parser.add_argument(
        "--min-score", type=float, metavar="S", help="lowest main test score allowed, 0 to 1 (clip: top1, frame: acc)"
    )
    options = parser.parse_args(argv)
    alias: str = options.alias
    if not re.fullmatch(r"[\w\-]{1,255}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ConfigError(
            f"--as {alias!r}: no alias that MLflow takes; expected letters, digits, _ and -, no `latest`, no `v1`"
        )
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise ConfigError(f"--min-score is {options.min_score:g}; expected a share between 0 and 1")
    uri = tracking_uri(Path())
    by = _git_user() or getpass.getuser()
    with asking(uri) as client:
        decision = decide(client, options.run, alias, options.min_score, uri)
        version = carry_out(client, decision, by) if decision.held else None
    name, holder = decision.name, decision.holder
    print(printable(f"promote: {decision.who} as {name}@{alias}"))
    for line in decision.lines:
        print(printable(f"  {MARKS[line.holds]}  {line.text}"))
    before = f"version {holder.version}" if holder else "nobody"
    if version is None:
        failed = sum(line.holds is False for line in decision.lines)
        print(
            printable(
                f"lrcn promote: {failed} of these do not hold: nothing was registered, and {alias} stays with {before}"
            ),
            file=sys.stderr,
        )
        return 1
    print(printable(f"promote: {name} version {version.number} is {alias} (before: {before}): models:/{name}@{alias}"))
    return 0


def _git_user() -> str:
    """The name that commits are made under; "" where git knows none."""
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
