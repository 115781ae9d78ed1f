"""What a file that cannot be opened as a video is instead, told from its bytes; so that the reason helps."""

import struct
from pathlib import Path

HEAD_BYTES = 4096
TRANSPORT_PACKET_BYTES = 188
MAX_BOXES = 10_000

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
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _describe_boxes(path)
    return _describe_text(head)


def cut_packet_bytes(path: Path, size_bytes: int) -> int:
    """Bytes of a broken last packet of an MPEG transport stream; 0 when it ends with a whole packet."""
    with path.open("rb") as file:
        head = file.read(TRANSPORT_PACKET_BYTES + 1)
    starts_with_packets = len(head) == TRANSPORT_PACKET_BYTES + 1 and head[0] == head[-1] == 0x47
    return size_bytes % TRANSPORT_PACKET_BYTES if starts_with_packets else 0


def _describe_boxes(path: Path) -> str | None:
    """Look for the index (the `moov` box) of an MP4 file among its top-level boxes (ISO/IEC 14496-12, 4.2)."""
    with path.open("rb") as file:
        for _ in range(MAX_BOXES):
            header = file.read(8)
            if len(header) < 8:
                return "no index (moov): an incomplete download or recording?"
            size, kind = struct.unpack(">I4s", header)
            header_size = 8
            if size == 1:
                size, header_size = int.from_bytes(file.read(8), "big"), 16
            if kind == b"moov":
                return "its index (moov) is broken"
            if size < header_size:  # 0: the box reaches to the end of the file; 1 to 7: no box at all
                return "no index (moov): an incomplete download or recording?"
            file.seek(size - header_size, 1)
    return None


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
