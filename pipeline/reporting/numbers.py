"""Numbers as the page shows them: rounded, and each with the file and the key it was taken from.

A number of the page is `<data value="0.91875" data-source="metrics.json" data-key="clip/rgb/...">0.92</data>`.
The source is a file below the experiment's folder, or one of the repository; the key is a JSON pointer (RFC 6901)
without its first slash, in a table `row/column` with rows from 0. A last part `#` counts the entries of a list or
table, `#column=value` those that have this value.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

MISSING = "–"


@dataclass(frozen=True)
class Source:
    """The values of a file: mappings and lists as JSON has them, of a table a list of its rows.

    file: its name below the experiment's folder. prefix: the keys at which `values` stands in the file.
    """

    file: str
    values: Any
    prefix: tuple[str, ...] = ()

    def at(self, *keys: str | int) -> Any:
        """The value at these keys, None where there is none."""
        value = self.values
        for key in keys:
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, Sequence) and not isinstance(value, str) and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value

    def under(self, *keys: str | int) -> "Source":
        """The same file from these keys on; its values are an empty mapping where there are none."""
        found = self.at(*keys)
        return replace(self, values={} if found is None else found, prefix=(*self.prefix, *map(str, keys)))

    def number(self, *keys: str | int, places: int = 2, sign: bool = False, percent: bool = False) -> Markup:
        """The number at these keys with so many decimal places; a dash where it is not defined.

        sign: with + or −. percent: times 100 and "%".
        """
        value = self.at(*keys)
        number = _float(value)
        if number is None:
            return Markup(MISSING)
        text = f"{100 * number if percent else number:{'+' if sign else ''}.{places}f}".replace("-", "−")
        return self._element(value, keys, text + ("\N{NO-BREAK SPACE}%" if percent else ""))

    def whole(self, *keys: str | int) -> Markup:
        """The number at these keys without decimal places."""
        return self.number(*keys, places=0)

    def interval(
        self, *keys: str | int, low: str = "", high: str = "", places: int = 2, sign: bool = False, alone: bool = False
    ) -> Markup:
        """A number and its interval, `0.95 [0.92, 0.97]`; the number by itself where the interval is not defined.

        low, high: the last key of the bounds; by default that of the number with `_low` and `_high`. alone: no number,
        `[0.92, 0.97]`, and nothing where there is no interval.
        """
        *above, last = keys
        ends = ((*above, low or f"{last}_low"), (*above, high or f"{last}_high"))
        text = Markup("") if alone else self.number(*keys, places=places, sign=sign)
        if self.defined(*keys) and all(self.defined(*end) for end in ends):
            lower, upper = (self.number(*end, places=places, sign=sign) for end in ends)
            text += Markup("{}[{}, {}]").format("" if alone else " ", lower, upper)
        return text

    def count(self, *keys: str | int, **having: str) -> Markup:
        """How many entries the list (or table) at these keys has, or those with one column's value."""
        entries = self.at(*keys) or []
        last = "#"
        if having:
            ((column, wanted),) = having.items()
            entries, last = [entry for entry in entries if entry.get(column) == wanted], f"#{column}={wanted}"
        return self._element(len(entries), (*keys, last), str(len(entries)))

    def text(self, *keys: str | int) -> Markup:
        """The text at these keys, as it is."""
        return Markup('<span data-source="{}" data-key="{}">{}</span>').format(
            self.file, self._key(keys), self.at(*keys)
        )

    def defined(self, *keys: str | int) -> bool:
        """Whether there is a finite number at these keys."""
        return _float(self.at(*keys)) is not None

    def _element(self, value: Any, keys: Sequence[str | int], text: str) -> Markup:
        own = value if isinstance(value, str) else json.dumps(value)
        return Markup('<data value="{}" data-source="{}" data-key="{}">{}</data>').format(
            own, self.file, self._key(keys), text
        )

    def _key(self, keys: Sequence[str | int]) -> str:
        return "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in (*self.prefix, *keys))


@dataclass(frozen=True)
class Table:
    """A table of the page: text and numbers.

    sortable: by a click, or Enter, on a column's head. total: the last row is that of all together.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]
    caption: str | Markup = ""
    sortable: bool = False
    total: bool = False

    def kind(self, column: int) -> str:
        """`text` of a column without numbers (behind the first, which always is text), else `numbers`."""
        cells = [row[column] for row in self.rows if len(row) > column]
        words = [cell for cell in cells if cell not in ("", MISSING) and not str(cell).startswith("<data")]
        return "text" if words and len(words) == len(cells) else "numbers"


def interval_text(value: float | None, low: float | None = None, high: float | None = None, sign: bool = False) -> str:
    """A score in words, `0.95 [0.92, 0.97]`, with a real minus sign; a dash when it is not defined.

    >>> interval_text(-0.021, -0.1, 0.06, sign=True)
    '−0.02 [−0.10, +0.06]'
    """
    if not defined(value):
        return MISSING
    number = "{:+.2f}" if sign else "{:.2f}"
    text = number.format(value)
    if defined(low, high):
        text += f" [{number.format(low)}, {number.format(high)}]"
    return text.replace("-", "−")


def defined(*values: float | None) -> bool:
    """Whether all of these are numbers, neither None (as JSON has it) nor nan."""
    return all(value is not None and math.isfinite(value) for value in values)


def _float(value: Any) -> float | None:
    if value is None or isinstance(value, bool | Mapping | list):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
