"""How far the others were when this process started: until its own chain is there, the seat signs nothing (rule D17).

A home that was copied back from a backup is whole and consistent, and older than what its seat has signed since. So
each process asks the others, with a fresh nonce, which height they have decided, and signs only once q - 1 of them had
decided no more than this chain holds now. On the way there a seat that has signed since meets its own signatures in
the blocks, and stops (D7). Whoever names a height that does not exist is waited for by nobody.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from consensus.effects import BroadcastProposal, BroadcastVote
from consensus.errors import RejectionError, RejectionReason
from consensus.messages import HeightRequest, HeightResponse, check_decided_height
from consensus.signing import check_signature
from node.catch_up_task import ask
from node.errors import PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consensus.effects import Effect
    from consensus.identifiers import Height, MemberIndex
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from node.catch_up_task import Asker

LOGGER = logging.getLogger(__name__)

RETRY_S: Final = 0.5


class OwnChain(Protocol):
    """What of this node's chain an answer is judged by."""

    @property
    def height(self) -> Height:
        """One above the chain."""
        ...

    @property
    def schedule(self) -> MemberSchedule:
        """Who agrees on which height."""
        ...


@dataclass(slots=True, kw_only=True)
class HighWater:
    """What one process has learned of the others' heights.

    Attributes:
        needed: How many others must have been no further than this chain: q - 1; 0 waits for nobody.
    """

    needed: int = 0
    _heights: dict[MemberIndex, Height] = field(default_factory=dict["MemberIndex", "Height"])
    _is_reached: bool = False

    def note(self, member: MemberIndex, height: Height) -> None:
        """Learn what a member had decided."""
        self._heights[member] = height

    def is_reached(self, tip: Height) -> bool:
        """Say whether a chain of this height may be signed on; once it may, it may for good."""
        if not self._is_reached:
            self._is_reached = sum(height <= tip for height in self._heights.values()) >= self.needed
        return self._is_reached


@dataclass(slots=True, kw_only=True)
class Unsaid:
    """Votes and proposals of one height that wait for the mark, in the order in which the core asked for them."""

    mark: HighWater
    _effects: list[Effect] = field(default_factory=list["Effect"])

    def holds(self, effect: Effect, tip: Height) -> bool:
        """Say whether an effect has to wait, and keep it then."""
        has_to_wait = isinstance(effect, BroadcastProposal | BroadcastVote) and not self.mark.is_reached(tip)
        if has_to_wait:
            self._effects.append(effect)
        return has_to_wait

    def take(self, tip: Height) -> tuple[Effect, ...]:
        """Return what need not wait any longer."""
        if not self._effects or not self.mark.is_reached(tip):
            return ()
        due = tuple(self._effects)
        self._effects.clear()
        return due

    def clear(self) -> None:
        """Forget what was to be said of a height that is over."""
        self._effects.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeightQuestion:
    """Asked of every other member by one process."""

    mark: HighWater
    nonce: bytes
    chain: OwnChain
    check: SignatureCheck = check_signature

    async def ask(self, asker: Asker, member: MemberIndex, pause: Callable[[float], Awaitable[None]]) -> None:
        """Ask one member until it has answered."""
        while True:
            try:
                answer = await ask(asker, member, HeightRequest(nonce=self.nonce))
                self.mark.note(member, self._checked(answer, member))
                return
            except (RejectionError, PeerUnreachableError) as error:
                LOGGER.debug("member %d does not say its height: %s", member, error)
            await pause(RETRY_S)

    def _checked(self, answer: object, member: MemberIndex) -> Height:
        if not isinstance(answer, HeightResponse) or answer.member != member:
            raise RejectionError(RejectionReason.MALFORMED, "answered something else")
        members = self.chain.schedule.members_at(self.chain.height)
        check_decided_height(answer, self.nonce, members, self.check)
        return answer.height
