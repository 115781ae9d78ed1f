"""The sound of a video file for another one: copied where MP4 can hold it, else encoded anew, in step with time 0."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray

from pipeline.video.sampling import LONGEST_STEP_SECONDS
from pipeline.video.source import Source, one_line

# AAC and MP3 are copied: of what MP4 may hold, every browser plays these.
LOWEST_MP3_RATE = 16000  # Hz, that MP4 takes
ENCODED_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)  # of AAC, in Hz
USUAL_RATE = 48000
BITS_PER_CHANNEL = 64_000  # a second
# Stamps of sound that follows on without a gap are this far off at most: containers round them, to 1 ms and worse.
JITTER_SECONDS = 0.05


class Sound:
    """The sound of an open file, its packets in order; a SoundSource for H264Writer.

    Sound before time 0 is left out, down to a packet; a decoder needs one packet before the first that is heard. Where
    it is encoded, gaps become silence. What cannot be read is left out and noted.

    source: an open file that nothing else reads from. origin_seconds: time stamp of time 0. progress: called for every
    packet read. may_copy: whether packets may stay as they are. notes: oddities found so far, each a phrase.
    """

    def __init__(
        self,
        source: Source,
        origin_seconds: float,
        progress: Callable[[], None] = lambda: None,
        *,
        may_copy: bool = True,
    ) -> None:
        self._may_copy = may_copy
        self.notes: list[str] = []
        self._origin = origin_seconds
        self._progress = progress
        self._source = source
        self._stream = self._choose()
        self._target: AudioStream | None = None
        self._waiting: tuple[float, Packet[Stream]] | None = None
        self._packets: Iterator[tuple[float, Packet[Stream]]] = iter(())

    @property
    def is_copied(self) -> bool:
        """Whether the packets stay as they are."""
        if self._stream is None or not self._may_copy:
            return False
        if self._stream.codec_context.codec.canonical_name == "mp3":
            return self._stream.rate >= LOWEST_MP3_RATE
        # AAC without its description could not be written; that of a transport stream is in each packet.
        is_described = bool(self._stream.codec_context.extradata) or "mpegts" in self._source.format_names
        return self._stream.codec_context.codec.canonical_name == "aac" and is_described

    def attach(self, container: OutputContainer) -> None:
        """Add a stream for it, when there is any sound."""
        if self._stream is None:
            return
        if self.is_copied:
            self._target = container.add_stream_from_template(self._stream)
            self._packets = self._copied(self._target)
            return
        rate = self._stream.rate if self._stream.rate in ENCODED_RATES else USUAL_RATE
        mono = self._stream.channels == 1
        target = container.add_stream("aac", rate=rate, layout="mono" if mono else "stereo")
        assert isinstance(target, AudioStream)
        target.bit_rate = BITS_PER_CHANNEL * (1 if mono else 2)
        self._target = target
        self._packets = self._encoded(target)

    def packets(self, until_seconds: float) -> Iterator["Packet[Stream]"]:
        """Packets not given yet that begin before a time; infinity: all that are left."""
        while True:
            if self._waiting is None:
                self._waiting = next(self._packets, None)
            if self._waiting is None or self._waiting[0] >= until_seconds:
                return
            packet, self._waiting = self._waiting[1], None
            yield packet

    def _choose(self) -> AudioStream | None:
        streams = self._source.container.streams.audio
        usable = [s for s in streams if s.codec_context is not None and s.channels > 0 and s.rate > 0]
        if streams and not usable:
            self.notes.append("sound left out: no decoder for it, or a broken header")
        elif len(streams) > 1:
            self.notes.append(f"{len(streams)} sound tracks: the first that can be read is kept")
        return usable[0] if usable else None

    def _read(self) -> Iterator["Packet[Stream]"]:
        """The packets as stored."""
        assert self._stream is not None
        try:
            for packet in self._source.container.demux(self._stream):
                self._progress()
                if packet.size:
                    yield cast("Packet[Stream]", packet)
        except (av.FFmpegError, OSError, IndexError, UnicodeDecodeError) as error:
            self.notes.append(f"sound ends where reading fails ({one_line(error)})")

    def _copied(self, target: AudioStream) -> Iterator[tuple[float, "Packet[Stream]"]]:
        before: Packet[Stream] | None = None
        latest, num_left_out = -math.inf, 0
        for packet in self._read():
            if packet.pts is None or packet.time_base is None:
                num_left_out += 1
                continue
            base = float(packet.time_base)
            begin = packet.pts * base - self._origin
            if begin <= latest or (begin - max(latest, 0.0) > LONGEST_STEP_SECONDS):
                num_left_out += 1
                continue
            end, shift = begin + (packet.duration or 0) * base, round(self._origin / base)
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = target
            if end <= 0:
                before = packet
                continue
            if before is not None:
                yield begin, before
                before = None
            latest = begin
            yield begin, packet
        self._note_left_out(num_left_out)

    def _encoded(self, target: AudioStream) -> Iterator[tuple[float, "Packet[Stream]"]]:
        rate, place = target.rate, 0
        for samples in self._continuous(rate, target.layout.name):
            frame = AudioFrame.from_ndarray(samples, "fltp", target.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, place, Fraction(1, rate)
            begin, place = place / rate, place + samples.shape[1]
            for packet in target.encode(frame):
                yield begin, packet
        if place:
            for packet in target.encode(None):
                yield place / rate, packet

    def _continuous(self, rate: int, layout: str) -> Iterator[NDArray[np.float32]]:
        """Samples `(channels, N) float32` from time 0 on, without gaps, in pieces of at most a second."""
        done = 0
        for begin, samples in self._decoded(rate, layout):
            start = round(begin * rate)
            if start > done + JITTER_SECONDS * rate:
                while done < start:
                    count = min(rate, start - done)
                    yield np.zeros((len(samples), count), np.float32)
                    done += count
            elif start < done - JITTER_SECONDS * rate or done == 0:
                samples = samples[:, max(0, done - start) :]
            if samples.shape[1]:
                yield np.ascontiguousarray(samples)
                done += samples.shape[1]

    def _decoded(self, rate: int, layout: str) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Samples as they are decoded, with the time of the first of them."""
        resampler, latest, num_failed, num_left_out = AudioResampler("fltp", layout, rate), 0.0, 0, 0
        for packet in self._read():
            try:
                frames = cast(list[AudioFrame], packet.decode())
                resampled = [part for frame in frames for part in resampler.resample(frame)]
            except (av.FFmpegError, OSError, ValueError):
                # Damaged, or of another rate from here on, for which a resampler has to be made anew.
                resampler = AudioResampler("fltp", layout, rate)
                num_failed += 1
                continue
            for part in resampled:
                begin = latest if part.time is None else part.time - self._origin
                if begin - latest > LONGEST_STEP_SECONDS:
                    num_left_out += 1
                    continue
                latest = begin + part.samples / rate
                yield begin, np.asarray(part.to_ndarray(), np.float32)
        if num_failed:
            self.notes.append(f"{num_failed} packet(s) of sound cannot be decoded")
        self._note_left_out(num_left_out)

    def _note_left_out(self, count: int) -> None:
        if count:
            self.notes.append(f"{count} packet(s) of sound left out: their time stamps are missing or go astray")
