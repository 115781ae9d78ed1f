import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import RejectedVideo, StoreError
from pipeline.video import framestore
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import Frame, Verdict, VideoReader

SHA, OTHER = "a" * 64, "b" * 64
OK = Verdict("ok", notes=("1 gap in the time stamps",), num_frames=9, width=64, height=48, first_pts_seconds=0.1)
BAD = Verdict.rejected("empty file (0 bytes)")


def noise(count: int, width: int = 64, height: int = 48, seed: int = 0) -> list[Frame]:
    """Frames that compress badly: every byte value, no two alike; times with long decimals."""
    rng = np.random.default_rng(seed)
    return [
        Frame(k / 7, k / 7 - 0.1 / 3, rng.integers(0, 256, (height * 3 // 2, width), np.uint8)) for k in range(count)
    ]


def assert_same(found: list[Frame], expected: list[Frame]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one[:2] == other[:2]
        assert one.i420.dtype == np.uint8
        assert np.array_equal(one.i420, other.i420)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("count", "width", "height"), [(1, 16, 16), (9, 16, 16), (1, 64, 48), (300, 16, 18), (2, 2, 2), (3, 512, 32)]
)
def test_frames_come_back_byte_for_byte(tmp_path: Path, count: int, width: int, height: int) -> None:
    frames = noise(count, width, height)
    store = FrameStore(tmp_path / "frames", "key")
    info = store.write(SHA, iter(frames), lambda: OK)
    assert_same(list(store.read(SHA)), frames)
    assert (info.num_frames, info.width, info.height, info.verdict) == (count, width, height, OK)
    assert info.size_bytes == (tmp_path / "frames" / f"{SHA}.mkv").stat().st_size
    assert info == store.info(SHA)
    assert store.verdict(SHA) == OK
    assert store.times(SHA).tolist() == [frame.time_seconds for frame in frames]
    assert store.has(SHA)
    assert names(tmp_path / "frames") == [f"{SHA}.json", f"{SHA}.mkv"]


def test_frames_of_a_real_reader(tmp_path: Path, videos: Any) -> None:
    reader = VideoReader(videos.write(tmp_path / "a.mp4", 40, rotation_degrees=90))
    frames = list(reader.frames(8, 32))
    store = FrameStore(tmp_path / "frames", "key")
    store.write(SHA, reader.frames(8, 32), lambda: reader.verdict)
    assert_same(list(store.read(SHA)), frames)
    assert store.verdict(SHA) == reader.verdict
    with av.open(str(tmp_path / "frames" / f"{SHA}.mkv")) as container:  # what a player sees
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.width, stream.height) == (8, 42, 32)
        times = [frame.time for frame in container.decode(stream)]
    assert times == pytest.approx([frame.time_seconds for frame in frames], abs=0.0006)


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        FrameStore(tmp_path / name, "key").write(SHA, noise(5), lambda: OK)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


def test_frames_that_break_off_leave_nothing(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "frames", "key")

    def broken() -> Iterator[Frame]:
        yield from noise(5)
        raise RejectedVideo("changed while it was read")

    with pytest.raises(RejectedVideo, match="changed while it was read"):
        store.write(SHA, broken(), lambda: OK)
    assert names(tmp_path / "frames") == []

    def no_verdict() -> Verdict:
        raise RuntimeError("no verdict yet")

    with pytest.raises(RuntimeError, match="no verdict yet"):
        store.write(SHA, noise(5), no_verdict)
    assert names(tmp_path / "frames") == []
    assert not store.has(SHA)


def test_a_failed_write_leaves_the_old_entry(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, "key")
    store.write(SHA, noise(3), lambda: OK)
    with pytest.raises(ValueError, match="no frames to write"):
        store.write(SHA, [], lambda: OK)
    with pytest.raises(ValueError, match=r"frame 3 is uint8 \(48, 32\); expected uint8 \(72, 64\) like the first"):
        store.write(SHA, noise(3) + noise(1, 32, 32), lambda: OK)
    with pytest.raises(ValueError, match=r"a frame has shape \(72, 63\); expected \(height \* 3 // 2, width\)"):
        store.write(SHA, [Frame(0.0, 0.0, np.zeros((72, 63), np.uint8))], lambda: OK)
    assert_same(list(store.read(SHA)), noise(3))
    assert names(tmp_path) == [f"{SHA}.json", f"{SHA}.mkv"]


def test_rejected_videos_are_remembered(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, "key")
    store.write(SHA, noise(3), lambda: OK)
    store.write_rejected(SHA, BAD)
    assert store.has(SHA)
    assert store.verdict(SHA) == BAD
    for ask in (lambda: list(store.read(SHA)), lambda: store.times(SHA)):
        with pytest.raises(RejectedVideo, match=r"^empty file \(0 bytes\)$"):
            ask()
    assert names(tmp_path) == [f"{SHA}.json"]
    with pytest.raises(ValueError, match="is ok; expected rejected"):
        store.write_rejected(SHA, OK)


def test_an_entry_of_another_key_is_missing(tmp_path: Path) -> None:
    FrameStore(tmp_path, "old").write(SHA, noise(3), lambda: OK)
    store = FrameStore(tmp_path, "new")
    assert not store.has(SHA)
    with pytest.raises(StoreError, match="made under key old, expected new"):
        next(store.read(SHA))
    store.write(SHA, noise(4, seed=1), lambda: OK)
    assert_same(list(store.read(SHA)), noise(4, seed=1))
    assert not FrameStore(tmp_path, "old").has(SHA)


def test_what_is_not_there(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "none", "key")
    assert not store.has(SHA)
    assert store.prune(set()) == []
    for ask in (lambda: next(store.read(SHA)), lambda: store.verdict(SHA), lambda: store.times(SHA)):
        with pytest.raises(StoreError, match="no stored frames of this video; run the decode stage again"):
            ask()
    for name in ("../../etc/passwd", "a" * 63, "A" * 64, ""):
        with pytest.raises(ValueError, match="is no SHA-256; expected 64 hex digits"):
            store.has(name)


@pytest.mark.parametrize("suffix", [".mkv", ".json"])
def test_one_flipped_bit_is_found_wherever_it_is(tmp_path: Path, suffix: str) -> None:
    store = FrameStore(tmp_path, "key")
    store.write(SHA, noise(3, 16, 16), lambda: OK)
    path = tmp_path / f"{SHA}{suffix}"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = sorted({0, len(good) - 2, *rng.integers(0, len(good) - 1, 60).tolist()})
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        assert not store.has(SHA), place
        with pytest.raises(StoreError, match="damaged"):
            list(store.read(SHA))
    path.write_bytes(good)
    assert store.has(SHA)


def test_another_spelling_of_the_same_record_is_damage(tmp_path: Path) -> None:
    """Mutant: a checksum of the parsed values alone takes such a record for good."""
    store = FrameStore(tmp_path, "key")
    store.write(SHA, [Frame(k * 1e-7, k * 1e-7, np.zeros((24, 16), np.uint8)) for k in range(2)], lambda: OK)
    path = tmp_path / f"{SHA}.json"
    good = path.read_bytes()
    assert good.count(b"1e-07") == 2
    path.write_bytes(good.replace(b"1e-07", b"1E-07", 1))  # one bit
    assert "damaged record" in store.fault(SHA)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[1]", b"{}", b'{"record_checksum": 1}', b"\xff\xfe", b'{"info": 3}']
)
def test_a_record_that_is_none(tmp_path: Path, content: bytes) -> None:
    store = FrameStore(tmp_path, "key")
    store.write(SHA, noise(2), lambda: OK)
    (tmp_path / f"{SHA}.json").write_bytes(content)
    assert not store.has(SHA)
    with pytest.raises(StoreError, match=r"damaged or unreadable record \(\w+\); run the decode stage again"):
        store.verdict(SHA)


def test_missing_cut_and_swapped_files(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, "key")
    store.write(SHA, noise(3), lambda: OK)
    store.write(OTHER, noise(3, seed=1), lambda: OK)
    media, other = tmp_path / f"{SHA}.mkv", tmp_path / f"{OTHER}.mkv"
    good = media.read_bytes()
    media.write_bytes(other.read_bytes())
    assert not store.has(SHA)
    media.write_bytes(good[:-1])
    assert not store.has(SHA)
    media.unlink()
    assert not store.has(SHA)
    with pytest.raises(StoreError, match="cannot be read"):
        next(store.read(SHA))
    (tmp_path / f"{OTHER}.json").rename(tmp_path / f"{SHA}.json")
    other.rename(media)
    with pytest.raises(StoreError, match="damaged record"):  # an entry under another video's name
        next(store.read(SHA))


def test_what_is_read_is_what_was_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer's file takes the name just after the check. Mutant: opening the path again reads that one."""
    store = FrameStore(tmp_path, "key")
    store.write(SHA, noise(4), lambda: OK)
    store.write(OTHER, noise(4, seed=1), lambda: OK)
    checksum = framestore._checksum

    def checksum_and_swap(file: Any) -> str:
        (tmp_path / f"{OTHER}.mkv").replace(tmp_path / f"{SHA}.mkv")
        return checksum(file)

    monkeypatch.setattr(framestore, "_checksum", checksum_and_swap)
    assert_same(list(store.read(SHA)), noise(4))


def test_a_store_of_any_key_is_for_looking(tmp_path: Path) -> None:
    FrameStore(tmp_path, "old").write(SHA, noise(2), lambda: OK)
    FrameStore(tmp_path, "new").write_rejected(OTHER, BAD)
    (tmp_path / f"{'c' * 64}.mkv").write_bytes(b"frames without a record")
    store = FrameStore(tmp_path, None)
    assert store.entries() == [SHA, OTHER, "c" * 64]
    assert [store.fault(sha256) == "" for sha256 in store.entries()] == [True, True, False]
    assert store.size_bytes(SHA) == sum((tmp_path / f"{SHA}{suffix}").stat().st_size for suffix in (".mkv", ".json"))
    assert_same(list(store.read(SHA)), noise(2))
    with pytest.raises(ValueError, match="expected a key, to write under"):
        store.write(SHA, noise(2), lambda: OK)
    with pytest.raises(ValueError, match="expected a key, to write under"):
        store.write_rejected(SHA, BAD)


def test_prune(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, "key")
    FrameStore(tmp_path, "old").write(OTHER, noise(2), lambda: OK)
    store.write(SHA, noise(2), lambda: OK)
    store.write_rejected("c" * 64, BAD)
    (tmp_path / "README.md").write_text("not an entry")
    assert store.prune({SHA}) == [OTHER, "c" * 64]
    assert names(tmp_path) == ["README.md", f"{SHA}.json", f"{SHA}.mkv"]


def test_several_writers_and_a_reader(tmp_path: Path) -> None:
    frames = noise(6, 32, 32)
    FrameStore(tmp_path, "key").write(SHA, frames, lambda: OK)
    failures: list[BaseException] = []
    done = threading.Event()

    def work(action: Any) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - handed to the test, which fails by it
            failures.append(error)

    def write() -> None:
        for _ in range(8):
            FrameStore(tmp_path, "key").write(SHA, frames, lambda: OK)

    def read() -> None:
        while not done.is_set():
            assert_same(list(FrameStore(tmp_path, "key").read(SHA)), frames)

    writers = [threading.Thread(target=work, args=[write]) for _ in range(3)]
    reader = threading.Thread(target=work, args=[read])
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert names(tmp_path) == [f"{SHA}.json", f"{SHA}.mkv"]


def test_the_record_can_be_read_by_anybody(tmp_path: Path) -> None:
    FrameStore(tmp_path, "key").write(SHA, noise(2), lambda: OK)
    record = json.loads((tmp_path / f"{SHA}.json").read_text())
    assert record["key"] == "key"
    assert record["time_seconds"] == [0.0, 1 / 7]
    assert record["info"]["verdict"] == {**dataclasses.asdict(OK), "notes": ["1 gap in the time stamps"]}
