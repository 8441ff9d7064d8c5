"""Buckets in the ledger, and what of a version may change: retention, tags, records sealed again (rules T21 to T26)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, assert_never

from msgspec.structs import replace

from storage.buckets import (
    ChangeRecords,
    ChangeTags,
    DeleteBucket,
    EntryKind,
    LockChange,
    NewHold,
    NewRetention,
    RecordChange,
    Retention,
    RetentionMode,
    SetBucket,
    SetRetention,
    TagsChange,
    Versioning,
    VersionLock,
)
from storage.ledger_batch import Batch
from storage.ledger_versions import change_version, check_free, existing_version, running_retention
from storage.outcomes import FailedEntry, FailedTransactionError, FailureReason
from storage.state import BucketState, EntryState, ObjectName

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.buckets import BucketChange, NewBucket
    from storage.ledger_batch import SegmentEvents
    from storage.moments import Moment
    from storage.state import StateOverlay

ChangeT = TypeVar("ChangeT", LockChange, TagsChange, RecordChange)


def make_buckets(batch: Batch, buckets: Sequence[NewBucket]) -> None:
    """Make those of the buckets that are not there (T21)."""
    for bucket in buckets:
        if batch.find_bucket(bucket.bucket_tag) is None:
            state = BucketState(
                version_id=bucket.version_id,
                record_address=bucket.record_address,
                versioning=Versioning.OFF,
                lock=None,
                entry_count=0,
                height=batch.moment.height,
            )
            batch.write_bucket(bucket.bucket_tag, state)


def change_bucket(
    overlay: StateOverlay, moment: Moment, body: BucketChange, events: SegmentEvents
) -> tuple[FailedEntry, ...]:
    """Change a bucket, or versions in buckets; returns the changes that failed alone.

    Raises:
        FailedTransactionError: All of it failed.
    """
    batch = Batch(overlay=overlay, tenant=body.tenant, moment=moment, events=events)
    match body:
        case SetBucket():
            _set_bucket(batch, body)
        case DeleteBucket():
            _delete_bucket(batch, body)
        case SetRetention():
            return _each(batch, body.changes, _change_lock)
        case ChangeTags():
            return _each(batch, body.changes, _change_tags)
        case ChangeRecords():
            return _each(batch, body.changes, _change_record)
        case _:
            assert_never(body)
    return ()


def _set_bucket(batch: Batch, body: SetBucket) -> None:
    """Make a bucket or replace its settings (T21, T22)."""
    current = batch.find_bucket(body.bucket_tag)
    found = b"" if current is None else current.version_id
    if body.condition is not None and body.condition != found:
        raise FailedTransactionError(FailureReason.CONDITION_FAILED)
    if not _may_follow(current, body):
        raise FailedTransactionError(FailureReason.SETTINGS_KEPT)
    state = BucketState(
        version_id=body.version_id,
        record_address=body.record_address,
        versioning=body.versioning,
        lock=body.lock,
        entry_count=0 if current is None else current.entry_count,
        height=batch.moment.height if current is None else current.height,
    )
    batch.write_bucket(body.bucket_tag, state)
    batch.settle()


def _may_follow(current: BucketState | None, body: SetBucket) -> bool:
    """Say whether settings may follow others: a lock needs versioning, and both are for ever (T22)."""
    if body.lock is not None and body.versioning is not Versioning.ENABLED:
        return False
    if current is None:
        return True
    is_unlocked = current.lock is not None and body.lock is None
    is_turned_off = current.versioning is not Versioning.OFF and body.versioning is Versioning.OFF
    return not is_unlocked and not is_turned_off


def _delete_bucket(batch: Batch, body: DeleteBucket) -> None:
    """Forget a bucket without versions and markers (T21)."""
    if batch.bucket(body.bucket_tag).entry_count > 0:
        raise FailedTransactionError(FailureReason.BUCKET_NOT_EMPTY)
    batch.remove_bucket(body.bucket_tag)
    batch.settle()


def _each(
    batch: Batch, changes: Sequence[ChangeT], apply: Callable[[Batch, ObjectName, EntryState, ChangeT], None]
) -> tuple[FailedEntry, ...]:
    """Apply each change to the version that it names; one that fails, fails alone."""
    failed = list[FailedEntry]()
    for index, change in enumerate(changes):
        place = ObjectName(batch.tenant, change.bucket_tag, change.name_tag)
        try:
            apply(batch, place, existing_version(batch.overlay, place, change.version_id), change)
        except FailedTransactionError as error:
            failed.append(FailedEntry(index=index, reason=error.reason))
    return tuple(failed)


def _change_lock(batch: Batch, place: ObjectName, state: EntryState, requested: LockChange) -> None:
    if batch.bucket(place.bucket_tag).lock is None or state.kind is EntryKind.MARKER:
        raise FailedTransactionError(FailureReason.LOCK_OFF)
    lock = state.lock or VersionLock(retention=None, legal_hold=False)
    change = requested.change
    match change:
        case NewHold():
            lock = replace(lock, legal_hold=change.legal_hold)
        case NewRetention():
            _check_retention(running_retention(state, batch.moment.time_ms), change)
            lock = replace(lock, retention=change.retention)
        case _:
            assert_never(change)
    change_version(batch.overlay, place, replace(state, lock=lock))


def _check_retention(running: Retention | None, change: NewRetention) -> None:
    """Refuse to shorten or weaken what still runs, but governance by who asks to bypass it (T24)."""
    if running is None or (running.mode is RetentionMode.GOVERNANCE and change.bypass_governance):
        return
    following = change.retention
    if following is None or following.mode is not running.mode or following.until_ms < running.until_ms:
        raise FailedTransactionError(FailureReason.RETAINED)


def _change_tags(batch: Batch, place: ObjectName, state: EntryState, change: TagsChange) -> None:
    if state.kind is EntryKind.MARKER:
        raise FailedTransactionError(FailureReason.ENTRY_UNKNOWN)
    batch.events.replace_record(state.tags_address, change.record_address)
    change_version(batch.overlay, place, replace(state, tags_address=change.record_address))


def _change_record(batch: Batch, place: ObjectName, state: EntryState, change: RecordChange) -> None:
    if change.old_address == state.tags_address:
        changed = replace(state, tags_address=change.new_address)
    elif change.old_address == state.record_address:
        check_free(state, batch.moment.time_ms)
        changed = replace(state, record_address=change.new_address)
    else:
        raise FailedTransactionError(FailureReason.VERSION_CHANGED)
    batch.events.replace_record(change.old_address, change.new_address)
    change_version(batch.overlay, place, changed)
