import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from pipeline.errors import RejectedVideo, StoreError, ViewMismatch
from pipeline.features.store import FeatureStore, VideoFeatures, checksum, read_arrays, write_arrays

SHA, OTHER = "a" * 64, "b" * 64


def features(num_steps: int = 3, size: int = 4, seed: int = 0) -> VideoFeatures:
    values = np.random.default_rng(seed).standard_normal((num_steps, size)).astype(np.float16)
    times = np.arange(num_steps) / 7
    return VideoFeatures(values, times, times - 0.1 / 3)


def assert_same(found: VideoFeatures, expected: VideoFeatures) -> None:
    for name in ("values", "time_seconds", "pts_seconds"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features", "key-1")


def test_times_alone_are_read_without_the_values(tmp_path):
    store, sha256 = FeatureStore(tmp_path, "key"), "ab" * 32
    times = np.arange(3) / 8
    store.write(sha256, VideoFeatures(np.ones((3, 2), np.float16), times, times))
    assert store.times(sha256).tolist() == times.tolist()
    with pytest.raises(ViewMismatch, match="made under key key, expected other"):
        FeatureStore(tmp_path, "other").times(sha256)
    store.path(sha256).write_bytes(b"cut")
    with pytest.raises(StoreError, match="damaged or unreadable features"):
        store.times(sha256)
    with pytest.raises(StoreError, match="no stored features"):
        store.times("cd" * 32)


def test_what_is_written_is_read(store: FeatureStore) -> None:
    store.write(SHA, features())
    store.write(OTHER, features(1, 2000, seed=1))
    assert_same(store.read(SHA), features())
    assert_same(store.read(OTHER), features(1, 2000, seed=1))
    assert sorted(path.name for path in store.folder.iterdir()) == [f"{SHA}.safetensors", f"{OTHER}.safetensors"]


def test_views_and_fortran_order_are_stored_as_they_are_read(store: FeatureStore) -> None:
    values = np.asfortranarray(np.arange(12, dtype=np.float16).reshape(4, 3))
    times = np.arange(8.0)[::2]
    store.write(SHA, VideoFeatures(values[::-1], times, times))
    assert store.read(SHA).values.tolist() == [[9, 10, 11], [6, 7, 8], [3, 4, 5], [0, 1, 2]]
    assert store.read(SHA).time_seconds.tolist() == [0, 2, 4, 6]


def test_a_second_write_replaces_the_first(store: FeatureStore) -> None:
    store.write(SHA, features(seed=0))
    store.write(SHA, features(5, seed=1))
    assert_same(store.read(SHA), features(5, seed=1))


def test_has(store: FeatureStore) -> None:
    assert not store.has(SHA)
    store.write(SHA, features())
    assert store.has(SHA)
    assert not store.has(OTHER)
    assert not FeatureStore(store.folder, "key-2").has(SHA)


def test_every_flipped_bit_is_found(store: FeatureStore) -> None:
    store.write(SHA, features(2, 3))
    path = store.path(SHA)
    good = path.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        with pytest.raises(StoreError, match=f"{SHA}.*run the extract stage again: it rebuilds"):
            store.read(SHA)
    assert not store.has(SHA)
    assert len(good) > 300
    path.write_bytes(good)
    assert_same(store.read(SHA), features(2, 3))


def test_files_cut_short_emptied_or_with_something_behind_are_found(store: FeatureStore) -> None:
    store.write(SHA, features())
    good = store.path(SHA).read_bytes()
    for bad in (good[:-1], good[: len(good) // 2], b"", good + b"\0", bytes(len(good))):
        store.path(SHA).write_bytes(bad)
        assert "damaged" in store.fault(SHA)
        assert not store.has(SHA)


def test_a_store_of_any_key_is_for_looking(store: FeatureStore) -> None:
    store.write(SHA, features())
    FeatureStore(store.folder, "key-2").write(OTHER, features(seed=1))
    every = FeatureStore(store.folder, None)
    assert every.entries() == [SHA, OTHER]
    assert [every.fault(sha256) for sha256 in every.entries()] == ["", ""]
    assert_same(every.read(OTHER), features(seed=1))
    assert every.size_bytes(SHA) == store.path(SHA).stat().st_size
    assert every.size_bytes("c" * 64) == 0
    with pytest.raises(ValueError, match="expected a key, to write under"):
        every.write(SHA, features())


def test_a_missing_file_is_an_error_that_says_what_to_do(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match=r"aaaa\.safetensors: no stored features .* run the extract stage again"):
        store.read(SHA)


def test_features_of_another_key_are_refused(store: FeatureStore) -> None:
    store.write(SHA, features())
    with pytest.raises(ViewMismatch, match="made under key key-1, expected key-2"):
        FeatureStore(store.folder, "key-2").read(SHA)


def test_the_checksum_is_over_the_key_too(tmp_path: Path) -> None:
    """A training depends on the table of checksums, and not on the CNN, whose weights are in the key."""
    stores = [FeatureStore(tmp_path / key, key) for key in ("key-1", "key-2")]
    for store in stores:
        store.write(SHA, features())
        store.write_rejected(OTHER, "no flow")
    for sha256 in (SHA, OTHER):
        assert len({store.checksum(sha256) for store in stores}) == 2


def test_damage_of_the_video_is_kept_beside_its_features(store: FeatureStore) -> None:
    store.write(SHA, features(), damage="29 of 60 frames")
    store.write(OTHER, features())
    assert [store.read_with_damage(sha256)[1] for sha256 in (SHA, OTHER)] == ["29 of 60 frames", ""]
    path = store.path(SHA)
    path.write_bytes(path.read_bytes().replace(b"29 of 60", b"60 of 60"))
    with pytest.raises(StoreError, match="checksum does not fit"):
        store.read(SHA)


def test_features_of_another_video_are_found(store: FeatureStore) -> None:
    store.write(SHA, features())
    store.path(SHA).rename(store.path(OTHER))
    with pytest.raises(StoreError, match="checksum does not fit"):
        store.read(OTHER)


def test_sound_files_of_another_kind_are_refused(store: FeatureStore) -> None:
    arrays = {"values": np.zeros((2, 3), np.float16)}
    label = {"key": "key-1", "damage": ""}
    write_arrays(store.path(SHA), arrays, {**label, "checksum": checksum(arrays, f"key-1 {SHA} ")})
    with pytest.raises(StoreError, match=r"unusable features .*time_seconds"):
        store.read(SHA)
    write_arrays(store.path(SHA), arrays, {})
    with pytest.raises(StoreError, match="checksum does not fit"):
        store.read(SHA)


def test_prune_keeps_what_is_named_and_what_is_not_its_own(store: FeatureStore) -> None:
    assert store.prune({SHA}) == []
    for sha256 in (SHA, OTHER):
        store.write(sha256, features())
    (store.folder / "notes.safetensors").write_bytes(b"")
    assert store.prune({OTHER}) == [SHA]
    assert sorted(path.name for path in store.folder.iterdir()) == [f"{OTHER}.safetensors", "notes.safetensors"]


@pytest.mark.parametrize("name", ["", "abc", "../" + "a" * 61, "A" * 64, "a" * 65, "a" * 64 + "\n"])
def test_only_hashes_name_files(store: FeatureStore, name: str) -> None:
    with pytest.raises(ValueError, match="expected 64 hex digits"):
        store.has(name)


def test_writers_do_not_disturb_each_other(store: FeatureStore) -> None:
    candidates = [features(50, 64, seed=seed) for seed in range(4)]

    def work(own: VideoFeatures) -> bool:
        store.write(SHA, own)
        found = store.read(SHA).values
        return any(np.array_equal(found, one.values) for one in candidates)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, candidates * 5))
    assert [path.name for path in store.folder.iterdir()] == [f"{SHA}.safetensors"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(SHA, features())

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(
        StoreError, match=r"aaa\.safetensors: cannot be written \(No space left .* MB free\); free some"
    ):
        store.write(SHA, features(seed=1))
    monkeypatch.undo()
    assert_same(store.read(SHA), features())
    assert [path.name for path in store.folder.iterdir()] == [f"{SHA}.safetensors"]


def test_equal_contents_give_equal_bytes_in_every_process(tmp_path: Path) -> None:
    # The order of safetensors' own metadata changes from process to process.
    script = (
        "import sys, pathlib, numpy as np; from pipeline.features.store import write_arrays; "
        "write_arrays(pathlib.Path(sys.argv[1]), {'x': np.arange(3.0)}, {name: 'v' for name in 'abcdefgh'})"
    )
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for file in files:
        subprocess.run([sys.executable, "-c", script, str(file)], check=True)
    write_arrays(tmp_path / "2.safetensors", {"x": np.arange(3.0)}, dict.fromkeys("hgfedcba", "v"))
    assert files[0].read_bytes() == files[1].read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_arrays_keep_shape_and_kind_and_other_readers_understand_them(tmp_path: Path) -> None:
    arrays = {"none": np.array(7, np.int64), "empty": np.zeros((0, 3), np.float32), "turned": np.eye(3)[:, ::-1]}
    write_arrays(tmp_path / "x.safetensors", arrays, {"note": 'a "quoted" ünïcode \\ line\n'})
    found, metadata = read_arrays(tmp_path / "x.safetensors")
    assert metadata == {"note": 'a "quoted" ünïcode \\ line\n'}
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.get_tensor("none").item() == 7


def test_the_checksum_sees_names_kinds_shapes_and_values() -> None:
    base = {"a": np.arange(6, dtype=np.float32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].reshape(2, 3)},
        {"a": base["a"].view(np.int32)},
        {"a": base["a"] + 1},
        {**base, "b": base["a"]},
    ]
    sums = [checksum(arrays) for arrays in (base, *others)] + [checksum(base, "label")]
    assert len(set(sums)) == 7
    assert checksum({"a": np.arange(12, dtype=np.float32)[::2] / 2}) == sums[0]


@pytest.mark.parametrize(
    ("values", "times", "pts", "message"),
    [
        (np.zeros((2, 3), np.float64), np.zeros(2), np.zeros(2), "float64 of shape"),
        (np.zeros(2, np.float16), np.zeros(2), np.zeros(2), r"expected float16 or float32 of shape \(T, D\)"),
        (np.zeros((0, 3), np.float16), np.zeros(0), np.zeros(0), "at least one timestep"),
        (np.zeros((2, 3), np.float16), np.zeros(3), np.zeros(2), "time_seconds is .*one float64 for each of the 2"),
        (np.zeros((2, 3), np.float16), np.zeros(2), np.zeros(2, np.float32), "pts_seconds is float32"),
        (np.zeros((2, 3), np.float16), np.zeros(2), np.array([0, np.nan]), "pts_seconds holds 1 times"),
        (np.array([[0], [np.inf]], np.float16), np.array([0, 0.5]), np.zeros(2), r"1 of 2 .* \(the first at 0.500 s\)"),
    ],
)
def test_features_check_themselves(values: np.ndarray, times: np.ndarray, pts: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoFeatures(values, times, pts)


def test_ten_crops_are_stored_as_they_are(store: FeatureStore) -> None:
    values = np.random.default_rng(0).standard_normal((3, 10, 4)).astype(np.float16)
    store.write(SHA, VideoFeatures(values, np.arange(3.0), np.arange(3.0)))
    found = store.read(SHA)
    assert found.values.shape == (3, 10, 4)
    assert found.values.tobytes() == values.tobytes()
    assert found.num_crops == 10
    assert np.array_equal(found.crop(7), values[:, 7])
    assert features().num_crops == 1
    assert np.array_equal(features().crop(0), features().values)
    for one, number in ((found, 10), (found, -1), (features(), 1)):
        with pytest.raises(ValueError, match=f"crop {number} of features of shape .*; expected 0 to"):
            one.crop(number)
    values[1, 9, 3] = np.inf
    with pytest.raises(ValueError, match=r"1 of 3 feature vectors .* \(the first at 1.000 s\)"):
        VideoFeatures(values, np.arange(3.0), np.arange(3.0))


def test_that_a_video_gives_no_features_is_kept_with_the_reason(store: FeatureStore) -> None:
    store.write(SHA, features())
    store.write_rejected(SHA, "only one picture")
    store.write(OTHER, features())
    assert store.has(SHA)
    assert store.entries() == [SHA, OTHER]
    assert store.rejection(SHA) == "only one picture"
    assert store.rejection(OTHER) == ""
    for ask in (store.read, store.times, store.read_with_damage):
        with pytest.raises(RejectedVideo, match=r"^only one picture$"):
            ask(SHA)
    with pytest.raises(StoreError, match="no stored features"):
        store.rejection("c" * 64)
    other = FeatureStore(store.folder, "key-2")
    assert not other.has(SHA)
    with pytest.raises(ViewMismatch, match="made under key key-1"):
        other.rejection(SHA)
    data = bytearray(store.path(SHA).read_bytes())
    data[data.index(b"only")] ^= 1
    store.path(SHA).write_bytes(data)
    assert "checksum" in store.fault(SHA)
    store.write(SHA, features())
    assert_same(store.read(SHA), features())
