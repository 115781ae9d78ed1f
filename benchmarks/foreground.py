"""Foreground by motion beside the truth: the probe's own, and OpenCV's background subtractors, on drawn people.

    python benchmarks/foreground.py [--people 6]

A clip of each class and person is drawn as in the demo data set, with the outline of the person kept; frames are taken
ten times a second at short side 96, and coded as JPEG, which stands for the codec. Overlap is intersection over union
of foreground and outline over all frames of a clip; a share of 1 found means that no part of the person is lost, a
share of 1 right that nothing else is taken for one. The subtractors see each clip forwards, then backwards, having seen
it once before in that direction; their masks are cleaned as the probe's own. Repeatable: whether a second call on the
same clip gives the same foreground.
"""

import argparse
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from pipeline import synthetic_video
from pipeline.synthetic_pose import draw_person
from pipeline.synthetic_scene import SCENES
from pipeline.synthetic_video import CLASSES, draw_video, generator, plan_clip
from pipeline.video import changes

FPS, SHORT_SIDE = 10, 96
SUBTRACTORS: dict[str, Callable[[int], cv2.BackgroundSubtractor]] = {
    "MOG2, threshold 16": lambda steps: cv2.createBackgroundSubtractorMOG2(steps, 16, False),
    "KNN, threshold 100": lambda steps: cv2.createBackgroundSubtractorKNN(steps, 100, False),
    "KNN, threshold 200": lambda steps: cv2.createBackgroundSubtractorKNN(steps, 200, False),
}


def drawn(people: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames `(T, H, W, 3) uint8` and outlines `(T, H, W) bool`."""
    outlines: list[np.ndarray] = []
    draw_figure = synthetic_video.draw_figure

    def watched(canvas: object, *arguments: object) -> None:
        before = canvas.image.copy()
        draw_figure(canvas, *arguments)
        outlines.append((canvas.image != before).any(axis=-1))

    synthetic_video.draw_figure = watched
    for number in range(people):
        person = draw_person(generator(0, f"person-{number}"), tuple(SCENES))
        for label in CLASSES:
            rng = generator(0, f"{label} {number}")
            plan = plan_clip(label, rng)
            outlines.clear()
            frames = draw_video(plan, person, rng).frames
            # A clip played backwards has its times turned round too; which frames are taken matters little here.
            steps = np.linspace(0, len(frames) - 1, round(len(frames) / plan.fps * FPS)).round().astype(int)
            ordered = outlines[::-1] if plan.backwards else outlines
            scale = SHORT_SIDE / min(plan.width, plan.height)
            size = round(plan.width * scale / 2) * 2, round(plan.height * scale / 2) * 2
            yield (
                np.stack([_coded(cv2.resize(frames[k], size, interpolation=cv2.INTER_AREA)) for k in steps]),
                np.stack(
                    [cv2.resize(ordered[k] * np.uint8(255), size, interpolation=cv2.INTER_AREA) > 127 for k in steps]
                ),
            )


def _coded(frame: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_COLOR)


def subtracted(frames: np.ndarray, make: Callable[[int], cv2.BackgroundSubtractor]) -> np.ndarray:
    """Foreground by a subtractor, in either direction."""
    moves = np.zeros(frames.shape[:3], np.uint8)
    for order in (range(len(frames)), range(len(frames) - 1, -1, -1)):
        subtractor = make(len(frames))
        for step in order:
            subtractor.apply(frames[step])
        for step in order:
            moves[step] |= subtractor.apply(frames[step], learningRate=0)
    opened, closed = (
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (round(SHORT_SIDE * share) // 2 * 2 + 1,) * 2)
        for share in (changes.OPENED, changes.CLOSED)
    )
    clean = [cv2.morphologyEx(cv2.morphologyEx(m, cv2.MORPH_OPEN, opened), cv2.MORPH_CLOSE, closed) for m in moves]
    return np.stack(clean) > 127


def own(frames: np.ndarray, grown: float) -> np.ndarray:
    """Foreground of the probe, widened by a disc of that share of the shorter side."""
    before, changes.GROWN = changes.GROWN, grown
    try:
        return changes.separate(frames).alpha > 127
    finally:
        changes.GROWN = before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=6)
    clips = list(drawn(parser.parse_args().people))
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "median over time, without a rim": lambda frames: own(frames, 0),
        "median over time, as the probe has it": lambda frames: own(frames, changes.GROWN),
        **{name: lambda frames, make=make: subtracted(frames, make) for name, make in SUBTRACTORS.items()},
    }
    print(f"{len(clips)} clips, {sum(len(frames) for frames, _ in clips)} frames")
    print("| foreground | overlap | found | right | repeatable |\n|---|---|---|---|---|")
    for name, method in methods.items():
        shares = []
        for frames, truth in clips:
            mask = method(frames)
            both = (mask & truth).sum()
            shares.append((both / (mask | truth).sum(), both / truth.sum(), both / max(1, mask.sum())))
        repeatable = "yes" if np.array_equal(method(clips[0][0]), method(clips[0][0])) else "no"
        cells = [f"{share:.2f}" for share in np.mean(shares, axis=0)]
        print(f"| {' | '.join([name, *cells, repeatable])} |")


if __name__ == "__main__":
    main()
