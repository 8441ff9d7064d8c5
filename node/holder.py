"""One seat's side of the shard channel: keeps shards, signs for them, serves them to those with a right to them.

Rules:

1. Only who writes for a tenant (its own key's grants) stores for it; a member or such a client reads. A granted client
   reads its own tenant's segments only, and is told of no others.
2. A receipt is signed after the shards, the index and the expiry height are durable, and only for shards whose root,
   computed from the units as they arrived, is the root asked for.
3. A receipt expires at most `receipt_heights` above this node's chain; until then what it vouches for is kept.
   Afterwards collect() deletes what the chain does not have.
4. Damaged leaves are never served: on_corrupt() is called, for repair, and the asker goes elsewhere.
5. A tenant's uncommitted bytes are bounded (the store: QUEUE_FULL); a nearly full disk refuses too (StoreFullError).

All disk work happens in worker threads, THREADS_MAX at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, assert_never

import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from node.network.shard_messages import (
    AskHeld,
    AskReceipt,
    HeldAnswer,
    LeavesAnswer,
    Message,
    PieceAnswer,
    ReadLeaves,
    ReadPiece,
    ReadRecords,
    ReceiptAnswer,
    RecordsAnswer,
    Stored,
    StoreUnits,
)
from storage.errors import ShardCorruptError, ShardMissingError
from storage.merkle import prove
from storage.receipts import Receipt, held_bitmap, sign_receipt
from storage.segments import SegmentShape
from storage.stores.protocols import ShardName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consensus.identifiers import GenesisHash, PublicKey
    from consensus.signing import SigningKey
    from node.network.shard_messages import RequestFrame
    from storage.identifiers import RecordAddress, SeatIndex, SegmentId, TenantId
    from storage.stores.protocols import Buffer, ShardStore, StoredShard

THREADS_MAX: Final = 8
"""Enough to share flushes; hashing and LevelDB release the GIL."""
OPEN_SHARD_S: Final = 600.0
"""An upload that sends nothing for so long has ended; its sender would start again."""
RECEIPT_HEIGHTS_DEFAULT: Final = Height(1_000)

CorruptCallback: TypeAlias = Callable[[ShardName], None]


class HolderChain(Protocol):
    """What a holder must know of the chain. Called from worker threads."""

    def height(self) -> Height:
        """Return the height of this node's ledger."""
        ...

    def is_member(self, peer: PublicKey) -> bool:
        """Tell whether a network key is a seat's."""
        ...

    def is_granted(self, peer: PublicKey, tenant: TenantId) -> bool:
        """Tell whether a key acts for a tenant."""
        ...

    def committed(self, segment_ids: Sequence[SegmentId]) -> frozenset[SegmentId]:
        """Return those of the segments that are live on the chain."""
        ...


class RecordReader(Protocol):
    """Where sealed records are read; storage.stores.records.RecordStore."""

    def read(self, addresses: Sequence[RecordAddress]) -> Mapping[RecordAddress, bytes]:
        """Return those of the records that are here (blocks)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderIdentity:
    """Who signs, for which chain."""

    seat: SeatIndex
    signing_key: SigningKey
    genesis_hash: GenesisHash
    receipt_heights: Height = RECEIPT_HEIGHTS_DEFAULT


@dataclass(slots=True, kw_only=True)
class Holder:
    """Answers the shard channel; a ShardHandler."""

    identity: HolderIdentity
    shards: ShardStore
    records: RecordReader
    chain: HolderChain
    on_corrupt: CorruptCallback
    """Called in the trio thread with a shard whose bytes are damaged; must not block."""
    _threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(THREADS_MAX))

    async def answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        """Return the answer to a request of the shard channel.

        Raises:
            RejectionError: NOT_GRANTED, QUEUE_FULL, TOO_LATE, MALFORMED.
            StorageError: Missing, corrupt, full or unavailable.
        """
        try:
            return await trio.to_thread.run_sync(self._answer, peer, request, limiter=self._threads)
        except _DamagedError as error:
            self.on_corrupt(error.name)
            raise ShardCorruptError(str(error)) from error

    async def collect(self) -> int:
        """Delete what receipts no longer bind and the chain does not have; return how many shards went."""
        return await trio.to_thread.run_sync(self._collect, limiter=self._threads)

    async def settle(self, segment_ids: Sequence[SegmentId]) -> None:
        """Note segments that a block has just committed: they no longer count against their tenants."""
        await trio.to_thread.run_sync(self._settle, segment_ids, limiter=self._threads)

    async def delete(self, segment_ids: Sequence[SegmentId]) -> None:
        """Delete every column of segments that the chain has freed."""
        await trio.to_thread.run_sync(self._delete, segment_ids, limiter=self._threads)

    def _answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        body = request.body
        match body:
            case StoreUnits():
                return self._store(peer, body, request.bulk)
            case AskReceipt():
                self._require_granted(peer, body.tenant)
                return Message(ReceiptAnswer(receipt=self._sign(body)))
            case ReadLeaves():
                return self._read_leaves(peer, body)
            case ReadPiece():
                name = ShardName(body.segment_id, body.column)
                self._readable(peer, name)
                return Message(PieceAnswer(), self._checked(name, body.first_leaf, body.leaf_count))
            case AskHeld():
                return self._held(peer, body)
            case ReadRecords():
                return self._read_records(body)
            case _:
                assert_never(body)

    def _store(self, peer: PublicKey, body: StoreUnits, units: memoryview) -> Message:
        self._require_granted(peer, body.tenant)
        name = ShardName(body.segment_id, body.column)
        self.shards.put_units(name, body.tenant, SegmentShape(body.segment_bytes, body.k), body.offset, units)
        return Message(Stored())

    def _sign(self, body: AskReceipt) -> Receipt | None:
        """Return the receipt for those of the items that are here with the root asked; None when none is."""
        height = self.chain.height()
        if not height < body.expiry_height <= height + self.identity.receipt_heights:
            detail = f"expiry height {body.expiry_height} at height {height}"
            raise RejectionError(RejectionReason.TOO_LATE, detail)
        names = [ShardName(item.segment_id, item.column) for item in body.items]
        if len({name.segment_id for name in names}) < len(names):
            raise RejectionError(RejectionReason.MALFORMED, "a segment asked for twice")
        finished = self.shards.finish(names, body.expiry_height)
        held = [
            position
            for position, (item, stored) in enumerate(zip(body.items, finished, strict=True))
            if stored is not None
            and (stored.tenant, stored.root, stored.shape.shard_bytes)
            == (body.tenant, item.shard_root, item.shard_bytes)
        ]
        if not held:
            return None
        return sign_receipt(
            self.identity.signing_key,
            self.identity.genesis_hash,
            tenant=body.tenant,
            seat=self.identity.seat,
            held=held_bitmap(held, len(body.items)),
            items=[body.items[position] for position in held],
            expiry_height=body.expiry_height,
        )

    def _read_leaves(self, peer: PublicKey, body: ReadLeaves) -> Message:
        name = ShardName(body.segment_id, body.column)
        self._readable(peer, name)
        leaves = self._checked(name, body.first_leaf, body.leaf_count)
        proof = prove(self.shards.leaf_hashes(name), body.first_leaf, body.leaf_count)
        return Message(LeavesAnswer(proof=proof), leaves)

    def _held(self, peer: PublicKey, body: AskHeld) -> Message:
        bitmaps: list[int] = []
        for segment_id in body.segment_ids:
            columns = self.shards.columns_of(segment_id)
            visible = [column for column in columns if self._may_read(peer, ShardName(segment_id, column))]
            bitmaps.append(sum(1 << column for column in visible))
        return Message(HeldAnswer(columns=tuple(bitmaps)))

    def _read_records(self, body: ReadRecords) -> Message:
        """Serve sealed records to whoever passed the handshake: only the tenant's key opens them."""
        found = self.records.read(body.addresses)
        sealed = [found.get(address, b"") for address in body.addresses]
        return Message(RecordsAnswer(record_bytes=tuple(len(record) for record in sealed)), tuple(sealed))

    def _checked(self, name: ShardName, first_leaf: int, leaf_count: int) -> tuple[Buffer, ...]:
        try:
            return self.shards.read_leaves(name, first_leaf, leaf_count)
        except ShardCorruptError as error:
            raise _DamagedError(name, str(error)) from error

    def _readable(self, peer: PublicKey, name: ShardName) -> None:
        """Refuse a reader without a right in the same words as a shard that is not here."""
        if not self._may_read(peer, name):
            raise ShardMissingError(f"column {name.column} of {name.segment_id.hex()[:16]} is not here")

    def _may_read(self, peer: PublicKey, name: ShardName) -> bool:
        stored = self.shards.describe(name)
        return stored is not None and self._may_read_stored(peer, stored)

    def _may_read_stored(self, peer: PublicKey, stored: StoredShard) -> bool:
        return self.chain.is_member(peer) or self.chain.is_granted(peer, stored.tenant)

    def _require_granted(self, peer: PublicKey, tenant: TenantId) -> None:
        if not self.chain.is_granted(peer, tenant):
            raise RejectionError(RejectionReason.NOT_GRANTED, f"{peer.hex()[:16]} does not act for this tenant")

    def _collect(self) -> int:
        """The chain is at `height`: a commit in the next block may still use a receipt that expires there."""
        self.shards.abandon_open(before_s=time.monotonic() - OPEN_SHARD_S)
        height = self.chain.height()
        expired = [shard.name for shard in self.shards.uncommitted() if shard.expiry_height <= height]
        committed = self.chain.committed(tuple({name.segment_id for name in expired}))
        self.shards.settle([name for name in expired if name.segment_id in committed])
        dead = [name for name in expired if name.segment_id not in committed]
        self.shards.delete(dead)
        return len(dead)

    def _settle(self, segment_ids: Sequence[SegmentId]) -> None:
        self.shards.settle(self._names_of(segment_ids))

    def _delete(self, segment_ids: Sequence[SegmentId]) -> None:
        self.shards.delete(self._names_of(segment_ids))

    def _names_of(self, segment_ids: Sequence[SegmentId]) -> list[ShardName]:
        return [
            ShardName(segment_id, column) for segment_id in segment_ids for column in self.shards.columns_of(segment_id)
        ]


class _DamagedError(ShardCorruptError):
    """Carries the damaged shard's name from a worker thread."""

    def __init__(self, name: ShardName, detail: str) -> None:
        super().__init__(detail)
        self.name = name
