"""One, two, three members dead, neighbours and apart: how soon blocks come again, and how fast once turns skip them.

A few senders keep one transaction each under way at the nodes that stay; every answer is a block that was seen. The
rate of healthy is measured anew before each kill, on the machine as it is at that moment.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import httpx
import msgspec
import trio

from consensus.genesis import genesis_hash
from consensus.identifiers import Height
from node.client import read_client_home
from node.client.commits import EXPIRY_HEIGHTS, TransactionSigner, submit_and_wait
from node.client.http_chain import HttpChain
from node.errors import NodeError
from storage.identifiers import SeatIndex
from testnet.bench.figures import PERCENT, Better, Figure
from testnet.bench.transactions import Sender
from testnet.cluster import cluster_states, kill_seat, start_seat, votes, wait_for_seats

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from testnet.cluster import Cluster

CASES: Final = (
    ("one dead", (4,)),
    ("two dead, neighbours", (3, 4)),
    ("two dead, apart", (1, 5)),
    ("three dead, neighbours", (3, 4, 5)),
    ("three dead, apart", (1, 4, 7)),
)
SENDERS: Final = 4
RATE_SECONDS: Final = 8.0
LOOK_SECONDS: Final = 0.25
SUSPENDED_SECONDS_MAX: Final = 60.0
"""Three own turns missed, then a multiple of nine: 36 heights at most, of half a second while the dead have turns."""
BACK_SECONDS_MAX: Final = 60.0
ANSWER_SECONDS: Final = 10.0
RATE_REACH: Final = 90.0
FIRST_REACH: Final = 3.0


class _SeatAnswer(msgspec.Struct):
    suspended: str | None


class _SeatsAnswer(msgspec.Struct):
    seats: list[_SeatAnswer]


@dataclass(slots=True)
class Seen:
    """When (trio's clock) each transaction was sent and answered: its block had been appended then."""

    answers: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    is_over: bool = False

    def first_after(self, moment: float, now: float) -> float:
        """Return how long after a moment something sent since was answered; until now if nothing was."""
        return min((answered for sent, answered in self.answers if sent > moment), default=now) - moment

    def longest_gap(self, since: float, now: float) -> float:
        """Return the longest time without an answer between a moment and now."""
        later = sorted(answered for _, answered in self.answers if answered > since)
        return max(b - a for a, b in zip([since, *later], [*later, now], strict=True))


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Kill and start again, case by case."""
    figures: list[Figure] = []
    for named, seats in CASES:
        figures += await _measure_case(cluster, named, tuple(SeatIndex(seat) for seat in seats))
    return tuple(figures)


async def _measure_case(cluster: Cluster, named: str, dead: tuple[SeatIndex, ...]) -> list[Figure]:
    live = tuple(seat for seat in cluster.all_seats() if seat not in dead)
    async with sending(cluster, live) as seen:
        healthy = await _block_rate(cluster, live)
        killed_at = trio.current_time()
        for seat in dead:
            kill_seat(cluster, seat)
        height = await _height(cluster, live)
        await _wait_for_suspensions(cluster, live[0], len(dead), SUSPENDED_SECONDS_MAX)
        before = (await _height(cluster, live) - height) / (trio.current_time() - killed_at)
        now = trio.current_time()
        first_s, gap_s = seen.first_after(killed_at, now), seen.longest_gap(killed_at, now)
        after = await _block_rate(cluster, live)
        for seat in dead:
            start_seat(cluster, seat)
        await trio.to_thread.run_sync(wait_for_seats, cluster, dead, votes)
        await _wait_for_suspensions(cluster, live[0], 0, BACK_SECONDS_MAX)
    return [
        _figure(f"{named}: first block after the kill", first_s, "s", Better.LOWER, FIRST_REACH),
        _figure(f"{named}: longest time without a block", gap_s, "s", Better.LOWER, FIRST_REACH),
        _figure(f"{named}: blocks/s of healthy, until suspended", PERCENT * before / healthy, "%", Better.HIGHER, 0.0),
        _figure(f"{named}: blocks/s of healthy, suspended", PERCENT * after / healthy, "%", Better.HIGHER, RATE_REACH),
        _figure(f"{named}: blocks/s, suspended", after, "/s", Better.HIGHER, 0.0),
    ]


@asynccontextmanager
async def sending(cluster: Cluster, live: Sequence[SeatIndex]) -> AsyncGenerator[Seen]:
    """Keep SENDERS transactions under way at the nodes that stay."""
    home = read_client_home(cluster.home / "client")
    signer = TransactionSigner(home.signing_key, genesis_hash(home.genesis))
    seen = Seen()

    async def work(chain: HttpChain) -> None:
        sender = Sender(home, signer, partial(submit_and_wait, chain, records=()))
        while not seen.is_over:
            sent = trio.current_time()
            await sender.send(Height(await chain.tip_height() + EXPIRY_HEIGHTS))
            seen.answers.append((sent, trio.current_time()))

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for number in range(SENDERS):
            http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            nodes = [home.nodes[live[(number + i) % len(live)]] for i in range(len(live))]
            nursery.start_soon(work, HttpChain(nodes, home.tenant, http))
        try:
            yield seen
        finally:
            seen.is_over = True  # what is under way is answered: a request that is cut off leaves its stream open
            nursery.cancel_scope.deadline = trio.current_time() + ANSWER_SECONDS


async def _block_rate(cluster: Cluster, live: Sequence[SeatIndex]) -> float:
    height, began = await _height(cluster, live), trio.current_time()
    await trio.sleep(RATE_SECONDS)
    return (await _height(cluster, live) - height) / (trio.current_time() - began)


async def _wait_for_suspensions(cluster: Cluster, asked: SeatIndex, wanted: int, seconds_max: float) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(round(seconds_max / LOOK_SECONDS)):
            if await _suspended(http, cluster.api_address(asked)) == wanted:
                return
            await trio.sleep(LOOK_SECONDS)
    raise NodeError(f"{wanted} members should be without turns after {seconds_max:.0f} s, and are not")


async def _suspended(http: httpx.AsyncClient, api: str) -> int:
    answer = await http.get(f"{api}/v1/seats", timeout=ANSWER_SECONDS)
    return sum(seat.suspended is not None for seat in msgspec.json.decode(answer.content, type=_SeatsAnswer).seats)


async def _height(cluster: Cluster, live: Sequence[SeatIndex]) -> int:
    states = await trio.to_thread.run_sync(cluster_states, cluster)
    return max(state.status.height for state in states if state.status is not None and state.seat in live)


def _figure(name: str, amount: float, unit: str, better: Better, reach: float) -> Figure:
    return Figure(name=name, amount=amount, unit=unit, better=better, reach=reach)
