"""What a holder that lagged does alone before a write waits for it again: it stores a byte and signs for it.

Nobody commits that byte, so it goes when its receipt expires (rule S13).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from consensus.errors import GrandestError
from node.client.links import ShardName
from node.client.shares import StoredSegment, bring_shard, fetch_receipt
from storage.identifiers import SegmentId
from storage.placement import column_seats
from storage.segments import code_segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.client.commits import Expiry
    from node.client.holders import Ask
    from node.client.links import HolderLink
    from node.client.shares import WriterIdentity
    from storage.identifiers import SeatIndex


def trial_of(identity: WriterIdentity, expiry: Expiry) -> Ask:
    """Return a holder's trial, for HolderPool."""
    coded = code_segment(b"\0", identity.budget.quorum, identity.columns)
    admitted = tuple(identity.seat_keys)

    async def store_and_sign(seat: SeatIndex, link: HolderLink, progressed: Callable[[], None]) -> None:
        try:
            expiry_height = await expiry.height()
        except GrandestError:
            return  # no node answers: nothing can be committed, and this holder is not why
        segment_id = SegmentId(secrets.token_bytes(32))
        while seat not in (seats := column_seats(segment_id, admitted)):
            segment_id = SegmentId(secrets.token_bytes(32))
        segment = StoredSegment(segment_id, coded.shape, coded.roots, seats, coded.shards, set())
        column = segment.column_of(seat)
        assert column is not None, "drawn until it holds one"
        shard = ShardName(
            segment_id=segment_id,
            tenant=identity.tenant,
            column=column,
            k=coded.shape.k,
            segment_bytes=coded.shape.segment_bytes,
        )
        await bring_shard(link, shard, coded.shards[column], progressed)
        await fetch_receipt(identity, (segment,), seat, link, expiry_height)

    return store_and_sign
