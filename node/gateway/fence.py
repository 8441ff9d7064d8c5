"""The read fence: what any gateway has acknowledged before a read began is seen by the read.

A write is acknowledged once its block is decided, so four honest members at least have precommitted it. A gateway asks
every holder for the highest height it has precommitted, waits for q answers, of which four at least are honest, and
takes the greatest: one of them has precommitted the write's block. It then waits until its own view has that height.
One question is shared by all reads that wait at that moment.

A height that nobody reaches within REACH_SECONDS was a lie or a dead round: the reads go on, marked `local`, and who
named it is not believed for DISTRUST_SECONDS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from consensus.identifiers import Height
from node.client.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.holders import HolderPool
    from node.client.links import HolderLink
    from node.gateway.follower import Follower
    from storage.identifiers import SeatIndex

ANSWER_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 0.05
"""q prompt seats are asked first; the others once these have taken so long."""
REACH_SECONDS: Final = 8.0
"""A gateway whose node lags by seconds asks another one, which takes a moment."""
DISTRUST_SECONDS: Final = 60.0
NOBODY: Final = Height(0)


class Fence:
    """Shared by all reads of one tenant at one gateway."""

    def __init__(self, pool: HolderPool, quorum: int, follower: Follower) -> None:
        self._pool = pool
        self._quorum = quorum
        self._follower = follower
        self._distrusted: dict[SeatIndex, float] = {}
        self._claims: dict[SeatIndex, Height] = {}
        self._answered = trio.Event()
        self._turn = 0
        self._gathering: Gathering[int, Height] = Gathering(self._ask_all, together_max=1, in_flight_max=1)

    async def run(self) -> None:
        """Ask for who waits, until cancelled."""
        await self._gathering.run()

    async def wait(self) -> bool:
        """Return once everything acknowledged before this call is seen; False when that cannot be told."""
        height = await self._gathering.ask(0)
        if height == NOBODY:
            return False
        if await self._follower.reached(height, REACH_SECONDS):
            return True
        until = trio.current_time() + DISTRUST_SECONDS
        self._distrusted |= {seat: until for seat, claim in self._claims.items() if claim >= height}
        return False

    async def _ask_all(self, questions: Sequence[int]) -> Sequence[Height]:
        now = trio.current_time()
        seats = [seat for seat in self._pool.live() if self._distrusted.get(seat, 0.0) <= now]
        claims: dict[SeatIndex, Height] = {}
        prompt = [seat for seat in seats if self._pool.is_prompt(seat)]
        first = self._in_turn(prompt)[: self._quorum]
        async with trio.open_nursery() as nursery:
            for seat in first:
                nursery.start_soon(self._ask_one, seat, claims, nursery.cancel_scope)
            with trio.move_on_after(PATIENCE_SECONDS if len(first) == self._quorum else 0.0):
                while len(claims) < self._quorum:
                    await self._answered.wait()
            if len(claims) < self._quorum:
                for seat in seats:
                    if seat not in first:
                        nursery.start_soon(self._ask_one, seat, claims, nursery.cancel_scope)
        self._claims = claims
        enough = len(claims) >= self._quorum
        return [max(claims.values()) if enough else NOBODY] * len(questions)

    async def _ask_one(self, seat: SeatIndex, claims: dict[SeatIndex, Height], scope: trio.CancelScope) -> None:
        async def ask(_seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
            claims[seat] = await link.ask_height()

        with trio.move_on_after(ANSWER_SECONDS):
            await self._pool.ask_one(seat, ask, lambda: None)
        self._answered.set()
        self._answered = trio.Event()
        if len(claims) >= self._quorum:
            scope.cancel()

    def _in_turn(self, seats: Sequence[SeatIndex]) -> list[SeatIndex]:
        """Begin with another seat each time: all have the same share of the questions."""
        self._turn += 1
        start = self._turn % max(1, len(seats))
        return [*seats[start:], *seats[:start]]
