"""What a read is checked by: whole units by their checksums, parts of units by their leaves."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from consensus.identifiers import Height
from storage.checksums import CHECKSUM_BYTES
from storage.errors import ShardCorruptError
from storage.identifiers import LEAF_BYTES, UNIT_BYTES, ColumnIndex, SegmentId, TenantId
from storage.segments import SegmentShape
from storage.stores.leveldb import LevelDatabase, WriteBatch
from storage.stores.protocols import ShardName
from storage.stores.units import LevelShardStore

if TYPE_CHECKING:
    from pathlib import Path

NAME = ShardName(SegmentId(b"s" * 32), ColumnIndex(2))
TENANT = TenantId(b"t" * 16)
SHAPE = SegmentShape(6 * (2 * UNIT_BYTES + 20_000), 6)
SHARD = random.Random(5).randbytes(SHAPE.shard_bytes)


def test_a_flipped_checksum_refuses_its_unit_alone(tmp_path: Path) -> None:
    store = LevelShardStore(tmp_path)
    store.put_units(NAME, TENANT, SHAPE, 0, SHARD)
    store.finish((NAME,), Height(5))
    store.close()
    with LevelDatabase(tmp_path / "units") as units:
        rows = list(units.iterate())
        batch = WriteBatch()
        flipped = bytearray(rows[3][1])
        flipped[-2 * CHECKSUM_BYTES] ^= 1
        batch.put(rows[3][0], flipped)
        units.write(batch)
    store = LevelShardStore(tmp_path)
    assert b"".join(store.read_leaves(NAME, 0, 4)) == SHARD[: 4 * LEAF_BYTES]
    with pytest.raises(ShardCorruptError, match=r"^unit 1 of "):
        store.read_leaves(NAME, 4, 4)
    with pytest.raises(ShardCorruptError, match=r"^unit 1 of "):
        store.read_leaves(NAME, 0, SHAPE.leaves)
    store.close()


def test_runs_of_units_and_parts_of_units_join_to_any_range(tmp_path: Path) -> None:
    store = LevelShardStore(tmp_path)
    other = ShardName(SegmentId(b"o" * 32), ColumnIndex(2))
    for offset in range(0, len(SHARD), UNIT_BYTES):  # the counters of two shards alternate: no run is longer than one
        for name in (NAME, other):
            store.put_units(name, TENANT, SHAPE, offset, SHARD[offset : offset + UNIT_BYTES])
    whole = ShardName(SegmentId(b"w" * 32), ColumnIndex(2))
    store.put_units(whole, TENANT, SHAPE, 0, SHARD)
    store.finish((NAME, other, whole), Height(5))
    for name in (NAME, whole):
        for first in range(SHAPE.leaves):
            for count in range(1, SHAPE.leaves - first + 1):
                found = b"".join(store.read_leaves(name, first, count))
                assert found == SHARD[first * LEAF_BYTES : (first + count) * LEAF_BYTES]
    store.close()
