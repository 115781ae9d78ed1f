"""Models by address: what each form leads to, what is fetched when, and what is said when it cannot be had."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import cli, modelstore, trackingstore
from pipeline.errors import ModelError, StoreError
from pipeline.models.modelfolder import Model
from pipeline.modelstore import cache_folder, model_folder
from pipeline.tracking import Run
from tests.mlflowservers import silent_server

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.fixture
def logged(uri: str, make_model: Callable[..., Model]) -> Any:
    """A model in MLflow, version 1 or above of a name that is champion."""
    import mlflow

    folder = make_model("clip").folder
    assert folder
    with Run.start("demo", "clip", {}, {}, uri) as run:
        address = run.log_model(folder, registered_name="store-clip")
    client = mlflow.MlflowClient(uri, uri)
    version = max(int(found.version) for found in client.search_model_versions("name='store-clip'"))
    client.set_registered_model_alias("store-clip", "champion", str(version))
    return SimpleNamespace(folder=folder, address=address, run_id=run.run_id, version=version, client=client)


def yaml_of(folder: Path) -> bytes:
    return (folder / "model.yaml").read_bytes()


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("asked MLflow for something")


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert model_folder(tmp_path / "m") == tmp_path / "m"
    assert model_folder("some/m") == Path("some/m")


def test_every_form_leads_to_the_same_files_fetched_once(
    logged: Any, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = logged.address.removeprefix("models:/")
    folder = model_folder("models:/store-clip@champion", uri)
    assert folder == cache_folder() / key
    assert sorted(path.name for path in folder.iterdir()) == ["backbone.safetensors", "model.safetensors", "model.yaml"]
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in logged.folder.iterdir())
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", refuse)
    for address in (
        "models:/store-clip@champion",
        f"models:/store-clip/{logged.version}",
        f"runs:/{logged.run_id}/model",
        logged.address,
    ):
        assert model_folder(address, uri) == folder
    assert [path.name for path in cache_folder().iterdir()] == [key]


@pytest.mark.slow
def test_an_alias_that_moved_is_seen_at_once(logged: Any, uri: str, make_model: Callable[..., Model]) -> None:
    first = model_folder("models:/store-clip@champion", uri)
    other = make_model("clip", seed=1).folder
    assert other
    with Run.start("demo", "clip", {}, {}, uri) as run:
        run.log_model(other, registered_name="store-clip")
    assert model_folder("models:/store-clip@champion", uri) == first
    logged.client.set_registered_model_alias("store-clip", "champion", str(logged.version + 1))
    second = model_folder("models:/store-clip@champion", uri)
    assert yaml_of(second) == yaml_of(other) != yaml_of(first)


@pytest.mark.slow
def test_of_a_runs_models_the_one_logged_last_counts(logged: Any, uri: str, make_model: Callable[..., Model]) -> None:
    other = make_model("clip", seed=1).folder
    assert other
    with Run.resume(logged.run_id, uri, experiment="demo", name="clip") as run:
        time.sleep(0.002)  # the time of logging is kept in milliseconds
        run.log_model(other)
    assert yaml_of(model_folder(f"runs:/{logged.run_id}/model", uri)) == yaml_of(other)


@pytest.mark.slow
def test_a_model_by_its_id_needs_no_server_once_it_is_there(logged: Any, uri: str) -> None:
    away = "http://127.0.0.1:9"
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9: no answer; "):
        model_folder(logged.address, away)
    folder = model_folder(logged.address, uri)
    assert model_folder(logged.address, away) == folder
    with pytest.raises(ModelError, match=r"no answer; .* or models:/m-ID that was fetched before"):
        model_folder("models:/store-clip@champion", away)


@pytest.mark.slow
def test_a_damaged_copy_is_fetched_again(logged: Any, uri: str) -> None:
    folder = model_folder(logged.address, uri)
    (folder / "model.safetensors").write_bytes(b"half")
    assert model_folder(logged.address, uri) == folder
    assert (folder / "model.safetensors").read_bytes() == (logged.folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_download_that_breaks_off_leaves_nothing(logged: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import artifacts

    download = artifacts.download_artifacts

    def break_off(artifact_uri: str, **options: Any) -> str:
        got = download(artifact_uri=artifact_uri, **options)
        if not artifact_uri.endswith("MLmodel"):
            Path(got, "backbone.safetensors").unlink()
            raise OSError(5, "Input/output error")
        return got

    monkeypatch.setattr(artifacts, "download_artifacts", lambda uri, **options: break_off(uri, **options))
    with pytest.raises(ModelError, match="Input/output error"):
        model_folder(logged.address, uri)
    assert list(cache_folder().iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_named(logged: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", full)
    with pytest.raises(StoreError, match="cannot be written"):
        model_folder(logged.address, uri)


@pytest.mark.slow
def test_a_model_damaged_in_the_store_is_not_kept(logged: Any, uri: str) -> None:
    location = logged.client.get_logged_model(logged.address.removeprefix("models:/")).artifact_location
    stored = next(Path(location.removeprefix("file://").replace("%20", " ")).rglob("model.safetensors"))
    stored.write_bytes(b"other")
    with pytest.raises(ModelError, match=rf"{logged.address}/model.safetensors: its SHA-256 is not the one"):
        model_folder(logged.address, uri)
    assert list(cache_folder().iterdir()) == []


@pytest.mark.slow
def test_downloads_that_were_killed_long_ago_are_removed(logged: Any, uri: str) -> None:
    for name, age in ((".m-1.a.tmp", 1e6), (".m-2.b.tmp", 10.0)):
        (cache_folder() / name).mkdir(parents=True)
        os.utime(cache_folder() / name, (time.time() - age,) * 2)
    model_folder(logged.address, uri)
    assert sorted(path.name[:4] for path in cache_folder().iterdir()) == [".m-2", "m-" + logged.address[10:12]]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "models:/nobody@champion",
            r"models:/nobody@champion: not found in sqlite:.*nobody.*expected models:/NAME@ALIAS",
        ),
        ("models:/nobody/3", "models:/nobody/3: not found"),
        ("models:/m-00000000000000000000000000000000", "not found"),
        ("models:/nobody/Production", "not an address of a model; expected models:/NAME@ALIAS"),
        ("models:/a/b/c", "not an address of a model"),
        ("models:/", "not found"),
        ("runs:/00000000000000000000000000000000/model", "not found"),
        ("runs:/00000000000000000000000000000000", "expected runs:/RUN_ID/NAME"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(uri: str, address: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        model_folder(address, uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["models:demo@champion", "Models:/demo/3", "s3://bucket/model", "run:/1/model"])
def test_what_looks_like_an_address_is_no_folder(address: str) -> None:
    with pytest.raises(
        ModelError, match=f"^{address}: no such folder, and not an address of a model; expected models:"
    ):
        model_folder(address)


def found_at(location: str) -> Callable[..., Any]:
    return lambda client, address: modelstore._Found("m-" + "0" * 32, location)


def test_a_store_that_needs_another_package_names_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelstore, "_look_up", found_at("s3://bucket/model"))
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(ModelError, match=r"a package that is not installed \(.*boto.*\); install it, or name a model"):
        model_folder("models:/a@b", uri)


def test_a_cache_that_cannot_be_written_is_named(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelstore, "_look_up", found_at("/nowhere"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        ModelError, match=r"file/lrcn-pipeline/models: cannot be written \(Not a directory\).*XDG_CACHE"
    ):
        model_folder("models:/a@b", uri)


@pytest.mark.slow
def test_a_runs_other_models_are_named(logged: Any, uri: str) -> None:
    with pytest.raises(ModelError, match=r"has no model of this name; expected one of its models: model$"):
        model_folder(f"runs:/{logged.run_id}/modle", uri)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flavors: {python_function: {loader_module: mlflow.sklearn}}", "not a model of this package"),
        ("flavors: [", "not a model of this package"),
        ("flavors: {python_function: {artifacts: {model: {path: ../../etc}}}}", "leads out of the model"),
        ("flavors: {python_function: {artifacts: {model: {path: /etc}}}}", "leads out of the model"),
    ],
)
def test_other_peoples_models_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(ModelError, match=message):
        modelstore._path_inside("models:/x/1", tmp_path / "MLmodel")


def test_without_a_place_to_look_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"champion: .*mlflow.db: no such database, .*; or name a model folder"):
        model_folder("models:/demo@champion")
    assert not list(tmp_path.glob("mlflow.db*"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with pytest.raises(ModelError, match="MLFLOW_TRACKING_URI is `off`"):
        model_folder("models:/demo@champion")


def test_passwords_are_not_printed() -> None:
    with pytest.raises(ModelError, match=r"champion: http://127.0.0.1:9: no answer; .*; or name a model folder"):
        model_folder("models:/demo@champion", "http://me:secret@127.0.0.1:9")


def test_passwords_in_what_mlflow_says_are_not_printed(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(client: Any, address: str) -> Path:
        raise OSError("API request to http://me:secret@host/api/2.0 failed")

    monkeypatch.setattr(modelstore, "_look_up", fails)
    with pytest.raises(ModelError, match=r"\(API request to http://host/api/2.0 failed\)"):
        model_folder("models:/demo@champion", uri)


def test_a_silent_server_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackingstore, "PROBE_SECONDS", 0.2)
    with silent_server() as (port, taken):
        with pytest.raises(ModelError, match="no answer"):
            model_folder("models:/demo@champion", f"http://127.0.0.1:{port}")
        assert len(taken) == 1


@pytest.mark.parametrize("command", ["predict", "probe"])
def test_the_commands_end_with_two(command: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    (tmp_path / "a.mp4").write_bytes(b"")
    code = cli.main([command, str(tmp_path), "--model", "models:/demo@champion", "--out", str(tmp_path / "out")])
    assert code == 2
    assert f"models:/demo@champion: {tmp_path}/none.db: no such database" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_predict_takes_an_address_and_shares_its_answers_with_the_folder(
    logged: Any, uri: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    import numpy as np

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    np.save(tmp_path / "a.npy", np.ones((9, 5), np.float32))
    arguments = [str(tmp_path / "a.npy"), "--out", str(tmp_path / "out"), "--device", "cpu", "--precision", "0.8"]
    assert cli.main(["predict", *arguments, "--model", "models:/store-clip@champion"]) == 0
    assert "1 looked at now" in capsys.readouterr().out
    assert cli.main(["predict", *arguments, "--model", str(logged.folder)]) == 0
    assert "0 looked at now" in capsys.readouterr().out


# The door


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, pipeline; sys.exit(bool({'torch', 'av', 'cv2', 'mlflow', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_the_recognizer_is_found_in_the_package() -> None:
    import pipeline
    from pipeline import Recognizer
    from pipeline.inference import recognizer

    assert Recognizer is recognizer.Recognizer
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'Recogniser'"):
        pipeline.Recogniser  # noqa: B018


@pytest.mark.slow
def test_removing_the_cache_is_safe(logged: Any, uri: str) -> None:
    folder = model_folder(logged.address, uri)
    shutil.rmtree(cache_folder())
    assert model_folder(logged.address, uri) == folder


@pytest.mark.slow
def test_the_recognizer_takes_an_address(logged: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import Recognizer

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with Recognizer.load("models:/store-clip@champion", device="cpu") as recognizer:
        assert recognizer.folder == cache_folder() / logged.address.removeprefix("models:/")
