"""Links to holders over the shard channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio import TaskStatus

from consensus.errors import RejectionError
from node.client.links import LeavesAnswer
from node.errors import PeerUnreachableError
from node.network.shard_channel import open_shard_client
from node.network.shard_messages import StoreUnits
from storage.read_receipts import LeafRange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consensus.identifiers import Height
    from consensus.signing import SigningKey
    from node.client.links import Connect, LeafPlace, ShardName
    from node.network.shard_channel import MemberReads, ShardClient
    from storage.genesis import Seat
    from storage.identifiers import ColumnIndex, RecordAddress, SeatIndex, SegmentId, TenantId
    from storage.moves import Move, Voucher
    from storage.receipts import Receipt, ReceiptItem


class ShardLink:
    """Implements HolderLink on one connection."""

    def __init__(self, channel: ShardClient, gone: trio.Event) -> None:
        self._channel = channel
        self._gone = gone

    async def store_units(self, shard: ShardName, offset: int, units: memoryview) -> None:
        """Bring a piece of a shard."""
        header = StoreUnits(
            tenant=shard.tenant,
            segment_id=shard.segment_id,
            column=shard.column,
            k=shard.k,
            segment_bytes=shard.segment_bytes,
            offset=offset,
        )
        await self._channel.store_units(header, units)

    async def ask_receipt(
        self, tenant: TenantId, items: Sequence[ReceiptItem], expiry_height: Height
    ) -> Receipt | None:
        """Ask for one signature over those of the shards that are durable."""
        return await self._channel.ask_receipt(tenant, items, expiry_height)

    async def read_leaves(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, leaf_count: int
    ) -> LeavesAnswer:
        """Fetch leaves and their proof."""
        return LeavesAnswer(*await self._channel.read_leaves(segment_id, column, first_leaf, leaf_count))

    async def read_piece(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, leaf_count: int
    ) -> memoryview:
        """Fetch leaves without a proof."""
        return await self._channel.read_piece(segment_id, column, first_leaf, leaf_count)

    async def read_piece_into(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, into: Sequence[memoryview]
    ) -> None:
        """Fetch leaves without a proof to where they belong."""
        await self._channel.read_piece_into(segment_id, column, first_leaf, into)

    async def read_places(self, places: Sequence[LeafPlace]) -> tuple[LeavesAnswer | None, ...]:
        """Fetch leaves of many shards with their proofs."""
        ranges = [
            LeafRange(
                segment_id=place.segment_id,
                column=place.column,
                first_leaf=place.first_leaf,
                leaf_count=place.leaf_count,
            )
            for place in places
        ]
        found = await self._channel.read_ranges(ranges)
        return tuple(None if part is None else LeavesAnswer(*part) for part in found)

    async def read_records(self, addresses: Sequence[RecordAddress]) -> tuple[bytes | None, ...]:
        """Fetch sealed records."""
        return await self._channel.read_records(addresses)

    async def ask_height(self) -> Height:
        """Ask up to which height the seat has precommitted."""
        return await self._channel.ask_height()

    async def ask_voucher(self, move: Move) -> Voucher:
        """Ask a member for its word for a move."""
        return await self._channel.ask_voucher(move)

    async def wait_gone(self) -> None:
        """Wait until the connection has ended."""
        await self._gone.wait()

    async def aclose(self) -> None:
        """Close; calls under way fail."""
        await self._channel.aclose()


def dialler(
    seats: Mapping[SeatIndex, Seat] | Sequence[Seat],
    identity: SigningKey,
    nursery: trio.Nursery,
    reads: MemberReads | None = None,
) -> Connect:
    """Return what opens a link to a seat; the links' tasks run in the nursery.

    Args:
        seats: By number.
        identity: The key whose certificate the holders accept: a granted client's or a member's network key.
        nursery: Lives as long as the links.
        reads: With a member's network key: signs for what is read, or holders serve no leaves.
    """

    async def connect(seat: SeatIndex) -> ShardLink:
        link = await nursery.start(_hold, seats[seat], identity, reads)
        if isinstance(link, PeerUnreachableError | RejectionError):
            raise link
        assert isinstance(link, ShardLink), "a link or why there is none"
        return link

    return connect


async def _hold(
    seat: Seat,
    identity: SigningKey,
    reads: MemberReads | None,
    *,
    task_status: TaskStatus[ShardLink | PeerUnreachableError | RejectionError],
) -> None:
    """Keep one connection until it ends; the link learns of the end."""
    gone = trio.Event()
    try:
        async with trio.open_nursery() as own:
            try:
                channel = await open_shard_client(
                    own, seat.host, seat.shard_port, identity, seat.certificate, reads=reads
                )
            except (PeerUnreachableError, RejectionError) as error:
                task_status.started(error)
            else:
                task_status.started(ShardLink(channel, gone))
    finally:
        gone.set()
