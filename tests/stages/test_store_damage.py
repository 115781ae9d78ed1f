"""Stored frames and features that rot, that are of other parameters, or that do not fit on the disk."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.errors import StoreError
from pipeline.features.store import FeatureStore
from pipeline.files import MACHINE, write_table
from pipeline.video.framestore import FrameStore
from tests.conftest import run_stage
from tests.stages.store_writers import ENTRIES, write_as_a_stage, write_entries
from tests.stages.test_store_faults import DECODE, FEATURES, FRAMES, MODEL, contents, finished

pytestmark = pytest.mark.slow


def fault(path: Path) -> str:
    store = FeatureStore(path.parent, None) if path.suffix == ".safetensors" else FrameStore(path.parent, None)
    return store.fault(path.stem)


def find_and_rebuild(damaged: Iterable[Path], expected: dict[str, bytes]) -> None:
    """Each of these files is noticed, and the stages put back what stood there."""
    assert [path.name for path in damaged if not fault(path)] == []
    run_stage("decode")
    run_stage("extract")
    assert contents(FRAMES) | contents(FEATURES) == expected


def test_100_flipped_bits_are_found_and_rebuilt(toy):
    """Mutant, by hand: without checksums most flips in features and frames pass unseen."""
    expected = contents(FRAMES) | contents(FEATURES)
    rng = np.random.default_rng(0)
    files = sorted([*FRAMES.iterdir(), *FEATURES.iterdir()])
    assert len(files) == 180
    chosen = [files[k] for k in rng.permutation(len(files))[:100]]
    for group in (chosen[:50], chosen[50:]):
        for path in group:
            data = bytearray(path.read_bytes())
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
        find_and_rebuild(group, expected)


def test_cut_empty_swapped_and_lengthened_files_are_found_and_rebuilt(toy):
    """Mutant, by hand: without checksums files of another video pass as this one's."""
    expected = contents(FRAMES) | contents(FEATURES)
    damaged = []
    for folder, suffix in ((FRAMES, ".mkv"), (FRAMES, ".json"), (FEATURES, ".safetensors")):
        cut, empty, zeros, swapped, longer, other, *_ = sorted(folder.glob(f"*{suffix}"))
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        empty.write_bytes(b"")
        zeros.write_bytes(bytes(zeros.stat().st_size))
        shutil.copy(other, swapped)
        longer.write_bytes(longer.read_bytes() + b"\n")
        damaged += [cut, empty, zeros, swapped, longer]
    find_and_rebuild(damaged, expected)


def test_what_other_parameters_made_is_replaced_and_the_way_back_gives_the_same_bytes(toy):
    """Mutant, by hand: a store that does not compare keys keeps all old entries."""
    expected = contents(FRAMES) | contents(FEATURES)
    config = Path("configs/toy.yaml")
    for old, new in (("fps: 10.0", "fps: 5.0"), ("fps: 5.0", "fps: 10.0")):
        config.write_text(config.read_text().replace(old, new))
        run_stage("decode")
        run_stage("extract")
        found = contents(FRAMES) | contents(FEATURES)
        assert set(found) == set(expected)
        assert sum(found[name] == expected[name] for name in found) == (0 if new == "fps: 5.0" else len(expected))


def test_features_on_command_are_rebuilt_too(toy, capsys):
    arguments = ["extract", "media/toy/left/g00.mp4", "--backbone", "squeezenet1_1", "--weights", "random"]
    arguments += ["--fps", "10", "--short-side", "32", "--crop", "32", "--out", "features"]
    assert cli.main(arguments) == 0
    (path,) = Path("features").glob("*.safetensors")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert cli.main(arguments) == 0
    assert path.read_bytes() == good
    assert "1 looked at now" in capsys.readouterr().out


# --- lrcn store -------------------------------------------------------------------------------------------------------


def test_verify_says_what_is_damaged(tmp_path, capsys):
    write_entries(tmp_path)
    frames, features = tmp_path / "frames", tmp_path / "features"
    assert cli.main(["store", "verify", str(frames), str(features)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"store: {frames}: {len(ENTRIES)} videos, 0 of them damaged",
        f"store: {features}: {len(ENTRIES)} videos, 0 of them damaged",
    ]
    path = features / f"{ENTRIES[1]}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (frames / f"{ENTRIES[0]}.json").unlink()
    before = contents(tmp_path)
    assert cli.main(["store", "verify", str(frames), str(features)]) == 1
    printed = capsys.readouterr().out
    assert f"{ENTRIES[0]}.json: no stored frames of this video; run the decode stage again" in printed
    assert f"{ENTRIES[1]}.safetensors: damaged or unreadable features" in printed
    assert printed.count("1 of them damaged") == 2
    assert contents(tmp_path) == before
    assert cli.main(["store", "verify", str(features), str(tmp_path)]) == 2
    assert f"{tmp_path}: no stored frames or features there" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["frames", "features"])
def test_prune_removes_what_no_video_needs(tmp_path, capsys, kind):
    write_entries(tmp_path)
    folder, table = tmp_path / kind, tmp_path / "videos.csv"
    write_table(table, ["sha256", "status"], [[ENTRIES[0], "ok"], [ENTRIES[1], "damaged"], [ENTRIES[2], "rejected"]])
    media = folder / f"{ENTRIES[1]}{'.mkv' if kind == 'frames' else '.safetensors'}"
    media.write_bytes(media.read_bytes()[:-1])
    abandoned = folder / f".x.mkv.{MACHINE}{'0' * 20}.tmp"
    abandoned.write_bytes(b"half a video")
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    assert cli.main(["store", "prune", str(folder), "--videos", str(table), "--dry-run"]) == 0
    assert contents(folder) == before
    planned = capsys.readouterr().out
    assert cli.main(["store", "prune", str(folder), "--videos", str(table)]) == 0
    printed = capsys.readouterr().out
    assert planned.replace("would remove", "removed") == printed
    left = contents(folder)
    assert left == {name: data for name, data in before.items() if name.startswith((ENTRIES[0], "notes"))}
    num_bytes = sum(map(len, before.values())) - sum(map(len, left.values()))
    lines = printed.splitlines()
    assert lines[0] == f"store: removed {abandoned}: left by a writer that is dead (12 bytes)"
    assert lines[1].startswith(f"store: removed {ENTRIES[1]} (")
    assert "damaged" in lines[1]
    assert lines[2].endswith("bytes): of no usable video in the table")
    assert lines[3:] == [f"store: {folder}: removed 3 of {num_bytes} bytes in all"]


def test_prune_with_the_wrong_table_removes_nothing(tmp_path, capsys):
    write_entries(tmp_path)
    before = contents(tmp_path)
    folder, table = str(tmp_path / "frames"), tmp_path / "videos.csv"
    assert cli.main(["store", "prune", folder, "--videos", str(table)]) == 2
    write_table(table, ["sha256"], [[ENTRIES[0]]])
    assert cli.main(["store", "prune", folder, "--videos", str(table)]) == 2
    write_table(table, ["sha256", "status"], [[ENTRIES[0], "rejected"]])
    assert cli.main(["store", "prune", folder, "--videos", str(table)]) == 2
    message = capsys.readouterr().err
    assert "no column status" in message
    assert "no usable video in it, so nothing would stay" in message
    table.unlink()
    assert contents(tmp_path) == before


# --- full disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mount_small_disk() -> Iterator[object]:
    """A function that puts a file system of 2 MB on an empty folder."""
    mounted: list[Path] = []

    def mount(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs; tests/unit/test_files.py stops writes without it")
        mounted.append(folder.absolute())
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, bytes_left: int) -> Path:
    """Leave so much space on a file system."""
    filler = folder / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - bytes_left)))
    return filler


def test_a_disk_that_is_full_at_any_of_20_points(mount_small_disk, tmp_path):
    """Mutant, by hand: writing under the final name leaves cut files there."""
    write_as_a_stage(tmp_path / "large")
    expected = contents(tmp_path / "large")
    disk = mount_small_disk(tmp_path / "small")
    space = 2 * 2**20 - shutil.disk_usage(disk).free
    write_as_a_stage(disk)
    space = 2 * 2**20 - shutil.disk_usage(disk).free - space
    assert contents(disk) == expected
    for point in range(20):
        for folder in ("frames", "features"):
            shutil.rmtree(disk / folder)
        (disk / "table.csv").unlink()
        filler = fill(disk, space * point // 20)
        with pytest.raises(
            StoreError, match=rf"^{disk}/.+: cannot be written \(No space left on device; \d\.\d MB free"
        ):
            write_as_a_stage(disk)
        found = finished(disk)
        assert {name: found[name] for name in found if name != "filler" and found[name] != expected[name]} == {}
        assert not list(disk.rglob("*.tmp"))
        filler.unlink()
        write_as_a_stage(disk)
        assert contents(disk) == expected


def test_a_stage_on_a_full_disk_stops_and_goes_on_when_there_is_space(mount_small_disk, toy):
    expected = contents(FRAMES)
    shutil.rmtree(FRAMES)
    filler = fill(mount_small_disk(FRAMES), 2**18)
    # As a process: its end waits for the threads that were writing other videos, the command's end does not.
    done = subprocess.run(DECODE, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"lrcn decode: {FRAMES}/")
    assert done.stderr.endswith("MB free); free some and run again: what is finished is kept\n")
    found = contents(FRAMES)
    found.pop("filler")
    assert 0 < len(found) < len(expected)
    assert {name: found[name] for name in found if found[name] != expected[name]} == {}
    filler.unlink()
    assert cli.main(["decode", "--config", "configs/toy.yaml"]) == 0
    assert contents(FRAMES) == expected


def test_predictions_on_a_full_disk(mount_small_disk, toy, capsys):
    arguments = ["predict", "media/toy/left", "--model", MODEL, "--out"]
    assert cli.main([*arguments, "large"]) == 0
    disk = mount_small_disk(Path("small"))
    for bytes_left in (0, 8192, 16384):
        filler = fill(disk, bytes_left)
        assert cli.main([*arguments, "small"]) == 2
        assert "lrcn predict: small/" in capsys.readouterr().err
        filler.unlink()
        assert not list(disk.glob(".*.tmp"))
        assert {name: data for name, data in finished(disk).items() if data != Path("large", name).read_bytes()} == {}
        tables = {name for name in finished(disk) if not name.startswith("thumbnails/")}
        assert tables <= {"results.csv"}
    assert cli.main([*arguments, "small"]) == 0
    for name in ("results.csv", "predictions.jsonl", "segments.csv"):
        assert Path("small", name).read_bytes() == Path("large", name).read_bytes()
