"""The store on LevelDB does what the one in memory does, restarted at any moment."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from consensus.identifiers import Height
from storage.identifiers import UNIT_BYTES, ColumnIndex, SegmentId, TenantId
from storage.merkle import leaf_hashes, root_of
from storage.segments import SegmentShape
from storage.stores.memory import MemoryShardStore
from storage.stores.protocols import ShardName, ShardStore
from storage.stores.units import LevelShardStore

TENANT: Final = TenantId(b"t" * 16)
SMALL: Final = SegmentShape(3 * UNIT_BYTES, 2)
"""Two units: 64 KiB and 32 KiB."""
SMALL_SHARD: Final = bytes(position * 7 % 251 for position in range(SMALL.shard_bytes))
NAMES: Final = tuple(ShardName(SegmentId(bytes([number]) * 32), ColumnIndex(number)) for number in range(3))


class StoresAgree(RuleBasedStateMachine):
    """LevelDB, restarted at any moment, does what memory does; a restart forgets unfinished shards."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="grandest-stores-")
        self.level = LevelShardStore(Path(self.folder.name))
        self.memory = MemoryShardStore()

    def stores(self) -> tuple[ShardStore, ShardStore]:
        return self.level, self.memory

    @rule(name=st.sampled_from(NAMES), unit=st.integers(0, 1))
    def put(self, name: ShardName, unit: int) -> None:
        for store in self.stores():
            piece = SMALL_SHARD[unit * UNIT_BYTES : (unit + 1) * UNIT_BYTES]
            store.put_units(name, TENANT, SMALL, unit * UNIT_BYTES, piece)

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=4), height=st.integers(0, 9))
    def finish(self, names: list[ShardName], height: int) -> None:
        assert self.level.finish(names, Height(height)) == self.memory.finish(names, Height(height))

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=4))
    def settle(self, names: list[ShardName]) -> None:
        for store in self.stores():
            store.settle(names)

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=4))
    def delete(self, names: list[ShardName]) -> None:
        for store in self.stores():
            store.delete(names)

    @rule(name=st.sampled_from(NAMES))
    def restore(self, name: ShardName) -> None:
        for store in self.stores():
            store.restore(name, TENANT, SMALL, root_of(leaf_hashes(SMALL_SHARD)), SMALL_SHARD)

    @rule()
    def restart(self) -> None:
        self.level.close()
        self.level = LevelShardStore(Path(self.folder.name))
        self.memory.abandon_open(before_s=float("inf"))

    @invariant()
    def they_hold_the_same(self) -> None:
        level, memory = self.stores()
        assert list(level.names()) == list(memory.names())
        assert level.bytes_held() == memory.bytes_held()
        assert level.uncommitted_bytes(TENANT) == memory.uncommitted_bytes(TENANT)
        by_name = {shard.name: shard for shard in memory.uncommitted()}
        assert {shard.name: shard for shard in level.uncommitted()} == by_name
        for name in level.names():
            assert b"".join(level.read_leaves(name, 0, SMALL.leaves)) == SMALL_SHARD

    def teardown(self) -> None:
        self.level.close()
        self.folder.cleanup()


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
