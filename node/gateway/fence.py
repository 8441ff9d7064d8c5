"""The read fence: what any gateway has acknowledged before a read began is seen by the read.

A write is acknowledged once its block is decided, so four honest members at least have precommitted it. A gateway asks
every holder for the highest height it has precommitted, waits for q answers, of which four at least are honest, and
takes the greatest: one of them has precommitted the write's block. It then waits until its own view has that height.
One question is shared by all reads that wait at that moment.

A height that nobody reaches within REACH_SECONDS was a lie or a dead round: the reads go on, marked `local`, and who
named it is not believed for DISTRUST_SECONDS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from consensus.identifiers import Height

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.holders import HolderPool
    from node.client.links import HolderLink
    from node.gateway.follower import Follower
    from storage.identifiers import SeatIndex

ANSWER_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 0.05
"""q prompt seats are asked first; the others once these have taken so long."""
SPACING_SECONDS: Final = 0.003
"""Many reads at once share a question; a lone one never waits."""
REACH_SECONDS: Final = 8.0
"""A gateway whose node lags by seconds asks another one, which takes a moment."""
DISTRUST_SECONDS: Final = 60.0
NOBODY: Final = Height(0)


@dataclass(slots=True)
class _Waiting:
    """Reads that share one question."""

    answered: trio.Event = field(default_factory=trio.Event)
    height: Height = NOBODY


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
        self._waiting = _Waiting()
        self._wanted = trio.Event()

    async def run(self) -> None:
        """Ask for who waits, until cancelled: one question at a time, SPACING_SECONDS apart at least."""
        while True:
            await self._wanted.wait()
            began = trio.current_time()
            waiting, self._waiting, self._wanted = self._waiting, _Waiting(), trio.Event()
            waiting.height = await self._ask_all()
            waiting.answered.set()
            await trio.sleep_until(began + SPACING_SECONDS)

    async def wait(self) -> bool:
        """Return once everything acknowledged before this call is seen; False when that cannot be told."""
        waiting = self._waiting
        self._wanted.set()
        await waiting.answered.wait()
        height = waiting.height
        if height == NOBODY:
            return False
        if await self._follower.reached(height, REACH_SECONDS):
            return True
        until = trio.current_time() + DISTRUST_SECONDS
        self._distrusted |= {seat: until for seat, claim in self._claims.items() if claim >= height}
        return False

    async def _ask_all(self) -> Height:
        """Return the greatest height that q seats claim, NOBODY when fewer answer."""
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
        return max(claims.values()) if len(claims) >= self._quorum else NOBODY

    async def _ask_one(self, seat: SeatIndex, claims: dict[SeatIndex, Height], scope: trio.CancelScope) -> None:
        async def ask(_seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
            claims[seat] = await link.ask_height()

        with trio.move_on_after(ANSWER_SECONDS):
            await self._pool.ask_one(seat, ask)
        self._answered.set()
        self._answered = trio.Event()
        if len(claims) >= self._quorum:
            scope.cancel()

    def _in_turn(self, seats: Sequence[SeatIndex]) -> list[SeatIndex]:
        """Begin with another seat each time: all have the same share of the questions."""
        self._turn += 1
        start = self._turn % max(1, len(seats))
        return [*seats[start:], *seats[:start]]
