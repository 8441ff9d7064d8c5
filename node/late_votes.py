"""Prevotes that say what a polka here says already: kept unproven, since they change nothing, and proven once they may.

Of nine prevotes six make the polka; the other three would be proven, queued, logged and counted for nothing, at nine
members, in each block. One of them matters if its sender says something else in the same round: then it is half of a
proof. So it waits here until its sender contradicts or repeats it, or anything unexpected is heard of the height, and
goes the usual way then (rule A69). Only what a member says of itself waits: nobody pays for what another has made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from consensus.votes import Prevote

if TYPE_CHECKING:
    from consensus.certificates import PolkaCertificate
    from consensus.identifiers import BlockHash, MemberIndex, Round
    from consensus.messages import VoteMessage

HEARD_MAX: Final = 256
"""Values that proven prevotes were for; who votes for more of them is a liar, and costs proofs as before."""


class LateVote(Struct, frozen=True):
    """A prevote, and the frame that it came in."""

    message: VoteMessage
    frame: bytes

    @property
    def member(self) -> MemberIndex:
        """Return who said it, and brought it."""
        return self.message.signed.vote.member


class LateVotes:
    """Of one height; one of each member and round in which q prevotes were alike."""

    __slots__ = ("_by_place", "_heard")

    def __init__(self) -> None:
        self._by_place: dict[tuple[Round, MemberIndex], LateVote] = {}
        self._heard: dict[tuple[Round, BlockHash | None, Round], set[MemberIndex]] = {}

    def note(self, prevote: Prevote) -> None:
        """Count a prevote that was proven and queued."""
        value = (prevote.round, prevote.block_hash, prevote.valid_round)
        if value in self._heard or len(self._heard) < HEARD_MAX:
            self._heard.setdefault(value, set()).add(prevote.member)

    def alike(self, prevote: Prevote) -> int:
        """Return how many members were noted to prevote the same."""
        return len(self._heard.get((prevote.round, prevote.block_hash, prevote.valid_round), ()))

    def keep(self, late: LateVote) -> bool:
        """Keep a vote; False for a second one of its round and sender, the same included: who repeats is stuck."""
        vote = late.message.signed.vote
        place = (vote.round, vote.member)
        is_first = place not in self._by_place
        if is_first:
            self._by_place[place] = late
        return is_first

    def all_say(self, polka: PolkaCertificate) -> bool:
        """Say whether every kept vote is one of those that a polka may hold."""
        kept = (late.message.signed.vote for late in self._by_place.values())
        wanted = (polka.round, polka.block_hash, polka.valid_round)
        return all(isinstance(v, Prevote) and (v.round, v.block_hash, v.valid_round) == wanted for v in kept)

    def take_all(self) -> tuple[LateVote, ...]:
        """Return all of them: something is heard that they may contradict."""
        taken = tuple(self._by_place.values())
        self._by_place.clear()
        return taken

    def clear(self) -> None:
        """The height is over."""
        self._by_place.clear()
        self._heard.clear()
