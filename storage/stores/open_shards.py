"""Shards still arriving, and what each tenant has uploaded but not committed; in memory.

After a restart an unfinished shard is gone: no receipt was given for it, and its sender sends again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consensus.errors import RejectionError, RejectionReason
from storage.checksums import checksum
from storage.identifiers import LEAF_BYTES, UNIT_BYTES
from storage.merkle import leaf_hashes
from storage.stores.leaf_rows import encode_leaf_row, unit_count

if TYPE_CHECKING:
    from consensus.identifiers import Buffer
    from storage.identifiers import TenantId
    from storage.segments import SegmentShape

LEAVES_PER_UNIT: Final = UNIT_BYTES // LEAF_BYTES
SHARD_CHARGE_BYTES_MIN: Final = 16 * 1024
"""A tiny shard counts as one leaf against its tenant's limit, so that a limit of 1 GiB is 65,536 shards in memory."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive units of a shard, with the hashes of their leaves and their own checksums."""

    first_unit: int
    units: tuple[memoryview, ...]
    leaves: tuple[bytes, ...]
    checksums: tuple[bytes, ...]


@dataclass(slots=True)
class OpenShard:
    """A shard on its way in."""

    tenant: TenantId
    shape: SegmentShape
    touched_s: float
    leaves: list[bytes | None] = field(init=False)
    checksums: list[bytes] = field(init=False)
    """Per unit; empty for those that have not come."""
    counters: list[int | None] = field(init=False)
    """Per unit, where it lies in the store of units."""
    missing_count: int = field(init=False)
    leaves_counter: int | None = None
    """Where the list of leaf hashes lies, once it is durable."""

    def __post_init__(self) -> None:
        """Nothing has arrived."""
        self.leaves = [None] * self.shape.leaves
        self.missing_count = unit_count(self.shape)
        self.counters = [None] * self.missing_count
        self.checksums = [b""] * self.missing_count

    def check(self, piece: Piece) -> None:
        """Raise RejectionError (MALFORMED) when a unit of the piece is here with other bytes."""
        for position, leaf in enumerate(piece.leaves, piece.first_unit * LEAVES_PER_UNIT):
            if self.leaves[position] not in {None, leaf}:
                raise RejectionError(RejectionReason.MALFORMED, f"leaf {position} came before with other bytes")

    def place(self, piece: Piece, first_counter: int) -> tuple[int, ...]:
        """Note a durable piece; return the counters of units that were there already and are not needed.

        Raises:
            RejectionError: As check(); the first stays.
        """
        self.check(piece)
        first_leaf = piece.first_unit * LEAVES_PER_UNIT
        self.leaves[first_leaf : first_leaf + len(piece.leaves)] = piece.leaves
        self.checksums[piece.first_unit : piece.first_unit + len(piece.units)] = piece.checksums
        unneeded: list[int] = []
        for position in range(len(piece.units)):
            if self.counters[piece.first_unit + position] is None:
                self.counters[piece.first_unit + position] = first_counter + position
                self.missing_count -= 1
            else:
                unneeded.append(first_counter + position)
        return tuple(unneeded)

    def leaf_row_with(self, piece: Piece) -> bytes | None:
        """Return the row of the whole shard if this piece is the only one missing."""
        missing = {unit for unit, counter in enumerate(self.counters) if counter is None}
        if missing != set(range(piece.first_unit, piece.first_unit + len(piece.units))):
            return None
        first_leaf = piece.first_unit * LEAVES_PER_UNIT
        leaves = [*self.leaves[:first_leaf], *piece.leaves, *self.leaves[first_leaf + len(piece.leaves) :]]
        after = piece.first_unit + len(piece.units)
        checksums = [*self.checksums[: piece.first_unit], *piece.checksums, *self.checksums[after:]]
        return encode_leaf_row([leaf for leaf in leaves if leaf is not None], checksums)

    def known_counters(self) -> list[int]:
        """Return where its durable units and leaf hashes lie."""
        return [counter for counter in (*self.counters, self.leaves_counter) if counter is not None]

    def complete_leaf_row(self) -> bytes:
        """Return the row of a shard that misses nothing."""
        return encode_leaf_row(self.complete_leaves(), self.checksums)

    def complete_leaves(self) -> tuple[bytes, ...]:
        """Return all leaf hashes of a shard that misses nothing."""
        complete = tuple(leaf for leaf in self.leaves if leaf is not None)
        assert self.missing_count == 0, "asked before it was complete"
        assert len(complete) == len(self.leaves), "every unit has its leaves"
        return complete


class TenantCharges:
    """Uploaded and uncommitted bytes per tenant, bounded."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._charged: dict[TenantId, int] = {}

    def add(self, tenant: TenantId, shape: SegmentShape) -> None:
        """Charge a new shard.

        Raises:
            RejectionError: QUEUE_FULL; nothing is charged.
        """
        charged = self._charged.get(tenant, 0) + charge_bytes(shape)
        if charged > self._bytes_max:
            detail = f"{charged} bytes of this tenant uncommitted here, at most {self._bytes_max}"
            raise RejectionError(RejectionReason.QUEUE_FULL, detail)
        self._charged[tenant] = charged

    def add_known(self, tenant: TenantId, shape: SegmentShape) -> None:
        """Charge a shard found at start; it is here, whatever the limit."""
        self._charged[tenant] = self._charged.get(tenant, 0) + charge_bytes(shape)

    def remove(self, tenant: TenantId, shape: SegmentShape) -> None:
        """Give a shard's charge back."""
        left = self._charged.get(tenant, 0) - charge_bytes(shape)
        assert left >= 0, "given back more than charged"
        if left:
            self._charged[tenant] = left
        else:
            del self._charged[tenant]

    def of(self, tenant: TenantId) -> int:
        """Return a tenant's charge."""
        return self._charged.get(tenant, 0)


def charge_bytes(shape: SegmentShape) -> int:
    """Return what one shard counts."""
    return max(shape.shard_bytes, SHARD_CHARGE_BYTES_MIN)


def cut_piece(shape: SegmentShape, offset: int, units: Buffer) -> Piece:
    """Cut a piece into units and hash its leaves.

    Raises:
        RejectionError: MALFORMED when it does not begin and end at units of the shard.
    """
    view = memoryview(units)
    end = offset + view.nbytes
    whole = end % UNIT_BYTES == 0 or end == shape.shard_bytes
    if offset % UNIT_BYTES or not 0 <= offset < end <= shape.shard_bytes or not whole:
        detail = f"bytes {offset} to {end} of a shard of {shape.shard_bytes} are not whole units"
        raise RejectionError(RejectionReason.MALFORMED, detail)
    cut = tuple(view[start : start + UNIT_BYTES] for start in range(0, view.nbytes, UNIT_BYTES))
    return Piece(offset // UNIT_BYTES, cut, leaf_hashes(view), tuple(checksum(unit) for unit in cut))
