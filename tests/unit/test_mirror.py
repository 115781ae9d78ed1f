"""The local copy of a folder of results in an object store: what is delivered before what, and after a failure."""

import threading
import time
from pathlib import Path

import pytest

from pipeline import remote
from pipeline.errors import RejectedVideo
from pipeline.inference import mirror
from pipeline.inference.ledger import LEDGER
from pipeline.remotenames import Url

URL = Url("s3://bucket/results")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "thumbnails").mkdir()
    return tmp_path


def answer(out: Path, name: str, ledger: str = LEDGER) -> None:
    """As a run does: the files of an answer first, then its line."""
    (out / "thumbnails" / name).write_text(name)
    (out / ledger).parent.mkdir(parents=True, exist_ok=True)
    with (out / ledger).open("a") as file:
        file.write(f"{name}\n")


@pytest.mark.parametrize("ledger", [LEDGER, f".shards/1-of-2/{LEDGER}"])
def test_a_ledger_is_delivered_without_lines_whose_files_are_not(out, monkeypatch, ledger):
    """The run goes on meanwhile. Mutant: the ledger as it is when its turn comes."""
    there: dict[str, str] = {}

    def upload(source: Path, path: str) -> str:
        name = path.removeprefix(f"{URL}/")
        if name == "thumbnails/a":
            answer(out, "b", ledger)
        there[name] = source.read_text()
        assert {f"thumbnails/{line}" for line in there.get(ledger, "").split()} <= there.keys()
        return f"{len(there[name])} tag:{hash(there[name])}"

    monkeypatch.setattr(remote, "upload", upload)
    answer(out, "a", ledger)
    (out / "results.csv").write_text("page")
    mirrored = mirror.Mirror(URL, out)
    mirrored.deliver()
    assert there == {"thumbnails/a": "a", ledger: "a\n", "results.csv": "page"}
    mirrored.deliver()
    assert there == {"thumbnails/a": "a", "thumbnails/b": "b", ledger: "a\nb\n", "results.csv": "page"}
    monkeypatch.setattr(remote, "upload", lambda source, path: pytest.fail(f"{path} is there already"))
    mirrored.deliver()


def test_a_transfer_that_fails_is_told_while_others_end(out, monkeypatch):
    """What is known is written while a transfer under way adds to it. Mutant: the dictionary itself is written."""
    (out / "results.csv").write_text("page")
    mirrored, written = mirror.Mirror(URL, out), []
    monkeypatch.setattr(remote, "upload", lambda source, path: "1 tag:x")
    mirrored.deliver()
    for name in "ab":
        (out / "thumbnails" / name).write_text(name)
    failing, lasting = (name for name in mirrored._files() if name.startswith("thumbnails"))
    is_under_way, is_being_written = threading.Event(), threading.Event()

    def upload(source: Path, path: str) -> str:
        if path.endswith(failing):
            assert is_under_way.wait(10)
            raise RejectedVideo("HTTP 503", is_transient=True)
        is_under_way.set()
        assert is_being_written.wait(10)
        return "1 tag:x"

    def write_slowly(path: Path, known: dict[str, object]) -> None:
        for name in known:
            written.append(name)
            is_being_written.set()
            deadline = time.monotonic() + 10
            while lasting not in mirrored._known and time.monotonic() < deadline:
                time.sleep(0.01)

    monkeypatch.setattr(remote, "upload", upload)
    monkeypatch.setattr(mirror, "write_json", write_slowly)
    with pytest.raises(RejectedVideo, match="HTTP 503"):
        mirrored.deliver()
    assert (written, set(mirrored._known)) == (["results.csv"], {"results.csv", lasting})
