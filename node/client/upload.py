"""Objects on their way in: sealed, packed into segments, stored and committed, with flat memory.

An object below PACK_OBJECT_BYTES_MAX shares a segment with others that arrive at the same time; a larger one fills
segments of its own, one after the other, at most SEGMENTS_IN_FLIGHT of all objects in memory.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import GrandestError
from consensus.identifiers import Buffer
from node.client.new_objects import fresh_object_key, fresh_salt, ready_object
from storage.identifiers import (
    FRAME_BYTES,
    FRAME_PLAIN_BYTES,
    PACK_OBJECT_BYTES_MAX,
    SEGMENT_BYTES_MAX,
)
from storage.sealing import (
    RangeEnd,
    Sealing,
    SealingDomain,
    SealingKey,
    seal_range,
    sealed_bytes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from node.buffers import BufferPool
    from node.client.commits import Committer
    from node.client.new_objects import NewObject, ReadyObject
    from node.client.shares import SegmentWriter, StoredSegment
    from storage.identifiers import TenantId

SEGMENT_FRAMES: Final = SEGMENT_BYTES_MAX // FRAME_BYTES
SEGMENT_PLAIN_BYTES: Final = SEGMENT_FRAMES * FRAME_PLAIN_BYTES
"""What of an object fills one segment."""
SEGMENTS_IN_FLIGHT: Final = 3
"""About 40 MiB each: plaintext and ciphertext while it is coded, then its shards alone; a gateway stays below 256."""
PACK_PAUSE_SECONDS: Final = 0.003
"""A pack closes when nothing has joined it for so long."""
PACK_SECONDS_MAX: Final = 0.05
"""Nobody waits longer for others to join."""
SEAL_INLINE_BYTES_MAX: Final = 64 * 1024
"""Below this, sealing costs less than the way to a worker thread."""


class Source(Protocol):
    """Where an object's bytes come from."""

    async def read(self, byte_count: int) -> Buffer:
        """Return exactly that many bytes, fewer only at the end."""
        ...


@dataclass(slots=True)
class _Pack:
    """Small objects that will share a segment."""

    objects: list[_SealedObject] = field(default_factory=list["_SealedObject"])
    byte_count: int = 0
    closed: bool = False
    joined: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class _SealedObject:
    ready: ReadyObject
    ciphertext: bytearray


class Uploader:
    """Takes objects from many tasks at once."""

    def __init__(
        self,
        writer: SegmentWriter,
        committer: Committer,
        tenant: TenantId,
        nursery: trio.Nursery,
        buffers: BufferPool,
    ) -> None:
        """Work in the given nursery, whose committer runs; seal large objects in these buffers."""
        self._writer = writer
        self._committer = committer
        self._tenant = tenant
        self._nursery = nursery
        self._window = trio.Semaphore(SEGMENTS_IN_FLIGHT)
        self._sealing = _Sealing(buffers)
        self._pack = _Pack(closed=True)

    async def put(self, new: NewObject, source: Source) -> ReadyObject:
        """Store one object and wait until it is committed.

        Returns:
            The committed object; its segments know which columns are stored.

        Raises:
            TooFewHoldersError, PeerUnreachableError, NotCommittedError, RejectionError.
        """
        first = await source.read(PACK_OBJECT_BYTES_MAX)
        if len(first) < PACK_OBJECT_BYTES_MAX:
            ready = await self._put_small(new, first)
        else:
            ready = await self._put_large(new, first, source)
        return await finished(ready)

    async def commit(self, ready: ReadyObject) -> ReadyObject:
        """Commit what needs no bytes of its own, as put() does; of one name, whoever comes first is first."""
        self._committer.add((ready,))
        return await finished(ready)

    async def commit_behind(self, ready: ReadyObject, sealed: bytearray) -> ReadyObject:
        """Commit a version whose sealed bytes begin with these, at most a segment of them; raises as put() does."""
        async with self._window:
            segment = await self._writer.store(sealed)
        ready.extents = ((segment, len(sealed)),)
        self._committer.add((ready,))
        return await finished(ready)

    async def _put_small(self, new: NewObject, plain: Buffer) -> ReadyObject:
        object_key = new.object_key or fresh_object_key()
        sealing = Sealing(salt=fresh_salt(), plain_bytes=len(plain))
        ready = ready_object(new, object_key, sealing, self._tenant)
        if not plain:
            self._committer.add((ready,))
            return ready
        ciphertext = bytearray(sealed_bytes(len(plain)))
        sealing_key = SealingKey(object_key, SealingDomain.OBJECT, sealing.salt)
        if len(plain) <= SEAL_INLINE_BYTES_MAX:
            seal_range(sealing_key, plain, 0, RangeEnd.LAST, ciphertext)
        else:
            await trio.to_thread.run_sync(seal_range, sealing_key, plain, 0, RangeEnd.LAST, ciphertext)
        self._join_pack(_SealedObject(ready, ciphertext))
        return ready

    def _join_pack(self, sealed: _SealedObject) -> None:
        pack = self._pack
        holds_name = any(
            (other.ready.bucket_tag, other.ready.name_tag) == (sealed.ready.bucket_tag, sealed.ready.name_tag)
            for other in pack.objects
        )
        if pack.closed or holds_name or pack.byte_count + len(sealed.ciphertext) > SEGMENT_BYTES_MAX:
            self._close(pack)
            pack = self._pack = _Pack()
            self._nursery.start_soon(self._fill_and_store, pack)
        pack.objects.append(sealed)
        pack.byte_count += len(sealed.ciphertext)
        pack.joined.set()

    async def _fill_and_store(self, pack: _Pack) -> None:
        with self._committer.pack_coming():
            await self._watch(pack)
            await self._store_pack(pack)

    async def _watch(self, pack: _Pack) -> None:
        """Close the pack at a pause of the input, or when somebody has waited long enough."""
        deadline = trio.current_time() + PACK_SECONDS_MAX
        while not pack.closed:
            pack.joined = trio.Event()
            pause_ends = min(deadline, trio.current_time() + PACK_PAUSE_SECONDS)
            with trio.move_on_at(pause_ends) as scope:
                await pack.joined.wait()
            if scope.cancelled_caught:
                pack.closed = True

    def _close(self, pack: _Pack) -> None:
        pack.closed = True
        pack.joined.set()

    async def _store_pack(self, pack: _Pack) -> None:
        # The order of a transaction's entries is the order of their bytes, and it groups them by bucket.
        objects = sorted(pack.objects, key=lambda sealed: sealed.ready.bucket_tag)
        group = tuple(sealed.ready for sealed in objects)
        async with self._window:
            try:
                segment = await self._writer.store(b"".join(sealed.ciphertext for sealed in objects))
            except GrandestError as error:
                for ready in group:
                    ready.finish(None, error)
                return
        for sealed in objects:
            sealed.ready.extents = ((segment, len(sealed.ciphertext)),)
        self._committer.add(group)

    async def _put_large(self, new: NewObject, first: Buffer, source: Source) -> ReadyObject:
        object_key = new.object_key or fresh_object_key()
        sealing_key = SealingKey(object_key, SealingDomain.OBJECT, fresh_salt())
        upload = _LargeUpload(self._writer, self._window, self._sealing, sealing_key)
        plain_bytes = await upload.run(first, source)
        sealing = Sealing(salt=sealing_key.salt, plain_bytes=plain_bytes)
        ready = ready_object(new, object_key, sealing, self._tenant)
        ready.extents = tuple((segment, segment.shape.segment_bytes) for segment in upload.segments())
        self._committer.add((ready,))
        return ready


async def finished(ready: ReadyObject) -> ReadyObject:
    """Wait until an object is committed, or raise why it is not."""
    await ready.done.wait()
    if ready.error is not None:
        raise ready.error
    return ready


class _Sealing:
    """Where segments of large objects are sealed and coded: one at a time, which keeps memory flat."""

    def __init__(self, buffers: BufferPool) -> None:
        self._buffers = buffers
        self._turn = trio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[memoryview]:
        """Give memory for one segment's ciphertext."""
        async with self._turn:
            with self._buffers.lent() as memory:
                yield memory


class _LargeUpload:
    """The segments of one large object."""

    def __init__(
        self, writer: SegmentWriter, window: trio.Semaphore, sealing: _Sealing, sealing_key: SealingKey
    ) -> None:
        self._writer = writer
        self._window = window
        self._sealing = sealing
        self._sealing_key = sealing_key
        self._stored: dict[int, StoredSegment] = {}
        self._error: GrandestError | OSError | None = None

    def segments(self) -> tuple[StoredSegment, ...]:
        """Return the stored segments in order."""
        return tuple(segment for _, segment in sorted(self._stored.items()))

    async def run(self, first: Buffer, source: Source) -> int:
        """Store everything; returns the object's length."""
        plain: Buffer = b"".join((first, await source.read(SEGMENT_PLAIN_BYTES - len(first))))
        plain_bytes = position = 0
        async with trio.open_nursery() as nursery:
            while plain and self._error is None:
                await self._window.acquire()
                following = await _read(source, SEGMENT_PLAIN_BYTES) if len(plain) == SEGMENT_PLAIN_BYTES else b""
                if isinstance(following, GrandestError | OSError):
                    self._error = following
                    self._window.release()
                    break
                end = RangeEnd.OPEN if following else RangeEnd.LAST
                nursery.start_soon(self._store, position, plain, end)
                plain_bytes += len(plain)
                position += 1
                plain = following
        if self._error is not None:
            raise self._error
        return plain_bytes

    async def _store(self, position: int, plain: Buffer, end: RangeEnd) -> None:
        try:
            async with self._sealing.turn() as memory:
                ciphertext = await trio.to_thread.run_sync(self._seal, position, plain, end, memory)
                del plain  # its memory is not needed while the holders take their columns
                segment = await self._writer.code(ciphertext)
            self._stored[position] = await self._writer.bring(segment)
            await self._writer.release(segment)
        except GrandestError as error:
            self._error = error
        finally:
            self._window.release()

    def _seal(self, position: int, plain: Buffer, end: RangeEnd, memory: memoryview) -> memoryview:
        written = seal_range(self._sealing_key, plain, position * SEGMENT_FRAMES, end, memory)
        return memory[:written]


async def _read(source: Source, byte_count: int) -> Buffer | GrandestError | OSError:
    """Return the next bytes, or what reading raised: who reads waits for what is under way before it raises."""
    try:
        return await source.read(byte_count)
    except (GrandestError, OSError) as error:
        return error
