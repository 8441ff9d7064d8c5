"""What the chain freed leaves this seat's disk, however often the disk refuses before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from consensus.identifiers import Height
from node.own_shards import OwnColumns
from node.purge_task import PURGE_SECONDS, SEGMENTS_PER_ROUND, PurgeTask
from storage.errors import FatalStoreError, StorageError
from storage.identifiers import SegmentId
from storage.stores.memory import MemoryShardStore
from tests.node.jumps import until
from tests.node.some_shards import COLUMNS, Ledger, keep, name, segment


@dataclass
class Shards:
    """Implements PurgedShards: keeps what it was told, and refuses so often."""

    refusals: list[Exception] = field(default_factory=list[Exception])
    told: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def sweep_dead(self) -> None:
        self.told.append(("sweep", 0))

    def settle_segments(self, segment_ids: Sequence[SegmentId]) -> None:
        self.told.append(("settle", len(segment_ids)))

    def delete_segments(self, segment_ids: Sequence[SegmentId]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.told.append(("delete", len(segment_ids)))

    def collect_expired(self, height: Height) -> None:
        self.told.append(("collect", height))


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Real time, and jumps."""
    return trio.testing.MockClock(rate=1.0)


async def test_a_block_settles_frees_and_expires_and_the_first_one_sweeps(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    shards = Shards()
    task = PurgeTask(shards)
    nursery.start_soon(task.run)
    task.announce(Height(5), [segment(1), segment(2)], [segment(3)])
    await until(clock, lambda: ("sweep", 0) in shards.told)
    assert shards.told == [("settle", 2), ("delete", 1), ("collect", 5), ("sweep", 0)]
    task.announce(Height(6), [], [])
    await until(clock, lambda: ("collect", 6) in shards.told)
    assert shards.told[4:] == [("collect", 6)]


async def test_a_disk_that_refuses_loses_nothing_but_time(nursery: trio.Nursery, clock: trio.testing.MockClock) -> None:
    shards = Shards(refusals=[StorageError("busy"), StorageError("busy")])
    task = PurgeTask(shards)
    nursery.start_soon(task.run)
    task.announce(Height(5), [], [segment(3)])
    began = clock.current_time()
    await until(clock, lambda: ("sweep", 0) in shards.told)
    assert clock.current_time() - began >= 2 * PURGE_SECONDS
    assert shards.told == [("delete", 1), ("collect", 5), ("sweep", 0)]


async def test_a_broken_disk_stops_the_process() -> None:
    task = PurgeTask(Shards(refusals=[FatalStoreError("gone")]))
    task.announce(Height(5), [], [segment(3)])
    with pytest.raises(FatalStoreError, match="gone"):
        await task.run()


async def test_many_go_in_rounds(nursery: trio.Nursery, clock: trio.testing.MockClock) -> None:
    shards = Shards()
    task = PurgeTask(shards)
    nursery.start_soon(task.run)
    task.announce(Height(5), [], [segment(number) for number in range(2 * SEGMENTS_PER_ROUND + 1)])
    await until(clock, lambda: ("delete", 1) in shards.told)
    assert [count for what, count in shards.told if what == "delete"] == [SEGMENTS_PER_ROUND, SEGMENTS_PER_ROUND, 1]


async def test_shards_are_gone_from_the_store(nursery: trio.Nursery, clock: trio.testing.MockClock) -> None:
    store = MemoryShardStore()
    keep(store, name(1), name(2), name(3))
    ledger = Ledger({segment(2)})
    task = PurgeTask(OwnColumns(store, ledger, COLUMNS))
    nursery.start_soon(task.run)
    task.announce(Height(11), [segment(2)], [segment(1)])
    await until(clock, lambda: list(store.names()) == [name(2)])
    assert store.uncommitted() == ()
