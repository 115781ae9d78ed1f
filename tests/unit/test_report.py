"""The report: its sentences and tables have known answers, and its page is complete, escaped and safe to keep."""

import base64
import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from pipeline.errors import DataError
from pipeline.reporting.checks import (
    calibration_table,
    detection_table,
    importances_table,
    leaks_table,
    premium_table,
    probe_by_class,
    probe_table,
    too_short,
)
from pipeline.reporting.numbers import Source, Table
from pipeline.reporting.report import Mistake, Pooled, ReportData, Training, render_report
from pipeline.reporting.summary import (
    confident_mistakes,
    folds_table,
    ladder_table,
    measures_table,
    per_class_table,
    statement,
    streams_table,
)
from tests.pagenumbers import Page

HISTORY = [
    {"epoch": str(epoch), "train_loss": "1.0", "val_loss": loss, "val_score": "0.6", "lr": "0.1", "grad_norm": "1"}
    for epoch, loss in ((1, "1.0"), (2, "0.6"), (3, "nan"))
]
PER_CLASS = [
    {"class": "a", "support": "5", "recall": "0.9", "f1": "0.85"},
    {"class": "b", "support": "5", "recall": "nan", "f1": "0.85"},
]
FIGURES = {name: f"<svg>{name}</svg>" for name in ("ladder", "confusion", "per_class", "calibration", "coverage")}
CONFIG = Source("configs/demo.yaml", {"folds": [1, 2, 3], "num_seeds": 2})
SPACE = "\N{NO-BREAK SPACE}"


def text_of(cell: str | Markup) -> str:
    """A cell or sentence as a reader sees it."""
    return Markup(cell).striptags().replace(SPACE, " ")


def texts_of(table: Table | None) -> list[list[str]]:
    assert table is not None
    assert all(len(row) == len(table.heads) for row in table.rows)
    return [[text_of(cell) for cell in row] for row in table.rows]


def control(score: float, difference: float, low: float | None, high: float | None) -> dict[str, float | None]:
    bounds = {"low": score - 0.05, "high": score + 0.05}
    return {"top1": score, "acc": score, **bounds} | {
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
    }


def clip(name: str = "clip-rgb-fold1-seed0", accuracy: float = 0.9, **controls: dict[str, Any]) -> Training:
    video = {"top1": accuracy, "top1_low": 0.7, "top1_high": 1.0, "macro_f1": accuracy, "auc": None, "ece": 0.05}
    video |= {"num_videos": 10.0, "num_groups": 5}
    return Training(
        name=name,
        task="clip",
        model="LSTM",
        head="attention",
        metrics={
            "test": {"video": video},
            "controls": controls or {"single_frame": control(0.5, accuracy - 0.5, 0.2, 0.6)},
        },
        history=HISTORY,
        figures={**FIGURES, "curves": "<svg>curves</svg>", "over_time": "<svg>over time</svg>"},
    )


def frame() -> Training:
    scores = {"acc": 0.61, "acc_low": 0.5, "acc_high": 0.7, "edit": 0.8, "f1_50": 0.7, "background_class": 0.0}
    scores |= {"num_videos": 8.0, "num_groups": 2}
    return replace(
        clip("frame-rgb-fold1-seed0"),
        task="frame",
        head="mean",
        background="idle",
        metrics={"test": {"frame": scores}, "controls": {"shuffled": control(0.4, 0.2, 0.1, 0.3)}},
        figures={**FIGURES, "timeline": "<svg>timeline</svg>"},
    )


def report(*trainings: Training, mistakes: tuple[Mistake, ...] = (), **more: Any) -> ReportData:
    metrics: dict[str, Any] = {}
    for training in trainings or (clip(),):
        metrics.setdefault(training.task, {})[training.stream] = training.metrics
    pooled = {
        (task, stream): Pooled(PER_CLASS, FIGURES, mistakes) for task, streams in metrics.items() for stream in streams
    }
    values = {"facts": {"Licence": "MIT"}, "provenance": {"commit": "abc"}, "metrics": metrics, "pooled": pooled}
    values |= {"config": CONFIG, **more}
    return ReportData(title="Opening and closing", experiment="demo", trainings=trainings or (clip(),), **values)


def own(metrics: Any) -> Source:
    return Source("metrics.json", metrics)


def said(training: Training, **metrics: Any) -> str:
    return text_of(statement([training], own({**training.metrics, **metrics}), CONFIG))


# Sentences


def test_the_result_in_words() -> None:
    training = clip(
        single_frame=control(0.48, 0.42, 0.3, 0.5),
        mean_pool=control(0.5, 0.4, 0.25, 0.5),
        majority=control(0.5, 0.4, 0.2, 0.5),
        file_properties=control(0.52, 0.38, 0.2, 0.5),
        reversed=control(0.03, 0.87, 0.8, 0.9),
    )
    assert said(training, reversed_opposite=0.97) == (
        "The LSTM labels 0.90 [0.70, 1.00] of 10 test videos correctly (95 % interval over 5 groups of recordings; "
        "with so few, intervals are too narrow). A single frame reaches 0.48 and the mean of the features over time "
        "reaches 0.50; the gain over the better of these is +0.40 [+0.25, +0.50]. Played backwards, 97 % of the videos "
        "it had right get the opposite action: all of them would be a model that reads the direction of time, none of "
        "them one blind to it."
    )


def test_a_gain_that_may_be_chance_is_not_called_one() -> None:
    text = said(clip(single_frame=control(0.88, 0.02, -0.01, 0.05)))
    assert "A single frame reaches 0.88; a gain over that is not shown: the difference is +0.02 [−0.01, +0.05]." in text
    worse = said(clip(single_frame=control(0.98, -0.08, -0.15, -0.01)))
    assert "A single frame reaches 0.98; the model is worse than that: the difference is −0.08 [−0.15, −0.01]." in worse
    without = said(clip(single_frame=control(0.88, 0.02, None, float("nan"))))
    assert "a gain over that is not shown: the difference is +0.02." in without


def test_scores_that_the_files_give_away_are_said() -> None:
    rungs = {"majority": control(0.5, 0.4, 0.3, 0.5), "shuffled": control(0.7, 0.2, 0.1, 0.3)}
    assert "File properties" not in said(clip(file_properties=control(0.54, 0.3, 0.2, 0.4), **rungs))
    text = said(clip(file_properties=control(0.8, 0.1, 0.0, 0.2), **rungs))
    assert "reach 0.80, the most frequent class 0.50: the classes were recorded differently" in text
    assert "The same model scores 0.70 with the frames in random order." in text
    nothing_right = said(clip(shuffled=rungs["shuffled"]), reversed_opposite=float("nan"))
    assert nothing_right.endswith("The same model scores 0.70 with the frames in random order.")


def test_frames_of_recordings_in_words() -> None:
    assert said(frame()).startswith("The LSTM labels 0.61 [0.50, 0.70] of the labelled frames of 8 test recordings ")


def test_controls_of_frames_have_names_and_sentences_of_their_own() -> None:
    rungs = {"majority": control(0.4, 0.2, 0.1, 0.3), "file_properties": control(0.75, -0.1, -0.2, 0.0)}
    training = replace(
        frame(), metrics={**frame().metrics, "controls": {**rungs, "mean_pool": control(0.5, 0.1, 0, 1)}}
    )
    text = said(training)
    assert "The mean of the features of the second around reaches 0.50" in text
    assert "File properties and the clock, without a picture, reach 0.75, the most frequent class 0.40: when" in text
    assert "the classes were recorded differently" not in text
    assert [row[0] for row in texts_of(ladder_table("frame", training.own))[2:]] == [
        "file properties and the clock, no picture", "mean feature of the second around, no order",
    ]  # fmt: skip


def test_one_group_has_no_interval() -> None:
    video = {"top1": 0.9, "top1_low": None, "top1_high": None, "num_videos": 10.0, "num_groups": 1.0}
    text = said(clip(), test={"video": video})
    assert "labels 0.90 of 10 test videos correctly (one group of recordings, so there is no interval)" in text


# Tables


def test_every_score_stands_with_its_interval_and_undefined_ones_are_left_out() -> None:
    assert texts_of(measures_table("clip", own(clip().metrics))) == [
        ["top-1", "0.90 [0.70, 1.00]"], ["macro F1", "0.90"], ["calibration error", "0.05"],
    ]  # fmt: skip
    clips = {**clip().metrics["test"], "clip": {"top1": 0.8, "top1_low": 0.7, "top1_high": 0.85, "num_clips": 40.0}}
    assert texts_of(measures_table("clip", own({"test": clips})))[-1] == [
        "top-1 of 40 single clips", "0.80 [0.70, 0.85]",
    ]  # fmt: skip


def test_folds_have_a_mean_and_stand_together() -> None:
    folds = [clip("clip-rgb-fold1-seed0", 0.9), clip("clip-rgb-fold2-seed0", 0.75)]
    spread = {"mean": {"top1": 0.825, "ece": 0.05}, "deviation": {"top1": 0.106, "ece": 0.0}}
    whole = {**clip(accuracy=0.8).metrics, "trainings": spread}
    table = folds_table(folds, own(whole))
    assert table.total
    rows = texts_of(table)
    assert rows[1][:4] == ["clip-rgb-fold2-seed0", "10", "5", "0.75 [0.70, 1.00]"]
    assert rows[2] == ["mean of the folds", "", "", "0.82 ± 0.11", "–", "0.05 ± 0.00"]
    assert rows[3] == ["all folds together", "10", "5", "0.80 [0.70, 1.00]", "0.80", "0.05"]
    text = text_of(statement(folds, own(whole), CONFIG))
    assert "0.80 [0.70, 1.00] of 10 test videos correctly (3 folds together, 95 % interval over 5 groups" in text


def test_the_ladder_stands_in_the_order_of_its_rungs_with_each_paired_difference() -> None:
    training = clip(reversed=control(0.1, 0.8, 0.7, 0.9), majority=control(0.5, 0.4, None, None), own_one={"top1": 0.2})
    assert texts_of(ladder_table("clip", training.own)) == [
        ["the model", "0.90 [0.70, 1.00]", ""],
        ["always the most frequent class", "0.50 [0.45, 0.55]", "+0.40"],
        ["the model, frames backwards", "0.10 [0.05, 0.15]", "+0.80 [+0.70, +0.90]"],
        ["own one", "0.20", "–"],
    ]


def test_the_ladder_has_further_scores_where_their_difference_is_known() -> None:
    rung = {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7, "difference_auc": 0.25, "difference_auc_low": 0.1}
    training = clip(majority=control(0.5, 0.4, 0.3, 0.5) | rung | {"difference_auc_high": 0.3})
    scores = {**training.metrics["test"]["video"], "auc": 0.85, "auc_low": 0.8, "auc_high": 0.9}
    table = ladder_table("clip", own({**training.metrics, "test": {"video": scores}}))
    assert [text_of(head) for head in table.heads[3:]] == ["AUC [95 %]", "model minus control"]
    assert [row[3:] for row in texts_of(table)] == [
        ["0.85 [0.80, 0.90]", ""], ["0.60 [0.50, 0.70]", "+0.25 [+0.10, +0.30]"],
    ]  # fmt: skip


def test_the_surest_mistakes_come_first_and_one_of_each_video() -> None:
    table = pd.DataFrame(
        {
            "video_id": ["b", "a", "c", "d", "e", "b"],
            "label": ["x", "x", "x", "x", "", "x"],
            "predicted": ["y", "y", "y", "x", "y", "y"],
            "score": ["0.6", "0.600", "0.9", "0.99", "0.99", "0.5"],
        }
    )
    found = confident_mistakes(table, 5)
    assert list(found["video_id"]) == ["c", "a", "b"]
    assert list(found.index) == [2, 1, 0]
    assert list(confident_mistakes(table, 1)["video_id"]) == ["c"]


def test_classes_stand_in_a_sortable_table_whose_numbers_name_their_row() -> None:
    table = per_class_table("tables/clip-rgb/per_class.csv", PER_CLASS)
    assert table.sortable
    assert table.heads[-1] == "F1"
    assert texts_of(table) == [["a", "5", "0.90", "0.85"], ["b", "5", "–", "0.85"]]
    assert 'data-key="0/recall"' in table.rows[0][2]


# Checks


def test_leaks_name_a_video_of_each_side() -> None:
    leaks = Source(
        "leaks.json", {"leaks": [{"kind": "content", "fold": 2, "sides": {"train": ["<a>", "b"], "test": ["c"]}}]}
    )
    assert texts_of(leaks_table(leaks)) == [["files of equal content", "2", "train: <a> …; test: c"]]
    assert leaks_table(leaks).kind(2) == "text"
    many = Source("leaks.json", {"leaks": [leaks.at("leaks", 0)] * 50})
    assert len(leaks_table(many).rows) == 20


def test_the_most_telling_property_comes_first() -> None:
    shortcut = Source("shortcut.json", {"importances": {"fps": 0.0, "size_bytes": 0.25, "has_audio": None}})
    assert texts_of(importances_table(shortcut)) == [["size bytes", "0.250"], ["fps", "0.000"], ["has audio", "–"]]


def test_the_premium_is_the_random_split_minus_the_grouped_one() -> None:
    side = {"score": 0.9, "low": 0.8, "high": 0.95}
    premium = {
        "grouped": side,
        "random": {**side, "score": 0.97},
        "premium": 0.07,
        "premium_low": 0.0,
        "premium_high": 0.1,
    }
    assert texts_of(premium_table(Source("premium.json", {"clip": {**premium, "folds": 4}}))) == [
        ["clip task", "4", "0.97 [0.80, 0.95]", "0.90 [0.80, 0.95]", "+0.07 [+0.00, +0.10]"]
    ]


CALIBRATION = {
    "temperature": 1.5, "ece_before": 0.2, "ece_after": 0.06, "wanted_precision": 0.9, "threshold": 0.75,
    "precision": 0.95, "precision_low": 0.9, "precision_high": 1.0, "coverage": 0.5,
}  # fmt: skip


def calibrated(name: str, **changes: Any) -> Training:
    training = clip(name)
    return replace(training, metrics={**training.metrics, "calibration": {**CALIBRATION, **changes}})


def test_calibration_of_each_training_and_of_all() -> None:
    never = {"threshold": None, "precision": None, "precision_low": None, "precision_high": None, "coverage": 0.0}
    trainings = [calibrated("one"), calibrated("two", **never)]
    assert texts_of(calibration_table(trainings, own({"calibration": {**CALIBRATION, "temperature": None}}))) == [
        ["one", "1.50", "0.20", "0.06", "0.75", "0.90", "0.95 [0.90, 1.00]", "0.50"],
        ["two", "1.50", "0.20", "0.06", "–", "0.90", "–", "0.00"],
        ["all folds together", "–", "0.20", "0.06", "0.75", "0.90", "0.95 [0.90, 1.00]", "0.50"],
    ]
    assert calibration_table([clip()], own({})) is None


def test_alarms_of_each_class() -> None:
    found = {"rate_per_hour": 1.0, "threshold": 0.5, "recall": 0.75, "recall_low": 0.5, "recall_high": 1.0}
    found |= {"false_alarms_per_hour": 0.98, "delay_seconds": None, "num_events": 8, "hours_without": 0.5}
    training = replace(clip("one"), metrics={**clip().metrics, "detection": {"fall": found}})
    assert texts_of(detection_table([training], own({}))) == [
        ["one", "fall", "8", "0.500", "1.00", "0.98", "0.75 [0.50, 1.00]", "–", "0.50"]
    ]
    both = texts_of(detection_table([training, training], own({"detection": {"fall": found}})))
    assert [row[0] for row in both] == ["one", "one", "all folds together"]
    assert detection_table([clip()], own({})) is None
    assert too_short(training.own)
    assert not too_short(own({"detection": {"fall": {**found, "hours_without": 1.0}}}))
    assert not too_short(own({"detection": {"fall": {**found, "hours_without": None}}}))


def test_changes_of_the_probe_stand_in_the_order_of_the_glossary() -> None:
    change: dict[str, Any] = {"flip_rate": 0.25, "low": 0.1, "high": 0.4, "score_change": -0.125, "num_videos": 7}
    change |= {"per_class": {"a/b": {"flip_rate": 0.5, "score_change": 0.0, "num": 2}}}
    probe = Source("evaluations/probes/x/probe.json", {"changes": {"darker": change, "own": change, "frozen": change}})
    assert [row[0] for row in texts_of(probe_table(probe))] == ["first frame frozen", "darker", "own"]
    assert texts_of(probe_table(probe))[0][1:] == ["7", "0.25 [0.10, 0.40]", "−0.12"]
    by_class = probe_by_class(probe)
    assert texts_of(by_class) == [["a/b", "0.50", "0.50", "0.50"]]
    assert by_class is not None
    assert 'data-key="changes/frozen/per_class/a~1b/flip_rate"' in by_class.rows[0][1]


# The page


@pytest.fixture(scope="module")
def page() -> str:
    red = np.zeros((300, 800, 3), np.uint8)
    red[..., 0] = 255
    evil = "</script><script>alert(1)</script>"
    mistake = Mistake("clip-rgb-fold1-seed0", 3, "caf\udce9 & <b>.mp4", "a", evil, "0.987", frames=[red[:96, :128]] * 3)
    return render_report(
        report(
            clip(),
            frame(),
            mistakes=(mistake,),
            facts={"Licence": '<img src="http://evil.example">'},
            samples=[("a red frame", red)],
            files={"audit.json": {"warnings": ["Two files were rejected."], "leaks": []}},
            provenance={"commit": "0123abc"},
        )
    )


def test_the_page_is_complete_in_itself(page: str) -> None:
    tags = Page(page).tags
    assert page.startswith("<!doctype html>")
    assert {"iframe", "object", "base"}.isdisjoint(tag for tag, _ in tags)
    assert [attributes["href"] for tag, attributes in tags if tag == "link"] == ["data:,"]  # asks for no icon
    sources = [attributes["src"] for _, attributes in tags if "src" in attributes]
    assert len(sources) == 7
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    targets = [
        value for tag, attributes in tags for key, value in attributes.items() if key.endswith("href") and tag != "link"
    ]
    assert all(str(target).startswith("#") for target in targets)
    style = page[: page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_links_within_the_page_have_a_target(page: str) -> None:
    tags = Page(page).tags
    names = [attributes["id"] for _, attributes in tags if attributes.get("id")]
    assert len(names) == len(set(names))
    targets = {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"}
    assert targets == {"scores", "checks", "clip-rgb", "frame-rgb", "data", "provenance"}
    assert targets <= set(names)


def test_what_comes_from_outside_is_escaped(page: str) -> None:
    parsed = Page(page)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert "alert(1)" not in page[page.rindex("<script>") :]
    text = "".join(parsed.text)
    assert '<img src="http://evil.example">' in text
    assert "</script><script>alert(1)</script>" in text
    assert "caf? & <b>.mp4" in text  # a file name that is no UTF-8


def test_the_page_shows_everything_it_was_given(page: str) -> None:
    text = re.sub(r"\s+", " ", "".join(Page(page).text))
    for expected in (
        "Report of the experiment demo",
        "Opening and closing",
        "One label per video",
        "One label per frame",
        "Two files were rejected.",
        "a red frame",
        "with 0.99",
        "Labels over time",
        "Grey: idle, none of the actions; the edit score and F1 leave it out.",
        "Shaded: the attention of the head",
        "3 epochs; kept are the weights of epoch 2, with a validation loss of 0.600 and a score of 0.600.",
        "none of them stands on both sides. Pictures were not compared.",
        "0123abc",
    ):
        assert expected in text
    for name in ("curves", "timeline", "over time", *FIGURES):
        assert f"<svg>{name}</svg>" in page


def test_the_page_follows_the_readers_light_or_dark(page: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_frames_keep_their_colours_and_large_ones_are_made_smaller(page: str) -> None:
    last = [str(attributes["src"]) for tag, attributes in Page(page).tags if tag == "img"][-1]
    jpeg = np.frombuffer(base64.b64decode(last.partition(",")[2]), np.uint8)
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert image.shape == (120, 320, 3)
    blue, green, red = image.reshape(-1, 3).mean(axis=0)
    assert red > 245
    assert max(blue, green) < 10


def test_the_same_data_give_the_same_page() -> None:
    assert render_report(report()) == render_report(report())


def test_several_folds_come_together_first_and_each_folded_away() -> None:
    folds = [clip("clip-rgb-fold1-seed0"), clip("clip-rgb-fold2-seed0")]
    parsed = Page(render_report(report(*folds)))
    text = re.sub(r"\s+", " ", "".join(parsed.text))
    assert "All folds together: each video is tested by a model that was not trained on it." in text
    inside = [attributes["id"] for tag, attributes in parsed.tags if tag == "details" and "id" in attributes]
    assert inside == ["clip-rgb-fold1-seed0", "clip-rgb-fold2-seed0"]
    assert "Each training" not in render_report(report())


def test_the_curve_of_alarms_is_that_of_all_folds() -> None:
    found = {"rate_per_hour": 1.0, "recall": 0.75, "num_events": 8, "hours_without": 0.5}
    folds = [
        replace(
            clip(f"clip-rgb-fold{number}-seed0"),
            figures={**FIGURES, "detection": f"<svg>alarms of fold {number}</svg>"},
            metrics={**clip().metrics, "detection": {"fall": found}},
        )
        for number in (1, 2)
    ]
    pooled = {("clip", "rgb"): Pooled(PER_CLASS, {**FIGURES, "detection": "<svg>alarms of all folds</svg>"})}
    page = render_report(report(*folds, pooled=pooled))
    assert "alarms of all folds" in page
    assert "alarms of fold 1" not in page
    assert "too short to measure that rate" in re.sub(r"\s+", " ", page)


def test_leaks_of_folds_that_nothing_was_tested_on_raise_no_alarm() -> None:
    leaks = {"allowed": True, "published": False, "videos_compared": 9}
    leaks["leaks"] = [{"kind": "group", "fold": 1, "sides": {"train": ["a"], "test": ["b"]}}]
    training = clip("clip-rgb-fold2-seed0")
    training = replace(training, metrics={**training.metrics, "leaks": {"group": 0, "content": 0, "pictures": 0}})
    text = "".join(Page(render_report(report(training, files={"leaks.json": leaks}))).text)
    assert "The split leaks" not in text
    assert "train: a; test: b" in text


@pytest.mark.parametrize(
    ("leaks", "banner", "stamp"),
    [
        ({"allowed": True, "published": False}, "The split leaks, and was allowed to.", True),
        ({"allowed": False, "published": True}, "The published split of this data set leaks.", True),
        (None, "", False),
    ],
)
def test_a_leak_stands_above_everything(leaks: dict[str, Any] | None, banner: str, stamp: bool) -> None:
    training = clip()
    files: dict[str, Any] = {"leaks.json": {"allowed": True, "published": False, "videos_compared": 9, "leaks": []}}
    if leaks is not None:
        found = [{"kind": "group", "fold": 1, "sides": {"train": ["a"], "test": ["b"]}}]
        files["leaks.json"] |= {**leaks, "leaks": found}
        training = replace(training, metrics={**training.metrics, "leaks": {"group": 1, "content": 0, "pictures": 0}})
    text = re.sub(r"\s+", " ", "".join(Page(render_report(report(training, files=files))).text))
    assert ("made with a leak" in text) == stamp
    if banner:
        assert text.index(banner) < text.index("The LSTM labels")
    else:
        assert "9 videos were compared: no group of recordings, no file and no near-duplicate" in text


@pytest.mark.parametrize("above", [True, False])
def test_a_shortcut_above_the_limit_is_warned_of(above: bool) -> None:
    shortcut = {"auc": 0.7, "auc_low": 0.6, "auc_high": 0.8, "limit": 0.65, "above_limit": above, "num_videos": 9}
    training = clip()
    video = {**training.metrics["test"]["video"], "auc": 0.85}
    training = replace(training, metrics={**training.metrics, "test": {"video": video}})
    page = render_report(report(training, files={"shortcut.json": shortcut | {"num_groups": 4, "importances": {}}}))
    text = re.sub(r"\s+", " ", "".join(Page(page).text))
    assert ("The files give the classes away." in text) == above
    assert (
        "and no picture reaches an AUC of 0.70 [0.60, 0.80]; it was cross-validated over 4 groups of 9 videos" in text
    )
    assert "The model (RGB, clip task) reaches an AUC of 0.85." in text


def fused(name: str = "clip-fused-fold1-seed0", **changes: Any) -> Training:
    alone = {"rgb": control(0.75, 0.15, 0.05, 0.25), "flow": control(0.6, 0.3, 0.2, 0.4)}
    return replace(clip(name, **alone), stream="fused", model="fusion of both streams", head="", history=(), **changes)


def test_a_fusion_is_held_against_each_stream() -> None:
    assert said(fused()) == (
        "The fusion of both streams labels 0.90 [0.70, 1.00] of 10 test videos correctly (95 % interval over 5 groups "
        "of recordings; with so few, intervals are too narrow). RGB (or flow where there is no RGB) reaches 0.75 and "
        "optical flow (or RGB where there is no flow) reaches 0.60; the gain over the better of these is +0.15 "
        "[+0.05, +0.25]."
    )


def test_several_seeds_are_named() -> None:
    trainings = [replace(clip(f"clip-rgb-fold{f}-seed{s}"), seed=s) for s in (0, 1) for f in (1, 2, 3)]
    text = text_of(statement(trainings, clip().own, CONFIG))
    assert "correctly (3 folds together, mean of 2 seeds, 95 % interval over" in text
    rows = texts_of(folds_table(trainings, clip().own))
    assert [row[0] for row in rows[6:]] == ["mean of the trainings", "all folds together, mean of the seeds"]


def test_the_streams_stand_in_one_table() -> None:
    two = {**fused().metrics, "deviation": {"top1": 0.014, "macro_f1": 0.02}}
    two["test"]["video"] |= {"auc": 0.95, "auc_low": 0.9, "auc_high": 0.99}
    table = streams_table("clip", own({"rgb": clip().metrics, "fused": two}))
    assert table.heads == ["stream", "test videos", "groups", "top-1", "macro F1", "AUC", "calibration error"]
    assert texts_of(table) == [
        ["both streams", "10", "5", "0.90 ± 0.01 [0.70, 1.00]", "0.90 ± 0.02", "0.95 [0.90, 0.99]", "0.05"],
        ["RGB", "10", "5", "0.90 [0.70, 1.00]", "0.90", "–", "0.05"],
    ]


def test_the_page_of_two_streams_and_two_seeds() -> None:
    second = replace(clip("clip-rgb-fold1-seed1"), seed=1)
    page = render_report(report(clip(), second, fused(), fused("clip-fused-fold1-seed1", seed=1)))
    parsed = Page(page)
    names = [attributes["id"] for tag, attributes in parsed.tags if tag == "h2" and attributes.get("id")]
    assert names == ["scores", "checks", "clip-fused", "clip-rgb", "data", "provenance"]
    text = re.sub(r"\s+", " ", "".join(parsed.text))
    assert text.index("One label per video, both streams") < text.index("One label per video, RGB")
    assert "all folds together; the mean over 2 seeds ± their standard deviation" in text
    assert "Grey: each stream by itself, the other answering where it has nothing." in text
    assert text.count("kept are the weights of epoch 2") == 1  # a fusion has no training, the second seed is not shown
    assert "both streams" not in render_report(report(clip()))


def test_a_task_without_pooled_scores_is_refused() -> None:
    with pytest.raises(DataError, match="report of demo: no pooled scores of frame rgb"):
        report(clip(), frame(), metrics={"clip": {"rgb": clip().metrics}})


def test_a_report_without_a_training_is_refused() -> None:
    with pytest.raises(DataError, match="report of demo: no training to show"):
        ReportData("", "demo", trainings=(), metrics={}, pooled={}, config=CONFIG, facts={}, provenance={})


# Numbers


VALUES = Source("a.json", {"x": 0.125, "n": -0.004, "none": None, "nan": "nan", "rows": [{"k/1": "7", "ok": True}]})


def test_a_number_bears_its_value_and_its_place() -> None:
    assert VALUES.number("x") == '<data value="0.125" data-source="a.json" data-key="x">0.12</data>'
    assert text_of(VALUES.number("x", places=0, percent=True)) == "12 %"
    assert text_of(VALUES.number("x", places=1, sign=True)) == "+0.1"
    assert text_of(VALUES.number("n")) == "−0.00"
    assert VALUES.number("rows", 0, "k/1", places=0).startswith(
        '<data value="7" data-source="a.json" data-key="rows/0/k~11"'
    )
    assert VALUES.under("rows", 0).number("k/1") == VALUES.number("rows", 0, "k/1")
    assert VALUES.count("rows") == '<data value="1" data-source="a.json" data-key="rows/#">1</data>'


def test_what_is_not_defined_is_a_dash() -> None:
    for keys in (["none"], ["nan"], ["missing"], ["rows", 5, "k"], ["rows"], ["rows", 0, "ok"], ["x", "deeper"]):
        assert VALUES.number(*keys) == "–"
        assert not VALUES.defined(*keys)
    assert VALUES.under("missing").values == {}
    assert VALUES.interval("x") == VALUES.number("x")
    assert VALUES.interval("x", alone=True) == ""


def test_what_a_number_is_taken_from_is_escaped() -> None:
    assert Source('<"&>', {"<": 1}).whole("<") == (
        '<data value="1" data-source="&lt;&#34;&amp;&gt;" data-key="&lt;">1</data>'
    )
