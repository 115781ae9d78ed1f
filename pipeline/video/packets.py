"""Reads the packets of a video stream, and compares what comes with what the header states."""

from collections.abc import Iterator

import av
from av.packet import Packet
from av.stream import Stream

from pipeline.video.sniff import describe_cut
from pipeline.video.source import Source, one_line
from pipeline.video.verdict import Findings

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
        self._watch_all = bool(source.format_names & LENGTH_IN_HEADER)
        # Of an AVI file, loaded when it was opened; grows while a file without an index is read.
        self._num_indexed = len(source.stream.index_entries)
        self._take_header()

    def __iter__(self) -> Iterator["Packet[Stream]"]:
        container, stream = self._source.container, self._source.stream
        # An empty list means all streams.
        streams: list[Stream] = [] if self._watch_all else [stream]
        errors = 0
        while errors <= MAX_READ_ERRORS:
            try:
                for packet in container.demux(*streams):
                    if not packet.size:  # also those that PyAV adds at the end, to flush
                        continue
                    errors = 0
                    self._measure(packet)
                    if packet.stream_index == stream.index:
                        self._count(packet)
                        yield packet
                break
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
        if stamp is None or packet.time_base is None:
            return
        begin = float(stamp * packet.time_base)
        self._begin = begin if self._begin is None else min(begin, self._begin)
        self._end = max(self._end, begin + float((packet.duration or 0) * packet.time_base))

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
        if "avi" in formats and 1 < self._num_indexed <= found.num_packets:
            # Everything in the index was there: the header's count is what is wrong.
            found.seconds_stated = None
