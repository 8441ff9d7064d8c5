"""Drives the member in trio: one loop that lets it advance when something arrived or is due.

Disk work that is not brief runs in worker threads, frames are taken in between. The loop gives way after TURN_S of
work, so that no flood of one kind keeps the rest of the node waiting.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from consensus.signing import check_signature
from node.blocking import BriefWork
from node.carried import CarriedWatch
from node.clock import now_ms
from node.high_water import HighWater
from node.inbox import OfferedBlock
from node.member import Member
from node.member_parts import MemberParts

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.blocks import DecidedBlock
    from consensus.errors import RejectionError
    from consensus.identifiers import Height, MemberIndex
    from consensus.messages import TransactionsMessage
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from node.mempool import Mempool
    from node.node_chain import Appended, NodeChain
    from node.outbox import Outbox
    from node.peer_help import PeerHeights
    from node.signer import Signer
    from node.telemetry import NodeCounters
    from node.write_ahead_log import WriteAheadLog

LISTEN_S: Final = 1.0
"""How long a starting member only listens: a second copy of its seat would be heard."""
TURN_S: Final = 0.005
"""Work of one turn: a round's votes of all members, taken together, cost less than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusParts:
    """What the task is built from."""

    seat: MemberIndex
    chain: NodeChain
    signer: Signer
    log: WriteAheadLog
    mempool: Mempool
    outbox: Outbox
    counters: NodeCounters
    take_transactions: Callable[[TransactionsMessage], None]
    """Lets transactions of another member wait in the mempool."""
    on_appended: Callable[[Appended], None]
    """Told of every block, after it is durable."""
    listen_s: float = LISTEN_S
    high_water: HighWater = field(default_factory=HighWater)
    check: SignatureCheck = check_signature


@dataclass(slots=True)
class _Offer:
    """A block under way, and what became of it."""

    done: trio.Event = field(default_factory=trio.Event)
    refusal: RejectionError | None = None

    def answer(self, refusal: RejectionError | None) -> None:
        self.refusal = refusal
        self.done.set()


class ConsensusTask:
    """Runs one member; implements its MemberEvents."""

    def __init__(self, parts: ConsensusParts) -> None:
        self._parts = parts
        self._peer_ahead = trio.Event()
        self.appended = trio.Event()
        self.carried = CarriedWatch()
        self._wake = trio.Event()
        self._is_recovered = False
        self._member = Member(
            MemberParts(
                seat=parts.seat,
                chain=parts.chain,
                signer=parts.signer,
                log=parts.log,
                mempool=parts.mempool,
                outbox=parts.outbox,
                counters=parts.counters,
                events=self,
                run_blocking=trio.to_thread.run_sync,
                run_flush=BriefWork(trio.to_thread.run_sync),
                monotonic_s=time.monotonic,
                wall_ms=now_ms,
                high_water=parts.high_water,
                check=parts.check,
            )
        )

    @property
    def height(self) -> Height:
        """The height this member votes at: one above its chain."""
        return self._member.height

    @property
    def schedule(self) -> MemberSchedule:
        """Who agrees on which height, as far as this chain says."""
        return self._parts.chain.rules.schedule

    @property
    def is_voting(self) -> bool:
        """Say whether this seat has listened, recovered and reached the high-water mark, and signs at its height."""
        is_reached = self._parts.high_water.is_reached(self._parts.chain.tip.height)
        return self._is_recovered and is_reached and self._member.is_voting

    @property
    def peers(self) -> PeerHeights:
        """Where the other members stand."""
        return self._member.peers

    def receive(self, member: MemberIndex, frame: bytes) -> None:
        """Queue one frame of another member; never waits.

        Raises:
            RejectionError: It breaks a rule; the network closes the connection.
            SecondCopyError: This seat signs elsewhere too; the node stops.
        """
        self._member.receive(member, frame)
        self.wake()

    async def offer_decided(self, decided: DecidedBlock) -> None:
        """Append a block from catch-up if it follows the tip and is proven; older ones are ignored.

        Raises:
            RejectionError: It is not what it claims to be.
        """
        offer = _Offer()
        self._member.offer(OfferedBlock(decided=decided, answer=offer.answer))
        self.wake()
        await offer.done.wait()
        if offer.refusal is not None:
            raise offer.refusal

    def now(self) -> float:
        """Return seconds of trio's clock."""
        return trio.current_time()

    async def pause(self, span_s: float) -> None:
        """Wait."""
        await trio.sleep(span_s)

    async def wait_for_peer_ahead(self, span_s: float) -> None:
        """Wait until a member says that it is ahead, at most this long."""
        self._peer_ahead = trio.Event()
        with trio.move_on_after(span_s):
            await self._peer_ahead.wait()

    def wake(self) -> None:
        """Something happened that may be a reason for a block, or a reason to vote."""
        self._wake.set()

    def say_status(self, member: MemberIndex) -> None:
        """Tell a member where this one stands, as when its link comes up."""
        self._member.say_status(member)

    async def run(self) -> None:
        """Listen, recover, then take part until cancelled.

        Raises:
            WriteAheadLogError, StorageError: The disk refuses; the process must stop.
            SecondCopyError: This seat signs elsewhere too.
        """
        await trio.sleep(self._parts.listen_s)
        await self._member.recover()
        self._is_recovered = True
        while True:
            until = time.monotonic() + TURN_S
            await self._member.advance()
            while self._member.has_queued and time.monotonic() < until:
                await self._member.advance()
            await trio.lowlevel.checkpoint()
            if not self._member.has_queued:
                with trio.move_on_after(max(0.0, self._member.next_moment() - time.monotonic())):
                    await self._wake.wait()
                self._wake = trio.Event()

    def on_appended(self, appended: Appended) -> None:
        """Pass the news of a block on."""
        self._parts.on_appended(appended)
        self.carried.announce(appended.transaction_ids)
        self.appended.set()
        self.appended = trio.Event()

    def on_peer_ahead(self) -> None:
        """Have catch-up look."""
        self._peer_ahead.set()

    def on_transactions(self, message: TransactionsMessage) -> None:
        """Let them wait in the mempool."""
        self._parts.take_transactions(message)
