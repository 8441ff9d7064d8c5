"""Which holders a writer waits for, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from node.client.holders import HolderPool
from node.client.links import HolderLink
from storage.identifiers import SeatIndex
from tests.node.client.nine import SEATS, Nine

EVERYBODY = tuple(SeatIndex(seat) for seat in range(SEATS))
HANGING = SeatIndex(4)


async def test_a_holder_that_hangs_at_every_write_is_remembered(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pool = HolderPool(EVERYBODY, Nine(tmp_path).connect, 6)

    async def write(seat: SeatIndex, _link: HolderLink, _progressed: Callable[[], None]) -> None:
        if seat == HANGING:
            await trio.sleep_forever()

    delays: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await pool.settle()
        began_all = trio.current_time()
        while trio.current_time() < began_all + 40:
            began = trio.current_time()
            assert await pool.ask_all(pool.writable(), write, 6) == frozenset(EVERYBODY) - {HANGING}
            delays.append(trio.current_time() - began)
            autojump_clock.jump(0.25)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert max(delays) < 0.6
    assert [delay > 0.4 for delay in delays].count(True) == 3, "at 0, 1 and 10 seconds"
    assert len(delays) > 100
