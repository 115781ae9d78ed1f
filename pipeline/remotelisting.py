"""From addresses to objects, as `pipeline.discovery` goes from folders to files."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from pipeline import remote
from pipeline.discovery import Entry
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.remotenames import scheme_of
from pipeline.threads import in_threads

NO_OBJECT = "no such object"
ASKING = 16  # objects asked for at a time


def walk_remote(urls: Iterable[str], *, with_patterns: bool = False, exclude: str = "") -> Iterator[Entry]:
    """What is at the named addresses: objects, and all objects below a folder (one that ends in `/`, or a bucket).

    Names that begin with a dot are `hidden` unless they are named, as those of files are. An address at which there is
    nothing, in a listing that can be made, is `unusable`. An object of which the server says nothing is a `file` like
    any other: reading it tells why. HTTP servers list nothing, so there an address is always one of an object.

    Args:
        urls: as `remote.named` gives them.
        with_patterns: `*`, `?`, `[...]` and `**` stand for parts of names where there is no object of that very name
            (not for HTTP, where `?` begins the parameters).
        exclude: an address below which nothing is taken.

    Raises LrcnError when a folder cannot be listed.
    """
    urls = list(urls)
    kinds = in_threads(_kind, urls, ASKING)
    for url, kind in zip(urls, kinds, strict=True):
        if kind == "object":
            yield Entry(url, "file")
            continue
        entries: list[Entry] = []
        if kind == "folder":
            entries = list(_below(url, lambda parts: True, exclude))
        elif with_patterns and re.search(r"[*?[]", url) and not scheme_of(url).startswith("http"):
            entries = list(_matching(url, exclude))
        yield from entries or [Entry(url, "unusable", NO_OBJECT)]


def list_folder(url: str) -> dict[str, str]:
    """State of every object below a folder, by its name there, in the order of the names' bytes; none, if none is.

    Raises LrcnError when it cannot be listed.
    """
    if scheme_of(url).startswith("http"):
        raise LrcnError(f"{url}: HTTP servers do not list what they have; name the files, in a list with --from")
    folder = url.rstrip("/")

    def find() -> dict[str, str]:
        files = remote.filesystem(url)
        start = len(files._strip_protocol(folder)) + 1
        found = files.find(folder + "/", detail=True)
        return {
            name[start:]: remote.state_of(info)
            for name, info in found.items()
            if info.get("type") == "file" and len(name) > start and not name.endswith("/")
        }

    try:
        found = remote.asked(url, find)
    except remote.NoSuchObject:
        return {}
    except RejectedVideo as error:
        raise LrcnError(f"{url}: cannot be listed: {error}") from None
    return dict(sorted(found.items(), key=lambda item: os.fsencode(item[0])))


def _kind(url: str) -> str:
    """`object`, `folder`, or `nothing`."""
    is_http = scheme_of(url).startswith("http")
    if not is_http and (url.endswith("/") or url.count("/") < 3):
        return "folder"
    remote.heard(url, None)
    try:
        remote.state(url)
    except remote.NoSuchObject as error:
        return "folder" if str(error) == "a folder" else "nothing"
    except RejectedVideo:
        pass
    return "object"


def _below(url: str, is_wanted: Callable[[Sequence[str]], bool], exclude: str) -> Iterator[Entry]:
    """Entries of the objects below a folder whose name there, in parts, is wanted."""
    for name, state in list_folder(url).items():
        path, parts = f"{url.rstrip('/')}/{name}", name.split("/")
        if exclude and path.startswith(exclude.rstrip("/") + "/"):
            continue
        if any(part.startswith(".") for part in parts):
            yield Entry(path, "hidden")
        elif is_wanted(parts):
            remote.heard(path, state)
            yield Entry(path, "file")


def _matching(url: str, exclude: str) -> Iterator[Entry]:
    parts = url.split("/")
    first = next(place for place, part in enumerate(parts) if place > 2 and re.search(r"[*?[]", part))
    return _below("/".join(parts[:first]), lambda found: matches(found, parts[first:]), exclude)


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern fits a path or a folder above it, which stands for all that is in it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])
