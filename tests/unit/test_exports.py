import argparse
import dataclasses
import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from pipeline.errors import LrcnError
from pipeline.inference.answers import Answer, Segment, Timesteps, VideoFacts, output_name
from pipeline.inference.exports import frames_of
from pipeline.inference.precision import add_precision_argument
from pipeline.inference.resultfolder import EXPORTS, write_results
from pipeline.inference.resultsettings import (
    EXPORT_FORMATS,
    ResultSettings,
    add_result_arguments,
    result_settings,
)
from pipeline.inference.segments import segments_of
from pipeline.inference.timesteps import write_timesteps
from pipeline.models.modelfolder import ModelSpec
from pipeline.view import View
from tests.resultreaders import read_activitynet, read_eaf, read_fiftyone, read_label_studio, read_srt, read_vtt

FPS = 30000 / 1001
CLASSES = ("idle", "sit <down>", "stand & up", "走る")
FRAME = ResultSettings(
    "frame", CLASSES, "idle", step_seconds=0.125, threshold=0.9, model="lrcn 1", min_seconds=0.5,
    merge_gap_seconds=0.25, formats=EXPORT_FORMATS,
)  # fmt: skip
FACTS = VideoFacts(5400, 5399 / FPS, 320, 240, "h264")


def three_minutes(path: str, seed: int) -> Answer:
    """What a frame model may say of three minutes at 8 timesteps a second: stretches of random classes and lengths."""
    rng = np.random.default_rng(seed)
    best = np.repeat(rng.integers(0, len(CLASSES), 400), rng.integers(1, 20, 400))[: 180 * 8]
    probs = rng.dirichlet(np.ones(len(CLASSES)), len(best)).astype(np.float32)
    probs[np.arange(len(best)), best] += 1
    probs /= probs.sum(axis=1, keepdims=True)
    steps = Timesteps(np.arange(len(best)) / 8, probs)
    raw = segments_of(steps, CLASSES, "idle", 0.125)
    return Answer(path, "ok", label=CLASSES[1], score=0.5, segments=raw, video=FACTS, timesteps=steps)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Results with all exports of two recordings of three minutes, hostile names among them, and of bad files."""
    monkeypatch.chdir(tmp_path)
    answers = [three_minutes(path, seed) for seed, path in enumerate(["x/plain.mp4", 'x/"a&b" <c>.tar.走.MP4'])]
    for answer in answers:
        write_timesteps(tmp_path / "out", answer, CLASSES)
    bad = [Answer("x/none.mp4", "rejected", "empty file"), Answer("x/f.npy", "ok", label=CLASSES[1])]
    bad += [dataclasses.replace(answers[0], path="x/\udce9.mp4", timesteps=None)]
    bad += [dataclasses.replace(answers[0], path="x/one.mp4", video=VideoFacts(1, None, 8, 8, "h264"), segments=())]
    write_timesteps(tmp_path / "out", dataclasses.replace(answers[0], path="x/\udce9.mp4"), CLASSES)
    write_timesteps(tmp_path / "out", dataclasses.replace(answers[0], path="x/one.mp4"), CLASSES)
    write_timesteps(tmp_path / "out", dataclasses.replace(answers[0], path="x/f.npy"), CLASSES)
    notes = write_results(tmp_path / "out", [*answers, *bad], FRAME)
    return tmp_path / "out", answers, notes


def test_every_file_says_the_same_to_its_own_reader(exported):
    out, answers, _ = exported
    results = out / "exports"
    activitynet, studio = read_activitynet(results / "activitynet.json"), read_label_studio(results)
    fiftyone = read_fiftyone(results / "fiftyone", FPS)
    for answer in answers:
        expected = segments_of(answer.timesteps, CLASSES, "idle", 0.125, 0.5, 0.25)
        assert len(expected) > 20
        labels = [segment.label for segment in expected]
        times = np.array([(segment.start_seconds, segment.end_seconds) for segment in expected])
        name, absolute = output_name(answer.path), str(Path.cwd() / answer.path)
        eaf, scores, url = read_eaf(results / "elan" / f"{name}.eaf")
        assert url == f"file://{absolute}"
        assert scores == pytest.approx([segment.score for segment in expected], abs=1e-6)
        vtt = read_vtt((out / "subtitles" / f"{name}.vtt").read_text(encoding="utf-8"))
        srt = read_srt((out / "subtitles" / f"{name}.srt").read_text(encoding="utf-8"))
        for found, tolerance in (
            (activitynet[answer.path], 1e-9),
            (eaf, 1e-9),
            (vtt, 1e-9),
            (srt, 1e-9),
            (studio[answer.path], 1 / FPS),
            (fiftyone[absolute], 1 / FPS),
        ):
            assert np.abs(np.array([(start, end) for start, end, _ in found]) - times).max() <= tolerance
            if found is not srt:
                assert [label for _, _, label in found] == labels


def test_what_a_format_cannot_hold_is_left_out_and_said(exported):
    out, _, notes = exported
    tasks = json.loads((out / "exports/label_studio.json").read_text())
    assert [unquote(task["data"]["video"]) for task in tasks] == [
        f"/data/local-files/?d={str(Path.cwd()).lstrip('/')}/{name}"
        for name in ("x/plain.mp4", 'x/"a&b" <c>.tar.走.MP4')
    ]
    assert len(list((out / "exports/elan").iterdir())) == 3  # what is one frame long has a timeline too
    assert len(read_activitynet(out / "exports/activitynet.json")) == 5
    left_out = {
        "x/one.mp4: their frame rate is unknown": ("fiftyone", "label-studio"),
        "x/\udce9.mp4: their name is no UTF-8, which this format cannot hold": ("elan", "fiftyone", "label-studio"),
        "x/f.npy: they are ready-made features, not videos": ("elan", "fiftyone", "label-studio"),
    }
    expected = [f"export {name}: 1 video(s) left out, first {why}" for why, names in left_out.items() for name in names]
    assert sorted(notes) == sorted(expected)


def test_exports_are_the_same_bytes_again_and_stay_when_they_are_not_asked_for(exported):
    out, answers, _ = exported
    files = [path for path in sorted((out / "exports").rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    stored = [dataclasses.replace(answer, timesteps=None) for answer in answers]
    write_results(out, stored, dataclasses.replace(FRAME, formats=()))
    assert {path: path.read_bytes() for path in files} == before
    assert len(files) == 3 + 5
    write_results(out, stored[:1], dataclasses.replace(FRAME, formats=("elan",)))
    assert [path.name for path in (out / "exports/elan").iterdir()] == [f"{output_name(answers[0].path)}.eaf"]


def test_a_clip_model_exports_the_whole_video_as_one_segment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = Answer("a.mp4", "ok", label="sit", score=0.9, segments=(Segment(0.0, 2.0, "sit", 0.9),), video=FACTS)
    settings = ResultSettings("clip", ("sit", "stand"), formats=EXPORT_FORMATS)
    assert write_results(tmp_path / "out", [clip], settings) == []
    assert read_activitynet(tmp_path / "out/exports/activitynet.json") == {"a.mp4": [(0.0, 2.0, "sit")]}
    assert read_label_studio(tmp_path / "out/exports")["a.mp4"] == [(0.0, pytest.approx(2.0, abs=1 / FPS), "sit")]


def test_exports_of_nothing_are_whole_files(tmp_path):
    write_results(tmp_path, [], dataclasses.replace(FRAME))
    assert read_activitynet(tmp_path / "exports/activitynet.json") == {}
    assert read_label_studio(tmp_path / "exports") == {}
    assert read_fiftyone(tmp_path / "exports/fiftyone", FPS) == {}


def test_a_failure_on_the_way_leaves_what_was_there(exported):
    out, answers, _ = exported
    files = [path for path in sorted(out.rglob("*")) if path.suffix in (".json", ".csv", ".jsonl")]
    before = {path: path.read_bytes() for path in files}

    def failing():
        yield answers[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_results(out, failing(), FRAME)
    assert {path: path.read_bytes() for path in files} == before
    assert not [path for path in out.rglob(".*") if path.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0.0, 0.04, (1, 1)), (0.0, 0.001, (1, 1)), (0.04, 0.08, (2, 2)), (3.96, 9.0, (100, 100)), (5.0, 6.0, (100, 100))],
)
def test_frames_count_from_one_and_stay_in_the_video(start, end, expected):
    assert frames_of(Segment(start, end, "sit", 1.0), 25.0, 100) == expected


def test_every_format_on_the_command_line_has_a_writer():
    assert set(EXPORTS) == set(EXPORT_FORMATS)


@pytest.fixture
def model_spec() -> ModelSpec:
    return ModelSpec("frame", CLASSES, "idle", {}, View(fps=10.0, short_side=32, crop=32), "any", "key", {})


def options_of(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_precision_argument(parser)
    add_result_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "task", "message"),
    [
        (["--min-duration", "-1"], "frame", r"--min-duration is -1\.0; expected seconds, 0 or more"),
        (["--merge-gap", "nan"], "frame", r"--merge-gap is nan; expected seconds"),
        (["--merge-gap", "inf"], "frame", r"--merge-gap is inf; expected seconds"),
        (["--min-duration", "1"], "clip", r"--min-duration is for frame models.*leave the option out"),
        (["--precision", "1"], "frame", r"--precision is 1\.0; expected a share between 0 and 1"),
        (["--merge-gap", "1"], "frame", r"this model has no background class; leave it out"),
    ],
)
def test_impossible_options_are_errors(arguments, task, message, model_spec):
    spec = dataclasses.replace(model_spec, task=task, background=None)
    with pytest.raises(LrcnError, match=message):
        result_settings(options_of(*arguments), spec, "id")


def test_options_become_settings(model_spec):
    options = options_of("--min-duration", "0.5", "--merge-gap", "1", "--export", "elan", "--export", "elan")
    settings = result_settings(options, model_spec, "id")
    assert (settings.min_seconds, settings.merge_gap_seconds, settings.formats) == (0.5, 1.0, ("elan",))
    assert (settings.task, settings.background, settings.step_seconds) == ("frame", "idle", 0.1)
