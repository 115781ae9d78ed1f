"""Actors that make features, or answers, of videos: fed, watched and replaced by the driver."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import ConfigError, LrcnError, RejectedVideo
from pipeline.raybackbone import Backbones, Done, Job, LostWorkerError, Report, Setup
from pipeline.raydecode import End, Source
from pipeline.threads import SIGNAL_SECONDS

TRIES = 3  # of a video over which a task died; of an actor that does not start
TRIES_ALONE = 2  # of a video that was an actor's only one when it died
AHEAD = 2  # videos that an actor has, for each that it has decoded

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

    nodes: for each actor the node that it is to be on; None for where a GPU is free. use: what is added to.
    """

    def __init__(self, setup: Setup, nodes: list[str | None], use: Use) -> None:
        self._limit = AHEAD * setup.num_tasks + 1
        self._setup = ray.put(setup)
        self._use = use
        self._num_failed = 0  # starts, since one went well
        self._jobs: Iterator[Job] = iter(())
        self._again: deque[Job] = deque()
        self._alone: deque[Job] = deque()
        self._tries: Counter[int] = Counter()
        begin = time.monotonic()
        self._actors = [self._new(node) for node in nodes]
        while not any(actor.threads for actor in self._actors):
            list(self._look(lambda num_frames: None))
        use.startup_seconds += time.monotonic() - begin

    def run(
        self, videos: Iterable[tuple[str, Source]], progress: Callable[[int], None] = lambda num_frames: None
    ) -> Generator[Done, None, None]:
        """What became of each video, as they come; the first one's number is 0. progress: told of frames.

        Raises LrcnError where no actor can be started, or a node has other versions of this package or its libraries.
        """
        self._jobs = (Job(number, name, source) for number, (name, source) in enumerate(videos))
        self._tries = Counter()
        begin = time.monotonic()
        try:
            while True:
                for actor in self._actors:
                    self._employ(actor)
                has_jobs = any(actor.jobs for actor in self._actors) or self._again or self._alone
                # While none has started, there may be jobs that nobody took.
                if not has_jobs and any(actor.threads for actor in self._actors):
                    return
                for done in self._look(progress):
                    self._use.num_videos += 1
                    yield done
        finally:
            self._use.seconds += time.monotonic() - begin

    def close(self) -> None:
        """End the actors, and with them the tasks that decode for them."""
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors = []

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
            if self._is_tried_again(job, TRIES):
                self._again.append(job)
            else:
                yield _given_up(job, done.result)

    def _replace(self, actor: _Actor, error: Exception) -> Iterator[Done]:
        """Have another actor in the place of one that died, and its jobs done again."""
        self._use.num_lost += 1
        self._num_failed += not actor.threads
        if self._num_failed == TRIES:
            raise LrcnError(f"Ray cannot start a process for the backbone ({first_line(error)}); see Ray's logs")
        self._actors.remove(actor)
        self._actors.append(self._new(actor.node))
        for job in actor.jobs.values():
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
