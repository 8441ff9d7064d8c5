"""Objects in the ledger: commits and deletions of their versions (rules T10 to T13, T23, T24)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.identifiers import Milliseconds
from storage.buckets import DAY_MS, NULL_VERSION, EntryKind, Governance, Retention, Versioning, VersionLock
from storage.ledger_batch import Batch
from storage.ledger_buckets import make_buckets
from storage.ledger_segments import Brought, check_extent, new_segments, placed_extents
from storage.ledger_versions import (
    check_free,
    find_version,
    push_version,
    read_current,
    remove_version,
    replace_current,
)
from storage.outcomes import FailedEntry, FailedTransactionError, FailureReason
from storage.state import EntryState, ObjectName, segment_key
from storage.tenants import read_tenant
from storage.transactions import entries_of

if TYPE_CHECKING:
    from storage.ledger_batch import SegmentEvents
    from storage.ledger_segments import CodingRules
    from storage.moments import Moment
    from storage.state import BucketState, StateOverlay
    from storage.transactions import CommitObjects, DeleteEntries, EntryCommit, EntryName, StoredExtent


def commit_objects(
    rules: CodingRules, overlay: StateOverlay, moment: Moment, body: CommitObjects, events: SegmentEvents
) -> tuple[FailedEntry, ...]:
    """Commit a batch; returns the entries that failed alone, raises FailedTransactionError when all of it fails."""
    if not body.segments and not body.buckets and not body.new_buckets:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    batch = Batch(overlay=overlay, tenant=body.tenant, moment=moment, events=events)
    _add_segments(rules, batch, body)
    make_buckets(batch, body.new_buckets)
    placed = placed_extents(body)
    failed = list[FailedEntry]()
    for index, (bucket_tag, entry) in enumerate(entries_of(body)):
        try:
            place = ObjectName(body.tenant, bucket_tag, entry.name_tag)
            _put_entry(batch, place, entry, placed[index], index)
        except FailedTransactionError as error:
            failed.append(FailedEntry(index=index, reason=error.reason))
    batch.settle(also=[segment.segment_id for segment in body.segments])
    return tuple(failed)


def _add_segments(rules: CodingRules, batch: Batch, body: CommitObjects) -> None:
    brought = Brought(tenant=body.tenant, segments=body.segments, receipts=body.receipts)
    states = new_segments(rules, batch.overlay, batch.moment.height, brought)
    tenant = read_tenant(batch.overlay, body.tenant)
    batch.segment_count += len(states)
    batch.segment_bytes += sum(state.segment_bytes for state in states)
    if states and tenant.segment_bytes + batch.segment_bytes > tenant.quota_bytes:
        raise FailedTransactionError(FailureReason.QUOTA_EXCEEDED)
    for segment, state in zip(body.segments, states, strict=True):
        batch.overlay.put(segment_key(segment.segment_id), state)
        batch.events.segments.append(segment.segment_id)


def _put_entry(
    batch: Batch, place: ObjectName, entry: EntryCommit, extents: tuple[StoredExtent, ...], index: int
) -> None:
    """Write one version or marker, or raise FailedTransactionError, which fails this entry alone (T11)."""
    bucket = batch.bucket(place.bucket_tag)
    current = read_current(batch.overlay, place)
    found = b"" if current is None or current.kind is EntryKind.MARKER else current.version_id
    if entry.condition is not None and entry.condition != found:
        raise FailedTransactionError(FailureReason.CONDITION_FAILED)
    state = _new_state(batch, bucket, entry, extents, index)
    for extent in extents:
        check_extent(batch.overlay, batch.tenant, extent)
    match bucket.versioning:
        case Versioning.OFF:
            _put_unversioned(batch, place, state, current)
        case Versioning.ENABLED:
            _check_untaken(batch, place, state)
            push_version(batch.overlay, place, state, current)
        case Versioning.SUSPENDED:
            _check_untaken(batch, place, state)
            _put_null(batch, place, state)
    batch.take(place.bucket_tag, state)


def _new_state(
    batch: Batch, bucket: BucketState, entry: EntryCommit, extents: tuple[StoredExtent, ...], index: int
) -> EntryState:
    kind = EntryKind.OBJECT if entry.details is None else entry.details.kind
    if kind is EntryKind.MARKER and bucket.versioning is Versioning.OFF:
        raise FailedTransactionError(FailureReason.VERSIONING_OFF)
    return EntryState(
        version_id=entry.version_id,
        record_address=entry.record_address,
        extents=extents,
        height=batch.moment.height,
        order=batch.order(index),
        kind=kind,
        is_null=bucket.versioning is not Versioning.ENABLED,
        lock=None if kind is EntryKind.MARKER else _lock_of(batch, bucket, entry),
        tags_address=None,
        older=None,
        newer=None,
    )


def _lock_of(batch: Batch, bucket: BucketState, entry: EntryCommit) -> VersionLock | None:
    """Return what retains a new version: what it brings, or its bucket's default from the block's time on (T24)."""
    own = None if entry.details is None else entry.details.lock
    if bucket.lock is None:
        if own is not None:
            raise FailedTransactionError(FailureReason.LOCK_OFF)
        return None
    default = bucket.lock.default
    if default is None or (own is not None and own.retention is not None):
        return own
    until_ms = Milliseconds(batch.moment.time_ms + default.days * DAY_MS)
    retention = Retention(mode=default.mode, until_ms=until_ms)
    return VersionLock(retention=retention, legal_hold=own is not None and own.legal_hold)


def _check_untaken(batch: Batch, place: ObjectName, state: EntryState) -> None:
    if state.version_id == NULL_VERSION or find_version(batch.overlay, place, state.version_id) is not None:
        raise FailedTransactionError(FailureReason.VERSION_TAKEN)


def _put_unversioned(batch: Batch, place: ObjectName, state: EntryState, current: EntryState | None) -> None:
    if current is None:
        push_version(batch.overlay, place, state, None)
        return
    batch.give_up(place.bucket_tag, current)
    replace_current(batch.overlay, place, state, current)


def _put_null(batch: Batch, place: ObjectName, state: EntryState) -> None:
    """Write the null version above all others, in place of the one that there is."""
    replaced = find_version(batch.overlay, place, NULL_VERSION)
    if replaced is not None:
        check_free(replaced, batch.moment.time_ms)
        batch.give_up(place.bucket_tag, replaced)
        remove_version(batch.overlay, place, replaced)
    push_version(batch.overlay, place, state, read_current(batch.overlay, place))


def delete_entries(
    overlay: StateOverlay, moment: Moment, body: DeleteEntries, events: SegmentEvents
) -> tuple[FailedEntry, ...]:
    """Delete versions; returns those that were not there, are others, or are retained."""
    batch = Batch(overlay=overlay, tenant=body.tenant, moment=moment, events=events)
    failed = list[FailedEntry]()
    for index, name in enumerate(body.entries):
        try:
            _delete(batch, name, Governance(body.bypass_governance))
        except FailedTransactionError as error:
            failed.append(FailedEntry(index=index, reason=error.reason))
    batch.settle()
    return tuple(failed)


def _delete(batch: Batch, name: EntryName, governance: Governance) -> None:
    place = ObjectName(batch.tenant, name.bucket_tag, name.name_tag)
    bucket = batch.bucket(name.bucket_tag)
    if name.version_id is None and bucket.versioning is not Versioning.OFF:
        raise FailedTransactionError(FailureReason.VERSION_NEEDED)
    current = read_current(batch.overlay, place)
    if current is None:
        raise FailedTransactionError(FailureReason.ENTRY_UNKNOWN)
    found = current if name.version_id is None else find_version(batch.overlay, place, name.version_id)
    if found is None:
        is_guarded = bucket.versioning is Versioning.OFF
        raise FailedTransactionError(FailureReason.VERSION_CHANGED if is_guarded else FailureReason.ENTRY_UNKNOWN)
    check_free(found, batch.moment.time_ms, governance)
    batch.give_up(name.bucket_tag, found)
    remove_version(batch.overlay, place, found)
