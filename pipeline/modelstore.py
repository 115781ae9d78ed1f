"""Models by address: a folder, or what MLflow keeps, fetched once into a folder of the user's cache.

Loads mlflow only for an address. Of an MLflow model nothing is fetched but the model folder in it: no code, no pickle.
"""

import re
import shutil
import time
import uuid
from contextlib import suppress
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from pipeline import cache
from pipeline.errors import ModelError, TrackingError
from pipeline.files import DISK_FULL, explaining_full_disk
from pipeline.models.modelspec import verify_model
from pipeline.trackingruns import asking
from pipeline.trackingstore import in_a_line, patience, shown, tracking_uri, troubles

ADDRESS = re.compile(r"(models|runs):/+(?P<rest>.*)", re.DOTALL)
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID, runs:/RUN_ID/NAME, or a model folder"
ABANDONED_SECONDS = 24 * 3600.0  # a download that began before that belongs to nobody any more


class _Found(NamedTuple):
    """Where a model lies: `key`, unique and never given twice, and the URI of its files."""

    key: str
    location: str


def model_folder(model: str | Path, uri: str | None = None) -> Path:
    """The local folder of a model.

    A folder is taken as it is. Names, aliases and runs are looked up in MLflow each time, so that an alias that moved
    is seen at once; what they lead to is fetched once into `cache_folder()`, its hashes checked then and at each use.
    A model given by its id is not looked up when it is in the cache: what an id stands for does not change.

    uri: where MLflow keeps its runs; None = as everywhere, see `tracking_uri`.

    Raises:
        ModelError: no such model, no answer from the server, or a model that is not of this package.
    """
    address = str(model)
    form = ADDRESS.fullmatch(address)
    if form is None:
        if re.match(r"[A-Za-z][\w+.-]*:", address) and not Path(model).exists():
            raise ModelError(f"{address}: no such folder, and not an address of a model; expected {FORMS}")
        return Path(model)
    given_id = form["rest"] if address.startswith("models:") and MODEL_ID.fullmatch(form["rest"]) else ""
    if given_id and _is_whole(cache_folder() / given_id):
        return cache_folder() / given_id
    try:
        uri = tracking_uri(Path()) if uri is None else uri
        with asking(uri) as client:
            return _fetched(client, address, uri)
    except TrackingError as error:
        raise ModelError(
            f"{address}: {error}; or name a model folder, or models:/m-ID that was fetched before"
        ) from None


def cache_folder() -> Path:
    """Where fetched models are kept, a folder each, named by the model's id: safe to delete at any time."""
    return cache.cache_folder("models")


def _fetched(client: Any, address: str, uri: str) -> Path:
    try:
        found = _look_up(client, address)
        folder = cache_folder() / found.key
        if not _is_whole(folder):
            with explaining_full_disk(folder):
                _fetch(address, found.location, folder, uri)
        return folder
    except ImportError as error:
        raise ModelError(
            f"{address}: where {shown(uri)} keeps it is read with a package that is not installed ({error}); install "
            "it, or name a model folder"
        ) from None
    except troubles() as error:
        raise ModelError(f"{address}: not found in {shown(uri)} ({in_a_line(error)}); expected {FORMS}") from None


def _look_up(client: Any, address: str) -> _Found:
    """What an address stands for now."""
    kind, _, rest = address.partition(":")
    parts = rest.strip("/").split("/")
    if kind == "runs":
        return _of_run(client, address, parts)
    if len(parts) == 1 and "@" not in parts[0]:
        return _Found(parts[0], str(client.get_logged_model(parts[0]).artifact_location))
    if len(parts) == 1:
        name, _, alias = parts[0].rpartition("@")
        version = client.get_model_version_by_alias(name, alias)
    elif len(parts) == 2 and parts[1].isdecimal():
        version = client.get_model_version(*parts)
    else:
        raise ModelError(f"{address}: not an address of a model; expected {FORMS}")
    source = re.fullmatch(f"models:/+({MODEL_ID.pattern})", version.source or "")
    if source:
        return _Found(source[1], str(client.get_logged_model(source[1]).artifact_location))
    # Registered by other means than this package's; the time tells it from a namesake that was deleted.
    facts = f"{client.tracking_uri} {version.name} {version.version} {version.creation_timestamp}"
    location = client.get_model_version_download_uri(version.name, version.version)
    return _Found("v-" + sha256(facts.encode()).hexdigest()[:32], str(location))


def _of_run(client: Any, address: str, parts: list[str]) -> _Found:
    """The model that a run logged last under a name."""
    if len(parts) != 2:
        raise ModelError(f"{address}: not an address of a run's model; expected runs:/RUN_ID/NAME")
    logged = logged_models(client, parts[0])
    named = [model for model in logged if model.name == parts[1]]
    if not named:
        others = ", ".join(sorted({model.name for model in logged})) or "none"
        raise ModelError(f"{address}: the run has no model of this name; expected one of its models: {others}")
    return _Found(named[-1].model_id, str(named[-1].artifact_location))


def logged_models(client: Any, run_id: str) -> list[Any]:
    """The models that a run logged, as MLflow's client describes them, the oldest first."""
    outputs = client.get_run(run_id).outputs
    logged = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else [])]
    return sorted(logged, key=lambda model: model.creation_timestamp)


def _fetch(address: str, location: str, folder: Path, uri: str) -> None:
    """Fetch the model folder inside an MLflow model; it appears whole or not at all."""
    from mlflow.artifacts import download_artifacts

    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary.mkdir()
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise ModelError(
            f"{folder.parent}: cannot be written ({error.strerror}), and models are kept there; set XDG_CACHE_HOME to "
            "a folder that can, or name a model folder"
        ) from None
    try:
        with patience():
            description = download_artifacts(f"{location}/MLmodel", dst_path=str(temporary), tracking_uri=uri)
            inside = _path_inside(address, Path(description))
            got = Path(
                download_artifacts(f"{location}/{inside}", dst_path=str(temporary / "fetched"), tracking_uri=uri)
            )
        try:
            verify_model(got)
        except ModelError as error:
            raise ModelError(str(error).replace(str(got), address)) from None
        if folder.exists():  # damaged, or finished by another process meanwhile
            if _is_whole(folder):
                return
            shutil.rmtree(folder)
        with suppress(OSError):  # not empty: another process was first
            got.replace(folder)
        verify_model(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _path_inside(address: str, description: Path) -> PurePosixPath:
    """Where the model folder lies in an MLflow model, by its `MLmodel` file."""
    try:
        text = yaml.safe_load(description.read_text(encoding="utf-8"))
        path = PurePosixPath(text["flavors"]["python_function"]["artifacts"]["model"]["path"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{address}: not a model of this package (its MLmodel file names no artifact `model`); expected one that "
            "`train` logged"
        ) from error
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ModelError(f"{address}: its MLmodel file leads out of the model ({path}); it may have been tampered with")
    return path


def _is_whole(folder: Path) -> bool:
    """Whether a model lies there whose files have the hashes that it states."""
    try:
        verify_model(folder)
    except (ModelError, OSError):
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove downloads whose processes were killed long ago."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
