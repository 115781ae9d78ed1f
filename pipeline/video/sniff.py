"""What a file that cannot be opened as a video is instead, told from its bytes; so that the reason helps."""

import struct
from collections.abc import Iterator
from pathlib import Path

HEAD_BYTES = 4096
TRANSPORT_PACKET_BYTES = 188
MAX_BOXES = 10_000
# Top-level boxes of MP4. Anything else at the end of a file may be rubbish that does no harm.
BOXES = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"free", b"skip", b"wide", b"udta"})

# First bytes and what they mean. Pictures and archives would otherwise be "invalid data".
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the video itself: run `git lfs pull`"),
    (b"\xff\xd8\xff", "a JPEG picture, not a video"),
    (b"\x89PNG", "a PNG picture, not a video"),
    (b"BM", "a BMP picture, not a video"),
    (b"PK\x03\x04", "a zip archive, not a video"),
    (b"\x1f\x8b", "a gzip archive, not a video"),
    (b"Rar!", "a RAR archive, not a video"),
    (b"7z\xbc\xaf", "a 7z archive, not a video"),
    (b"%PDF", "a PDF document, not a video"),
    (b"ID3", "an audio file, not a video"),
    (b"fLaC", "an audio file, not a video"),
    (b"ffconcat", "a script that names other files (ffconcat), not a video"),
    (b"#EXTM3U", "a playlist that names other files, not a video"),
    (b"v=0", "a stream description (SDP), not a video"),
)


def describe(path: Path) -> str | None:
    """Why a file is not a video that can be opened; None when its bytes do not tell.

    Raises OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    for magic, meaning in MAGIC:
        if head.startswith(magic):
            return meaning
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"WEBP"):
        return "an audio file, not a video" if head[8:12] == b"WAVE" else "a WebP picture, not a video"
    if not head.strip(b"\0"):
        return "filled with zeros: an incomplete download?"
    if head[4:8] in BOXES:
        return _describe_boxes(path)
    return _describe_text(head)


def describe_cut(path: Path, format_names: set[str]) -> str:
    """How a file ends in the middle of something, in formats where that shows; "" when it does not.

    Raises OSError when the file cannot be read.
    """
    size_bytes = path.stat().st_size
    if "mpegts" in format_names:
        with path.open("rb") as file:
            head = file.read(TRANSPORT_PACKET_BYTES + 1)
        # Packets of other sizes (192, 204 bytes) are rare and left alone.
        has_packets = len(head) > TRANSPORT_PACKET_BYTES and head[0] == head[-1] == 0x47
        cut = has_packets and size_bytes % TRANSPORT_PACKET_BYTES != 0
        return "the file is cut off in the middle of a transport packet" if cut else ""
    if "gif" in format_names:
        return _describe_gif_end(path)
    if "mov" in format_names:
        for kind, end in _boxes(path):
            if kind in BOXES and end > size_bytes:
                return f"the file is cut off in the middle of a box ({kind.decode('ascii')})"
    return ""


def _describe_boxes(path: Path) -> str:
    has_index = any(kind == b"moov" for kind, _ in _boxes(path))
    return "its index (moov) is broken" if has_index else "no index (moov): an incomplete download or recording?"


def _boxes(path: Path) -> Iterator[tuple[bytes, int]]:
    """Kind and stated end, in bytes, of the top-level boxes of an MP4 file (ISO/IEC 14496-12, 4.2)."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(MAX_BOXES):
            start = file.tell()
            header = file.read(8)
            if len(header) < 8:
                return
            size, kind = struct.unpack(">I4s", header)
            if size == 1:
                size = int.from_bytes(file.read(8), "big")
            if size < 8:  # 0: up to the end of the file; the others are no sizes
                return
            yield kind, start + size
            if start + size > size_bytes:  # by up to 2 ** 64, too far to seek to
                return
            file.seek(start + size)


def _describe_gif_end(path: Path) -> str:
    """What keeps the blocks of a GIF (its specification of 1989, sections 15 to 27) from reaching its trailer.

    FFmpeg takes whatever comes after a broken block for the end, without an error.
    """
    with path.open("rb") as file:
        head = file.read(13)
        file.read(_color_table_bytes(head[10:11]))
        while kind := file.read(1):
            if kind == b";":
                return ""
            if kind == b",":
                file.read(_color_table_bytes(file.read(9)[8:]) + 1)
            elif kind == b"!":
                file.read(1)
            else:
                return f"a block of unknown kind at byte {file.tell() - 1}: frames may be lost"
            while size := file.read(1).strip(b"\0"):
                file.read(size[0])
    return "the file is cut off before its trailer"


def _color_table_bytes(flags: bytes) -> int:
    return 3 << (flags[0] % 8 + 1) if flags and flags[0] & 0x80 else 0


def _describe_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character cut at the end of the excerpt is no sign of binary data
            return None
        text = head[: error.start].decode("utf-8")
    if any(ord(character) < 32 and character not in "\t\n\r\f" for character in text):
        return None
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html")):
        return "a web page (HTML), not a video: a failed download?"
    if start.startswith("outs:") and "md5:" in start:
        return "a DVC pointer, not the video itself: run `dvc pull`"
    return "a text file, not a video"
