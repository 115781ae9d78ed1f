"""Actors that make features, or answers, of videos: fed, watched and replaced by the driver."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import ConfigError, LrcnError, RejectedVideo
from pipeline.raybackbone import Backbones, Done, Head, Job, Report, Setup
from pipeline.raydecode import End, Look, LostWorkerError, Source, Watcher, versions
from pipeline.rayengine import TRIES, RayEngine, first_line, lost_reason, taken
from pipeline.threads import SIGNAL_SECONDS
from pipeline.view import View

TRIES_TO_START = 3  # actors, none of which starts
SECONDS_TO_START = 30.0  # after which the user is told what is waited for
TRIES_ALONE = 2  # of a video that was an actor's only one when it died
AHEAD = 2  # videos that an actor has, for each that it has decoded


@dataclass(eq=False)
class _Actor:
    """An actor, and what it was asked. call: the one under way. alone: it is to have one job at a time."""

    handle: Any
    call: Any
    node: str | None
    threads: int = 0  # that compute; 0 until it has started
    alone: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)


class RayPool:
    """Actors that make features, or answers, of videos; one that dies is replaced.

    The videos that it was at are done again, each alone with an actor: so the one that kills actors is found.

    There is one for each GPU of the cluster, or one for each node, which computes beside the tasks there. Use it as a
    context manager: leaving it ends them.

    files: of a model folder, or a backbone's alone. head: see Setup; without it results are features. watcher: see
    Watcher. Raises LrcnError for files that hold no such thing.
    """

    def __init__(
        self,
        engine: RayEngine,
        files: Mapping[str, bytes],
        view: View,
        *,
        head: Callable[[Path, str], Head] | None = None,
        watcher: Callable[[], Watcher] | None = None,
    ) -> None:
        nodes: list[str | None] = [*engine.nodes()] if not engine.num_gpus else [None] * engine.num_gpus
        num_tasks = -(-engine.num_tasks // len(nodes))
        device = "cuda" if engine.num_gpus else "cpu"
        self._setup = ray.put(Setup(files, device, num_tasks, Look(view, watcher, versions()), head))
        self._limit = AHEAD * num_tasks + 1
        self._use = use = engine.use
        self._num_failed = 0  # starts, since one went well
        self._first = self._next = 0  # numbers of jobs: of the run's first, and of the one to come
        self._jobs: Iterator[Job] = iter(())
        self._again: deque[Job] = deque()
        self._alone: deque[Job] = deque()
        self._tries: Counter[int] = Counter()
        begin = time.monotonic()
        self._actors = [self._new(node) for node in nodes]
        tell_at = begin + SECONDS_TO_START
        while not any(actor.threads for actor in self._actors):
            list(self._look(lambda num_frames: None))
            if time.monotonic() > tell_at:
                tell_at = float("inf")
                what = "a GPU, which others may have" if engine.num_gpus else "a process"
                sys.stderr.write(f"ray: waiting for {what}, to compute features; `ray status` says what is in use\n")
        use.startup_seconds += time.monotonic() - begin

    def run(
        self, videos: Iterable[tuple[str, Source]], progress: Callable[[int], None] = lambda num_frames: None
    ) -> Generator[Done, None, None]:
        """What became of each video, as they come; the first one's number is 0. progress: told of frames.

        What is left of a run that was not gone through to its end is done by the actors, and dropped.

        Raises LrcnError where no actor can be started, or a node has other versions of this package or its libraries.
        """
        self._first = self._next
        self._jobs = self._numbered(videos)
        self._again, self._alone, self._tries = deque(), deque(), Counter()
        begin = time.monotonic()
        try:
            while True:
                for actor in self._actors:
                    self._employ(actor)
                of_now = (number >= self._first for actor in self._actors for number in actor.jobs)
                has_jobs = any(of_now) or self._again or self._alone
                # While none has started, there may be jobs that nobody took.
                if not has_jobs and any(actor.threads for actor in self._actors):
                    return
                for done in self._look(progress):
                    if done.number >= self._first:
                        self._use.num_videos += 1
                        yield done._replace(number=done.number - self._first)
        finally:
            self._use.seconds += time.monotonic() - begin

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the actors, and with them the tasks that decode for them."""
        for actor in self._actors:
            with suppress(Exception):  # the cluster may be gone
                ray.kill(actor.handle)

    def _numbered(self, videos: Iterable[tuple[str, Source]]) -> Iterator[Job]:
        for name, source in videos:
            self._next += 1
            yield Job(self._next - 1, name, source)

    def _new(self, node: str | None) -> _Actor:
        place = "DEFAULT" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)
        options = {"num_cpus": 0, "num_gpus": 0 if node else 1, "scheduling_strategy": place}
        handle: Any = ray.remote(Backbones).options(**options).remote()
        return _Actor(handle, handle.start.remote(self._setup), node)

    def _employ(self, actor: _Actor) -> None:
        """Give an actor that waits the jobs for which it has room, and ask what is done."""
        if actor.call is not None:
            return
        jobs: list[Job] = []
        if not actor.jobs:
            actor.alone = bool(self._alone)
            jobs = [self._alone.popleft()] if actor.alone else []
        if not actor.alone:
            jobs = list(islice(chain(taken(self._again), self._jobs), self._limit - len(actor.jobs)))
        actor.jobs.update({job.number: job for job in jobs})
        if actor.jobs:
            actor.call = actor.handle.exchange.remote(jobs)

    def _look(self, progress: Callable[[int], None]) -> Iterator[Done]:
        """Take what an actor says, or see that one died."""
        actors = {actor.call: actor for actor in self._actors if actor.call is not None}
        ready, _ = ray.wait(list(actors), timeout=SIGNAL_SECONDS)
        for actor in (actors[call] for call in ready):
            try:
                said, actor.call = ray.get(actor.call), None
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                yield from self._replace(actor, error)
                continue
            if isinstance(said, LrcnError):
                raise said
            if isinstance(said, Report):
                yield from self._take(actor, said, progress)
            else:
                actor.threads, self._num_failed = said, 0
                self._use.at_a_time["backbone"] = sum(actor.threads for actor in self._actors)
                self._use.at_a_time["head"] = sum(actor.threads > 0 for actor in self._actors)

    def _take(self, actor: _Actor, report: Report, progress: Callable[[int], None]) -> Iterator[Done]:
        use = self._use
        use.busy_seconds["backbone"] += report.compute_seconds
        use.busy_seconds["head"] += report.head_seconds
        use.num_frames += report.num_frames
        progress(report.num_frames)
        for done in report.done:
            job = actor.jobs.pop(done.number)
            use.busy_seconds["decoding"] += done.end.busy_seconds
            if isinstance(done.result, ConfigError):
                raise done.result
            if not isinstance(done.result, LostWorkerError):
                yield done
                continue
            use.num_lost += 1
            if job.number >= self._first and self._is_tried_again(job, TRIES):
                self._again.append(job)
            else:
                yield _given_up(job, done.result)

    def _replace(self, actor: _Actor, error: Exception) -> Iterator[Done]:
        """Have another actor in the place of one that died, and its jobs done again."""
        self._use.num_lost += 1
        self._num_failed += not actor.threads
        if self._num_failed == TRIES_TO_START:
            raise LrcnError(f"Ray cannot start a process for the backbone ({first_line(error)}); see Ray's logs")
        self._actors.remove(actor)
        self._actors.append(self._new(actor.node))
        for job in actor.jobs.values():
            if job.number < self._first:
                continue
            if not actor.alone or self._is_tried_again(job, TRIES_ALONE):
                self._alone.append(job)
            else:
                yield _given_up(job, error)

    def _is_tried_again(self, job: Job, tries: int) -> bool:
        self._tries[job.number] += 1
        return self._tries[job.number] < tries


def _given_up(job: Job, reason: Exception) -> Done:
    error = RejectedVideo(lost_reason(reason), is_transient=True)
    return Done(job.number, error, End(error))
