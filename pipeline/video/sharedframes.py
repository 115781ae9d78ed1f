"""Frames from the decoding process to the one that asked for them, through memory that both see.

The memory is cut into a few slots of one frame each. A frame's slot is named in a message; when the receiver has copied
the frame it writes the slot's number, one byte, into a pipe, from which the sender takes it to use the slot again. So
decoding runs ahead by as many frames as there are slots. Through a pipe a frame would cost several times as much.
"""

import mmap
import os

import numpy as np

from pipeline.video.i420 import I420

MAX_SLOTS = 16
MIN_SLOTS = 2
RING_BYTES = 8 * 2**20  # of larger frames there are fewer slots


class FrameSender:
    """The decoding process's end. memory: file of the slots; returned: pipe of the slots that are free again."""

    def __init__(self, memory: int, returned: int) -> None:
        self._memory, self._returned = memory, returned
        self._map = np.empty(0, np.uint8)
        self._slot_bytes = 0
        self._free: list[int] = []
        self._num_lent = 0
        self.num_slots = 0

    def put(self, i420: I420) -> tuple[int, int]:
        """Copy a frame into a free slot, waiting for one; returns the slot and its offset in bytes."""
        if i420.nbytes != self._slot_bytes:
            self._lay_out(i420.nbytes)
        slot = self._free.pop() if self._free else self._take_back()
        offset = slot * self._slot_bytes
        self._map[offset : offset + i420.nbytes] = i420.reshape(-1)
        self._num_lent += 1
        return slot, offset

    def _take_back(self) -> int:
        received = os.read(self._returned, 1)
        if not received:
            os._exit(0)  # the receiver is gone
        self._num_lent -= 1
        return received[0]

    def _lay_out(self, slot_bytes: int) -> None:
        while self._num_lent:
            self._take_back()
        self.num_slots = min(MAX_SLOTS, max(MIN_SLOTS, RING_BYTES // slot_bytes))
        os.ftruncate(self._memory, self.num_slots * slot_bytes)
        self._map = np.frombuffer(mmap.mmap(self._memory, self.num_slots * slot_bytes), np.uint8)
        self._slot_bytes, self._free = slot_bytes, list(range(self.num_slots))


class FrameReceiver:
    """The other end. descriptors: what the sender is to be made from, and to be handed to its process."""

    def __init__(self) -> None:
        self._memory = os.memfd_create("frames")
        self._returned_end, self._return = os.pipe()
        self._open = [self._memory, self._returned_end, self._return]
        self._map = np.empty(0, np.uint8)

    @property
    def descriptors(self) -> tuple[int, int]:
        """Of the memory and the pipe; see FrameSender."""
        return self._memory, self._returned_end

    def take(self, slot: int, offset: int, shape: tuple[int, int]) -> I420:
        """The frame `(H * 3 // 2, W) uint8` in a slot, on memory of its own; the slot is free again."""
        end = offset + shape[0] * shape[1]
        if end > len(self._map):
            self._map = np.frombuffer(mmap.mmap(self._memory, os.fstat(self._memory).st_size), np.uint8)
        i420 = self._map[offset:end].reshape(shape).copy()
        os.write(self._return, bytes([slot]))
        return i420

    def close(self) -> None:
        """Give the memory back. A sender that waits for a slot ends its process."""
        while self._open:
            os.close(self._open.pop())
