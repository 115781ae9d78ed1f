"""Where runs are kept: an SQLite file made safely, or a server that is asked whether it is there.

Loads mlflow only where it is needed.
"""

import fcntl
import os
import re
import socket
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import TrackingError

REASON_LETTERS = 200  # of what MLflow says
OFF = "off"  # MLFLOW_TRACKING_URI=off: no tracking, and no complaint about it

# What MLflow is told before it is imported; whatever is set outside is kept.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it prints tracebacks of what it then raises, and we say in a line
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Two attempts of 3 s: a server that stops answering in the middle of a run costs 6 s, then nothing more is sent.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
PROBE_SECONDS = 4.0
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What makes them say something: PostgreSQL is asked whether it encrypts, MySQL greets by itself.
FIRST_WORDS = {"postgresql": bytes.fromhex("0000000804d2162f"), "mysql": b""}
IN_MEMORY = re.compile(r":memory:|\bmode=memory\b")
UPLOAD_SECONDS = "120"  # a server that just answered may take this long to store a model


def apply_settings() -> None:
    """Set what MLflow reads from the environment; before mlflow is imported."""
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)


def tracking_uri(root: Path) -> str:
    """Where runs are kept: MLFLOW_TRACKING_URI, else an SQLite file at the repository's root.

    `dvc exp run --temp` runs a stage in a temporary copy and removes it, but leaves DVC_ROOT pointing to the real
    repository: relative SQLite paths are resolved against it, or against `root` outside DVC.

    Raises TrackingError for a database in memory.
    """
    base = Path(os.environ.get("DVC_ROOT") or root).absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"sqlite:///{base / 'mlflow.db'}"
    if scheme(uri) == "sqlite" and (IN_MEMORY.search(uri) or uri.partition(":")[2].partition("?")[0].strip("/") == ""):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI is {uri}, a database that ends with its process; expected a file "
            "(sqlite:///mlflow.db), a server, or `off`"
        )
    path = sqlite_path(uri)
    return uri if path is None or path.is_absolute() else f"sqlite:///{base / path}"


def ensure_database(uri: str) -> None:
    """Create the SQLite database of a tracking URI, or bring it up to the installed MLflow; other URIs: nothing.

    Under a lock beside the file, since several first starts at once leave a database that no later start can use. A new
    database is made under another name and renamed: a kill leaves none. An old one is copied before it is changed.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists() or path.stat().st_size == 0:
            fresh = path.with_name(f"{path.name}.new")
            fresh.unlink(missing_ok=True)
            _migrate(fresh)
            fresh.replace(path)
        elif (revision := _revision(path)) != _newest_revision():
            backup = path.with_name(f"{path.name}.before-{revision}")
            if not backup.exists():
                with sqlite3.connect(path) as source, sqlite3.connect(backup) as copy:
                    source.backup(copy)
            _migrate(path)


def sqlite_path(uri: str) -> Path | None:
    """File of an SQLite URI; None for other URIs and for databases in memory."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path not in ("", ":memory:") else None


def scheme(uri: str) -> str:
    """What kind of place a URI names, the driver left out: `sqlite`, `http`, `postgresql`, ..."""
    return uri.partition(":")[0].partition("+")[0].lower()


def _migrate(path: Path) -> None:
    from mlflow.db import upgrade

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about SQLAlchemy, in MLflow's migrations
        # The command `mlflow db upgrade`, which makes a new database too.
        upgrade.main(args=[f"sqlite:///{path}"], standalone_mode=False)


def _revision(path: Path) -> str | None:
    with sqlite3.connect(path) as database:
        if not database.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall():
            return None
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _newest_revision() -> str | None:
    import mlflow
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations")).get_current_head()


def answers(uri: str) -> bool:
    """Whether an HTTP server sends any response at all, or a database server takes connections; True for other URIs."""
    return asked(uri)()


def asked(uri: str) -> Callable[[], bool]:
    """Ask whether it answers, and give the function that waits for the answer: there is something to do meanwhile.

    In a thread, because looking up a name has no time limit of its own.
    """
    ask = {"http": _ask_http, "https": _ask_http, **dict.fromkeys(DATABASE_PORTS, _ask_database)}.get(scheme(uri))
    if ask is None:
        return lambda: True
    import requests  # noqa: F401 - here, because the thread that asks runs beside other imports

    answered = threading.Event()
    thread = threading.Thread(target=ask, args=[uri, answered], daemon=True)
    thread.start()

    def wait() -> bool:
        thread.join(PROBE_SECONDS + 1)
        return answered.is_set()

    return wait


def _ask_http(uri: str, answered: threading.Event) -> None:
    import requests

    try:
        with requests.get(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS, stream=True):
            answered.set()
    except requests.exceptions.SSLError:
        answered.set()  # there is a server; MLflow has its own settings for certificates
    except requests.RequestException:
        pass  # what the caller is told by the event that is not set


def _ask_database(uri: str, answered: threading.Event) -> None:
    """MLflow itself would try for minutes, and wait for ever for one that takes connections and then says nothing."""
    with suppress(OSError, ValueError):
        address = urlsplit(uri)
        kind = address.scheme.partition("+")[0].lower()
        if address.hostname:  # without one: a socket on this machine
            where = (address.hostname, address.port or DATABASE_PORTS[kind])
            with socket.create_connection(where, PROBE_SECONDS) as connection:
                connection.sendall(FIRST_WORDS.get(kind, b""))
                if kind in FIRST_WORDS and not connection.recv(1):
                    return
        answered.set()


@contextmanager
def patience() -> Iterator[None]:
    """Give a server the time to store a model, unless a time limit of the user's own is set."""
    key = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(key, SETTINGS[key])
    os.environ[key] = UPLOAD_SECONDS if before == SETTINGS[key] else before
    try:
        yield
    finally:
        os.environ[key] = before


@contextmanager
def current(uri: str) -> Iterator[None]:
    """Make a URI MLflow's current one, which logging a model needs; what the environment says is put back."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # None is taken, whatever its annotation says
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def shown(text: str) -> str:
    """A text without the users and passwords of URIs in it.

    >>> shown("API request to http://me:secret@host:5000/api failed")
    'API request to http://host:5000/api failed'
    """
    return re.sub(r"(?i)([?&](?:password|passwd|sslpassword)=)[^&\s]*", r"\1***", re.sub(r"//[^/\s]*@", "//", text))


def in_a_line(error: BaseException) -> str:
    """What MLflow says, as far as it helps, without secrets."""
    return shown(" ".join(str(error).split()))[:REASON_LETTERS]


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's warnings about its own insides (SQLAlchemy, type hints, two readers of a local path).

    Nothing a user can act on; what fails raises.
    """
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        yield


def troubles() -> tuple[type[Exception], ...]:
    """What MLflow raises where it cannot answer."""
    import alembic.util
    import mlflow
    import requests
    import sqlalchemy.exc

    return (
        mlflow.MlflowException, sqlalchemy.exc.SQLAlchemyError, alembic.util.CommandError, requests.RequestException,
        OSError,
    )  # fmt: skip
