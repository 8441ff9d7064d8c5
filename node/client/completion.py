"""Brings waiting columns to holders that are back, and tells the chain: certified becomes sealed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import GrandestError
from node.client.commits import submit_and_wait
from node.client.links import ShardName
from node.client.shares import StoredSegment, bring_shard, fetch_receipt
from storage.merkle import check_shard
from storage.transactions import CompleteColumns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.chain import Chain, SegmentView
    from node.client.commits import Expiry, TransactionSigner
    from node.client.holders import HolderPool
    from node.client.links import HolderLink
    from node.client.reading import SegmentReader
    from node.client.shares import WriterIdentity
    from node.client.spool import Spool, SpooledColumn
    from storage.identifiers import SeatIndex, SegmentId
    from storage.receipts import Receipt

COLUMNS_PER_ROUND: Final = 64
"""Sent to one holder before it signs for them together."""
PAUSE_SECONDS: Final = 0.2
"""Between rounds while something waits and nothing could be done."""
IDLE_SECONDS: Final = 30.0
"""With an empty spool; another client of this folder may have filled it."""
ORPHAN_SECONDS: Final = 3_600.0
"""A waiting column whose segment never came on chain is dropped after so long."""


class Completer:
    """Empties the spool."""

    def __init__(
        self,
        *,
        pool: HolderPool,
        chain: Chain,
        spool: Spool,
        identity: WriterIdentity,
        reader: SegmentReader,
        signer: TransactionSigner,
        expiry: Expiry,
    ) -> None:
        self._pool = pool
        self._chain = chain
        self._spool = spool
        self._identity = identity
        self._reader = reader
        self._signer = signer
        self._expiry = expiry
        self._wakeup = trio.Event()
        self._round_done = trio.Event()

    def wake(self) -> None:
        """Say that something was spooled and committed."""
        self._wakeup.set()

    async def run(self) -> None:
        """Complete columns until cancelled."""
        while True:
            progress = await self._round()
            self._round_done.set()
            self._round_done = trio.Event()
            if progress:
                continue
            waiting = await trio.to_thread.run_sync(self._spool.waiting)
            self._wakeup = trio.Event()
            with trio.move_on_after(PAUSE_SECONDS if waiting else IDLE_SECONDS):
                await self._wakeup.wait()

    async def wait_sealed(self, segment_ids: Sequence[SegmentId]) -> None:
        """Wait until no column of these segments waits any more."""
        wanted = frozenset(segment_ids)
        while True:
            waiting = await trio.to_thread.run_sync(self._spool.waiting)
            if not any(column.segment_id in wanted for column in waiting):
                return
            await self._round_done.wait()

    async def _round(self) -> bool:
        """Serve each live seat once; returns whether anything was completed."""
        waiting = await trio.to_thread.run_sync(self._spool.waiting)
        by_seat: dict[SeatIndex, list[tuple[SpooledColumn, SegmentView]]] = {}
        writable = frozenset(self._pool.writable())
        for column in waiting:
            if all(len(columns) >= COLUMNS_PER_ROUND for columns in by_seat.values()) and len(by_seat) == len(writable):
                break
            await self._sort(column, writable, by_seat)
        completed = False
        for seat, columns in by_seat.items():
            completed |= await self._complete(seat, columns)
        return completed

    async def _sort(
        self,
        column: SpooledColumn,
        writable: frozenset[SeatIndex],
        by_seat: dict[SeatIndex, list[tuple[SpooledColumn, SegmentView]]],
    ) -> None:
        try:
            (segment,) = await self._chain.find_segments((column.segment_id,))
        except GrandestError:
            return
        if segment is None:
            if time.time() - self._spool.written_at(column) > ORPHAN_SECONDS:
                await trio.to_thread.run_sync(self._spool.drop, column)
            return
        if column.column in segment.receipted:
            await trio.to_thread.run_sync(self._spool.drop, column)
            return
        seat = self._reader.seats(segment)[column.column]
        if seat in writable and len(by_seat.setdefault(seat, [])) < COLUMNS_PER_ROUND:
            by_seat[seat].append((column, segment))

    async def _complete(self, seat: SeatIndex, columns: Sequence[tuple[SpooledColumn, SegmentView]]) -> bool:
        """Bring one seat its columns, have it sign, and put the receipt on chain."""
        stored: list[StoredSegment] = []
        receipts: list[Receipt] = []
        try:
            expiry_height = await self._expiry.height()
        except GrandestError:
            return False

        async def bring(_seat: SeatIndex, link: HolderLink, progressed: Callable[[], None]) -> None:
            for column, segment in columns:
                if await self._bring(link, column, segment, progressed):
                    stored.append(_stored_segment(column, segment, self._reader.seats(segment)))
            if stored:
                receipt, held = await fetch_receipt(self._identity, stored, seat, link, expiry_height)
                if len(held) == len(stored):
                    receipts.append(receipt)

        if not await self._pool.ask_one(seat, bring) or not receipts:
            return False
        body = CompleteColumns(
            tenant=self._identity.tenant,
            segment_ids=tuple(segment.segment_id for segment in stored),
            receipts=tuple(receipts),
        )
        try:
            commit = await submit_and_wait(self._chain, self._signer.sign(body, expiry_height), ())
        except GrandestError:
            return False
        if commit.refusal is None:
            for column, _ in columns:
                await trio.to_thread.run_sync(self._spool.drop, column)
        return commit.refusal is None

    async def _bring(
        self, link: HolderLink, column: SpooledColumn, segment: SegmentView, progressed: Callable[[], None]
    ) -> bool:
        shard = await trio.to_thread.run_sync(self._spool.read, column)
        if shard is None:
            return False
        try:
            check_shard(segment.roots[column.column], shard)
        except GrandestError:  # a damaged file: the nodes rebuild this column from the others
            await trio.to_thread.run_sync(self._spool.drop, column)
            return False
        named = ShardName(
            segment_id=column.segment_id,
            tenant=self._identity.tenant,
            column=column.column,
            k=column.shape.k,
            segment_bytes=column.shape.segment_bytes,
        )
        await bring_shard(link, named, shard, progressed)
        return True


def _stored_segment(column: SpooledColumn, segment: SegmentView, seats: tuple[SeatIndex, ...]) -> StoredSegment:
    return StoredSegment(
        segment_id=column.segment_id,
        shape=column.shape,
        roots=segment.roots,
        seats=seats,
        shards=None,
        stored={column.column},
    )
