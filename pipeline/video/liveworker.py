"""The process that follows live sources: the only one that can open a camera or an address."""

from typing import Any

from pipeline.video.limits import Limits
from pipeline.video.live import LiveSource, live_reader
from pipeline.video.worker import Channel, main, serve_pictures


def serve_live(job: dict[str, Any], limits: Limits, channel: Channel) -> None:
    """Follow one source to its end; the last message is a verdict."""
    serve_pictures(live_reader(LiveSource(**job["source"]), limits, channel.progress), job, channel)


if __name__ == "__main__":
    main(serve_live)
