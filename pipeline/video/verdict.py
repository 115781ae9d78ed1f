"""The verdict on a video file, and the rules by which the counts of one decoding pass become one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.video.limits import Limits

# Fewer steps than this share being long ones are gaps; more are a variable frame rate.
GAPS_SHARE = 0.2
# The end of a file may miss the length its header states by this many frames before the file counts as cut off.
TAIL_FRAMES = 3
TAIL_SECONDS = 0.1
# A time stamp may lie this far before an earlier one before frames count as lost to it.
RETURN_SECONDS = 1.0
# In these codecs every packet shows one picture. (VP8, VP9 and AV1 have hidden frames, MPEG-4 has empty ones.)
PICTURE_PER_PACKET = frozenset({"h264", "hevc", "vvc"})


@dataclass(frozen=True)
class Verdict:
    """What a full decoding pass says about a file.

    status: `ok`, every frame decodes; `damaged`, some do, but there are errors or lost frames; `rejected`, none do.
    reason: why it is not ok, in one line; "" when it is.
    notes: what is unusual and harmless: a wrong header, gaps between time stamps, a second video stream.
    num_frames: frames decoded. width, height: pixels, upright; pixel aspect is not applied.
    rotation_degrees: clockwise turn that made it upright. first_pts_seconds: time stamp of the first frame as stored.
    duration_seconds: time from the first to the last frame. Both are None when unknown.
    is_transient: rejected for a cause that may lie outside the file (a limit, a crash): worth another try.
    """

    status: Literal["ok", "damaged", "rejected"]
    reason: str = ""
    notes: tuple[str, ...] = ()
    num_frames: int = 0
    width: int = 0
    height: int = 0
    rotation_degrees: int = 0
    first_pts_seconds: float | None = None
    duration_seconds: float | None = None
    codec: str = ""
    pixel_format: str = ""
    is_transient: bool = False

    @property
    def end_seconds(self) -> tuple[float, float] | None:
        """When the last frame is over, and the latest end that a header may state without the file being cut off.

        A frame lasts as long as the others on average. None when the length of the video is unknown.
        """
        if self.duration_seconds is None or self.num_frames < 2:
            return None
        frame_seconds = self.duration_seconds / (self.num_frames - 1)
        end = self.duration_seconds + frame_seconds
        return end, end + max(TAIL_FRAMES * frame_seconds, TAIL_SECONDS)

    @classmethod
    def rejected(cls, reason: str, is_transient: bool = False) -> "Verdict":
        """The verdict on a file from which nothing can be used, and of which nothing is known."""
        return cls("rejected", reason, is_transient=is_transient)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Verdict":
        """The verdict whose `asdict` went through JSON, where tuples become lists."""
        return cls(**{**values, "notes": tuple(values["notes"])})


def known(verdict: Verdict | None) -> Verdict:
    """The verdict of a reader, once it has one. Raises RuntimeError before."""
    if verdict is None:
        raise RuntimeError("the verdict on a video is known when all its frames have been read, not before")
    return verdict


@dataclass
class Findings:
    """What one pass has seen, in plain counts.

    num_frames_stated: frames the header states, 0 when it does not. every_frame_indexed: the header's index lists every
    frame (MP4). size_stated: the picture size is known before decoding.
    num_packets: packets read, failed and discarded ones (cut out by an edit list) included. num_frames_edited_out:
    frames that the header counts and an edit list leaves out altogether, so that no packet of theirs comes.
    seconds_stated: length the header states, None when it does not; seconds_read: length that was found in the file.
    pixel_limit: pixels above which a picture is refused.
    faults: further signs of damage, and notes: further oddities, each a phrase of its own.
    """

    codec: str = ""
    pixel_format: str = ""
    width: int = 0
    height: int = 0
    rotation_degrees: int = 0
    num_frames: int = 0
    pixel_limit: int = Limits.pixels_per_frame
    num_frames_stated: int = 0
    every_frame_indexed: bool = False
    size_stated: bool = True
    num_packets: int = 0
    num_packets_discarded: int = 0
    num_frames_edited_out: int = 0
    num_packets_failed: int = 0
    num_packets_corrupt: int = 0
    num_frames_corrupt: int = 0
    num_frames_interlaced: int = 0
    num_frames_unstamped: int = 0
    num_frames_repeated: int = 0
    num_frames_unbelieved: int = 0
    largest_return_seconds: float = 0.0
    num_gaps: int = 0
    median_step_seconds: float = 0.0
    first_pts_seconds: float | None = None
    duration_seconds: float | None = None
    seconds_stated: float | None = None
    seconds_read: float = 0.0
    last_error: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge(found: Findings) -> Verdict:
    """The verdict that the counts of a whole pass amount to."""
    verdict = Verdict(
        status="ok",
        num_frames=found.num_frames,
        width=found.width,
        height=found.height,
        rotation_degrees=found.rotation_degrees,
        first_pts_seconds=found.first_pts_seconds,
        duration_seconds=found.duration_seconds,
        codec=found.codec,
        pixel_format=found.pixel_format,
    )
    if not found.num_frames:
        return replace(verdict, status="rejected", reason=_why_nothing(found))
    faults = _faults(found)
    reason = f"{_how_many(found)}: {'; '.join(faults)}" if faults else ""
    return replace(verdict, status="damaged" if faults else "ok", reason=reason, notes=tuple(_notes(found, faults)))


def _why_nothing(found: Findings) -> str:
    if not found.num_packets:
        stated = f", which states {_count(found.num_frames_stated, 'frame')}" if found.num_frames_stated else ""
        reason = f"no video data follows the header{stated}: cut off?"
    elif found.num_packets_failed:
        verb = "fails" if found.num_packets_failed == 1 else "fail"
        share = f"{found.num_packets_failed} of {_count(found.num_packets, 'packet')}"
        reason = f"no frame decodes: {share} {verb} ({found.last_error})"
    else:
        reason = f"no frame decodes from {_count(found.num_packets, 'packet')}"
    # FFmpeg forgets a size that is above the limit it was given.
    size = [] if found.size_stated else [f"picture size unknown, or above the limit of {found.pixel_limit} pixels"]
    return "; ".join([reason, *found.faults, *size])


def _faults(found: Findings) -> list[str]:
    faults = []
    if found.num_packets_failed:
        faults.append(f"{_count(found.num_packets_failed, 'packet')} cannot be decoded ({found.last_error})")
    if found.num_packets_corrupt:
        faults.append(f"{_count(found.num_packets_corrupt, 'packet')} flagged corrupt")
    if found.num_frames_corrupt:
        faults.append(f"{_count(found.num_frames_corrupt, 'frame')} flagged corrupt")
    missing = found.num_frames_stated - found.num_frames_edited_out - found.num_packets
    if found.every_frame_indexed and missing > 0:
        faults.append(f"{_count(missing, 'frame')} of the index not in the file")
    unshown = found.num_packets - found.num_packets_discarded - found.num_packets_failed - found.num_frames
    # A field of an interlaced frame may be a packet of its own.
    if unshown > 0 and found.codec in PICTURE_PER_PACKET and not found.num_frames_interlaced:
        faults.append(f"{_count(unshown, 'packet')} without a picture: the frames they build on are missing")
    if _is_cut(found):
        faults.append(f"the file ends at {found.seconds_read:.2f} of {found.seconds_stated:.2f} s")
    if found.num_frames_unbelieved:
        faults.append(f"{_count(found.num_frames_unbelieved, 'frame')} left out: time stamps more than an hour ahead")
    if found.largest_return_seconds > RETURN_SECONDS:
        faults.append(f"time stamps go back by up to {found.largest_return_seconds:.2f} s")
    return faults + found.faults


def _is_cut(found: Findings) -> bool:
    if found.seconds_stated is None:
        return False
    if found.every_frame_indexed and 0 < found.num_packets <= found.num_frames_stated:
        return False  # the count of packets tells; it knows of edit lists, the length does not
    tolerance = max(TAIL_FRAMES * found.median_step_seconds, TAIL_SECONDS)
    return found.seconds_stated - found.seconds_read > tolerance


def _how_many(found: Findings) -> str:
    stated = found.num_frames_stated
    if not stated and _is_cut(found) and found.median_step_seconds and found.seconds_stated is not None:
        return f"{found.num_frames} of about {round(found.seconds_stated / found.median_step_seconds)} frames"
    if stated > found.num_frames:
        return f"{found.num_frames} of {stated} frames"
    return f"{_count(found.num_frames, 'frame')}"


def _notes(found: Findings, faults: list[str]) -> list[str]:
    notes = list(found.notes)
    if found.num_frames_stated not in (0, found.num_frames) and not faults:
        notes.append(f"header states {_count(found.num_frames_stated, 'frame')}, {found.num_frames} decoded")
    if cut_out := found.num_packets_discarded + found.num_frames_edited_out:
        notes.append(f"{_count(cut_out, 'packet')} cut out by the edit list")
    if found.num_gaps > GAPS_SHARE * found.num_frames:
        notes.append("variable frame rate")
    elif found.num_gaps:
        notes.append(f"{_count(found.num_gaps, 'gap')} in the time stamps")
    if found.num_frames_repeated:
        notes.append(f"{_count(found.num_frames_repeated, 'time stamp')} not increasing: the later frame is taken")
    if found.num_frames_unstamped:
        notes.append(f"{_count(found.num_frames_unstamped, 'frame')} without a time stamp: timed by the frame rate")
    return notes


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
