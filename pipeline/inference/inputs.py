"""From what the user names to a list of files: each file once, in path order, nothing left out in silence."""
# Paths stay the text they came as, bytes that are no UTF-8 included; Path would rewrite "./x" and "x//y".
# ruff: noqa: PTH112, PTH116, PTH118, PTH207

import argparse
import bisect
import errno
import glob
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.discovery import Entry, Identity, printable, walk
from pipeline.errors import LrcnError
from pipeline.remote import named as named_address
from pipeline.remotelisting import NO_OBJECT, matches, walk_remote
from pipeline.remotenames import is_url
from pipeline.video.limits import Limits

NOT_THERE = "no such file or folder"


@dataclass(frozen=True)
class Inputs:
    """What a command is to answer for.

    paths: files, and what can be no video, in the order of their bytes. reasons: why, for those of the paths that
    cannot be read as a file. notes: what was left out, each a line for the user.
    """

    paths: list[str]
    reasons: dict[str, str]
    notes: list[str]

    @property
    def files(self) -> list[str]:
        """The paths without a reason against them."""
        return [path for path in self.paths if path not in self.reasons]

    def only(self, is_wanted: Callable[[str], bool]) -> "Inputs":
        """Those of the paths that are wanted."""
        paths = list(filter(is_wanted, self.paths))
        return Inputs(paths, {path: self.reasons[path] for path in paths if path in self.reasons}, self.notes)


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add PATH... and --from."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders, patterns such as 'clips/**/*.mp4', addresses such as s3://bucket/clips/ or "
        "https://host/a.mp4; put -- before names that begin with a dash",
    )
    parser.add_argument(
        "--from",
        dest="list",
        metavar="FILE",
        help="also take the paths in FILE, or on standard input for -: one a line, or separated by NUL (find -print0)",
    )


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --workers, --max-seconds and --max-memory."""
    limits = Limits()
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="videos decoded at a time; 0 = one per core (default)"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=limits.seconds_per_file,
        metavar="SECONDS",
        help=f"give a file up when decoding takes longer (default {limits.seconds_per_file:.0f})",
    )
    parser.add_argument(
        "--max-memory",
        type=int,
        default=limits.memory_bytes // 2**20,
        metavar="MB",
        help=f"give a file up when decoding needs more memory (default {limits.memory_bytes // 2**20})",
    )


def limits_of(options: argparse.Namespace) -> Limits:
    """Limits named by the arguments of `add_decoding_arguments`; raises LrcnError for impossible ones."""
    try:
        return Limits(memory_bytes=options.max_memory * 2**20, seconds_per_file=options.max_seconds)
    except ValueError as error:
        raise LrcnError(f"{error}; see --max-seconds and --max-memory") from None


def inputs_of(
    options: argparse.Namespace,
    command: str,
    *,
    out: Path | None = None,
    may_come: bool = False,
    said: set[str] | None = None,
) -> Inputs:
    """Inputs named by the arguments of `add_input_arguments`; says on stderr what was left out.

    out: the output folder, which is not entered when it lies inside an input folder. may_come: as for `find_inputs`,
    which see for the errors too. said: at a further look, what was said to be missing before, and is not said again;
    other notes then are not.
    """
    listed = [] if options.list is None else read_list(options.list)
    exclude = getattr(options, "exclude", "")  # of `predict`, whose results may go to an address
    inputs = find_inputs(options.paths, listed, out=out, may_come=may_come, exclude=exclude)
    notes = inputs.notes
    if said is not None:
        missing = {note for note in notes if note.endswith(NOT_THERE)}
        notes = sorted(missing - said, key=os.fsencode)
        said.clear()
        said.update(missing)
    for note in notes:
        print(printable(f"{command}: {note}"), file=sys.stderr, flush=said is not None)
    return inputs


def read_list(name: str) -> list[str]:
    """Paths in a file, or on standard input for `-`, byte for byte: separated by NUL if there is one, else a line each.

    A relative path counts from the working folder. Empty lines are passed over; a carriage return at the end of a line
    is part of the name where there is such a file, else of a line end from Windows. Raises LrcnError when the list
    cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise LrcnError(f"{name}: the list cannot be read ({error.strerror}); name a file, or - for stdin") from None
    paths = [os.fsdecode(entry) for entry in data.split(b"\0" if b"\0" in data else b"\n")]
    if b"\0" not in data:
        paths = [path[:-1] if path.endswith("\r") and _is_missing(path) else path for path in paths]
    return [path for path in paths if path]


def find_inputs(
    paths: Sequence[str],
    listed: Sequence[str] = (),
    *,
    out: Path | None = None,
    may_come: bool = False,
    exclude: str = "",
) -> Inputs:
    """Every file that is named, or lies below a named folder.

    A folder stands for every file below it whatever its name: what is no video gets an answer that says so. Hidden
    files and folders (`.git`, `._x.mp4`) are left out unless they are named, as shells do. A file with several names
    (links, hard links too) is answered for once. A path that does not exist is an answer too, but an error when nothing
    else is named on the command line. Addresses are as `walk_remote` describes them; secrets in them are kept aside.

    Args:
        paths: files, folders, patterns and addresses, as typed; a pattern is one only when there is no file of that
            very name.
        listed: files, folders and addresses, from a list.
        out: the output folder.
        exclude: the address of the output folder, where it is one; nothing below it is taken.
        may_come: files may come later and go again: no file at all is no error, nor is a pattern that fits none, and a
            path that does not exist is a note.

    Raises:
        LrcnError: nothing is named, no named path exists, there is no file at all, or `out` is a named folder.
    """
    if not paths and not listed:
        raise LrcnError("no file is named; name files or folders, or a list of them with --from")
    named, missing = [path for path in listed if not is_url(path)], []
    patterns: list[str] = []
    collected = _Collected()
    for with_patterns, given in ((True, paths), (False, listed)):
        urls = [named_address(path) for path in given if is_url(path)]
        for entry in walk_remote(urls, with_patterns=with_patterns, exclude=exclude):
            if entry.reason == NO_OBJECT and with_patterns:
                missing.append(entry.path)
            else:
                collected.add([entry])
    for path in paths:
        if is_url(path):
            continue
        if not _is_missing(path):
            named.append(path)
        elif "**" in path.split("/"):
            patterns.append(path)
        elif found := sorted(glob.glob(path), key=os.fsencode):
            named += found
        else:
            missing.append(path)
    out_identity = None if out is None else _identity(str(out))
    excluded = set() if out_identity is None else {out_identity}
    for path in named:
        if _identity(path) in excluded:
            raise LrcnError(f"{path}: is the output folder as well; choose another --out")
    collected.add(walk(named, exclude=excluded))
    for pattern in patterns:
        if not collected.add(_matches_of(pattern, excluded)):
            missing.append(pattern)
    gone: list[str] = []
    if may_come:
        gone, missing = [path for path in missing if not _is_pattern(path)], []
    if (gone and not named and not collected.paths) or (missing and len(missing) == len(paths) and not listed):
        missing += gone
        hint = "; further kinds of addresses are read by `lrcn stream`" if "://" in missing[0] else ""
        raise LrcnError(f"{missing[0]}: {NO_OBJECT if is_url(missing[0]) else NOT_THERE + hint}")
    for path in missing:
        reason = "no such file, nor one that fits as a pattern" if _is_pattern(path) else "no such file"
        reason = NO_OBJECT if is_url(path) else reason
        collected.add([Entry(path, "unusable", reason)])
    if not collected.paths and not may_come:
        named_first = ", ".join([*paths, *listed][:3])
        raise LrcnError("; ".join([f"{named_first}: no file there", *collected.notes()]))
    ordered = sorted(collected.paths, key=os.fsencode)
    notes = [f"{path}: {NOT_THERE}" for path in gone] + collected.notes() + _empty_folders(named, collected)
    return Inputs(ordered, collected.reasons, notes)


class _Collected:
    """Entries of several walks, each file once."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.hidden: list[str] = []
        self.repeated: list[str] = []
        self._identities: set[Identity | str] = set()

    def add(self, entries: Iterable[Entry]) -> int:
        """Take them in; returns how many there were that are not hidden."""
        count = 0
        for entry in entries:
            count += entry.kind != "hidden"
            if entry.kind == "hidden":
                self.hidden.append(entry.path)
            elif entry.kind in ("unusable", "closed"):
                self.reasons[entry.path] = entry.reason
                self.paths.add(entry.path)
            elif entry.kind == "file" and (entry.identity or entry.path) not in self._identities:
                self._identities.add(entry.identity or entry.path)
                self.paths.add(entry.path)
            elif entry.path not in self.paths:
                self.repeated.append(entry.path)
        return count

    def notes(self) -> list[str]:
        """What was left out, and the first case of it."""
        notes = []
        if self.hidden:
            notes.append(f"{len(self.hidden)} hidden file(s) or folder(s) left out, first {self.hidden[0]}")
        if self.repeated:
            notes.append(f"{len(self.repeated)} further name(s) of listed files left out, first {self.repeated[0]}")
        return notes


def _matches_of(pattern: str, excluded: set[Identity]) -> Iterator[Entry]:
    """What matches a pattern with `**`. (`glob` would follow links in circles, and pass over what it cannot read.)"""
    parts = pattern.rstrip("/").split("/")
    first = parts.index("**")
    head = "/".join(parts[:first]) or ("/" if first else "")
    roots = [head or "."] if not _is_missing(head or ".") else sorted(glob.glob(head), key=os.fsencode)
    for root in roots:
        for entry in walk([root], exclude=excluded):
            below = entry.path[len(os.path.join(root, "")) :]
            may_hold_matches = entry.kind == "closed" or (entry.kind == "hidden" and os.path.isdir(entry.path))
            if may_hold_matches or matches(below.split("/"), parts[first:]):
                yield entry if head else replace(entry, path=below or root)


def _empty_folders(named: Sequence[str], collected: _Collected) -> list[str]:
    """A note on each named folder from which nothing came."""
    seen = sorted(os.fsencode(path) for path in itertools.chain(collected.paths, collected.hidden, collected.repeated))
    notes = []
    for path in named:
        start = os.fsencode(os.path.join(path, ""))
        place = bisect.bisect_left(seen, start)
        inside = place < len(seen) and seen[place].startswith(start)
        if os.path.isdir(path) and not inside and path not in collected.reasons and path not in collected.repeated:
            notes.append(f"{path}: no file there")
    return notes


def _is_pattern(path: str) -> bool:
    return glob.escape(path) != path


def _is_missing(path: str) -> bool:
    """Whether there is nothing of this name; what exists but may not be looked at is not missing."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return False


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
