"""Objects read and stored again, for copies: a Source over a version, with flat memory."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import GrandestError
from consensus.identifiers import Buffer
from node.gateway.checksums import new_digest, shown_digest
from node.gateway.store import Checksum
from node.nurseries import open_plain_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from node.gateway.checksums import Algorithm
    from node.gateway.ranges import ByteRange
    from node.gateway.store import Store, Version

PIECES_WAITING: Final = 2
"""Of up to a segment each."""


class CopiedBody:
    """Implements Source over what another object holds; hashed on its way."""

    def __init__(self, algorithm: Algorithm | None) -> None:
        self._sender, self._receiver = trio.open_memory_channel[bytes](PIECES_WAITING)
        self._algorithm = algorithm
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._extra = None if algorithm is None else new_digest(algorithm)
        self._waiting = bytearray()
        self._error: GrandestError | None = None

    async def fill(self, store: Store, object_version: Version, first: int, byte_count: int) -> None:
        """Read the source until its end or a failure, which finish() tells."""
        async with self._sender:
            try:
                await store.read(object_version, self._give, first, byte_count)
            except GrandestError as error:
                self._error = error

    async def _give(self, piece: Buffer) -> None:
        await self._sender.send(bytes(piece))

    async def read(self, byte_count: int) -> bytes:
        """Return exactly that many bytes, fewer only at the end."""
        while len(self._waiting) < byte_count:
            try:
                self._waiting += await self._receiver.receive()
            except trio.EndOfChannel:
                break
        taken = bytes(self._waiting[:byte_count])
        del self._waiting[:byte_count]
        await trio.to_thread.run_sync(self._hash, taken)
        return taken

    def finish(self) -> tuple[str, Checksum | None]:
        """Return the MD5 in hex and the additional checksum, once everything was read.

        Raises:
            GrandestError: The source could not be read to its end.
        """
        if self._error is not None:
            raise self._error
        if self._algorithm is None or self._extra is None:
            return self._md5.hexdigest(), None
        return self._md5.hexdigest(), Checksum(algorithm=self._algorithm.shown, text=shown_digest(self._extra.digest()))

    def _hash(self, piece: bytes) -> None:
        self._md5.update(piece)
        if self._extra is not None:
            self._extra.update(piece)


@asynccontextmanager
async def checked_source(
    store: Store, object_version: Version, algorithm: Algorithm | None, wanted: ByteRange | None = None
) -> AsyncGenerator[CopiedBody]:
    """Give a source of a version's bytes, or of a range of them, for the time of the block."""
    copied = CopiedBody(algorithm)
    first, byte_count = (0, object_version.details.plain_bytes) if wanted is None else (wanted.first, wanted.byte_count)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(copied.fill, store, object_version, first, byte_count)
        yield copied
        nursery.cancel_scope.cancel()
