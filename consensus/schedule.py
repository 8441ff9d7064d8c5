"""Who agrees on which height, and by which parameters (rules M1 to M3).

- M1. Members and parameters of height h follow from the state after block h - 2: a change that block H decides is
  effective at H + 2, and the header of H + 1 certifies it. So messages of the next height can be checked as those of
  the present one.
- M2. A certificate, a vote and a proof of equivocation are judged by the members of their own height.
- M3. Seat numbers are member numbers: they never move, and none is used twice.

What the application remembers of the past is bounded; what is older is refused (WRONG_HEIGHT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.errors import RejectionError, RejectionReason
from consensus.genesis import genesis_members

if TYPE_CHECKING:
    from consensus.genesis import ConsensusParameters, Genesis
    from consensus.identifiers import Height
    from consensus.members import MemberSet


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSchedule:
    """What is known of the heights up to two above the chain.

    Attributes:
        members: All sets that are remembered, each from its `since` on; oldest first.
        parameters: Of the next height.
        parameters_change: Other parameters, and the height from which on they hold.
    """

    members: tuple[MemberSet, ...]
    parameters: ConsensusParameters
    parameters_change: tuple[Height, ConsensusParameters] | None = None

    def members_at(self, height: Height) -> MemberSet:
        """Return the members of a height; RejectionError(WRONG_HEIGHT) if they are forgotten."""
        for members in reversed(self.members):
            if members.since <= height:
                return members
        raise RejectionError(RejectionReason.WRONG_HEIGHT, f"the members of height {height} are not remembered")

    def parameters_at(self, height: Height) -> ConsensusParameters:
        """Return the parameters of the next height, or of the one above."""
        change = self.parameters_change
        return self.parameters if change is None or height < change[0] else change[1]


def genesis_schedule(genesis: Genesis) -> MemberSchedule:
    """Return the schedule of a chain whose members have not changed yet; raises RejectionError(BAD_GENESIS)."""
    return MemberSchedule(members=(genesis_members(genesis),), parameters=genesis.parameters)
