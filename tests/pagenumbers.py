"""Reads a report and holds every number in it against the file that the page says it was taken from."""

import csv
import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import load_experiment

VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})
UNREAD = frozenset({"style", "script", "svg", "code", "title"})
# What has digits and is no measured number: terms, and names of trainings.
TERMS = r"95\s%|F1@\d+|top-\d|F1|\b(?:clip|frame)-(?:rgb|flow|fused)-fold\d+-seed\d+"


class Page(HTMLParser):
    """Reads a page and fails on a tag closed in the wrong place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.sourced: list[tuple[str, dict[str, str | None], str]] = []  # tag, attributes, text
        self.loose: list[str] = []  # text that names no source
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if tags and tags[-1] not in ("style", "script"):
            self.text.append(data)
        if self.open and "data-source" in self.open[-1][1]:
            self.sourced.append((*self.open[-1], data))
        elif UNREAD.isdisjoint(tags) and not any(own.get("class") == "mono" for _, own in self.open):
            self.loose.append(data)


def check_numbers(page: str, experiment: Path, names: Iterable[str] = ()) -> int:
    """Fail on a number that is not its file's, is not rounded right, or names no file; returns how many there are.

    experiment: its folder below artifacts/ of the working folder. names: of classes and so on, which may hold digits.
    """
    parsed = Page(page)
    for tag, attributes, text in parsed.sourced:
        file, key = str(attributes["data-source"]), str(attributes["data-key"])
        value = value_at(content(experiment / file if (experiment / file).exists() else Path(file)), key)
        if tag != "data":
            assert text == value, f"{file} {key}: the page says {text!r}"
            continue
        own = float(str(attributes["value"]))
        assert own == float(value), f"{file} {key}: {value}, but the page has {own}"
        assert text == shown(own, text), f"{file} {key}: {own} is shown as {text}"
    skipped = "|".join([*map(re.escape, sorted(names, key=len, reverse=True)), TERMS])
    for text in parsed.loose:
        left = re.sub(skipped, "", text)
        assert not re.search(r"\d", left), f"a number without a source: {' '.join(text.split())!r}"
    return sum(tag == "data" for tag, _, _ in parsed.sourced)


def shown(value: float, like: str) -> str:
    """A value rounded as another text is: as many decimal places, a sign and % where that has them."""
    percent, sign = like.endswith("%"), like[0] in "+−" and value >= 0
    places = len(like.rstrip("%\N{NO-BREAK SPACE}").partition(".")[2])
    text = f"{100 * value if percent else value:{'+' if sign else ''}.{places}f}".replace("-", "−")
    return text + ("\N{NO-BREAK SPACE}%" if percent else "")


def content(file: Path) -> Any:
    """A file of JSON, YAML (of an experiment with its defaults) or a table, as a list of rows."""
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return list(csv.DictReader(stream))
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    if file.parent.name == "configs":
        return load_experiment(file).model_dump(mode="json")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def value_at(values: Any, key: str) -> Any:
    """The value at a JSON pointer without its first slash; `#` counts, `#column=value` counts those that have it."""
    for part in (part.replace("~1", "/").replace("~0", "~") for part in key.split("/")):
        if part.startswith("#"):
            column, _, wanted = part[1:].partition("=")
            return sum(not column or entry[column] == wanted for entry in values)
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values
