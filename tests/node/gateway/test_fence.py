"""The read fence: q seats are asked, the greatest height is waited for, liars cost one wait."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import trio
from trio.testing import MockClock

from consensus.identifiers import Height
from node.client.holders import HolderPool
from node.errors import PeerUnreachableError
from node.gateway import fence as fencing
from node.gateway.fence import Fence
from storage.identifiers import SeatIndex

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from node.client.links import HolderLink
    from node.gateway.follower import Follower

QUORUM = 6


@dataclass
class SeatLink:
    """A holder that says a height; only what a fence asks is there."""

    height: Height
    asked: int = 0
    is_silent: bool = False

    async def ask_height(self) -> Height:
        self.asked += 1
        if self.is_silent:
            await trio.sleep_forever()
        return self.height

    async def wait_gone(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        return


@dataclass
class Reached:
    """A follower that has a height."""

    height: Height
    waited_for: list[Height] = field(default_factory=list["Height"])

    async def reached(self, height: Height, seconds: float) -> bool:
        self.waited_for.append(height)
        if height > self.height:
            await trio.sleep_until(trio.current_time() + seconds)
        return self.height >= height


@asynccontextmanager
async def fenced(links: dict[int, SeatLink], follower: Reached) -> AsyncGenerator[Fence]:
    async def connect(seat: SeatIndex) -> HolderLink:
        if seat not in links:
            raise PeerUnreachableError("down")
        return cast("HolderLink", links[seat])

    pool = HolderPool(tuple(SeatIndex(seat) for seat in range(9)), connect, QUORUM)
    fence = Fence(pool, QUORUM, cast("Follower", follower))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await pool.settle()
        nursery.start_soon(fence.run)
        yield fence
        nursery.cancel_scope.cancel()


async def test_the_greatest_height_of_q_seats_is_waited_for(autojump_clock: MockClock) -> None:
    links = {seat: SeatLink(Height(5 if seat != 4 else 7)) for seat in range(6)}
    follower = Reached(Height(7))
    async with fenced(links, follower) as fence:
        assert await fence.wait()
    assert follower.waited_for == [7]


async def test_without_q_answers_a_read_is_local(autojump_clock: MockClock) -> None:
    links = {seat: SeatLink(Height(5)) for seat in range(5)}
    async with fenced(links, Reached(Height(5))) as fence:
        assert not await fence.wait()


async def test_a_silent_seat_is_asked_around(autojump_clock: MockClock) -> None:
    links = {seat: SeatLink(Height(5), is_silent=seat < 3) for seat in range(9)}
    async with fenced(links, Reached(Height(5))) as fence:
        began = trio.current_time()
        assert await fence.wait()
        assert trio.current_time() - began <= fencing.ANSWER_SECONDS


async def test_reads_of_one_moment_share_a_question(autojump_clock: MockClock) -> None:
    links = {seat: SeatLink(Height(5)) for seat in range(9)}
    async with fenced(links, Reached(Height(5))) as fence, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(fence.wait)
    assert sum(link.asked for link in links.values()) <= 2 * 9


async def test_who_named_a_height_that_never_comes_is_not_believed_again(autojump_clock: MockClock) -> None:
    links = {seat: SeatLink(Height(5 if seat else 10**9)) for seat in range(9)}
    async with fenced(links, Reached(Height(5))) as fence:
        outcomes = [await fence.wait() for _ in range(12)]
        began = trio.current_time()
        assert await fence.wait()
        assert trio.current_time() - began < 1
    assert outcomes.count(False) == 1
