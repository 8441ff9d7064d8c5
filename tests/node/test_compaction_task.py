"""What was deleted leaves the disk in rounds, whatever one store refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from consensus.identifiers import Height
from node.compaction_task import COMPACT_SECONDS, Compaction
from storage.errors import FatalStoreError, StoreUnavailableError


@dataclass
class Store:
    """Implements Compacted: counts, and refuses so often."""

    refusals: list[Exception] = field(default_factory=list[Exception])
    rounds: int = 0

    def compact(self) -> None:
        self.rounds += 1
        if self.refusals:
            raise self.refusals.pop()


async def test_every_store_is_compacted_in_every_round(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1.0
    stores = [Store([StoreUnavailableError("busy")]), Store()]
    nursery.start_soon(Compaction(stores, lambda: None).run)
    for rounds in (1, 2, 3):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(COMPACT_SECONDS)
        while [store.rounds for store in stores] != [rounds, rounds]:
            await trio.testing.wait_all_tasks_blocked(0.002)


async def test_a_broken_disk_stops_the_process(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(FatalStoreError):
        await Compaction([Store([FatalStoreError("gone")])], lambda: None).run()
    assert autojump_clock.current_time() == COMPACT_SECONDS


async def test_only_a_whole_round_purges_what_was_deleted_before_it(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1.0
    deleted: list[Height | None] = [None, Height(5), Height(6), None, Height(9)]
    store = Store()
    compaction = Compaction([store, Store([StoreUnavailableError("busy")])], lambda: deleted.pop(0))
    nursery.start_soon(compaction.run)
    seen: list[Height | None] = []
    while deleted:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(COMPACT_SECONDS)
        before = store.rounds
        while store.rounds == before:
            await trio.testing.wait_all_tasks_blocked(0.002)
        await trio.testing.wait_all_tasks_blocked(0.01)
        seen.append(compaction.purged_height)
    assert seen == [None, 5, 6, 6, 9]
