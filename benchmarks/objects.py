"""Videos in an object store: fetched before they are decoded, or decoded from a stream, beside a local folder.

    python benchmarks/objects.py [--clips 40] [--minutes 5] [--rounds 3] [--material FOLDER]

A real S3-compatible server (moto) on the loopback interface, behind a proxy that lets every byte travel for a while.
All ways read every packet with bare PyAV and decode the key frames, one thread a file, as many files at a time as there
are cores: they differ in the way of the bytes alone, and the processor has little to do. `streamed` hands fsspec's file
object to PyAV, with fsspec's own read-ahead (blocks of 50 MB) or blocks of 1 MB. `fetched` is `remote.staged`, `fetched
ahead` the same within `fetching_ahead`, as the commands do it, the cache empty. Ways take turns; the median of the
rounds is given.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
from material import clips, material_folder, repeated

from pipeline import remote
from pipeline.prefetch import fetching_ahead
from pipeline.threads import in_threads

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import servers

BLOCK_BYTES = 2**20
LATENCIES_SECONDS = (0.0, 0.02, 0.1)  # there and back
NUM_CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the long video")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--material", type=Path)
    options = parser.parse_args()
    with (
        material_folder(options.material) as folder,
        servers.s3_server() as server,
        tempfile.TemporaryDirectory() as own,
    ):
        short = clips("h264_short", options.clips, folder)
        long = repeated(clips("h264_720p", 1, folder)[0], 60 * options.minutes, folder)
        os.environ.update(server.environment | {"AWS_DEFAULT_REGION": "us-east-1", "LRCN_CACHE": own})
        for latency in LATENCIES_SECONDS:
            with servers.Proxy(server.endpoint, latency / 2) as proxy:
                os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
                remote.reset()
                for name, paths in (("short", short), ("long", [long])):
                    measure(f"{1000 * latency:g} ms, {name}", paths, server.bucket, Path(own), options.rounds)


def measure(name: str, paths: list[Path], bucket: str, cache: Path, rounds: int) -> None:
    urls = [f"s3://{bucket}/{path.name}" for path in paths]
    files = remote.filesystem(urls[0])
    for path, url in zip(paths, urls, strict=True):
        if not files.exists(url):
            files.put_file(str(path), url)
        remote.heard(url, None)
        remote.state(url)

    def streamed(**options: int) -> None:
        def decode_stream(url: str) -> int:
            with files.open(url, "rb", **options) as file:
                return decode(file)

        each(decode_stream, urls)

    def fetched() -> None:
        def decode_staged(url: str) -> int:
            with remote.staged(url) as local:
                return decode(local)

        each(decode_staged, urls)

    def ahead() -> None:
        with fetching_ahead(urls):
            fetched()

    ways: dict[str, Callable[[], None]] = {
        "local folder": lambda: each(lambda path: decode(str(path)), paths),
        "streamed": streamed,
        "streamed, 1 MB": lambda: streamed(block_size=BLOCK_BYTES),
        "fetched": fetched,
        "fetched ahead": ahead,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            shutil.rmtree(cache / "media", ignore_errors=True)
            begin = time.monotonic()
            run()
            seconds[way].append(time.monotonic() - begin)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{name}: {len(paths)} file(s), {size:.0f} MB")
    for way, taken in seconds.items():
        print(f"  {way:<16} {statistics.median(taken):6.2f} s  ({min(taken):.2f} to {max(taken):.2f})", flush=True)


def each(function: Callable[..., int], items: list) -> None:  # type: ignore[type-arg]
    counts = list(in_threads(function, items, NUM_CORES))
    assert min(counts) > 0


def decode(source: object) -> int:
    """The number of key frames."""
    with av.open(source) as container:  # type: ignore[call-overload]
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.skip_frame = "NONKEY"
        return sum(1 for _ in container.decode(stream))


if __name__ == "__main__":
    main()
