"""Names of metrics and parameters: nested mappings flattened, characters that MLflow refuses replaced."""

import re
from collections.abc import Iterable, Mapping
from typing import Any


def flatten(nested: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """A nested mapping as one level, keys joined by the separator; sequences stay values.

    >>> flatten({"test": {"video": {"top1": 0.9}}, "epochs": 3})
    {'test/video/top1': 0.9, 'epochs': 3}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{name}": inner for name, inner in flatten(value, separator).items()}
        else:
            flat[str(key)] = value
    return flat


def clean_names(names: Iterable[str]) -> dict[str, str]:
    """Names as MLflow takes them (letters, digits, `_-. :/`, at most 250), one to one, by the names given.

    >>> clean_names(["f1@10", "f1%10", "a//b"])
    {'f1@10': 'f1_10', 'f1%10': 'f1_10_2', 'a//b': 'a/b'}
    """
    cleaned: dict[str, str] = {}
    for name in names:
        parts = [part for part in re.sub(r"[^\w\-. :/]", "_", name).split("/") if part not in ("", ".", "..")]
        base = "/".join(parts)[:240] or "unnamed"
        clean, number = base, 1
        while clean in cleaned.values():
            number += 1
            clean = f"{base}_{number}"
        cleaned[name] = clean
    return cleaned
