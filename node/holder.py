"""One seat's side of the shard channel: keeps shards, signs for them, serves them to those with a right to them.

Rules:

1. Only who writes for a tenant (its own key's grants), and a member that moves its bytes, within bounds (moved_in.py),
   stores for it, and only columns that placement gives this seat; under an id that the chain knows, only what it has
   committed. A member or such a client reads. A granted client reads
   its own tenant's segments and records only, and is told of no others.
2. A receipt is signed after the shards, the index and the expiry height are durable, and only for shards whose root,
   computed from the units as they arrived, is the root asked for.
3. A receipt expires at most `receipt_heights` above this node's chain; until then what it vouches for is kept
   (own_shards.py deletes what the chain does not have then). What the chain has already waits for nothing.
4. A member signs for the leaves that it asks for, or gets none; what it signed is kept (rules S65, S66).
5. Damaged leaves are never served: on_corrupt() is called, for repair, and the asker goes elsewhere.
6. A tenant's uncommitted bytes are bounded (the store: QUEUE_FULL); a nearly full disk refuses too (StoreFullError).

All disk work happens in worker threads, THREADS_MAX at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, assert_never

import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from node.moved_in import MovedIn
from node.network.shard_messages import (
    AskHeight,
    AskHeld,
    AskReceipt,
    AskVoucher,
    FoundRange,
    HeightAnswer,
    HeldAnswer,
    LeavesAnswer,
    Message,
    PieceAnswer,
    RangesAnswer,
    ReadLeaves,
    ReadPiece,
    ReadRanges,
    ReadRecords,
    ReadRequest,
    ReceiptAnswer,
    RecordsAnswer,
    Stored,
    StoreUnits,
    VoucherAnswer,
    ranges_asked,
)
from storage.errors import ShardCorruptError, ShardMissingError
from storage.merkle import prove
from storage.placement import Placement, column_of
from storage.read_receipts import LEAVES_PER_READ_MAX, ReadReceipt
from storage.receipts import Receipt, held_bitmap, sign_receipt
from storage.segments import SegmentShape
from storage.stores.protocols import ShardName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consensus.identifiers import Buffer, GenesisHash, PublicKey
    from consensus.signing import SigningKey
    from node.network.shard_messages import RequestFrame
    from storage.identifiers import RecordAddress, SeatIndex, SegmentId, TenantId
    from storage.moves import Move, Voucher
    from storage.read_receipts import SignedRead
    from storage.receipts import ReceiptItem
    from storage.state import SegmentState
    from storage.stores.protocols import ShardStore, StoredShard

THREADS_MAX: Final = 8
"""Enough to share flushes; hashing and LevelDB release the GIL."""
RECEIPT_HEIGHTS_DEFAULT: Final = Height(1_000)

CorruptCallback: TypeAlias = Callable[[ShardName], None]
ReadCallback: TypeAlias = Callable[[ReadReceipt], None]
VouchCallback: TypeAlias = "Callable[[Move], Awaitable[Voucher]]"


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

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        """Return a live segment."""
        ...

    def is_freed(self, segment_id: SegmentId) -> bool:
        """Tell whether a segment was live once and is no more: its id is used up."""
        ...

    def record_tenant(self, address: RecordAddress) -> TenantId | None:
        """Return whose entries refer to a record, None when none does."""
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
    seats: tuple[SeatIndex, ...] | Placement
    """All that placement chooses from."""
    signing_key: SigningKey
    genesis_hash: GenesisHash
    network_key: PublicKey
    """By which members name it in what they sign for reads."""
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
    client_questions: int = 0
    """Answered so far for granted clients: repair steps aside for them."""
    keep_read: ReadCallback | None = None
    """Checks and keeps what a member signed for (read_book.py, blocks); None asks for no signature."""
    vouch: VouchCallback | None = None
    """Recomputes a move and signs for it (vouching.py); None refuses."""
    _moved: MovedIn = field(init=False)
    precommitted: Callable[[], Height] | None = None
    """Up to which height this seat has signed precommits; must not block. None: the ledger's height."""
    _threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(THREADS_MAX))

    def __post_init__(self) -> None:
        """Bound what members bring by what becomes of it."""
        self._moved = MovedIn(self)

    async def answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        """Return the answer to a request of the shard channel.

        Raises:
            RejectionError: NOT_GRANTED, QUEUE_FULL, TOO_LATE, MALFORMED.
            StorageError: Missing, corrupt, full or unavailable.
        """
        self.client_questions += not self.chain.is_member(peer)
        if isinstance(request.body, AskVoucher):
            return Message(VoucherAnswer(voucher=await self._vouch(peer, request.body.move)))
        if isinstance(request.body, AskHeight):
            # No thread: it waits for no disk, and reads of gateways wait for it.
            precommitted = Height(0) if self.precommitted is None else self.precommitted()
            return Message(HeightAnswer(height=Height(max(self.chain.height(), precommitted))))
        try:
            return await trio.to_thread.run_sync(self._answer, peer, request, limiter=self._threads)
        except _DamagedError as error:
            self.on_corrupt(error.name)
            raise ShardCorruptError(str(error)) from error

    async def _vouch(self, peer: PublicKey, move: Move) -> Voucher:
        if self.vouch is None or not self.chain.is_member(peer):
            raise RejectionError(RejectionReason.NOT_GRANTED, "members vouch for members alone")
        return await self.vouch(move)

    def _answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        body = request.body
        assert not isinstance(body, AskVoucher), "answered without a thread"
        if isinstance(body, ReadRequest) and self.keep_read is not None and self.chain.is_member(peer):
            self.keep_read(self._receipt_for(peer, body, request.signed))
        match body:
            case StoreUnits():
                return self._store(peer, body, request.bulk)
            case AskReceipt():
                self._require_writer(peer, body.tenant)
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
                return self._read_records(peer, body)
            case ReadRanges():
                return self._read_ranges(peer, body)
            case AskHeight():
                raise AssertionError("answered without a thread")
            case _:
                assert_never(body)

    def _receipt_for(self, reader: PublicKey, body: ReadRequest, signed: SignedRead | None) -> ReadReceipt:
        if signed is None:
            raise RejectionError(RejectionReason.BAD_RECEIPT, "a member signs for the leaves that it asks for")
        return ReadReceipt(
            reader=reader,
            holder=self.identity.network_key,
            time_ms=signed.time_ms,
            ranges=ranges_asked(body),
            signature=signed.signature,
        )

    def _store(self, peer: PublicKey, body: StoreUnits, units: memoryview) -> Message:
        self._require_writer(peer, body.tenant)
        self._require_wanted(body)
        if self.chain.is_member(peer):
            self._moved.admit(peer, body.segment_id)
        name = ShardName(body.segment_id, body.column)
        self.shards.put_units(name, body.tenant, SegmentShape(body.segment_bytes, body.k), body.offset, units)
        return Message(Stored())

    def keep_own(self, move: Move, item: ReceiptItem, shard: Buffer, expiry_height: Height) -> Receipt | None:
        """Store the column that this node itself has coded for a move, and sign for it; blocks."""
        shape = SegmentShape(move.segment_bytes, move.k, len(move.roots))
        self.shards.put_units(ShardName(move.segment_id, item.column), move.tenant, shape, 0, shard)
        return self._sign(AskReceipt(tenant=move.tenant, items=(item,), expiry_height=expiry_height))

    def _sign(self, body: AskReceipt) -> Receipt | None:
        """Return the receipt for those of the items that are here with the root asked; None when none is."""
        height = self.chain.height()
        if not height < body.expiry_height <= height + self.identity.receipt_heights:
            detail = f"expiry height {body.expiry_height} at height {height}"
            raise RejectionError(RejectionReason.TOO_LATE, detail)
        names = [ShardName(item.segment_id, item.column) for item in body.items]
        if len({name.segment_id for name in names}) < len(names):
            raise RejectionError(RejectionReason.MALFORMED, "a segment asked for twice")
        held: list[int] = []
        committed: list[ShardName] = []
        finished = self.shards.finish(names, body.expiry_height)
        for position, (item, stored) in enumerate(zip(body.items, finished, strict=True)):
            wanted = (body.tenant, item.shard_root, item.shard_bytes)
            if stored is None or (stored.tenant, stored.root, stored.shape.shard_bytes) != wanted:
                continue
            state = self.chain.segment(item.segment_id)
            is_committed = state is not None and stored.is_committed_as(state)
            if is_committed:
                committed.append(stored.name)
            if is_committed or (state is None and not self.chain.is_freed(item.segment_id)):
                held.append(position)
        self.shards.settle(committed)
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

    def _read_ranges(self, peer: PublicKey, body: ReadRanges) -> Message:
        """Serve what is here; one that is missing, damaged or another tenant's spoils nothing for the others."""
        if sum(part.leaf_count for part in body.ranges) > LEAVES_PER_READ_MAX:
            raise RejectionError(RejectionReason.MALFORMED, f"more than {LEAVES_PER_READ_MAX} leaves together")
        found: list[FoundRange | None] = []
        bulk: list[Buffer] = []
        for part in body.ranges:
            name = ShardName(part.segment_id, part.column)
            try:
                self._readable(peer, name)
                leaves = self._checked(name, part.first_leaf, part.leaf_count)
                proof = prove(self.shards.leaf_hashes(name), part.first_leaf, part.leaf_count)
            except _DamagedError:
                trio.from_thread.run_sync(self.on_corrupt, name)
                found.append(None)
            except ShardMissingError:
                found.append(None)
            else:
                bulk += leaves
                found.append(FoundRange(range_bytes=sum(memoryview(leaf).nbytes for leaf in leaves), proof=proof))
        return Message(RangesAnswer(found=tuple(found)), tuple(bulk))

    def _held(self, peer: PublicKey, body: AskHeld) -> Message:
        bitmaps: list[int] = []
        for segment_id in body.segment_ids:
            columns = self.shards.columns_of(segment_id)
            visible = [column for column in columns if self._may_read(peer, ShardName(segment_id, column))]
            bitmaps.append(sum(1 << column for column in visible))
        return Message(HeldAnswer(columns=tuple(bitmaps)))

    def _read_records(self, peer: PublicKey, body: ReadRecords) -> Message:
        """Serve sealed records to members and to clients of their tenant; to others they are not here."""
        found = self.records.read([address for address in body.addresses if self._may_read_record(peer, address)])
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

    def _may_read_record(self, peer: PublicKey, address: RecordAddress) -> bool:
        if self.chain.is_member(peer):
            return True
        tenant = self.chain.record_tenant(address)
        return tenant is not None and self.chain.is_granted(peer, tenant)

    def _require_wanted(self, body: StoreUnits) -> None:
        """Refuse a column that is not this seat's, or is not what the chain has committed under its id."""
        state = self.chain.segment(body.segment_id)
        born, identity = None if state is None else state.height, self.identity
        if column_of(body.segment_id, identity.seat, born, identity.seats) != body.column:
            detail = f"column {body.column} of {body.segment_id.hex()[:16]} is not this seat's"
            raise RejectionError(RejectionReason.MALFORMED, detail)
        if self.chain.is_freed(body.segment_id):
            raise RejectionError(RejectionReason.TOO_LATE, "the segment of this id was freed")
        if state is None:
            return
        if state.tenant != body.tenant:
            raise RejectionError(RejectionReason.NOT_GRANTED, "this segment is another tenant's")
        if (state.k, state.segment_bytes) != (body.k, body.segment_bytes):
            detail = f"committed with k {state.k} and {state.segment_bytes} bytes"
            raise RejectionError(RejectionReason.MALFORMED, detail)

    def _require_writer(self, peer: PublicKey, tenant: TenantId) -> None:
        """Admit who acts for the tenant, and members: they move its bytes to new segments (rule T70)."""
        if not self.chain.is_member(peer):
            self._require_granted(peer, tenant)

    def is_decided(self, segment_id: SegmentId) -> bool:
        """Say whether the chain knows a segment; for what members bring."""
        return self.chain.segment(segment_id) is not None or self.chain.is_freed(segment_id)

    def is_kept(self, segment_id: SegmentId) -> bool:
        """Say whether a finished column of a segment waits here for the chain."""
        return any(shard.name.segment_id == segment_id for shard in self.shards.uncommitted())

    def _require_granted(self, peer: PublicKey, tenant: TenantId) -> None:
        if not self.chain.is_granted(peer, tenant):
            raise RejectionError(RejectionReason.NOT_GRANTED, f"{peer.hex()[:16]} does not act for this tenant")


class _DamagedError(ShardCorruptError):
    """Carries the damaged shard's name from a worker thread."""

    def __init__(self, name: ShardName, detail: str) -> None:
        super().__init__(detail)
        self.name = name
