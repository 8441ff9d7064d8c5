"""Proofs of equivocation on their way into a block: kept on disk, told to every member, until a block holds them.

One proof a fault; nothing that the chain knows or the next block could not hold; at most MEMBER_EVIDENCE_MAX against
one member and WAITING_MAX in all, so that a liar who repeats itself takes nobody's place. What has no room comes again
from whoever holds it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consensus.evidence import fault_place
from consensus.messages import EvidenceMessage, encode_message
from storage.stores.waiting_evidence import WAITING_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.evidence import Evidence, FaultPlace
    from node.member_parts import MemberParts

MEMBER_EVIDENCE_MAX: Final = 4
"""The first suspends a member already; four members may be caught at once."""


@dataclass(slots=True, kw_only=True)
class EvidencePool:
    """What waits at one member."""

    parts: MemberParts
    _waiting: dict[FaultPlace, Evidence] = field(default_factory=dict["FaultPlace", "Evidence"])

    def waiting(self) -> tuple[Evidence, ...]:
        """Return what the next block should hold."""
        return tuple(self._waiting.values())

    def is_reason(self) -> bool:
        """Say whether evidence waits that makes a block by itself: against a member not convicted yet (rule A67)."""
        return any(not self.parts.chain.is_convicted(guilty) for _, guilty, _, _ in self._waiting)

    def has_room(self, evidence: Evidence) -> bool:
        """Say whether evidence is news and fits; asked before the work of checking it."""
        place = fault_place(evidence)
        _, guilty, height, _ = place
        if place in self._waiting or len(self._waiting) >= WAITING_MAX or height > self.parts.chain.tip.height + 1:
            return False
        caught = Counter(member for _, member, _, _ in self._waiting)
        return caught[guilty] < MEMBER_EVIDENCE_MAX and not self.parts.chain.is_known_fault(evidence)

    async def add(self, evidence: Evidence) -> None:
        """Keep checked evidence and tell every member."""
        if not self.has_room(evidence):
            return
        self._waiting[fault_place(evidence)] = evidence
        self.parts.counters.evidence_seen += 1
        await self.parts.run_blocking(self.parts.chain.keep_evidence, evidence)
        self._tell(evidence)

    async def restore(self) -> None:
        """Hold again what waited at the last stop."""
        for evidence in await self.parts.run_blocking(self.parts.chain.waiting_evidence):
            self._waiting[fault_place(evidence)] = evidence

    def hand_on(self) -> None:
        """Tell every member again: whoever makes the next blocks must have it."""
        for evidence in self._waiting.values():
            self._tell(evidence)

    def committed(self, evidence: Iterable[Evidence]) -> None:
        """Let go what a block holds."""
        for proof in evidence:
            self._waiting.pop(fault_place(proof), None)

    def _tell(self, evidence: Evidence) -> None:
        self.parts.outbox.broadcast(encode_message(EvidenceMessage(evidence=evidence)))
