"""Pages link to files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in (".", "docs", "docs/tutorials", "datasets/*", "benchmarks", "configs")
    for page in ROOT.glob(f"{folder}/*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if not target.startswith(("http://", "https://", "#", "mailto:"))
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert missing == []


def test_the_pages_are_found():
    assert {"README.md", "CONTRIBUTING.md", "docs/recurrent-networks.md", "docs/tutorials/newcomer.md"} <= {
        page.relative_to(ROOT).as_posix() for page in PAGES
    }
