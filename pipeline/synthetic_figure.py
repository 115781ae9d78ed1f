"""Draws the people of the demo data set: a flat-design figure of discs and round-ended lines, and its soft shadow.

Points and angles are those of `synthetic_pose`: complex numbers in body units, x to the front, y up from the floor.
"""

import cmath
import math

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.synthetic_pose import SEAT_BACK, SEAT_HEIGHT, Color, Person, Pose

Image = npt.NDArray[np.uint8]
UPPER_ARM, FOREARM = 0.150, 0.140
FIXED_BITS = 4  # cv2 draws at a sixteenth of a pixel


class Canvas:
    """Draws shapes given in body units onto an RGB picture of `(H, W, 3) uint8`."""

    def __init__(self, image: Image, origin: complex, scale: float, facing: int) -> None:
        self.image, self.origin, self.scale, self.facing = image, origin, scale, facing

    def _point(self, point: complex) -> tuple[int, int]:
        one = 1 << FIXED_BITS
        x = self.origin.real + self.facing * point.real * self.scale
        y = self.origin.imag - point.imag * self.scale
        return round(x * one), round(y * one)

    def line(self, start: complex, end: complex, width: float, color: Color) -> None:
        """A line with round ends."""
        thickness = max(1, round(width * self.scale))
        cv2.line(self.image, self._point(start), self._point(end), color, thickness, cv2.LINE_AA, FIXED_BITS)

    def disc(self, center: complex, radius: float, color: Color) -> None:
        """A filled circle."""
        size = round(radius * self.scale * (1 << FIXED_BITS))
        cv2.circle(self.image, self._point(center), size, color, -1, cv2.LINE_AA, FIXED_BITS)

    def sector(self, center: complex, radius: float, start: float, end: float, color: Color) -> None:
        """A filled piece of a disc from one angle to another, counted like a torso's, from upright to the front."""
        first, last = sorted(self.facing * math.degrees(angle) - 90 for angle in (start, end))
        size = round(radius * self.scale * (1 << FIXED_BITS))
        cv2.ellipse(self.image, self._point(center), (size, size), 0, first, last, color, -1, cv2.LINE_AA, FIXED_BITS)

    def polygon(self, points: list[complex], color: Color) -> None:
        """A filled convex polygon."""
        corners = np.array([self._point(point) for point in points], dtype=np.int32)
        cv2.fillConvexPoly(self.image, corners, color, cv2.LINE_AA, FIXED_BITS)

    def shadow(self, center: float, half_width: float, sprite: Image) -> None:
        """Darkens the floor by a soft ellipse; `sprite` is `(h, w, 3) uint8`, 255 where nothing changes."""
        x, y = (value >> FIXED_BITS for value in self._point(complex(center, 0.012)))
        half_w, half_h = max(2, round(half_width * self.scale)), max(2, round(0.052 * self.scale))
        left, right = max(0, x - half_w), min(self.image.shape[1], x + half_w)
        top, bottom = max(0, y - half_h), min(self.image.shape[0], y + half_h)
        if left < right and top < bottom:
            soft = cv2.resize(sprite, (2 * half_w, 2 * half_h), interpolation=cv2.INTER_LINEAR)
            soft = soft[top - y + half_h : bottom - y + half_h, left - x + half_w : right - x + half_w]
            floor = self.image[top:bottom, left:right]
            cv2.multiply(floor, soft, dst=floor, scale=1 / 255)


def _make_shadow_sprite() -> Image:
    dark = np.zeros((64, 192), np.uint8)
    cv2.ellipse(dark, (96, 32), (68, 18), 0, 0, 360, 110, -1)
    dark = cv2.GaussianBlur(dark, (0, 0), 9).astype(np.uint8)
    return np.ascontiguousarray(np.repeat((255 - dark)[:, :, None], 3, axis=2))


SHADOW = _make_shadow_sprite()


def shade(color: Color, factor: float) -> Color:
    """A darker (below 1) or lighter (above 1) version of a colour."""
    return (min(255, int(color[0] * factor)), min(255, int(color[1] * factor)), min(255, int(color[2] * factor)))


def _up(angle: float) -> complex:
    return 1j * cmath.exp(-1j * angle)


def _down(angle: float) -> complex:
    return -1j * cmath.exp(1j * angle)


def _knee(hip: complex, ankle: complex, bone: float) -> complex:
    """The joint of two bones of equal length between two points, bent to the front."""
    way = ankle - hip
    half = min(abs(way) / 2, bone)
    return hip + way / 2 + 1j * way / abs(way) * math.sqrt(bone * bone - half * half)


def draw_stool(canvas: Canvas, color: Color) -> None:
    """The stool that stands behind the neutral place in every video of every class."""
    seat = complex(-SEAT_BACK, SEAT_HEIGHT - 0.022)
    canvas.shadow(-SEAT_BACK, 0.2, SHADOW)
    canvas.line(seat - 0.02, seat - 0.04 - 0.225j, 0.026, shade(color, 0.62))
    canvas.line(seat + 0.02, seat + 0.045 - 0.225j, 0.026, shade(color, 0.62))
    canvas.line(seat - 0.07, seat - 0.095 - 0.245j, 0.03, shade(color, 0.8))
    canvas.line(seat + 0.07, seat + 0.095 - 0.245j, 0.03, shade(color, 0.8))
    canvas.line(seat - 0.085, seat + 0.085, 0.05, color)


def draw_figure(canvas: Canvas, person: Person, pose: Pose, sway: tuple[float, float, float], blink: bool) -> None:
    """Draws a person in a pose, over its soft shadow.

    sway: slow values of about -1 to 1 for breathing, balance and looking around, which keep a resting figure alive.
    """
    breath, balance, look = sway
    lean = pose.lean + 0.012 * balance
    hip, up = pose.hip, _up(lean)
    neck = hip + up * (person.torso + 0.004 * breath)
    across = up * cmath.exp(-0.5j * math.pi)  # from the near to the far side in a three-quarter view
    shoulders = (neck - 0.05 * up - 0.055 * across, neck - 0.045 * up + 0.05 * across)
    hips = (hip - 0.03 * across, hip + 0.03 * across)
    head_angle = 0.82 * lean + pose.head + 0.05 * look
    center = neck + _up(head_angle) * (person.head + 0.008)

    low = (pose.feet[0].real + pose.feet[1].real) / 2
    reach = [low, hip.real, center.real]
    canvas.shadow((min(reach) + max(reach)) / 2, 0.25 + (max(reach) - min(reach)) / 2, SHADOW)
    _draw_hair_behind(canvas, person, center, head_angle)
    for index, factor in ((1, 0.80), (0, 1.0)):
        if index == 1:
            _draw_arm(canvas, person, shoulders[1], pose.upper_arms[1] + 0.02 * breath, pose.forearms[1], factor)
        _draw_leg(canvas, person, hips[index], pose.feet[index], factor)
    _draw_torso(canvas, person, hip, neck, up, across, pose)
    _draw_head(canvas, person, neck, center, head_angle, blink)
    _draw_arm(canvas, person, shoulders[0], pose.upper_arms[0] - 0.02 * breath, pose.forearms[0], 0.93)


def _draw_arm(canvas: Canvas, person: Person, shoulder: complex, upper: float, fore: float, factor: float) -> None:
    elbow = shoulder + UPPER_ARM * _down(upper)
    hand = elbow + FOREARM * _down(fore)
    width = 0.080 * math.sqrt(person.girth)
    skin, top = shade(person.skin, 0.5 + factor / 2), shade(person.top, factor)
    canvas.disc(hand, 0.046, skin)
    if person.long_sleeves:
        canvas.line(elbow, elbow + 0.78 * (hand - elbow), width * 0.95, top)
    else:
        canvas.line(elbow, hand, width * 0.78, skin)
    if not person.long_sleeves:
        canvas.line(shoulder, elbow, width * 0.78, skin)
        elbow = shoulder + 0.55 * (elbow - shoulder)
    canvas.line(shoulder, elbow, width, top)


def _draw_leg(canvas: Canvas, person: Person, hip: complex, ankle: complex, factor: float) -> None:
    bone = person.leg / 2 + 0.001
    knee = _knee(hip, ankle, bone)
    width = 0.086 * math.sqrt(person.girth)
    skin, cloth = shade(person.skin, 0.5 + factor / 2), shade(person.bottom, factor)
    shoes = shade(person.shoes, 0.4 + 0.6 * factor)
    canvas.line(ankle - 0.012 - 0.006j, ankle + 0.062 - 0.012j, 0.05, shoes)
    if person.leg_wear == "trousers":
        canvas.line(knee, ankle + 0.012j, width * 0.82, cloth)
        canvas.line(hip, knee, width, cloth)
        return
    canvas.line(knee, ankle + 0.01j, width * 0.66, skin)
    canvas.line(hip, knee, width * 0.8, skin)
    share = 0.8 if person.leg_wear == "shorts" else 0.35
    canvas.line(hip, hip + share * (knee - hip), width * 1.05, cloth)


def _draw_torso(
    canvas: Canvas, person: Person, hip: complex, neck: complex, up: complex, across: complex, pose: Pose
) -> None:
    wide = 0.078 * person.girth
    chest, waist = neck - 0.062 * up, hip + 0.025 * up
    if person.leg_wear == "skirt":
        bone = person.leg / 2
        knees = [_knee(hip, foot, bone) for foot in pose.feet]
        middle = hip + 0.72 * ((knees[0] + knees[1]) / 2 - hip)
        side = 1j * (middle - hip) / abs(middle - hip)
        flare = 1.45 * wide
        canvas.polygon(
            [waist - wide * across, waist + wide * across, middle + flare * side, middle - flare * side], person.bottom
        )
    canvas.line(hip - 0.25 * wide * across, hip + 0.25 * wide * across, 1.62 * wide, person.bottom)
    corners = [
        waist - 0.92 * wide * across,
        waist + 0.92 * wide * across,
        chest + 1.12 * wide * across,
        chest - 1.12 * wide * across,
    ]
    canvas.polygon(corners, person.top)
    canvas.line(chest - 0.62 * wide * across, chest + 0.58 * wide * across, 1.1 * wide, person.top)
    canvas.line(waist - 0.5 * wide * across, waist + 0.5 * wide * across, 0.85 * wide, person.top)
    if person.striped:
        stripe = shade(person.top, 0.7) if sum(person.top) > 330 else (236, 232, 222)
        for share in (0.38, 0.66):
            middle = waist + share * (chest - waist)
            canvas.line(middle - 0.8 * wide * across, middle + 0.8 * wide * across, 0.026, stripe)


def _draw_hair_behind(canvas: Canvas, person: Person, center: complex, angle: float) -> None:
    r, up = person.head, _up(angle)
    front = up * cmath.exp(-0.5j * math.pi)
    dark = shade(person.hair, 0.85)
    if person.hair_style == "bob":
        canvas.disc(center - 0.2 * r * front - 0.12 * r * up, 1.12 * r, dark)
        canvas.line(center - 0.75 * r * front - 0.2 * r * up, center - 0.7 * r * front - 0.85 * r * up, 0.7 * r, dark)
    elif person.hair_style == "bun":
        canvas.disc(center - 0.75 * r * front + 0.9 * r * up, 0.42 * r, dark)
    elif person.hair_style == "ponytail":
        start = center - 0.85 * r * front + 0.35 * r * up
        end = start - 0.35 * r * front - 1.5 * r * 1j  # hangs down whatever the head does
        canvas.line(start, end, 0.5 * r, dark)
    elif person.hair_style == "curly":
        for turn in range(-8, 3, 2):
            canvas.disc(center + 0.82 * r * _up(angle + turn * 0.3), 0.46 * r, dark)


def _draw_head(canvas: Canvas, person: Person, neck: complex, center: complex, angle: float, blink: bool) -> None:
    r, up = person.head, _up(angle)
    front = up * cmath.exp(-0.5j * math.pi)
    canvas.line(neck - 0.03 * up, center - 0.5 * r * up, 0.062, shade(person.skin, 0.86))
    canvas.disc(center, r, person.skin)
    canvas.disc(center + 0.99 * r * front - 0.14 * r * up, 0.15 * r, person.skin)  # nose
    if person.hair_style == "cap":
        canvas.sector(center, 1.05 * r, angle - 2.4, angle - 1.2, person.hair)
        canvas.sector(center + 0.12 * r * up, 1.07 * r, angle - 1.62, angle + 1.5, person.top)
        brim = center + 0.2 * r * up
        canvas.line(brim + 0.75 * r * front, brim + 1.35 * r * front, 0.2 * r, shade(person.top, 0.75))
    else:
        canvas.sector(center + 0.04 * r * up, 1.1 * r, angle - 2.25, angle + 0.75, person.hair)
        canvas.disc(center + 0.62 * r * up + 0.3 * r * front, 0.42 * r, person.hair)
        canvas.disc(center - 0.3 * r * front - 0.12 * r * up, 0.2 * r, shade(person.skin, 0.93))  # ear
    canvas.disc(center + 0.28 * r * front - 0.36 * r * up, 0.17 * r, _blush(person.skin))
    ink = (42, 32, 36)
    for place in (0.32, 0.78):
        eye = center + place * r * front + 0.02 * r * up
        if blink:
            canvas.line(eye - 0.1 * r * front, eye + 0.1 * r * front, 0.07 * r, ink)
        else:
            canvas.line(eye - 0.06 * r * up, eye + 0.06 * r * up, 0.16 * r, ink)
        if person.glasses:
            canvas.line(eye + 0.24 * r * up - 0.2 * r * front, eye + 0.24 * r * up + 0.2 * r * front, 0.09 * r, ink)
    mouth = center + 0.56 * r * front - 0.5 * r * up
    canvas.line(mouth - 0.16 * r * front, mouth + 0.1 * r * front + 0.04 * r * up, 0.1 * r, (150, 58, 62))


def _blush(skin: Color) -> Color:
    return (min(255, skin[0] + 6), int(skin[1] * 0.84), int(skin[2] * 0.84))
