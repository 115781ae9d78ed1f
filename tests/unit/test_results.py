import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import StoreError
from pipeline.inference.answers import Answer, Segment, Timesteps, VideoFacts, output_name
from pipeline.inference.ledger import LEDGER, Ledger, file_state
from pipeline.inference.resultfolder import timeline_of, write_results
from pipeline.inference.resultsettings import ResultSettings
from pipeline.inference.timesteps import write_timesteps

ANSWER = Answer(
    "a.mp4", "ok", label="sit", score=0.9, runner_up="stand", runner_up_score=0.1, frames=20, seconds=2.0,
    scores={"sit": 0.9, "stand": 0.1}, segments=(Segment(0.0, 2.0, "sit", 0.9),),
    video=VideoFacts(50, 1.96, 320, 240, "h264"),
)  # fmt: skip


def kept(ledger: Ledger, path: str, state: str) -> Answer | None:
    """The answer that makes another look at the file needless."""
    return ledger.read(path) if ledger.status(path, state) not in (None, "failed") else None


def test_ledger_gives_back_what_was_added(tmp_path):
    ledger = Ledger(tmp_path, "m1")
    assert kept(ledger, "a.mp4", "1 2 3") is None
    ledger.add(ANSWER, "1 2 3")
    ledger.close()
    again = Ledger(tmp_path, "m1")
    assert kept(again, "a.mp4", "1 2 3") == ANSWER
    assert kept(again, "a.mp4", "1 2 4") is None  # the file changed
    again.close()
    other = Ledger(tmp_path, "m2")
    assert kept(other, "a.mp4", "1 2 3") is None  # another model
    other.close()


@pytest.mark.parametrize("keep", [1, 30, 80, -1])
def test_a_torn_last_line_is_ignored_and_the_next_one_is_whole(tmp_path, keep):
    ledger = Ledger(tmp_path, "m")
    ledger.add(ANSWER, "1")
    first = (tmp_path / LEDGER).stat().st_size
    ledger.add(Answer("b.mp4", "rejected", "x"), "2")
    ledger.close()
    data = (tmp_path / LEDGER).read_bytes()
    (tmp_path / LEDGER).write_bytes(data[: first + keep] if keep > 0 else data[:-1])
    after = Ledger(tmp_path, "m")
    assert kept(after, "a.mp4", "1") == ANSWER
    assert (kept(after, "b.mp4", "2") is None) == (keep > 0)
    after.add(Answer("c.mp4", "ok", label="sit"), "3")
    after.close()
    last = Ledger(tmp_path, "m")
    assert kept(last, "c.mp4", "3") == Answer("c.mp4", "ok", label="sit")
    last.close()


def test_file_state_notices_an_edit_of_equal_size_and_old_date(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1234")
    before, times = file_state(str(path)), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"4321")
    os.utime(path, ns=times)
    assert file_state(str(path)) != before
    assert file_state(str(tmp_path / "none")) == "cannot be read: No such file or directory"


def test_result_files(tmp_path):
    strange = Answer('x/"a,b"\n\udce9.mp4', "rejected", "empty file")
    write_results(tmp_path, iter([ANSWER, strange]), ResultSettings("clip", ("sit", "stand"), threshold=0.9))
    with (tmp_path / "results.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        found = list(csv.DictReader(file))
    assert found[0] == {
        "path": "a.mp4", "status": "ok", "reason": "", "label": "sit", "score": "0.9", "sure": "yes",
        "runner_up": "stand",
        "runner_up_score": "0.1", "frames": "20", "seconds": "2.0",
    }  # fmt: skip
    assert found[1]["path"] == strange.path
    assert found[1]["reason"] == "empty file"
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["a.mp4", strange.path]
    assert lines[0]["scores"] == {"sit": 0.9, "stand": 0.1}
    assert (tmp_path / "segments.csv").read_text().splitlines() == [
        "path,start_seconds,end_seconds,label,score,sure",
        "a.mp4,0.0,2.0,sit,0.9,yes",
    ]


@pytest.mark.parametrize(
    ("threshold", "task", "sure"), [(0.91, "clip", False), (None, "clip", False), (0.5, "frame", None)]
)
def test_sure_is_said_of_probabilities_that_reach_the_threshold_alone(tmp_path, threshold, task, sure):
    write_results(tmp_path, [ANSWER], ResultSettings(task, ("sit", "stand"), threshold=threshold))
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["sure"] is sure


@pytest.mark.parametrize(
    "path", ["=1+1.mp4", "+x.mp4", "-x.mp4", "@x.mp4", "\ta.mp4", "a\rb.mp4", " a .mp4", "a\udcff.mp4"]
)
def test_names_come_back_byte_for_byte_whatever_a_spreadsheet_makes_of_them(tmp_path, path):
    answer = Answer(path, "ok", label="sit", score=0.9, segments=(Segment(0.0, 1.0, "sit", 0.9),))
    write_results(tmp_path, [answer], ResultSettings("clip", ("sit", "stand")))
    for table in ("results.csv", "segments.csv"):
        with (tmp_path / table).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == [path]
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["path"] == path


def test_pandas_reads_the_table_as_the_docs_say(tmp_path):
    answers = [Answer('x/\udce9,"a\r\n.mp4', "ok", label="None", score=0.5), Answer("NA", "rejected", "empty file")]
    write_results(tmp_path, answers, ResultSettings("clip", ("None", "b")))
    page = (Path(__file__).parents[2] / "docs/results.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(pandas\..+?)```", page, re.DOTALL)
    table = eval(recipe.replace("results.csv", str(tmp_path / "results.csv")), {"pandas": pd})
    assert list(table["path"]) == [answer.path for answer in answers]
    assert list(table["label"]) == ["None", ""]
    assert table["score"][0] == 0.5
    assert np.isnan(table["score"][1])


def test_scores_stand_in_falling_order_so_the_first_k_are_the_top_k(tmp_path):
    answer = Answer("a.mp4", "ok", label="b", scores={"a": 0.2, "b": 0.5, "c": 0.3, "d": 0.2})
    write_results(tmp_path, [answer], ResultSettings("clip", tuple("abcd")))
    scores = json.loads((tmp_path / "predictions.jsonl").read_text())["scores"]
    assert list(scores) == ["b", "c", "a", "d"]


def frame_answer(folder):
    """A frame model's answer to two seconds, with a gap of 0.2 s and a stretch of 0.1 s; its timesteps are on disk."""
    probs = np.full((20, 3), 0.1, np.float32)
    for t, k in enumerate([0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0]):
        probs[t, k] = 0.8
    steps = Timesteps(np.arange(20) / 10, probs)
    raw = tuple(
        Segment(a, b, c, pytest.approx(0.8)) for a, b, c in [(0.2, 0.5, "sit"), (0.7, 1.1, "sit"), (1.4, 1.5, "up")]
    )
    answer = Answer("a.mp4", "ok", label="sit", score=0.35, segments=raw, timesteps=steps)
    write_timesteps(folder, answer, ("idle", "sit", "up"))
    return Answer("a.mp4", "ok", label="sit", score=0.35, segments=raw)  # as it comes out of the ledger


def test_options_shape_the_segments_of_frame_models_and_none_reads_no_timesteps(tmp_path):
    answer = frame_answer(tmp_path)
    plain = ResultSettings("frame", ("idle", "sit", "up"), "idle", threshold=0.7)
    tidy = ResultSettings("frame", ("idle", "sit", "up"), "idle", threshold=0.7, min_seconds=0.2, merge_gap_seconds=0.2)
    (found,) = timeline_of(tmp_path, answer, tidy)
    assert (found.start_seconds, found.end_seconds, found.label) == (0.2, 1.1, "sit")
    write_results(tmp_path, [answer], tidy)
    assert (tmp_path / "segments.csv").read_text().splitlines()[1:] == [
        f"a.mp4,0.2,1.1,sit,{(7 * 0.8 + 0.2) / 9:.6f},no"
    ]
    for file in (tmp_path / "frames").iterdir():
        file.unlink()
    assert timeline_of(tmp_path, answer, plain) == answer.segments
    with pytest.raises(StoreError, match="missing; run again"):
        write_results(tmp_path, [answer], tidy)
    assert len((tmp_path / "segments.csv").read_text().splitlines()) == 2  # nothing new where something is missing


def test_windows_stay_as_they_are_in_the_table_and_do_not_overlap_in_the_timeline(tmp_path):
    windows = (Segment(0.0, 0.4, "sit", 0.9), Segment(0.2, 0.6, "up", 0.8))
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.55, 0.45], [0.2, 0.8], [0.2, 0.8]], np.float32)
    answer = Answer("a.mp4", "ok", label="sit", segments=windows, timesteps=Timesteps(np.arange(6) / 10, probs))
    settings = ResultSettings("clip", ("sit", "up"))
    write_results(tmp_path, [answer], settings)
    assert len((tmp_path / "segments.csv").read_text().splitlines()) == 3
    found = timeline_of(tmp_path, answer, settings)
    assert [(s.start_seconds, s.end_seconds, s.label) for s in found] == [(0.0, 0.4, "sit"), (0.4, 0.6, "up")]
    assert [s.score for s in found] == pytest.approx([0.725, 0.8])


def test_names_of_outputs_are_harmless_and_never_shared():
    paths = ["a/x.mp4", "b/x.mp4", "x/\n\udce9.mp4", "..", "-x", "A/X.MP4", "走る.mp4", "y" * 300]
    names = [output_name(path) for path in paths]
    assert len({name.lower() for name in names}) == len(names)
    assert all(name.isascii() and len(name) < 100 and name[0] not in "-." and "/" not in name for name in names)
