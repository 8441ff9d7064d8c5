"""The consensus core's inputs of one height, on disk before anything that follows from them leaves the machine.

File HOME/wal/log; integers big-endian:

    head      8 bytes "GRANDWAL", 32 genesis hash, 8 height, 4 CRC32C of the 48 bytes before
    entry     as in entry_file.py, its head: 4 payload bytes, 8 sequence (from 0), 1 kind

Kinds: 1 an event of the core (consensus/events.py); 2 a proposed block, so that a restarted node still holds what it
locked. Blocks name off-chain records by address only, and a new height truncates the file: an erased record survives
nowhere in it.

Rules
- D1. append() buffers; flush() makes everything appended durable. The caller flushes before its signature leaves.
- D10. A last entry that was torn was never flushed: it is cut off with a warning.
- D11. Any other damage raises WriteAheadLogError: the node must not guess what it has already said.
- D12. A log of a height that is decided already is history and is dropped.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from consensus.blocks import Block
from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError
from consensus.events import Event
from consensus.identifiers import GenesisHash, Height
from consensus.messages import MESSAGE_BYTES_MAX
from node.disk import LOCAL_DISK, write_error
from node.entry_file import CRC, ENTRY_END, DamagedEntryError, EntryReader, checksum, frame_entry, overhead_bytes
from node.errors import DiskFullError, WriteAheadLogError

if TYPE_CHECKING:
    from pathlib import Path

    from node.disk import Disk
    from node.entry_file import FoundEntry

LOGGER = logging.getLogger(__name__)

MAGIC: Final = b"GRANDWAL"
HEAD: Final = struct.Struct(">8s32sQ")
ENTRY: Final = struct.Struct(">IQB")
HEAD_BYTES: Final = HEAD.size + CRC.size
PAYLOAD_BYTES_MAX: Final = MESSAGE_BYTES_MAX
LOG_BYTES_MAX: Final = 256 * 1024 * 1024
"""A height that fills this has seen over fifty full blocks: the node stops rather than fill the disk."""


class EntryKind(IntEnum):
    """What an entry holds."""

    EVENT = 1
    BLOCK = 2


class LoggedEvent(Record):
    """One event, as it is encoded in an entry."""

    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContents:
    """What a log said of one height, in order."""

    height: Height
    entries: tuple[Event | Block, ...]


class WriteAheadLog:
    """The open log; one writer. append, flush and begin block: call them from a worker thread."""

    __slots__ = ("_byte_count", "_file", "_genesis_hash", "_path", "_pending", "_sequence")

    def __init__(self, directory: Path, genesis_hash: GenesisHash, disk: Disk = LOCAL_DISK) -> None:
        """Open or create the log.

        Raises:
            WriteAheadLogError: The file cannot be opened.
        """
        self._path = directory / "log"
        self._genesis_hash = genesis_hash
        self._pending = bytearray()
        self._sequence = 0
        try:
            self._file = disk.open_or_create(self._path)
            self._byte_count = self._file.byte_count()
        except OSError as error:
            raise WriteAheadLogError(f"{self._path} cannot be opened: {error.strerror}") from error

    @property
    def entry_count(self) -> int:
        """Return how many entries there are, those not flushed yet included."""
        return self._sequence

    def read(self) -> LogContents | None:
        """Return what the log holds and go on after it; None for an empty one. Cuts a torn tail (rule D10).

        Raises:
            WriteAheadLogError: Damaged, or the log of another chain.
        """
        encoded = self._read_file()
        head = self._read_head(encoded)
        if head is None:
            if encoded:
                LOGGER.warning("write-ahead log: a head that was never flushed is dropped")
            self._cut(0)
            return None
        genesis_hash, height = head
        if genesis_hash != self._genesis_hash:
            raise WriteAheadLogError(f"{self._path} belongs to another chain: this home's genesis was changed")
        entries: list[Event | Block] = []
        reader, offset, end = EntryReader(encoded, ENTRY, PAYLOAD_BYTES_MAX), HEAD_BYTES, HEAD_BYTES
        while (found := self._read_entry(reader, offset)) is not None:
            entries.append(self._decode(found, offset, len(entries)))
            offset, end = found.end, found.content_end
        if offset < len(encoded):
            LOGGER.warning("write-ahead log: a torn entry of %d bytes is cut off", len(encoded) - offset)
        self._cut(offset)
        if entries and offset == end:
            self._pending += ENTRY_END
        self._sequence = len(entries)
        return LogContents(height=height, entries=tuple(entries))

    def begin(self, height: Height) -> None:
        """Forget the height before and start the log of this one; durable with the next flush."""
        self._cut(0)
        self._sequence = 0
        head = HEAD.pack(MAGIC, self._genesis_hash, height)
        self._pending += head + checksum(head)

    def append_event(self, event: Event) -> None:
        """Add an event; durable after flush()."""
        self._append(EntryKind.EVENT, encode(LoggedEvent(event=event)))

    def append_block(self, block: Block) -> None:
        """Add a proposed block; durable after flush()."""
        self._append(EntryKind.BLOCK, encode(block))

    def flush(self) -> None:
        """Make everything appended durable.

        Raises:
            DiskFullError: The disk has no space left; what is on it is cut as a torn tail when the log is opened again.
            WriteAheadLogError: The disk refused; the process must stop.
        """
        if not self._pending:
            return
        try:
            written = self._file.write(self._pending, self._byte_count)
            if written != len(self._pending):
                raise DiskFullError(f"{self._path} cannot be written: the disk is full")
            self._file.flush()
        except OSError as error:
            raise write_error(self._path, error) from error
        self._byte_count += written
        self._pending.clear()

    def close(self) -> None:
        """Release the file; what was not flushed is lost, as it may be."""
        self._file.close()

    def _append(self, kind: EntryKind, payload: bytes) -> None:
        assert len(payload) <= PAYLOAD_BYTES_MAX, f"log entry of {len(payload)} bytes"
        if self._byte_count + len(self._pending) + len(payload) + overhead_bytes(ENTRY) > LOG_BYTES_MAX:
            raise WriteAheadLogError(f"{self._path} is larger than {LOG_BYTES_MAX} bytes: this height does not end")
        self._pending += frame_entry(ENTRY.pack(len(payload), self._sequence, kind), payload)
        self._sequence += 1

    def _cut(self, byte_count: int) -> None:
        self._file.cut(byte_count)
        self._byte_count = byte_count
        self._pending.clear()

    def _read_file(self) -> bytes:
        if self._byte_count > LOG_BYTES_MAX:
            raise self._damaged(LOG_BYTES_MAX, "larger than any log")
        try:
            self._file.flush()  # what a killed process wrote and did not flush leads to signatures from here on
            return self._file.read(self._byte_count)
        except OSError as error:
            raise WriteAheadLogError(f"{self._path} cannot be read: {error.strerror}; check the disk") from error

    def _read_head(self, encoded: bytes) -> tuple[GenesisHash, Height] | None:
        """Return a whole head's genesis hash and height, None if it was never flushed."""
        head = encoded[: HEAD.size]
        if encoded[HEAD.size : HEAD_BYTES] != checksum(head) or not head.startswith(MAGIC):
            if len(encoded.rstrip(b"\0")) < HEAD_BYTES:
                return None
            raise self._damaged(0, "head of the file")
        _, genesis_hash, height = HEAD.unpack(head)
        return GenesisHash(genesis_hash), Height(height)

    def _read_entry(self, reader: EntryReader, offset: int) -> FoundEntry | None:
        try:
            return reader.read(offset)
        except DamagedEntryError as error:
            raise self._damaged(offset, str(error)) from error

    def _decode(self, found: FoundEntry, offset: int, sequence: int) -> Event | Block:
        _, found_sequence, kind = found.fields
        if found_sequence != sequence:
            raise self._damaged(offset, f"sequence {found_sequence}, expected {sequence}")
        try:
            return _decode_payload(kind, found.payload)
        except (RejectionError, ValueError) as error:
            raise self._damaged(offset, str(error)) from error

    def _damaged(self, offset: int, detail: str) -> WriteAheadLogError:
        return WriteAheadLogError(
            f"{self._path} is damaged at byte {offset} ({detail}): move it away together with the signer file and start"
            " again; the node then rejoins as after a fire (docs/operating.md, Damaged log or signer record)"
        )


def _decode_payload(kind: int, payload: bytes) -> Event | Block:
    if EntryKind(kind) is EntryKind.BLOCK:
        return decode(payload, Block, bytes_max=PAYLOAD_BYTES_MAX)
    return decode(payload, LoggedEvent, bytes_max=PAYLOAD_BYTES_MAX).event
