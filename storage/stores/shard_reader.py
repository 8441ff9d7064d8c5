"""Reading finished shards: whole units checked by their checksums, parts of units by the hashes of their leaves.

The hashes are checked against the root when they are read. verify() checks everything by its hash.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.errors import RejectionError, RejectionReason
from consensus.merkle import leaf_hash
from storage.checksums import checksum
from storage.errors import ShardCorruptError, ShardMissingError, StoreDamagedError
from storage.identifiers import LEAF_BYTES, UNIT_BYTES
from storage.merkle import root_of
from storage.stores.leaf_rows import LeafRow, decode_leaf_row
from storage.stores.open_shards import LEAVES_PER_UNIT
from storage.stores.shard_rows import SHARD_ROWS, ShardRow, counter_key, counters_of, read_row, shape_of, shard_key

if TYPE_CHECKING:
    from consensus.identifiers import Buffer
    from storage.segments import SegmentShape
    from storage.stores.leveldb import LevelDatabase
    from storage.stores.protocols import ShardName

CACHED_SHARDS_MAX: Final = 1_024
"""Rows and leaf hashes of recently read shards: about 20 KiB each at the most usual shape."""


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A finished shard, read and checked: its counters and checksums by unit, its leaf hashes under the root."""

    row: ShardRow
    shape: SegmentShape
    counters: tuple[int, ...]
    leaves: tuple[bytes, ...]
    checksums: tuple[bytes, ...]

    def leaves_of(self, unit: int) -> range:
        """Return the positions within a unit of the leaves that it has; four but for the last one."""
        return range(min(LEAVES_PER_UNIT, len(self.leaves) - unit * LEAVES_PER_UNIT))

    def unit_bytes(self, unit: int) -> int:
        """Return the length of a unit."""
        return min(self.shape.shard_bytes - unit * UNIT_BYTES, UNIT_BYTES)

    def run_from(self, first: int, stop: int) -> range:
        """Return the units from `first` on, below `stop` but at least one, whose counters follow each other."""
        after = first + 1
        while after < stop and self.counters[after] == self.counters[after - 1] + 1:
            after += 1
        return range(first, after)


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
        unit = first_leaf // LEAVES_PER_UNIT
        while unit * LEAVES_PER_UNIT < last_leaf:
            leaves = range(
                max(first_leaf - unit * LEAVES_PER_UNIT, 0), min(last_leaf - unit * LEAVES_PER_UNIT, LEAVES_PER_UNIT)
            )
            if leaves == found.leaves_of(unit):
                units = found.run_from(unit, last_leaf // LEAVES_PER_UNIT)
                buffers += self._read_units(name, found, units)
                unit = units.stop
            else:
                buffers.append(self._read_unit(name, found, unit, leaves))
                unit += 1
        return tuple(buffers)

    def verify(self, name: ShardName) -> None:
        """Reread a shard's leaf hashes and every leaf, whatever is cached; raises as read_leaves()."""
        self.forget(name)
        found = self.find(name)
        for unit in range(len(found.counters)):
            self._read_unit(name, found, unit, found.leaves_of(unit))

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
        leaf_row = self._checked_leaf_row(name, row, shape)
        found = FoundShard(row, shape, counters_of(row.runs), leaf_row.leaves, leaf_row.checksums)
        with self._lock:
            self._cache[name] = found
            if len(self._cache) > CACHED_SHARDS_MAX:
                self._cache.popitem(last=False)
        return found

    def _checked_leaf_row(self, name: ShardName, row: ShardRow, shape: SegmentShape) -> LeafRow:
        leaf_row = decode_leaf_row(self._read_raw(name, row, row.leaves_counter), shape)
        if leaf_row is None or root_of(leaf_row.leaves) != row.root:
            raise self._corrupt(name, row, "leaf hashes")
        return leaf_row

    def _read_units(self, name: ShardName, found: FoundShard, units: range) -> list[Buffer]:
        """Return whole units that lie one behind the other, each checked by its checksum."""
        first, last = found.counters[units.start], found.counters[units.stop - 1]
        try:
            rows = self._units.run_unverified(counter_key(first), counter_key(last))
        except StoreDamagedError as error:
            raise self._corrupt(name, found.row, f"rows {first} to {last}") from error
        if len(rows) != len(units):
            raise self._corrupt(name, found.row, f"rows {first} to {last}")
        for unit, stored in zip(units, rows, strict=True):
            if len(stored) != found.unit_bytes(unit) or checksum(stored) != found.checksums[unit]:
                raise self._corrupt(name, found.row, f"unit {unit}")
        return list(rows)

    def _read_unit(self, name: ShardName, found: FoundShard, unit: int, leaves: range) -> Buffer:
        """Return some leaves of a unit, each checked."""
        stored = memoryview(self._read_raw(name, found.row, found.counters[unit]))
        expected_bytes = found.unit_bytes(unit)
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
