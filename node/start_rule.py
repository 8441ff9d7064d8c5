"""When a height is started: blocks are made only when there is something to say (rule A66).

Reasons: transactions wait, or evidence against a member that the chain has not convicted; the last block changed the
state root by more than further faults of the convicted (one block certifies it, CERTIFY_S later if nothing spares it);
the heartbeat is due; or others have started already. So a liar's faults make blocks once, however many (rule A67).
What nobody waits for, the duties' reports, shares the heartbeat's block where that comes soon enough (rule A68).
While there is no reason no timeout runs. The proposer starts at once; others give what waits GOSSIP_S to reach
the proposer before their propose timeout begins.

After a block of many transactions their senders come back with the next. Until as many wait as it carried, and as were
waiting when it came, a height is not begun, GATHER_S at most: otherwise a block of whoever was first alternates with
one of all the rest, and each costs the same (docs/decisions/0015). Where fewer than GATHER_MIN are expected, as on an
idle network, or enough for a large block wait already, nobody waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from consensus.blocks import DecidedBlock
    from consensus.genesis import ConsensusParameters
    from consensus.identifiers import MemberIndex

GOSSIP_S: Final = 0.1
"""Twice the usual gossip delay of a regional network (50 ms)."""
CERTIFY_S: Final = 0.1
"""How long an empty block waits for the transaction that spares it: whoever writes one object after the other answers
within this time, and its next block certifies the root of the last (docs/decisions/0011)."""
GATHER_S: Final = 0.04
"""About what the senders of a block need to come back on a machine that they share with nine nodes."""
GATHER_MIN: Final = 8
"""A block costs as much as twenty transactions: for a few it is not worth a wait."""
GATHER_MAX: Final = 128
GATHER_BYTES_MAX: Final = 1024 * 1024
"""A block of so many transactions, or of so many bytes, costs several times an empty one: more may share the next."""


class StartFacts(Struct, frozen=True, kw_only=True):
    """What is known at one moment; moments are seconds of a monotonic clock, infinity for never.

    Attributes:
        begun_at: When the height before was appended here.
        pending_since: When the oldest waiting reason for a block was noticed at this height.
        is_proposer: Whether round 0 is this member's turn.
        root_changed: Whether the last block changed the state root in a way that an empty block certifies soon.
        others_started: Whether a proposal, or votes of a weak quorum, of this height were heard.
        is_gathering: Whether fewer transactions wait than will soon, as far as the last block tells.
    """

    begun_at: float
    pending_since: float
    is_proposer: bool
    root_changed: bool
    others_started: bool
    is_gathering: bool


def start_moment(facts: StartFacts, parameters: ConsensusParameters) -> float:
    """Return when to enter round 0; infinity is never reached, since the heartbeat always comes."""
    if facts.others_started:
        return -math.inf
    wait_s = (0.0 if facts.is_proposer else GOSSIP_S) + (GATHER_S if facts.is_gathering else 0.0)
    reasons = [facts.begun_at + parameters.heartbeat_ms / 1000, facts.pending_since + wait_s]
    if facts.root_changed:
        reasons.append(facts.begun_at + CERTIFY_S)
    return max(min(reasons), facts.begun_at + parameters.block_interval_min_ms / 1000)


@dataclass(slots=True, kw_only=True)
class StartWatch:
    """What one height has heard that is a reason to start it."""

    begun_at: float
    expected: int = 0
    """Transactions that the last block carried, and that waited when it came."""
    pending_since: float = math.inf
    proposal_heard: bool = False
    senders: set[MemberIndex] = field(default_factory=set["MemberIndex"])
    """Members of whom a vote or a round certificate of this height came."""

    def notice_pending(self, since: float) -> None:
        """Note from when on something is a reason for a block; the earliest counts."""
        self.pending_since = min(self.pending_since, since)

    def facts(self, *, is_proposer: bool, root_changed: bool, weak_quorum: int, waiting: tuple[int, int]) -> StartFacts:
        """Return what the rule asks for; so many transactions wait now, of so many bytes together."""
        count, byte_count = waiting
        is_worth_it = self.expected >= GATHER_MIN and byte_count < GATHER_BYTES_MAX
        return StartFacts(
            begun_at=self.begun_at,
            pending_since=self.pending_since,
            is_proposer=is_proposer,
            root_changed=root_changed,
            others_started=self.proposal_heard or len(self.senders) >= weak_quorum,
            is_gathering=is_worth_it and count < min(self.expected, GATHER_MAX),
        )


def watch_after(last: DecidedBlock | None, waiting: int, now: float) -> StartWatch:
    """Return the watch of a height that begins now, after a block and with so many transactions waiting."""
    carried = 0 if last is None else len(last.block.transactions)
    return StartWatch(begun_at=now, expected=carried + waiting)
