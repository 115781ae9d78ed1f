"""Stage `audit` on the toy, with mistakes planted: a copy in another group, and a property that tells the class."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import cli
from pipeline.data.cards import read_dataset
from pipeline.errors import DataError, LeakError
from pipeline.stages import results
from pipeline.stages.answers import headline
from pipeline.stages.audit import write_inputs
from pipeline.stages.layout import Layout
from pipeline.stages.leaks import is_published, leak_counts, leaks_in_words
from pipeline.synthetic import write_video
from pipeline.video.reader import VideoReader, i420_to_rgb
from tests.conftest import run_stage

pytestmark = pytest.mark.slow

ARTIFACTS = Path("artifacts/toy")
LEAKS, SHORTCUT = ARTIFACTS / "leaks.json", ARTIFACTS / "shortcut.json"
CONFIG = ["--config", "configs/toy.yaml"]


def copy_of(source: str, target: str, who: str, *, mirrored: bool = False) -> None:
    """Encode a video anew, greater, brighter and with loss, under another name and for another person."""
    frames = [i420_to_rgb(frame.i420) for frame in VideoReader(f"media/toy/{source}").frames(10.0, 32)]
    changed = [cv2.resize(np.clip(frame * 0.8 + 30, 0, 255).astype(np.uint8), (64, 64)) for frame in frames]
    changed = [np.ascontiguousarray(frame[:, ::-1]) if mirrored else frame for frame in changed]
    write_video(Path("media/toy") / target, changed, fps=10, lossless=False)
    with Path("media/toy/labels.csv").open("a") as labels:
        labels.write(f"{target},{target.partition('/')[0]},{who}\n")


def leaks() -> dict:
    return json.loads(LEAKS.read_text())


def change_card(old: str, new: str) -> None:
    card = Path("datasets/toy/card.yaml")
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new))


def test_a_clean_split(built_toy):
    found = json.loads((built_toy / LEAKS).read_text())
    assert found == {"allowed": False, "published": False, "videos_compared": 60, "leaks": []}
    scores = json.loads((built_toy / ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/metrics.json").read_text())
    assert scores["leaks"] == {"group": 0, "content": 0, "pictures": 0}
    pooled = json.loads((built_toy / ARTIFACTS / "metrics.json").read_text())
    assert pooled["clip"]["rgb"]["leaks"] == pooled["frame"]["rgb"]["leaks"] == scores["leaks"]
    assert "LEAK" not in headline("clip", scores)
    alone = scores["test"]["video"] | {"top1": 0.5, "top1_low": float("nan"), "top1_high": float("nan")}
    assert headline("clip", scores | {"test": {"video": alone}}) == (
        "top1 0.500 (no interval: a single group) on 8 test videos"
    )
    with (built_toy / ARTIFACTS / "properties.csv").open(newline="") as file:
        rows = {row["video_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 60
    left = rows["left/g03.mp4"]
    assert (left["width"], left["height"], left["fps"], left["has_audio"]) == ("32", "32", "10", "0")
    assert float(left["bits_per_frame"]) == pytest.approx(int(left["size_bytes"]) * 8 / 11)
    frames = [i420_to_rgb(frame.i420) for frame in VideoReader(built_toy / "media/toy/left/g03.mp4").frames(10.0, 32)]
    assert float(left["brightness"]) == pytest.approx(np.mean(frames @ np.array([0.299, 0.587, 0.114])), abs=1.5)


def test_a_copy_in_another_group_stops_everything_until_the_card_says_so(toy, capsys):
    copy_of("long/g10.mp4", "left/other.mp4", "g02")
    for stage in ("index", "decode"):
        run_stage(stage)
    line = 'together: [["left/other.mp4", "long/g10.mp4"]]'
    with pytest.raises(LeakError, match=r"fold 1: the same pictures in train \('long/g10.*test \('left/other") as error:
        run_stage("audit")
    assert f"`{line}`" in str(error.value)
    assert "\n" not in str(error.value)
    assert not LEAKS.exists()
    capsys.readouterr()
    assert cli.main(["train", *CONFIG, "--task", "clip"]) == 2
    assert "artifacts/toy/leaks.json: no such file; the stage `audit` writes it" in capsys.readouterr().err

    change_card("splits:", f"{line}\nsplits:")
    run_stage("index")
    run_stage("audit")
    assert leaks()["leaks"] == []
    assert "groups g02 and g10 share a source" in capsys.readouterr().out
    run_stage("extract")
    tested = {row.split(",")[0] for row in (ARTIFACTS / "splits.csv").read_text().splitlines() if row.endswith("test")}
    assert {"long/g10.mp4", "left/other.mp4", "left/g02.mp4"} <= tested


def test_an_allowed_leak_is_stamped_on_every_score(toy, capsys):
    copy_of("long/g10.mp4", "left/other.mp4", "g02", mirrored=True)
    for stage in ("index", "decode"):
        run_stage(stage)
    with pytest.raises(LeakError, match="the same pictures"):
        run_stage("audit")
    run_stage("audit", "--allow-leak")
    assert (
        "audit: warning: leaks allowed, every score will say so: fold 1: the same pictures" in capsys.readouterr().out
    )
    assert leaks()["allowed"] is True
    (found,) = leaks()["leaks"]
    assert found == {
        "fold": 1, "kind": "pictures", "value": "mirrored",
        "sides": {"train": ["long/g10.mp4"], "test": ["left/other.mp4"]},
    }  # fmt: skip
    run_stage("extract")
    with pytest.raises(DataError, match=r"model: trained on another split than that of artifacts/toy/splits\.csv"):
        run_stage("evaluate", "--task", "clip")
    run_stage("train", "--task", "clip")
    run_stage("evaluate", "--task", "clip")
    scores = json.loads((ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/metrics.json").read_text())
    assert scores["leaks"] == {"group": 0, "content": 0, "pictures": 1}
    assert "test videos; LEAKS between the sides of the split: 1 by pictures" in capsys.readouterr().out
    run_stage("report")
    capsys.readouterr()
    results.main([str(ARTIFACTS)])
    printed = capsys.readouterr().out
    assert "groups tested; LEAKS between the sides of the split: 1 by pictures" in printed
    assert "never seen in training" not in printed


def test_the_table_of_inputs_changes_with_each_of_them(toy):
    def inputs() -> dict[str, str]:
        write_inputs(layout, dataset)
        with layout.inputs.open(newline="") as file:
            return {row["path"]: row["sha256"] for row in csv.DictReader(file)}

    dataset, layout, audited = (
        read_dataset(Path("datasets/toy")),
        Layout("toy"),
        (ARTIFACTS / "inputs.csv").read_bytes(),
    )
    tables = [f"artifacts/toy/{name}.csv" for name in ("videos", "segments", "splits", "decoded", "frames")]
    before = inputs()
    assert layout.inputs.read_bytes() == audited
    assert list(before) == ["datasets/toy/card.yaml", "datasets/toy/classes.txt", *tables, str(LEAKS)]
    Path("datasets/toy/README.md").write_text("of no use to a training")
    assert inputs() == before
    for path in map(Path, before):
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n")
        assert {name for name, sha256 in inputs().items() if before[name] != sha256} == {str(path)}
        path.write_bytes(kept)


def test_nothing_is_trained_on_a_split_that_was_not_audited_since_it_was_made(toy, capsys):
    run_stage("index")  # of which the audit that there was says nothing
    assert not LEAKS.exists()
    tuned = Path("configs/toy.yaml").read_text().replace("finetune: null", "finetune: {epochs: 1, frames_per_video: 1}")
    for command, text in ((["train", "--task", "clip"], ""), (["finetune"], tuned)):
        if text:
            Path("configs/toy.yaml").write_text(text)
        assert cli.main([*command, *CONFIG]) == 2
        assert "artifacts/toy/leaks.json: no such file; the stage `audit` writes it" in capsys.readouterr().err
    assert not (ARTIFACTS / "histories/fold1.csv").exists()


def test_a_video_that_was_not_decoded_yet_is_named(toy):
    copy_of("long/g10.mp4", "left/other.mp4", "g02")
    run_stage("index")
    with pytest.raises(
        DataError, match=r"decoded\.csv: no row for 1 video\(s\), 'left/other\.mp4' first; run the stage"
    ):
        run_stage("audit")


def test_leaks_are_counted_by_fold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = Layout("toy")
    with pytest.raises(DataError, match=r"leaks\.json: no such file"):
        leak_counts(layout, [1])
    layout.root.mkdir(parents=True)
    found = [
        {"kind": kind, "fold": fold} for kind, fold in (("group", 1), ("group", 1), ("pictures", 2), ("content", 3))
    ]
    layout.leaks.write_text(json.dumps({"leaks": found}))
    assert leak_counts(layout, [1]) == {"group": 2, "content": 0, "pictures": 0}
    assert leak_counts(layout, [2, 3]) == {"group": 0, "content": 1, "pictures": 1}
    assert leaks_in_words(leak_counts(layout, [4])) == ""
    for published in (True, False):
        layout.leaks.write_text(json.dumps({"published": published, "leaks": found}))
        assert is_published(layout) == published


def test_a_copy_of_the_same_bytes_is_allowed_by_the_configuration_or_by_hand(toy, capsys):
    Path("media/toy/left/same.mp4").write_bytes(Path("media/toy/long/g10.mp4").read_bytes())
    with Path("media/toy/labels.csv").open("a") as labels:
        labels.write("left/same.mp4,left,g02\n")
    with pytest.raises(LeakError, match="the same bytes"):
        run_stage("index")
    run_stage("index", "--allow-leak")
    run_stage("decode")
    with pytest.raises(LeakError, match="the same bytes"):  # the index allowed it by hand, this stage was not asked to
        run_stage("audit")
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("allow_leak: false", "allow_leak: true"))
    run_stage("index")
    run_stage("audit")
    assert [leak["kind"] for leak in leaks()["leaks"]] == ["content"]  # and not once more by its pictures
    assert leak_counts(Layout("toy"), [1]) == {"group": 0, "content": 1, "pictures": 0}


def test_leaks_of_published_splits_are_warnings(toy, capsys):
    copy_of("long/g10.mp4", "left/other.mp4", "g02")
    change_card("  groups:\n    folds", "  groups:\n    official: true\n    folds")
    for stage in ("index", "decode", "audit"):
        run_stage(stage)
    assert "audit: warning: the published split leaks: fold 1: the same pictures" in capsys.readouterr().out
    assert (leaks()["allowed"], leaks()["published"], len(leaks()["leaks"])) == (False, True, 1)


def test_a_property_that_tells_the_class_is_warned_of_and_named(toy, capsys):
    for path in sorted(Path("media/toy/right").glob("*.mp4")):
        frames = [i420_to_rgb(frame.i420) for frame in VideoReader(path).frames(10.0, 32)]
        write_video(path, [np.repeat(frame, 2, axis=1) for frame in frames], fps=10)
    for stage in ("index", "decode", "audit"):
        run_stage(stage)
    printed = capsys.readouterr().out
    scores = json.loads(SHORTCUT.read_text())
    assert scores["auc"] == scores["auc_high"] == 1.0
    assert (scores["limit"], scores["above_limit"], scores["num_videos"]) == (0.65, True, 8)
    assert "audit: file properties alone: AUC 1.000 [1.000, 1.000]" in printed
    assert "audit: warning: that AUC is above audit.max_shortcut_auc (0.65)" in printed
    # The control of the evaluation is this classifier on this table.
    run_stage("extract")
    run_stage("evaluate", "--task", "clip")
    evaluated = json.loads((ARTIFACTS / "evaluations/clip-rgb-fold1-seed0/metrics.json").read_text())
    assert evaluated["controls"]["file_properties"]["auc"] == scores["auc"]
    assert evaluated["controls"]["file_properties"]["top1"] == scores["accuracy"]


def test_no_warning_below_the_limit(toy, capsys):
    config = Path("configs/toy.yaml")
    config.write_text(config.read_text().replace("max_shortcut_auc: 0.65", "max_shortcut_auc: 1.0"))
    run_stage("audit")
    assert "above audit.max_shortcut_auc" not in capsys.readouterr().out
    assert json.loads(SHORTCUT.read_text())["above_limit"] is False


def test_without_labelled_clips_nothing_is_tried(toy, capsys):
    labels = Path("media/toy/labels.csv")
    labels.write_text(
        "\n".join(line for line in labels.read_text().splitlines() if not line.startswith(("left", "right")))
    )
    for stage in ("index", "audit"):
        run_stage(stage)
    assert "file properties were not tried as a shortcut" in capsys.readouterr().out
    scores = json.loads(SHORTCUT.read_text())
    assert (scores["auc"], scores["accuracy"], scores["num_videos"], scores["importances"]) == (None, None, 0, {})
