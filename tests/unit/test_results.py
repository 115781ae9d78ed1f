import csv
import json
import os

import numpy as np
import pytest

from pipeline.inference.answers import Answer, Segment, VideoFacts, output_name
from pipeline.inference.ledger import LEDGER, Ledger, file_state
from pipeline.inference.recognizer import runs_of_labels
from pipeline.inference.results import write_results

ANSWER = Answer(
    "a.mp4", "ok", label="sit", score=0.9, runner_up="stand", runner_up_score=0.1, frames=20, seconds=2.0,
    scores={"sit": 0.9, "stand": 0.1}, segments=(Segment(0.0, 2.0, "sit", 0.9),),
    video=VideoFacts(50, 1.96, 320, 240, "h264"),
)  # fmt: skip


def test_runs_of_labels():
    probs = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]])
    found = runs_of_labels(probs, np.arange(5) / 10, 0.1, ["idle", "sit", "stand"], "idle")
    assert found == (Segment(0.1, 0.3, "sit", pytest.approx(0.8)), Segment(0.3, 0.4, "stand", 0.9))
    assert len(runs_of_labels(probs, np.arange(5) / 10, 0.1, ["idle", "sit", "stand"], None)) == 4


def test_ledger_gives_back_what_was_added(tmp_path):
    ledger = Ledger(tmp_path, "m1")
    assert ledger.get("a.mp4", "1 2 3") is None
    ledger.add(ANSWER, "1 2 3")
    ledger.close()
    again = Ledger(tmp_path, "m1")
    assert again.get("a.mp4", "1 2 3") == ANSWER
    assert again.get("a.mp4", "1 2 4") is None  # the file changed
    again.close()
    other = Ledger(tmp_path, "m2")
    assert other.get("a.mp4", "1 2 3") is None  # another model
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
    assert after.get("a.mp4", "1") == ANSWER
    assert (after.get("b.mp4", "2") is None) == (keep > 0)
    after.add(Answer("c.mp4", "ok", label="sit"), "3")
    after.close()
    last = Ledger(tmp_path, "m")
    assert last.get("c.mp4", "3") == Answer("c.mp4", "ok", label="sit")
    last.close()


def test_file_state_notices_an_edit_of_equal_size_and_old_date(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1234")
    before, times = file_state(str(path)), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"4321")
    os.utime(path, ns=times)
    assert file_state(str(path)) != before
    assert file_state(str(tmp_path / "none")) == "unreadable: No such file or directory"


def test_result_files(tmp_path):
    strange = Answer('x/"a,b"\n\udce9.mp4', "rejected", "empty file")
    write_results(tmp_path, [ANSWER, strange], 0.9, "clip")
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
    write_results(tmp_path, [ANSWER], threshold, task)
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["sure"] is sure


def test_names_of_outputs_are_harmless_and_never_shared():
    paths = ["a/x.mp4", "b/x.mp4", "x/\n\udce9.mp4", "..", "-x", "A/X.MP4", "走る.mp4", "y" * 300]
    names = [output_name(path) for path in paths]
    assert len({name.lower() for name in names}) == len(names)
    assert all(name.isascii() and len(name) < 100 and name[0] not in "-." and "/" not in name for name in names)
