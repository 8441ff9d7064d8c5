"""Segments in the ledger: what a commit may bring, who vouches for which column, and where extents lie (T8 to T10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from consensus.errors import RejectionError
from consensus.identifiers import MemberIndex
from storage.identifiers import ColumnIndex
from storage.outcomes import FailedTransactionError, FailureReason
from storage.receipts import Receipt, ReceiptItem, check_receipt
from storage.segments import SegmentShape
from storage.state import SegmentState, StateOverlay, StateReader, freed_key, read_state, segment_key
from storage.transactions import CommitObjects, Extent, StoredExtent, entries_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.identifiers import Height
    from consensus.members import MemberSet
    from consensus.quorum import FaultBudget
    from storage.genesis import StorageParameters
    from storage.identifiers import SeatIndex, SegmentId, ShardRoot, TenantId
    from storage.placement import Placement
    from storage.transactions import CompleteColumns


class CodingRules(Protocol):
    """What of a ledger's context the rules of segments need."""

    @property
    def members(self) -> MemberSet:
        """Return who signs receipts."""
        ...

    @property
    def coding(self) -> FaultBudget:
        """Return the budget of a segment's holders."""
        ...

    @property
    def seats(self) -> tuple[SeatIndex, ...]:
        """Return all seats."""
        ...

    @property
    def placement(self) -> Placement:
        """Return which seats exist when."""
        ...

    @property
    def parameters(self) -> StorageParameters:
        """Return the shared limits."""
        ...


class CodedSegment(Protocol):
    """What receipts are checked against: a segment on its way in, or a live one."""

    @property
    def segment_id(self) -> SegmentId:
        """Return its id."""
        ...

    @property
    def k(self) -> int:
        """Return its number of data columns."""
        ...

    @property
    def segment_bytes(self) -> int:
        """Return its length."""
        ...

    @property
    def roots(self) -> tuple[ShardRoot, ...]:
        """Return the root of each column."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """Segments on their way in, and the receipts of their holders."""

    tenant: TenantId
    segments: Sequence[CodedSegment]
    receipts: Sequence[Receipt]


def new_segments(rules: CodingRules, reader: StateReader, height: Height, brought: Brought) -> list[SegmentState]:
    """Return the states of new segments, without references yet, or raise FailedTransactionError (T8, T9)."""
    segments = brought.segments
    _check_segments(rules, reader, segments)
    holders = [(new, rules.placement.column_seats(new.segment_id, height, height)) for new in segments]
    columns = _vouched_columns(rules, height, brought.tenant, holders, brought.receipts)
    for place, segment in enumerate(segments):
        if len(columns[place]) < segment.k + rules.coding.liars:
            raise FailedTransactionError(FailureReason.TOO_FEW_RECEIPTS, place)
    return [
        _segment_state(brought.tenant, segment, vouched, height)
        for segment, vouched in zip(segments, columns, strict=True)
    ]


def placed_extents(body: CommitObjects) -> list[tuple[StoredExtent, ...]]:
    """Give every extent its segment and offset (T10); a transaction that overruns a segment fails whole."""
    ends = [0] * len(body.segments)
    placed = list[tuple[StoredExtent, ...]]()
    for _, entry in entries_of(body):
        extents = list[StoredExtent]()
        for extent in entry.extents:
            if isinstance(extent, StoredExtent):
                extents.append(extent)
                continue
            extents.append(_place_extent(body, extent, ends))
        placed.append(tuple(extents))
    return placed


def _place_extent(body: CommitObjects, extent: Extent, ends: list[int]) -> StoredExtent:
    if extent.segment >= len(ends):
        raise FailedTransactionError(FailureReason.SEGMENT_UNKNOWN, extent.segment)
    segment = body.segments[extent.segment]
    offset = ends[extent.segment]
    ends[extent.segment] += extent.extent_bytes
    if ends[extent.segment] > segment.segment_bytes:
        raise FailedTransactionError(FailureReason.EXTENT_OUTSIDE, extent.segment)
    return StoredExtent(segment_id=segment.segment_id, offset=offset, extent_bytes=extent.extent_bytes)


def check_extent(reader: StateReader, tenant: TenantId, extent: StoredExtent) -> None:
    """Refuse an extent outside a live segment of this tenant by FailedTransactionError."""
    state = read_state(reader, segment_key(extent.segment_id), SegmentState)
    if state is None or state.tenant != tenant:
        raise FailedTransactionError(FailureReason.SEGMENT_UNKNOWN)
    if extent.offset + extent.extent_bytes > state.segment_bytes:
        raise FailedTransactionError(FailureReason.EXTENT_OUTSIDE)


def complete_columns(rules: CodingRules, overlay: StateOverlay, height: Height, body: CompleteColumns) -> None:
    """Note receipts for columns stored after the commit.

    All segments must be live and the tenant's, since receipts are signed over all of them: whoever loses the race with
    a deletion asks for receipts again.
    """
    if len(set(body.segment_ids)) != len(body.segment_ids):
        raise FailedTransactionError(FailureReason.SEGMENT_TWICE)
    segments = list[SegmentState]()
    for place, segment_id in enumerate(body.segment_ids):
        state = read_state(overlay, segment_key(segment_id), SegmentState)
        if state is None or state.tenant != body.tenant:
            raise FailedTransactionError(FailureReason.SEGMENT_UNKNOWN, place)
        segments.append(state)
    commits = [_Coded(segment_id, state) for segment_id, state in zip(body.segment_ids, segments, strict=True)]
    placement = rules.placement
    holders = [(live, placement.column_seats(live.segment_id, live.state.height, height)) for live in commits]
    columns = _vouched_columns(rules, height, body.tenant, holders, body.receipts)
    changed = 0
    for segment_id, state, vouched in zip(body.segment_ids, segments, columns, strict=True):
        counted = placement.counted_columns(segment_id, state, height)
        if not vouched <= counted:
            noted = tuple(sorted(vouched | counted))
            overlay.put(segment_key(segment_id), replace(state, columns=noted, vouched_at=height))
            changed += 1
    if changed == 0:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)


@dataclass(frozen=True, slots=True)
class _Coded:
    """A live segment in the shape of a commit."""

    segment_id: SegmentId
    state: SegmentState

    @property
    def k(self) -> int:
        return self.state.k

    @property
    def segment_bytes(self) -> int:
        return self.state.segment_bytes

    @property
    def roots(self) -> tuple[ShardRoot, ...]:
        return self.state.roots


_Placed = tuple[CodedSegment, tuple["SeatIndex", ...]]
"""A segment and the seat of each of its columns."""


def _check_segments(rules: CodingRules, reader: StateReader, segments: Sequence[CodedSegment]) -> None:
    """Refuse segments that exist or existed, or whose coding the budget forbids (T8)."""
    if len({segment.segment_id for segment in segments}) != len(segments):
        raise FailedTransactionError(FailureReason.SEGMENT_TWICE)
    for place, segment in enumerate(segments):
        if reader.value(segment_key(segment.segment_id)) is not None:
            raise FailedTransactionError(FailureReason.SEGMENT_LIVE, place)
        if reader.value(freed_key(segment.segment_id)) is not None:
            raise FailedTransactionError(FailureReason.SEGMENT_FREED, place)
        if len(segment.roots) != rules.coding.members:
            raise FailedTransactionError(FailureReason.WRONG_COLUMNS, place)
        if not rules.coding.data_columns_min <= segment.k <= rules.coding.quorum:
            raise FailedTransactionError(FailureReason.WRONG_K, place)


def _vouched_columns(
    rules: CodingRules, height: Height, tenant: TenantId, placed: Sequence[_Placed], receipts: Sequence[Receipt]
) -> list[set[int]]:
    """Return, per segment, the columns that receipts vouch for (T9); one bad receipt fails the transaction."""
    columns = [set[int]() for _ in placed]
    shard_bytes = [
        SegmentShape(segment.segment_bytes, segment.k, len(segment.roots)).shard_bytes for segment, _ in placed
    ]
    if len({receipt.seat for receipt in receipts}) != len(receipts):
        raise FailedTransactionError(FailureReason.BAD_RECEIPT)
    for place, receipt in enumerate(receipts):
        _check_expiry(rules, height, receipt, place)
        if receipt.seat not in rules.seats:
            raise FailedTransactionError(FailureReason.BAD_RECEIPT, place)
        batch = [
            _item(segment, seats, receipt.seat, byte_count)
            for (segment, seats), byte_count in zip(placed, shard_bytes, strict=True)
        ]
        for position in _held(rules, tenant, receipt, batch, place):
            if receipt.seat not in placed[position][1]:
                raise FailedTransactionError(FailureReason.BAD_RECEIPT, place)
            columns[position].add(batch[position].column)
    return columns


def _check_expiry(rules: CodingRules, height: Height, receipt: Receipt, place: int) -> None:
    if receipt.expiry_height < height:
        raise FailedTransactionError(FailureReason.RECEIPT_EXPIRED, place)
    if receipt.expiry_height > height + rules.parameters.receipt_heights:
        raise FailedTransactionError(FailureReason.RECEIPT_TOO_FAR, place)


def _held(
    rules: CodingRules, tenant: TenantId, receipt: Receipt, batch: Sequence[ReceiptItem], place: int
) -> tuple[int, ...]:
    public_key = rules.members.public_key(MemberIndex(receipt.seat))
    try:
        return check_receipt(receipt, rules.members.genesis_hash, tenant=tenant, batch=batch, public_key=public_key)
    except RejectionError as error:
        raise FailedTransactionError(FailureReason.BAD_RECEIPT, place) from error


def _item(segment: CodedSegment, seats: tuple[SeatIndex, ...], seat: SeatIndex, shard_bytes: int) -> ReceiptItem:
    """Return what a seat keeps of a segment; column 0 where it keeps nothing, which the caller refuses."""
    column = seats.index(seat) if seat in seats else 0
    return ReceiptItem(
        segment_id=segment.segment_id,
        column=ColumnIndex(column),
        shard_root=segment.roots[column],
        shard_bytes=shard_bytes,
    )


def _segment_state(tenant: TenantId, segment: CodedSegment, columns: set[int], height: Height) -> SegmentState:
    return SegmentState(
        tenant=tenant,
        k=segment.k,
        segment_bytes=segment.segment_bytes,
        roots=segment.roots,
        columns=tuple(sorted(columns)),
        references=0,
        height=height,
        vouched_at=height,
    )
