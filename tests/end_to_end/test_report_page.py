"""The report in a browser: it says nothing on the console, asks nobody for anything, fits a phone, and sorts."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import run_stage, untracked_in
from tests.end_to_end.chromium import ENTER, find_chromium, look_at
from tests.examplechecks import add_checks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium or chrome on the PATH to open the page in"),
]
SIZE_LIMIT = 5_000_000  # bytes
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth, document.body.scrollWidth]"
# What sticks out of the page, other than inside a box that scrolls.
STICKING_OUT = """[...document.querySelectorAll("body *")]
  .filter(one => !one.closest(".scroll"))
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(one => one.outerHTML.slice(0, 80))"""
UNFOLD = "document.querySelectorAll('details').forEach(fold => fold.open = true)"
TABLE = "document.querySelector('#clip-rgb ~ details table.sortable')"
BODY = f"[...{TABLE}.tBodies[0].rows]"
CLASSES = f"{BODY}.map(row => row.cells[0].textContent)"
SORTED = f"[...{TABLE}.tHead.rows[0].cells].map(head => head.getAttribute('aria-sort'))"
RECALLS = f"{BODY}.map(row => row.querySelector('[data-key$=recall]').value)"


@pytest.fixture(scope="module")
def page(built_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's report with everything that a report can have."""
    root = tmp_path_factory.mktemp("page") / "toy"
    shutil.copytree(built_toy, root)
    with untracked_in(root):
        add_checks(root / "artifacts/toy")
        run_stage("report")
    return root / "artifacts/toy/report.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_quiet_asks_for_nothing_and_fits(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    assert page.stat().st_size < SIZE_LIMIT
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = look_at(page, tmp_path, width=width, dark=dark, scripts=(UNFOLD, WIDTHS, STICKING_OUT, ground))
    assert seen.errors == []
    assert [address for address in seen.requests if not address.startswith("data:")] == [page.as_uri()]
    _, (scroll_width, client_width, body_width), sticking_out, ground = seen.values
    assert scroll_width <= client_width <= width
    assert body_width <= client_width
    assert sticking_out == []
    red = int(ground.removeprefix("rgb(").partition(",")[0])
    assert (red < 64) == dark


def test_the_browser_tells_a_page_that_is_not_quiet(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><body><div style='width: 2000px'>x</div>"
        "<img src='missing.png'><script>console.error('oh'); nothing.here</script></body>"
    )
    seen = look_at(bad, tmp_path / "profile", width=390, scripts=(WIDTHS,))
    assert len(seen.errors) >= 3  # said, thrown, not found
    assert any(address.endswith("missing.png") for address in seen.requests)
    assert seen.values[0][0] > seen.values[0][1]


def test_tables_sort_by_mouse_and_by_keyboard(page: Path, tmp_path: Path) -> None:
    recall = f"[...{TABLE}.tHead.rows[0].cells].findIndex(head => head.textContent.trim() === 'recall')"
    button = f"{TABLE}.tHead.rows[0].cells[{recall}].querySelector('button')"
    name = f"{TABLE}.tHead.rows[0].cells[0].querySelector('button')"
    seen = look_at(
        page,
        tmp_path,
        scripts=(
            UNFOLD,
            # Other values than the toy's, which are all one.
            f"{BODY}.forEach((row, at) => row.querySelector('[data-key$=recall]').value = at / 4)",
            f"{button}.click()",
            RECALLS,
            SORTED,
            f"{button}.click()",
            RECALLS,
            SORTED,
            f"{name}.focus()",
            ENTER,
            CLASSES,
            SORTED,
            ENTER,
            CLASSES,
        ),
    )
    _, _, _, down, first, _, up, second, _, classes, named, turned = seen.values
    assert [float(value) for value in down] == [0.25, 0.0]
    assert [float(value) for value in up] == [0.0, 0.25]
    assert [one for one in first if one] == ["descending"]
    assert [one for one in second if one] == ["ascending"]
    assert classes == ["left", "right"]
    assert [one for one in named if one] == ["ascending"]
    assert turned == ["right", "left"]
    assert seen.errors == []
