"""Large buffers that are used again: segments, their plaintext and columns, frames with units.

A fresh buffer of 16 MiB costs 4,096 page faults, more than receiving and opening what it is for: half of a large read's
CPU in the client went there, and a quarter of a large write's. So buffers are taken, filled, given back; a few stay, in
huge pages where the system has them.
"""

from __future__ import annotations

import mmap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from storage.identifiers import COLUMNS_MAX, SEGMENT_BYTES_MAX, UNIT_ALIGNMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator

BUFFER_BYTES: Final = SEGMENT_BYTES_MAX + COLUMNS_MAX * UNIT_ALIGNMENT_BYTES
"""The longest segment with the zeros at its end (storage/segments.py)."""
KEPT_MAX: Final = 2
"""32 MiB of the 96 that one large read has under way, since what one task gives back the next one takes."""


class BufferPool:
    """Buffers of one length."""

    def __init__(self, kept_max: int = KEPT_MAX, buffer_bytes: int = BUFFER_BYTES) -> None:
        """Begin with none; keep so many that nobody uses."""
        self._kept_max = kept_max
        self._buffer_bytes = buffer_bytes
        self._kept: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        """Return a buffer with anything in it; give it back once nobody looks at it any more."""
        if self._kept:
            return self._kept.pop()
        fresh = mmap.mmap(-1, self._buffer_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        fresh.madvise(mmap.MADV_HUGEPAGE)
        return fresh

    def give_back(self, buffer: mmap.mmap) -> None:
        """Have a buffer used again; views of it that are still around would see what comes next."""
        if len(self._kept) < self._kept_max:
            self._kept.append(buffer)

    @contextmanager
    def lent(self) -> Generator[memoryview]:
        """Give a buffer's memory for the time of a block."""
        buffer = self.take()
        try:
            yield memoryview(buffer)
        finally:
            self.give_back(buffer)
