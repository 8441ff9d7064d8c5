"""Whose turn it is to propose: proposer(height, round) = A[(height + round) mod |A|] (rule A2).

A is the active list: every member here; members suspended for silence will be left out by whoever builds the list
from committed certificates. There is no hidden priority state, so a joiner derives the list from headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from consensus.identifiers import MemberIndex

if TYPE_CHECKING:
    from consensus.identifiers import Height, Round
    from consensus.members import MemberSet


class ProposerOrder(Protocol):
    """Who proposes when; the core needs no more, so that vectors may bring an order of their own."""

    def proposer(self, height: Height, round_: Round, /) -> MemberIndex:
        """Return the only member whose proposal counts in this round."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The members who take turns, in seat order."""

    active: tuple[MemberIndex, ...]

    def __post_init__(self) -> None:
        """Guard the order that every member must derive alike."""
        assert self.active, "somebody must propose"
        assert list(self.active) == sorted(set(self.active)), "seat order, no seat twice"

    def proposer(self, height: Height, round_: Round) -> MemberIndex:
        """Return the only member whose proposal counts in this round."""
        return self.active[(height + round_) % len(self.active)]


def all_members(members: MemberSet) -> Turns:
    """Return the turns of a set in which nobody is suspended."""
    return Turns(active=tuple(MemberIndex(i) for i in range(members.budget.members)))
