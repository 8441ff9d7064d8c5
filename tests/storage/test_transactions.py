"""Transactions are bounded as a whole, not only list by list."""

from __future__ import annotations

import pytest

from consensus.errors import RejectionError, RejectionReason
from storage.identifiers import BucketTag
from storage.transactions import ENTRIES_MAX, BucketEntries, CommitObjects, decode_transaction
from tests.storage.ledger_world import TENANT, World, entry


def spread(count: int) -> CommitObjects:
    """Return a commit of so many entries over two buckets."""
    entries = (entry("a"),) * count
    buckets = (
        BucketEntries(bucket_tag=BucketTag(bytes(16)), entries=entries[:-1]),
        BucketEntries(bucket_tag=BucketTag(b"B" * 16), entries=entries[-1:]),
    )
    return CommitObjects(tenant=TENANT, segments=(), buckets=buckets, receipts=())


def test_entries_are_bounded_over_all_buckets() -> None:
    world = World()
    decode_transaction(world.transaction(spread(ENTRIES_MAX)))
    with pytest.raises(RejectionError, match=f"{ENTRIES_MAX + 1} entries over all buckets") as refused:
        decode_transaction(world.transaction(spread(ENTRIES_MAX + 1)))
    assert refused.value.reason is RejectionReason.MALFORMED
