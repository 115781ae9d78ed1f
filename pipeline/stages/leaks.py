"""The stamp of leaks: what every score says of the split it was made on."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.errors import DataError
from pipeline.stages.layout import Layout

KINDS = ("group", "content", "pictures")


def leak_counts(layout: Layout, folds: Collection[int]) -> dict[str, int]:
    """How many leaks of each kind there are in some folds; raises DataError when the split has not been audited."""
    leaks = _audited(layout)["leaks"]
    return {kind: sum(leak["kind"] == kind and leak["fold"] in folds for leak in leaks) for kind in KINDS}


def is_published(layout: Layout) -> bool:
    """Whether the split is a published one, whose leaks are everybody's; DataError when it has not been audited."""
    return bool(_audited(layout)["published"])


def leaks_in_words(counts: Mapping[str, int]) -> str:
    """The stamp behind a score: "" without leaks.

    >>> leaks_in_words({"group": 2, "content": 0, "pictures": 1})
    '; LEAKS between the sides of the split: 2 by group, 1 by pictures'
    """
    found = ", ".join(f"{count} by {kind}" for kind, count in counts.items() if count)
    return f"; LEAKS between the sides of the split: {found}" if found else ""


def _audited(layout: Layout) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(layout.leaks.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{layout.leaks}: no such file; the stage `audit` writes it when the split may be used"
        ) from None
    return found
