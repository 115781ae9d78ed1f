"""A chain of facts: what is stated of a thing, whether it still holds, and what it was made from below it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["said", "holds", "broken", "unchecked"]
INDENT = "  "
MAX_SHOWN = 10  # of things that are wrong in the same way


@dataclass
class Fact:
    """One line of the chain.

    state: `said`, a statement that nothing is compared with; `holds`; `broken`, with what was expected, what was found
    and what to do; `unchecked`, with the reason. below: what it consists of, or was made from.
    """

    name: str
    value: str = ""
    state: State = "said"
    expected: str = ""
    found: str = ""
    note: str = ""
    below: list["Fact"] = field(default_factory=list)

    def add(self, *facts: "Fact") -> "Fact":
        """Put facts below this one; returns it."""
        self.below += facts
        return self

    def walk(self) -> Iterator["Fact"]:
        """This fact and all below it, in the order they are printed."""
        yield self
        for fact in self.below:
            yield from fact.walk()

    def verdict(self) -> str:
        """`holds`, `DOES NOT HOLD: ...`, `not checked: ...`, or "" for a mere statement."""
        if self.state == "holds":
            return "holds"
        if self.state == "unchecked":
            return f"not checked: {self.note}"
        if self.state == "said":
            return ""
        differs = f"expected {self.expected}, found {self.found}"
        return f"DOES NOT HOLD: {differs}; {self.note}" if self.note else f"DOES NOT HOLD: {differs}"

    def lines(self, depth: int = 0) -> Iterator[str]:
        """The chain as text, a fact a line, indented by what it stands below."""
        text = f"{self.name}: {self.value}" if self.value else self.name
        verdict = self.verdict()
        yield INDENT * depth + (f"{text}  {verdict}" if verdict else text)
        for fact in self.below:
            yield from fact.lines(depth + 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is empty is left out."""
        values = {name: getattr(self, name) for name in ("name", "value", "state", "expected", "found", "note")}
        kept: dict[str, Any] = {name: value for name, value in values.items() if value}
        if self.below:
            kept["below"] = [fact.to_json() for fact in self.below]
        return kept


def holds(name: str, value: str = "") -> Fact:
    """A fact that was compared and is right."""
    return Fact(name, value, "holds")


def broken(name: str, value: str = "", *, expected: str, found: str, advice: str) -> Fact:
    """A fact that is no longer so."""
    return Fact(name, value, "broken", expected, found, advice)


def unchecked(name: str, value: str = "", *, reason: str) -> Fact:
    """A fact that could not be compared, or was not."""
    return Fact(name, value, "unchecked", note=reason)


def compared(name: str, value: str = "", *, expected: str, found: str, advice: str) -> Fact:
    """A fact that holds when the two are equal."""
    return (
        holds(name, value) if expected == found else broken(name, value, expected=expected, found=found, advice=advice)
    )


def some_of(facts: list[Fact]) -> list[Fact]:
    """The first of many facts that are wrong, and one that counts the others."""
    rest = facts[MAX_SHOWN:]
    if not rest:
        return facts
    counted = f"{len(rest)} more"
    more = broken(counted, expected="none", found=str(len(rest)), advice="as those above")
    if all(fact.state == "unchecked" for fact in rest):
        more = unchecked(counted, reason="as those above")
    return [*facts[:MAX_SHOWN], more]


def counts(chain: Fact) -> dict[str, int]:
    """How many facts of a chain hold, do not hold, and were not checked."""
    found = Counter(fact.state for fact in chain.walk())
    return {state: found[state] for state in ("holds", "broken", "unchecked")}
