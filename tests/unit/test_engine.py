"""The parts of the Ray engine that need no Ray to run: options, pieces of videos, and what follows a death."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import remote
from pipeline.engine import opened_engine
from pipeline.errors import ConfigError, LrcnError, RejectedVideo
from pipeline.video.isolation import decoders_of
from pipeline.video.limits import Limits
from pipeline.video.reader import Frame, VideoReader
from pipeline.view import View
from tests import servers
from tests.videos import write

raydecode = pytest.importorskip("pipeline.raydecode", reason="Ray is not installed (extra `ray`)")
from pipeline import raypool  # noqa: E402
from pipeline.inference.thumbnails import Thumbnail  # noqa: E402
from pipeline.raybackbone import Done, Job, Report  # noqa: E402
from pipeline.raydecode import End, FileSource, LostWorkerError  # noqa: E402
from pipeline.rayengine import Use, _own_folder  # noqa: E402

VIEW = View(fps=25.0, short_side=48, crop=32)


def look(view: View = VIEW, versions: dict[str, str] | None = None) -> raydecode.Look:
    return raydecode.Look(view, Thumbnail, versions or raydecode.versions())


def frames_of(items: list[tuple]) -> tuple[list[tuple[float, float, bytes]], End]:
    """Times and pixels of all timesteps in pieces, and the end."""
    found = []
    for piece, _ in items:
        for step, pts, number in zip(*piece[:3], strict=True) if piece else ():
            found.append((step, pts, piece.pixels[number].tobytes()))
    assert [end is None for _, end in items] == [True] * (len(items) - 1) + [False]
    return found, items[-1][1]


@pytest.fixture
def source(tmp_path) -> FileSource:
    yield FileSource(str(write(tmp_path / "a.mp4", 30, pts_seconds=[n / 25 + (n > 9) for n in range(30)])), Limits())
    decoders_of(Limits()).close()
    decoders_of.cache_clear()


@pytest.mark.parametrize("piece_bytes", [1, 7000, 2**22], ids=["a picture each", "some", "all"])
def test_pieces_hold_the_frames_of_the_plain_reader(source, monkeypatch, piece_bytes):
    from pipeline.features.crop import crop_of_frame

    monkeypatch.setattr(raydecode, "PIECE_BYTES", piece_bytes)
    found, end = frames_of(list(raydecode.decode(source, look())))
    expected = list(VideoReader(source.path).frames(25.0, 48))
    assert [item[:2] for item in found] == [frame[:2] for frame in expected]
    for (*_, pixels), frame in zip(found, expected, strict=True):
        sent = Frame(0.0, 0.0, np.frombuffer(pixels, np.uint8).reshape(48, 32))
        pictures = np.zeros((2, 32, 32, 3), np.uint8)
        crop_of_frame(sent, 32, 0, pictures[0])
        crop_of_frame(frame, 32, 0, pictures[1])
        assert np.array_equal(*pictures)
    assert (end.error, end.verdict.status, end.jpeg[:3]) == (None, "ok", b"\xff\xd8\xff")


def test_a_node_is_told_the_signature_of_an_address(source, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra `http`)")
    monkeypatch.setenv("LRCN_CACHE", str(tmp_path / "cache"))
    with servers.http_server(tmp_path) as (address, seen):
        path = remote.named(f"{address}/a.mp4?sig=f00")
        there = FileSource.of(path, Limits())
        remote.reset()  # as in the process of another machine
        found, end = frames_of(list(raydecode.decode(there, look())))
        remote.reset()
    assert end.error is None
    assert found == frames_of(list(raydecode.decode(source, look())))[0]
    assert {line.partition("?")[2] for line in seen} == {"sig=f00"}


def test_a_node_decodes_an_object_into_the_store(source, tmp_path, monkeypatch):
    from pipeline.files import content_hash
    from pipeline.stages.decode import Remote, decode_remotely
    from pipeline.video.framestore import FrameStore

    pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra `http`)")
    monkeypatch.setenv("LRCN_CACHE", str(tmp_path / "cache"))
    sha256 = content_hash(source.path)
    with servers.http_server(tmp_path) as (address, _):
        num_frames = decode_remotely(Remote(sha256, f"{address}/a.mp4", str(tmp_path / "frames"), VIEW, Limits()))
    remote.reset()
    assert num_frames == len(list(VideoReader(source.path).frames(25.0, 48)))
    assert FrameStore(tmp_path / "frames", VIEW.frames_key).verdict(sha256).status == "ok"


def test_an_object_that_was_exchanged_since_it_was_listed_is_not_decoded(tmp_path, source, monkeypatch):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra `http`)")
    monkeypatch.setenv("LRCN_CACHE", str(tmp_path / "cache"))
    with servers.http_server(tmp_path) as (address, _):
        path = f"{address}/a.mp4"
        remote.state(path)
        there = FileSource.of(path, Limits())
        write(tmp_path / "a.mp4", 40)
        remote.reset()  # as in the process of another machine
        _, end = frames_of(list(raydecode.decode(there, look())))
    remote.reset()
    assert isinstance(end.error, RejectedVideo)
    assert end.error.is_transient
    assert "changed while it was fetched" in str(end.error)


@pytest.mark.parametrize("crops", [1, 10])
def test_flow_is_computed_where_frames_are(source, crops):
    from pipeline.features.crop import crop_of_frame
    from pipeline.video.flow import FlowFrame, flow_frames

    view = View(fps=25.0, short_side=48, crop=32, crops=crops, flow="dis")
    found, _ = frames_of(list(raydecode.decode(source, look(view))))
    expected = list(flow_frames(VideoReader(source.path).frames(25.0, 48), "dis"))
    assert [item[:2] for item in found] == [frame[:2] for frame in expected]
    shape = (48, 64, 3) if crops == 10 else (32, 32, 3)
    for (*_, pixels), frame in zip(found, expected, strict=True):
        for number in range(crops):
            pictures = np.zeros((2, 32, 32, 3), np.uint8)
            sent = FlowFrame(0.0, 0.0, np.frombuffer(pixels, np.uint8).reshape(shape))
            crop_of_frame(sent, 32, number, pictures[0])
            crop_of_frame(frame, 32, number, pictures[1])
            assert np.array_equal(*pictures)


def test_what_ends_a_video_is_in_its_end(source, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    ends = {
        "a text file, not a video": (FileSource(str(tmp_path / "text.mp4"), Limits()), VIEW),
        "only one picture": (
            FileSource(str(write(tmp_path / "b.mp4", 1)), Limits()),
            View(fps=25.0, short_side=48, crop=32, flow="dis"),
        ),
    }
    for reason, (bad, view) in ends.items():
        [(piece, end)] = raydecode.decode(bad, look(view))
        assert piece is None
        assert isinstance(end.error, RejectedVideo)
        assert reason in str(end.error)


def test_other_versions_are_refused(source):
    other = {**raydecode.versions(), "torch": "1.0"}
    [(_, end)] = raydecode.decode(source, look(versions=other))
    assert isinstance(end.error, ConfigError)
    with pytest.raises(ConfigError, match=r"Ray node .* has torch .*, not 1\.0; expected what the command runs with"):
        raydecode.timed(len, "", other)


class FakeRay:
    """As much of Ray as RayPool needs; calls are done when they are waited for, one at a time.

    kills: names of videos whose actor dies; lost: name to how often a task dies.
    """

    def __init__(self, kills: set[str] = frozenset(), lost: dict[str, int] | None = None, starts: bool = True) -> None:
        self.exceptions = SimpleNamespace(RayError=OSError, RayTaskError=ZeroDivisionError)
        self.kills, self.lost, self.starts = kills, dict(lost or {}), starts
        self.num_actors, self.batches = 0, []

    def put(self, value: object) -> object:
        return value

    def remote(self, _: type) -> "FakeRay":
        return self

    def options(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(remote=self.actor)

    def actor(self) -> SimpleNamespace:
        self.num_actors += 1

        def start(_: object) -> int:
            if not self.starts:
                raise OSError("The actor died.\nmore")
            return 2

        jobs: list[Job] = []

        def exchange(new: list[Job]) -> Report:
            jobs.extend(new)
            self.batches.append([job.name for job in jobs])
            if self.kills & set(self.batches[-1]):
                raise OSError("The actor died.\nmore")
            done = [Done(job.number, self.result(job), End(busy_seconds=1.0)) for job in jobs]
            jobs.clear()
            return Report(done, len(done), 1.0, 0.5)

        def method(function):
            return SimpleNamespace(remote=lambda argument: lambda: function(argument))

        return SimpleNamespace(start=method(start), exchange=method(exchange))

    def result(self, job: Job) -> object:
        if self.lost.get(job.name, 0):
            self.lost[job.name] -= 1
            return LostWorkerError("The worker died.")
        return job.name

    def wait(self, calls: list, timeout: float) -> tuple[list, list]:
        return calls[:1], calls[1:]

    def get(self, call):
        return call()


def pool_with(monkeypatch, ray: FakeRay, num_actors: int = 2) -> raypool.RayPool:
    monkeypatch.setattr(raypool, "ray", ray)
    engine = SimpleNamespace(num_gpus=num_actors, num_tasks=2 * num_actors, use=Use())
    return raypool.RayPool(engine, {}, VIEW)


def results(pool: raypool.RayPool, num_videos: int = 30) -> dict[str, object]:
    """Results by name; each video has one."""
    names = [f"v{number}" for number in range(num_videos)]
    done = list(pool.run((name, FileSource(name, Limits())) for name in names))
    assert sorted(item.number for item in done) == list(range(num_videos))
    return {names[item.number]: item.result for item in done}


def test_the_video_that_kills_actors_is_found_and_the_others_are_done(monkeypatch):
    ray = FakeRay(kills={"v7", "v20"})
    found = results(pool_with(monkeypatch, ray))
    bad = {name: found.pop(name) for name in ray.kills}
    assert found == {name: name for name in found}
    for error in bad.values():
        assert isinstance(error, RejectedVideo)
        assert error.is_transient
        assert str(error) == "the Ray process that had it died, again and again (The actor died)"
    assert ray.batches.count(["v7"]) == ray.batches.count(["v20"]) == raypool.TRIES_ALONE
    assert ray.num_actors == 2 + sum(bool(ray.kills & set(batch)) for batch in ray.batches)


def test_a_video_whose_task_dies_is_done_again_and_given_up_in_the_end(monkeypatch):
    ray = FakeRay(lost={"v3": raypool.TRIES - 1, "v4": raypool.TRIES})
    pool = pool_with(monkeypatch, ray)
    found = results(pool)
    assert found["v3"] == "v3"
    with pytest.raises(RejectedVideo, match="died, again and again"):
        raise found["v4"]
    assert ray.num_actors == 2


def test_an_actor_that_never_starts_ends_the_run(monkeypatch):
    with pytest.raises(LrcnError, match=r"cannot start a process for the backbone \(The actor died\)"):
        pool_with(monkeypatch, FakeRay(starts=False))


def test_a_second_run_of_a_pool_begins_anew(monkeypatch):
    pool = pool_with(monkeypatch, FakeRay(kills={"v1"}), num_actors=1)
    assert isinstance(results(pool, 3)["v1"], RejectedVideo)
    assert isinstance(results(pool, 3)["v1"], RejectedVideo)


def test_what_a_run_that_was_left_had_under_way_is_no_answer_of_the_next(monkeypatch):
    pool = pool_with(monkeypatch, FakeRay(kills={"old3"}, lost={"old5": 1}))
    run = pool.run((f"old{number}", FileSource("", Limits())) for number in range(30))
    next(run)
    run.close()
    assert results(pool, 20) == {f"v{number}": f"v{number}" for number in range(20)}


def test_who_waits_for_a_gpu_is_told(monkeypatch, capsys):
    monkeypatch.setattr(raypool, "SECONDS_TO_START", 0.0)
    ray = FakeRay()
    waits = iter([([], None)] * 3)
    monkeypatch.setattr(ray, "wait", lambda calls, timeout: next(waits, (calls[:1], calls[1:])))
    pool_with(monkeypatch, ray)
    assert capsys.readouterr().err.count("ray: waiting for a GPU, which others may have") == 1


@pytest.mark.parametrize("address", ["", "local"])
def test_a_ray_of_our_own_wants_a_token_and_listens_here(monkeypatch, address):
    environment = {**os.environ, "RAY_ADDRESS": address}
    asked = []

    def engine(address: str, **_: object) -> SimpleNamespace:
        asked.append((address, environment["RAY_AUTH_MODE"], environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]))
        return SimpleNamespace(summary=str, close=str)

    monkeypatch.setattr("pipeline.rayengine.RayEngine", engine)
    monkeypatch.setattr(os, "environ", environment)
    with opened_engine("ray", "", workers=1, device="cpu", command="predict"):
        pass
    assert asked == [("", "token", "0")]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.rayengine", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("pipeline.raybackbone", "pipeline.raydecode", "pipeline.raypool"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with (
        pytest.raises(ConfigError, match=r'Ray is not installed; pip install "lrcn-pipeline\[ray\]"'),
        opened_engine("ray", "127.0.0.1:1", workers=0, device="cpu", command="predict"),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:10001", "expected HOST:PORT of the cluster itself, not of a Ray Client server"),
        ("127.0.0.1:1", "no cluster answers there .*; see `ray start --head`"),
    ],
)
def test_an_address_of_no_cluster_is_an_error_at_once(monkeypatch, address, message):
    for variable in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(variable, "0" if "LOG" not in variable else "error")
    with (
        pytest.raises(ConfigError, match=message),
        opened_engine("ray", address, workers=0, device="cpu", command="predict"),
    ):
        pass


def test_folders_of_dead_processes_are_removed_beside_a_command_that_does_the_same(tmp_path, monkeypatch):
    """Mutant: one that is gone when its turn comes, which the other command removed, is an error."""
    gone, left, foreign = (tmp_path / f"lrcn-ray-{name}" for name in ("999999998-a", "999999999-b", "mine"))
    left.mkdir()
    foreign.mkdir()
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([gone, left, foreign]))
    with _own_folder() as own:
        assert Path(own).is_dir()
    assert list(tmp_path.iterdir()) == [foreign]


def test_an_address_without_the_engine_is_an_error():
    with (
        pytest.raises(ConfigError, match="ray address is 'a:1', but the engine is local"),
        opened_engine("local", "a:1", workers=0, device="cpu", command="predict"),
    ):
        pass
