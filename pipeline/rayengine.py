"""A Ray cluster, and what it does for a command: a function for each video, or features and answers of all of them."""

import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import psutil
import ray

from pipeline.device import num_workers
from pipeline.errors import ConfigError
from pipeline.raydecode import LostWorkerError, timed, versions
from pipeline.threads import SIGNAL_SECONDS

# Of the memory that a Ray of our own keeps objects in: for a model, and for the pieces that each task may have sent.
STORE_BYTES = 512 * 2**20
STORE_BYTES_PER_TASK = 32 * 2**20
SECONDS_TO_CONNECT = 10.0
TRIES = 3  # of a video over which a process died

Item = TypeVar("Item")


@dataclass
class Use:
    """What was done, and whom it kept busy.

    seconds: while there was work. num_lost: processes that died. busy_seconds: of a stage's tasks or threads together;
    at_a_time: how many of them there are.
    """

    startup_seconds: float = 0.0
    seconds: float = 0.0
    num_videos: int = 0
    num_frames: int = 0
    num_lost: int = 0
    busy_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    at_a_time: dict[str, int] = field(default_factory=dict)


class RayEngine:
    """A connection to a cluster.

    address: of a running cluster; "" starts one on this machine, which `close` stops. workers, device: as for the
    local engine, but of the whole cluster. use: what was done. Raises ConfigError when there is no such cluster, or it
    has not what is asked for.
    """

    def __init__(self, address: str, *, workers: int, device: str) -> None:
        begin = time.monotonic()
        self.use = Use()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._connect(address, num_workers(workers))
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            self.num_gpus = int(resources.get("GPU", 0)) if device != "cpu" else 0
            if device == "cuda" and not self.num_gpus:
                raise ConfigError("device is 'cuda', but the Ray cluster has no GPU; take `auto` or `cpu`")
            processors = int(resources.get("CPU", 0))
            self.num_tasks = min(workers or processors, processors)
            if not self.num_tasks:
                raise ConfigError("the Ray cluster has no processor for tasks; expected nodes with --num-cpus above 0")
        except BaseException:
            self.close()
            raise
        self.use.at_a_time["decoding"] = self.num_tasks
        self.use.startup_seconds = time.monotonic() - begin

    def _connect(self, address: str, num_processors: int) -> None:
        if address.startswith("ray://"):
            raise ConfigError(
                f"Ray address {address}: expected HOST:PORT of the cluster itself, not of a Ray Client server; run the "
                "command on one of its nodes, or with `ray job submit`"
            )
        if place := re.fullmatch(r"(.+):(\d+)", address):
            _require_listener(place[1], int(place[2]), address)
        options: dict[str, Any] = {"address": address}
        if not address:
            self._folder = _own_folder()
            options = {
                "address": "local",
                "num_cpus": num_processors,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES + num_processors * STORE_BYTES_PER_TASK,
                "_temp_dir": self._folder.name,
            }
        # Ray takes SIGTERM for itself, where this is the main thread.
        before = signal.getsignal(signal.SIGTERM)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except SystemExit:
            raise KeyboardInterrupt(signal.SIGTERM) from None
        except Exception as error:  # noqa: BLE001 - Ray fails in any way, and an address is the user's
            where = f"Ray address {address}: {first_line(error)}; is it that of a cluster, and the token its own?"
            raise ConfigError(where if address else f"Ray cannot be started here: {first_line(error)}") from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)

    def nodes(self) -> list[str]:
        """Ids of the nodes that have processors for tasks."""
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        return [node["NodeID"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]

    def close(self) -> None:
        """Leave the cluster; one of our own is stopped."""
        ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()

    def summary(self) -> str:
        """One line: what was done, how fast, and which stage was the bottleneck; "" when nothing was done."""
        use = self.use
        if not use.num_videos:
            return ""
        seconds = max(use.seconds, 1e-9)
        shares = {stage: use.busy_seconds[stage] / seconds / count for stage, count in use.at_a_time.items()}
        busy = ", ".join(f"{stage} {share:.0%} of {use.at_a_time[stage]}" for stage, share in shares.items())
        most = max(shares, key=lambda stage: shares[stage])
        bottleneck = most if shares[most] >= 0.5 else "none of these, they wait for files or for this process"
        lost = f"; {use.num_lost} process(es) died and their videos were done again" if use.num_lost else ""
        return (
            f"Ray started in {use.startup_seconds:.1f} s; {use.num_videos} video(s), {use.num_frames} frames in "
            f"{use.seconds:.1f} s, {use.num_frames / seconds:.1f} frames/s; busy: {busy}; "
            f"bottleneck: {bottleneck}{lost}"
        )

    def map(
        self, function: Callable[[Item], int], items: Iterable[Item]
    ) -> Generator[tuple[Item, int | LostWorkerError], None, None]:
        """Call a function that decodes a video and returns the number of its frames, each time in a task of its own.

        Results come as they are there; what a call raised is raised. items: each once. function: one that tasks can
        import by its name.
        """
        task = ray.remote(num_cpus=1, max_retries=0)(timed)
        shared, wanted, use = ray.put(function), versions(), self.use
        waiting, again = iter(items), deque[Item]()
        running: dict[Any, Item] = {}
        tries: Counter[Item] = Counter()
        begin = time.monotonic()
        try:
            while True:
                # One more than there are processors, so that none waits for us.
                for item in islice(chain(taken(again), waiting), self.num_tasks + 1 - len(running)):
                    running[task.remote(shared, item, wanted)] = item
                if not running:
                    return
                for reference in ray.wait(list(running), timeout=SIGNAL_SECONDS)[0]:
                    item = running.pop(reference)
                    result: int | LostWorkerError
                    try:
                        seconds, num_frames = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from None
                    except ray.exceptions.RayError as error:
                        use.num_lost += 1
                        tries[item] += 1
                        if tries[item] < TRIES:
                            again.append(item)
                            continue
                        result = LostWorkerError(lost_reason(error))
                    else:
                        use.busy_seconds["decoding"] += seconds
                        use.num_frames += num_frames
                        result = num_frames
                    use.num_videos += 1
                    yield item, result
        finally:
            use.seconds += time.monotonic() - begin
            for reference in running:
                ray.cancel(reference, force=True)


def lost_reason(error: Exception) -> str:
    """Why a video is given up over which processes died."""
    return f"the Ray process that had it died, again and again ({first_line(error)})"


def first_line(error: Exception) -> str:
    """What an error of Ray's says in short."""
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")


def taken(items: deque[Item]) -> Iterator[Item]:
    """Items, taken out of a queue as they are asked for."""
    while items:
        yield items.popleft()


def _require_listener(host: str, port: int, address: str) -> None:
    """Raise ConfigError when nobody listens; Ray itself would try for minutes."""
    try:
        socket.create_connection((host.strip("[]"), port), timeout=SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Ray address {address}: no cluster answers there ({error}); see `ray start --head`"
        ) from None


def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for a Ray of our own; those of processes that were killed are removed.

    It holds sockets, whose paths may have 107 bytes: not below TMPDIR, which may be deep.
    """
    for old in Path("/tmp").glob("lrcn-ray-*"):
        owner = re.fullmatch(r"lrcn-ray-(\d+)-.*", old.name)
        with suppress(FileNotFoundError):  # another command removes it at this moment
            if owner and old.stat().st_uid == os.getuid() and not psutil.pid_exists(int(owner[1])):
                shutil.rmtree(old, ignore_errors=True)
    prefix = f"lrcn-ray-{os.getpid()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp", ignore_cleanup_errors=True)
