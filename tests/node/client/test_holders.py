"""Which holders a writer waits for, and for how long."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from node.client.holders import HolderPool
from node.client.links import HolderLink
from storage.identifiers import SeatIndex
from tests.node.client.nine import SEATS, Nine

EVERYBODY = tuple(SeatIndex(seat) for seat in range(SEATS))
HANGING = SeatIndex(4)


@dataclass
class Writing:
    """A pool, how its holders take writes and trials, and what each write cost."""

    pool: HolderPool
    clock: trio.testing.MockClock
    hangs: bool = True
    delays: list[float] = field(default_factory=list[float])

    async def take(self, seat: SeatIndex, _link: HolderLink, _progressed: Callable[[], None]) -> None:
        if seat == HANGING and self.hangs:
            await trio.sleep_forever()

    async def write_for(self, seconds: float) -> frozenset[SeatIndex]:
        """Write four times a second; return who finished the last one."""
        finished = frozenset[SeatIndex]()
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            began = trio.current_time()
            finished = await self.pool.ask_all(self.pool.writable(), self.take, 6)
            self.delays.append(trio.current_time() - began)
            self.clock.jump(0.25)
            await trio.testing.wait_all_tasks_blocked()
        return finished


@asynccontextmanager
async def writing(folder: Path, clock: trio.testing.MockClock) -> AsyncGenerator[Writing]:
    async def trial(seat: SeatIndex, link: HolderLink, progressed: Callable[[], None]) -> None:
        await found.take(seat, link, progressed)

    found = Writing(HolderPool(EVERYBODY, Nine(folder).connect, 6, trial), clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.pool.run)
        await found.pool.settle()
        yield found
        nursery.cancel_scope.cancel()


async def test_a_holder_that_hangs_at_every_write_delays_one_of_them(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with writing(tmp_path, autojump_clock) as site:
        assert await site.write_for(400) == frozenset(EVERYBODY) - {HANGING}
    assert [delay > 0.1 for delay in site.delays].count(True) == 1
    assert max(site.delays) == pytest.approx(0.5, abs=0.01)
    assert len(site.delays) > 1_000


async def test_a_holder_that_hung_is_waited_for_again_once_it_has_answered(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with writing(tmp_path, autojump_clock) as site:
        await site.write_for(20)
        site.hangs = False
        assert await site.write_for(70) == frozenset(EVERYBODY), "trials come once a minute at the latest"
        site.hangs = True
        await site.write_for(70)
    assert [delay > 0.1 for delay in site.delays].count(True) == 2


async def test_where_too_few_are_left_those_on_trial_are_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    nine = Nine(tmp_path)

    async def never(_seat: SeatIndex, _link: HolderLink, _progressed: Callable[[], None]) -> None:
        await trio.sleep_forever()

    async def hang(seat: SeatIndex, _link: HolderLink, _progressed: Callable[[], None]) -> None:
        if seat < 3:
            await trio.sleep_forever()

    pool = HolderPool(EVERYBODY, nine.connect, 6, never)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await pool.settle()
        await pool.ask_all(EVERYBODY, hang, 6)
        nine.holders[8].kill()
        while len(pool.live()) < 8:
            await pool.changed()
        assert pool.writable() == EVERYBODY[3:8]
        assert await pool.wait_writable(6) == EVERYBODY[:8]
        nursery.cancel_scope.cancel()
