"""Every number of the page of a real experiment is the one of the file it names, and no other number is on it."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_stage
from tests.examplechecks import add_checks
from tests.pagenumbers import Page, check_numbers, value_at

ROOT = Path("artifacts/toy")


@pytest.mark.slow
def test_every_number_of_the_page_stands_in_the_file_it_names(toy: Path) -> None:
    plain = check_numbers((ROOT / "report.html").read_text(), ROOT)
    assert plain > 150
    add_checks(ROOT)
    run_stage("report")
    page = (ROOT / "report.html").read_text()
    assert check_numbers(page, ROOT) > plain + 40
    text = re.sub(r"\s+", " ", "".join(Page(page).text))
    for expected in (
        "The split leaks, and was allowed to. On two sides of a fold stand groups of recordings: 1, files of equal",
        "made with a leak",
        "reaches an AUC of 0.71 [0.61, 0.81], above the limit of 0.65",
        "train: left/g01.mp4 …; test: left/g03.mp4",
        "What would a random split have shown?",
        "background blurred",
        "16 % of the pixels are foreground. Some could not be shown with every change",
        "Below the threshold an answer counts as unsure",
        "As an alarm",
        "Commit, packages and machine are those of this page; the models have a commit of their own.",
    ):
        assert expected in text
    first = [row for row in re.findall(r"<td[^>]*>(background blurred|darker)<", page)]
    assert first == ["background blurred", "darker"]  # in the order of the glossary, not of the file


@pytest.mark.slow
def test_what_is_of_older_models_is_left_off_the_page(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_checks(ROOT)
    other = ROOT / "evaluations/probes/clip-rgb-fold9-seed0"
    shutil.copytree(ROOT / "evaluations/probes/clip-rgb-fold1-seed0", other)
    premium = json.loads((ROOT / "evaluations/premium.json").read_text())
    premium["clip"]["grouped"]["score"] -= 0.01
    (ROOT / "evaluations/premium.json").write_text(json.dumps(premium))
    run_stage("report")
    page = (ROOT / "report.html").read_text()
    assert "evaluations/probes/clip-rgb-fold1-seed0/probe.json" in page
    assert "clip-rgb-fold9" not in page
    assert "What would a random split have shown?" not in page
    printed = capsys.readouterr().out
    assert "evaluations/premium.json is of other models or folds, and left out" in printed
    assert "probes/frame-rgb-fold1-seed0/probe.json: no such file; the page leaves this probe out" in printed


@pytest.mark.slow
def test_the_page_shows_the_figures_as_they_are_on_disk(toy: Path) -> None:
    page = (ROOT / "report.html").read_text()
    for name in ("clip-rgb-fold1-seed0", "frame-rgb-fold1-seed0"):
        files = [*ROOT.glob(f"evaluations/{name}/figures/*.svg"), *ROOT.glob(f"trainings/{name}/figures/*.svg")]
        assert len(files) >= 8
        for file in files:
            assert file.read_text().strip() in page, f"{file} is not on the page as it is"
    ladder = Page((ROOT / "evaluations/clip-rgb-fold1-seed0/figures/ladder.svg").read_text())
    drawn = [text for text in ladder.text if re.fullmatch(r"[+−]?\d\.\d\d( \[.*\])?", text)]
    scores = json.loads((ROOT / "evaluations/clip-rgb-fold1-seed0/metrics.json").read_text())
    numbers = [float(number.replace("−", "-")) for text in drawn for number in re.findall(r"[+−]?\d\.\d\d", text)]
    own = scores["test"]["video"]
    expected = [own["top1"], own["top1_low"], own["top1_high"]]
    for control in scores["controls"].values():
        keys = ("top1", "low", "high", "difference", "difference_low", "difference_high")
        expected += [control[key] for key in keys]
    assert numbers[:3] == [round(value, 2) for value in expected[:3]]
    assert sorted(numbers) == sorted(round(float(f"{value:.2f}"), 2) for value in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda page: page.replace('<data value="', '<data value="1', 1), "but the page has"),
        (lambda page: re.sub(r"(<data [^>]*>)[^<]*<", r"\g<1>0.77<", page, count=1), "is shown as 0.77"),
        (lambda page: page.replace("<p>", "<p>0.9 ", 1), "a number without a source"),
    ],
)
def test_a_number_that_was_changed_is_found(toy: Path, change: Any, message: str) -> None:
    page = (ROOT / "report.html").read_text()
    with pytest.raises(AssertionError, match=message):
        check_numbers(change(page), ROOT)


def test_keys_name_values_and_counts() -> None:
    values = {"a/b": [{"kind": "x"}, {"kind": "y"}, {"kind": "x"}]}
    assert value_at(values, "a~1b/1/kind") == "y"
    assert value_at(values, "a~1b/#") == 3
    assert value_at(values, "a~1b/#kind=x") == 2


@pytest.mark.slow
def test_tables_of_all_folds_are_written(toy: Path) -> None:
    with (ROOT / "tables/clip-rgb/per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["left", "right"]
    assert {path.name for path in (ROOT / "figures").iterdir()} == {"clip-rgb", "frame-rgb"}
    assert (ROOT / "figures/frame-rgb/timeline.svg").is_file()
