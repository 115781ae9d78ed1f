"""Parts of a list of videos: which are whose, and who may write beside whom."""

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import cli, remote
from pipeline.errors import StoreError
from pipeline.files import LOCK_NAME, locked
from pipeline.inference.answers import Answer
from pipeline.inference.inputs import Inputs
from pipeline.inference.ledger import Ledger
from pipeline.inference.shards import borrow, inputs_of_shard
from pipeline.shards import SHARDS, Shard, forget_shards, shard, writing
from tests.conftest import describe_toy

SIZES = st.dictionaries(st.text(max_size=8), st.none() | st.integers(0, 10**6), max_size=60)
IN_HASH_ORDER = "dfcbea"  # $ for x in a b c d e f; do echo $(printf $x | sha256sum | cut -c1-6) $x; done | sort


def parts(sizes: dict[str, int | None], count: int) -> list[set[str]]:
    return [Shard(number, count).of(sizes) for number in range(1, count + 1)]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, count=st.integers(1, 12))
def test_parts_are_disjoint_and_complete_whatever_the_order_of_the_list(sizes, count):
    found = parts(sizes, count)
    assert sum(map(len, found)) == len(sizes)
    assert set().union(*found) == set(sizes)
    assert parts(dict(reversed(sizes.items())), count) == found


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.dictionaries(st.text(max_size=8), st.integers(1, 1000), min_size=1, max_size=60), count=st.integers(1, 40)
)
def test_no_part_is_further_from_an_equal_share_than_the_largest_video(sizes, count):
    share, largest = sum(sizes.values()) / count, max(sizes.values())
    for part in parts(sizes, count):
        assert abs(sum(sizes[key] for key in part) - share) <= largest


def test_videos_stand_in_the_order_of_their_hashes_each_as_long_as_it_is():
    """Mutants: by its beginning "b" belongs to the first part of the last line, by its end "c" to the second."""
    sizes = dict.fromkeys(IN_HASH_ORDER, 10)
    assert parts(sizes, 3) == [set("df"), set("cb"), set("ea")]
    assert parts({**sizes, "d": 50}, 2) == [{"d"}, set("fcbea")]
    for longest in "bc":  # from 30 to 130, or from 20 to 120, of 150
        assert parts({**sizes, longest: 100}, 2) == [set("dfc"), set("bea")]


def test_an_unknown_size_is_that_of_a_usual_video():
    sizes = {f"{number}.mp4": None if number % 2 else 1000 for number in range(400)}
    assert parts(sizes, 4) == parts(dict.fromkeys(sizes, 1000), 4)
    assert parts(dict.fromkeys(sizes), 4) == parts(dict.fromkeys(sizes, 1), 4)
    assert min(map(len, parts(dict.fromkeys(sizes, 0), 4))) > 90  # empty files


def test_new_videos_move_few_others():
    sizes = {f"inbox/{number}.mp4": 100 + number % 700 for number in range(4000)}
    before = parts(sizes, 8)
    sizes |= {f"new/{number}.mp4": 300 for number in range(20)} | {"caf\udce9.mp4": 300}
    moved = sum(len(part - now) for part, now in zip(before, parts(sizes, 8), strict=True))
    assert 0 < moved < 60


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1/0", "-1/3", "1/3/5", "", "1.5/3", "\u0661/\u0663"])
@pytest.mark.parametrize("command", [
    ["predict", "a.mp4", "--model", "m", "--out", "o"],
    ["extract", "a.mp4", "--backbone", "b", "--fps", "5", "--out", "o"],
    ["extract", "--config", "configs/toy.yaml"],
    ["decode", "--config", "configs/toy.yaml"],
])  # fmt: skip
def test_impossible_shards_are_refused(text, command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, f"--shard={text}"])
    assert caught.value.code == 2
    assert f"{text!r} is no shard; expected I/N with I from 1 to N, such as 2/8" in capsys.readouterr().err
    assert shard("3/3") == Shard(3, 3)


@pytest.mark.parametrize("stage", ["decode", "extract"])
def test_ready_made_features_are_not_shared_out(tmp_path, monkeypatch, capsys, stage):
    describe_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = Path("configs/toy.yaml")
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("backbone", "view"))]
    given = ["backbone: null", "view: {fps: 10.0, short_side: 0, crop: 0}"]
    config.write_text("\n".join([*given, *lines]) + "\n")
    assert cli.main([stage, "--config", "configs/toy.yaml", "--shard", "1/2"]) == 2
    assert "--shard 1/2: configs/toy.yaml has ready-made features, which nobody shares out" in capsys.readouterr().err


def test_files_count_by_their_bytes_and_what_is_no_file_as_a_usual_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [f"{number}.mp4" for number in range(30)]
    for number, path in enumerate(paths[:20]):
        Path(path).write_bytes(bytes(50 * (number + 1)))
    inputs = Inputs(paths, {paths[25]: "no such file"}, ["a note"])
    sizes = {path: Path(path).stat().st_size if Path(path).exists() else None for path in paths}
    for number in (1, 2, 3):
        part = inputs_of_shard(inputs, Shard(number, 3))
        assert part.paths == [path for path in paths if path in Shard(number, 3).of(sizes)]
        assert part.reasons == ({paths[25]: "no such file"} if paths[25] in part.paths else {})


def test_objects_count_by_the_bytes_that_a_listing_stated(monkeypatch):
    """Mutant: each counts the same, as what is no file does; then the parts get 0, 0, 1 and 3 of the large ones."""
    monkeypatch.setattr(remote, "_states", {})
    paths = [f"s3://bucket/{number}.mp4" for number in range(40)]
    sizes: dict[str, int | None] = {path: 10**9 if number % 10 == 5 else 10**6 for number, path in enumerate(paths)}
    sizes[paths[30]] = None
    for path, size in sizes.items():
        remote.heard(path, None if size is None else f"{size} tag:x")
    found = [inputs_of_shard(Inputs(paths, {}, []), Shard(number, 4)).paths for number in (1, 2, 3, 4)]
    assert list(map(set, found)) == parts(sizes, 4)
    assert [len(set(paths[5::10]) & set(part)) for part in found] == [1, 1, 1, 1]


# Who may write beside whom


def test_shards_write_side_by_side_and_nobody_beside_them(tmp_path):
    with writing(tmp_path, Shard(1, 3)), writing(tmp_path, Shard(3, 3)):
        pass
    with writing(tmp_path, Shard(1, 3)):
        with writing(tmp_path, Shard(3, 3)):
            pass
        with pytest.raises(StoreError, match=rf"one of several writers \(process {os.getpid()} on .+ was the last"):
            writing(tmp_path, None).__enter__()
    assert not (tmp_path / LOCK_NAME).exists()
    with writing(tmp_path, None):
        forget_shards(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK_NAME]


def test_a_shard_is_told_who_has_its_store_or_its_part(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.shards.SECONDS_TO_BEGIN", 0.1)
    with writing(tmp_path, None), pytest.raises(StoreError, match=rf"^{tmp_path}: process {os.getpid()} on .+ is wri"):
        writing(tmp_path, Shard(1, 3)).__enter__()
    with writing(tmp_path, Shard(1, 3)):
        with pytest.raises(StoreError, match=rf"{SHARDS}/1-of-3: process {os.getpid()} on .+ is writing there; wait"):
            writing(tmp_path, Shard(1, 3)).__enter__()
        with pytest.raises(StoreError, match="one of several writers"):
            locked(tmp_path).__enter__()
    with writing(tmp_path, Shard(1, 3)):
        pass


def test_a_shard_waits_for_another_that_is_looking_whether_it_was_the_last(tmp_path):
    """For which it has the lock for itself. Mutant: SECONDS_TO_BEGIN of 0."""
    holder = ExitStack()
    holder.enter_context(locked(tmp_path))
    ending = threading.Timer(0.2, holder.close)
    ending.start()
    with writing(tmp_path, Shard(1, 3)):
        ending.join()


def test_a_shard_borrows_what_was_gathered_and_what_others_say(tmp_path):
    """Of a file that has come to it from another part, while that one's ledger is being written."""
    own = Shard(1, 2).folder(tmp_path)
    ledgers = {}
    for name, folder in {"main": tmp_path, "own": own, "other": Shard(2, 2).folder(tmp_path)}.items():
        folder.mkdir(parents=True, exist_ok=True)
        ledgers[name] = Ledger(folder, "m")
    for name, path in (("main", "a"), ("own", "b"), ("other", "b"), ("other", "c"), ("other", "d")):
        ledgers[name].add(Answer(path, "ok", label=name), "1")
    with (Shard(2, 2).folder(tmp_path) / ledgers["other"].path.name).open("ab") as file:
        file.write(b'{"model": "m", "state": "1", "timest')  # the line it is at
    borrow(tmp_path, own, ledgers["own"], {"a": "1", "b": "1", "c": "1", "d": "2", "e": "1"})
    assert [ledgers["own"].status(path, "1") for path in "abcde"] == ["ok", "ok", "ok", None, None]
    assert [ledgers["own"].read(path).label for path in "abc"] == ["main", "own", "other"]
    for ledger in ledgers.values():
        ledger.close()
