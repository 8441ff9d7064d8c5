"""Reading finished shards: every leaf checked against its hash, the hashes against the root, before it is returned."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.errors import RejectionError, RejectionReason
from consensus.merkle import leaf_hash
from storage.errors import ShardCorruptError, ShardMissingError, StoreDamagedError
from storage.identifiers import LEAF_BYTES, UNIT_BYTES
from storage.merkle import root_of
from storage.stores.open_shards import LEAVES_PER_UNIT
from storage.stores.shard_rows import SHARD_ROWS, ShardRow, counter_key, counters_of, read_row, shape_of, shard_key

if TYPE_CHECKING:
    from storage.segments import SegmentShape
    from storage.stores.leveldb import LevelDatabase
    from storage.stores.protocols import Buffer, ShardName

CACHED_SHARDS_MAX: Final = 1_024
"""Rows and leaf hashes of recently read shards: about 20 KiB each at the most usual shape."""
HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A finished shard, read and checked: its counters by unit, its leaf hashes under the root."""

    row: ShardRow
    shape: SegmentShape
    counters: tuple[int, ...]
    leaves: tuple[bytes, ...]


class ShardReader:
    """The reading half of a store of shards; thread-safe."""

    def __init__(self, units: LevelDatabase, index: LevelDatabase) -> None:
        self._units = units
        self._index = index
        self._lock = threading.Lock()
        self._cache: OrderedDict[ShardName, FoundShard] = OrderedDict()

    def row(self, name: ShardName) -> ShardRow | None:
        """Return a finished shard's row of the index."""
        encoded = self._index.get(shard_key(SHARD_ROWS, name))
        return None if encoded is None else read_row(encoded, ShardRow)

    def read_leaves(self, name: ShardName, first_leaf: int, leaf_count: int) -> tuple[Buffer, ...]:
        """Return checked leaves; see ShardStore."""
        found = self.find(name)
        if not 0 <= first_leaf < first_leaf + leaf_count <= len(found.leaves):
            detail = f"leaves {first_leaf} to {first_leaf + leaf_count} of {len(found.leaves)}"
            raise RejectionError(RejectionReason.MALFORMED, detail)
        last_leaf = first_leaf + leaf_count
        buffers: list[Buffer] = []
        for unit in range(first_leaf // LEAVES_PER_UNIT, -(-last_leaf // LEAVES_PER_UNIT)):
            start = max(first_leaf - unit * LEAVES_PER_UNIT, 0)
            stop = min(last_leaf - unit * LEAVES_PER_UNIT, LEAVES_PER_UNIT)
            buffers.append(self._read_unit(name, found, unit, range(start, stop)))
        return tuple(buffers)

    def verify(self, name: ShardName) -> None:
        """Reread a shard's leaf hashes and every leaf, whatever is cached; raises as read_leaves()."""
        self.forget(name)
        found = self.find(name)
        for unit in range(len(found.counters)):
            leaves = min(LEAVES_PER_UNIT, len(found.leaves) - unit * LEAVES_PER_UNIT)
            self._read_unit(name, found, unit, range(leaves))

    def forget(self, name: ShardName) -> None:
        """Drop what is cached of a shard."""
        with self._lock:
            self._cache.pop(name, None)

    def find(self, name: ShardName) -> FoundShard:
        """Return a finished shard's row and checked leaf hashes; raises as ShardStore.read_leaves()."""
        with self._lock:
            found = self._cache.get(name)
            if found is not None:
                self._cache.move_to_end(name)
                return found
        row = self.row(name)
        if row is None:
            raise ShardMissingError(f"column {name.column} of {name.segment_id.hex()[:16]} is not here")
        shape = shape_of(row)
        found = FoundShard(row, shape, counters_of(row.runs), self._checked_leaves(name, row, shape))
        with self._lock:
            self._cache[name] = found
            if len(self._cache) > CACHED_SHARDS_MAX:
                self._cache.popitem(last=False)
        return found

    def _checked_leaves(self, name: ShardName, row: ShardRow, shape: SegmentShape) -> tuple[bytes, ...]:
        joined = self._read_raw(name, row, row.leaves_counter)
        leaves = tuple(joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES))
        if len(joined) != shape.leaves * HASH_BYTES or root_of(leaves) != row.root:
            raise self._corrupt(name, row, "leaf hashes")
        return leaves

    def _read_unit(self, name: ShardName, found: FoundShard, unit: int, leaves: range) -> Buffer:
        """Return some leaves of a unit, each checked."""
        stored = memoryview(self._read_raw(name, found.row, found.counters[unit]))
        expected_bytes = min(found.shape.shard_bytes - unit * UNIT_BYTES, UNIT_BYTES)
        wanted = stored[leaves.start * LEAF_BYTES : leaves.stop * LEAF_BYTES]
        for position in leaves:
            start = (position - leaves.start) * LEAF_BYTES
            expected = found.leaves[unit * LEAVES_PER_UNIT + position]
            if stored.nbytes != expected_bytes or leaf_hash(wanted[start : start + LEAF_BYTES]) != expected:
                raise self._corrupt(name, found.row, f"leaf {unit * LEAVES_PER_UNIT + position}")
        return wanted

    def _read_raw(self, name: ShardName, row: ShardRow, counter: int) -> bytes:
        try:
            stored = self._units.get_unverified(counter_key(counter))
        except StoreDamagedError as error:
            raise self._corrupt(name, row, f"row {counter}") from error
        if stored is None:
            raise self._corrupt(name, row, f"row {counter}")
        return stored

    def _corrupt(self, name: ShardName, row: ShardRow, what: str) -> ShardCorruptError | ShardMissingError:
        """Return why a read failed: the disk, or somebody deleted or replaced the shard meanwhile."""
        self.forget(name)
        if self.row(name) != row:
            return ShardMissingError(f"column {name.column} of {name.segment_id.hex()[:16]} was just deleted")
        return ShardCorruptError(f"{what} of column {name.column} of {name.segment_id.hex()[:16]} is damaged")
