"""And back: from a video to the tables it stands in, the models trained on it, and the answers given for it."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import load_experiment
from pipeline.data.cards import read_dataset
from pipeline.data.tables import SIDES, Video, read_splits, read_videos
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.explain.facts import Fact, broken, holds, unchecked
from pipeline.explain.model import described_model
from pipeline.explain.results import Results, opened, same_file
from pipeline.inference.ledger import file_state
from pipeline.modelstore import cache_folder
from pipeline.remote import content_hash, size_bytes
from pipeline.remotenames import media_at
from pipeline.stages.layout import Layout

SIDE_NAMES = dict(zip(SIDES, ("training", "validation", "test"), strict=True))
TRAINED = dict(zip(SIDES, ("trained on it", "chose epoch and temperature with it", "tested on it"), strict=True))


def video_fact(path: str, results: Sequence[Path]) -> Fact:
    """Where a file's content stands in tables, models and results.

    Raises OSError when it cannot be read, and RejectedVideo when an object cannot be fetched.
    """
    sha256 = content_hash(path)
    top = Fact("video", path).add(Fact("SHA-256", sha256), *places(path, sha256), *_models(sha256))
    return top.add(*(_answers(path, sha256, folder) for folder in results))


def places(path: str, sha256: str) -> list[Fact]:
    """The experiments in whose tables a content stands, and its side of each fold."""
    found, num_tables = [], 0
    for table in sorted(Path("artifacts").glob("*/videos.csv")):
        layout = Layout(table.parent.name)
        try:
            rows = read_videos(table)
            splits = read_splits(layout.splits)
        except LrcnError as error:
            found.append(unchecked(str(table), reason=str(error)))
            continue
        num_tables += 1
        for row in rows:
            if row.sha256 == sha256:
                sides = [
                    f"fold {split.fold} {SIDE_NAMES[split.split]}" for split in splits if split.video_id == row.video_id
                ]
                labelled = f", label {row.label}" if row.label else ""
                where = ", ".join(sides) or "in no fold"
                found.append(holds(str(table), f"{row.video_id}{labelled}, group {row.group or 'none'}: {where}"))
        found += _replaced(path, sha256, layout, table, rows)
    return found or [Fact("tables", f"none of {num_tables} in artifacts/*/videos.csv names this content")]


def _replaced(path: str, sha256: str, layout: Layout, table: Path, rows: Sequence[Video]) -> list[Fact]:
    """The row of a table that names this very file with another content."""
    try:
        experiment = load_experiment(Path("configs") / f"{layout.experiment}.yaml")
        media = media_at(read_dataset(Path("datasets") / experiment.dataset).card.media)
    except LrcnError:
        return []  # without the card it is unknown which file a row names; the content was looked for all the same
    name = Path(path).name
    return [
        broken(
            f"{table}, {row.video_id}",
            expected=row.sha256,
            found=sha256,
            advice="the file was changed since the table was made: put it back, or run `dvc repro`",
        )
        for row in rows
        if row.sha256 not in ("", sha256) and Path(row.video_id).name == name and same_file(media / row.video_id, path)
    ]


def _models(sha256: str) -> list[Fact]:
    """The models on this machine in whose fold a content stands."""
    folders = [path.parent for path in sorted(Path("artifacts").glob("*/trainings/*/model/model.yaml"))]
    folders += [path.parent for path in sorted(cache_folder().glob("*/model.yaml"))]
    facts, silent = [], []
    for folder in folders:
        try:
            model = described_model(folder)
        except LrcnError as error:
            facts.append(unchecked(str(folder), reason=str(error)))
            continue
        if model.fold is None:
            silent.append(folder)
        elif (side := model.side_of.get(sha256)) is not None:
            facts.append(Fact(str(folder), TRAINED[side]))
    top = Fact("models", f"{len(facts)} of {len(folders)} have it in their fold").add(*facts)
    if silent:
        reason = f"neither they nor tables with their hashes say what they saw: {', '.join(map(str, silent[:3]))}"
        top.add(unchecked(f"{len(silent)} models", reason=reason))
    return [top]


def _answers(path: str, sha256: str, folder: Path) -> Fact:
    """What a folder of results says of a file, or of another with the same content."""
    top = Fact("results", str(folder))
    try:
        with opened(folder) as results:
            for number, row in results.rows:
                fact = _answer(path, sha256, results, number, row)
                if fact is not None:
                    top.add(fact)
    except LrcnError as error:
        return unchecked("results", str(folder), reason=str(error))
    return top if top.below else top.add(Fact("no row", "is about this content"))


def _answer(path: str, sha256: str, results: Results, number: int, row: dict[str, str]) -> Fact | None:
    other, origin = row["path"], results.ledger.origin(row["path"])
    if not same_file(other, path) and not _same_content(other, path, sha256):
        return None
    answer = f"{row['label']} {row['score']}" if row["label"] else f"{row['status']}: {row['reason']}"
    name, value = f"results.csv, row {number}", f"{other}: {answer}"
    if origin is None:
        return unchecked(name, value, reason="the ledger has no answer for it")
    fact = Fact(name, value).add(Fact("model", origin[0].partition(" ")[2]))
    now = file_state(other)
    if now == origin[1]:
        return fact.add(holds("the file", "looks as it did"))
    advice = "the answer may be for another content: run the same `lrcn predict` again"
    return fact.add(broken("the file", expected=origin[1], found=now, advice=advice))


def _same_content(other: str, path: str, sha256: str) -> bool:
    try:
        return size_bytes(other) == size_bytes(path) and content_hash(other) == sha256
    except (OSError, RejectedVideo):
        return False
