"""One tenant's transaction being run: what it changed in references, buckets and usage is settled once, at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from storage.outcomes import FailedTransactionError, FailureReason
from storage.state import (
    BUCKETS_MAX,
    BucketState,
    FreedState,
    SegmentState,
    StateOverlay,
    bucket_state_key,
    freed_key,
    read_state,
    segment_key,
    tenant_key,
)
from storage.tenants import read_tenant
from storage.transactions import ENTRIES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.identifiers import BucketTag, RecordAddress, SegmentId, TenantId
    from storage.moments import Moment
    from storage.state import EntryState


@dataclass(slots=True)
class SegmentEvents:
    """What one transaction did, for those who keep shards and records; of a record, the last event counts."""

    segments: list[SegmentId] = field(default_factory=list["SegmentId"])
    is_record_live: dict[RecordAddress, bool] = field(default_factory=dict["RecordAddress", bool])

    def replace_record(self, old: RecordAddress | None, new: RecordAddress | None) -> None:
        """Note that a record took another's place, each of which may be none."""
        if old is not None:
            self.is_record_live[old] = False
        if new is not None:
            self.is_record_live[new] = True


@dataclass(slots=True)
class Batch:
    """Buckets and entries of one transaction."""

    overlay: StateOverlay
    tenant: TenantId
    moment: Moment
    events: SegmentEvents
    references: Counter[SegmentId] = field(default_factory=Counter["SegmentId"])
    buckets: dict[BucketTag, BucketState] = field(default_factory=dict["BucketTag", BucketState])
    """Those that were read, with their counts of now."""
    bucket_count: int = 0
    entry_count: int = 0
    entry_bytes: int = 0
    segment_count: int = 0
    segment_bytes: int = 0

    def order(self, index: int) -> int:
        """Return the place of an entry of this transaction among all that its block writes."""
        return self.moment.index * ENTRIES_MAX + index

    def bucket(self, bucket_tag: BucketTag) -> BucketState:
        """Return a bucket or raise FailedTransactionError(BUCKET_UNKNOWN)."""
        found = self.find_bucket(bucket_tag)
        if found is None:
            raise FailedTransactionError(FailureReason.BUCKET_UNKNOWN)
        return found

    def find_bucket(self, bucket_tag: BucketTag) -> BucketState | None:
        """Return a bucket, None when there is none."""
        if bucket_tag not in self.buckets:
            found = read_state(self.overlay, bucket_state_key(self.tenant, bucket_tag), BucketState)
            if found is None:
                return None
            self.buckets[bucket_tag] = found
        return self.buckets[bucket_tag]

    def write_bucket(self, bucket_tag: BucketTag, state: BucketState) -> None:
        """Make a bucket, or give it other settings; a new one counts."""
        replaced = self.find_bucket(bucket_tag)
        self.events.replace_record(None if replaced is None else replaced.record_address, state.record_address)
        self.bucket_count += replaced is None
        self.buckets[bucket_tag] = state
        self.overlay.put(bucket_state_key(self.tenant, bucket_tag), state)

    def remove_bucket(self, bucket_tag: BucketTag) -> None:
        """Forget a bucket and its settings record."""
        removed = self.buckets.pop(bucket_tag)
        self.events.replace_record(removed.record_address, None)
        self.bucket_count -= 1
        self.overlay.delete(bucket_state_key(self.tenant, bucket_tag))

    def take(self, bucket_tag: BucketTag, state: EntryState) -> None:
        """Count a version that a bucket has gained."""
        self._count(bucket_tag, state, 1)
        self.events.replace_record(None, state.record_address)

    def give_up(self, bucket_tag: BucketTag, state: EntryState) -> None:
        """Drop what a version refers to (T12); freeing waits for settle()."""
        self._count(bucket_tag, state, -1)
        self.events.replace_record(state.record_address, None)
        self.events.replace_record(state.tags_address, None)

    def _count(self, bucket_tag: BucketTag, state: EntryState, change: int) -> None:
        for extent in state.extents:
            self.references[extent.segment_id] += change
            self.entry_bytes += change * extent.extent_bytes
        self.entry_count += change
        bucket = self.bucket(bucket_tag)
        self.buckets[bucket_tag] = replace(bucket, entry_count=bucket.entry_count + change)

    def settle(self, *, also: Sequence[SegmentId] = ()) -> None:
        """Write reference counts, free segments at zero, and write the counts of buckets and tenant."""
        for segment_id in dict.fromkeys((*also, *self.references)):
            self._settle_segment(segment_id)
        for bucket_tag, bucket in self.buckets.items():
            self.overlay.put(bucket_state_key(self.tenant, bucket_tag), bucket)
        tenant = read_tenant(self.overlay, self.tenant)
        if tenant.bucket_count + self.bucket_count > BUCKETS_MAX:
            raise FailedTransactionError(FailureReason.BUCKETS_FULL)
        changed = replace(
            tenant,
            bucket_count=tenant.bucket_count + self.bucket_count,
            entry_count=tenant.entry_count + self.entry_count,
            entry_bytes=tenant.entry_bytes + self.entry_bytes,
            segment_count=tenant.segment_count + self.segment_count,
            segment_bytes=tenant.segment_bytes + self.segment_bytes,
        )
        self.overlay.put(tenant_key(self.tenant), changed)

    def _settle_segment(self, segment_id: SegmentId) -> None:
        state = read_state(self.overlay, segment_key(segment_id), SegmentState)
        assert state is not None, "a referenced segment is live"
        references = state.references + self.references[segment_id]
        assert references >= 0, "more references given up than held"
        if references > 0:
            self.overlay.put(segment_key(segment_id), replace(state, references=references))
            return
        self.overlay.delete(segment_key(segment_id))
        self.overlay.put(freed_key(segment_id), FreedState(height=self.moment.height))
        self.events.segments.append(segment_id)
        self.segment_count -= 1
        self.segment_bytes -= state.segment_bytes
