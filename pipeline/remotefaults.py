"""What went wrong when a server was asked: whether it may pass, and how to say it in a line without secrets."""

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.files import DISK_FULL
from pipeline.remotenames import scrubbed

LETTERS = 200  # of what a library says
BUSY = (408, 409, 425, 429)  # what a server says besides 5xx that passes
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError")
LOCAL = (*DISK_FULL, errno.EACCES, errno.EROFS, errno.EMFILE, errno.ENFILE)


class Fault(NamedTuple):
    """passes: worth asking again. is_missing: there is no such object. is_local: no fault of the server's."""

    reason: str
    passes: bool = False
    is_missing: bool = False
    is_local: bool = False


def fault_of(error: BaseException) -> Fault:
    """What an exception of fsspec, or of a library below it, means."""
    chain = list(_chain(error))
    names = {type(link).__name__ for link in chain}
    if names & set(NO_CREDENTIALS):
        return Fault("no credentials in the environment (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)")
    if "ClientPayloadError" in names:  # aiohttp gives it a status of 400, which no server sent
        return Fault("the answer broke off", passes=True)
    status = next(filter(None, map(_status, chain)), None)
    if status is not None:
        if status in (404, 410):
            return Fault(f"no such object (HTTP {status})", is_missing=True)
        refused = "access is refused; credentials come from the environment" if status in (401, 403) else "refused"
        passes = status >= 500 or status in BUSY
        return Fault(f"{'the server cannot answer' if passes else refused} (HTTP {status})", passes)
    if isinstance(error, FileNotFoundError) and len(chain) == 1:
        return Fault("no such object", is_missing=True)
    last = chain[-1]
    number = getattr(last, "errno", None)
    if isinstance(last, OSError) and last.filename is not None and number in LOCAL:
        return Fault(os.strerror(number or 0), is_local=True)
    if isinstance(last, OSError) and number in DISK_FULL:
        return Fault(os.strerror(number or 0), is_local=True)
    if isinstance(error, PermissionError):
        return Fault("access is refused; credentials come from the environment")
    if isinstance(last, ValueError | TypeError | KeyError | NotImplementedError) or "ParamValidationError" in names:
        return Fault(_said(last))
    if isinstance(last, TimeoutError):
        return Fault("the server does not answer in time", passes=True)
    what = os.strerror(number) if isinstance(number, int) and number > 0 else _said(last)
    return Fault(f"the server cannot be reached ({what})", passes=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those it was made of, the first cause last."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception of aiohttp, botocore, azure or gcsfs carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return int(status) if status else None
    for name in ("status", "status_code", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


def _said(error: BaseException) -> str:
    return scrubbed(f"{type(error).__name__}: {' '.join(str(error).split())}")[:LETTERS].rstrip(": ")
