"""What the installed FFmpeg can decode and encode."""

from fractions import Fraction

import av
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.video.codeccontext import VideoCodecContext

# FFmpeg's own AV1 decoder opens everywhere and works on some graphics cards only; dav1d is the one that decodes.
DECODERS = {"h264": "h264", "hevc": "hevc", "vp9": "vp9", "av1": "libdav1d", "mpeg4": "mpeg4"}
# Of the frame store.
ENCODERS = {"h264": "libx264"}


def missing_codecs() -> list[str]:
    """Codecs that the pipeline counts on and PyAV's FFmpeg lacks, such as "decoder av1 (libdav1d)"; empty if none.

    A codec counts as there when it can be opened, not when it is listed.
    """
    wanted = [("decoder", *item) for item in DECODERS.items()] + [("encoder", *item) for item in ENCODERS.items()]
    return [f"{kind} {codec} ({name})" for kind, codec, name in wanted if not _opens(kind, name)]


def _opens(kind: str, name: str) -> bool:
    try:
        context = Codec(name, "r" if kind == "decoder" else "w").create("video")
        assert isinstance(context, VideoCodecContext)
        if kind == "encoder":
            context.width, context.height, context.pix_fmt = 16, 16, "yuv420p"
            context.time_base = Fraction(1, 25)
        context.open()
    except (UnknownCodecError, av.FFmpegError):
        return False
    return True
