"""Entries of an append-only file, and where its flushed part ends: what a power cut tore is told from damage.

Integers big-endian:

    entry     head, whose first 4 bytes are the payload's length n || CRC32C of the head, 4
              || payload, n || CRC32C of the payload, 4 || ENTRY_END

An entry is written in one piece. A power cut leaves a beginning of what was being written, and behind it nothing, or
zeros where the file had grown before its blocks came. ENTRY_END holds no zero, so that whatever is cut off shows.

Rules
- D10. Content that fits its checksums is kept, also where its end was cut: it is what was written, and to keep what
  perhaps never left is safe. Otherwise, an entry that the file ends inside of, or whose whole end is zeros up to the
  file's end, was never flushed.
- D11. Anything else is damage: where an end stands, all before it had been written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

CRC: Final = struct.Struct(">I")
ENTRY_END: Final = b"ENTRYEND"


class DamagedEntryError(Exception):
    """Bytes that no power cut explains; the text says where in the entry."""


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """One entry as it was read.

    Attributes:
        fields: Of its head: the payload's length first.
        content_end: The offset of its ENTRY_END.
        end: The offset behind it, the content's while its end has to be written again.
    """

    fields: tuple[int, ...]
    payload: bytes
    content_end: int
    end: int


def checksum(content: bytes) -> bytes:
    """Return the CRC32C of some bytes, as it is written."""
    return CRC.pack(google_crc32c.value(content))


def frame_entry(head: bytes, payload: bytes) -> bytes:
    """Return an entry's bytes."""
    return b"".join((head, checksum(head), payload, checksum(payload), ENTRY_END))


def overhead_bytes(head: struct.Struct) -> int:
    """Return how much longer an entry is than its payload."""
    return head.size + 2 * CRC.size + len(ENTRY_END)


class EntryReader:
    """Reads the entries of a file whose bytes are at hand."""

    __slots__ = ("_encoded", "_head", "_payload_bytes_max", "_written")

    def __init__(self, encoded: bytes, head: struct.Struct, payload_bytes_max: int) -> None:
        self._encoded = encoded
        self._head = head
        self._payload_bytes_max = payload_bytes_max
        self._written = len(encoded.rstrip(b"\0"))
        """Behind this offset are zeros alone."""

    def read(self, offset: int) -> FoundEntry | None:
        """Return the entry at an offset, None where the flushed part of the file ends.

        Raises:
            DamagedEntryError: Neither an entry nor a torn one.
        """
        start = offset + self._head.size + CRC.size
        if start > len(self._encoded) or self._written <= offset:
            return None
        if not self._fits(offset, start - CRC.size):
            self._check_torn(start - 1, "head checksum")
            return None
        fields: tuple[int, ...] = self._head.unpack_from(self._encoded, offset)
        if fields[0] > self._payload_bytes_max:
            raise DamagedEntryError(f"{fields[0]} bytes, at most {self._payload_bytes_max}")
        content_end = start + fields[0] + CRC.size
        if content_end > len(self._encoded):
            return None
        if not self._fits(start, content_end - CRC.size):
            self._check_torn(content_end, "payload checksum")
            return None
        payload = self._encoded[start : content_end - CRC.size]
        return FoundEntry(fields, payload, content_end, self._end_of(content_end))

    def _fits(self, start: int, stop: int) -> bool:
        return self._encoded[stop : stop + CRC.size] == checksum(self._encoded[start:stop])

    def _end_of(self, content_end: int) -> int:
        written = self._encoded[content_end : max(content_end, self._written)]
        if written.startswith(ENTRY_END):
            return content_end + len(ENTRY_END)
        if ENTRY_END.startswith(written):
            return content_end
        raise DamagedEntryError("end of an entry")

    def _check_torn(self, written_max: int, detail: str) -> None:
        """Raise unless there are zeros alone behind an offset: only so does a power cut leave an entry."""
        if self._written > written_max:
            raise DamagedEntryError(detail)
