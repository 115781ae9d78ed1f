"""`lrcn explain` on a built experiment: everything holds; each link broken on purpose is found and named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.explain.dvclock import file_md5, files_below, folder_listing, folder_md5
from pipeline.files import content_hash
from tests.conftest import ROOT, run_stage, untracked_in

pytestmark = pytest.mark.slow

NAME = "clip-rgb-fold1-seed0"
TRAINING = Path("artifacts/toy/trainings") / NAME
MODEL = TRAINING / "model"
TESTED, TRAINED, UNLABELLED = "left/g00.mp4", "right/g10.mp4", "long/g10.mp4"


@pytest.fixture(scope="module")
def answered(built_toy, tmp_path_factory) -> Path:
    """The built toy with a `dvc.lock`, and the answers for five files in `out`."""
    root = tmp_path_factory.mktemp("explain") / "toy"
    shutil.copytree(built_toy, root)
    with untracked_in(root):
        Path("inbox").mkdir()
        for number, video in enumerate((TESTED, TRAINED, UNLABELLED)):
            shutil.copyfile(f"media/toy/{video}", f"inbox/{number}.mp4")
        Path("inbox/text.mp4").write_text("no video\n")
        arguments = ["inbox", "gone.mp4", "--model", str(MODEL), "--out", "out"]
        assert cli.main(["predict", *arguments]) == 1
        shutil.copy(ROOT / ".dvcignore", ".")
        write_lock()
    return root


def write_lock() -> None:
    """What DVC would write of three stages; their hashes are made by code that a test compares with DVC's own."""

    def entry(path: str) -> dict[str, Any]:
        if Path(path).is_file():
            return {"path": path, "hash": "md5", "md5": file_md5(Path(path))}
        files = [{"md5": file_md5(Path(path, name)), "relpath": name} for name in files_below(Path(path))]
        size = sum(Path(path, file["relpath"]).stat().st_size for file in files)
        return {"path": path, "hash": "md5", "md5": folder_md5(files), "size": size, "nfiles": len(files)}

    root = "artifacts/toy"
    tables = [f"{root}/{name}.csv" for name in ("videos", "segments", "splits")]
    read = [f"{root}/features/shared", f"{root}/backbone/shared/backbone.safetensors"]
    stages = {
        "index@toy": {"deps": ["media/toy", "datasets/toy"], "outs": tables},
        "extract@toy-shared": {"deps": tables, "outs": [f"{root}/features/shared", f"{root}/backbone/shared"]},
        f"train@toy-{NAME}": {"deps": [*tables, *read], "outs": [str(TRAINING)]},
    }
    lock = {name: {kind: [entry(path) for path in paths] for kind, paths in s.items()} for name, s in stages.items()}
    lock[f"train@toy-{NAME}"]["params"] = {"configs/toy.yaml": {"seed": 0}}  # type: ignore[assignment]
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))


@pytest.fixture
def here(answered, tmp_path, monkeypatch) -> Path:
    """A copy as the working folder, its times kept; tracking is off, and nothing was fetched."""
    root = tmp_path / "toy"
    shutil.copytree(answered, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # A copy has another change time, which cannot be set: the ledger is told of the copies.
    ledger = Path("out/.ledger.jsonl")
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        status = os.stat(line["answer"]["path"])  # noqa: PTH116
        line["state"] = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    ledger.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    return root


@pytest.fixture
def explain(here, capsys) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """Run the command; its exit code, and all facts of its chains in one list."""

    def run(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        code = cli.main(["explain", *map(str, arguments), "--json"])
        facts, todo = [], json.loads(capsys.readouterr().out)["chains"]
        while todo:
            facts.append(fact := todo.pop(0))
            todo = fact.get("below", []) + todo
        return code, facts

    return run


def wrong(facts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {fact["name"]: fact for fact in facts if fact["state"] == "broken"}


def values(facts: list[dict[str, Any]], name: str) -> list[str]:
    return [fact.get("value", "") for fact in facts if fact["name"] == name]


def flip(path: Path | str, offset: int = -1) -> None:
    """Change one byte in place, the size staying as it is."""
    data = bytearray(Path(path).read_bytes())
    data[offset] ^= 1
    Path(path).write_bytes(data)


def test_from_a_prediction_to_the_videos_everything_holds(explain):
    code, facts = explain("out", "--videos")
    assert (code, wrong(facts)) == (0, {})
    assert values(facts, "results") == ["out: 5 files, 3 ok, 2 rejected"]
    held = {fact["name"] for fact in facts if fact["state"] == "holds"}
    tables = {f"artifacts/toy/{name}.csv" for name in ("videos", "segments", "splits")}
    links = {"out/model.yaml", "4 of 5 rows", "4 of 5 files", "model.safetensors", "fold.csv", "features key"}
    links |= {"settings (configs/toy.yaml)", f"this model is train@toy-{NAME}'s", f"train@toy-{NAME}", "index@toy"}
    assert links | tables | {"extract@toy-shared", "40 of 40 files"} <= held
    assert values(facts, "sides") == ["28 training, 4 validation, 8 test"]  # the clip task's, not the 20 recordings
    assert values(facts, "in the model's data") == [
        "1 of 5 files were trained on, 0 are validation videos, 1 test videos, 3 neither"
    ]
    assert values(facts, "inbox/1.mp4") == ["this file was trained on"]
    aside = {fact["name"]: fact["note"] for fact in facts if fact["state"] == "unchecked"}
    assert aside["run"].startswith("MLFLOW_TRACKING_URI is `off`")
    assert set(aside) == {"run", "commit", "gone.mp4", "1 rows"}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("inbox/0.mp4", "this file is one of the model's test videos (fold 1, test)"),
        ("inbox/1.mp4", "this file was trained on (fold 1, train)"),
        ("inbox/2.mp4", "no: none of its training, validation or test videos has this content"),
    ],
)
def test_one_file_is_told_apart_by_its_content(explain, file, words):
    code, facts = explain("out/results.csv", "--file", file)
    assert code == 0
    assert values(facts, "in the model's data") == [words]
    assert values(facts, "SHA-256") == [content_hash(file)]
    [place] = values(facts, "artifacts/toy/videos.csv")[:1]
    assert Path(place.split(",")[0]).parts[0] in ("left", "right", "long")


def replace_in(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def another_model() -> None:
    """Train the same name again with other settings, the results staying as they are."""
    shutil.rmtree("artifacts/toy/evaluations")
    replace_in("configs/toy.yaml", "clip: {hidden_size: 32, epochs: 30", "clip: {hidden_size: 8, epochs: 1")
    run_stage("train", "--task", "clip")


FAULTS: dict[str, tuple[Callable[[], object], str, str]] = {
    "a table": (lambda: flip("artifacts/toy/splits.csv"), "artifacts/toy/splits.csv", "dvc checkout"),
    "a table that is gone": (lambda: Path("artifacts/toy/segments.csv").unlink(), "artifacts/toy/segments.csv", "dvc"),
    "the weights": (lambda: flip(MODEL / "model.safetensors"), "model.safetensors", "damaged or was exchanged"),
    "the model's videos": (lambda: flip(MODEL / "fold.csv", 2), "fold.csv", "damaged or was exchanged"),
    "the CNN": (lambda: flip(MODEL / "backbone.safetensors"), "features key", "not the one that the network"),
    "the stored CNN": (
        lambda: flip("artifacts/toy/backbone/shared/backbone.safetensors"),
        "artifacts/toy/backbone/shared/backbone.safetensors",
        "trained anew since",
    ),
    "a feature file": (
        lambda: flip(feature_file()),
        "artifacts/toy/features/shared/",
        "run the extract stage again",
    ),
    "a video": (lambda: flip(f"media/toy/{TRAINED}"), f"media/toy/{TRAINED}", "put the file back"),
    "a video that is gone": (lambda: Path("media/toy", TESTED).unlink(), f"media/toy/{TESTED}", "put the file back"),
    "the lock": (
        lambda: replace_in("dvc.lock", file_md5(Path("artifacts/toy/videos.csv")), "0" * 32),
        "artifacts/toy/videos.csv",
        "dvc repro",
    ),
    "the card": (lambda: flip("datasets/toy/card.yaml", -2), "datasets/toy", "dvc repro"),
    "the settings": (
        lambda: replace_in("configs/toy.yaml", "lr: 0.01", "lr: 0.02"),
        "settings (configs/toy.yaml)",
        "put the values back",
    ),
    "another model under the name": (another_model, str(MODEL), "trained anew since, under the same name"),
    "a label in the results": (
        lambda: replace_in("out/results.csv", "inbox/0.mp4,ok,,left", "inbox/0.mp4,ok,,right"),
        "results.csv, row 3",
        "the file was edited",
    ),
    "a score in the lines": (
        lambda: replace_in("out/predictions.jsonl", '"frames": 11', '"frames": 12'),
        "predictions.jsonl, inbox/0.mp4",
        "the file was edited",
    ),
    "a row that was taken out": (
        lambda: replace_in("out/results.csv", row_of("inbox/1.mp4"), ""),
        "results.csv, inbox/1.mp4",
        "lrcn predict",
    ),
    "a row that was given twice": (
        lambda: replace_in("out/results.csv", row_of("inbox/1.mp4"), 2 * row_of("inbox/1.mp4")),
        "predictions.jsonl, inbox/1.mp4",
        "lrcn predict",
    ),
    "another description": (
        lambda: shutil.copyfile("artifacts/toy/trainings/frame-rgb-fold1-seed0/model/model.yaml", "out/model.yaml"),
        "out/model.yaml",
        "it was exchanged",
    ),
    "no description": (lambda: Path("out/model.yaml").unlink(), "out/model.yaml", "lrcn predict"),
    "a file that was answered for": (lambda: flip("inbox/1.mp4"), "inbox/1.mp4", "lrcn predict"),
    "a file that is gone": (lambda: Path("inbox/2.mp4").unlink(), "inbox/2.mp4", "put it back"),
}


def row_of(path: str) -> str:
    """The line of a file in results.csv."""
    return next(line for line in Path("out/results.csv").read_text().splitlines(True) if line.startswith(path))


def feature_file() -> Path:
    """Stored features of a training video, to be damaged where its numbers are."""
    return Path("artifacts/toy/features/shared") / f"{content_hash(f'media/toy/{TRAINED}')}.safetensors"


@pytest.mark.parametrize("fault", FAULTS)
def test_each_broken_link_is_found_and_named(explain, fault):
    damage, name, advice = FAULTS[fault]
    damage()
    code, facts = explain("out", "--videos")
    found = {key: fact for key, fact in wrong(facts).items() if key.startswith(name)}
    assert code == 1
    assert found, wrong(facts)
    assert any(advice in fact.get("note", "") for fact in facts if fact["name"].startswith(name))
    assert all(fact["expected"] != fact["found"] for fact in found.values())


def test_sure_that_was_edited_is_found(explain):
    [line] = [line for line in Path("out/results.csv").read_text().splitlines() if line.startswith("inbox/2.mp4")]
    assert ",no," in line
    replace_in("out/results.csv", line, line.replace(",no,", ",yes,"))
    code, facts = explain("out")
    assert code == 1
    assert wrong(facts)["results.csv, row 5"]["expected"] == "sure 'no'"


def test_without_videos_contents_are_said_not_to_be_read(explain):
    flip(feature_file())
    flip(f"media/toy/{TRAINED}")
    code, facts = explain(MODEL)
    assert (code, wrong(facts)) == (0, {})
    aside = {fact["name"]: fact["note"] for fact in facts if fact["state"] == "unchecked"}
    assert "--videos reads it" in aside["content"]
    assert "--videos reads them" in aside["40 files"]
    assert aside["media/toy"] == aside["artifacts/toy/features/shared"] == "not read; --videos reads it"
    with Path("media/toy", TRAINED).open("ab") as file:
        file.write(b"more")
    code, facts = explain(MODEL)
    assert code == 1
    assert {f"media/toy/{TRAINED}", "media/toy"} == set(wrong(facts))


def test_a_model_that_is_nowhere_is_missed_and_its_tables_still_checked(explain, monkeypatch, here):
    shutil.rmtree(TRAINING)
    code, facts = explain("out")
    assert code == 1  # dvc.lock has the model too
    aside = {fact["name"]: fact.get("note", "") for fact in facts if fact["state"] == "unchecked"}
    assert "not on this machine, and MLFLOW_TRACKING_URI is `off`" in aside["model folder"]
    assert [fact["state"] for fact in facts if fact["name"] == "artifacts/toy/videos.csv"] == ["holds"]


def test_a_copy_of_a_model_elsewhere_is_the_same_model(explain, here, tmp_path, monkeypatch):
    shutil.copytree(MODEL, tmp_path / "elsewhere/model")
    code, facts = explain(tmp_path / "elsewhere/model")
    assert (code, wrong(facts)) == (0, {})
    assert values(facts, str(MODEL)) == [content_hash(MODEL / "model.yaml")]
    this = f"this model is train@toy-{NAME}'s"
    md5 = folder_md5(folder_listing(TRAINING))
    assert values(facts, this) == [md5]
    shutil.copytree(MODEL, tmp_path / "other")
    flip(tmp_path / "other/fold.csv")
    other = wrong(explain(tmp_path / "other")[1])[this]
    assert other["expected"] == md5
    assert f"`dvc checkout {TRAINING}` has the model of dvc.lock back" in other["note"]
    TRAINING.rename("gone")
    (fact,) = [fact for fact in explain(tmp_path / "other")[1] if fact["name"] == this]
    assert fact["note"] == f"{TRAINING} is not here, nor its listing in DVC's cache"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, facts = explain(tmp_path / "elsewhere/model")
    assert (code, wrong(facts)) == (0, {})
    assert {fact["name"] for fact in facts if fact["state"] == "holds"} == {
        "model.safetensors", "backbone.safetensors", "fold.csv", "features key",
    }  # fmt: skip
    assert values(facts, "sides") == ["28 training, 4 validation, 8 test"]


def test_of_a_model_that_does_not_say_what_it_saw_its_own_tables_do(explain):
    (MODEL / "fold.csv").unlink()
    text = (MODEL / "model.yaml").read_text()
    (MODEL / "model.yaml").write_text("".join(line for line in text.splitlines(True) if "fold.csv" not in line))
    assert values(explain(MODEL)[1], "sides") == ["28 training, 4 validation, 8 test"]
    with Path("artifacts/toy/splits.csv").open("a") as file:
        file.write("left/g00.mp4,2,train\n")
    code, facts = explain(MODEL)
    assert code == 1
    assert "artifacts/toy/splits.csv" in wrong(facts)
    assert [fact["state"] for fact in facts if fact["name"] == "sides"] == ["unchecked"]


def test_a_setting_that_the_model_had_and_the_file_has_not_is_found(explain):
    replace_in(f"{MODEL}/model.yaml", "finetune: null", "finetune: {epochs: 3}")
    code, facts = explain(MODEL)
    assert code == 1
    assert wrong(facts)["settings (configs/toy.yaml)"]["expected"] == "finetune.epochs: 3"


def test_from_a_prediction_of_an_evaluation_to_the_model(explain):
    evaluation = f"artifacts/toy/evaluations/{NAME}"
    lock = json.loads(Path("dvc.lock").read_text())
    out = {"path": evaluation, "hash": "md5", "md5": folder_md5(folder_listing(Path(evaluation)))}
    lock["stages"][f"evaluate@toy-{NAME}"] = {"deps": [], "outs": [out]}
    Path("dvc.lock").write_text(json.dumps(lock))
    code, facts = explain(f"{evaluation}/predictions.csv")
    assert (code, wrong(facts)) == (0, {})
    assert values(facts, "evaluation") == [evaluation]
    assert values(facts, "model") == [str(MODEL)]
    flip(f"{evaluation}/predictions.csv", -2)
    code, facts = explain(evaluation)
    assert (code, list(wrong(facts))) == (1, [evaluation])


def test_back_from_a_video_to_tables_models_and_answers(explain):
    code, facts = explain(f"media/toy/{TRAINED}", "--results", "out")
    assert code == 0
    assert values(facts, "artifacts/toy/videos.csv") == [f"{TRAINED}, label right, group g10: fold 1 training"]
    assert values(facts, str(MODEL)) == ["trained on it"]
    assert values(facts, "artifacts/toy/trainings/frame-rgb-fold1-seed0/model") == []  # a clip has no segments
    assert [value.split(":")[0] for value in values(facts, "results.csv, row 4")] == ["inbox/1.mp4"]
    flip(f"media/toy/{TRAINED}")
    code, facts = explain(f"media/toy/{TRAINED}")
    assert code == 1
    assert list(wrong(facts)) == [f"artifacts/toy/videos.csv, {TRAINED}"]
    assert values(facts, "models") == ["0 of 2 have it in their fold"]


def test_a_training_is_found_by_its_name_and_what_is_unknown_is_refused(explain, capsys):
    by_name = explain(NAME)
    assert by_name == explain(TRAINING) == explain(f"toy/{NAME}") == explain(MODEL)
    assert by_name == explain(MODEL / "model.yaml")
    for what, words in {
        "nothing": "no training here is of such a run, and MLflow cannot be asked",
        "media": "a folder of neither results nor a model; expected",
        "models:/toy@champion": "MLFLOW_TRACKING_URI is `off`",
    }.items():
        assert cli.main(["explain", what]) == 2
        assert words in capsys.readouterr().err
    assert cli.main(["explain", "out", "--file", "inbox/9.mp4"]) == 2
    assert "no row for inbox/9.mp4" in capsys.readouterr().err
    assert cli.main(["explain", str(MODEL), "--results", "out"]) == 2
    assert "--results names answers for a video" in capsys.readouterr().err
    assert cli.main(["explain", str(MODEL), "--file", "inbox/0.mp4"]) == 2
    assert "--file names a row of a folder of results" in capsys.readouterr().err


def test_a_folder_trained_again_on_the_same_inputs_is_the_same_to_the_byte(here, monkeypatch):
    before = {path.name: path.read_bytes() for path in MODEL.iterdir()}
    shutil.rmtree(TRAINING)
    replace_in("configs/toy.yaml", "num_seeds: 1", "num_seeds: 2")  # concerns other trainings
    monkeypatch.setenv("DVC_EXP_NAME", "lusty-newt")
    run_stage("train", "--task", "clip")
    assert {path.name: path.read_bytes() for path in MODEL.iterdir()} == before
