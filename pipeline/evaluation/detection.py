"""Scores of alarm-like classes: how many events are found, at how many false alarms per hour, how late.

An alarm is raised when the probability of a class reaches a threshold: at a timestep at or above it whose predecessor
is below it or missing. It sounds until the probability falls below the threshold again, and is one alarm meanwhile.

- Frame task. An event is a segment of the class. It is found when an alarm is raised from TOLERANCE_SECONDS before its
  start up to its end; its delay runs from its first timestep to the first such alarm, 0 for an early one. Alarms raised
  at any other timestep are false, but for those where the truth is unknown, which count nowhere. That alarms only count
  where they are *raised* is what makes the score hard to cheat: an alarm that is always on touches every event, and
  finds none. So the recall need not grow as the threshold falls.
- Clip task. A video is one timestep as long as the video: a video of the class is an event, an alarm in another video
  is false. There is no delay.

Rates are per hour of footage that is known to be without the class. Recall at a rate of false alarms per unit of time
is the operating point of NIST's ActEV and of keyword spotting; matching by the start of the detection within a
tolerance follows online detection of action starts (Shou et al. 2018, arXiv 1802.06822, offsets of 1 s and more).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.evaluation.intervals import Resamples

TOLERANCE_SECONDS = 1.0
MAX_ROWS = 200  # of a table; a curve needs no more
COLUMNS = ("class", "threshold", "recall", "false_alarms_per_hour", "delay_seconds")


@dataclass(frozen=True)
class Footage:
    """Test videos, V of them, as something that gives alarm for one class sees them.

    event, known: (T,) bool per video, whether a timestep is of the class, and whether anybody knows. groups: (V,).
    step_seconds: (V,), what a timestep lasts. has_delay: whether timesteps follow each other (frame task).
    Raises DataError where lengths differ.
    """

    event: Sequence[np.ndarray]
    known: Sequence[np.ndarray]
    groups: Sequence[str]
    step_seconds: np.ndarray
    has_delay: bool

    def __post_init__(self) -> None:
        sizes = {len(self.event), len(self.known), len(self.groups), len(self.step_seconds)}
        lengths = [(len(event), len(known)) for event, known in zip(self.event, self.known, strict=False)]
        if len(sizes) != 1 or any(one != other for one, other in lengths):
            raise DataError(f"footage of {sorted(sizes)} videos and timesteps {lengths[:5]}; expected as many of each")

    @property
    def hours_without(self) -> float:
        """Hours of footage known to be without the class."""
        free = [(known & ~event).sum() for event, known in zip(self.event, self.known, strict=True)]
        return float(np.dot(free, self.step_seconds) / 3600)


@dataclass(frozen=True)
class Sweep:
    """Alarms at every threshold that occurs: M thresholds, ascending, `(M,)` each; E events.

    found: events found. false: false alarms. video_of_event: (E,) position of the event's video.
    """

    thresholds: np.ndarray
    found: np.ndarray
    false: np.ndarray
    video_of_event: np.ndarray
    hours_without: float
    _scores: np.ndarray
    _before: np.ndarray
    _windows: np.ndarray  # (W,) timesteps of all events' windows, event by event, a timestep of two windows twice
    _first: np.ndarray  # (E,) where each event's window begins in _windows
    _delay: np.ndarray  # (W,) seconds since the event's start, 0 before it
    _has_delay: bool

    @property
    def num_events(self) -> int:
        """Number of events, E."""
        return len(self.video_of_event)

    @property
    def recall(self) -> np.ndarray:
        """Share of the events that are found; nan without an event."""
        return self.found / self.num_events if self.num_events else np.full(len(self.found), np.nan)

    @property
    def false_alarms_per_hour(self) -> np.ndarray:
        """False alarms per hour of footage without the class; nan without such footage."""
        return self.false / self.hours_without if self.hours_without else np.full(len(self.false), np.nan)

    def delays(self, threshold: float) -> np.ndarray:
        """(E,) seconds from each event's start to its first alarm; nan for events that are not found."""
        at = self._windows
        raised = (self._scores[at] >= threshold) & (self._before[at] < threshold)
        seconds = np.where(raised, self._delay, np.inf)
        first = np.minimum.reduceat(seconds, self._first) if self.num_events else np.empty(0)
        return np.where(np.isinf(first), np.nan, first)

    def median_delay(self, threshold: float) -> float:
        """Median over the events found, in seconds; nan for the clip task and when none is found."""
        delays = self.delays(threshold)
        found = delays[~np.isnan(delays)]
        return float(np.median(found)) if len(found) and self._has_delay else float("nan")

    def choose(self, rate_per_hour: float) -> int | None:
        """Index of the threshold that finds most events at no more false alarms per hour than asked for.

        Of equals the one with fewer false alarms, then the lowest, which is the earliest to alarm. None when no
        threshold within the rate finds an event, or without events or footage to tell.
        """
        if not self.num_events or not self.hours_without:
            return None
        within = np.flatnonzero((self.false_alarms_per_hour <= rate_per_hour) & (self.found > 0))
        if not len(within):
            return None
        return int(within[np.lexsort((self.thresholds[within], self.false[within], -self.found[within]))[0]])

    def rows(self, keep: int | None) -> list[dict[str, float]]:
        """The curve: a row for each threshold at which recall or false alarms change, at most MAX_ROWS, and `keep`."""
        if not len(self.thresholds):
            return []
        both = np.stack([self.found, self.false])
        changes = np.flatnonzero(np.r_[True, (both[:, 1:] != both[:, :-1]).any(axis=0)])
        if len(changes) > MAX_ROWS:
            changes = changes[np.linspace(0, len(changes) - 1, MAX_ROWS).round().astype(int)]
        shown = np.union1d(changes, [] if keep is None else [keep]).astype(int)
        recall, rate = self.recall, self.false_alarms_per_hour
        return [
            {
                "threshold": float(self.thresholds[at]),
                "recall": float(recall[at]),
                "false_alarms_per_hour": float(rate[at]),
                "delay_seconds": self.median_delay(float(self.thresholds[at])),
            }
            for at in shown
        ]


def sweep(footage: Footage, scores: Sequence[np.ndarray]) -> Sweep:
    """Alarms at every threshold; scores: the class's probability, (T,) per video. Raises DataError for other lengths.

    A timestep raises an alarm at the thresholds above its predecessor's score and up to its own, so thresholds are
    counted by their ranks: no loop over thresholds.
    """
    lengths = [len(video) for video in footage.event]
    if [len(video) for video in scores] != lengths:
        raise DataError("scores and truth of the alarm class differ in length; expected a score for each timestep")
    flat = _joined(scores, np.float64)
    event, known = _joined(footage.event, np.bool_), _joined(footage.known, np.bool_)
    ends = np.cumsum(lengths, dtype=np.int64)
    begins = ends - lengths
    thresholds, rank = np.unique(flat, return_inverse=True)
    before, rank_before = np.roll(flat, 1), np.roll(rank, 1)
    opening = begins[begins < ends]
    before[opening], rank_before[opening] = -np.inf, -1

    # Events, and the stretch of timesteps in which an alarm finds each.
    inside = event & known
    after = np.roll(inside, 1)
    after[opening] = False
    starts = np.flatnonzero(inside & ~after)
    video = np.searchsorted(ends, starts, side="right")
    stop = np.flatnonzero(~np.r_[inside[1:], False] | np.isin(np.arange(len(flat)) + 1, ends))
    stops = stop[np.searchsorted(stop, starts)] + 1
    step = np.asarray(footage.step_seconds, dtype=np.float64)[video]
    # A whole number of steps that is a rounding error above the tolerance still fits into it.
    early = np.floor(TOLERANCE_SECONDS / step + 1e-9).astype(np.int64) if footage.has_delay else np.zeros_like(starts)
    window_starts = np.maximum(starts - early, begins[video])
    sizes = stops - window_starts
    event_of = np.repeat(np.arange(len(starts)), sizes)
    first = np.cumsum(sizes) - sizes
    windows = np.arange(len(event_of)) - first[event_of] + window_starts[event_of]

    rising = rank > rank_before
    wanted = np.zeros(len(flat), dtype=bool)
    wanted[windows] = True
    wrong = np.flatnonzero(rising & ~wanted & known)
    useful = rising[windows]
    low, high = _union(event_of[useful], rank_before[windows[useful]], rank[windows[useful]], len(thresholds))
    return Sweep(
        thresholds=thresholds,
        found=_covering(low, high, len(thresholds)),
        false=_covering(rank_before[wrong], rank[wrong], len(thresholds)),
        video_of_event=video,
        hours_without=footage.hours_without,
        _scores=flat,
        _before=before,
        _windows=windows,
        _first=first,
        _delay=np.maximum(windows - starts[event_of], 0) * step[event_of],
        _has_delay=footage.has_delay,
    )


def detection_scores(
    footage: Footage, runs: Sequence[Sequence[np.ndarray]], rate_per_hour: float, *, samples: int, seed: int
) -> dict[str, float]:
    """What a class reaches at a rate of false alarms, as written to `metrics.json`.

    runs: the class's probabilities, (T,) per video, of one training or of several that differ in their seed. The
    threshold is read off these very videos (`Sweep.choose`), as for a point of a ROC curve; each training has its own,
    and every value is the mean over the trainings. Keys:

    - rate_per_hour: the rate asked for. hours_without: footage without the class. One false alarm in it is a rate of
      1 / hours_without, so in less than 1 / rate_per_hour hours the rate asked for means no false alarm at all.
    - threshold: nan when no threshold within the rate finds anything (recall 0), or nothing can be told.
    - recall, recall_low, recall_high: share of the events found, and its interval with the threshold as it is, by
      bootstrap over the groups of videos. nan without an event, or without footage to count false alarms in; no
      interval where all events are of one group, which does not vary.
    - false_alarms_per_hour: what is reached, at most rate_per_hour. delay_seconds: median over the events found.
    - num_events: events.
    """
    resamples = Resamples(footage.groups, samples=samples, seed=seed)
    points = [_point(sweep(footage, scores), rate_per_hour, len(footage.groups), resamples) for scores in runs]
    names = ("threshold", "recall", "false_alarms_per_hour", "delay_seconds")
    mean = {name: float(np.mean([values[name] for values, _ in points])) for name in names}
    bounds = resamples.interval(np.mean([drawn for _, drawn in points], axis=0))
    return {
        "rate_per_hour": rate_per_hour,
        "threshold": mean["threshold"],
        "recall": mean["recall"],
        "recall_low": bounds.low,
        "recall_high": bounds.high,
        "false_alarms_per_hour": mean["false_alarms_per_hour"],
        "delay_seconds": mean["delay_seconds"],
        "num_events": points[0][0]["num_events"],
        "hours_without": footage.hours_without,
    }


def detection_rows(
    name: str, footage: Footage, scores: Sequence[np.ndarray], rate_per_hour: float
) -> list[dict[str, object]]:
    """Rows of `detection.csv` for one class, the threshold of `detection_scores` among them; empty cells for nan."""
    curve = sweep(footage, scores)
    rows: list[Mapping[str, float]] = list(curve.rows(curve.choose(rate_per_hour)))
    return [{"class": name, **{key: "" if np.isnan(value) else value for key, value in row.items()}} for row in rows]


def _point(
    curve: Sweep, rate_per_hour: float, num_videos: int, resamples: Resamples
) -> tuple[dict[str, float], np.ndarray]:
    """The operating point, and its recall in each resample."""
    nothing = float("nan")
    chosen = curve.choose(rate_per_hour)
    measured = bool(curve.num_events) and bool(curve.hours_without)
    threshold = nothing if chosen is None else float(curve.thresholds[chosen])
    found = ~np.isnan(curve.delays(threshold))
    events = np.bincount(curve.video_of_event, minlength=num_videos)
    hits = np.bincount(curve.video_of_event[found], minlength=num_videos)
    totals = resamples.totals(np.column_stack([hits, events]))
    recalls = np.where(totals[:, 1] > 0, totals[:, 0] / np.maximum(totals[:, 1], 1), np.nan)
    values = {
        "threshold": threshold,
        "recall": float(found.mean()) if measured else nothing,
        "false_alarms_per_hour": (0.0 if chosen is None else float(curve.false_alarms_per_hour[chosen]))
        if measured
        else nothing,
        "delay_seconds": curve.median_delay(threshold),
        "num_events": float(curve.num_events),
    }
    is_spread = len(np.unique(resamples.group_of_item[curve.video_of_event])) > 1
    return values, recalls if measured and is_spread else np.full(len(recalls), np.nan)


def _joined(videos: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=kind), *(np.asarray(video, dtype=kind) for video in videos)])


def _union(event: np.ndarray, low: np.ndarray, high: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint rank intervals (low, high] that cover, for each event, what its intervals cover together."""
    shift = event * (size + 1)  # no interval of one event reaches the next one's
    order = np.lexsort((low, event))
    low, high = (low + shift)[order], (high + shift)[order]
    covered = np.r_[-1, np.maximum.accumulate(high)[:-1]] if len(high) else high
    low = np.maximum(low, covered)
    kept = high > low
    shift = shift[order][kept]
    return low[kept] - shift, high[kept] - shift


def _covering(low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    """How many of the rank intervals (low, high] hold each of the ranks 0 .. size - 1."""
    steps = np.bincount(low + 1, minlength=size + 1) - np.bincount(high + 1, minlength=size + 1)
    return np.cumsum(steps)[:size]
