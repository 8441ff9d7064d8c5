"""Segments and entries in the ledger: commits, deletions, completed columns (rules T8 to T14)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from consensus.errors import RejectionError
from consensus.identifiers import MemberIndex
from storage.identifiers import ColumnIndex
from storage.outcomes import FailedEntry, FailedTransactionError, FailureReason
from storage.placement import column_seats
from storage.receipts import Receipt, ReceiptItem, check_receipt
from storage.segments import SegmentShape
from storage.state import (
    EntryState,
    FreedState,
    SegmentState,
    StateOverlay,
    StateReader,
    TenantState,
    entry_key,
    freed_key,
    read_state,
    segment_key,
    tenant_key,
)
from storage.tenants import read_tenant
from storage.transactions import CommitObjects, EntryCommit, Extent, StoredExtent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consensus.identifiers import Height
    from consensus.members import MemberSet
    from consensus.quorum import FaultBudget
    from storage.genesis import StorageParameters
    from storage.identifiers import BucketTag, NameTag, RecordAddress, SeatIndex, SegmentId, ShardRoot, TenantId
    from storage.transactions import CompleteColumns, DeleteEntries, SegmentCommit


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
    def parameters(self) -> StorageParameters:
        """Return the shared limits."""
        ...


@dataclass(slots=True)
class SegmentEvents:
    """What one transaction did, for those who keep shards and records; of a record, the last event counts."""

    segments: list[SegmentId] = field(default_factory=list["SegmentId"])
    is_record_live: dict[RecordAddress, bool] = field(default_factory=dict["RecordAddress", bool])


def commit_objects(
    rules: CodingRules, overlay: StateOverlay, height: Height, body: CommitObjects, events: SegmentEvents
) -> tuple[FailedEntry, ...]:
    """Commit a batch; returns the entries that failed alone, raises FailedTransactionError when all of it fails."""
    if not body.segments and not body.buckets:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    _check_segments(rules, overlay, body)
    placed = _placed_extents(body)
    columns = _vouched_columns(rules, height, body.tenant, body.segments, body.receipts)
    for place, segment in enumerate(body.segments):
        if len(columns[place]) < segment.k + rules.coding.liars:
            raise FailedTransactionError(FailureReason.TOO_FEW_RECEIPTS, place)
    for segment, vouched in zip(body.segments, columns, strict=True):
        overlay.put(segment_key(segment.segment_id), _segment_state(body.tenant, segment, vouched, height))
        events.segments.append(segment.segment_id)
    batch = _Batch(overlay=overlay, tenant=body.tenant, height=height, events=events)
    failed = list[FailedEntry]()
    for index, (bucket_tag, entry) in enumerate(_entries(body)):
        try:
            batch.put_entry(bucket_tag, entry, placed[index])
        except FailedTransactionError as error:
            failed.append(FailedEntry(index=index, reason=error.reason))
    batch.segment_count += len(body.segments)
    batch.segment_bytes += sum(segment.segment_bytes for segment in body.segments)
    batch.settle(also=[segment.segment_id for segment in body.segments])
    return tuple(failed)


def delete_entries(
    overlay: StateOverlay, height: Height, body: DeleteEntries, events: SegmentEvents
) -> tuple[FailedEntry, ...]:
    """Delete entries; returns those that were not there or have another version."""
    batch = _Batch(overlay=overlay, tenant=body.tenant, height=height, events=events)
    failed = list[FailedEntry]()
    for index, name in enumerate(body.entries):
        state = batch.entry(name.bucket_tag, name.name_tag)
        if state is None:
            failed.append(FailedEntry(index=index, reason=FailureReason.ENTRY_UNKNOWN))
        elif name.version_id not in {None, state.version_id}:
            failed.append(FailedEntry(index=index, reason=FailureReason.VERSION_CHANGED))
        else:
            batch.give_up(state)
            overlay.delete(entry_key(body.tenant, name.bucket_tag, name.name_tag))
    batch.settle(also=())
    return tuple(failed)


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
    columns = _vouched_columns(rules, height, body.tenant, commits, body.receipts)
    changed = 0
    for segment_id, state, vouched in zip(body.segment_ids, segments, columns, strict=True):
        if not vouched <= set(state.columns):
            overlay.put(segment_key(segment_id), _with(state, columns=vouched | set(state.columns)))
            changed += 1
    if changed == 0:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)


class _CodedSegment(Protocol):
    """What a receipt is checked against."""

    @property
    def segment_id(self) -> SegmentId: ...
    @property
    def k(self) -> int: ...
    @property
    def segment_bytes(self) -> int: ...
    @property
    def roots(self) -> tuple[ShardRoot, ...]: ...


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


@dataclass(slots=True)
class _Batch:
    """The entries of one transaction being changed: references and usage are settled once, at its end."""

    overlay: StateOverlay
    tenant: TenantId
    height: Height
    events: SegmentEvents
    references: Counter[SegmentId] = field(default_factory=Counter["SegmentId"])
    entry_count: int = 0
    entry_bytes: int = 0
    segment_count: int = 0
    segment_bytes: int = 0

    def entry(self, bucket_tag: BucketTag, name_tag: NameTag) -> EntryState | None:
        return read_state(self.overlay, entry_key(self.tenant, bucket_tag, name_tag), EntryState)

    def put_entry(self, bucket_tag: BucketTag, entry: EntryCommit, extents: tuple[StoredExtent, ...]) -> None:
        """Write one entry or raise FailedTransactionError, which fails this entry alone (T11)."""
        replaced = self.entry(bucket_tag, entry.name_tag)
        found = b"" if replaced is None else replaced.version_id
        if entry.condition is not None and entry.condition != found:
            raise FailedTransactionError(FailureReason.CONDITION_FAILED)
        for extent in extents:
            _check_extent(self.overlay, self.tenant, extent)
        if replaced is not None:
            self.give_up(replaced)
        state = EntryState(
            version_id=entry.version_id, record_address=entry.record_address, extents=extents, height=self.height
        )
        self.overlay.put(entry_key(self.tenant, bucket_tag, entry.name_tag), state)
        self.events.is_record_live[entry.record_address] = True
        self.references.update(extent.segment_id for extent in extents)
        self.entry_count += 1
        self.entry_bytes += sum(extent.extent_bytes for extent in extents)

    def give_up(self, replaced: EntryState) -> None:
        """Drop what an entry refers to (T12); freeing waits for settle()."""
        self.references.subtract(extent.segment_id for extent in replaced.extents)
        self.events.is_record_live[replaced.record_address] = False
        self.entry_count -= 1
        self.entry_bytes -= sum(extent.extent_bytes for extent in replaced.extents)

    def settle(self, *, also: Sequence[SegmentId]) -> None:
        """Write reference counts, free segments at zero, and write the tenant's usage."""
        for segment_id in dict.fromkeys((*also, *self.references)):
            state = read_state(self.overlay, segment_key(segment_id), SegmentState)
            assert state is not None, "a referenced segment is live"
            references = state.references + self.references[segment_id]
            assert references >= 0, "more references given up than held"
            if references > 0:
                self.overlay.put(segment_key(segment_id), _with(state, references=references))
                continue
            self.overlay.delete(segment_key(segment_id))
            self.overlay.put(freed_key(segment_id), FreedState(height=self.height))
            self.events.segments.append(segment_id)
            self.segment_count -= 1
            self.segment_bytes -= state.segment_bytes
        tenant = read_tenant(self.overlay, self.tenant)
        self.overlay.put(
            tenant_key(self.tenant),
            TenantState(
                public_key=tenant.public_key,
                grant_count=tenant.grant_count,
                entry_count=tenant.entry_count + self.entry_count,
                entry_bytes=tenant.entry_bytes + self.entry_bytes,
                segment_count=tenant.segment_count + self.segment_count,
                segment_bytes=tenant.segment_bytes + self.segment_bytes,
            ),
        )


def _check_segments(rules: CodingRules, reader: StateReader, body: CommitObjects) -> None:
    """Refuse segments that exist or existed, or whose coding the budget forbids (T8)."""
    if len({segment.segment_id for segment in body.segments}) != len(body.segments):
        raise FailedTransactionError(FailureReason.SEGMENT_TWICE)
    for place, segment in enumerate(body.segments):
        if reader.value(segment_key(segment.segment_id)) is not None:
            raise FailedTransactionError(FailureReason.SEGMENT_LIVE, place)
        if reader.value(freed_key(segment.segment_id)) is not None:
            raise FailedTransactionError(FailureReason.SEGMENT_FREED, place)
        if len(segment.roots) != rules.coding.members:
            raise FailedTransactionError(FailureReason.WRONG_COLUMNS, place)
        if not rules.coding.data_columns_min <= segment.k <= rules.coding.quorum:
            raise FailedTransactionError(FailureReason.WRONG_K, place)


def _entries(body: CommitObjects) -> Iterator[tuple[BucketTag, EntryCommit]]:
    for bucket in body.buckets:
        for entry in bucket.entries:
            yield bucket.bucket_tag, entry


def _placed_extents(body: CommitObjects) -> list[tuple[StoredExtent, ...]]:
    """Give every extent its segment and offset (T10); a transaction that overruns a segment fails whole."""
    ends = [0] * len(body.segments)
    placed = list[tuple[StoredExtent, ...]]()
    for _, entry in _entries(body):
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


def _check_extent(reader: StateReader, tenant: TenantId, extent: StoredExtent) -> None:
    state = read_state(reader, segment_key(extent.segment_id), SegmentState)
    if state is None or state.tenant != tenant:
        raise FailedTransactionError(FailureReason.SEGMENT_UNKNOWN)
    if extent.offset + extent.extent_bytes > state.segment_bytes:
        raise FailedTransactionError(FailureReason.EXTENT_OUTSIDE)


def _vouched_columns(
    rules: CodingRules, height: Height, tenant: TenantId, segments: Sequence[_CodedSegment], receipts: Sequence[Receipt]
) -> list[set[int]]:
    """Return, per segment, the columns that receipts vouch for (T9); one bad receipt fails the transaction."""
    columns = [set[int]() for _ in segments]
    placements = [column_seats(segment.segment_id, rules.seats) for segment in segments]
    shard_bytes = [
        SegmentShape(segment.segment_bytes, segment.k, len(segment.roots)).shard_bytes for segment in segments
    ]
    if len({receipt.seat for receipt in receipts}) != len(receipts):
        raise FailedTransactionError(FailureReason.BAD_RECEIPT)
    for place, receipt in enumerate(receipts):
        _check_expiry(rules, height, receipt, place)
        if receipt.seat not in rules.seats:
            raise FailedTransactionError(FailureReason.BAD_RECEIPT, place)
        batch = [
            _item(segment, seats, receipt.seat, byte_count)
            for segment, seats, byte_count in zip(segments, placements, shard_bytes, strict=True)
        ]
        for position in _held(rules, tenant, receipt, batch, place):
            if receipt.seat not in placements[position]:
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


def _item(segment: _CodedSegment, seats: tuple[SeatIndex, ...], seat: SeatIndex, shard_bytes: int) -> ReceiptItem:
    """Return what a seat keeps of a segment; column 0 where it keeps nothing, which the caller refuses."""
    column = seats.index(seat) if seat in seats else 0
    return ReceiptItem(
        segment_id=segment.segment_id,
        column=ColumnIndex(column),
        shard_root=segment.roots[column],
        shard_bytes=shard_bytes,
    )


def _segment_state(tenant: TenantId, segment: SegmentCommit, columns: set[int], height: Height) -> SegmentState:
    return SegmentState(
        tenant=tenant,
        k=segment.k,
        segment_bytes=segment.segment_bytes,
        roots=segment.roots,
        columns=tuple(sorted(columns)),
        references=0,
        height=height,
    )


def _with(state: SegmentState, *, columns: set[int] | None = None, references: int | None = None) -> SegmentState:
    return SegmentState(
        tenant=state.tenant,
        k=state.k,
        segment_bytes=state.segment_bytes,
        roots=state.roots,
        columns=state.columns if columns is None else tuple(sorted(columns)),
        references=state.references if references is None else references,
        height=state.height,
    )
