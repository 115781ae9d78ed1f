"""Files from which no frame can come; a reader that opens whatever FFmpeg opens shows pictures for some of them."""

import io
import struct
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.faults.case import Fault, box, changed, flipped, holding, patched, video
from tests.videos import add_cover, write

FASTSTART = {"movflags": "faststart"}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5 RTP/AVP 96\n"
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n%s\n#EXT-X-ENDLIST\n"
ABOVE_LIMIT = r"above the limit of 37748736 pixels"
mp4 = video(container_options=FASTSTART, options={"qp": "4"})


def picture(path: Path, codec: str) -> None:
    """One picture of a still format, whatever the name of the file."""
    write(path, 1, codec=codec, pixel_format="yuvj420p" if codec == "mjpeg" else "rgb24", format="image2pipe")


def archive() -> bytes:
    """A zip archive of one file."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("a.txt", "hello")
    return target.getvalue()


def sound(path: Path, *, cover: bool = False, format: str = "mp4") -> None:
    """One second of silence, with a cover picture or without."""
    with av.open(str(path), "w", format=format) as container:
        track = container.add_stream("pcm_s16le" if format == "wav" else "aac", rate=48000, layout="mono")
        if cover:
            add_cover(container, path.with_name("cover.jpeg"))
        kind = np.int16 if format == "wav" else np.float32
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), kind), "s16" if format == "wav" else "fltp", "mono")
        silence.sample_rate, silence.pts, silence.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(track.encode(silence))
        container.mux(track.encode(None))


def gif_bomb(width: int, height: int) -> bytes:
    """A GIF of 40 bytes that states a picture of any size."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


def png_bomb(data: bytearray) -> bytearray:
    """PNG pictures, alone or in a mov, that state 16000 x 16000 pixels."""
    if b"stsd" in data:
        patched(data, data.index(b"stsd") + 4 + 8 + 8 + 24, ">HH", 16000, 16000)
    at = data.find(b"IHDR")
    while at >= 0:
        patched(data, at + 4, ">II", 16000, 16000)
        at = data.find(b"IHDR", at + 4)
    return data


def without_fragments(data: bytearray) -> bytearray:
    """A fragmented MP4 cut before its first fragment."""
    return data[: data.index(b"moof") - 4]


def unusable(id: str, name: str, make: object, reason: str) -> Fault:
    """A file to be rejected."""
    return Fault(id, name, make, "rejected", reason)  # type: ignore[arg-type]


def rows() -> list[Fault]:
    """The 35 files."""
    noise = np.random.default_rng(5).bytes(5000)
    return [
        unusable("A1", "empty.mp4", holding(b""), r"^empty file"),
        unusable("A2", "empty.h264", holding(b""), r"^empty file"),
        unusable("A3", "text.mp4", holding("Grüße\n".encode() * 900), "^a text file"),
        unusable("A3", "page.mp4", holding(b"<!DOCTYPE html>\n<html>404 Not Found</html>"), "^a web page"),
        unusable("A3", "noise.mp4", holding(noise), "cannot be opened|not in a video format"),
        unusable("A3", "zeros.mp4", holding(bytes(5000)), "^filled with zeros"),
        unusable("A3", "archive.mp4", holding(archive()), "^a zip archive"),
        unusable("A3", "lfs.mp4", holding(LFS), "git lfs pull"),
        unusable("A3", "dvc.mp4", holding(b"outs:\n- md5: 0\n  size: 9\n  path: a.mp4\n"), "dvc pull"),
        unusable("A3", "subtitles.mp4", holding(b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"), "^a text file"),
        unusable("A4", "photo.mp4", lambda path: picture(path, "mjpeg"), "^a JPEG picture"),
        unusable("A4", "drawing.mp4", lambda path: picture(path, "png"), "^a PNG picture"),
        unusable("A5", "script.mp4", holding(b"ffconcat version 1.0\nfile 'good00.mp4'\n"), r"\(ffconcat\)"),
        unusable("A6", "playlist.mp4", holding(HLS % b"good00.mp4"), "^a playlist"),
        unusable("A6", "playlist.m3u8", holding(HLS % b"good00.mp4"), "^a playlist"),
        unusable("A7", "session.mp4", holding(SDP), "^a stream description"),
        unusable("A8", "half.mp4", changed(video(), lambda d: d[: len(d) // 2]), r"^no index \(moov\)"),
        unusable("A8", "nearly.mp4", changed(video(), lambda d: d[: d.index(b"moov") - 8]), r"^no index \(moov\)"),
        unusable("A17", "header.mp4", changed(mp4, lambda d: d[: box(d, b"mdat")]), "no video data follows the header"),
        unusable(
            "A17",
            "fragmented-header.mp4",
            changed(video(container_options={"movflags": "frag_keyframe+empty_moov"}), without_fragments),
            "no video data|cannot be opened|no frame decodes",
        ),
        unusable(
            "A18",
            "offsets.mp4",
            changed(mp4, lambda d: patched(d, box(d, b"stco") + 8, ">I", 2**31)),
            "no video data|no frame decodes|cannot be opened",
        ),
        unusable(
            "A18",
            "sizes.mp4",
            changed(mp4, lambda d: patched(d, box(d, b"stsz") + 12, ">60I", *[0x7FFFFFFF] * 60)),
            "no video data|no frame decodes|cannot be opened",
        ),
        unusable(
            "A18",
            "parameters.mp4",
            changed(mp4, lambda d: patched(d, box(d, b"avcC"), "40B", *[0xFF] * 40)),
            "no frame decodes|cannot be opened|index",
        ),
        unusable(
            "A18",
            "flips-in-moov.mp4",
            changed(mp4, lambda d: flipped(d, 30, box(d, b"moov"), box(d, b"moov") + 400, seed=3)),
            r"\w",
        ),
        unusable(
            "A19",
            "codec.mp4",
            changed(mp4, lambda d: patched(d, d.index(b"avc1", box(d, b"stsd")), "4B", *b"zzzz")),
            "codec.*unknown|zzzz",
        ),
        unusable("A20", "sound.mp4", sound, "^no video stream"),
        unusable("A20", "sound.wav", lambda path: sound(path, format="wav"), "^an audio file"),
        unusable(
            "A24", "avi-without-packets.avi", changed(video(codec="mpeg4"), lambda d: d[: d.index(b"movi") + 4]), r"\w"
        ),
        unusable("A34", "moving.webp", lambda path: write(path, 4, codec="libwebp_anim", format="webp"), "WebP"),
        unusable("A37", "bomb.gif", holding(gif_bomb(16000, 16000)), ABOVE_LIMIT),
        unusable("A37", "bomb.mp4", changed(lambda path: picture(path, "png"), png_bomb), "^a PNG picture"),
        unusable(
            "A37", "bomb.mov", changed(video(num_frames=3, codec="png", pixel_format="rgb24"), png_bomb), ABOVE_LIMIT
        ),
        unusable("A40", "song.m4a", lambda path: sound(path, cover=True), "only a cover picture"),
        unusable("A40", "song.mp4", lambda path: sound(path, cover=True), "only a cover picture"),
        unusable("A3", "document.mp4", holding(b"%PDF-1.7\n%" + noise), "^a PDF document"),
    ]
