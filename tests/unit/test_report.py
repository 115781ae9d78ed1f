"""The report: its sentences and tables have known answers, and its page is complete, escaped and safe to keep."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.reporting.report import (
    Mistake,
    ReportData,
    Training,
    _clean,
    _timelines,
    confident_mistakes,
    render_report,
)
from pipeline.reporting.summary import headline_table, statement, streams_table

HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "train_loss": [1, 0.5], "val_loss": [1, 0.6], "val_score": [0.3, 0.6], "lr": 0.1, "grad_norm": 1}
)
RELIABILITY = [{"low": 0.5, "high": 1.0, "count": 4, "mean_confidence": 0.8, "accuracy": 0.75}]
SPACE = "\N{NO-BREAK SPACE}"


def control(score: float, difference: float, low: float | None, high: float | None) -> dict[str, float | None]:
    bounds = {"low": score - 0.05, "high": score + 0.05}
    return {"top1": score, "acc": score, **bounds} | {
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
    }


def clip(name: str = "clip-rgb-fold1-seed0", right: int = 9, wrong: int = 1, **controls: dict[str, Any]) -> Training:
    """Videos in groups of two, the first `right` of them right; classes a and b by turns."""
    count = right + wrong
    truth = ["a" if number % 2 == 0 else "b" for number in range(count)]
    predicted = [t if number < right else {"a": "b", "b": "a"}[t] for number, t in enumerate(truth)]
    scores = [round(0.6 + number / 100, 2) for number in range(count)]
    predictions = pd.DataFrame(
        {
            "video_id": [f"v{number}.mp4" for number in range(count)],
            "group": [f"{name}-{number // 2}" for number in range(count)],
            "label": truth,
            "predicted": predicted,
            "score": [str(score) for score in scores],
        }
    )
    accuracy = right / count
    video = {"top1": accuracy, "top1_low": 0.7, "top1_high": 1.0, "macro_f1": accuracy, "auc": None, "ece": 0.05}
    video |= {"num_videos": float(count), "num_groups": count / 2}
    return Training(
        name=name,
        task="clip",
        model="LSTM",
        classes=["a", "b"],
        metrics={
            "test": {"video": video},
            "controls": controls or {"single_frame": control(0.5, accuracy - 0.5, 0.2, 0.6)},
        },
        history=HISTORY,
        predictions=predictions,
        per_class=pd.DataFrame(
            {"class": ["a", "b"], "support": ["5", "5"], "recall": ["0.9", "nan"], "precision": "0.8", "f1": "0.85"}
        ),
        confusion=np.array([[5, 0], [1, 4]]),
        reliability=RELIABILITY,
    )


def frame() -> Training:
    """Eight recordings of ten timesteps; in recording n the first n are wrong, the last is not labelled."""
    rows = [
        {
            "video_id": f"r{video}.mp4",
            "group": f"g{video % 2}",
            "step": step,
            "time_seconds": step / 10,
            "label": "" if step == 9 else "walk",
            "predicted": "idle" if step < video else "walk",
        }
        for video in range(8)
        for step in range(10)
    ]
    scores = {"acc": 0.61, "acc_low": 0.5, "acc_high": 0.7, "edit": 0.8, "f1_50": 0.7, "background_class": 0.0}
    scores |= {"num_videos": 8.0, "num_groups": 2.0}
    return replace(
        clip("frame-rgb-fold1-seed0"),
        task="frame",
        classes=["idle", "walk"],
        background="idle",
        metrics={"test": {"frame": scores}, "controls": {"shuffled": control(0.4, 0.2, 0.1, 0.3)}},
        predictions=pd.DataFrame(rows).astype(str),
        reliability=(),
    )


def report(*trainings: Training, **more: Any) -> ReportData:
    pooled: dict[str, Any] = {}
    for training in trainings or (clip(),):
        pooled.setdefault(training.task, {})[training.stream] = training.metrics
    values = {"facts": {"Licence": "MIT"}, "provenance": {"commit": "abc"}, "pooled": pooled} | more
    return ReportData(title="Opening and closing", experiment="demo", trainings=trainings or (clip(),), **values)


def said(training: Training, **metrics: Any) -> str:
    return statement([training], {**training.metrics, **metrics}).replace(SPACE, " ")


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
        "it had right get the opposite action: 100 % is a model that reads the direction of time, 0 % one blind to it."
    )


def test_a_gain_that_may_be_chance_is_not_called_one() -> None:
    text = said(clip(single_frame=control(0.88, 0.02, -0.01, 0.05)))
    assert "A single frame reaches 0.88; a gain over that is not shown: the difference is +0.02 [−0.01, +0.05]." in text
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


def test_one_group_has_no_interval() -> None:
    video = {"top1": 0.9, "top1_low": None, "top1_high": None, "num_videos": 10.0, "num_groups": 1.0}
    text = said(clip(), test={"video": video})
    assert "labels 0.90 of 10 test videos correctly (one group of recordings, so there is no interval)" in text


# Tables


def test_one_training_is_one_row_and_undefined_scores_have_no_column() -> None:
    heads, rows = headline_table([clip()], clip().metrics)
    assert heads == ["training", "test videos", "groups", f"top-1 [95{SPACE}%]", "macro F1", "calibration error"]
    assert rows == [["clip-rgb-fold1-seed0", "10", "5", "0.90 [0.70, 1.00]", "0.90", "0.05"]]


def test_folds_have_a_mean_and_stand_together() -> None:
    folds = [clip("clip-rgb-fold1-seed0", 9, 1), clip("clip-rgb-fold2-seed0", 15, 5)]
    whole = clip("all", 24, 6)
    _, rows = headline_table(folds, whole.metrics)
    assert rows[0][0] == "clip-rgb-fold1-seed0"
    assert rows[1][:4] == ["clip-rgb-fold2-seed0", "20", "10", "0.75 [0.70, 1.00]"]
    assert rows[2] == ["mean of the folds", "", "", "0.82 ± 0.11", "0.82 ± 0.11", "0.05 ± 0.00"]
    assert rows[3] == ["all folds together", "30", "15", "0.80 [0.70, 1.00]", "0.80", "0.05"]
    text = statement(folds, whole.metrics).replace(SPACE, " ")
    assert "0.80 [0.70, 1.00] of 30 test videos correctly (2 folds together, 95 % interval over 15 groups" in text


def test_the_surest_mistakes_come_first() -> None:
    table = clip(right=6, wrong=4).predictions
    table.loc[8, "label"] = ""
    table.loc[7, "score"] = "0.6600"  # as sure as v6.mp4
    assert list(confident_mistakes(table, 3)["video_id"]) == ["v9.mp4", "v6.mp4", "v7.mp4"]
    assert list(confident_mistakes(table, 1)["video_id"]) == ["v9.mp4"]


def test_timelines_go_from_the_worst_to_the_best() -> None:
    shown = _timelines(frame())
    assert [video[0].split()[0] for video in shown] == [f"r{number}.mp4" for number in (7, 6, 4, 3, 1, 0)]
    assert shown[0][0].endswith("0.22")


# The page


class Page(HTMLParser):
    """Reads a page and fails on a tag closed in the wrong place."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    red = np.zeros((300, 800, 3), np.uint8)
    red[..., 0] = 255
    evil = "</script><script>alert(1)</script>"
    training = replace(
        clip(),
        classes=["a", evil],
        mistakes=[Mistake("caf\udce9 & <b>.mp4", "a", evil, 0.987, [red[:96, :128]] * 3)],
    )
    return render_report(
        report(
            training,
            frame(),
            facts={"Licence": '<img src="http://evil.example">'},
            samples=[("a red frame", red)],
            notes=["Two files were rejected."],
            provenance={"commit": "0123abc"},
        )
    )


def test_the_page_is_complete_in_itself(page: str) -> None:
    tags = Page(page).tags
    assert page.startswith("<!doctype html>")
    assert {"link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in tags)
    sources = [attributes["src"] for _, attributes in tags if "src" in attributes]
    assert len(sources) == 4
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    targets = [value for _, attributes in tags for key, value in attributes.items() if key.endswith("href")]
    assert all(str(target).startswith("#") for target in targets)
    style = page[: page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_links_within_the_page_have_a_target(page: str) -> None:
    tags = Page(page).tags
    names = {attributes.get("id") for _, attributes in tags}
    targets = {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"}
    assert targets == {"scores", "data", "clip-rgb-fold1-seed0", "frame-rgb-fold1-seed0", "provenance"}
    assert targets <= names


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
        "Calibration error 0.05.",
        "0123abc",
    ):
        assert expected in text
    labels = [attributes["aria-label"] for tag, attributes in Page(page).tags if tag == "svg"]
    assert [str(label).split(":")[0] for label in labels].count("clip-rgb-fold1-seed0") == 5
    assert [str(label).split(":")[0] for label in labels].count("frame-rgb-fold1-seed0") == 5


def test_the_page_follows_the_readers_light_or_dark(page: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page
    assert page.count("currentColor") > 100


def test_frames_keep_their_colours_and_large_ones_are_made_smaller(page: str) -> None:
    first = str(next(attributes["src"] for tag, attributes in Page(page).tags if tag == "img"))
    jpeg = np.frombuffer(base64.b64decode(first.partition(",")[2]), np.uint8)
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert image.shape == (180, 480, 3)
    blue, green, red = image.reshape(-1, 3).mean(axis=0)
    assert red > 245
    assert max(blue, green) < 10


def test_the_same_data_give_the_same_page(monkeypatch: pytest.MonkeyPatch) -> None:
    # Figures take most of the time, and test_figures.py draws them twice.
    monkeypatch.setattr("pipeline.reporting.report.to_svg", lambda figure, label: f"<svg>{label}</svg>")
    assert render_report(report()) == render_report(report())


def test_tables_may_be_read_with_or_without_missing_values() -> None:
    text, frames = clip(), frame()
    numbers = text.per_class.assign(recall=[0.9, float("nan")], support=[5.0, 5.0], precision=0.8, f1=0.85)
    for given, same in (
        (replace(text, per_class=numbers), text),
        (replace(text, predictions=text.predictions.assign(score=text.predictions["score"].astype(float))), text),
        (replace(frames, predictions=frames.predictions.replace("", None)), frames),
    ):
        for table in ("per_class", "predictions"):
            left, right = getattr(_clean(given), table), getattr(_clean(same), table)
            pd.testing.assert_frame_equal(left, right, check_dtype=False)
    assert list(_clean(frames).predictions["label"].unique()) == ["walk", ""]


def test_several_folds_have_a_ladder_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.reporting.report.to_svg", lambda figure, label: f"<svg>{label}</svg>")
    folds = [clip("clip-rgb-fold1-seed0"), clip("clip-rgb-fold2-seed0")]
    assert render_report(report(*folds)).count("all folds together</svg>") == 1
    assert "all folds together</svg>" not in render_report(report())


def fused(name: str = "clip-fused-fold1-seed0", **changes: Any) -> Training:
    alone = {"rgb": control(0.75, 0.15, 0.05, 0.25), "flow": control(0.6, 0.3, 0.2, 0.4)}
    return replace(clip(name, **alone), stream="fused", model="fusion of both streams", history=None, **changes)


def test_a_fusion_is_held_against_each_stream() -> None:
    assert said(fused()) == (
        "The fusion of both streams labels 0.90 [0.70, 1.00] of 10 test videos correctly (95 % interval over 5 groups "
        "of recordings; with so few, intervals are too narrow). RGB (or flow where there is no RGB) reaches 0.75 and "
        "optical flow (or RGB where there is no flow) reaches 0.60; the gain over the better of these is +0.15 "
        "[+0.05, +0.25]."
    )


def test_several_seeds_are_named() -> None:
    trainings = [replace(clip(f"clip-rgb-fold{f}-seed{s}"), seed=s) for s in (0, 1) for f in (1, 2, 3)]
    text = statement(trainings, clip().metrics).replace(SPACE, " ")
    assert "correctly (3 folds together, mean of 2 seeds, 95 % interval over" in text
    _, rows = headline_table(trainings, clip().metrics)
    assert [row[0] for row in rows[6:]] == ["mean of the trainings", "all folds together, mean of 2 seeds"]


def test_the_streams_stand_in_one_table() -> None:
    two = {**fused().metrics, "deviation": {"top1": 0.014, "macro_f1": 0.02}}
    two["test"]["video"] |= {"auc": 0.95, "auc_low": 0.9, "auc_high": 0.99}
    heads, rows = streams_table("clip", {"rgb": clip().metrics, "fused": two})
    assert heads == ["stream", "test videos", "groups", "top-1", "macro F1", "AUC", "calibration error"]
    assert rows == [
        ["both streams", "10", "5", "0.90 ± 0.01 [0.70, 1.00]", "0.90 ± 0.02", "0.95 [0.90, 0.99]", "0.05"],
        ["RGB", "10", "5", "0.90 [0.70, 1.00]", "0.90", "–", "0.05"],
    ]


def test_the_page_of_two_streams_and_two_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.reporting.report.to_svg", lambda figure, label: f"<svg>{label}</svg>")
    second = replace(clip("clip-rgb-fold1-seed1"), seed=1)
    page = render_report(report(clip(), second, fused(), fused("clip-fused-fold1-seed1", seed=1)))
    parsed = Page(page)
    names = [attributes["id"] for _, attributes in parsed.tags if attributes.get("id")]
    assert names == ["scores", "data", "clip-fused-fold1-seed0", "clip-rgb-fold1-seed0", "provenance"]
    text = re.sub(r"\s+", " ", "".join(parsed.text))
    assert text.index("One label per video, both streams") < text.index("One label per video, RGB")
    assert "all folds together; the mean over 2 seeds ± their standard deviation" in text
    assert "Grey: each stream by itself, the other answering where it has nothing." in text
    assert text.count("How it was trained") == 1
    assert "both streams" not in render_report(report(clip()))


def test_a_task_without_pooled_scores_is_refused() -> None:
    with pytest.raises(DataError, match="report of demo: no pooled scores of frame rgb"):
        report(clip(), frame(), pooled={"clip": {"rgb": clip().metrics}})


def test_a_report_without_a_training_is_refused() -> None:
    with pytest.raises(DataError, match="report of demo: no training to show"):
        ReportData(title="", experiment="demo", trainings=(), pooled={}, facts={}, provenance={})


def test_a_confusion_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"clip-rgb-fold1-seed0: confusion of shape \(2, 2\); expected \(3, 3\)"):
        replace(clip(), classes=["a", "b", "c"])
