"""The parts of `lrcn explain` by known answers: the chain as text, DVC's hashes, its lock file, a model's own fold."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import DataError, ModelError
from pipeline.explain.dvclock import LOCK, DvcLock, differences, file_md5, files_below, folder_md5
from pipeline.explain.facts import MAX_SHOWN, Fact, broken, compared, counts, holds, some_of, unchecked
from pipeline.files import HASHES, content_hash, write_table
from pipeline.models.modelfolder import save_model
from pipeline.models.modelspec import FoldVideo, read_fold, verify_model
from tests.conftest import ROOT
from tests.unit.test_modelfolder import make

# `dvc add f` (3.67.1) of four files: md5 of the folder, and of each file as in DVC's listing.
DVC_FOLDER = "77882ad852c0286c382d714bf56ae951.dir"
DVC_FILES = {"b.txt": "5bbf5a52328e7439ae6e719dfe712200", "sub/a.txt": "c193497a1a06b2c72230e6146ff47080"}
DVC_FILES |= {"B": "9dd4e461268c8034f5c8564e155c67a6", "ä/B c.txt": "febe6995bad457991331348f7b9c85fa"}


def write_files(root: Path) -> Path:
    for name, text in {"b.txt": "one\n", "sub/a.txt": "two\n", "ä/B c.txt": "three\n", "B": "x"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def listing(folder: Path) -> list[dict[str, str]]:
    return [{"md5": file_md5(folder / name), "relpath": name} for name in files_below(folder)]


def test_the_chain_as_text():
    chain = Fact("model", "m").add(
        holds("weights", "ab12").add(Fact("kept")),
        compared("table", expected="1", found="2", advice="put it back"),
        unchecked("run", reason="no server"),
    )
    assert list(chain.lines()) == [
        "model: m",
        "  weights: ab12  holds",
        "    kept",
        "  table  DOES NOT HOLD: expected 1, found 2; put it back",
        "  run  not checked: no server",
    ]
    assert counts(chain) == {"holds": 1, "broken": 1, "unchecked": 1}
    assert chain.to_json()["below"][1] == {
        "name": "table", "state": "broken", "expected": "1", "found": "2", "note": "put it back",
    }  # fmt: skip


def test_of_many_wrong_facts_the_first_are_shown_and_the_others_counted():
    facts = [broken(str(number), expected="a", found="b", advice="c") for number in range(MAX_SHOWN + 3)]
    shown = some_of(facts)
    assert shown[:MAX_SHOWN] == facts[:MAX_SHOWN]
    assert [fact.name for fact in shown[MAX_SHOWN:]] == ["3 more"]
    assert shown[-1].state == "broken"
    assert some_of([unchecked(str(number), reason="r") for number in range(MAX_SHOWN + 1)])[-1].state == "unchecked"
    assert some_of(facts[:MAX_SHOWN]) == facts[:MAX_SHOWN]


def test_hashes_are_those_of_dvc(tmp_path):
    folder = write_files(tmp_path / "f")
    assert {item["relpath"]: item["md5"] for item in listing(folder)} == DVC_FILES
    assert folder_md5(listing(folder)) == DVC_FOLDER


def test_what_differs_between_two_listings_is_named():
    before = [{"relpath": name, "md5": name} for name in "abc"]
    now = [{"relpath": "a", "md5": "A"}, {"relpath": "b", "md5": "b"}, {"relpath": "d", "md5": "d"}]
    assert differences(before, now) == "changed: a; missing: c; new: d"


@pytest.fixture
def lock(tmp_path, monkeypatch) -> Path:
    """Two stages: one makes a folder and stored features, the other reads both and a parameter."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "f")
    write_files(tmp_path / "artifacts/x/features/shared")
    (tmp_path / "code.py").write_text("pass\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/x.yaml").write_text("train: {clip: {lr: 0.5}}\n")
    made = [
        {"path": "f", "hash": "md5", "md5": DVC_FOLDER, "size": 15, "nfiles": 4},
        {"path": "artifacts/x/features/shared", "hash": "md5", "md5": DVC_FOLDER, "size": 15, "nfiles": 4},
    ]
    code = {"path": "code.py", "hash": "md5", "md5": file_md5(Path("code.py"))}
    stages = {
        "extract@x": {"deps": [code], "outs": made},
        "train@x": {
            "deps": [code, *made],
            "params": {"configs/x.yaml": {"train.clip": {"lr": 0.5}}},
            "outs": [{"path": "code.py", "hash": "md5", "md5": file_md5(Path("code.py"))}],
        },
    }
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))  # JSON is YAML
    return tmp_path


def states(fact: Fact) -> dict[str, str]:
    return {one.name: one.state for one in fact.below}


def test_a_lock_that_holds_and_stores_that_are_only_counted(lock):
    dvc = DvcLock.read()
    assert dvc.stage_of(Path("f")) == "extract@x"
    assert dvc.stage_of(Path("elsewhere")) is None
    assert dvc.upstream("train@x") == ["extract@x"]
    fact = dvc.facts("train@x")
    assert fact.value.startswith("4 of 5 ")
    assert states(fact) == {"artifacts/x/features/shared": "unchecked"}
    whole = DvcLock.read(read_videos=True).facts("train@x")
    assert (whole.state, whole.below) == ("holds", [])


def test_a_stage_is_found_by_what_lies_in_its_folder(lock):
    text = json.loads(LOCK.read_text())
    text["stages"]["train@x"]["deps"] = [{"path": "f/sub/a.txt", "hash": "md5", "md5": "0" * 32}]
    LOCK.write_text(json.dumps(text))
    dvc = DvcLock.read()
    assert dvc.stage_of(Path("f/sub/a.txt")) == dvc.stage_of(Path("f/none")) == "extract@x"
    assert dvc.stage_of(Path("ff")) is None
    assert dvc.out("extract@x", Path("f/sub"))["path"] == "f"
    assert dvc.upstream("train@x") == ["extract@x"]


@pytest.mark.parametrize("what", ["f/sub/a.txt", "code.py", "configs/x.yaml", "artifacts/x/features/shared/B", "gone"])
def test_each_thing_that_is_not_as_in_the_lock_is_named(lock, what):
    names = {"f/sub/a.txt": "f", "configs/x.yaml": "configs/x.yaml: train.clip", "gone": "f"}
    if what == "configs/x.yaml":
        (lock / what).write_text("train: {clip: {lr: 0.25}}\n")
    elif what == "gone":
        (lock / "f").rename(lock / "g")
    else:
        (lock / what).write_text("2")
    fact = DvcLock.read(read_videos=True).facts("extract@x" if what == "gone" else "train@x")
    name = names.get(what, what if what == "code.py" else "artifacts/x/features/shared")
    assert states(fact)[name] == "broken"
    assert set(states(fact)) <= {name, "code.py"}


def test_a_folder_of_another_number_of_files_is_found_without_reading_it(lock):
    (lock / "artifacts/x/features/shared/new").write_text("n")
    [fact] = DvcLock.read().facts("train@x").below
    assert (fact.state, fact.expected, fact.found) == ("broken", "4 files, 15 bytes", "5 files, 16 bytes")


def test_the_files_that_differ_are_named_where_dvc_keeps_the_listing(lock):
    cached = lock / ".dvc/cache/files/md5" / DVC_FOLDER[:2] / DVC_FOLDER[2:]
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps(listing(lock / "f")))
    (lock / "f/b.txt").write_text("1")
    [fact] = [fact for fact in DvcLock.read().facts("train@x").below if fact.name == "f"]
    assert "changed: b.txt" in fact.found
    (lock / ".dvcignore").write_text("# a comment\n*.log\n")
    [fact] = [fact for fact in DvcLock.read().facts("train@x").below if fact.name == "f"]
    assert fact.state == "unchecked"


def test_the_code_of_a_stage_is_compared_by_its_table_and_other_code_is_not(lock):
    (lock / "pipeline").mkdir()
    for name in "abc":
        (lock / f"pipeline/{name}.py").write_text(name)
    table = Path("artifacts/code/extract.csv")
    write_table(table, HASHES, [[f"pipeline/{name}.py", content_hash(f"pipeline/{name}.py")] for name in "ab"])
    text, entry = json.loads(LOCK.read_text()), {"path": str(table), "hash": "md5", "md5": file_md5(table)}
    text["stages"]["extract@x"]["deps"].append(entry)
    text["stages"]["code"] = {"deps": [{"path": "pipeline", "hash": "md5", "md5": f"{0:032}.dir"}], "outs": [entry]}
    LOCK.write_text(json.dumps(text))
    (lock / "pipeline/c.py").write_text("other")
    dvc = DvcLock.read(read_videos=True)
    assert "code" not in dvc.upstream("extract@x")
    assert dvc.facts("extract@x").state == "holds"
    (lock / "pipeline/a.py").write_text("other")
    (lock / "pipeline/b.py").unlink()
    [fact] = DvcLock.read(read_videos=True).facts("extract@x").below
    assert (fact.name, fact.found) == (f"code ({table})", "2 that differ: pipeline/a.py, pipeline/b.py")
    table.write_text("path,sha256\n")
    [fact] = DvcLock.read(read_videos=True).facts("extract@x").below
    assert (fact.name, fact.expected) == (str(table), entry["md5"])


def test_what_dvcignore_names_is_left_out_and_what_differs_beside_it_is_found(lock):
    shutil.copy(ROOT / ".dvcignore", lock)
    (lock / "f/sub/__pycache__").mkdir()
    (lock / "f/sub/__pycache__/a.pyc").write_text("compiled")
    assert "f" not in states(DvcLock.read().facts("train@x"))
    (lock / "f/b.txt").write_text("1")
    assert states(DvcLock.read().facts("train@x"))["f"] == "broken"


def test_what_is_no_lock_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"dvc\.lock"):
        DvcLock.read()
    for text in ("stages: [", "stages: {a: {deps: [x]}}", "other: 1"):
        Path("dvc.lock").write_text(text)
        with pytest.raises(DataError, match=r"dvc\.lock: not a lock file of DVC"):
            DvcLock.read()


@pytest.fixture
def model(tmp_path) -> Path:
    save_file({"w": torch.zeros(3)}, tmp_path / "backbone.safetensors")
    fold = [FoldVideo("b" * 64, 7, "train"), FoldVideo("a" * 64, 8, "train"), FoldVideo("c" * 64, 9, "test")]
    save_model(tmp_path / "model", make(), tmp_path / "backbone.safetensors", fold)
    return tmp_path / "model"


def test_a_model_knows_the_videos_of_its_fold(model, tmp_path):
    text = (model / "fold.csv").read_text()
    assert text == f"sha256,size_bytes,split\n{'c' * 64},9,test\n{'a' * 64},8,train\n{'b' * 64},7,train\n"
    assert read_fold(model) == [
        FoldVideo("c" * 64, 9, "test"), FoldVideo("a" * 64, 8, "train"), FoldVideo("b" * 64, 7, "train"),
    ]  # fmt: skip
    verify_model(model)
    assert read_fold(tmp_path) is None


def test_a_fold_that_was_edited_is_no_model_any_more(model):
    text = (model / "fold.csv").read_text()
    (model / "fold.csv").write_text(text.replace(",train", ",test"))
    with pytest.raises(ModelError, match=r"fold\.csv: its SHA-256 is not the one in model\.yaml"):
        verify_model(model)
    (model / "fold.csv").write_text(text.replace(",train", ",left"))
    with pytest.raises(ModelError, match="split is 'left'; expected one of train, val, test"):
        read_fold(model)
    (model / "fold.csv").unlink()
    with pytest.raises(ModelError, match=r"fold\.csv is missing"):
        verify_model(model)


def test_a_description_that_names_files_elsewhere_is_refused(model):
    description = (model / "model.yaml").read_text()
    (model / "model.yaml").write_text(description.replace("fold.csv", "../fold.csv"))
    with pytest.raises(ModelError, match=r"names a file '\.\./fold\.csv'"):
        verify_model(model)
