import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import RejectedVideo, VideoError, WeightsError
from pipeline.features.backbones import Backbone, load_backbone
from pipeline.features.batches import PartialVideo
from pipeline.features.crop import center_crop, crop_of_frame, crop_to_rgb
from pipeline.features.extract import CPU_BATCH_SIZE, Extractor
from pipeline.features.frozen import Replica
from pipeline.features.run import QUEUED_BATCHES, VIDEOS_AHEAD
from pipeline.features.store import VideoFeatures
from pipeline.video.flow import Method, flow_frames
from pipeline.video.reader import Frame, i420_to_rgb

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

CROP = 64


def frames(count: int, seed: int = 0, height: int = 66, width: int = 80) -> list[Frame]:
    """A drifting pattern of its own for every seed."""
    rng = np.random.default_rng(seed)
    field = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (width * 2, height), interpolation=cv2.INTER_CUBIC)
    return [
        Frame(k / 10, k / 10 - 0.01, cv2.cvtColor(np.roll(field, k, axis=1)[:, :width], cv2.COLOR_RGB2YUV_I420))
        for k in range(count)
    ]


def plain(rgb: tuple[int, int, int], count: int = 1, size: int = CROP) -> list[Frame]:
    picture = np.full((size, size, 3), rgb, np.uint8)
    return [Frame(k / 10, k / 10, cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)) for k in range(count)]


class Tiny(nn.Module):
    """Features of a frame: the mean of each (normalised) channel, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) * self.factor


def tiny(factor: float = 1.0) -> Backbone:
    return Backbone("tiny", Tiny(factor), 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], CROP).eval()


def results(found: Iterable[tuple[str, VideoFeatures | Exception]]) -> dict[str, VideoFeatures]:
    """By key; fails when a video gave an error."""
    features = {}
    for key, value in found:
        assert isinstance(value, VideoFeatures), value
        assert key not in features
        features[key] = value
    return features


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode-", "compute-"))]


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert own_threads() == []
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module", params=["squeezenet1_1", "shufflenet_v2_x0_5"])
def network(request: pytest.FixtureRequest) -> Backbone:
    backbone = load_backbone(request.param, "random", seed=0)
    # Normalisation that has seen data: without, features of random weights are too small for float16.
    with torch.no_grad():
        for layer in backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        backbone.train()(torch.rand((8, 3, CROP, CROP), generator=torch.Generator().manual_seed(0)))
    return backbone.eval()


# The crop


@pytest.mark.parametrize(
    ("height", "width", "crop", "top", "left"),
    [(4, 7, 2, 0, 2), (6, 6, 6, 0, 0), (8, 10, 6, 0, 2), (66, 80, 64, 0, 8), (256, 456, 224, 16, 116)],
)
def test_the_crop_is_in_the_middle_rounded_up_and_left_to_even_pixels(
    height: int, width: int, crop: int, top: int, left: int
) -> None:
    rows, columns = np.mgrid[:height, :width]
    rgb = np.stack([rows, columns, rows], axis=-1)
    found = center_crop(rgb, crop)
    assert found.shape == (crop, crop, 3)
    assert found[0, 0].tolist() == [top, left, top]
    assert found[-1, -1].tolist() == [top + crop - 1, left + crop - 1, top + crop - 1]
    assert np.array_equal(center_crop(np.stack([rgb, rgb + 1]), crop), np.stack([found, found + 1]))


@pytest.mark.parametrize("crop", [16, 63, 64, 65, 66])
def test_the_crop_of_a_frame_is_converted_to_the_same_colours_as_the_whole(crop: int) -> None:
    i420 = np.random.default_rng(crop).integers(0, 256, (66 * 3 // 2, 80), np.uint8)
    out = np.zeros((2, crop, crop, 3), np.uint8)
    crop_to_rgb(i420, crop, out[1])
    assert np.array_equal(out[1], center_crop(i420_to_rgb(i420), crop))
    assert not out[0].any()


def test_a_crop_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="frame of 80x66 pixels; expected at least 67x67"):
        center_crop(np.zeros((66, 80, 3), np.uint8), 67)
    with pytest.raises(ValueError, match="frame of 80x66 pixels; expected at least 67x67"):
        crop_to_rgb(np.zeros((99, 80), np.uint8), 67, np.zeros((67, 67, 3), np.uint8))


# The features


def test_features_are_of_the_cropped_rgb_frame() -> None:
    colours = {"red": (200, 30, 30), "green": (20, 180, 20), "blue": (10, 20, 230)}
    found = results(Extractor(tiny(), CROP, "cpu").run((key, plain(rgb)) for key, rgb in colours.items()))
    for key, rgb in colours.items():
        expected = (np.array(rgb) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert found[key].values.dtype == np.float16
        # 4:2:0 at limited range keeps colours to about 2 of 255.
        assert found[key].values[0] == pytest.approx(expected, abs=0.05)


def test_features_equal_those_of_the_network_alone(network: Backbone) -> None:
    video = frames(9)
    found = results(Extractor(network, CROP, "cpu").run([("a", iter(video))]))["a"]
    rgb = np.stack([i420_to_rgb(frame.i420)[0:64, 8:72] for frame in video])
    with torch.inference_mode():
        expected = network(torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255)
    assert found.values.shape == (9, network.feature_size)
    assert np.abs(found.values).max() > 0.1
    np.testing.assert_allclose(found.values, expected, rtol=2e-3, atol=1e-3)
    assert found.time_seconds.tolist() == [k / 10 for k in range(9)]
    assert found.pts_seconds.tolist() == [k / 10 - 0.01 for k in range(9)]
    assert np.abs(np.diff(found.values, axis=0)).max() > 0.01  # frames differ, and so do their vectors


def test_a_video_has_the_same_bits_alone_together_in_any_order_and_with_any_number_of_threads(
    network: Backbone,
) -> None:
    lengths = {"a": 1, "b": 17, "c": 5, "d": 16, "e": 11}
    videos = {key: frames(count, seed) for seed, (key, count) in enumerate(lengths.items())}

    def run(keys: Iterable[str], workers: int, compute_threads: int = 2) -> dict[str, VideoFeatures]:
        extractor = Extractor(network, CROP, "cpu", workers)
        extractor.compute_threads = compute_threads
        found = results(extractor.run((key, iter(videos[key])) for key in keys))
        assert list(found) == list(keys)
        return found

    alone = {key: run([key], 1)[key] for key in videos}
    for keys, workers, compute_threads in (("abcde", 1, 1), ("edcba", 1, 3), ("cadbe", 3, 2), ("ba", 2, 1)):
        for key, features in run(list(keys), workers, compute_threads).items():
            assert len(features.values) == lengths[key]
            assert features.values.tobytes() == alone[key].values.tobytes()
            assert features.time_seconds.tobytes() == alone[key].time_seconds.tobytes()
            assert features.pts_seconds.tobytes() == alone[key].pts_seconds.tobytes()


def watched(extractor: Extractor, watch: Callable[[Tensor], None]) -> Extractor:
    """Has each batch (B, crop, crop, 3) uint8 pass by `watch`, in the thread that computes it."""
    for replica in extractor.replicas:
        watched_replica(replica, watch)
    return extractor


def watched_replica(replica: Replica, watch: Callable[[Tensor], None]) -> None:
    network = replica.network

    def forward(pixels: Tensor) -> Tensor:
        watch(pixels)
        return network(pixels)

    replica.network = forward  # type: ignore[assignment]


def test_batches_are_filled_across_videos() -> None:
    shapes, told = [], []
    extractor = watched(Extractor(tiny(), CROP, "cpu", workers=2), lambda pixels: shapes.append(tuple(pixels.shape)))
    videos = ((str(number), plain((90, number, 0), 3)) for number in range(64))
    found = results(extractor.run(videos, told.append))
    assert list(found) == [str(number) for number in range(64)]
    assert set(shapes) == {(CPU_BATCH_SIZE, CROP, CROP, 3)}
    assert 64 * 3 / CPU_BATCH_SIZE <= len(shapes) <= 64 * 3 / CPU_BATCH_SIZE + 1  # each worker's last one is padded
    assert sum(told) == 64 * 3


def test_every_core_computes_alone_and_the_callers_setting_is_left() -> None:
    threads: set[tuple[str, int]] = set()
    meeting = threading.Barrier(2)

    def watch(pixels: Tensor) -> None:
        meeting.wait(timeout=20)  # for the other thread's batch
        threads.add((threading.current_thread().name, torch.get_num_threads()))

    extractor = watched(Extractor(tiny(), CROP, "cpu"), watch)
    extractor.compute_threads = 2
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        results(extractor.run([("a", plain((9, 9, 9), 4 * CPU_BATCH_SIZE))]))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert threads == {("compute-0", 1), ("compute-1", 1)}


def test_of_two_devices_each_computes_and_the_bits_are_those_of_one(network: Backbone) -> None:
    """Two CPUs stand in for two GPUs. Mutant: a second device that shares the first one's network."""
    videos = {str(seed): frames(count, seed) for seed, count in enumerate((1, 40, 70, 7, 33))}
    expected = results(Extractor(network, CROP, "cpu", workers=2).run(videos.items()))
    extractor = Extractor(network, CROP, ["cpu", "cpu"], workers=2)
    assert extractor.compute_threads == max(1, len(os.sched_getaffinity(0)) // 2)
    first, second = (replica.network for replica in extractor.replicas)
    assert first is extractor.network
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}
    extractor.compute_threads = 1
    meeting, computed = threading.Barrier(2), set[int]()

    def watch(number: int, pixels: Tensor) -> None:
        if number not in computed:
            computed.add(number)
            meeting.wait(timeout=20)  # for the other device's first batch

    for number, replica in enumerate(extractor.replicas):
        watched_replica(replica, functools.partial(watch, number))
    found = results(extractor.run(videos.items()))
    assert computed == {0, 1}
    assert list(found) == list(videos)
    for key, features in found.items():
        assert features.values.tobytes() == expected[key].values.tobytes()


def test_a_full_gpu_halves_its_own_batches_and_no_other_gpus() -> None:
    meeting, begun = threading.Barrier(2), set[int]()

    def watch(number: int, pixels: Tensor) -> None:
        if number not in begun:
            begun.add(number)
            meeting.wait(timeout=20)
        if number == 1 and len(pixels) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more.")

    extractor = Extractor(tiny(), CROP, ["cpu", "cpu"])
    extractor.compute_threads = 1
    for number, replica in enumerate(extractor.replicas):
        watched_replica(replica, functools.partial(watch, number))
    assert len(results(extractor.run([("a", plain((9, 9, 9), 8 * CPU_BATCH_SIZE))]))["a"].values) == 8 * CPU_BATCH_SIZE
    assert [replica.at_a_time.rows for replica in extractor.replicas] == [CPU_BATCH_SIZE, 4]


def test_vectors_of_a_long_video_stand_in_the_order_of_its_frames() -> None:
    def slow_at_times(pixels: Tensor) -> None:
        time.sleep(0.002 * (int(pixels[0, 0, 0, 0]) % 3))  # so that batches overtake each other

    shades = [(k * 7 % 256, k % 256, 128) for k in range(20 * CPU_BATCH_SIZE)]
    video = [plain(rgb)[0] for rgb in shades]
    extractor = watched(Extractor(tiny(), CROP, "cpu"), slow_at_times)
    extractor.compute_threads = 3
    found = results(extractor.run([("a", video)]))["a"].values
    red = [i420_to_rgb(frame.i420)[0, 0, 0] / 255 for frame in video]
    assert found[:, 0] == pytest.approx((np.array(red) - 0.485) / 0.229, abs=2e-3)


def test_frames_of_one_video_may_differ_in_size() -> None:
    mixed = plain((90, 90, 90)) + plain((90, 90, 90), size=100)
    values = results(Extractor(tiny(), CROP, "cpu").run([("a", mixed)]))["a"].values
    assert values[0].tolist() == values[1].tolist()


def test_no_videos_give_no_results() -> None:
    assert list(Extractor(tiny(), CROP, "cpu").run([])) == []


# One bad video


def fails_after(count: int, error: Exception) -> Iterator[Frame]:
    yield from frames(count, seed=9)
    raise error


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 7, 40])
def test_a_video_that_fails_gives_its_error_and_the_rest_is_unaffected(
    network: Backbone, count: int, workers: int
) -> None:
    extractor = Extractor(network, CROP, "cpu", workers)
    good = {key: frames(12, seed) for seed, key in enumerate("ac")}
    expected = results(extractor.run(good.items()))
    error = RejectedVideo("no video stream")
    found = list(extractor.run([("a", good["a"]), ("b", fails_after(count, error)), ("c", good["c"])]))
    assert [key for key, _ in found] == ["a", "b", "c"]
    assert found[1][1] is error
    assert results([found[0], found[2]])["a"].values.tobytes() == expected["a"].values.tobytes()
    assert results([found[0], found[2]])["c"].values.tobytes() == expected["c"].values.tobytes()


def test_a_video_without_frames_and_one_with_small_frames_are_errors_of_their_own() -> None:
    (_, empty), (_, small), (_, good) = Extractor(tiny(), CROP, "cpu").run(
        [("empty.mp4", []), ("small.mp4", plain((9, 9, 9), size=62)), ("good.mp4", plain((9, 9, 9)))]
    )
    assert isinstance(empty, VideoError)
    assert str(empty) == "empty.mp4: no frames came out of the video; expected at least one"
    assert isinstance(small, ValueError)
    assert "frame of 62x62 pixels; expected at least 64x64" in str(small)
    assert isinstance(good, VideoFeatures)


def test_features_that_overflow_float16_are_an_error_of_the_video() -> None:
    videos = [("dark.mp4", plain((124, 116, 104), 2)), ("bright.mp4", plain((255, 255, 255), 2))]
    (_, dark), (_, bright) = Extractor(tiny(40_000), CROP, "cpu").run(videos)
    assert isinstance(dark, VideoFeatures)
    assert isinstance(bright, VideoError)
    assert "bright.mp4: backbone tiny gave unusable features: 2 of 2 feature vectors are not finite" in str(bright)


def test_features_that_all_vanish_in_float16_are_an_error() -> None:
    [(_, found)] = Extractor(tiny(1e-9), CROP, "cpu").run([("a.mp4", plain((255, 0, 0)))])
    assert isinstance(found, WeightsError)
    assert "a.mp4: every feature of backbone tiny is 0 in float16; random weights" in str(found)


# Decoding ahead


def test_videos_are_decoded_side_by_side() -> None:
    meeting = threading.Barrier(2)

    def waits(seed: int) -> Iterator[Frame]:
        meeting.wait(timeout=20)  # for the other video's thread
        yield from plain((seed, 90, 90), 2)

    found = results(Extractor(tiny(), CROP, "cpu", workers=2).run([("a", waits(1)), ("b", waits(200))]))
    assert list(found) == ["a", "b"]


def test_results_keep_the_order_of_the_videos_and_wait_for_a_slow_one_only_so_far() -> None:
    count, begun, slow = 3 * VIDEOS_AHEAD, [0], threading.Event()

    def late() -> Iterator[Frame]:
        assert slow.wait(20)
        yield from plain((1, 90, 90))

    def quick() -> Iterator[Frame]:
        begun[0] += 1
        yield from plain((2, 90, 90))

    videos = itertools.chain([(0, late())], ((number, quick()) for number in range(1, count)))
    run = Extractor(tiny(), CROP, "cpu", workers=2).run(videos)
    timer = threading.Timer(0.5, slow.set)
    timer.start()
    first, _ = next(run)
    assert first == 0
    assert VIDEOS_AHEAD / 2 < begun[0] <= VIDEOS_AHEAD + 2
    assert [key for key, _ in run] == list(range(1, count))
    timer.join()


def test_without_order_each_video_comes_as_soon_as_it_is_done_though_its_frames_shared_a_batch_with_a_slow_one() -> (
    None
):
    """One thread fills a batch with the frames of a quick video and the first ones of a slow one.

    Shown to fail without the batches that are handed over as they are: `quick` waits for `slow`.
    """
    slow, found = threading.Event(), []

    def late() -> Iterator[Frame]:
        yield from plain((1, 90, 90), 2)
        assert slow.wait(20)
        yield from plain((1, 90, 90), 40)

    videos = {"quick": iter(plain((9, 90, 90), 3)), "slow": late(), "other": iter(plain((5, 9, 90), 3))}
    for key, result in Extractor(tiny(), CROP, "cpu", workers=1).run(videos.items(), in_order=False):
        assert isinstance(result, VideoFeatures)
        found.append((key, len(result.values)))
        slow.set()
    assert sorted(found) == [("other", 3), ("quick", 3), ("slow", 42)]
    assert found[0] == ("quick", 3)


def test_without_order_a_bounded_number_of_videos_is_under_way() -> None:
    """So many, and no more, are lost when the process is killed."""
    begun, results = [0], 0

    def counted(number: int) -> Iterator[Frame]:
        begun[0] += 1
        yield from plain((number, 90, 90), CPU_BATCH_SIZE)

    extractor = Extractor(tiny(), CROP, "cpu", workers=2)
    extractor.compute_threads = 1
    videos = ((number, counted(number)) for number in range(200))
    for _, result in extractor.run(videos, in_order=False):
        assert isinstance(result, VideoFeatures)
        results += 1
        assert begun[0] - results <= VIDEOS_AHEAD
    assert (begun[0], results) == (200, 200)


@pytest.mark.parametrize("order", [True, False])
def test_a_full_gpu_has_fewer_frames_computed_at_a_time_and_the_features_stay(
    network: Backbone, order: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = {"a": frames(20), "b": frames(9, seed=1)}
    expected = results(Extractor(network, CROP, "cpu").run(videos.items()))
    sizes = []

    def out_of_memory(pixels: Tensor) -> None:
        sizes.append(len(pixels))
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more.")

    extractor = watched(Extractor(network, CROP, "cpu", workers=2), out_of_memory)
    for key, features in results(extractor.run(videos.items(), in_order=order)).items():
        np.testing.assert_allclose(features.values, expected[key].values, rtol=2e-3, atol=1e-3)
    assert min(sizes) == extractor.replicas[0].at_a_time.rows == 4
    assert capsys.readouterr().err.count("16 frames at a time (CUDA out of memory): 8 from now on") == 1


def test_a_gpu_without_memory_for_one_frame_fails_the_videos_with_a_reason() -> None:
    def out_of_memory(pixels: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more.")

    extractor = watched(Extractor(tiny(), CROP, "cpu", workers=2), out_of_memory)
    found = dict(extractor.run((key, plain((5, 5, 5), 20)) for key in "abc"))
    assert list(found) == ["a", "b", "c"]
    for error in found.values():
        assert isinstance(error, MemoryError)
        assert str(error) == "the GPU has no memory for one of its frames (CUDA out of memory); try --device cpu"


def test_a_video_that_takes_too_much_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PartialVideo.keep

    def keep(self, first, values):
        if self.key == "long":
            raise MemoryError("Unable to allocate 5 GiB")
        real(self, first, values)

    monkeypatch.setattr(PartialVideo, "keep", keep)
    found = dict(
        Extractor(tiny(), CROP, "cpu").run(
            [("a", plain((5, 5, 5))), ("long", plain((5, 5, 5), 50)), ("b", plain((9, 9, 9)))]
        )
    )
    assert isinstance(found["long"], MemoryError)
    assert len(results([(key, found[key]) for key in "ab"])) == 2


def wait(event: threading.Event) -> None:
    assert event.wait(20)


def test_a_video_is_not_kept_waiting_by_others_that_fail() -> None:
    """Its frames do not fill a batch, and no further video may begin before it is done."""
    rejected = ((number, fails_after(0, RejectedVideo("no"))) for number in range(1, 2 * VIDEOS_AHEAD))
    run = Extractor(tiny(), CROP, "cpu", workers=2).run(itertools.chain([(0, plain((1, 90, 90)))], rejected))
    assert [key for key, _ in run] == list(range(2 * VIDEOS_AHEAD))


def test_decoding_runs_ahead_by_a_bounded_number_of_frames() -> None:
    decoded, busy = [0], threading.Event()

    def counted() -> Iterator[Frame]:
        for frame in itertools.repeat(plain((1, 90, 90))[0], 1_000):
            decoded[0] += 1
            yield frame

    extractor = watched(Extractor(tiny(), CROP, "cpu", workers=2), lambda pixels: wait(busy))
    extractor.compute_threads = 2
    run = extractor.run([("a", counted()), ("b", counted())])
    found: list[tuple[str, VideoFeatures | Exception]] = []
    consumer = threading.Thread(target=lambda: found.extend(run))
    consumer.start()
    seen = -1
    while seen != decoded[0]:  # until the threads stand still
        seen = decoded[0]
        time.sleep(0.1)
    assert 0 < seen <= (2 + 2 + 2 * QUEUED_BATCHES) * CPU_BATCH_SIZE + 2
    busy.set()
    consumer.join()
    assert [len(features.values) for features in results(found).values()] == [1_000, 1_000]


@pytest.mark.parametrize("results_taken", [0, 1])
def test_closing_early_stops_the_threads_and_closes_the_videos(results_taken: int) -> None:
    closed, begun = [], []

    def endless(number: int) -> Iterator[Frame]:
        begun.append(number)
        try:
            while True:
                yield from plain((number, 90, 90))
        finally:
            closed.append(number)

    run = Extractor(tiny(), CROP, "cpu", workers=3).run(
        [("first", iter(plain((5, 5, 5), 32))), *((str(number), endless(number)) for number in range(5))]
    )
    for _ in range(results_taken):
        next(run)
        assert own_threads()
    run.close()
    assert own_threads() == []
    assert sorted(closed) == sorted(begun)


def test_an_error_of_the_list_of_videos_ends_the_run() -> None:
    def broken() -> Iterator[tuple[str, list[Frame]]]:
        yield "a", plain((5, 5, 5))
        raise OSError("the table cannot be read")

    with pytest.raises(OSError, match="the table cannot be read"):
        list(Extractor(tiny(), CROP, "cpu", workers=2).run(broken()))
    assert own_threads() == []


def test_an_error_of_the_device_ends_the_run() -> None:
    def out_of_memory(pixels: Tensor) -> None:
        raise RuntimeError("out of memory")

    extractor = watched(Extractor(tiny(), CROP, "cpu", workers=2), out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(extractor.run([("a", plain((5, 5, 5), 100))]))
    assert own_threads() == []


def test_a_thread_that_ends_in_an_unforeseen_way_ends_the_run() -> None:
    def leaves() -> Iterator[Frame]:
        yield from plain((5, 5, 5))
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(Extractor(tiny(), CROP, "cpu").run([("a", leaves())]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Extractor(tiny(), CROP, "cpu", workers=0), "workers is 0; expected 1 or more"),
        (lambda: Extractor(tiny(), CROP, ["cpu", "cuda:1"]), "devices are cpu, cuda:1; expected one kind, GPUs or"),
        (lambda: Extractor(tiny(), CROP, []), "devices are none; expected one kind"),
        (
            lambda: Extractor(load_backbone("squeezenet1_1", "random", 0), 8, "cpu"),
            "squeezenet1_1 cannot take frames of 8x8 pixels",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(make: Callable[[], Extractor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
def test_a_gpu_gives_the_same_features_in_short_numbers(network: Backbone) -> None:
    videos = {str(seed): frames(count, seed) for seed, count in enumerate((1, 300, 600, 7))}
    cpu = results(Extractor(network, CROP, "cpu", 2).run(videos.items()))
    gpu = results(Extractor(network, CROP, "cuda", 2).run(videos.items()))
    network.cpu()
    assert list(cpu) == list(gpu)
    for key, features in cpu.items():
        one, other = features.values.astype(np.float64), gpu[key].values.astype(np.float64)
        cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosine.min() > 0.99
        assert features.time_seconds.tolist() == gpu[key].time_seconds.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
def test_two_replicas_on_gpus_give_the_features_of_one(network: Backbone) -> None:
    videos = {str(seed): frames(count, seed) for seed, count in enumerate((1, 300, 600, 7))}
    one = results(Extractor(network, CROP, "cuda:0", 2).run(videos.items()))
    two = results(Extractor(network, CROP, ["cuda:0", f"cuda:{torch.cuda.device_count() - 1}"], 2).run(videos.items()))
    network.cpu()
    for key, features in one.items():
        np.testing.assert_allclose(two[key].values, features.values, rtol=2e-2, atol=1e-2)


# Ten crops, and flow


def test_ten_crops_give_ten_vectors_of_each_frame_and_the_first_is_that_of_one_crop(network: Backbone) -> None:
    videos = {"a": frames(5), "b": frames(19, seed=1), "c": frames(1, seed=2)}
    counts: list[int] = []
    ten = results(Extractor(network, CROP, "cpu", workers=2, crops=10).run(videos.items(), counts.append))
    one = results(Extractor(network, CROP, "cpu").run(videos.items()))
    assert sum(counts) == 25
    for key, video in videos.items():
        values = ten[key].values
        assert values.shape == (len(video), 10, network.feature_size)
        assert ten[key].time_seconds.tolist() == one[key].time_seconds.tolist()
        assert values[:, 0].tobytes() == one[key].values.tobytes()
        assert ten[key].crop(0).tobytes() == one[key].crop(0).tobytes()
        pixels = np.zeros((10, CROP, CROP, 3), np.uint8)
        for number in range(10):
            crop_of_frame(video[-1], CROP, number, pixels[number])
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        np.testing.assert_allclose(values[-1], expected, rtol=2e-3, atol=1e-3)


def test_ten_crops_have_the_same_bits_alone_and_together(network: Backbone) -> None:
    videos = {key: frames(count, seed) for seed, (key, count) in enumerate({"a": 3, "b": 7, "c": 4}.items())}
    together = results(Extractor(network, CROP, "cpu", workers=3, crops=10).run(videos.items()))
    for key, video in videos.items():
        alone = results(Extractor(network, CROP, "cpu", crops=10).run([(key, video)]))[key]
        assert alone.values.tobytes() == together[key].values.tobytes()


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_features_of_flow_are_those_of_the_flow_images(network: Backbone, method: Method) -> None:
    video = frames(6)
    repeated = [Frame(k / 10, video[k // 2].pts_seconds, video[k // 2].i420) for k in range(12)]
    videos = {"a": video, "b": repeated, "c": frames(7, seed=3)}
    found = results(Extractor(network, CROP, "cpu", workers=3, flow=method).run(videos.items()))
    assert found["a"].time_seconds.tolist() == [k / 10 for k in range(1, 6)]
    assert found["a"].pts_seconds.tolist() == [k / 10 - 0.01 for k in range(1, 6)]
    assert found["b"].time_seconds.tolist() == [k / 10 for k in range(2, 12)]
    assert np.array_equal(found["b"].values, np.repeat(found["a"].values, 2, axis=0))
    images = np.stack([center_crop(flow.image, CROP) for flow in flow_frames(video, method)])
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(found["a"].values, expected, rtol=2e-3, atol=1e-3)
    for key, workers in (("c", 1), ("a", 2)):
        alone = results(Extractor(network, CROP, "cpu", workers, flow=method).run([(key, videos[key])]))[key]
        assert alone.values.tobytes() == found[key].values.tobytes()


def test_a_video_of_one_picture_has_no_flow_and_says_so() -> None:
    still = [Frame(k / 10, 0.0, frame.i420) for k, frame in enumerate(plain((200, 90, 90), 3))]
    run = Extractor(tiny(), CROP, "cpu", flow="dis").run([("still", still), ("empty", []), ("moves", frames(3))])
    (_, nothing), (_, empty), (_, some) = run
    assert isinstance(nothing, RejectedVideo)
    assert str(nothing) == "only one picture; optical flow needs two that differ in time"
    assert not isinstance(empty, RejectedVideo)
    assert isinstance(empty, VideoError)
    assert isinstance(some, VideoFeatures)
    assert len(some.values) == 2
