import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError
from pipeline.inference.answers import Answer, Timesteps
from pipeline.inference.timesteps import has_timesteps, read_timesteps, timesteps_path, write_timesteps

CLASSES = ["idle", "sit down", "score"]
PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32)
STEPS = Timesteps(np.array([0.0, 1 / 3]), PROBS)


@pytest.mark.parametrize("path", ["clips/a.mp4", "x/\udce9\n.mp4", "=cmd|'/c calc'!A0.mp4"])
def test_scores_at_timesteps_come_back_to_the_bit(tmp_path, path):
    write_timesteps(tmp_path, Answer(path, "ok", label="sit down", timesteps=STEPS), CLASSES, "model 1")
    again = read_timesteps(tmp_path, path)
    assert again.time_seconds.dtype == np.float64
    np.testing.assert_array_equal(again.time_seconds, STEPS.time_seconds)
    assert again.probabilities.dtype == np.float32
    np.testing.assert_array_equal(again.probabilities, PROBS)


def test_the_table_is_one_that_any_reader_of_parquet_understands(tmp_path):
    write_timesteps(tmp_path, Answer("a.mp4", "ok", timesteps=STEPS), CLASSES, "model 1")
    table = pd.read_parquet(timesteps_path(tmp_path, "a.mp4"))
    assert list(table.columns) == ["time_seconds", "label", "score", "idle", "sit down", "score_"]
    assert list(table["label"]) == ["idle", "score"]
    assert list(table["score"]) == [np.float32(0.7), np.float32(0.6)]
    assert {str(table[name].dtype) for name in ("score", *table.columns[3:])} == {"float32"}
    about = pq.read_schema(timesteps_path(tmp_path, "a.mp4")).metadata
    assert json.loads(about[b"path"]) == "a.mp4"
    assert json.loads(about[b"classes"]) == CLASSES
    assert about[b"model"] == b"model 1"


def test_equal_answers_give_equal_bytes_and_an_answer_without_timesteps_removes_them(tmp_path):
    answer = Answer("a.mp4", "ok", timesteps=STEPS)
    write_timesteps(tmp_path, answer, CLASSES)
    first = timesteps_path(tmp_path, "a.mp4").read_bytes()
    write_timesteps(tmp_path, answer, CLASSES)
    assert timesteps_path(tmp_path, "a.mp4").read_bytes() == first
    write_timesteps(tmp_path, Answer("a.mp4", "rejected", "empty file"), CLASSES)
    assert not list((tmp_path / "frames").iterdir())


def test_damage_is_found_and_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match=r"a\.mp4-\w+\.parquet: missing; run again"):
        read_timesteps(tmp_path, "a.mp4")
    write_timesteps(tmp_path, Answer("a.mp4", "ok", timesteps=STEPS), CLASSES)
    target = timesteps_path(tmp_path, "a.mp4")
    whole = target.read_bytes()
    assert has_timesteps(tmp_path, "a.mp4", "")
    for damaged in (b"", whole[:-9], whole[: len(whole) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        target.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"no whole table of scores \(.+\); remove it and run again"):
            read_timesteps(tmp_path, "a.mp4")
        assert not has_timesteps(tmp_path, "a.mp4", "")
    pd.DataFrame({"x": [1]}).to_parquet(target)
    with pytest.raises(StoreError, match=r"no whole table of scores"):
        read_timesteps(tmp_path, "a.mp4")
    write_timesteps(tmp_path, Answer("b.mp4", "ok", timesteps=STEPS), CLASSES)
    timesteps_path(tmp_path, "b.mp4").rename(target)
    with pytest.raises(StoreError, match=r"holds the scores of 'b\.mp4', not of 'a\.mp4'; remove it"):
        read_timesteps(tmp_path, "a.mp4")
    assert not has_timesteps(tmp_path, "a.mp4", "")


def test_scores_of_another_model_count_for_nothing(tmp_path):
    assert not has_timesteps(tmp_path, "a.mp4", "model 1")
    write_timesteps(tmp_path, Answer("a.mp4", "ok", timesteps=STEPS), CLASSES, "model 1")
    assert has_timesteps(tmp_path, "a.mp4", "model 1")
    assert not has_timesteps(tmp_path, "a.mp4", "model 2")
