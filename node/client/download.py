"""Objects on their way out: record, references, frames; a whole object or any range of it, with flat memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import GrandestError
from consensus.identifiers import Buffer
from storage.errors import UnsealError
from storage.identifiers import FRAME_BYTES, FRAME_PLAIN_BYTES, SEGMENT_BYTES_MAX
from storage.records import PART_LIST_BYTES_MAX, OpenedRecord, decode_part_list, with_parts
from storage.sealing import (
    RangeEnd,
    SealingDomain,
    SealingKey,
    frame_count,
    plain_bytes_in,
    sealed_bytes,
    unseal_range,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from mmap import mmap

    from node.buffers import BufferPool
    from node.client.chain import EntryView, SegmentView
    from node.client.reading import SegmentReader
    from storage.identifiers import SegmentId
    from storage.sealing import Sealing

    Sink = Callable[[memoryview], Awaitable[None]]
    """Takes an object's next bytes; the memory is used again once it has returned."""
    FindSegment = Callable[[SegmentId], Awaitable[SegmentView]]

CHUNK_FRAMES: Final = SEGMENT_BYTES_MAX // FRAME_BYTES
CHUNKS_IN_FLIGHT: Final = 3
"""32 MiB each at the peak: ciphertext and plaintext."""
INLINE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenObject:
    """An object version whose record is open."""

    entry: EntryView
    record: OpenedRecord
    sealed_start: int = 0
    """Of its first frame in its sealed bytes: behind the part list, if it has one."""
    part_list: Sealing | None = None
    """Of the list from which its record's sealings were read."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Consecutive frames of one sealing, and where their ciphertext starts in the object's."""

    sealing: Sealing
    first_frame: int
    frames: int
    sealed_start: int
    plain_start: int

    @property
    def end(self) -> RangeEnd:
        is_last = self.first_frame + self.frames == frame_count(self.sealing.plain_bytes)
        return RangeEnd.LAST if is_last else RangeEnd.OPEN

    @property
    def sealed_bytes(self) -> int:
        whole = sealed_bytes(self.sealing.plain_bytes)
        return min((self.first_frame + self.frames) * FRAME_BYTES, whole) - self.first_frame * FRAME_BYTES


@dataclass(frozen=True, slots=True)
class _Plain:
    """A chunk's plaintext, and the buffer to give back once it was given out."""

    view: memoryview
    lent: mmap | None


class ObjectReader:
    """Reads opened objects."""

    def __init__(self, reader: SegmentReader, find_segment: FindSegment, buffers: BufferPool) -> None:
        self._reader = reader
        self._find_segment = find_segment
        self._buffers = buffers

    async def stream(self, opened: OpenObject, sink: Sink, first: int = 0, byte_count: int | None = None) -> None:
        """Give a range of an object's bytes to the sink, in order; without a count up to its end.

        Raises:
            NotEnoughShardsError: Fewer holders than needed have a segment.
            UnsealError: What is stored is not what this tenant sealed.
        """
        stop = opened.record.object_record.plain_bytes
        if byte_count is not None:
            stop = min(stop, first + byte_count)
        chunks = list(_chunks(opened, first, stop))

        async def give(chunk: _Chunk, plain: _Plain) -> None:
            await sink(_cut(chunk, plain.view, first, stop))
            if plain.lent is not None:
                self._buffers.give_back(plain.lent)

        if len(chunks) == 1:  # as of every small object: nothing to order, no tasks to pay for
            await give(chunks[0], await self._open_chunk(opened, chunks[0]))
        else:
            await _Ordered(self._open_chunk, opened, chunks).run(give)

    async def with_part_list(self, opened: OpenObject) -> OpenObject:
        """Return an object with all its sealings in its record, read from its part list if need be.

        Raises:
            UnsealError, RejectionError: The list is not what this tenant sealed.
        """
        object_record, object_key = opened.record.object_record, opened.record.object_key
        sealing = object_record.part_list
        if sealing is None:
            return opened
        if not 0 < sealing.plain_bytes <= PART_LIST_BYTES_MAX:
            raise UnsealError(f"a part list of {sealing.plain_bytes} bytes")
        sealed = await self._read_sealed(opened.entry, 0, sealed_bytes(sealing.plain_bytes))
        plain = bytearray(sealing.plain_bytes)
        sealing_key = SealingKey(object_key, SealingDomain.PART_LIST, sealing.salt)
        await trio.to_thread.run_sync(unseal_range, sealing_key, sealed, 0, RangeEnd.LAST, plain)
        whole = with_parts(object_record, decode_part_list(bytes(plain)))
        record = OpenedRecord(object_record=whole, object_key=object_key)
        return OpenObject(entry=opened.entry, record=record, sealed_start=len(sealed), part_list=sealing)

    async def _open_chunk(self, opened: OpenObject, chunk: _Chunk) -> _Plain:
        sealing_key = SealingKey(opened.record.object_key, SealingDomain.OBJECT, chunk.sealing.salt)
        if chunk.sealed_bytes <= INLINE_BYTES_MAX:
            sealed = await self._read_sealed(opened.entry, chunk.sealed_start, chunk.sealed_bytes)
            plain = memoryview(bytearray(plain_bytes_in(len(sealed))))
            unseal_range(sealing_key, sealed, chunk.first_frame, chunk.end, plain)
            return _Plain(plain, None)
        with self._buffers.lent() as memory:
            sealed = await self._read_sealed(opened.entry, chunk.sealed_start, chunk.sealed_bytes, memory)
            lent = self._buffers.take()
            plain = memoryview(lent)[: plain_bytes_in(len(sealed))]
            await trio.to_thread.run_sync(unseal_range, sealing_key, sealed, chunk.first_frame, chunk.end, plain)
        return _Plain(plain, lent)

    async def _read_sealed(
        self, entry: EntryView, start: int, byte_count: int, memory: memoryview | None = None
    ) -> Buffer:
        """Return a range of the object's ciphertext, which its references hold one after the other.

        One that fills a whole segment is received into the memory; others are joined.
        """
        pieces: list[Buffer] = []
        stop = start + byte_count
        position = 0
        for reference in entry.references:
            low, high = max(start, position), min(stop, position + reference.extent_bytes)
            if low < high:
                segment = await self._find_segment(reference.segment_id)
                offset = reference.offset + low - position
                if memory is not None and (offset, high - low) == (0, segment.segment_bytes) == (0, byte_count):
                    return await self._reader.read_segment(segment, memory)
                pieces.append(await self._reader.read_range(segment, offset, high - low))
            position += reference.extent_bytes
        if position < stop:
            raise UnsealError(f"the entry refers to {position} bytes and its record to at least {stop}")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Ordered:
    """Chunks opened several at a time and given out in order."""

    def __init__(
        self,
        open_chunk: Callable[[OpenObject, _Chunk], Awaitable[_Plain]],
        opened: OpenObject,
        chunks: list[_Chunk],
    ) -> None:
        self._open_chunk = open_chunk
        self._opened = opened
        self._chunks = chunks
        self._plains: dict[int, _Plain] = {}
        self._error: GrandestError | OSError | None = None
        self._news = trio.Event()

    async def run(self, give: Callable[[_Chunk, _Plain], Awaitable[None]]) -> None:
        started = 0
        async with trio.open_nursery() as nursery:
            for position, chunk in enumerate(self._chunks):
                while started < min(len(self._chunks), position + CHUNKS_IN_FLIGHT):
                    nursery.start_soon(self._one, started)
                    started += 1
                while position not in self._plains and self._error is None:
                    self._news = trio.Event()
                    await self._news.wait()
                if self._error is None:
                    await self._give(give, chunk, self._plains.pop(position))
                if self._error is not None:
                    nursery.cancel_scope.cancel()
                    break
        if self._error is not None:
            raise self._error

    async def _give(self, give: Callable[[_Chunk, _Plain], Awaitable[None]], chunk: _Chunk, plain: _Plain) -> None:
        try:
            await give(chunk, plain)
        except (GrandestError, OSError) as error:
            self._error = error

    async def _one(self, position: int) -> None:
        try:
            self._plains[position] = await self._open_chunk(self._opened, self._chunks[position])
        except GrandestError as error:
            self._error = error
        self._news.set()


def _chunks(opened: OpenObject, first: int, stop: int) -> Iterator[_Chunk]:
    """Cut the frames that hold a range of plaintext into chunks no longer than a segment, aligned to segments."""
    sealed_start, plain_start = opened.sealed_start, 0
    for sealing in opened.record.object_record.sealings:
        low, high = max(first - plain_start, 0), min(stop - plain_start, sealing.plain_bytes)
        if low < high:
            frame, last = low // FRAME_PLAIN_BYTES, -(-high // FRAME_PLAIN_BYTES)
            while frame < last:
                frames = min(last, (frame // CHUNK_FRAMES + 1) * CHUNK_FRAMES) - frame
                yield _Chunk(
                    sealing, frame, frames, sealed_start + frame * FRAME_BYTES, plain_start + frame * FRAME_PLAIN_BYTES
                )
                frame += frames
        sealed_start += sealed_bytes(sealing.plain_bytes) if sealing.plain_bytes else 0  # nothing is stored of nothing
        plain_start += sealing.plain_bytes


def _cut(chunk: _Chunk, plain: memoryview, first: int, stop: int) -> memoryview:
    low = max(first - chunk.plain_start, 0)
    return plain[low : min(stop - chunk.plain_start, len(plain))]
