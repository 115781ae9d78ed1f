"""Stage `code`: which files of code each stage runs, with their hashes; DVC does not look into imports.

Every other stage depends on its table alone. A change of one module so reruns the stages that import it and no others,
and DVC has one file to look at where it would have eighty, for each of hundreds of stages.
"""

import argparse
import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from pipeline.errors import LrcnError
from pipeline.files import write_hashes

PACKAGE = "pipeline"
TABLES = Path("artifacts/code")
STAGES = ("index", "decode", "audit", "finetune", "extract", "train", "evaluate", "probe", "fuse", "report")
PAGE = tuple(f"{PACKAGE}/reporting/report.{ending}" for ending in ("html", "css", "js"))
READ_TOO = {"train": (f"{PACKAGE}/serving.py",), "report": PAGE}  # without being imported


def main(argv: Sequence[str] | None = None) -> None:
    """Write `artifacts/code/STAGE.csv` for each stage, from the code below the working folder."""
    argparse.ArgumentParser(prog="lrcn code", description=__doc__, allow_abbrev=False).parse_args(argv)
    tables = {stage: code_of(Path(), stage) for stage in STAGES}
    for stage, files in tables.items():
        write_hashes(TABLES / f"{stage}.csv", map(Path, files))
    print(f"code: {len(set().union(*tables.values()))} files in {len(tables)} stages; see {TABLES}")


def code_of(root: Path, stage: str) -> list[str]:
    """Files that a stage runs or reads as code, relative to the repository's root, in order of their names."""
    return sorted(import_closure(root, f"{PACKAGE}.stages.{stage}") | set(READ_TOO.get(stage, ())))


def import_closure(root: Path, entry: str) -> set[str]:
    """Files of the package that importing a module reads, found by parsing, not by running; empty ones left out.

    Raises LrcnError for a relative import, which cannot be followed, and for code that is no Python.
    """
    todo, seen = [entry], set[Path]()
    while todo:
        name = todo.pop()
        path = _module_file(root, name)
        if path is None or path in seen:
            continue
        seen.add(path)
        todo += [name.rpartition(".")[0]]
        todo += _imported(path, path.read_bytes())
    return {path.relative_to(root).as_posix() for path in seen if path.stat().st_size}


@cache  # nearly every stage imports nearly every module
def _imported(path: Path, code: bytes) -> list[str]:
    """Names of modules, and of what may be modules, that code imports from anywhere."""
    try:
        tree = ast.parse(code, str(path))
    except SyntaxError as error:
        raise LrcnError(f"{path}, line {error.lineno}: {error.msg}; expected Python code") from None
    found = []
    for node in _running(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise LrcnError(f"{path}, line {node.lineno}: a relative import; expected from {PACKAGE}... import")
            found += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _module_file(root: Path, name: str) -> Path | None:
    if name.split(".")[0] != PACKAGE:
        return None
    base = root.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk, without what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from _running(child)
