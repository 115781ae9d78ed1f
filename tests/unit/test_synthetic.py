import csv
import hashlib
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import av
import cv2
import numpy as np
import pytest

from pipeline import synthetic
from pipeline.errors import DataError
from pipeline.synthetic import _place_of, barcode_frame, draw_dataset, read_barcode, write_video
from pipeline.synthetic_pose import FEET, PAIRS, draw_person
from pipeline.synthetic_scene import SCENES
from pipeline.synthetic_video import CLASSES, Move, Place, draw_video, generator, plan_clip, plan_recording

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

SEED = 3
OPPOSITES = [(away, back) for away, back, _ in PAIRS]


def decode(path):
    """Pictures as stored (not turned), times in seconds from the first frame, and the turn the file asks for."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [float((frame.pts - frames[0].pts) * frame.time_base) for frame in frames]
    rotations = {frame.rotation for frame in frames}
    assert len(rotations) == 1
    return [frame.to_ndarray(format="rgb24") for frame in frames], times, rotations.pop()


def tree(folder):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}


def videos(folder):
    return [checksum for name, checksum in tree(folder).items() if name.endswith(".mp4")]


def rows(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def drawn(label, name):
    person = draw_person(generator(SEED, "someone"), tuple(SCENES))
    rng = generator(SEED, name)
    plan = plan_clip(label, rng)
    return plan, draw_video(plan, person, rng)


def draw_small(folder, seed=SEED, workers=1, progress=None):
    counts = {"num_people": 1, "clips_per_class": 1, "recordings_per_person": 1}
    return draw_dataset(folder, seed=seed, **counts, workers=workers, progress=progress)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return draw_small(tmp_path_factory.mktemp("small"))


# The point of the data set: only the order of the frames tells a pair apart.


@pytest.mark.parametrize(("away", "back"), OPPOSITES)
def test_a_clip_backwards_is_a_clip_of_the_opposite_class_to_the_pixel(away, back):
    one, other = drawn(away, "clip")[1], drawn(back, "clip")[1]
    assert len(one.frames) > 30
    assert np.array_equal(one.frames, other.frames[::-1])
    assert not np.array_equal(one.frames[0], other.frames[0])
    assert (one.fps, one.rotation_degrees) == (other.fps, other.rotation_degrees)


def test_opposite_classes_share_every_other_choice():
    for number, (away, back) in itertools.product(range(30), OPPOSITES):
        one, other = plan_clip(away, generator(0, f"{number}")), plan_clip(back, generator(0, f"{number}"))
        assert (one.backwards, other.backwards) == (False, True)
        assert {**one.__dict__, "backwards": True} == other.__dict__


def test_irregular_times_turn_round_with_the_pictures():
    name = next(f"{n}" for n in range(100) if plan_clip("sit_down", generator(SEED, f"{n}")).variable_rate)
    one, other = drawn("sit_down", name)[1].pts_seconds, drawn("stand_up", name)[1].pts_seconds
    assert one[0] == other[0] == 0
    assert np.allclose(np.diff(one), np.diff(other)[::-1])
    assert len(set(np.diff(one).round(4))) > 10


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_coding_a_video_backwards_gives_the_same_pictures_backwards(tmp_path, codec):
    frames = drawn("walk_in", "coded")[1].frames[:40]
    forward = decode(write_video(tmp_path / "a.mp4", frames, codec=codec, lossless=False))[0]
    backward = decode(write_video(tmp_path / "b.mp4", frames[::-1], codec=codec, lossless=False))[0]
    assert np.array_equal(forward, backward[::-1])
    assert not np.array_equal(forward[0], frames[0])  # it is lossy, or the line above proves nothing


def test_an_action_in_a_recording_backwards_is_the_opposite_action():
    move = Move(pair=1, away=True, start=2.0, end=3.5, sharpness=0.7, skew=0.3, side=1)
    mirrored = Move(pair=1, away=False, start=2.0, end=3.5, sharpness=0.7, skew=-0.3, side=1)
    assert (move.label, mirrored.label) == ("raise_arms", "lower_arms")
    for time in np.linspace(1.5, 4.0, 26):
        assert move.progress(time) == pytest.approx(mirrored.progress(5.5 - time))
    assert [move.progress(time) for time in (0, 2.0, 3.5, 9)] == [0, 0, 1, 1]
    assert move.visible() == pytest.approx([5.5 - time for time in mirrored.visible()[::-1]])
    assert [move.progress(time) for time in move.visible()] == pytest.approx([0.05, 0.95], abs=0.01)
    steps = np.diff([move.progress(time) for time in np.linspace(2.0, 3.5, 50)])
    assert np.all(steps > 0)


def test_every_action_starts_from_the_same_standing_pose():
    person = draw_person(generator(SEED, "someone"), tuple(SCENES))
    poses = [pose(person, 0.0, 1.5) for _, _, pose in PAIRS]
    for pose in poses[1:]:
        assert pose.hip == pytest.approx(poses[0].hip, abs=1e-9)
        assert pose.feet == pytest.approx(FEET, abs=1e-9)
        assert (*pose.upper_arms, *pose.forearms) == pytest.approx((*poses[0].upper_arms, *poses[0].forearms), abs=1e-9)
        assert (pose.lean, pose.head) == pytest.approx((poses[0].lean, 0.0), abs=1e-9)


@pytest.mark.parametrize("side", [-1, 1])
def test_feet_on_the_floor_do_not_slide_when_walking(side):
    person = draw_person(generator(SEED, "someone"), tuple(SCENES))
    poses = [PAIRS[2][2](person, progress, side * 1.5) for progress in np.linspace(0.4, 0.9, 400)]
    for foot in (0, 1):
        track = np.array([pose.feet[foot] for pose in poses])
        on_floor = track.imag < FEET[foot].imag + 1e-12
        slides = np.abs(np.diff(track.real))[on_floor[1:] & on_floor[:-1]]
        assert len(slides) > 50
        assert slides.max() < 1e-9


def test_walking_out_leaves_an_empty_picture():
    plan, video = drawn("walk_out", "empty")
    blur = [cv2.GaussianBlur(frame, (0, 0), 2).astype(int) for frame in (video.frames[0], *video.frames[-2:])]
    assert plan.moves[0].progress(plan.times[-2]) == 1
    assert np.abs(blur[1] - blur[2]).max() < 40  # nobody moves any more
    assert np.abs(blur[0] - blur[2]).max() > 60  # somebody was there


# With `tied` the place follows from the class, and nothing else does.


def test_a_place_changes_the_background_and_nothing_else():
    person = draw_person(generator(SEED, "someone"), tuple(SCENES))
    videos, states = [], []
    for place in (None, Place("park", SEED, "one"), Place("park", SEED, "one"), Place("city", SEED, "other")):
        rng = generator(SEED, "place")
        plan = plan_clip("bend_down", rng)
        videos.append(draw_video(plan, person, rng, place))
        states.append(rng.bit_generator.state)
    assert all(state == states[0] for state in states)  # what is drawn afterwards is the same: noise, light, shake
    assert np.array_equal(videos[1].frames, videos[2].frames)
    for number in (1, 3):
        assert (videos[number].fps, videos[number].pts_seconds) == (videos[0].fps, videos[0].pts_seconds)
        same = np.abs(np.array(videos[number].frames[9], int) - videos[0].frames[9]).max(axis=-1) <= 2
        assert 0.01 < same.mean() < 0.5  # the person


def test_a_tied_data_set(tmp_path):
    folder = draw_dataset(
        tmp_path / "tied", seed=SEED, num_people=2, clips_per_class=1, recordings_per_person=0, tied=True, workers=1
    )
    names = [row["path"] for row in rows(folder / "videos.csv")]
    assert len(names) == 2 * len(CLASSES)
    assert not (folder / "segments.csv").exists()
    assert not (folder / "recordings").exists()
    before = tree(folder)
    draw_dataset(folder, seed=SEED, num_people=2, clips_per_class=1, recordings_per_person=0, tied=True, workers=1)
    assert tree(folder) == before
    assert len({_place_of(label, 0) for label in CLASSES}) == len(CLASSES)
    for away, back in OPPOSITES:
        assert _place_of(away, 0).kind != _place_of(back, 0).kind
    with pytest.raises(DataError, match=r"expected a seed .* no recordings"):
        draw_dataset(tmp_path / "x", num_people=1, recordings_per_person=2, tied=True)
    with pytest.raises(DataError, match=r"expected a seed .* 1 to 26 recordings"):
        draw_dataset(tmp_path / "x", num_people=1, recordings_per_person=0)


def test_files_tables_and_commit_file(small):
    clips = {f"clips/{label}/person-01_a.mp4" for label in CLASSES}
    assert set(tree(small)) == {*clips, "recordings/person-01_a.mp4", "videos.csv", "segments.csv", "dataset.json"}
    table = rows(small / "videos.csv")
    assert [row["path"] for row in table] == sorted({*clips, "recordings/person-01_a.mp4"})
    assert all(row["person"] == "person-01" for row in table)
    assert all(row["label"] == (row["path"].split("/")[1] if row["path"] in clips else "") for row in table)
    committed = json.loads((small / "dataset.json").read_text())
    assert (committed["seed"], committed["num_clips"], committed["num_recordings"]) == (SEED, 8, 1)


def test_every_file_is_as_planned(small):
    for row in rows(small / "videos.csv"):
        rng = generator(SEED, row["path"])
        plan = plan_clip(row["label"], rng) if row["label"] else plan_recording(rng)
        frames, times, rotation = decode(small / row["path"])
        turned = plan.rotation_degrees % 180 == 90
        assert frames[0].shape[:2] == ((plan.width, plan.height) if turned else (plan.height, plan.width))
        assert rotation == {0: 0, 90: -90, 270: 90}[plan.rotation_degrees]
        assert len(times) == len(plan.times)
        wanted = np.subtract(plan.times, plan.times[0])
        if plan.backwards:
            wanted = wanted[-1] - wanted[::-1]
        assert np.abs(np.array(times) - wanted).max() < 1e-4


def test_segments_follow_from_each_other_and_lie_inside_the_video():
    pairs = {label: set(pair) for pair in OPPOSITES for label in pair}
    starts = set()
    for number in range(60):
        plan = plan_recording(generator(0, f"recordings/person-{number}_a.mp4"))
        segments = plan.segments
        assert 5 <= len(segments) <= 7
        starts.add(segments[0][2])
        assert segments[0][0] > 0.9
        assert segments[-1][1] < plan.times[-1] - plan.times[0] - 0.9
        assert 15.9 < plan.times[-1] - plan.times[0] < 26
        for (_, end, label), (start, _, following), move in zip(segments, segments[1:], plan.moves, strict=False):
            assert 0.999 <= start - end <= 3.5
            assert move.away != (following in {away for away, _ in OPPOSITES})
            assert not move.away or following in pairs[label]  # after sit_down only stand_up is possible
        for move, following in itertools.pairwise(plan.moves):
            assert not move.away or move.side == following.side  # back by the side they left by
    assert starts == set(CLASSES)


def test_segments_table_is_that_of_the_recordings(small):
    plan = plan_recording(generator(SEED, "recordings/person-01_a.mp4"))
    found = [tuple(row.values()) for row in rows(small / "segments.csv")]
    assert found == [("recordings/person-01_a.mp4", f"{a:.3f}", f"{b:.3f}", label) for a, b, label in plan.segments]


def test_rates_sizes_and_turns_are_drawn_without_looking_at_the_class():
    plans = [plan_clip(CLASSES[n % 8], generator(0, f"{n}")) for n in range(800)]
    assert {(plan.width, plan.height) for plan in plans} == {(160, 120), (192, 144), (176, 144), (160, 160), (120, 160)}
    assert {plan.fps for plan in plans} == {24, 25, 30}
    assert {plan.rotation_degrees for plan in plans} == {0, 90, 270}
    assert 0.2 < np.mean([plan.variable_rate for plan in plans]) < 0.3
    assert 0.05 < np.mean([plan.rotation_degrees > 0 for plan in plans]) < 0.12
    lengths = [plan.times[-1] - plan.times[0] for plan in plans]
    assert 1.5 < min(lengths) < max(lengths) < 3.2


@pytest.mark.slow  # starts processes
def test_two_workers_draw_the_same_bytes(small, tmp_path):
    seen = []
    draw_small(tmp_path, workers=2, progress=lambda *done: seen.append(done))
    assert tree(tmp_path) == tree(small)
    assert seen == [(n, 9) for n in range(1, 10)]


@pytest.mark.slow
def test_a_dead_worker_is_one_line_and_what_is_drawn_is_kept(tmp_path, monkeypatch):
    class DyingPool(ThreadPoolExecutor):
        def __init__(self, workers, context, initializer):
            assert context.get_start_method() == "spawn"
            super().__init__(1)

        def submit(self, draw, folder, seed, name, tied):
            own = (die,) if name.startswith("recordings") else (draw, folder, seed, name, tied)
            return super().submit(*own)

    def die():
        raise BrokenProcessPool("killed")

    monkeypatch.setattr(synthetic, "ProcessPoolExecutor", DyingPool)
    with pytest.raises(DataError, match=r"a drawing process died .* run again, what is drawn is kept"):
        draw_small(tmp_path, workers=2)
    assert len(videos(tmp_path)) == 8
    assert not (tmp_path / "dataset.json").exists()


def test_another_seed_draws_other_people_and_other_videos():
    one, other = (draw_person(generator(seed, "person-01"), tuple(SCENES)) for seed in (0, 1))
    assert one != other
    assert plan_clip("walk_in", generator(0, "a")) != plan_clip("walk_in", generator(1, "a"))


@pytest.fixture
def counted(small, tmp_path, monkeypatch):
    """A copy of the small data set, and the list of the files drawn into it from now on."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    calls = []
    draw = synthetic._draw_file
    monkeypatch.setattr(synthetic, "_draw_file", lambda *args: (calls.append(args[2]), draw(*args))[1])
    return tmp_path, calls


def test_a_complete_data_set_is_left_alone(counted):
    times = [path.stat().st_mtime_ns for path in sorted(counted[0].rglob("*"))]
    assert draw_small(counted[0]) == counted[0]
    assert counted[1] == []
    assert [path.stat().st_mtime_ns for path in sorted(counted[0].rglob("*"))] == times


def test_only_what_is_missing_is_drawn(counted, small):
    folder, calls = counted
    (folder / "clips/sit_down/person-01_a.mp4").unlink()
    (folder / "videos.csv").unlink()
    (folder / "clips/walk_in" / ".person-01_a.mp4.77.tmp").write_bytes(b"half a file")
    draw_small(folder)
    assert calls == ["clips/sit_down/person-01_a.mp4"]
    assert tree(folder) == tree(small)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path, small, monkeypatch):
    draw = synthetic._draw_file
    calls = []

    def stop_at_the_fourth(folder, seed, name, tied):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(name)
        return draw(folder, seed, name, tied)

    monkeypatch.setattr(synthetic, "_draw_file", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        draw_small(tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    monkeypatch.setattr(synthetic, "_draw_file", lambda *args: (calls.append(args[2]), draw(*args))[1])
    draw_small(tmp_path)
    assert sorted(calls) == sorted(set(calls))
    assert tree(tmp_path) == tree(small)


@pytest.mark.slow
def test_videos_of_another_seed_are_drawn_anew(counted, small):
    folder, calls = counted
    draw_small(folder, seed=SEED + 1)
    assert len(calls) == 9
    assert len(tree(folder)) == len(tree(small)) == 12
    assert not set(videos(folder)) & set(videos(small))


def test_foreign_videos_are_neither_mixed_in_nor_deleted(counted):
    folder, calls = counted
    foreign = folder / "clips/sit_down/holiday.mp4"
    foreign.write_bytes(b"mine")
    (folder / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"holiday\.mp4: not a video of this data set"):
        draw_small(folder)
    assert foreign.read_bytes() == b"mine"
    assert calls == []


def test_counts_out_of_range_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"0 people.*expected .* 1 to 999 people"):
        draw_dataset(tmp_path, num_people=0)
    with pytest.raises(DataError, match="at least 1 worker"):
        draw_dataset(tmp_path, workers=0)


def moving(number=8, height=48, width=64):
    return [barcode_frame(index, height, width) for index in range(number)]


@pytest.mark.parametrize(("codec", "suffix"), [("libx264rgb", ".mp4"), ("libx264rgb", ".mkv"), ("ffv1", ".mkv")])
def test_lossless_rgb_keeps_every_value(tmp_path, codec, suffix):
    frames = [np.random.default_rng(n).integers(0, 256, (33, 47, 3), np.uint8) for n in range(5)]
    found = decode(write_video(tmp_path / f"a{suffix}", frames, codec=codec))[0]
    assert np.array_equal(frames, found)


def test_lossless_yuv_keeps_every_value(tmp_path):
    frames = [np.random.default_rng(n).integers(0, 256, (32, 48, 3), np.uint8) for n in range(5)]
    with av.open(str(write_video(tmp_path / "a.mp4", frames))) as container:
        found = [frame.to_ndarray() for frame in container.decode(video=0)]
    wanted = [av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="yuv420p").to_ndarray() for frame in frames]
    assert np.array_equal(wanted, found)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".ts"])
def test_every_frame_is_read_back_in_order(tmp_path, suffix):
    found, times, _ = decode(write_video(tmp_path / f"a{suffix}", moving(), fps=12.5))
    assert [read_barcode(frame) for frame in found] == list(range(8))
    assert times == pytest.approx([n / 12.5 for n in range(8)], abs=1e-3)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_barcodes_survive_lossy_coding_and_resizing(tmp_path, codec):
    numbers = [0, 1, 2, 4095, 32768, 43690, 65535]
    frames = [barcode_frame(number, 120, 160) for number in numbers]
    found = decode(write_video(tmp_path / "a.mp4", frames, codec=codec, lossless=False))[0]
    assert [read_barcode(frame) for frame in found] == numbers
    small = [cv2.resize(frame, (128, 96), interpolation=cv2.INTER_AREA) for frame in found]
    assert [read_barcode(frame) for frame in small] == numbers


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_irregular_times_and_the_last_duration_are_kept(tmp_path, codec):
    wanted = [0.0, 0.05, 0.06, 0.2, 0.3, 0.31, 0.5, 1.25]
    path = write_video(tmp_path / "10:30.mp4", moving(), pts_seconds=wanted, fps=10, codec=codec, lossless=False)
    assert decode(path)[1] == pytest.approx(wanted, abs=1e-5)
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(1.35e6)


@pytest.mark.parametrize(("degrees", "rotation"), [(90, -90), (180, -180), (270, 90)])
def test_turned_videos_are_marked_and_play_upright(tmp_path, degrees, rotation):
    frames = [np.random.default_rng(n).integers(0, 256, (32, 48, 3), np.uint8) for n in range(3)]
    found, _, marked = decode(write_video(tmp_path / "a.mp4", frames, codec="libx264rgb", rotation_degrees=degrees))
    assert marked == rotation
    assert found[0].shape[:2] == ((48, 32) if degrees != 180 else (32, 48))
    upright = [np.rot90(frame, -degrees // 90) for frame in found]  # clockwise by `degrees`
    assert np.array_equal(frames, upright)


def test_equal_input_gives_equal_bytes(tmp_path):
    assert len({write_video(tmp_path / name, moving()).read_bytes() for name in ("a.mp4", "b.mp4")}) == 1


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "0 frames were given; expected at least 1"),
        (moving(height=47), {}, "yuv420p needs even sides"),
        ([*moving(2), *moving(1, width=32)], {}, r"frame 2 is \(48, 32, 3\) uint8; expected \(48, 64, 3\) uint8"),
        ([np.zeros((48, 64), np.uint8)], {}, r"shape \(48, 64\); expected \(height, width, 3\)"),
        (moving(), {"pts_seconds": [0, 1]}, "pts_seconds has 2 times; .* there are more"),
        (moving(1), {"pts_seconds": [0, 1]}, "1 frames were given; expected .* as many as pts_seconds"),
        (moving(2), {"pts_seconds": [1, 1]}, "pts_seconds must increase"),
        (moving(), {"codec": "mpeg4"}, "codec is 'mpeg4' with lossless=True; expected one of libx264,"),
        (moving(), {"rotation_degrees": 45}, "rotation_degrees is 45; expected 0, 90, 180 or 270"),
    ],
)
def test_bad_input_is_refused(tmp_path, frames, options, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", frames, **options)


def test_barcodes_count_to_16_bits():
    for number in (0, 1, 0x5555, 0xAAAA, 0xFFFF):
        assert read_barcode(barcode_frame(number, 6, 16)) == number
    with pytest.raises(ValueError, match="expected 0 to 65535"):
        barcode_frame(65536, 48, 64)
    with pytest.raises(ValueError, match="no barcode in the top third"):
        read_barcode(np.full((48, 64, 3), 128, np.uint8))
