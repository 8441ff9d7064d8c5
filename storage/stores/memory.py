"""A store of shards in memory: the simplest thing that keeps the promises, for tests and simulations."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consensus.errors import RejectionError, RejectionReason
from storage.errors import ShardCorruptError, ShardMissingError
from storage.identifiers import LEAF_BYTES, UNIT_BYTES
from storage.merkle import leaf_hashes, root_of
from storage.segments import SegmentShape
from storage.stores.open_shards import TenantCharges, cut_piece
from storage.stores.protocols import StoredShard, UncommittedShard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consensus.identifiers import Buffer, Height
    from storage.identifiers import ColumnIndex, SegmentId, ShardRoot, TenantId
    from storage.stores.protocols import ShardName

UNCOMMITTED_BYTES_MAX: Final = 1 << 30


@dataclass
class _Shard:
    tenant: TenantId
    shape: SegmentShape
    touched_s: float
    contents: bytearray
    units: set[int] = field(default_factory=set[int])
    root: ShardRoot | None = None
    leaves: tuple[bytes, ...] = ()
    expiry_height: Height | None = None


class MemoryShardStore:
    """A ShardStore that forgets everything when the process ends."""

    def __init__(self, *, uncommitted_bytes_max: int = UNCOMMITTED_BYTES_MAX) -> None:
        self._shards: dict[ShardName, _Shard] = {}
        self._charges = TenantCharges(uncommitted_bytes_max)

    def put_units(self, name: ShardName, tenant: TenantId, shape: SegmentShape, offset: int, units: Buffer) -> None:
        """Keep a piece; see ShardStore."""
        piece = cut_piece(shape, offset, units)
        if name not in self._shards:
            self._charges.add(tenant, shape)
            self._shards[name] = _Shard(tenant, shape, 0.0, bytearray(shape.shard_bytes))
        shard = self._shards[name]
        if shard.tenant != tenant:
            raise RejectionError(RejectionReason.NOT_GRANTED, "this shard is another tenant's")
        if (shard.shape.segment_bytes, shard.shape.k) != (shape.segment_bytes, shape.k):
            raise RejectionError(RejectionReason.MALFORMED, f"this shard came with {shard.shape}, not {shape}")
        if shard.root is not None:
            return
        for position, unit in enumerate(piece.units, piece.first_unit):
            there = slice(position * UNIT_BYTES, position * UNIT_BYTES + unit.nbytes)
            if position in shard.units and bytes(shard.contents[there]) != bytes(unit):
                raise RejectionError(RejectionReason.MALFORMED, f"unit {position} came before with other bytes")
            shard.contents[there] = unit
            shard.units.add(position)
        shard.touched_s = time.monotonic()

    def finish(self, names: Sequence[ShardName], expiry_height: Height) -> tuple[StoredShard | None, ...]:
        """Root complete shards; see ShardStore."""
        for name in names:
            shard = self._shards.get(name)
            if shard is None or len(shard.units) * UNIT_BYTES < shard.shape.shard_bytes:
                continue
            if shard.root is None:
                shard.leaves = leaf_hashes(shard.contents)
                shard.root, shard.expiry_height = root_of(shard.leaves), expiry_height
            elif shard.expiry_height is not None:
                shard.expiry_height = max(shard.expiry_height, expiry_height)
        return tuple(self.describe(name) for name in names)

    def describe(self, name: ShardName) -> StoredShard | None:
        """Return a finished shard's entry."""
        shard = self._shards.get(name)
        if shard is None or shard.root is None:
            return None
        shape = SegmentShape(shard.shape.segment_bytes, shard.shape.k)
        return StoredShard(name=name, tenant=shard.tenant, shape=shape, root=shard.root)

    def columns_of(self, segment_id: SegmentId) -> frozenset[ColumnIndex]:
        """Return the columns of a segment that are finished here."""
        return frozenset(name.column for name in self.names() if name.segment_id == segment_id)

    def read_leaves(self, name: ShardName, first_leaf: int, leaf_count: int) -> tuple[Buffer, ...]:
        """Return checked leaves; see ShardStore."""
        shard = self._finished(name)
        if not 0 <= first_leaf < first_leaf + leaf_count <= len(shard.leaves):
            raise RejectionError(RejectionReason.MALFORMED, f"leaves from {first_leaf} of {len(shard.leaves)}")
        wanted = bytes(shard.contents[first_leaf * LEAF_BYTES : (first_leaf + leaf_count) * LEAF_BYTES])
        if leaf_hashes(wanted) != shard.leaves[first_leaf : first_leaf + leaf_count]:
            raise ShardCorruptError(f"leaves from {first_leaf} of column {name.column} are damaged")
        return (wanted,)

    def leaf_hashes(self, name: ShardName) -> tuple[bytes, ...]:
        """Return all leaf hashes."""
        return self._finished(name).leaves

    def restore(self, name: ShardName, tenant: TenantId, shape: SegmentShape, root: ShardRoot, shard: Buffer) -> None:
        """Keep a rebuilt shard; see ShardStore."""
        leaves = cut_piece(shape, 0, shard).leaves
        if len(leaves) != shape.leaves or root_of(leaves) != root:
            raise ShardCorruptError(f"not the shard under {root.hex()[:16]}")
        self._uncharge(self._shards.get(name))
        self._shards[name] = _Shard(tenant, shape, 0.0, bytearray(shard), set(), root, leaves)

    def settle(self, names: Sequence[ShardName]) -> None:
        """Note that the chain has committed these shards."""
        for name in names:
            shard = self._shards.get(name)
            if shard is not None and shard.expiry_height is not None:
                shard.expiry_height = None
                self._charges.remove(shard.tenant, shard.shape)

    def uncommitted(self) -> tuple[UncommittedShard, ...]:
        """Return the finished shards that were not settled."""
        return tuple(
            UncommittedShard(name=name, tenant=shard.tenant, expiry_height=shard.expiry_height)
            for name, shard in self._shards.items()
            if shard.expiry_height is not None
        )

    def abandon_open(self, *, before_s: float) -> int:
        """Forget unfinished shards that nobody continues."""
        stale = [name for name, shard in self._shards.items() if shard.root is None and shard.touched_s < before_s]
        self.delete(stale)
        return len(stale)

    def delete(self, names: Sequence[ShardName]) -> None:
        """Forget shards."""
        for name in names:
            self._uncharge(self._shards.pop(name, None))

    def delete_expired(self, names: Sequence[ShardName], height: Height) -> None:
        """Forget uncommitted shards that have expired."""
        waiting = {shard.name for shard in self.uncommitted() if shard.expiry_height < height}
        self.delete([name for name in names if name in waiting])

    def names(self, *, after: ShardName | None = None) -> Iterator[ShardName]:
        """Yield finished shards, in order, behind `after`."""
        finished = (name for name, shard in self._shards.items() if shard.root is not None)
        yield from sorted(name for name in finished if after is None or name > after)

    def verify(self, name: ShardName) -> None:
        """Check every byte of a shard; see ShardStore."""
        self.read_leaves(name, 0, len(self._finished(name).leaves))

    def drop_orphans(self) -> int:
        """Return 0: nothing lies here without its shard."""
        return 0

    def bytes_held(self) -> int:
        """Return the bytes of all finished shards."""
        return sum(shard.shape.shard_bytes for shard in self._shards.values() if shard.root is not None)

    def uncommitted_bytes(self, tenant: TenantId) -> int:
        """Return what counts against a tenant's limit."""
        return self._charges.of(tenant)

    def compact(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def damage(self, name: ShardName, position: int) -> None:
        """Flip a bit, as a disk might."""
        self._shards[name].contents[position] ^= 1

    def _uncharge(self, shard: _Shard | None) -> None:
        if shard is not None and (shard.root is None or shard.expiry_height is not None):
            self._charges.remove(shard.tenant, shard.shape)

    def _finished(self, name: ShardName) -> _Shard:
        shard = self._shards.get(name)
        if shard is None or shard.root is None:
            raise ShardMissingError(f"column {name.column} of {name.segment_id.hex()[:16]} is not here")
        return shard
