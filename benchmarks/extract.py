"""Feature extraction end to end: this project, its limits measured in the same run, and loops as people write them.

    python benchmarks/extract.py [--rounds 5] [--material FOLDER] [--kind h264_720p] [--fps 10] [--device cpu]

One round measures decoding alone (d, on all cores, through the decoding processes), the network alone (c, on all
cores, at the setting that extraction uses), extraction, and the other loops, one after the other; speeds are medians
over the rounds, ratios medians of the ratios within a round. Where decoding and network share the cores the limit is
1/(1/d + 1/c), with a GPU the slower of the two. Frames are those on the grid of --fps: the frames between them are
decoded too. The second column is the time that processors spent on a frame, which a busy machine moves less.

The material is drawn; clips of ../shared/data/fight are added when it is there. Weights are random, with normalisation
that has seen the material: without, activations shrink to denormal numbers, which are slow.
"""

import argparse
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import psutil
import torch
import torchvision
from material import FPS as MATERIAL_FPS
from material import KINDS, clips, material_folder
from torch import nn
from torchvision import transforms
from torchvision.transforms._presets import ImageClassification

from pipeline.device import choose_device
from pipeline.features.backbones import Backbone, load_backbone
from pipeline.features.crop import crop_to_rgb
from pipeline.features.extract import Extractor
from pipeline.features.frozen import compute_context
from pipeline.features.store import VideoFeatures
from pipeline.video.isolation import DecoderPool
from pipeline.video.reader import VideoReader

SHORT_SIDE, CROP = 256, 224
NUM_CORES = len(os.sched_getaffinity(0))
CNN_SECONDS = 3.0
FIGHT = Path(__file__).resolve().parents[2] / "shared/data/fight"
FIGHT_STRIDE = 30  # every thirtieth clip of the fight set
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Speed(NamedTuple):
    """Frames a second, and milliseconds of processor time a frame."""

    fps: float
    cpu_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--material", type=Path, help="folder to keep drawn videos in (default: a temporary one)")
    parser.add_argument("--kind", choices=sorted(KINDS), default="h264_720p")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--fps", type=float, default=10)
    parser.add_argument("--backbones", nargs="+", default=["mobilenet_v3_small", "resnet18"])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args()
    device = choose_device(options.device)
    print(time.strftime("%Y-%m-%d"), platform.machine(), _processor(), f"{NUM_CORES} cores,", device)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, PyAV {av.__version__}", end=", ")
    print(f"OpenCV {cv2.__version__}, Python {platform.python_version()}")
    with material_folder(options.material) as folder, DecoderPool() as pool:
        materials = {options.kind: clips(options.kind, options.clips, folder)}
        real = sorted(path for path in FIGHT.glob("*/*") if path.suffix in (".mp4", ".avi"))[::FIGHT_STRIDE]
        if real:
            materials["fight"] = real
        for name in options.backbones:
            for material, paths in materials.items():
                _compare(name, material, paths, pool, device, options.fps, options.rounds)


def _compare(
    name: str, material: str, paths: Sequence[Path], pool: DecoderPool, device: torch.device, fps: float, rounds: int
) -> None:
    pixels = _pixels(paths[0])
    backbone = calibrated_backbone(name, paths[0])
    plain = load_backbone(name, "random", seed=0)
    plain.load_state_dict(backbone.state_dict())
    plain.to(device)
    extractor = Extractor(backbone, CROP, device, workers=NUM_CORES)
    ways: dict[str, Callable[[], int]] = {
        "decoding alone (d)": lambda: _decode(paths, pool, fps),
        "network alone (c)": lambda: _network(extractor, pixels),
        "extraction": lambda: _extract(extractor, paths, pool, fps),
        "plain loop, batch 1": lambda: _plain(plain.net, device, _every_kth_av(paths, fps), 1),
        "plain loop, batch 16": lambda: _plain(plain.net, device, _every_kth_av(paths, fps), 16),
        "OpenCV, PIL, batch 32": lambda: _plain(plain.net, device, _every_kth_cv2(paths, fps), 32),
    }
    speeds: dict[str, list[Speed]] = {way: [] for way in ways}
    loads = []
    for way in ("decoding alone (d)", "network alone (c)", "extraction"):
        ways[way]()  # processes start, memory is taken
    for _ in range(rounds):
        loads.append(os.getloadavg()[0])
        for way, work in ways.items():
            speeds[way].append(_measured(work))
    print(f"\n{name}, {material}: {len(paths)} videos, {fps:g} frames/s of video, crop {CROP}, {rounds} rounds")
    print(f"{'':<24}{'frames/s':>10}{'CPU ms':>9}   load {min(loads):.1f} to {max(loads):.1f}")
    for way, found in speeds.items():
        print(f"{way:<24}{_median(s.fps for s in found):>10.0f}{_median(s.cpu_ms for s in found):>9.2f}")
    together = zip(*(speeds[way] for way in list(ways)[:3]), strict=True)
    share = [
        (e.fps / (min(d.fps, c.fps) if device.type == "cuda" else 1 / (1 / d.fps + 1 / c.fps)), d, c, e)
        for d, c, e in together
    ]
    print(f"extraction is {_median(row[0] for row in share):.2f} of the limit", end="; ")
    cpu = _median((d.cpu_ms + c.cpu_ms) / e.cpu_ms for _, d, c, e in share)
    print(f"processor time of its parts is {cpu:.2f} of its own")
    for way in list(ways)[3:]:
        times = _median(e.fps / p.fps for e, p in zip(speeds["extraction"], speeds[way], strict=True))
        print(f"{times:.1f} times '{way}'", flush=True)


def _decode(paths: Sequence[Path], pool: DecoderPool, fps: float) -> int:
    def count(path: Path) -> int:
        return sum(1 for _ in pool.reader(path).frames(fps, SHORT_SIDE))

    with ThreadPoolExecutor(NUM_CORES) as threads:
        return sum(threads.map(count, paths))


def _network(extractor: Extractor, pixels: torch.Tensor) -> int:
    """Batches of one size in the threads that extraction has, for a while."""
    counts: list[int] = []
    repeats = -(-extractor.batch_size // len(pixels))
    batch = pixels.repeat(repeats, 1, 1, 1)[: extractor.batch_size].contiguous()

    def compute() -> None:
        count, end = 0, time.perf_counter() + CNN_SECONDS
        with compute_context(extractor.device):
            while time.perf_counter() < end:
                extractor.network(batch.to(extractor.device)).to(torch.float16).cpu()
                count += len(batch)
        counts.append(count)

    threads_before = torch.get_num_threads()
    threads = [threading.Thread(target=compute) for _ in range(extractor.compute_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(threads_before)
    return sum(counts)


def _extract(extractor: Extractor, paths: Sequence[Path], pool: DecoderPool, fps: float) -> int:
    count = 0
    for path, result in extractor.run((path, pool.reader(path).frames(fps, SHORT_SIDE)) for path in paths):
        if not isinstance(result, VideoFeatures):
            raise SystemExit(f"{path}: {result}")
        count += len(result.values)
    return count


def _every_kth_av(paths: Sequence[Path], fps: float) -> Iterator[torch.Tensor]:
    """PyAV at its defaults, and the transforms that torchvision documents for its weights, on tensors."""
    preset = ImageClassification(crop_size=CROP, resize_size=SHORT_SIDE)
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            step = max(1, round(float(stream.average_rate or MATERIAL_FPS) / fps))
            for index, frame in enumerate(container.decode(stream)):
                if index % step == 0:
                    yield preset(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))


def _every_kth_cv2(paths: Sequence[Path], fps: float) -> Iterator[torch.Tensor]:
    """As popular extractors do: OpenCV reads every frame in colour, PIL resizes."""
    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize(SHORT_SIDE),
            transforms.CenterCrop(CROP),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    for path in paths:
        video = cv2.VideoCapture(str(path))
        step = max(1, round((video.get(cv2.CAP_PROP_FPS) or MATERIAL_FPS) / fps))
        index = 0
        while True:
            there, bgr = video.read()
            if not there:
                break
            if index % step == 0:
                yield transform(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
            index += 1
        video.release()


def _plain(net: nn.Module, device: torch.device, frames: Iterator[torch.Tensor], batch_size: int) -> int:
    """One video after the other, batches of what has come, the network and torch as they are."""
    count, batch = 0, []
    with torch.no_grad():
        for frame in frames:
            batch.append(frame)
            if len(batch) == batch_size:
                count += len(net(torch.stack(batch).to(device)).cpu())
                batch = []
        if batch:
            count += len(net(torch.stack(batch).to(device)).cpu())
    return count


def _pixels(path: Path) -> torch.Tensor:
    """(16, crop, crop, 3) uint8: frames of one video."""
    pixels = np.zeros((16, CROP, CROP, 3), np.uint8)
    for target, frame in zip(pixels, VideoReader(path).frames(4, SHORT_SIDE), strict=False):
        crop_to_rgb(frame.i420, CROP, target)
    return torch.from_numpy(pixels)


def calibrated_backbone(name: str, path: Path) -> Backbone:
    """Random weights, with normalisation that has seen a few frames of a video, small ones to take little memory."""
    backbone = load_backbone(name, "random", seed=0)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        backbone.train()(_pixels(path)[:4, ::3, ::3].permute(0, 3, 1, 2).float() / 255)
    return backbone.eval()


def _measured(work: Callable[[], int]) -> Speed:
    begin, cpu = time.perf_counter(), _cpu_seconds()
    count = work()
    return Speed(count / (time.perf_counter() - begin), (_cpu_seconds() - cpu) / count * 1000)


def _cpu_seconds() -> float:
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children())]
    return float(sum(t.user + t.system for t in times))


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        return next((line.split(": ")[1].strip() for line in lines if line.startswith("model name")), "processor")


if __name__ == "__main__":
    main()
