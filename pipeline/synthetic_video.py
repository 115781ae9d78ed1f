"""Videos of the demo data set before they are encoded: what happens when, and the frames drawn from it.

A clip of a class that leads back to neutral is drawn as its opposite and then turned round, pictures and times. What is
drawn at random (rests, speed curves, camera shake, light, blinks, noise, frame times) has no direction in time either,
so the same holds in recordings, where actions of both directions follow each other.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.synthetic_figure import Canvas, draw_figure, draw_stool
from pipeline.synthetic_pose import PAIRS, Person
from pipeline.synthetic_scene import SCENES, draw_scene

Image = npt.NDArray[np.uint8]

CLASSES = tuple(name for away, back, _ in PAIRS for name in (away, back))
SIZES = ((160, 120), (192, 144), (176, 144), (160, 160), (120, 160))  # width, height
RATES = (24, 25, 30)
SUPERSAMPLING = 2  # drawn at twice the size, then averaged: smooth edges and half-pixel camera movement
SHAKE_MARGIN = 8  # pixels of background around the drawn picture
UNSEEN = 0.05  # share of an action's way at either end that counts as rest
REST_SECONDS = (1.0, 2.2)  # between the actions of a recording
RECORDING_SECONDS = (16, 26)
NOISE_MARGIN = 32  # one noise picture a video, moved to a random place in every frame


@dataclass(frozen=True)
class Move:
    """One action: which pair, away from neutral or back to it, when (seconds), its speed curve, and the side of a walk.

    sharpness: 0 constant speed, 1 slow at both ends; skew: faster early (above 0) or late (below 0). Turning time
    round turns `skew` into `-skew`, so a distribution symmetric about 0 is symmetric in time.
    """

    pair: int
    away: bool
    start: float
    end: float
    sharpness: float
    skew: float
    side: int

    @property
    def label(self) -> str:
        """The class name."""
        away, back, _ = PAIRS[self.pair]
        return away if self.away else back

    def progress(self, time: float) -> float:
        """0 neutral to 1 done, at a time in seconds."""
        share = min(1.0, max(0.0, (time - self.start) / (self.end - self.start)))
        share = share + self.skew * share * (1 - share)
        share = (1 - self.sharpness) * share + self.sharpness * share * share * (3 - 2 * share)
        return share if self.away else 1 - share

    def visible(self) -> tuple[float, float]:
        """When an annotator sees it begin and end: the first and last UNSEEN of the way are too slow to notice."""
        times = np.linspace(self.start, self.end, 201)
        done = np.array([self.progress(time) for time in times])
        seen = times[(done >= UNSEEN) & (done <= 1 - UNSEEN)]
        return float(seen[0]), float(seen[-1])


@dataclass(frozen=True)
class Plan:
    """Everything about a video that has to be known before it is drawn; times in seconds on the plan's own clock."""

    width: int
    height: int
    fps: int
    variable_rate: bool
    rotation_degrees: int
    times: tuple[float, ...]
    moves: tuple[Move, ...]
    backwards: bool

    @property
    def pts_seconds(self) -> list[float] | None:
        """Presentation times from the first frame, None at a constant rate."""
        if not self.variable_rate:
            return None
        return [time - self.times[0] for time in self.times]

    @property
    def segments(self) -> list[tuple[float, float, str]]:
        """(start, end, label) of every action while it can be seen, in seconds from the first frame."""
        first = self.times[0]
        seen = [(*move.visible(), move.label) for move in self.moves]
        return [(round(start - first, 3), round(end - first, 3), label) for start, end, label in seen]


@dataclass(frozen=True)
class Place:
    """A scene that looks the same in every video: its kind (of SCENES), and what its choices are drawn from."""

    kind: str
    seed: int
    name: str


@dataclass(frozen=True)
class Video:
    """A drawn video: upright frames `(H, W, 3) uint8` RGB in the order they are shown, and how to store them."""

    frames: list[Image]
    fps: int
    pts_seconds: list[float] | None
    rotation_degrees: int


def generator(seed: int, name: str) -> np.random.Generator:
    """The generator of one video or person: depends on the data set's seed and the name, on nothing else."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4")
    return np.random.default_rng([seed, *(int(word) for word in words)])


def _move(pair: int, away: bool, start: float, rng: np.random.Generator) -> Move:
    return Move(
        pair=pair,
        away=away,
        start=start,
        end=start + rng.uniform(1.0, 2.0),
        sharpness=rng.uniform(0.4, 1.0),
        skew=rng.uniform(-0.35, 0.35),
        side=1 if rng.random() < 0.5 else -1,
    )


def _plan(moves: Sequence[Move], duration: float, rng: np.random.Generator, backwards: bool, rotate: bool) -> Plan:
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    fps = RATES[int(rng.integers(len(RATES)))]
    variable = bool(rng.random() < 0.25)
    count = int(duration * fps) + 1
    steps = rng.uniform(0.4, 1.6, count - 1) if variable else np.ones(count - 1)
    # Scaled to their sum, not cut off: a cut would favour short steps at the end, and show the direction of time.
    times = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum() * (count - 1) / fps
    # What is left of the duration goes before the first and after the last frame by chance, for the same reason.
    times = times + rng.uniform(0, duration - (count - 1) / fps)
    turns = (90, 270) if rotate and rng.random() < 0.08 else (0,)
    return Plan(
        width=width,
        height=height,
        fps=fps,
        variable_rate=variable,
        rotation_degrees=turns[int(rng.integers(len(turns)))],
        times=tuple(times.tolist()),
        moves=tuple(moves),
        backwards=backwards,
    )


def plan_clip(label: str, rng: np.random.Generator) -> Plan:
    """A rest, the action, a rest: 1.6 to 3.2 seconds. The class back to neutral is the other one played backwards."""
    pair = next(index for index, (away, back, _) in enumerate(PAIRS) if label in (away, back))
    move = _move(pair, True, rng.uniform(0.3, 0.6), rng)
    return _plan([move], move.end + rng.uniform(0.3, 0.6), rng, backwards=label != move.label, rotate=True)


def plan_recording(rng: np.random.Generator) -> Plan:
    """Five to seven actions that follow from each other, with rests between them: 16 to 26 seconds.

    The states form a star (neutral in the middle, four ends), walked at random from its stationary distribution; such
    a walk has the same distribution backwards, and so have the rests.
    """
    while True:
        away = bool(rng.random() < 0.5)  # a random walk on a star is in the middle half of the time
        pair = int(rng.integers(len(PAIRS)))
        moves: list[Move] = []
        time = rng.uniform(*REST_SECONDS)
        for _ in range(int(rng.integers(5, 8))):
            if away:
                pair = int(rng.integers(len(PAIRS)))
            move = _move(pair, away, time, rng)
            if not away and moves:  # who left by one side comes back by it
                move = replace(move, side=moves[-1].side)
            moves.append(move)
            time = move.end + rng.uniform(*REST_SECONDS)
            away = not away
        if RECORDING_SECONDS[0] <= time <= RECORDING_SECONDS[1]:
            return _plan(moves, time, rng, backwards=False, rotate=False)


def _waves(rng: np.random.Generator, low: float, high: float, count: int) -> Callable[[float], list[float]]:
    """`count` slow curves within -1 and 1: two sine waves each, of random phase, so they have no direction in time."""
    speed = 2 * np.pi * rng.uniform(low, high, (count, 2))
    phase = rng.uniform(0, 2 * np.pi, (count, 2))

    def curve(time: float) -> list[float]:
        return [float(value) for value in np.sin(speed * time + phase).mean(axis=1)]

    return curve


def draw_video(plan: Plan, person: Person, rng: np.random.Generator, place: Place | None = None) -> Video:
    """Draws a planned video of a person; place, light, noise and camera come from the generator.

    place: a place to film in, instead of the one drawn; nothing else of the video changes with it.
    """
    width, height, s = plan.width, plan.height, SUPERSAMPLING
    short = min(width, height)
    scale = s * short * person.height * rng.uniform(0.95, 1.04)
    facing = 1 if rng.random() < 0.5 else -1
    aside = s * short * rng.uniform(-0.07, 0.07)
    feet = s * (height / 2 + short * rng.uniform(0.355, 0.395))
    kinds = (*person.scenes, *SCENES)  # a person is mostly, not always, filmed in their own two places
    kind = kinds[int(rng.integers(2))] if rng.random() < 0.7 else kinds[2 + int(rng.integers(len(SCENES)))]
    margin = SHAKE_MARGIN
    floor_y = round(feet - s * short * rng.uniform(0.09, 0.13)) + margin
    scene = draw_scene(kind, s * width + 2 * margin, s * height + 2 * margin, floor_y, rng)
    if place is not None:  # after the one that is not shown, so that the generator goes on from the same state
        scene = draw_scene(place.kind, scene.shape[1], scene.shape[0], floor_y, generator(place.seed, place.name))
    wood = tuple(int(value) for value in rng.integers((150, 96, 60), (206, 150, 120)))
    stool_canvas = Canvas(scene, complex(margin + s * width / 2 + aside, margin + feet), scale, facing)
    draw_stool(stool_canvas, (wood[0], wood[1], wood[2]))

    shake, sway = _waves(rng, 0.15, 1.3, 2), _waves(rng, 0.12, 0.4, 3)
    shake_size, light = s * rng.uniform(0.0, 1.6), rng.uniform(0.82, 1.1)
    flicker = _waves(rng, 0.1, 0.8, 1)
    noise_shape = (height + NOISE_MARGIN, width + NOISE_MARGIN, 3)
    noise = np.clip(128.5 + rng.uniform(0.8, 2.5) * rng.standard_normal(noise_shape, np.float32), 0, 255)
    grain = noise.astype(np.uint8)
    duration = plan.times[-1]
    blinks = rng.uniform(0, duration, rng.poisson(0.3 * duration))

    frames: list[Image] = []
    picture = np.empty((s * height, s * width, 3), np.uint8)
    for time in plan.times:
        move = next((move for move in reversed(plan.moves) if time >= move.start), plan.moves[0])
        x, y = (round(margin + shake_size * value) for value in shake(time))
        picture[:] = scene[y : y + s * height, x : x + s * width]
        origin = complex(margin + s * width / 2 + aside - x, margin + feet - y)
        way_out = (s * width / 2 - move.side * aside) / scale + 0.42
        pose = PAIRS[move.pair][2](person, move.progress(time), move.side * facing * way_out)
        breath, balance, look = sway(time)
        blink = bool(np.any(np.abs(blinks - time) < 0.08))
        draw_figure(Canvas(picture, origin, scale, facing), person, pose, (breath, balance, look), blink)
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        top, left = (int(value) for value in rng.integers(0, NOISE_MARGIN, 2))
        speckle = grain[top : top + height, left : left + width]
        gain = light * (1 + 0.025 * flicker(time)[0])
        frames.append(np.asarray(cv2.addWeighted(small, gain, speckle, 1.0, -128.0), np.uint8))
    pts_seconds = plan.pts_seconds
    if plan.backwards:
        frames.reverse()
        if pts_seconds is not None:
            pts_seconds = [pts_seconds[-1] - pts for pts in reversed(pts_seconds)]
    return Video(frames, plan.fps, pts_seconds, plan.rotation_degrees)
