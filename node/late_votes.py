"""Prevotes that say what a polka here says already: kept unproven, since they change nothing, and proven once they may.

Of nine prevotes six make the polka; the other three would be proven, queued, logged and counted for nothing, at nine
members, in each block. One of them matters if its sender says something else in the same round: then it is half of a
proof. So it waits here until its sender contradicts it, or anything unexpected is heard of the height, and goes the
usual way then (rule A69). Only what a member says of itself waits: nobody pays for what another has made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from consensus.identifiers import MemberIndex, Round
    from consensus.messages import VoteMessage


class LateVote(Struct, frozen=True):
    """A prevote, and the frame that it came in."""

    message: VoteMessage
    frame: bytes

    @property
    def member(self) -> MemberIndex:
        """Return who said it, and brought it."""
        return self.message.signed.vote.member


class LateVotes:
    """Of one height; one of each member and round that has a polka here, so as few as there are votes."""

    __slots__ = ("_by_place",)

    def __init__(self) -> None:
        self._by_place: dict[tuple[Round, MemberIndex], LateVote] = {}

    def keep(self, late: LateVote) -> bool:
        """Keep a vote, once however often it comes; False when another one of its round and sender is kept."""
        vote = late.message.signed.vote
        return self._by_place.setdefault((vote.round, vote.member), late).frame == late.frame

    def take_all(self) -> tuple[LateVote, ...]:
        """Return all of them: something is heard that they may contradict."""
        taken = tuple(self._by_place.values())
        self._by_place.clear()
        return taken

    def clear(self) -> None:
        """The height is over."""
        self._by_place.clear()
