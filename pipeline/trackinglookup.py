"""What MLflow holds of runs and registered models, as plain values: asked for, never changed.

Loads mlflow only when something is asked.
"""

from pipeline.errors import TrackingError
from pipeline.runlinks import KEY, MODEL_SHA256, PARENT
from pipeline.trackingruns import RUN_ID, TrackedRun, asking, runs_where


def runs_beginning(text: str, uri: str) -> list[TrackedRun]:
    """The runs whose id is a text, or begins with it; raises TrackingError where MLflow cannot be asked."""
    if not RUN_ID.fullmatch(text):
        return []
    return _runs(f"attributes.run_id LIKE '{text}%'", uri)


def runs_named(name: str, uri: str) -> list[TrackedRun]:
    """The runs of a name; raises TrackingError where MLflow cannot be asked."""
    return _runs(f"attributes.run_name = '{_quotable(name)}'", uri)


def runs_of_key(key: str, uri: str) -> list[TrackedRun]:
    """The runs begun with a key (`lrcn.key`), which one has before MLflow gives it an id; TrackingError as above."""
    return _runs(f"tags.`{KEY}` = '{_quotable(key)}'", uri)


def runs_of_model(sha256: str, uri: str) -> list[TrackedRun]:
    """The runs that trained a model, by the SHA-256 of its `model.yaml`; raises TrackingError as above."""
    return _runs(f"tags.`{MODEL_SHA256}` = '{_quotable(sha256)}'", uri)


def children_of(run_id: str, uri: str) -> list[TrackedRun]:
    """The runs that belong to a run; raises TrackingError where MLflow cannot be asked."""
    return _runs(f"tags.`{PARENT}` = '{_quotable(run_id)}'", uri)


def registered_of(run_id: str, uri: str) -> list[str]:
    """The versions in the model registry of a run's model, such as `demo-clip-rgb version 3 (champion)`.

    Raises TrackingError where MLflow cannot be asked.
    """
    found = []
    with asking(uri) as client:
        for version in client.search_model_versions(f"run_id = '{_quotable(run_id)}'"):
            aliases = client.get_model_version(version.name, version.version).aliases  # a search leaves them out
            found.append(f"{version.name} version {version.version}" + (f" ({', '.join(aliases)})" if aliases else ""))
    return sorted(found)


def _runs(condition: str, uri: str) -> list[TrackedRun]:
    with asking(uri) as client:
        return runs_where(client, condition)


def _quotable(text: str) -> str:
    """A text that can stand in quotes in MLflow's filter, which knows no escapes; raises TrackingError for others."""
    if "'" in text or '"' in text or "`" in text or "\\" in text:
        raise TrackingError(f"{text!r} holds quotes, which MLflow cannot search for")
    return text
