"""What MLflow could not take: `mlruns_unsent/KEY/SESSION/`, until `lrcn runs sync` delivers it.

KEY is the run's `lrcn.key`. A session is what one process had to say of the run: `events.jsonl`, and copies of the
files it logged, because the next `dvc repro` replaces them. Whoever writes a session holds its lock, which dies with
the process; so what a killed process left is delivered up to its last whole line.
"""

import json
import os
import shutil
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import StoreError
from pipeline.files import explaining_full_disk, locked, sync_folder
from pipeline.trackingdata import Event, merged, now_ms
from pipeline.trackingevents import Away, Receiver, Refused, connect
from pipeline.trackingstore import OFF, shown

EVENTS = "events.jsonl"
SYNC_SECONDS = 5.0  # of a power cut, at most
ATTEMPTS = 5


def unsent_folder(root: Path) -> Path:
    """Where runs wait that MLflow could not take; like the database at the root that DVC names, else at `root`."""
    return Path(os.environ.get("DVC_ROOT") or root).absolute() / "mlruns_unsent"


def unsent_keys(folder: Path) -> list[str]:
    """Keys of the runs of which something waits in a folder, in the order of their beginning."""
    sessions = sorted((session.name, session.parent.name) for session in folder.glob("*/*/"))
    return list(dict.fromkeys(key for _, key in sessions))


def is_unsent(folder: Path, key: str) -> bool:
    """Whether something of a run waits to be sent: what follows must then wait behind it."""
    return any((folder / key).glob("*/"))


class Session:
    """What one process keeps of a run. Raises StoreError where it cannot be written."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._stack = ExitStack()
        for attempt in range(ATTEMPTS):
            # The name sorts by time. Another process may remove the emptied folder of the key at this moment: again.
            self.folder = folder / key / f"{now_ms():015d}-{uuid.uuid4().hex[:8]}"
            try:
                self._stack.enter_context(locked(self.folder))
                break
            except StoreError:
                if attempt == ATTEMPTS - 1:
                    raise
        with explaining_full_disk(self.folder / EVENTS):
            self._file = self._stack.enter_context((self.folder / EVENTS).open("a", encoding="utf-8"))
            sync_folder(self.folder)
        self._synced = time.monotonic()
        self._number = 0

    def add(self, event: Event) -> None:
        """Keep an event, and copies of its files: of a model links, since its files are replaced and never changed."""
        event = {"time": now_ms(), **event}
        with explaining_full_disk(self.folder / EVENTS):
            if "path" in event:
                source = Path(event["path"])
                self._number += 1
                copy = Path("files") / str(self._number) / source.name
                (self.folder / copy).parent.mkdir(parents=True)
                how: Any = _link if event["kind"] == "model" else shutil.copy2
                if source.is_dir():
                    shutil.copytree(source, self.folder / copy, copy_function=how)
                else:
                    how(source, self.folder / copy)
                event = {**event, "path": copy.as_posix()}
            self._file.write(json.dumps(event, allow_nan=False) + "\n")
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        """Make it last, and let it be delivered."""
        with self._stack, explaining_full_disk(self.folder / EVENTS):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def deliver_unsent(folder: Path, uri: str) -> list[str]:
    """Send what waits in a folder to MLflow, run by run in the order of their beginning, and remove what has arrived.

    It ends where MLflow stops answering. Left where they are, so that `unsent_keys` names them, are also runs that a
    living process writes or another call sends, that MLflow refuses (of a deleted experiment, ...) or of which nothing
    says where they belong. A run whose process died ends as KILLED. What MLflow refuses of a run (a name it does not
    allow, ...) is said and left out.

    Returns:
        Lines that say what was delivered and what was not.
    """
    keys = unsent_keys(folder)
    if not keys:
        return [f"{folder}: nothing waits to be sent"]
    if uri == OFF:
        return [f"{folder}: {len(keys)} run(s) wait, but MLFLOW_TRACKING_URI is `off`; set it to where they belong"]
    lines: list[str] = []
    try:
        client = connect(uri)
        for key in keys:
            try:
                with locked(folder / key):
                    for session in sorted((folder / key).glob("*/")):
                        with locked(session):
                            _deliver_session(client, uri, session, lines)
                            shutil.rmtree(session)
            except (Refused, StoreError) as error:
                lines.append(f"not delivered yet: {error}")
            with suppress(OSError):  # a session that came meanwhile, or one that is being written
                (folder / key).rmdir()
    except Away as error:
        left = len(unsent_keys(folder))
        lines.append(f"{shown(uri)}: {error}; {left} run(s) wait in {folder}, sync again when it answers")
    with suppress(OSError):
        folder.rmdir()
    return lines


def _deliver_session(client: Any, uri: str, session: Path, lines: list[str]) -> None:
    events, num_damaged = _read(session / EVENTS)
    if not events and not num_damaged:
        return  # its process died before it said anything
    if not events or events[0]["kind"] != "open":
        raise StoreError(
            f"{session / EVENTS}: its first line is damaged, and nothing else says which run it is of; remove "
            f"{session} to give it up"
        )
    if events[-1]["kind"] != "end":
        events.append({"kind": "end", "status": "KILLED", "time": events[-1]["time"]})
    name = f"{events[0]['experiment']}/{events[0]['name']}"
    receiver, refused = Receiver(client, uri, session, say=lambda text: lines.append(f"{name}: {text}")), 0
    for event in merged(events):
        try:
            receiver.deliver(event)
        except Refused as error:
            if receiver.run_id is None:
                raise Refused(f"{name} is refused ({error}); it stays in {session.parent}") from error
            refused += 1
            lines.append(f"{name}: not logged: {error}")
    if num_damaged:
        lines.append(f"{name}: {num_damaged} line(s) of its {EVENTS} were damaged; what they said is lost")
    lines.append(f"{name}: delivered, run {receiver.run_id}{f', but for {refused} event(s)' if refused else ''}")


def _read(path: Path) -> tuple[list[Event], int]:
    """The events of a file up to its last whole line, behind which a process was killed; how many lines are damaged."""
    events: list[Event] = []
    num_damaged = 0
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                events.append(json.loads(line))
            except ValueError:
                num_damaged += 1
    return events, num_damaged


def _link(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=True)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, destination)
