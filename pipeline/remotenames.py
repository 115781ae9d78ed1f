"""Addresses as text: what is one, and what of it may be shown."""

import os
import re
from pathlib import Path

FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
KNOWN = re.compile(r"(?i)(s3|gs|gcs|az|abfss?|https?)://")
# Parameters of signed addresses (AWS, CloudFront, Google, Azure), and what keys are called elsewhere.
SECRET = re.compile(
    r"(?i)x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|expires|policy|key-pair-id|signature|sig|se|sp|sv|sr|st|spr"
    r"|sip|ske|skt|sks|skv|skoid|sktid|.*(token|secret|passw|auth|credential|session|api_?key|access_?key).*|key|code"
)


class Url(str):
    """An address of a folder of objects, to which names are joined as to a Path."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.rstrip('/')}/{name}")


def is_url(path: object) -> bool:
    """Whether a path is an address of an object or of a folder of objects (and no Path, in which `//` is `/`)."""
    return isinstance(path, str) and KNOWN.match(path) is not None


def scheme_of(address: str) -> str:
    """The scheme, in small letters."""
    form = FORM.match(address)
    return form[1].lower() if form else ""


def without_secrets(address: str) -> str:
    """An address without user and password, and without those of its parameters that may be keys or signatures.

    >>> without_secrets("HTTPS://me:pw@host/a.mp4?id=5&X-Amz-Signature=f00")
    'https://host/a.mp4?id=5'
    >>> without_secrets("abfs://box@account.dfs.core.windows.net/a.mp4?sv=2024&sig=f00")
    'abfs://box@account.dfs.core.windows.net/a.mp4'
    """
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(host) :]
    if "@" in host and (":" in host.rpartition("@")[0] or not scheme.startswith(("az", "abfs"))):
        host = host.rpartition("@")[2]
    path, mark, query = tail.partition("?")
    if mark and (scheme.startswith("http") or re.search(r"(?i)(^|&)(sig|x-amz-signature|x-goog-signature)=", query)):
        query, _, _ = query.partition("#")
        kept = [part for part in query.split("&") if not SECRET.fullmatch(part.partition("=")[0])]
        tail = path + ("?" + "&".join(kept) if any(kept) else "")
    return f"{scheme}://{host}{tail}"


def scrubbed(text: str) -> str:
    """A text, such as a library's message, with the addresses in it as `without_secrets` has them."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda found: without_secrets(found[0]), text)


def media_at(text: str | os.PathLike[str]) -> "Path | Url":
    """A media folder as it is named in a card or an option."""
    return Url(text) if is_url(text) and isinstance(text, str) else Path(text)
