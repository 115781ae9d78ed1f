"""Addresses: what is shown of them, what may pass, what is fetched when, and what is left of it on the disk."""

import errno
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import remote
from pipeline.cache import FileCache, cache_bytes
from pipeline.data.cards import read_dataset
from pipeline.errors import ConfigError, DataError, LrcnError, RejectedVideo
from pipeline.files import MACHINE
from pipeline.files import content_hash as hash_of_file
from pipeline.inference.answers import Answer, VideoFacts
from pipeline.inference.inputs import find_inputs, read_list
from pipeline.inference.page import write_page
from pipeline.prefetch import AHEAD, fetching_ahead
from pipeline.remotefaults import fault_of
from pipeline.remotenames import Url, is_url, scrubbed, without_secrets
from tests import servers

HTTP = pytest.mark.skipif("not __import__('importlib').util.find_spec('aiohttp')", reason="aiohttp is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LRCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.01)
    remote.reset()
    yield
    remote.reset()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://bucket/a b/ü?x=1#2.mp4", "s3://bucket/a b/ü?x=1#2.mp4"),
        ("S3://bucket/A", "s3://bucket/A"),
        ("https://me:pw@host:8443/a.mp4", "https://host:8443/a.mp4"),
        ("https://me@host/a@b.mp4", "https://host/a@b.mp4"),
        ("s3://KEY:SECRET@bucket/a.mp4", "s3://bucket/a.mp4"),
        ("https://host/a.mp4?id=5&X-Amz-Signature=f00&X-Amz-Credential=k&part=2", "https://host/a.mp4?id=5&part=2"),
        (
            "https://x.blob.core.windows.net/c/a.mp4?sv=2024&se=2026&sp=r&sig=f00",
            "https://x.blob.core.windows.net/c/a.mp4",
        ),
        ("az://c/a.mp4?sv=2024&sig=f00", "az://c/a.mp4"),
        ("https://host/a.mp4?access_token=f00#top", "https://host/a.mp4"),
        ("abfs://box@account.dfs.core.windows.net/a.mp4", "abfs://box@account.dfs.core.windows.net/a.mp4"),
        ("abfs://me:pw@account/a.mp4", "abfs://account/a.mp4"),
    ],
)
def test_nothing_secret_is_shown(address, shown):
    assert without_secrets(address) == shown
    assert without_secrets(shown) == shown
    assert scrubbed(f"GET '{address.replace(' ', '')}' failed") == f"GET '{shown.replace(' ', '')}' failed"


def test_what_an_address_is():
    assert all(map(is_url, ("s3://b/x", "gs://b", "az://c/x", "abfss://c/x", "HTTPS://h/x", "http://h")))
    assert not any(map(is_url, ("s3:/b/x", "rtsp://h/x", "./s3://b", "a/http://x", Path("s3://b/x"), None)))
    assert Url("s3://b/f/") / "a/b.mp4" == "s3://b/f/a/b.mp4"


def test_credentials_belong_in_the_environment():
    with pytest.raises(LrcnError, match=r"^s3://bucket/a.mp4: the address has credentials in it; set them in the env"):
        remote.named("s3://KEY:SECRET@bucket/a.mp4")
    with pytest.raises(LrcnError, match=r"gcs:// is not read; expected one of s3, gs, az"):
        find_inputs(["gcs://bucket/a.mp4"])


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(LrcnError, match=r"gs:// is read with the package gcsfs.*install the extra `gs`"):
        find_inputs(["gs://bucket/a.mp4"])


class Status(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class ClientPayloadError(Exception):
    pass


class NoCredentialsError(Exception):
    pass


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes", "reason"),
    [
        (Status(503), True, r"the server cannot answer \(HTTP 503\)"),
        (Status(429), True, "HTTP 429"),
        (Status(403), False, r"access is refused; credentials come from the environment \(HTTP 403\)"),
        (Status(416), False, r"refused \(HTTP 416\)"),
        (caused(FileNotFoundError("x"), Status(500)), True, "HTTP 500"),  # as fsspec says it of HTTP
        (
            caused(FileNotFoundError("x"), ConnectionRefusedError(111, "no")),
            True,
            "cannot be reached .Connection refused",
        ),
        (caused(ClientPayloadError("half"), Status(400)), True, "the answer broke off"),
        (PermissionError("Forbidden"), False, "access is refused"),
        (TimeoutError(), True, "does not answer in time"),
        (NoCredentialsError("Unable to locate credentials"), False, "no credentials in the environment"),
        (ValueError("https://me:pw@host/x?sig=f00 is odd"), False, "^ValueError: https://host/x is odd$"),
        (RuntimeError("https://me:pw@host/x"), True, r"cannot be reached \(RuntimeError: https://host/x\)"),
    ],
)
def test_what_may_pass_and_what_may_not(error, passes, reason):
    import re

    fault = fault_of(error)
    assert (fault.passes, fault.is_missing, fault.is_local) == (passes, False, False)
    assert re.search(reason, fault.reason), fault.reason


def test_missing_objects_and_full_disks_are_told_apart():
    assert fault_of(Status(404)).is_missing
    assert fault_of(FileNotFoundError("s3://b/x")).is_missing
    assert fault_of(OSError(errno.ENOSPC, "No space left on device")).is_local


def test_a_server_that_has_been_away_is_asked_once(monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.2)
    asked = []

    def ask():
        asked.append(time.monotonic())
        raise ConnectionRefusedError(errno.ECONNREFUSED, "no")

    with pytest.raises(RejectedVideo, match=r"cannot be reached .*; asked for 0 s") as first:
        remote.asked("s3://b/x", ask)
    assert first.value.is_transient
    assert len(asked) > 2
    asked.clear()
    with pytest.raises(RejectedVideo, match="cannot be reached"):
        remote.asked("s3://b/y", ask)
    assert len(asked) == 1
    assert remote.asked("s3://b/z", lambda: 5) == 5  # it is back
    asked.clear()
    with pytest.raises(RejectedVideo, match="cannot be reached"):
        remote.asked("s3://b/y", ask)
    assert len(asked) > 2


def test_a_server_that_refused_an_object_long_ago_is_not_away(monkeypatch):
    """Mutant: a refusal counts as the beginning of its absence, and the next fault as its end."""
    now = [1000.0]
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: now[0]))
    faults = [Status(403), Status(503), Status(503)]

    def ask():
        if faults:
            raise faults.pop(0)
        return "there"

    with pytest.raises(RejectedVideo, match="access is refused"):
        remote.asked("s3://b/closed", ask)
    now[0] += 300
    assert remote.asked("s3://b/x", ask) == "there"


def test_ctrl_c_ends_the_waiting_of_one_command_not_of_the_next(monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.2)
    times = []

    def ask():
        times.append(time.monotonic())
        raise ConnectionRefusedError(errno.ECONNREFUSED, "no")

    with pytest.raises(KeyboardInterrupt), remote.interruptible():
        raise KeyboardInterrupt
    with pytest.raises(RejectedVideo):
        remote.asked("s3://b/x", ask)
    assert len(times) == 1
    times.clear()
    with remote.interruptible(), pytest.raises(RejectedVideo):
        remote.asked("s3://other/x", ask)
    assert len(times) > 2


@HTTP
def test_objects_are_fetched_once_whole_and_again_when_they_change(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"x" * 100_000)
    with servers.http_server(folder, {"/a.mp4": [503, 0]}) as (address, seen):
        path = remote.named(f"{address}/a.mp4?sig=f00")
        assert path == f"{address}/a.mp4"
        with remote.staged(path) as local:
            assert Path(local).read_bytes() == b"x" * 100_000
            assert Path(local).suffix == ".mp4"
        assert [line for line in seen if line.startswith("GET")] == ["GET /a.mp4?sig=f00"] * 3
        seen.clear()
        assert remote.content_hash(path) == hash_of_file(folder / "a.mp4")
        assert seen == ["HEAD /a.mp4?sig=f00"]
        (folder / "a.mp4").write_bytes(b"other")
        with remote.staged(path) as local:
            assert Path(local).read_bytes() == b"other"
        # What a listing said is taken for true, until fetching shows that it is not.
        remote.heard(path, "100000 modified:before")
        with pytest.raises(RejectedVideo, match=r"^changed while it was fetched"), remote.staged(path):
            pass
        with pytest.raises(RejectedVideo, match=r"^no such object$") as missing, remote.staged(f"{address}/b.mp4"):
            pass
        assert missing.value.is_transient
        remote.heard(path, f"{10**15} modified:before")
        with pytest.raises(RejectedVideo, match=r"its 1000000.0 GB are more than is free in"), remote.staged(path):
            pass
        with pytest.raises(LrcnError, match=r"/c/\*.mp4: no such object"):
            find_inputs([f"{address}/c/*.mp4"])


@HTTP
def test_objects_are_fetched_ahead_and_never_too_many(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.mp4").write_bytes(bytes([number]) * 1000)
    with servers.http_server(folder) as (address, seen):
        paths = [f"{address}/{number}.mp4" for number in range(20)]
        for path in paths:
            remote.state(path)
        seen.clear()
        with fetching_ahead(paths):
            deadline = time.monotonic() + 20
            while len([line for line in seen if line.startswith("HEAD")]) < AHEAD and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
            assert len([line for line in seen if line.startswith("GET")]) == AHEAD
            for number, path in reversed(list(enumerate(paths))):  # in another order than announced
                with remote.staged(path) as local:
                    assert Path(local).read_bytes() == bytes([number]) * 1000
        assert len([line for line in seen if line.startswith("GET")]) == 20


def test_the_cache_keeps_to_its_size_and_to_files_in_use(tmp_path):
    cache = FileCache(tmp_path, 1000)

    def name(number: int) -> str:
        return f"{number:064x}.mp4"

    def fetch(file: Path) -> None:
        file.write_bytes(b"x" * 300)

    (tmp_path / "mine.mp4").write_bytes(b"y" * 5000)  # somebody else's
    (tmp_path / f".{name(9)}.{MACHINE}{'0' * (32 - len(MACHINE))}.tmp").write_bytes(b"z")  # of a dead process
    with ExitStack() as stack:
        used = stack.enter_context(cache.file(name(0), fetch))
        for number in range(1, 6):
            with cache.file(name(number), fetch) as file:
                assert file.read_bytes() == b"x" * 300
            time.sleep(0.002)
        assert used.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name(0), name(4), name(5), "mine.mp4"])
    small = FileCache(tmp_path / "small", 100)
    with small.file(name(1), fetch) as file:  # above the limit by itself
        assert file.exists()
    assert list((tmp_path / "small").iterdir()) == []
    fetched = []
    with cache.file(name(5), fetched.append):
        assert fetched == []
    with pytest.raises(OSError, match="went wrong"), cache.file(name(7), lambda file: fail()):
        pass
    assert not (tmp_path / name(7)).exists()


def fail() -> None:
    raise OSError("went wrong")


def test_threads_that_want_the_same_object_fetch_it_once(tmp_path):
    cache, count, read = FileCache(tmp_path, 10**6), [], []

    def fetch(file: Path) -> None:
        count.append(1)
        time.sleep(0.05)
        file.write_bytes(b"whole")

    def use() -> None:
        with cache.file("a" * 64, fetch) as file:
            read.append(file.read_bytes())

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(count), read) == (1, [b"whole"] * 6)
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 64]


def test_the_size_of_the_cache(monkeypatch):
    assert cache_bytes() == 20e9
    monkeypatch.setenv("LRCN_CACHE_GB", "0.5")
    assert cache_bytes() == 500_000_000
    monkeypatch.setenv("LRCN_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="LRCN_CACHE_GB is 'much'; expected a number of gigabytes"):
        cache_bytes()


def test_a_card_names_folders_of_object_stores_alone(tmp_path):
    card = (Path(__file__).parents[2] / "datasets/fight/card.yaml").read_text()
    classes = (Path(__file__).parents[2] / "datasets/fight/classes.txt").read_text()
    folder = tmp_path / "fight"
    folder.mkdir()
    (folder / "classes.txt").write_text(classes)
    assert "\nmedia: media/fight\n" in card
    (folder / "card.yaml").write_text(card.replace("media: media/fight", "media: s3://bucket/fight/"))
    assert read_dataset(folder).card.media == "s3://bucket/fight"
    for media in ("https://host/fight", "s3://KEY:SECRET@bucket/fight"):
        (folder / "card.yaml").write_text(card.replace("media: media/fight", f"media: {media}"))
        with pytest.raises(DataError, match="is no folder of an object store without credentials") as error:
            read_dataset(folder)
        assert "SECRET@" not in str(error.value)


def test_the_page_plays_from_http_and_from_no_object_store(tmp_path):
    facts = VideoFacts(30, 2.9, 64, 48, "h264")
    paths = ["https://host:8443/a b.mp4", "s3://bucket/a.mp4", str(tmp_path / "c.mp4")]
    answers = [Answer(path, "ok", label="x", score=0.9, scores={"x": 0.9, "y": 0.1}, video=facts) for path in paths]
    write_page(tmp_path, answers, threshold=0.5, task="clip", classes=["x", "y"], model="m", precision=0.9)
    text = (tmp_path / "report.html").read_text()
    assert "media-src 'self' file: https://host:8443;" in text
    assert '"https://host:8443/a%20b.mp4"' in text
    assert '["s3://bucket/a.mp4","a.mp4-' in text
    assert 'a.mp4","s3://' not in text


def test_lists_hold_addresses(tmp_path):
    (tmp_path / "list").write_bytes(b"s3://b/a.mp4\r\n\ns3://b/c.mp4\n")
    assert read_list(str(tmp_path / "list")) == ["s3://b/a.mp4", "s3://b/c.mp4"]
