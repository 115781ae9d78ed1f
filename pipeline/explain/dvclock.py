"""`dvc.lock`: what DVC wrote down of each stage, compared with the files that are there. DVC itself is not loaded."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import read_yaml
from pipeline.data.tables import read_csv
from pipeline.errors import ConfigError, DataError
from pipeline.explain.facts import MAX_SHOWN, Fact, broken, compared, holds, some_of, unchecked
from pipeline.files import HASHES, content_hash
from pipeline.stages.code import TABLES as CODE

LOCK = Path("dvc.lock")
REPEAT = "run `dvc repro`, or `dvc checkout` to have the files of dvc.lock back"
LARGE = "not read; --videos reads it"
NEVER_IN = (".git", ".hg", ".dvc")  # what DVC leaves out of folders by itself


@dataclass
class DvcLock:
    """The stages of a `dvc.lock`; paths are relative to the repository's root, which is the working folder.

    read_videos: whether media, stored frames and stored features are read too, and not only counted.
    """

    stages: dict[str, Any]
    read_videos: bool = False
    _md5s: dict[str, str] = field(default_factory=dict)
    _said: list[Fact] = field(default_factory=list)
    _writers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, read_videos: bool = False) -> "DvcLock":
        """The lock file of the working folder; FileNotFoundError without one, DataError when it is none."""
        try:
            # With libyaml where it is there: a lock of three experiments has 27,000 lines.
            text = yaml.load(LOCK.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            stages = text["stages"]
            for stage in stages.values():
                for entry in _entries(stage, "deps", "outs"):
                    str(entry["path"])
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{LOCK}: not a lock file of DVC ({' '.join(str(error).split())}); {REPEAT}") from None
        return cls(stages, read_videos)

    def stage_of(self, path: Path) -> str | None:
        """The stage that writes a path, or a folder that it lies in."""
        return self._writer(path.as_posix())

    def out(self, name: str, path: Path) -> dict[str, Any]:
        """The stage's output that a path is, or lies in."""
        return next(entry for entry in _entries(self.stages[name], "outs") if _lies_in(path.as_posix(), entry["path"]))

    def upstream(self, name: str) -> list[str]:
        """The stages that made what a stage reads, and so on, the nearest first.

        Without the stage `code`, which looks at all code: that of a stage is compared by the table `code` wrote of it.
        """
        found, todo = [name], [name]
        while todo:
            for entry in _entries(self.stages[todo.pop(0)], "deps"):
                writer = None if _is_code(entry["path"]) else self._writer(entry["path"])
                if writer is not None and writer not in found:
                    found.append(writer)
                    todo.append(writer)
        return found[1:]

    def _writer(self, path: str) -> str | None:
        if not self._writers:
            outs = {name: _entries(stage, "outs") for name, stage in self.stages.items()}
            self._writers = {entry["path"]: str(name) for name, entries in outs.items() for entry in entries}
        while path not in self._writers and "/" in path:
            path = path.rpartition("/")[0]
        return self._writers.get(path)

    def facts(self, name: str) -> Fact:
        """What a stage read and wrote, each file compared with what is there now."""
        stage = self.stages[name]
        facts = [*map(self._entry, _entries(stage, "deps", "outs")), *_params(stage)]
        # A store that was counted, and not read, is said once, and not of each stage that reads it.
        facts = [fact for fact in facts if fact.state != "unchecked" or fact not in self._said]
        self._said += [fact for fact in facts if fact.state == "unchecked"]
        wrong = some_of([fact for fact in facts if fact.state == "broken"])
        aside = some_of([fact for fact in facts if fact.state == "unchecked"])
        num_good = sum(fact.state == "holds" for fact in facts)
        total = Fact(name, f"{num_good} of {len(facts)} dependencies, parameters and outputs are those of {LOCK}")
        total.state = "holds" if num_good == len(facts) else "said"
        return total.add(*wrong, *aside)

    def _entry(self, entry: dict[str, Any]) -> Fact:
        path, expected = str(entry["path"]), str(entry.get("md5", ""))
        if entry.get("hash") != "md5" or not expected:
            return unchecked(path, reason=f"{LOCK} has no MD5 of DVC 3 for it")
        if not Path(path).exists():
            return broken(path, expected=expected, found="nothing", advice=f"{REPEAT}, or `dvc pull`")
        if not expected.endswith(".dir"):
            fact = compared(path, expected=expected, found=self._md5(path), advice=REPEAT)
            return _code(path) if _is_code(path) and fact.state == "holds" else fact
        files = sorted(files_below(Path(path)))
        if is_store(path) and not self.read_videos:
            return _counted(path, entry, files)
        listing = [{"md5": self._md5(f"{path}/{name}"), "relpath": name} for name in files]
        found = folder_md5(listing)
        if found == expected:
            return holds(path)
        if patterns := dvcignore()[1]:
            return unchecked(path, reason=f".dvcignore has patterns that this command does not follow: {patterns[0]}")
        before = cached_listing(expected)
        named = "" if before is None else f" ({differences(before, listing)})"
        return broken(path, expected=expected, found=f"{found}{named}", advice=REPEAT)

    def _md5(self, path: str) -> str:
        if path not in self._md5s:  # most code is a dependency of every stage
            self._md5s[path] = file_md5(Path(path))
        return self._md5s[path]


def is_store(path: str) -> bool:
    """Whether a path of `dvc.lock` holds as much as the videos do: media, stored frames, stored features."""
    parts = path.split("/")
    return parts[0] == "media" or (parts[0] == "artifacts" and len(parts) > 2 and parts[2] in ("frames", "features"))


def file_md5(path: Path) -> str:
    """DVC's hash of a file: its MD5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def files_below(folder: Path) -> Iterator[str]:
    """Paths of the files below a folder, relative to it, without those that `.dvcignore` leaves out by a plain name."""
    ignored = (*NEVER_IN, *dvcignore()[0])
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ignored]
        for name in names:
            if name not in ignored:
                yield os.path.relpath(os.path.join(where, name), folder)  # noqa: PTH118 - keeps the name's bytes


def folder_listing(folder: Path, prefix: str = "") -> list[dict[str, str]]:
    """The `md5` and `relpath` of each file below a folder, as DVC lists them; nothing where it is not there."""
    return [{"md5": file_md5(folder / name), "relpath": f"{prefix}{name}"} for name in sorted(files_below(folder))]


def folder_md5(listing: list[dict[str, str]]) -> str:
    """DVC's hash of a folder: the MD5 of its listing (`md5` and `relpath` of each file, by `relpath`), and `.dir`."""
    text = json.dumps(sorted(listing, key=lambda item: item["relpath"]), sort_keys=True)
    return hashlib.md5(text.encode("utf-8"), usedforsecurity=False).hexdigest() + ".dir"


def cached_listing(md5: str) -> list[dict[str, str]] | None:
    """The listing of a folder in DVC's own cache; None where it is not there."""
    path = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    try:
        listing: list[dict[str, str]] = json.loads(path.read_bytes())
        return [{"md5": item["md5"], "relpath": item["relpath"]} for item in listing]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differences(before: list[dict[str, str]], now: list[dict[str, str]]) -> str:
    """Which files of a folder are others than before, in words."""
    old, new = ({item["relpath"]: item["md5"] for item in listing} for listing in (before, now))
    words = []
    for what, names in (
        ("changed", [name for name in old if name in new and old[name] != new[name]]),
        ("missing", [name for name in old if name not in new]),
        ("new", [name for name in new if name not in old]),
    ):
        if names:
            more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
            words.append(f"{what}: {', '.join(sorted(names)[:MAX_SHOWN])}{more}")
    return "; ".join(words) or "the same files in another order"


def dvcignore() -> tuple[list[str], list[str]]:
    """The lines of the root's `.dvcignore`: plain names of files and folders, and patterns, which are not followed."""
    try:
        lines = Path(".dvcignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [], []
    lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    plain = [line for line in lines if not set(line) & set("/*?[]!\\")]
    return plain, [line for line in lines if line not in plain]


def _lies_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def _is_code(path: str) -> bool:
    """Whether a path of `dvc.lock` is the table of a stage's code."""
    return Path(path).parent == CODE


def _code(path: str) -> Fact:
    """The files that a stage runs against the table of them."""
    rows = [row for _, row in read_csv(Path(path), HASHES)]
    other = [row["path"] for row in rows if not _has_hash(row["path"], row["sha256"])]
    if not other:
        return holds(path)
    more = f" and {len(other) - MAX_SHOWN} more" if len(other) > MAX_SHOWN else ""
    found = f"{len(other)} that differ: {', '.join(other[:MAX_SHOWN])}{more}"
    advice = "the code has changed since: `dvc repro`, or check out the commit that made it"
    return broken(f"code ({path})", expected=f"the {len(rows)} files named there", found=found, advice=advice)


def _has_hash(path: str, sha256: str) -> bool:
    try:
        return content_hash(path) == sha256
    except OSError:
        return False


def _counted(path: str, entry: dict[str, Any], files: list[str]) -> Fact:
    """A large folder by the number and size of its files, which take no reading."""
    size = sum(os.stat(os.path.join(path, name)).st_size for name in files)  # noqa: PTH116, PTH118
    there, then = f"{len(files)} files, {size} bytes", f"{entry.get('nfiles')} files, {entry.get('size')} bytes"
    if there != then and not dvcignore()[1]:
        return broken(path, expected=then, found=there, advice=REPEAT)
    return unchecked(path, there, reason=LARGE)


def _params(stage: dict[str, Any]) -> Iterator[Fact]:
    for file, values in (stage.get("params") or {}).items():
        try:
            now = read_yaml(Path(file))
        except ConfigError as error:
            yield unchecked(file, reason=str(error))
            continue
        for key, then in values.items():
            found: Any = now
            for part in str(key).split("."):
                found = found.get(part) if isinstance(found, dict) else None
            yield compared(f"{file}: {key}", expected=json.dumps(then), found=json.dumps(found), advice=REPEAT)


def _entries(stage: dict[str, Any], *kinds: str) -> Iterator[dict[str, Any]]:
    for kind in kinds:
        yield from stage.get(kind) or []
