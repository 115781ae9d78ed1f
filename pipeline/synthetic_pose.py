"""The people of the demo data set and their poses: who they are, and how they stand at a moment of an action.

Lengths are shares of the standing height; points are complex numbers, x towards where the person faces, y up from the
floor, 0 where the person stands when neutral. Angles are radians; those of limbs count from hanging straight down,
those of the torso and the head from upright, all positive towards where the person faces. Colours are RGB.

Every pose is a function of the action's progress alone (0 neutral, 1 done); backwards, an action is its opposite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Color = tuple[int, int, int]

ANKLE = 0.035
SEAT_HEIGHT, SEAT_BACK = 0.275, 0.25  # of the stool: top of the seat, and how far behind the person it stands
STRIDE = 0.66  # two steps

SKINS = ((255, 219, 190), (241, 194, 155), (224, 172, 125), (190, 132, 88), (146, 95, 62), (101, 66, 46))
HAIRS = ((38, 30, 32), (74, 46, 32), (121, 74, 40), (190, 128, 56), (226, 184, 98), (168, 62, 38), (120, 118, 126))
TOPS = (
    *((222, 66, 62), (240, 134, 44), (246, 190, 50), (64, 158, 92), (36, 148, 156), (44, 104, 190), (106, 76, 176)),
    *((204, 72, 138), (246, 244, 238), (54, 60, 84)),
)
BOTTOMS = ((42, 56, 92), (62, 66, 76), (88, 72, 62), (34, 92, 104), (120, 88, 58), (96, 48, 70), (60, 96, 152))
SHOES = ((250, 250, 250), (36, 36, 42), (206, 58, 54), (240, 180, 60), (64, 140, 200))
HAIR_STYLES = ("short", "bob", "bun", "ponytail", "curly", "cap")
LEG_WEAR = ("trousers", "trousers", "shorts", "skirt")


@dataclass(frozen=True)
class Person:
    """One drawn person: proportions (shares of the standing height), colours, clothes, and two places."""

    height: float  # share of the frame's shorter side
    leg: float
    torso: float
    head: float
    girth: float
    skin: Color
    hair: Color
    top: Color
    bottom: Color
    shoes: Color
    hair_style: str
    leg_wear: str
    long_sleeves: bool
    striped: bool
    glasses: bool
    scenes: tuple[str, str]


def draw_person(rng: np.random.Generator, scene_kinds: tuple[str, ...]) -> Person:
    """A person drawn at random; `scene_kinds` are the names of which two are taken."""

    def pick(values: tuple[Color, ...], unlike: Color = (-999, 0, 0)) -> Color:
        clear = [value for value in values if sum(abs(a - b) for a, b in zip(value, unlike, strict=True)) > 90]
        return clear[int(rng.integers(len(clear)))]

    leg, head = float(rng.uniform(0.415, 0.455)), float(rng.uniform(0.108, 0.126))
    first, second = (int(kind) for kind in rng.choice(len(scene_kinds), 2, replace=False))
    skin = pick(SKINS)
    return Person(
        height=float(rng.uniform(0.62, 0.70)),
        leg=leg,
        torso=1.0 - ANKLE - leg - 2 * head - 0.005,
        head=head,
        girth=float(rng.uniform(0.88, 1.2)),
        skin=skin,
        hair=pick(HAIRS, unlike=skin),
        top=pick(TOPS, unlike=skin),
        bottom=pick(BOTTOMS, unlike=skin),
        shoes=pick(SHOES),
        hair_style=HAIR_STYLES[int(rng.integers(len(HAIR_STYLES)))],
        leg_wear=LEG_WEAR[int(rng.integers(len(LEG_WEAR)))],
        long_sleeves=bool(rng.random() < 0.5),
        striped=bool(rng.random() < 0.3),
        glasses=bool(rng.random() < 0.25),
        scenes=(scene_kinds[first], scene_kinds[second]),
    )


@dataclass(frozen=True)
class Pose:
    """How a person stands at one moment; pairs are (near, far) from the viewer."""

    hip: complex
    lean: float
    head: float
    upper_arms: tuple[float, float]
    forearms: tuple[float, float]
    feet: tuple[complex, complex]


def _mix(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


def _deg(*angles: float) -> tuple[float, ...]:
    return tuple(math.radians(angle) for angle in angles)


FEET = (complex(-0.05, ANKLE), complex(0.055, ANKLE + 0.008))  # the far foot stands a little higher in the picture
LEAN, NEAR_UPPER, NEAR_FORE, FAR_UPPER, FAR_FORE = _deg(2, -6, 4, 8, 20)


def sit_pose(person: Person, progress: float, exit_x: float) -> Pose:
    """Hips go back and down onto the stool, the torso bends forward on the way, hands end on the thighs."""
    p, way = progress, math.sin(math.pi * progress)
    hip = complex(_mix(0, -SEAT_BACK, p), _mix(person.leg + ANKLE, SEAT_HEIGHT + 0.045, p))
    return Pose(
        hip=hip,
        lean=_mix(LEAN, math.radians(3), p) + math.radians(34) * way,
        head=math.radians(8) * way,
        upper_arms=(
            _mix(NEAR_UPPER, math.radians(18), p) + math.radians(22) * way,
            _mix(FAR_UPPER, math.radians(26), p) + math.radians(22) * way,
        ),
        forearms=(
            _mix(NEAR_FORE, math.radians(58), p) + math.radians(12) * way,
            _mix(FAR_FORE, math.radians(64), p) + math.radians(12) * way,
        ),
        feet=FEET,
    )


def raise_pose(person: Person, progress: float, exit_x: float) -> Pose:
    """Both arms go out and up to a V; the elbows follow late."""
    p, way = progress, math.sin(math.pi * progress)
    return Pose(
        hip=complex(0, person.leg + ANKLE + 0.004 * p),
        lean=LEAN * (1 - p),
        head=math.radians(-5) * p,
        upper_arms=(_mix(NEAR_UPPER, math.radians(-138), p), _mix(FAR_UPPER, math.radians(138), p)),
        forearms=(
            _mix(NEAR_FORE, math.radians(-152), p) + math.radians(14) * way,
            _mix(FAR_FORE, math.radians(152), p) - math.radians(14) * way,
        ),
        feet=FEET,
    )


def walk_pose(person: Person, progress: float, exit_x: float) -> Pose:
    """The person walks until `exit_x`; legs and arms are a function of the place, so backwards it is a moonwalk."""
    # Progress is eased, so it creeps towards 1; the power takes that back: nobody slows down when leaving the picture.
    x = exit_x * (1 - (1 - progress) ** 0.7)
    swing = min(1.0, abs(x) / (0.5 * STRIDE))
    swing = swing * swing * (3 - 2 * swing)
    cycle = x / STRIDE + 0.25  # from the moment the feet pass each other, which is nearest to standing
    feet = []
    for index, neutral in enumerate(FEET):
        phase = (cycle + 0.5 * index) % 1.0
        if phase < 0.5:  # on the floor: moves back as fast as the body moves on, so it does not slide
            step = complex(STRIDE / 4 * (1 - 4 * phase), 0)
        else:
            turn = 2 * math.pi * (phase - 0.5)
            step = complex(-STRIDE / 4 * math.cos(turn), 0.075 * math.sin(turn))
        feet.append(neutral.imag * 1j + (1 - swing) * neutral.real + swing * step + x)
    apart = math.cos(4 * math.pi * cycle)
    arm = swing * math.radians(30) * math.cos(2 * math.pi * cycle)
    return Pose(
        hip=complex(x, person.leg + ANKLE - swing * (0.022 + 0.014 * apart)),
        lean=LEAN,
        head=0.0,
        upper_arms=(NEAR_UPPER - arm, FAR_UPPER + arm),
        forearms=(
            NEAR_FORE - arm + swing * math.radians(18),
            FAR_FORE + arm + swing * math.radians(18),
        ),
        feet=(feet[0], feet[1]),
    )


def bend_pose(person: Person, progress: float, exit_x: float) -> Pose:
    """The torso bends forward until the hands are at the shoes; the hips go back to keep the balance."""
    p, way = progress, math.sin(math.pi * progress)
    return Pose(
        hip=complex(-0.09 * p, person.leg + ANKLE - 0.035 * p),
        lean=_mix(LEAN, math.radians(112), p),
        head=math.radians(-14) * p,
        upper_arms=(
            _mix(NEAR_UPPER, math.radians(6), p) + math.radians(16) * way,
            _mix(FAR_UPPER, math.radians(16), p) + math.radians(16) * way,
        ),
        forearms=(
            _mix(NEAR_FORE, math.radians(-6), p) + math.radians(16) * way,
            _mix(FAR_FORE, math.radians(4), p) + math.radians(16) * way,
        ),
        feet=FEET,
    )


# (class away from neutral, class back to neutral, pose). Each class is the other one played backwards.
PAIRS: tuple[tuple[str, str, Callable[[Person, float, float], Pose]], ...] = (
    ("sit_down", "stand_up", sit_pose),
    ("raise_arms", "lower_arms", raise_pose),
    ("walk_out", "walk_in", walk_pose),
    ("bend_down", "straighten_up", bend_pose),
)
