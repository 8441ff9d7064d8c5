"""What a lying client or holder tries against the ledger: old receipts, other codings, other tenants' things."""

from __future__ import annotations

import hashlib

import pytest
from msgspec import structs

from storage.identifiers import ShardRoot
from storage.outcomes import FailureReason
from storage.state import EntryState, SegmentState, entry_key, read_state, segment_key
from storage.transactions import (
    BucketEntries,
    CommitObjects,
    CompleteColumns,
    DeleteEntries,
    EntryName,
    Extent,
    SegmentCommit,
    StoredExtent,
)
from tests.storage.ledger_world import BUCKET, NEW_BUCKET, OTHER_TENANT, TENANT, World, entry, name_tag, segment_id


@pytest.fixture
def world() -> World:
    return World(seats=9)


def coded_again(segment: SegmentCommit) -> SegmentCommit:
    """The same id with other roots, as an abandoned coding had them."""
    roots = tuple(ShardRoot(hashlib.sha256(root).digest()) for root in segment.roots)
    return structs.replace(segment, roots=roots)


def one(world: World) -> SegmentCommit:
    """A live segment of the first tenant, with eight receipts."""
    segment = world.segment("one")
    receipts = tuple(world.receipt(seat, (segment,)) for seat in range(8))
    named = entry("mine", Extent(segment=0, extent_bytes=9))
    assert world.run(world.commit((segment,), named, receipts=receipts)).reason is None
    return segment


def theirs(name: str, *extents: StoredExtent) -> CommitObjects:
    """A commit of the other tenant, into a bucket of its own."""
    bucket = BucketEntries(bucket_tag=BUCKET, entries=(entry(name, *extents),))
    return CommitObjects(tenant=OTHER_TENANT, segments=(), buckets=(bucket,), receipts=(), new_buckets=(NEW_BUCKET,))


def test_receipts_of_an_abandoned_coding_vouch_for_no_other(world: World) -> None:
    segment = world.segment("one")
    named = entry("mine", Extent(segment=0, extent_bytes=9))
    stale = world.receipts((coded_again(segment),))
    assert world.run(world.commit((segment,), named, receipts=stale)).reason is FailureReason.BAD_RECEIPT
    mixed = (*world.receipts((segment,))[:8], stale[8])
    assert world.run(world.commit((segment,), named, receipts=mixed)).reason is FailureReason.BAD_RECEIPT


def test_a_late_column_of_an_abandoned_coding_completes_nothing(world: World) -> None:
    segment = one(world)
    late = world.receipt(8, (coded_again(segment),))
    body = CompleteColumns(tenant=TENANT, segment_ids=(segment.segment_id,), receipts=(late,))
    assert world.run(body).reason is FailureReason.BAD_RECEIPT
    right = CompleteColumns(tenant=TENANT, segment_ids=(segment.segment_id,), receipts=(world.receipt(8, (segment,)),))
    assert world.run(right).reason is None


def test_receipts_outlive_neither_their_height_nor_their_segment(world: World) -> None:
    segment = one(world)
    receipts = world.receipts((segment,))
    name = EntryName(bucket_tag=BUCKET, name_tag=name_tag("mine"), version_id=None)
    assert world.run(DeleteEntries(tenant=TENANT, entries=(name,))).reason is None
    again = world.commit((segment,), entry("again", Extent(segment=0, extent_bytes=9)), receipts=receipts)
    assert world.run(again).reason is FailureReason.SEGMENT_FREED
    fresh = world.segment("fresh")
    expired = world.receipts((fresh,))[:8]
    old = (*expired, world.receipt(8, (fresh,), expiry=world.tip.height))
    named = entry("fresh", Extent(segment=0, extent_bytes=9))
    assert world.run(world.commit((fresh,), named, receipts=old)).reason is FailureReason.RECEIPT_EXPIRED


def test_another_tenants_segment_is_neither_referred_to_nor_completed(world: World) -> None:
    segment = one(world)
    stolen = StoredExtent(segment_id=segment.segment_id, offset=0, extent_bytes=9)
    outcome = world.run(theirs("theirs", stolen), sender="other tenant")
    assert [failed.reason for failed in outcome.failed_entries] == [FailureReason.SEGMENT_UNKNOWN]
    assert world.state.value(entry_key(OTHER_TENANT, BUCKET, name_tag("theirs"))) is None
    late = world.receipt(8, (segment,), tenant=OTHER_TENANT)
    completed = CompleteColumns(tenant=OTHER_TENANT, segment_ids=(segment.segment_id,), receipts=(late,))
    assert world.run(completed, sender="other tenant").reason is FailureReason.SEGMENT_UNKNOWN
    state = read_state(world.state, segment_key(segment_id("one")), SegmentState)
    assert state is not None
    assert (state.references, len(state.columns)) == (1, 8)


def test_another_tenants_entry_is_not_deleted_under_either_name(world: World) -> None:
    one(world)
    assert world.run(theirs("theirs"), sender="other tenant").failed_entries == ()
    name = EntryName(bucket_tag=BUCKET, name_tag=name_tag("mine"), version_id=None)
    as_itself = world.run(DeleteEntries(tenant=OTHER_TENANT, entries=(name,)), sender="other tenant")
    assert [failed.reason for failed in as_itself.failed_entries] == [FailureReason.ENTRY_UNKNOWN]
    as_the_owner = world.run(DeleteEntries(tenant=TENANT, entries=(name,)), sender="other tenant")
    assert as_the_owner.reason is FailureReason.NOT_GRANTED
    for seat in range(9):
        as_a_seat = world.run(DeleteEntries(tenant=TENANT, entries=(name,)), sender=f"seat {seat}")
        assert as_a_seat.reason is FailureReason.NOT_GRANTED
    assert read_state(world.state, entry_key(TENANT, BUCKET, name_tag("mine")), EntryState) is not None
