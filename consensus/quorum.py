"""The fault budget: one number everywhere.

n = 2u + r + 1 members survive u failures of any kind, of which r may lie (Clement et al., "UpRight cluster
services", SOSP 2009). Two quorums of q = n - u share q + q - n >= r + 1 members, so one of them is honest.
`2f + 1` is a quorum only where n = 3f + 1: for nine it is 5, and two groups of 5 may share one liar alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import MEMBERS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultBudget:
    """n members, u failures of any kind survived, r liars among them, and the quorums that follow (rule A1)."""

    members: int
    failures: int
    liars: int
    quorum: int
    weak_quorum: int

    def data_columns(self, live: int) -> int | None:
        """Return k for a write while `live` holders answer; None when too few for any write (rule S1)."""
        if live < self.quorum:
            return None
        return min(self.members - self.failures, live - self.liars)

    @property
    def data_columns_min(self) -> int:
        """Return the smallest k that any write may use: with exactly a quorum of holders live."""
        return self.quorum - self.liars


def fault_budget(members: int) -> FaultBudget:
    """Return the strongest budget of n members: r = (n - 1) // 3, u = (n - 1 - r) // 2.

    Raises:
        RejectionError: BAD_GENESIS outside 1 to MEMBERS_MAX members.
    """
    if not 1 <= members <= MEMBERS_MAX:
        raise RejectionError(RejectionReason.BAD_GENESIS, f"{members} members, 1 to {MEMBERS_MAX} allowed")
    liars = (members - 1) // 3
    failures = (members - 1 - liars) // 2
    return custom_budget(members=members, quorum=members - failures, weak_quorum=liars + 1)


def custom_budget(*, members: int, quorum: int, weak_quorum: int) -> FaultBudget:
    """Return a budget from its thresholds, as the conformance vectors give them."""
    assert 1 <= weak_quorum <= quorum <= members, "thresholds out of order"
    assert 2 * quorum - members >= weak_quorum, "two quorums must share an honest member"
    return FaultBudget(
        members=members, failures=members - quorum, liars=weak_quorum - 1, quorum=quorum, weak_quorum=weak_quorum
    )
