"""What the client asks of one holder, whatever carries it; the shard channel in `shard_links.py` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from consensus.identifiers import Buffer
from storage.identifiers import ColumnIndex, SegmentId, TenantId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from consensus.identifiers import Height
    from storage.identifiers import RecordAddress, SeatIndex
    from storage.moves import Move, Voucher
    from storage.receipts import Receipt, ReceiptItem

    Connect = Callable[[SeatIndex], Awaitable["HolderLink"]]
    """Raises PeerUnreachableError when the seat does not answer, RejectionError when it refuses us."""


PIECE_BYTES: Final = 1024 * 1024
"""What one call carries: whole units and whole leaves."""
RECORDS_PER_READ_MAX: Final = 64
PLACES_PER_READ_MAX: Final = 16
PLACE_LEAVES_MAX: Final = 4
"""So that PLACES_PER_READ_MAX of them are one piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardName:
    """One column of one segment on its way to its holder."""

    segment_id: SegmentId
    tenant: TenantId
    column: ColumnIndex
    k: int
    segment_bytes: int


@dataclass(frozen=True, slots=True)
class LeavesAnswer:
    """Whole leaves of a shard and the path that leads them to its root; unchecked."""

    leaves: Buffer
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LeafPlace:
    """Consecutive leaves of one column: what a small read wants."""

    segment_id: SegmentId
    column: ColumnIndex
    first_leaf: int
    leaf_count: int


class HolderLink(Protocol):
    """An open link to one holder. Calls may overlap; each has the link's own deadline.

    Every call raises PeerUnreachableError when the link broke or the answer is late, RejectionError or StorageError
    when the holder refused, with its reason.
    """

    async def store_units(self, shard: ShardName, offset: int, units: memoryview) -> None:
        """Bring a piece of a shard, at most PIECE_BYTES; pieces go in order of offset. Answered when durable."""
        ...

    async def ask_receipt(
        self, tenant: TenantId, items: Sequence[ReceiptItem], expiry_height: Height
    ) -> Receipt | None:
        """Ask for one signature over those of the shards that are durable; items in the transaction's order."""
        ...

    async def read_leaves(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, leaf_count: int
    ) -> LeavesAnswer:
        """Fetch leaves and their proof; raises ShardMissingError when the holder has none."""
        ...

    async def read_piece(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, leaf_count: int
    ) -> memoryview:
        """Fetch leaves without a proof, for who reads a whole shard and checks its root at the end."""
        ...

    async def read_piece_into(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, into: Sequence[memoryview]
    ) -> None:
        """Fetch whole leaves without a proof to where they belong; nothing is written there once this has ended."""
        ...

    async def read_places(self, places: Sequence[LeafPlace]) -> tuple[LeavesAnswer | None, ...]:
        """Fetch leaves with their proofs, of at most PLACES_PER_READ_MAX places; None where the holder has none."""
        ...

    async def read_records(self, addresses: Sequence[RecordAddress]) -> tuple[bytes | None, ...]:
        """Fetch sealed records, in the order asked; None where the holder has none. Unchecked."""
        ...

    async def ask_height(self) -> Height:
        """Ask up to which height the seat has precommitted. Unchecked."""
        ...

    async def ask_voucher(self, move: Move) -> Voucher:
        """Ask a member to recompute a move and sign for it; only members are answered. Unchecked."""
        ...

    async def wait_gone(self) -> None:
        """Wait until the link has broken by itself."""
        ...

    async def aclose(self) -> None:
        """Close; calls under way fail."""
        ...
