"""A folder of results: its tables, ledger and model description against each other, and its files against the model."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pipeline.data.tables import Side, read_csv
from pipeline.errors import DataError, LrcnError, RejectedVideo
from pipeline.explain.facts import MAX_SHOWN, Fact, broken, holds, some_of, unchecked
from pipeline.explain.model import KnownModel, described_model, find_model
from pipeline.inference.answers import Status
from pipeline.inference.ledger import LEDGER, UNREADABLE, LedgerReader, file_state
from pipeline.inference.results import RESULT_COLUMNS, is_sure, result_row, result_scores, text_of
from pipeline.inference.timesteps import has_timesteps, timesteps_path
from pipeline.remote import content_hash, size_bytes
from pipeline.remotenames import is_url

TABLE, LINES, DESCRIPTION = "results.csv", "predictions.jsonl", "model.yaml"
AGAIN = "the same `lrcn predict` answers again for what changed, and writes the tables anew"
SIDE_WORDS: dict[Side, str] = {
    "train": "this file was trained on",
    "val": "this file chose the epoch and the temperature (validation side)",
    "test": "this file is one of the model's test videos",
}


@dataclass(frozen=True)
class Results:
    """A folder of results.

    rows: of `results.csv`, as text by column, with the numbers of their lines. lines: of `predictions.jsonl`.
    """

    folder: Path
    rows: list[tuple[int, dict[str, str]]]
    lines: list[dict[str, object]]
    ledger: LedgerReader

    def row(self, file: str) -> tuple[int, dict[str, str]]:
        """The row of a file, by its path as it stands there or by another name of the same file.

        Raises DataError where there is none.
        """
        for number, row in self.rows:
            if row["path"] == file or same_file(row["path"], file):
                return number, row
        raise DataError(f"{self.folder / TABLE}: no row for {file}; expected a path that stands there")


@contextmanager
def opened(folder: Path) -> Iterator[Results]:
    """Read a folder of results; raises DataError when it has no such tables, or a table is damaged."""
    rows = list(read_csv(folder / TABLE, RESULT_COLUMNS))
    try:
        text = (folder / LINES).read_text(encoding="ascii")
        lines = [dict(json.loads(line)) for line in text.splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / LINES}: cannot be read ({error}); {AGAIN}") from None
    ledger = LedgerReader(folder, "")
    try:
        yield Results(folder, rows, lines, ledger)
    finally:
        ledger.close()


def results_fact(results: Results, file: str | None) -> tuple[Fact, KnownModel | None]:
    """What is known of a folder of results, of one row where `file` names it; and the model that answered."""
    folder = results.folder
    statuses = Counter(row["status"] for _, row in results.rows)
    counted = ", ".join(f"{statuses[word]} {word}" for word in get_args(Status) if statuses[word]) or "none"
    top = Fact("results", f"{folder}: {len(results.rows)} files, {counted}")
    chosen = results.rows if file is None else [results.row(file)]
    model, described = _model(results, chosen)
    top.add(described, *_agreement(results, chosen, model))
    if file is None:
        top.add(*_same_files(results))
        return top.add(_looks(results, chosen), _sides(chosen, model)), model
    number, row = chosen[0]
    return top.add(_file(results, number, row, model)), model


def side_fact(sha256: str, model: KnownModel | None) -> Fact:
    """Whether a model was trained on a file of this content, in plain words."""
    if model is None or model.fold is None:
        return unchecked("in the model's data", reason="which videos the model saw is not known")
    side = model.side_of.get(sha256)
    if side is None:
        return Fact("in the model's data", "no: none of its training, validation or test videos has this content")
    words = SIDE_WORDS[side]
    return Fact("in the model's data", f"{words} (fold {model.stated('fold') or 'unknown'}, {side})")


def _model(results: Results, chosen: Sequence[tuple[int, dict[str, str]]]) -> tuple[KnownModel | None, Fact]:
    """The model that answered, and whether the description in the folder is its."""
    name = f"{results.folder / DESCRIPTION}"
    identities = {origin[0] for _, row in chosen if (origin := results.ledger.origin(row["path"])) is not None}
    expected = sorted({identity.partition(" ")[2] for identity in identities})
    if not (results.folder / DESCRIPTION).is_file():
        missing = broken(name, expected="the model's description", found="no such file", advice=AGAIN)
        folders = find_model(expected[0]) if len(expected) == 1 else []
        return (described_model(folders[0]) if folders else None), missing
    found = content_hash(results.folder / DESCRIPTION)
    if not expected:
        fact = unchecked(name, found, reason=f"{LEDGER} has no answer that says which model it was")
    elif expected == [found]:
        fact = holds(name, found)
    else:
        advice = f"it was exchanged, or rows are of several models: {AGAIN}"
        fact = broken(name, expected=" and ".join(expected), found=found, advice=advice)
    try:
        return described_model(results.folder), fact
    except LrcnError as error:
        return None, fact.add(unchecked("description", reason=str(error)))


def _agreement(results: Results, chosen: Sequence[tuple[int, dict[str, str]]], model: KnownModel | None) -> list[Fact]:
    """Both tables against the ledger, column by column."""
    lines = {line.get("path"): line for line in results.lines}
    threshold = _threshold(results, model)
    wrong, without, right = list[Fact](), 0, 0
    for number, row in chosen:
        path, name = row["path"], f"{TABLE}, row {number}"
        if results.ledger.origin(path) is None:
            if row["status"] == "rejected":
                without += 1  # what could not be opened as a file has no line in the ledger
            else:
                wrong.append(broken(name, expected=f"an answer in {LEDGER}", found="none", advice=AGAIN))
            continue
        answer = results.ledger.read(path)
        values: dict[str, object] = {
            **result_row(answer, threshold, "clip" if model is None else model.spec.task),
            "scores": result_scores(answer),
        }
        if model is None:
            del values["sure"]  # depends on the model's thresholds
        texts = {column: text_of(value) for column, value in values.items() if column != "scores"}
        found = [
            _differing(name, texts, row),
            _differing(f"{LINES}, {path}", values, lines.get(path, {})),
        ]
        wrong += [fact for fact in found if fact is not None]
        right += found == [None, None]
    facts = some_of(wrong)
    if right:
        facts.append(holds(f"{right} of {len(chosen)} rows", f"{TABLE}, {LINES} and {LEDGER} say the same"))
    if without:
        facts.append(unchecked(f"{without} rows", reason="could not be opened as files, so the ledger has no answer"))
    missing = [row["path"] for _, row in chosen if not _has_timesteps(results, row["path"])]
    paths = [str(timesteps_path(results.folder, path)) for path in missing]
    return facts + some_of([broken(p, expected="scores of this model", found="none", advice=AGAIN) for p in paths])


def _same_files(results: Results) -> list[Fact]:
    """Whether both tables have a row for the same files: a row that was taken out of one is in the other."""
    both = (TABLE, [row["path"] for _, row in results.rows]), (LINES, [str(line.get("path")) for line in results.lines])
    facts = []
    for (name, paths), (other, others) in (both, both[::-1]):
        lacking = Counter(others) - Counter(paths)
        facts += [
            broken(f"{name}, {path}", expected=f"{num} row(s) more, as in {other}", found="none", advice=AGAIN)
            for path, num in lacking.items()
        ]
    return some_of(facts)


def _differing(name: str, expected: Mapping[str, object], found: Mapping[str, object]) -> Fact | None:
    """The columns of a row that are not what the ledger says; None when all are."""
    columns = [column for column, value in expected.items() if found.get(column) != value]
    if not columns:
        return None
    said, says = (", ".join(f"{column} {values.get(column)!r}" for column in columns) for values in (expected, found))
    return broken(name, expected=said, found=says, advice=f"the file was edited, or cut off: {AGAIN}")


def _threshold(results: Results, model: KnownModel | None) -> float | None:
    """The model's threshold that most rows' `sure` agrees with: which precision was asked for is written nowhere."""
    if model is None or model.spec.task != "clip":
        return None
    answered = [
        (results.ledger.read(row["path"]).score, row["sure"])
        for _, row in results.rows
        if row["sure"] and results.ledger.origin(row["path"]) is not None
    ]
    thresholds = [None, *(value for _, value in model.spec.calibration.thresholds)]
    return min(thresholds, key=lambda value: sum(text_of(is_sure(score, value)) != sure for score, sure in answered))


def _has_timesteps(results: Results, path: str) -> bool:
    """Whether the scores at timesteps are there, of this video and model, where there should be any."""
    origin = results.ledger.origin(path)
    if origin is None or not results.ledger.has_timesteps(path):
        return True
    return has_timesteps(results.folder, path, origin[0])


def _file(results: Results, number: int, row: dict[str, str], model: KnownModel | None) -> Fact:
    """One file: its answer, whether it looks as it did, its content, and whether the model saw it."""
    path = row["path"]
    answer = f"{row['label']} {row['score']}" if row["label"] else f"{row['status']}: {row['reason']}"
    top = Fact("file", f"{path}: {answer} ({TABLE}, row {number})")
    top.add(_look(results, path))
    try:
        sha256 = content_hash(path)
    except OSError as error:
        return top.add(unchecked("SHA-256", reason=f"the file cannot be read ({error.strerror})"))
    except RejectedVideo as error:
        return top.add(unchecked("SHA-256", reason=f"the object cannot be fetched ({error})"))
    return top.add(Fact("SHA-256", sha256), side_fact(sha256, model))


def _looks(results: Results, chosen: Sequence[tuple[int, dict[str, str]]]) -> Fact:
    """All files: whether they look as they did."""
    facts = [_look(results, row["path"]) for _, row in chosen]
    wrong, aside = ([fact for fact in facts if fact.state == state] for state in ("broken", "unchecked"))
    good = len(facts) - len(wrong) - len(aside)
    top = Fact("files", f"{len(facts)}").add(*some_of(wrong), *some_of(aside))
    return top.add(holds(f"{good} of {len(facts)} files", "size and times as they were")) if good else top


def _look(results: Results, path: str) -> Fact:
    origin, now = results.ledger.origin(path), file_state(path)
    if origin is None:
        return unchecked(path, reason="the ledger has no answer that says how it looked")
    if now.startswith(UNREADABLE):
        reason = now.removeprefix(f"{UNREADABLE}: ")
        if is_url(path):
            return unchecked(path, reason=f"the server does not tell: {reason}")
        return broken(path, expected="the file that was answered for", found=reason, advice="put it back, or run from "
                      "the folder that `lrcn predict` was run in")  # fmt: skip
    if origin[1] == now:
        return holds(path, "looks as it did")
    size = "the same size, other times" if origin[1].split()[0] == now.split()[0] else "another size"
    return broken(path, expected=f"{origin[1]} (bytes; modified, changed: ns)", found=f"{now}: {size}", advice=AGAIN)


def _sides(chosen: Sequence[tuple[int, dict[str, str]]], model: KnownModel | None) -> Fact:
    """How many of the files the model was trained on: those of a size that one of its videos has are read."""
    if model is None or model.fold is None:
        return unchecked("in the model's data", reason="which videos the model saw is not known")
    sizes = {video.size_bytes for video in model.fold}
    found: dict[Side, list[str]] = {"train": [], "val": [], "test": []}
    for _, row in chosen:
        try:
            if size_bytes(row["path"]) not in sizes:
                continue
            side = model.side_of.get(content_hash(row["path"]))
        except (OSError, RejectedVideo):
            continue
        if side is not None:
            found[side].append(row["path"])
    none = len(chosen) - sum(map(len, found.values()))
    counted = f"{len(found['train'])} of {len(chosen)} files were trained on, {len(found['val'])} are validation videos"
    top = Fact("in the model's data", f"{counted}, {len(found['test'])} test videos, {none} neither")
    shown = found["train"][:MAX_SHOWN]
    top.add(*(Fact(path, SIDE_WORDS["train"]) for path in shown))
    rest = len(found["train"]) - len(shown)
    return top.add(Fact(f"{rest} more", "trained on too")) if rest else top


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two names are of one file that is there."""
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return False
