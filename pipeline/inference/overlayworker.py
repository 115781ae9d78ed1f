"""The process that makes overlays, one file after the other; see `pipeline.inference.overlays`."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RejectedVideo
from pipeline.inference.answers import Segment
from pipeline.inference.drawing import OverlayState, Timeline, draw_overlay
from pipeline.video.limits import Limits
from pipeline.video.overlay import draw_over
from pipeline.video.source import one_line
from pipeline.video.worker import Channel, main

DONE, FAILED = b"d", b"x"


def serve_overlay(job: dict[str, Any], limits: Limits, channel: Channel) -> None:
    """Make one overlay; the last message is DONE with notes, or FAILED with a reason and an error number or null."""
    segments = [Segment(**segment) for segment in job["segments"]]
    timeline = Timeline(segments, 0.0, job["end_seconds"], job["classes"], job["threshold"])
    try:
        notes = draw_over(job["path"], job["target"], partial(_draw, timeline), limits, progress=channel.progress)
    except RejectedVideo as error:
        channel.send_json(FAILED, {"reason": str(error), "errno": None})
    except Exception as error:  # noqa: BLE001 - one file's failure is that file's, the process goes on
        channel.send_json(FAILED, {"reason": one_line(error), "errno": getattr(error, "errno", None)})
    else:
        channel.send_json(DONE, {"notes": notes})


def _draw(timeline: Timeline, rgb: NDArray[np.uint8], time_seconds: float) -> None:
    now = timeline.at(time_seconds)
    label, score = ("", None) if now is None else (now.label, now.score)
    draw_overlay(rgb, OverlayState(timeline, time_seconds, label, score))


if __name__ == "__main__":
    main(serve_overlay)
