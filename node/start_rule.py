"""When a height is started: blocks are made only when there is something to say (CONSENSUS, "When a block is made").

Reasons: transactions or evidence wait, the last block changed the state root (one block certifies it), the heartbeat
is due, or others have started already. While there is none no timeout runs. The proposer starts at once; others give a
waiting transaction GOSSIP_S to reach the proposer before their propose timeout begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from consensus.genesis import ConsensusParameters

GOSSIP_S: Final = 0.1
"""Twice the usual gossip delay of a regional network (50 ms)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFacts:
    """What is known at one moment; moments are seconds of a monotonic clock, infinity for never.

    Attributes:
        begun_at: When the height before was appended here.
        pending_since: When the oldest waiting transaction or evidence was noticed at this height.
        is_proposer: Whether round 0 is this member's turn.
        root_changed: Whether the last block changed the state root.
        others_started: Whether a proposal, or votes of a weak quorum, of this height were heard.
    """

    begun_at: float
    pending_since: float
    is_proposer: bool
    root_changed: bool
    others_started: bool


def start_moment(facts: StartFacts, parameters: ConsensusParameters) -> float:
    """Return when to enter round 0; infinity is never reached, since the heartbeat always comes."""
    if facts.others_started:
        return -math.inf
    wait_s = 0.0 if facts.is_proposer else GOSSIP_S
    reasons = [facts.begun_at + parameters.heartbeat_ms / 1000, facts.pending_since + wait_s]
    if facts.root_changed:
        reasons.append(facts.begun_at)
    return max(min(reasons), facts.begun_at + parameters.block_interval_min_ms / 1000)
