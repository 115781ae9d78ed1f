"""The ledger of a folder run: what is in it after any sequence of runs, kills, models and full disks."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.inference.answers import Answer, Segment
from pipeline.inference.ledger import LEDGER, Ledger, LedgerAnswers, LedgerReader

ANSWER = Answer("a.mp4", "ok", label="sit", score=0.1 + 0.2, scores={"sit": 0.3}, segments=(Segment(0, 1, "sit", 0.3),))


def kept(ledger: Ledger, path: str, state: str) -> Answer | None:
    """The answer that makes another look at the file needless."""
    return ledger.read(path) if ledger.status(path, state) not in (None, "failed") else None


def named(path: str, label: str = "sit") -> Answer:
    return replace(ANSWER, path=path, label=label)


def test_answers_are_read_back_by_place_in_the_order_asked_for_and_from_the_start_each_time(tmp_path):
    ledger = Ledger(tmp_path, "m")
    for path in ("b", "caf\udce9\n", "a"):
        ledger.add(named(path), "1")
    ledger.add(named("b", "stand"), "2")
    answers = LedgerAnswers(ledger, ["a", "b", "c", "caf\udce9\n"], {"c": "no such file"})
    expected = [named("a"), named("b", "stand"), Answer("c", "rejected", "no such file"), named("caf\udce9\n")]
    assert list(answers) == expected
    assert list(answers) == expected
    assert len(answers) == 4
    ledger.close()


def test_a_failure_is_known_but_no_answer_to_keep(tmp_path):
    ledger = Ledger(tmp_path, "m")
    ledger.add(Answer("a.mp4", "failed", "hangs"), "1")
    assert ledger.status("a.mp4", "1") == "failed"
    assert kept(ledger, "a.mp4", "1") is None
    assert ledger.last_status("a.mp4") == "failed"
    ledger.close()


def test_a_ledger_of_replaced_lines_is_written_anew_when_it_is_opened(tmp_path):
    ledger = Ledger(tmp_path, "m")
    for state in range(4):
        ledger.add(named("a.mp4", f"label {state}"), str(state))
    ledger.add(named("b.mp4"), "1")
    ledger.close()
    assert (tmp_path / LEDGER).read_bytes().count(b"\n") == 5
    again = Ledger(tmp_path, "m")
    assert (tmp_path / LEDGER).read_bytes().count(b"\n") == 2
    again.add(named("c.mp4"), "1")
    assert kept(again, "a.mp4", "3") == named("a.mp4", "label 3")
    assert kept(again, "b.mp4", "1") == named("b.mp4")
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER]


def test_lines_of_another_model_are_kept_until_their_file_is_answered_for_again(tmp_path):
    for model_id, path in (("m1", "a.mp4"), ("m1", "b.mp4"), ("m2", "b.mp4")):
        ledger = Ledger(tmp_path, model_id)
        ledger.add(named(path, model_id), "1")
        ledger.close()
    again = Ledger(tmp_path, "m1")
    assert kept(again, "a.mp4", "1") == named("a.mp4", "m1")
    assert kept(again, "b.mp4", "1") is None  # what lies beside the ledger for it is of m2
    again.close()


def test_a_full_disk_leaves_no_half_line_and_what_was_there(tmp_path):
    ledger = Ledger(tmp_path, "m")
    ledger.add(named("a.mp4"), "1")
    whole = (tmp_path / LEDGER).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
    try:
        with pytest.raises(
            StoreError, match=r"ledger.jsonl: cannot be written \(File too large; .* MB free\); free some"
        ):
            ledger.add(named("b.mp4"), "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / LEDGER).read_bytes() == whole
    ledger.add(named("b.mp4"), "1")
    assert ledger.read("b.mp4") == named("b.mp4")
    ledger.close()


def test_a_ledger_cut_short_by_another_program_is_said(tmp_path):
    ledger = Ledger(tmp_path, "m")
    ledger.add(named("a.mp4"), "1")
    (tmp_path / LEDGER).write_bytes(b"")
    with pytest.raises(StoreError, match=r"ledger.jsonl: became shorter while it was in use"):
        ledger.read("a.mp4")
    ledger.close()


def test_what_shards_answered_is_taken_over_once(tmp_path):
    (tmp_path / "s").mkdir()
    shard, main = Ledger(tmp_path / "s", "m"), Ledger(tmp_path, "m")
    shard.add(named("a", "shard"), "1")
    shard.add(named("b", "shard"), "1")
    shard.add(Answer("c", "failed", "hangs"), "1")
    shard.add(named("d", "shard"), "old")
    main.add(named("a", "main"), "1")
    main.add(Answer("b", "failed", "hangs"), "1")
    states = dict.fromkeys("abcd", "1")
    reader = LedgerReader(tmp_path / "s", "m")
    assert main.take_over(reader, states) == ["b", "c"]
    assert main.take_over(reader, states) == []
    assert [main.read(path).label for path in "ab"] == ["main", "shard"]
    assert main.last_status("c") == "failed"
    assert main.status("d", "1") is None
    for ledger in (shard, main, reader):
        ledger.close()
    assert LedgerReader(tmp_path / "none", "m").status("a", "1") is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcd"), st.sampled_from("12"), st.sampled_from(["ok", "failed"])),
        st.tuples(st.just("open"), st.sampled_from(["m1", "m2"])),
        st.tuples(st.just("tear"), st.integers(0, 60)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_the_last_whole_line_of_a_file_counts(tmp_path_factory, steps):
    """Beside a plain dictionary. A tear cuts into the last line, as a kill in the middle of writing does."""
    folder: Path = tmp_path_factory.mktemp("ledger")
    ledger, model_id = Ledger(folder, "m1"), "m1"
    latest: dict[str, tuple[str, str, Answer]] = {}
    added = ""
    for number, step in enumerate(steps):
        if step[0] == "add":
            added = step[1]
            answer = replace(named(added, f"label {number}"), status=step[3])
            ledger.add(answer, step[2])
            latest[added] = (model_id, step[2], answer)
        else:
            ledger.close()
            if step[0] == "tear" and added:
                (folder / LEDGER).write_bytes((folder / LEDGER).read_bytes()[: -2 - step[1]])
                latest.pop(added)  # an earlier line may be there, or was left out when the file was written anew
            model_id = step[1] if step[0] == "open" else model_id
            ledger = Ledger(folder, model_id)
            if step[0] == "tear" and added:
                ledger.add(named(added), "1")
                latest[added] = (model_id, "1", named(added))
    for path, (of_model, state, answer) in latest.items():
        for asked in "12":
            is_known = (of_model, state) == (model_id, asked)
            assert ledger.status(path, asked) == (answer.status if is_known else None)
            assert not is_known or ledger.read(path) == answer
    assert all(ledger.status(path, asked) is None for path in set("abcd") - set(latest) for asked in "12")
    ledger.close()
