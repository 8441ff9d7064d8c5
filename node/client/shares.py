"""A segment on its way to nine holders: coded, sent, receipted, and coded again when too few are left.

Law (rules S1, S8, S14): k = min(n - u, live - r) at write time, always all columns; every live holder's receipt,
never fewer than k + r; a segment id names one coding for ever, so a smaller k is a new id.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Buffer
from node.buffers import BufferPool
from node.client.chain import SegmentView
from node.client.errors import TooFewHoldersError
from node.client.links import PIECE_BYTES, ShardName
from node.client.spool import SpooledColumn
from storage.errors import ShardMissingError
from storage.identifiers import COLUMNS_MAX, SEGMENT_BYTES_MAX, UNIT_BYTES, ColumnIndex, SegmentId
from storage.placement import column_seats
from storage.receipts import ReceiptItem, check_receipt
from storage.segments import SegmentShape, assemble, code_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from mmap import mmap

    from consensus.identifiers import GenesisHash, Height, PublicKey
    from consensus.quorum import FaultBudget
    from node.client.holders import HolderPool
    from node.client.links import HolderLink
    from node.client.reading import SegmentReader
    from node.client.spool import Spool
    from storage.identifiers import SeatIndex, ShardRoot, TenantId
    from storage.receipts import Receipt


RETAINED_BYTES_MAX: Final = 24 * 1024 * 1024
"""Shards of packs, kept in memory until their commit; beyond it, a segment is coded again from what holders have."""
CODING_BYTES: Final = COLUMNS_MAX * (SEGMENT_BYTES_MAX // 3 + UNIT_BYTES)
"""All columns of the longest segment at k = 3, the smallest of seven holders; what is not used costs nothing."""
CODING_KEPT_MAX: Final = 2
"""50 MiB at k = 6 of the 76 that an upload has in flight."""
CODED_AFRESH_BYTES_MAX: Final = 1024 * 1024
"""A shorter segment, as most packs are, is coded in memory of its own."""
CODINGS_MAX: Final = 8
"""How often one segment is coded again before its write fails; each time at least one more holder was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterIdentity:
    """For whom and on which chain segments are written."""

    tenant: TenantId
    genesis_hash: GenesisHash
    seat_keys: Mapping[SeatIndex, PublicKey]
    """Every seat's signing key; all of them are admitted."""
    budget: FaultBudget
    """Of the holders of one segment: fault_budget(columns)."""
    columns: int


@dataclass(slots=True)
class StoredSegment:
    """One segment; coding it again replaces all fields at once, so who refers to it sees the new one."""

    segment_id: SegmentId
    shape: SegmentShape
    roots: tuple[ShardRoot, ...]
    seats: tuple[SeatIndex, ...]
    """By column."""
    shards: tuple[Buffer, ...] | None
    """Kept until the segment is committed, or released before to keep memory flat."""
    stored: set[ColumnIndex]
    lent: mmap | None = None
    """The memory of the shards, while nobody but us may look at it: used again once they are let go."""

    def column_of(self, seat: SeatIndex) -> ColumnIndex | None:
        """Return the column that a seat holds."""
        return ColumnIndex(self.seats.index(seat)) if seat in self.seats else None

    def item(self, column: ColumnIndex) -> ReceiptItem:
        """Return what a receipt says of one column."""
        return ReceiptItem(
            segment_id=self.segment_id,
            column=column,
            shard_root=self.roots[column],
            shard_bytes=self.shape.shard_bytes,
        )

    def view(self) -> SegmentView:
        """Return it as the chain will show it, for who reads it back before."""
        return SegmentView(
            segment_id=self.segment_id,
            k=self.shape.k,
            segment_bytes=self.shape.segment_bytes,
            roots=self.roots,
            receipted=frozenset(self.stored),
        )

    def absent(self) -> tuple[ColumnIndex, ...]:
        """Return the columns that no holder has yet."""
        return tuple(ColumnIndex(column) for column in range(len(self.seats)) if column not in self.stored)


class SegmentWriter:
    """Brings segments to the holders of one chain."""

    def __init__(self, pool: HolderPool, identity: WriterIdentity, reader: SegmentReader, spool: Spool) -> None:
        self._pool = pool
        self._identity = identity
        self._reader = reader
        self._spool = spool
        self._retained_bytes = 0
        self._buffers = BufferPool(CODING_KEPT_MAX, CODING_BYTES)

    async def release(self, segment: StoredSegment) -> None:
        """Let a segment's shards go, but for those of absent holders, which wait in the spool.

        Small ones stay in memory until finish(): coding again from there asks nobody.
        """
        shard_bytes = segment.shape.shard_bytes * len(segment.roots)
        if self._retained_bytes + shard_bytes <= RETAINED_BYTES_MAX:
            self._retained_bytes += shard_bytes
            return
        await self._let_go(segment)

    async def finish(self, segments: Sequence[StoredSegment]) -> None:
        """Let the shards of committed segments go."""
        for segment in segments:
            if segment.shards is not None:
                shard_bytes = segment.shape.shard_bytes * len(segment.roots)
                self._retained_bytes = max(0, self._retained_bytes - shard_bytes)
            await self._let_go(segment)

    async def _let_go(self, segment: StoredSegment) -> None:
        shards, segment.shards = segment.shards, None
        if shards is None:
            return
        for column in segment.absent():
            waiting = SpooledColumn(segment.segment_id, column, segment.shape)
            await trio.to_thread.run_sync(self._spool.add, waiting, shards[column])
        lent, segment.lent = segment.lent, None
        if lent is not None:
            self._buffers.give_back(lent)

    async def store(self, ciphertext: Buffer) -> StoredSegment:
        """Code a segment for the holders that are live and bring them their columns; returns and raises as bring()."""
        return await self.bring(await self.code(ciphertext))

    async def bring(self, segment: StoredSegment) -> StoredSegment:
        """Bring the live holders the columns of a segment that was just coded.

        Returns:
            The segment with at least k + r columns at their holders, all its shards still in memory.

        Raises:
            TooFewHoldersError: Fewer live holders than any write may use.
        """
        for _ in range(CODINGS_MAX):
            await self._send(segment)
            if len(segment.stored) >= self._needed(segment):
                return segment
            await self._code_again(segment)
        raise self._too_few()

    async def certify(self, segments: Sequence[StoredSegment], expiry_height: Height) -> tuple[Receipt, ...]:
        """Gather one receipt per holder for all segments of one transaction.

        Segments left with fewer than k + r are coded again (their contents change in place), and all are asked anew.

        Raises:
            TooFewHoldersError: Fewer live holders than any write may use.
        """
        for _ in range(CODINGS_MAX):
            receipts = await self._ask_receipts(segments, expiry_height)
            short = self._take_stock(segments, receipts)
            if not short:
                return tuple(receipt for _, (receipt, _) in sorted(receipts.items()))
            for segment in short:
                await self._code_again(segment)
                await self._send(segment)
        raise self._too_few()

    def _needed(self, segment: StoredSegment) -> int:
        return segment.shape.k + self._identity.budget.liars

    async def _data_columns(self) -> int:
        admitted = await self._pool.wait_writable(self._identity.budget.quorum)
        k = self._identity.budget.data_columns(min(len(admitted), self._identity.columns))
        if k is None:
            raise self._too_few()
        return k

    def _too_few(self) -> TooFewHoldersError:
        live = len(self._pool.writable())
        return TooFewHoldersError(live, self._identity.budget.quorum, self._pool.down_reasons())

    async def code(self, ciphertext: Buffer) -> StoredSegment:
        """Code a segment for the holders that are live, under a new id; the ciphertext is not needed any more then.

        Raises:
            TooFewHoldersError: Fewer live holders than any write may use.
        """
        segment_id = SegmentId(secrets.token_bytes(32))
        k = await self._data_columns()
        lent = self._buffers.take() if len(ciphertext) > CODED_AFRESH_BYTES_MAX else None
        memory = None if lent is None else memoryview(lent)
        coded = await trio.to_thread.run_sync(code_segment, ciphertext, k, self._identity.columns, memory)
        return StoredSegment(
            segment_id=segment_id,
            shape=coded.shape,
            roots=coded.roots,
            seats=column_seats(segment_id, tuple(self._identity.seat_keys)),
            shards=coded.shards,
            stored=set(),
            lent=lent,
        )

    async def _code_again(self, segment: StoredSegment) -> None:
        """Give the segment a new id and the k that the live holders allow; from memory, or from what is stored."""
        if segment.shards is None:
            memory = memoryview(bytearray(segment.shape.padded_bytes))
            ciphertext: Buffer = await self._reader.read_segment(segment.view(), memory)
        else:
            ciphertext = await trio.to_thread.run_sync(_ciphertext_of, segment)
        replacement = await self.code(ciphertext)
        segment.segment_id = replacement.segment_id
        segment.shape, segment.roots = replacement.shape, replacement.roots
        segment.seats, segment.shards, segment.stored = replacement.seats, replacement.shards, replacement.stored
        segment.lent = replacement.lent

    async def _send(self, segment: StoredSegment) -> None:
        """Bring every live holder its column; sets segment.stored."""
        segment_id, shape, shards = segment.segment_id, segment.shape, segment.shards
        assert shards is not None, "sent from memory"
        writable = frozenset(self._pool.writable())
        columns = {seat: ColumnIndex(column) for column, seat in enumerate(segment.seats) if seat in writable}

        async def bring(seat: SeatIndex, link: HolderLink, progressed: Callable[[], None]) -> None:
            column = columns[seat]
            shard = ShardName(
                segment_id=segment_id,
                tenant=self._identity.tenant,
                column=column,
                k=shape.k,
                segment_bytes=shape.segment_bytes,
            )
            await bring_shard(link, shard, shards[column], progressed)

        finished = await self._pool.ask_all(tuple(columns), bring, self._identity.budget.quorum)
        segment.stored = {columns[seat] for seat in finished}
        if len(finished) < len(columns):
            segment.lent = None  # a frame to who lagged or broke may still be leaving: its bytes must stay

    async def _ask_receipts(
        self, segments: Sequence[StoredSegment], expiry_height: Height
    ) -> dict[SeatIndex, tuple[Receipt, frozenset[int]]]:
        """Return each holder's checked receipt and the positions that it vouches for."""
        receipts: dict[SeatIndex, tuple[Receipt, frozenset[int]]] = {}

        async def ask(seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
            receipts[seat] = await fetch_receipt(self._identity, segments, seat, link, expiry_height)

        holding = {segment.seats[column] for segment in segments for column in segment.stored}
        asked = tuple(seat for seat in self._pool.live() if seat in holding)
        finished = await self._pool.ask_all(asked, ask, self._identity.budget.quorum)
        return {seat: receipt for seat, receipt in receipts.items() if seat in finished}

    def _take_stock(
        self, segments: Sequence[StoredSegment], receipts: Mapping[SeatIndex, tuple[Receipt, frozenset[int]]]
    ) -> tuple[StoredSegment, ...]:
        """Set what is stored to what is receipted; return the segments with fewer than k + r."""
        for position, segment in enumerate(segments):
            segment.stored = {
                ColumnIndex(column)
                for column, seat in enumerate(segment.seats)
                if seat in receipts and position in receipts[seat][1]
            }
        return tuple(segment for segment in segments if len(segment.stored) < self._needed(segment))


async def bring_shard(link: HolderLink, shard: ShardName, contents: Buffer, progressed: Callable[[], None]) -> None:
    """Send one shard, piece by piece."""
    with memoryview(contents) as view:
        for offset in range(0, len(view), PIECE_BYTES):
            await link.store_units(shard, offset, view[offset : offset + PIECE_BYTES])
            progressed()


async def fetch_receipt(
    identity: WriterIdentity,
    segments: Sequence[StoredSegment],
    seat: SeatIndex,
    link: HolderLink,
    expiry_height: Height,
) -> tuple[Receipt, frozenset[int]]:
    """Ask one holder for its receipt over a transaction's segments, and check it.

    Raises:
        RejectionError: BAD_RECEIPT; the holder signed something else, or nothing.
    """
    items = tuple(segment.item(column) for segment in segments if (column := segment.column_of(seat)) is not None)
    receipt = await link.ask_receipt(identity.tenant, items, expiry_height)
    if receipt is None:
        raise ShardMissingError(f"seat {seat} holds none of {len(items)} shards")
    if receipt.seat != seat or receipt.expiry_height != expiry_height:
        raise RejectionError(RejectionReason.BAD_RECEIPT, f"seat {seat} signed for seat {receipt.seat}")
    held = check_receipt(
        receipt,
        identity.genesis_hash,
        tenant=identity.tenant,
        batch=items,
        public_key=identity.seat_keys[seat],
    )
    return receipt, frozenset(held)


def _ciphertext_of(segment: StoredSegment) -> bytes:
    assert segment.shards is not None, "coded again from memory"
    data_columns = {ColumnIndex(column): segment.shards[column] for column in range(segment.shape.k)}
    return assemble(data_columns, segment.shape)
