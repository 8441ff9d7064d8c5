"""Everything the core may ask of its shell: a closed union, carried out in order.

Law of order: the event is flushed to the write-ahead log and the signer record fsynced before a signed message leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate
from consensus.events import Timeout
from consensus.evidence import Evidence
from consensus.identifiers import BlockHash, Height, Round
from consensus.proposals import Proposal
from consensus.votes import Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class AskForValue:
    """This member proposes and holds no valid value: build a block, answer with ValueReady."""

    height: Height
    round: Round


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastProposal:
    """Sign, record, send with the block, its records and the polka; then feed it back as ProposalReceived."""

    proposal: Proposal
    polka: PolkaCertificate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastVote:
    """Sign, record, send; then feed it back as VoteReceived."""

    vote: Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastCertificate:
    """Gossip duty: the polka on locking, the round certificate on entering a round."""

    certificate: PolkaCertificate | RoundCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleTimeout:
    """Start a timer of T(round) = min(base + delta x round, max) for the timeout's kind."""

    timeout: Timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """This block is decided; the certificate may come before the block itself, which is then pulled.

    polkas: those known for the block, latest round first, back to valid round -1 where known.
    """

    block_hash: BlockHash
    certificate: CommitCertificate
    polkas: tuple[PolkaCertificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEvidence:
    """A member was caught; the application commits the proof within two blocks."""

    evidence: Evidence


Effect = (
    AskForValue | BroadcastProposal | BroadcastVote | BroadcastCertificate | ScheduleTimeout | Decide | ReportEvidence
)
