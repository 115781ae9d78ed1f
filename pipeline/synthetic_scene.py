"""The places of the demo data set: backgrounds drawn by code, flat and rather pale, so that the figure stands out.

Every scene is `(H, W, 3) uint8` RGB, has a floor from `floor_y` down, and takes all its choices from the generator.
"""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

WALLS = (
    *((214, 224, 228), (232, 220, 204), (206, 222, 206), (226, 210, 222), (240, 230, 196), (200, 212, 232)),
    *((228, 200, 188), (188, 208, 206), (172, 186, 204), (206, 196, 180)),
)
FLOORS = ((190, 162, 132), (168, 138, 112), (176, 172, 168), (150, 158, 166), (206, 186, 158), (146, 124, 118))
ACCENTS = ((206, 104, 88), (92, 138, 160), (218, 174, 92), (110, 152, 116), (148, 118, 164), (232, 226, 214))


def draw_scene(kind: str, width: int, height: int, floor_y: int, rng: np.random.Generator) -> Image:
    """A background `(height, width, 3) uint8` of one of the `SCENES`, with the floor from row `floor_y` down."""
    wall, floor = _tint(_pick(WALLS, rng), rng), _tint(_pick(FLOORS, rng), rng)
    image = np.empty((height, width, 3), np.uint8)
    _gradient(image, 0, floor_y, _mix(wall, (255, 255, 255), 0.18), _mix(wall, (90, 90, 110), 0.06))
    _gradient(image, floor_y, height, _mix(floor, (60, 50, 60), 0.10), _mix(floor, (255, 255, 255), 0.10))
    SCENES[kind](image, floor_y, wall, floor, rng)
    light = int(rng.integers(0, width))  # a broad patch of light, somewhere
    shine = 1.06 - 0.14 * np.abs(np.arange(width) - light) / width
    return np.clip(image * shine[None, :, None], 0, 255).astype(np.uint8)


def _pick(colors: tuple[Color, ...], rng: np.random.Generator) -> Color:
    return colors[int(rng.integers(len(colors)))]


def _tint(color: Color, rng: np.random.Generator) -> Color:
    red, green, blue = (int(np.clip(value + rng.integers(-14, 15), 0, 255)) for value in color)
    return red, green, blue


def _mix(color: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _gradient(image: Image, top: int, bottom: int, first: Color, last: Color) -> None:
    share = np.linspace(0, 1, max(1, bottom - top))[:, None]
    rows = np.array(first) * (1 - share) + np.array(last) * share
    image[top:bottom] = rows[: image[top:bottom].shape[0], None, :].astype(np.uint8)


def _box(image: Image, left: float, top: float, right: float, bottom: float, color: Color) -> None:
    cv2.rectangle(image, (round(left), round(top)), (round(right), round(bottom)), color, -1)


def _skirting(image: Image, floor_y: int, color: Color) -> None:
    _box(image, 0, floor_y - 0.028 * image.shape[0], image.shape[1], floor_y, _mix(color, (255, 255, 255), 0.55))


def _planks(image: Image, floor_y: int, floor: Color) -> None:
    height, width = image.shape[:2]
    dark = _mix(floor, (60, 40, 40), 0.22)
    for x in np.linspace(-0.6, 1.6, 15):
        start = (round(width * (0.5 + (x - 0.5) * 0.7)), floor_y)
        cv2.line(image, start, (round(width * x), height), dark, 1, cv2.LINE_AA)


def _studio(image: Image, floor_y: int, wall: Color, floor: Color, rng: np.random.Generator) -> None:
    height = image.shape[0]
    _gradient(image, 0, height, _mix(wall, (255, 255, 255), 0.3), _mix(wall, (80, 80, 100), 0.16))
    center = (int(rng.uniform(0.2, 0.8) * image.shape[1]), int(rng.uniform(0.2, 0.5) * height))
    spot = np.zeros((height, image.shape[1]), np.float32)
    cv2.circle(spot, center, round(0.32 * height), 1.0, -1)
    glow = cv2.GaussianBlur(spot, (0, 0), 0.16 * height)
    image[:] = np.clip(image + 26 * glow[:, :, None], 0, 255).astype(np.uint8)


def _window(image: Image, floor_y: int, wall: Color, floor: Color, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    _planks(image, floor_y, floor)
    _skirting(image, floor_y, wall)
    w, h = rng.uniform(0.26, 0.36) * width, rng.uniform(0.34, 0.44) * height
    left, top = rng.uniform(0.05, 0.92) * (width - w), rng.uniform(0.08, 0.16) * height
    _box(image, left - 6, top - 6, left + w + 6, top + h + 6, (248, 246, 242))
    sky = _pick(((168, 208, 236), (244, 206, 170), (150, 178, 214)), rng)
    pane = image[round(top) : round(top + h), round(left) : round(left + w)]
    _gradient(pane, 0, pane.shape[0], sky, _mix(sky, (255, 255, 255), 0.6))
    hill = (round(rng.uniform(0.2, 0.8) * w), round(1.25 * h))
    cv2.circle(pane, hill, round(0.6 * h), _pick(((128, 172, 118), (148, 160, 178)), rng), -1, cv2.LINE_AA)
    _box(image, left + w / 2 - 2, top, left + w / 2 + 2, top + h, (248, 246, 242))
    _box(image, left, top + h / 2 - 2, left + w, top + h / 2 + 2, (248, 246, 242))
    cloth = _pick(ACCENTS, rng)
    for side in (left - 0.16 * w, left + w - 0.08 * w):
        _box(image, side, top - 9, side + 0.24 * w, top + h + 0.12 * height, cloth)
        _box(image, side + 0.09 * w, top - 9, side + 0.13 * w, top + h + 0.12 * height, _mix(cloth, (70, 60, 70), 0.18))


def _gallery(image: Image, floor_y: int, wall: Color, floor: Color, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    _skirting(image, floor_y, wall)
    x = rng.uniform(0.0, 0.08) * width
    while x < 0.95 * width:
        w, h = rng.uniform(0.12, 0.2) * width, rng.uniform(0.16, 0.28) * height
        top = rng.uniform(0.06, 0.22) * height
        _box(image, x, top, x + w, top + h, _pick(((72, 60, 58), (250, 248, 244), (186, 150, 98)), rng))
        _box(image, x + 4, top + 4, x + w - 4, top + h - 4, _mix(_pick(ACCENTS, rng), (255, 255, 255), 0.35))
        spot = (round(x + w * rng.uniform(0.3, 0.7)), round(top + h * rng.uniform(0.35, 0.7)))
        cv2.circle(image, spot, round(0.24 * min(w, h)), _pick(ACCENTS, rng), -1, cv2.LINE_AA)
        x += w + rng.uniform(0.05, 0.12) * width


def _park(image: Image, floor_y: int, wall: Color, floor: Color, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    sky = _tint(_pick(((176, 214, 238), (198, 222, 232), (246, 216, 190)), rng), rng)
    _gradient(image, 0, floor_y, sky, _mix(sky, (255, 255, 255), 0.55))
    grass = _tint(_pick(((150, 186, 122), (168, 190, 112), (132, 176, 130)), rng), rng)
    sun = (round(rng.uniform(0.05, 0.95) * width), round(rng.uniform(0.08, 0.2) * height))
    cv2.circle(image, sun, round(0.06 * height), (255, 240, 190), -1, cv2.LINE_AA)
    for _ in range(3):
        cloud = np.array([rng.uniform(0, width), rng.uniform(0.05, 0.3) * height])
        for shift in (-0.05, 0.0, 0.05):
            place = (round(cloud[0] + shift * width), round(cloud[1] - 0.012 * height * (shift == 0)))
            cv2.circle(image, place, round(0.036 * height), (252, 252, 252), -1, cv2.LINE_AA)
    for _ in range(2):
        hill = (round(rng.uniform(0, width)), round(floor_y + 0.5 * height))
        cv2.circle(image, hill, round(rng.uniform(0.56, 0.66) * height), _mix(grass, sky, 0.5), -1, cv2.LINE_AA)
    _gradient(image, floor_y, height, _mix(grass, (60, 90, 60), 0.12), _mix(grass, (255, 255, 220), 0.15))
    for x in rng.uniform(0, width, int(rng.integers(2, 5))):
        tall, leaf = rng.uniform(0.3, 0.5) * height, _mix(_tint((104, 152, 98), rng), sky, 0.25)
        _box(image, x - 4, floor_y - 0.5 * tall, x + 4, floor_y, _mix((128, 98, 76), sky, 0.2))
        if rng.random() < 0.5:
            cv2.circle(image, (round(x), round(floor_y - 0.72 * tall)), round(0.34 * tall), leaf, -1, cv2.LINE_AA)
        else:
            corners = [(x - 0.3 * tall, floor_y - 0.25 * tall), (x + 0.3 * tall, floor_y - 0.25 * tall)]
            triangle = np.array([*corners, (x, floor_y - 1.1 * tall)], np.int32)
            cv2.fillConvexPoly(image, triangle, leaf, cv2.LINE_AA)


def _stripes(image: Image, floor_y: int, wall: Color, floor: Color, rng: np.random.Generator) -> None:
    width = image.shape[1]
    step, stripe = rng.uniform(0.05, 0.11) * width, _mix(wall, _pick(ACCENTS, rng), 0.32)
    for x in np.arange(rng.uniform(-step, 0), width, step):
        _box(image, x, 0, x + 0.5 * step, floor_y, stripe)
    _planks(image, floor_y, floor)
    _skirting(image, floor_y, wall)


def _shelf(image: Image, floor_y: int, wall: Color, floor: Color, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    _skirting(image, floor_y, wall)
    wood = _tint((166, 128, 92), rng)
    for board in (0.2, 0.4, 0.6):
        y = board * height
        x = rng.uniform(0.0, 0.2) * width
        _box(image, 0, y, width, y + 5, wood)
        while x < width:
            if rng.random() < 0.16:  # a plant
                _box(image, x + 2, y - 0.05 * height, x + 18, y - 1, (186, 116, 88))
                cv2.circle(image, (round(x + 10), round(y - 0.08 * height)), 12, (112, 158, 108), -1, cv2.LINE_AA)
                x += 34
            elif rng.random() < 0.2:
                x += rng.uniform(10, 50)
            else:
                w, h = rng.uniform(6, 13), rng.uniform(0.07, 0.13) * height
                _box(image, x, y - h, x + w, y - 1, _mix(_tint(_pick(ACCENTS, rng), rng), wall, 0.35))
                x += w + 2


def _city(image: Image, floor_y: int, wall: Color, floor: Color, rng: np.random.Generator) -> None:
    width = image.shape[1]
    sky = _tint(_pick(((120, 132, 176), (236, 186, 164), (170, 200, 226)), rng), rng)
    _gradient(image, 0, floor_y, sky, _mix(sky, (255, 236, 214), 0.6))
    x = -rng.uniform(0, 30)
    while x < width:
        w, h = rng.uniform(0.1, 0.17) * width, rng.uniform(0.25, 0.7) * floor_y
        house = _mix(_tint((146, 152, 176), rng), sky, 0.35)
        _box(image, x, floor_y - h, x + w, floor_y, house)
        for row in np.arange(floor_y - h + 8, floor_y - 12, 16):
            for column in np.arange(x + 6, x + w - 8, 12):
                lit = rng.random() < 0.35
                _box(
                    image, column, row, column + 5, row + 7, (250, 226, 160) if lit else _mix(house, (60, 60, 90), 0.2)
                )
        x += w + rng.uniform(0, 10)
    _box(image, 0, floor_y, width, floor_y + 3, _mix(floor, (255, 255, 255), 0.4))


SCENES: dict[str, Callable[[Image, int, Color, Color, np.random.Generator], None]] = {
    "studio": _studio,
    "window": _window,
    "gallery": _gallery,
    "park": _park,
    "stripes": _stripes,
    "shelf": _shelf,
    "city": _city,
}
