"""Media at addresses (s3://, gs://, az://, http://, ...): listed, and fetched into the user's cache to be read.

The only importer of fsspec. A path that is an address is text without secrets, and may be shown and stored like any
other; what a secret is needed for besides stays in this process. Credentials are those of the environment.
"""

import hashlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cache import FileCache, cache_bytes, cache_folder
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.files import content_hash as hash_of_file
from pipeline.files import replacing
from pipeline.remotefaults import fault_of
from pipeline.remotenames import is_url, scheme_of, without_secrets

# scheme: (fsspec's name, package, extra of this project)
SCHEMES = {
    "s3": ("s3", "s3fs", "s3"),
    "gs": ("gs", "gcsfs", "gs"),
    "az": ("abfs", "adlfs", "az"),
    "abfs": ("abfs", "adlfs", "az"),
    "abfss": ("abfs", "adlfs", "az"),
    "http": ("http", "aiohttp", "http"),
    "https": ("http", "aiohttp", "http"),
}
PATIENCE_SECONDS = 60.0  # for a server that does not answer, or says that it is too busy
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0  # before it is asked again, each twice the one before
CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
UNKNOWN = "size unknown"
CHANGED = "changed while it was fetched; run again when it is complete"

Made = TypeVar("Made")

_lock = threading.Lock()
_addresses: dict[str, str] = {}  # by path: the address with its user, password or signature
_states: dict[str, str] = {}  # by path: what a listing said
_away: dict[str, float] = {}  # by server: since when it does not answer, by time.monotonic
_ending = threading.Event()


def named(address: str) -> str:
    """The path by which an address is known from here on: without user, password and signature, which are kept aside.

    Raises LrcnError for a scheme that is not read, and for secrets in the address of an object store.
    """
    path = without_secrets(address)
    scheme = scheme_of(address)
    if scheme not in SCHEMES:
        raise LrcnError(f"{path}: {scheme}:// is not read; expected one of {', '.join(SCHEMES)}, or a path")
    if path != address:
        if SCHEMES[scheme][0] != "http":
            raise LrcnError(f"{path}: the address has credentials in it; set them in the environment instead")
        _addresses[path] = address
    return path


def told(path: str) -> tuple[str, str]:
    """What another process has to be told of a path: the address with its secrets, and the state; else ""."""
    return _addresses.get(path, ""), _states.get(path, "")


def state(path: str) -> str:
    """Size, and tag or time of an object, as the latest listing said, else asked for; raises RejectedVideo."""
    if path not in _states:
        _states[path] = ask_state(path)
    return _states[path]


def ask_state(path: str) -> str:
    """As `state`, from the server. Raises RejectedVideo when there is no such object, or it is none but a folder."""
    info = asked(path, lambda: filesystem(path).info(_address(path)))
    if info.get("type") == "directory":
        raise NoSuchObject("a folder")
    return state_of(info)


def state_of(info: dict[str, Any]) -> str:
    """The state of an object that a store describes: what changes when its content does."""
    size = info.get("size")
    tag = next((info[key] for key in ("ETag", "etag", "generation", "content_md5", "md5Hash") if info.get(key)), None)
    if tag is not None:
        tag = "tag:" + str(tag).strip('"')
    else:
        when = ("LastModified", "last_modified", "updated", "Last-Modified", "mtime")
        tag = next((f"modified:{info[key]}" for key in when if info.get(key)), "")
    return " ".join([UNKNOWN if size is None else str(size), *str(tag).split()])


def size_of(state: str) -> int | None:
    """Bytes, from a state; None where the server states none."""
    return None if state.startswith(UNKNOWN) else int(state.split()[0])


def known_size(path: str) -> int:
    """Bytes that a listing stated of an object; 0 where none did."""
    return size_of(_states.get(path, UNKNOWN)) or 0


def heard(path: str, state: str | None) -> None:
    """Remember what a listing said of an object, or that it said nothing."""
    if state is None:
        _states.pop(path, None)
    else:
        _states[path] = state


@contextmanager
def staged(path: str) -> Iterator[str]:
    """A local file with the content of a path: itself, or the object's copy in the cache, which stays for the block.

    Raises RejectedVideo, always as what may pass, when the object cannot be fetched, and StoreError when the disk is
    full.
    """
    if not is_url(path):
        yield path
        return
    from pipeline.prefetch import taken_ahead

    with taken_ahead(path) or fetched(path) as local:
        yield local


@contextmanager
def fetched(path: str) -> Iterator[str]:
    """As `staged`, for an address."""
    state = _states.get(path) or ask_state(path)
    ending = re.search(r"\.[A-Za-z0-9]{1,8}$", path)
    name = hashlib.sha256(f"{path}\n{state}".encode("utf-8", "surrogateescape")).hexdigest()
    name += ending[0].lower() if ending else ""
    with media_cache(cache_folder("media"), cache_bytes()).file(name, lambda file: _fetch(path, state, file)) as local:
        yield str(local)


@cache
def media_cache(folder: Path, max_bytes: int) -> FileCache:
    """The cache of fetched media."""
    return FileCache(folder, max_bytes)


def content_hash(path: Path | str) -> str:
    """SHA-256 of a file or an object; raises OSError for a file that cannot be read, RejectedVideo for an object."""
    if not is_url(path):
        return hash_of_file(path)
    with staged(str(path)) as local:
        return hash_of_file(local)


def size_bytes(path: Path | str) -> int | None:
    """Bytes of a file, or of an object where the server states them; raises as `content_hash`."""
    return size_of(state(path)) if isinstance(path, str) and is_url(path) else Path(path).stat().st_size


def size_and_hash(path: Path | str) -> tuple[int, str]:
    """Bytes and SHA-256 of a file or an object; raises as `content_hash`."""
    if not is_url(path):
        return Path(path).stat().st_size, hash_of_file(path)
    with staged(str(path)) as local:
        return Path(local).stat().st_size, hash_of_file(local)


def download(path: str, state: str, target: Path) -> None:
    """Copy an object of a known state to a file, which appears whole or not at all; raises as `staged`."""
    with replacing(target, synced=False) as temporary:
        _fetch(path, state, temporary)


def upload(source: Path, path: str) -> str:
    """Copy a file to an object, which appears whole or not at all; returns its state. Raises as `staged`."""
    asked(path, lambda: filesystem(path).put_file(str(source), path))
    return ask_state(path)


def remove(path: str) -> None:
    """Remove an object, if it is there; raises as `staged`."""
    with suppress(NoSuchObject):
        asked(path, lambda: filesystem(path).rm_file(path))


def _fetch(path: str, state: str, file: Path) -> None:
    """Write an object into a file; it has the length and the state that were stated before, and after."""

    expected, free = size_of(state), shutil.disk_usage(file.parent).free
    if expected is not None and expected > free:
        reason = f"its {expected / 1e9:.1f} GB are more than is free in {file.parent} ({free / 1e9:.1f} GB)"
        raise RejectedVideo(f"{reason}; free some, or name another folder with LRCN_CACHE", is_transient=True)

    def get() -> None:
        filesystem(path).get_file(_address(path), str(file))
        found = ask_state(path)
        if found != state:
            if path in _states:
                _states[path] = found
            raise RejectedVideo(CHANGED, is_transient=True)
        size = file.stat().st_size
        if size != expected and expected is not None:
            raise ConnectionError(f"{size} of {expected} bytes came")

    asked(path, get)


class NoSuchObject(RejectedVideo):
    """There is nothing at an address; something may come there."""

    def __init__(self, reason: str = "no such object") -> None:
        super().__init__(reason, is_transient=True)


def asked(path: str, ask: Callable[[], Made]) -> Made:
    """What a server gives, asked again while it does not answer, for PATIENCE_SECONDS.

    A server that has not answered anybody for so long is asked once. Raises NoSuchObject, and RejectedVideo (as what
    may pass) with the reason, without secrets; StoreError when the disk is full.
    """
    server, begin, pause = _server(path), None, FIRST_PAUSE_SECONDS
    while True:
        try:
            made = ask()
        except LrcnError:
            raise
        except Exception as error:
            fault = fault_of(error)
            if fault.is_local:
                raise
            if fault.is_missing:
                raise NoSuchObject from None
            if not fault.passes:  # it did answer
                raise RejectedVideo(fault.reason, is_transient=True) from None
            now = time.monotonic()
            begin = now if begin is None else begin
            with _lock:
                away = _away.setdefault(server, now)
            if now + pause - min(begin, away) > PATIENCE_SECONDS or _ending.wait(pause):
                with _lock:
                    _away[server] = min(away, now - PATIENCE_SECONDS)
                reason = f"{fault.reason}; asked for {now - min(begin, away):.0f} s"
                raise RejectedVideo(reason, is_transient=True) from None
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            with _lock:
                _away.pop(server, None)
            return made


@contextmanager
def interruptible() -> Iterator[None]:
    """After Ctrl-C in the block no thread goes on waiting for a server; the next block waits again."""
    _ending.clear()
    try:
        yield
    except KeyboardInterrupt:
        _ending.set()
        raise


def filesystem(path: str) -> Any:
    """fsspec's file system for a path, one for all threads; raises LrcnError when its package is not installed."""
    scheme = scheme_of(path)
    # abfs://container@account.dfs.core.windows.net/... names the account.
    account = _server(path) if scheme.startswith("abfs") and "@" in _server(path) else ""
    with _lock:
        return _filesystem(scheme, account)


@cache
def _filesystem(scheme: str, account: str) -> Any:
    protocol, package, extra = SCHEMES[scheme]
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        import fsspec

        if protocol == "s3":
            retries = {"max_attempts": 1}
            times = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENCE_SECONDS, "retries": retries}
            options["config_kwargs"] = times
        elif protocol == "http":
            import aiohttp

            limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
            # A length can be checked of bytes as they are, not of what was compressed on the way.
            options |= {"client_kwargs": {"timeout": limits, "headers": {"Accept-Encoding": "identity"}}}
            options["encoded"] = True
        kind = fsspec.get_filesystem_class(protocol)
        return kind(**options, **(kind._get_kwargs_from_urls(account) if account else {}))
    except ImportError:
        raise LrcnError(
            f"{scheme}:// is read with the package {package}, which is not installed; "
            f"install the extra `{extra}`: pip install 'lrcn-pipeline[{extra}]'"
        ) from None


def reset() -> None:
    """Forget servers, states and secrets: the environment has changed."""
    _filesystem.cache_clear()
    _addresses.clear()
    _states.clear()
    _away.clear()
    _ending.clear()


def _address(path: str) -> str:
    """What is asked for: with the secrets that the user named, and for HTTP with nothing that is no URL."""
    address = _addresses.get(path, path)
    if SCHEMES[scheme_of(path)][0] != "http":
        return address
    from urllib.parse import quote

    return quote(address.encode("utf-8", "surrogateescape"), safe="%/:=&?~+!$,;'@()*[]#").partition("#")[0]


def _server(path: str) -> str:
    return "/".join(path.split("/", 3)[:3])
