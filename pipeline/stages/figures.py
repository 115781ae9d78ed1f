"""Figures as files: written once, then plotted by DVC, logged to MLflow and put on the page."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.files import sweep, write_text


def write_figures(folder: Path, svgs: Mapping[str, str]) -> Path:
    """Write SVG text by name into a folder, in which nothing else is left."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    for path in folder.glob("*.svg"):
        path.unlink()
    for name, svg in svgs.items():
        write_text(folder / f"{name}.svg", svg + "\n")
    return folder


def read_figures(folder: Path) -> dict[str, str]:
    """SVG text by name; empty without the folder."""
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.svg"))}
