"""Reads the packets of a video stream, and compares what comes with what the header states."""

from collections.abc import Iterator

import av
from av.packet import Packet
from av.stream import Stream

from pipeline.errors import RejectedVideo
from pipeline.video.sniff import describe_cut
from pipeline.video.source import OUT_OF_MEMORY, Source, one_line
from pipeline.video.verdict import TAIL_FRAMES, TAIL_SECONDS, Findings

# A read error may be one bad spot; this many with no packet between them are the end.
MAX_READ_ERRORS = 10
# Formats whose header states the length of the whole file, all streams together, counted from time 0.
LENGTH_IN_HEADER = frozenset({"matroska", "flv", "asf"})


class PacketReader:
    """Iterating gives the packets of a source's stream in file order. Counts go into `found`, a fault each as well."""

    def __init__(self, source: Source, found: Findings) -> None:
        self._source = source
        self._found = found
        # Where the packets read begin and end, in seconds; of all streams where the length is that of all streams.
        self._begin: float | None = None
        self._end = 0.0
        # As integers: arithmetic on fractions would take as long as decoding a small picture.
        self._time_bases = {
            stream.index: stream.time_base.as_integer_ratio()
            for stream in source.container.streams
            if stream.time_base is not None
        }
        self._watch_all = bool(source.format_names & LENGTH_IN_HEADER)
        # Loaded when the file was opened; grows while one without an index is read.
        self._num_indexed = len(source.stream.index_entries)
        self._take_header()

    def __iter__(self) -> Iterator["Packet[Stream]"]:
        container, stream = self._source.container, self._source.stream
        # An empty list means all streams.
        streams: list[Stream] = [] if self._watch_all else [stream]
        index = stream.index
        errors = 0
        while errors <= MAX_READ_ERRORS:
            try:
                for packet in container.demux(*streams):
                    if not packet.size:  # also those that PyAV adds at the end, to flush
                        continue
                    errors = 0
                    self._measure(packet)
                    if packet.stream_index == index:
                        self._count(packet)
                        yield packet
                break
            except MemoryError as error:
                raise RejectedVideo(OUT_OF_MEMORY, is_transient=True) from error
            except Exception as error:  # noqa: BLE001 - what can still be read after a bad spot is worth reading
                errors += 1
                self._found.last_error = one_line(error)
                fault = f"reading fails ({one_line(error)})"
                self._found.faults += [fault] if fault not in self._found.faults else []
        self._compare()

    def _take_header(self) -> None:
        found, stream, formats = self._found, self._source.stream, self._source.format_names
        found.codec = self._source.codec
        found.notes = list(self._source.notes)
        found.num_frames_stated = stream.frames
        found.size_stated = stream.codec_context.width > 0
        if "mov" in formats:
            found.every_frame_indexed = True
            if stream.duration and stream.time_base:
                found.seconds_stated = float(stream.duration * stream.time_base)
        elif "avi" in formats and stream.average_rate:
            found.seconds_stated = float(stream.frames / stream.average_rate) or None
        elif self._watch_all and self._source.container.duration:
            found.seconds_stated = self._source.container.duration / av.time_base

    def _count(self, packet: "Packet[Stream]") -> None:
        self._found.num_packets += 1
        self._found.num_packets_discarded += packet.is_discard
        self._found.num_packets_corrupt += packet.is_corrupt

    def _measure(self, packet: "Packet[Stream]") -> None:
        stamp = packet.dts if packet.pts is None else packet.pts
        base = self._time_bases.get(packet.stream_index)
        if stamp is None or base is None:
            return
        numerator, denominator = base
        begin = stamp * numerator / denominator
        end = (stamp + (packet.duration or 0)) * numerator / denominator
        if self._begin is None or begin < self._begin:
            self._begin = begin
        if end > self._end:
            self._end = end

    def _compare(self) -> None:
        found, formats = self._found, self._source.format_names
        cut = describe_cut(self._source.path, formats)
        found.faults += [cut] if cut else []
        if "asf" in formats and not self._source.container.duration:
            # FFmpeg does not believe a header that states another file size.
            found.notes.append("the header states no length, or one that does not fit the file's size")
        if self._begin is None:
            found.seconds_stated = None
            return
        found.seconds_read = self._end - (self._begin if "mov" in formats else min(self._begin, 0.0))
        if "mov" in formats and self._num_indexed <= found.num_packets and self._lasts_as_stated():
            # An edit list that begins at a later key frame: FFmpeg leaves what lies before it out of its index.
            found.num_frames_edited_out = max(found.num_frames_stated - self._num_indexed, 0)
        if "avi" in formats and 1 < self._num_indexed <= found.num_packets:
            # Everything in the index was there: the header's count is what is wrong.
            found.seconds_stated = None

    def _lasts_as_stated(self) -> bool:
        found, begin = self._found, self._begin
        if begin is None or found.seconds_stated is None:
            return False
        seconds = self._end - max(begin, 0.0)  # what is shown; before 0 lie the pictures it is decoded from
        tolerance = max(TAIL_SECONDS, TAIL_FRAMES * found.seconds_stated / found.num_packets)
        return abs(seconds - found.seconds_stated) <= tolerance
