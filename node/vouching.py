"""A member's word for a move: it reads the old bytes itself, codes them, compares every root, and only then signs.

Nobody else can tell whether a new segment holds what the old ones held (rule T71), so nothing that the asker sends is
believed: ranges are checked against this node's own ledger, bytes against the roots there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Buffer
from node.client.chain import segment_view
from storage.moves import check_ranges, sign_move
from storage.segments import code_segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.identifiers import GenesisHash
    from consensus.quorum import FaultBudget
    from consensus.signing import SigningKey
    from node.client.reading import SegmentReader
    from node.repair_task import SegmentLedger
    from storage.identifiers import SeatIndex, ShardRoot, TenantId
    from storage.moves import Move, MovedRange, Voucher

WAITING_MAX: Final = 4
"""Moves asked for at once, one of them being read: 16 MiB and its shards in memory."""


@dataclass(slots=True, kw_only=True)
class Vouching:
    """Recomputes moves, one at a time."""

    seat: SeatIndex
    signing_key: SigningKey
    genesis_hash: GenesisHash
    ledger: SegmentLedger
    reader: SegmentReader
    coding: Callable[[], FaultBudget]
    _turn: trio.Lock = field(default_factory=trio.Lock)

    async def vouch(self, move: Move) -> Voucher:
        """Return this member's word for a move.

        Raises:
            RejectionError: MALFORMED: not what these bytes code to; TOO_LATE: not live here; QUEUE_FULL.
            NotEnoughShardsError: The old bytes cannot be read now.
        """
        if self._turn.statistics().tasks_waiting >= WAITING_MAX:
            raise RejectionError(RejectionReason.QUEUE_FULL, f"{WAITING_MAX} moves wait for this member's word")
        async with self._turn:
            moved = await self.moved_bytes(move.tenant, move.ranges)
            if await self.roots(moved, move.k) != move.roots or len(moved) != move.segment_bytes:
                raise RejectionError(RejectionReason.MALFORMED, "these bytes have other roots")
            check_ranges(move)
            return sign_move(self.signing_key, self.genesis_hash, self.seat, move)

    async def moved_bytes(self, tenant: TenantId, ranges: tuple[MovedRange, ...]) -> bytes:
        """Read ranges of a tenant's live segments and join them; raises as vouch()."""
        pieces: list[Buffer] = []
        for part in ranges:
            state = await trio.to_thread.run_sync(self.ledger.segment, part.segment_id)
            if state is None or state.tenant != tenant:
                detail = f"segment {part.segment_id.hex()[:16]} is not live, or another tenant's"
                raise RejectionError(RejectionReason.TOO_LATE, detail)
            if part.offset + part.range_bytes > state.segment_bytes:
                raise RejectionError(RejectionReason.MALFORMED, "a range beyond its segment")
            view = segment_view(part.segment_id, state)
            pieces.append(await self.reader.read_range(view, part.offset, part.range_bytes))
        return b"".join(pieces)

    async def roots(self, moved: bytes, k: int) -> tuple[ShardRoot, ...]:
        """Return what bytes code to with the full k; another k is no move (rule T70)."""
        budget = self.coding()
        if k != budget.quorum:
            raise RejectionError(RejectionReason.MALFORMED, f"moved with k {k}, not {budget.quorum}")
        coded = await trio.to_thread.run_sync(code_segment, moved, k, budget.members)
        return coded.roots
