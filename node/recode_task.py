"""Brings segments back to full k and gathers what lives in packs: this member's share of the moves (rules T70 to T73).

A round looks at some segments whose turn is ours, of tenants whose segments hold more than their entries or were
written with a smaller k; plans what is worth moving (storage/move_plans.py), and for each plan:

    read the living bytes, code them with the full k under a fresh id
    bring every seat its column, have it sign; our own is signed here
    have r other members recompute the roots and sign
    submit; the ledger moves references, frees the old segments

It needs every holder: with one absent nothing moves, since repair comes first. Whose turn it is follows from the first
old segment's placement and the clock, so that an absent member delays a move by TURN_SECONDS; two that move at once
waste one coding.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import GrandestError, RejectionError, RejectionReason
from consensus.identifiers import Buffer, Height, MemberIndex
from node.client.links import ShardName
from node.client.shares import StoredSegment, WriterIdentity, bring_shard, fetch_receipt
from storage.identifiers import BucketTag, ColumnIndex, NameTag, SegmentId
from storage.move_plans import LivingBytes, worth_moving
from storage.moves import Move, MovedEntry, ReplaceSegment, check_voucher, sign_move
from storage.segments import code_segment
from storage.state import ENTRY_PREFIX, VERSION_PREFIX, EntryState, decode_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from consensus.identifiers import Milliseconds, PublicKey, TransactionId
    from node.client.holders import HolderPool
    from node.client.links import HolderLink
    from node.repair_task import SegmentLedger
    from node.vouching import Vouching
    from storage.identifiers import SeatIndex, TenantId
    from storage.ledger import LedgerContext
    from storage.move_plans import MovePlan
    from storage.moves import Voucher
    from storage.receipts import Receipt, ReceiptItem
    from storage.segments import CodedSegment
    from storage.state import SegmentState, TenantState
    from storage.transactions import Body

LOGGER = logging.getLogger(__name__)

ROUND_SECONDS: Final = 300.0
"""Between looks at the ledger; a look that finds nothing reads the tenants' rows and the segments' alone."""
TURN_SECONDS: Final = 600.0
"""How long one member has the turn of a segment."""
PAUSE_SECONDS: Final = 2.0
"""Between moves of 16 MiB: at most 8 MiB/s are read and written for them."""
ROWS_AT_ONCE: Final = 512
SEGMENTS_PER_ROUND: Final = 256
"""Packs of 1,700 objects of 10 KB each: about 100 MiB of what their entries keep, for the time of a plan."""
EXPIRY_HEIGHTS: Final = 500


class MoveLedger(Protocol):
    """This node's ledger; methods block."""

    def rows(self, prefix: bytes, after: bytes, limit: int) -> Sequence[tuple[bytes, bytes]]:
        """Return state rows with a prefix, in order, behind a state key."""
        ...

    def tenants(self) -> Sequence[tuple[TenantId, TenantState]]:
        """Return the tenants."""
        ...


class Sender(Protocol):
    """Says something to the chain for this seat."""

    def send(self, body: Body) -> TransactionId:
        """Submit a body; raises RejectionError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecodeParts:
    """What moves are made of."""

    seat: SeatIndex
    ledger: MoveLedger
    segments: SegmentLedger
    pool: HolderPool
    vouching: Vouching
    context: Callable[[], LedgerContext]
    height: Callable[[], Height]
    own_column: Callable[[Move, ReceiptItem, Buffer, Height], Receipt | None]
    """Stores a column here and signs for it (blocks)."""
    sender: Sender
    now_ms: Callable[[], Milliseconds]


class RecodeTask:
    """Moves what is worth moving, until cancelled."""

    def __init__(self, parts: RecodeParts) -> None:
        """Work for one seat."""
        self._parts = parts
        self._dead_since: dict[SegmentId, Milliseconds] = {}
        self._after: SegmentId | None = None
        """Up to which segment the last round looked."""
        self.moved = 0
        """Moves submitted since the start."""

    async def vouch(self, move: Move) -> Voucher:
        """Give this member's word for another's move; see Vouching."""
        return await self._parts.vouching.vouch(move)

    async def run(self) -> None:
        """Look and move for ever."""
        while True:
            await trio.sleep(ROUND_SECONDS)
            try:
                await self.round()
            except GrandestError as error:
                LOGGER.info("segments are moved later: %s", error)

    async def round(self) -> None:
        """Move what is our turn now."""
        if len(self._parts.pool.live()) < len(self._parts.context().seats) - 1:
            return
        plans = await trio.to_thread.run_sync(self._plans)
        for tenant, plan in plans:
            await self.move(tenant, plan)
            await trio.sleep(PAUSE_SECONDS)

    async def move(self, tenant: TenantId, plan: MovePlan) -> None:
        """Carry one plan out.

        Raises:
            RejectionError, StorageError, NodeError: Nothing moved; what was stored of it expires.
        """
        context = self._parts.context()
        moved = await self._parts.vouching.moved_bytes(tenant, plan.ranges)
        coded = await trio.to_thread.run_sync(code_segment, moved, context.coding.quorum, context.coding.members)
        segment_id = SegmentId(secrets.token_bytes(32))
        move = Move(
            tenant=tenant,
            segment_id=segment_id,
            k=coded.shape.k,
            segment_bytes=coded.shape.segment_bytes,
            roots=coded.roots,
            ranges=plan.ranges,
        )
        receipts = await self._store(move, coded, context)
        vouchers = await self._gather_vouchers(move, context)
        self._parts.sender.send(ReplaceSegment(move=move, entries=plan.entries, receipts=receipts, vouchers=vouchers))
        self.moved += 1

    async def _store(self, move: Move, coded: CodedSegment, context: LedgerContext) -> tuple[Receipt, ...]:
        """Bring every seat its column and return all their receipts."""
        height = self._parts.height()
        seats = context.placement.column_seats(move.segment_id, Height(height + 1), Height(height + 1))
        segment = StoredSegment(move.segment_id, coded.shape, coded.roots, seats, coded.shards, set())
        expiry_height = Height(height + EXPIRY_HEIGHTS)
        identity = WriterIdentity(
            tenant=move.tenant,
            genesis_hash=context.members.genesis_hash,
            seat_keys={seat: context.members.public_key(MemberIndex(seat)) for seat in seats},
            budget=context.coding,
            columns=context.coding.members,
        )
        receipts: dict[SeatIndex, Receipt] = {}

        async def bring(seat: SeatIndex, link: HolderLink, progressed: Callable[[], None]) -> None:
            name = _name(move, ColumnIndex(seats.index(seat)))
            await bring_shard(link, name, coded.shards[name.column], progressed)
            receipts[seat], _ = await fetch_receipt(identity, (segment,), seat, link, expiry_height)

        others = tuple(seat for seat in seats if seat != self._parts.seat)
        await self._parts.pool.ask_all(others, bring, len(others))
        if self._parts.seat in seats:
            item = segment.item(ColumnIndex(seats.index(self._parts.seat)))
            shard = coded.shards[item.column]
            own = await trio.to_thread.run_sync(self._parts.own_column, move, item, shard, expiry_height)
            if own is not None:
                receipts[self._parts.seat] = own
        if len(receipts) < len(seats):
            detail = f"{len(receipts)} of {len(seats)} seats signed for a moved segment"
            raise RejectionError(RejectionReason.BAD_RECEIPT, detail)
        return tuple(receipt for _, receipt in sorted(receipts.items()))

    async def _gather_vouchers(self, move: Move, context: LedgerContext) -> tuple[Voucher, ...]:
        """Return r + 1 words, ours among them; one member after another is asked."""
        needed = context.members.budget.weak_quorum
        vouching = self._parts.vouching
        found = [sign_move(vouching.signing_key, vouching.genesis_hash, self._parts.seat, move)]
        for seat in self._parts.pool.live():
            if len(found) == needed:
                return tuple(found)
            await self._parts.pool.ask_one(seat, _asking(move, context, found))
        if len(found) < needed:
            raise RejectionError(RejectionReason.NO_QUORUM, f"{len(found)} of {needed} members vouch for a move")
        return tuple(found)

    def _plans(self) -> list[tuple[TenantId, MovePlan]]:
        """Return the moves whose turn is ours, of the next segments."""
        full_k = self._parts.context().coding.quorum
        by_tenant: dict[TenantId, dict[SegmentId, SegmentState]] = {}
        for segment_id, state in self._next_segments():
            by_tenant.setdefault(state.tenant, {})[segment_id] = state
        plans: list[tuple[TenantId, MovePlan]] = []
        for tenant, usage in self._parts.ledger.tenants():
            segments = by_tenant.get(tenant, {})
            is_suspect = usage.segment_bytes > usage.entry_bytes or any(s.k < full_k for s in segments.values())
            if segments and is_suspect:
                living = self._living(tenant, segments)
                self._note_dead(segments, living)
                moved = worth_moving(living, segments, full_k, self._dead_since, self._parts.now_ms())
                plans += [(tenant, plan) for plan in living.plans(moved)]
        return plans

    def _note_dead(self, segments: dict[SegmentId, SegmentState], living: LivingBytes) -> None:
        """Remember since when something of a segment is dead."""
        now_ms = self._parts.now_ms()
        for segment_id, state in segments.items():
            if sum(part.range_bytes for part in living.ranges(segment_id)) < state.segment_bytes:
                self._dead_since.setdefault(segment_id, now_ms)

    def _is_our_turn(self, segment_id: SegmentId) -> bool:
        seats = self._parts.context().seats
        turn = int.from_bytes(segment_id[-8:], "big") + self._parts.now_ms() // int(TURN_SECONDS * 1000)
        return seats[turn % len(seats)] == self._parts.seat

    def _next_segments(self) -> list[tuple[SegmentId, SegmentState]]:
        """Return the next whole segments whose turn is ours; behind the last one the list begins anew."""
        columns = self._parts.context().coding.members
        found: list[tuple[SegmentId, SegmentState]] = []
        while len(found) < SEGMENTS_PER_ROUND:
            rows = self._parts.segments.segments(after=self._after, limit=ROWS_AT_ONCE)
            for segment_id, state in rows:
                self._after = segment_id
                if len(state.columns) == columns and self._is_our_turn(segment_id):
                    found.append((segment_id, state))
                if len(found) == SEGMENTS_PER_ROUND:
                    return found
            if len(rows) < ROWS_AT_ONCE:
                self._after = None
                break
        return found

    def _living(self, tenant: TenantId, wanted: Iterable[SegmentId]) -> LivingBytes:
        """Look at every version of a tenant's objects."""
        living = LivingBytes(wanted)
        for prefix in (ENTRY_PREFIX + tenant, VERSION_PREFIX + tenant):
            after = prefix
            while rows := self._parts.ledger.rows(prefix, after, ROWS_AT_ONCE):
                for state_key, encoded in rows:
                    state = decode_state(encoded, EntryState)
                    living.add(_moved_entry(state_key, state), state.extents)
                after = rows[-1][0]
        return living


def _moved_entry(state_key: bytes, state: EntryState) -> MovedEntry:
    return MovedEntry(
        bucket_tag=BucketTag(state_key[17:33]),
        name_tag=NameTag(state_key[33:49]),
        version_id=state.version_id,
        record_address=state.record_address,
    )


def _name(move: Move, column: ColumnIndex) -> ShardName:
    return ShardName(
        segment_id=move.segment_id, tenant=move.tenant, column=column, k=move.k, segment_bytes=move.segment_bytes
    )


def _asking(
    move: Move, context: LedgerContext, found: list[Voucher]
) -> Callable[[SeatIndex, HolderLink, Callable[[], None]], Awaitable[None]]:
    async def ask(seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
        voucher = await link.ask_voucher(move)
        if voucher.seat != seat:
            raise RejectionError(RejectionReason.BAD_SIGNATURE, f"seat {seat} vouched as seat {voucher.seat}")
        public_key: PublicKey = context.members.public_key(MemberIndex(seat))
        check_voucher(voucher, context.members.genesis_hash, move, public_key)
        found.append(voucher)

    return ask
