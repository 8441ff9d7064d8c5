"""Everything the core may ask of its shell: a closed union, carried out in order.

Law of order: the event is flushed to the write-ahead log and the signer record fsynced before a signed message leaves.
"""

from __future__ import annotations

from msgspec import Struct

from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate
from consensus.events import Timeout
from consensus.evidence import Evidence
from consensus.identifiers import BlockHash, Height, Round
from consensus.proposals import Proposal
from consensus.votes import Vote


class AskForValue(Struct, frozen=True, kw_only=True):
    """This member proposes and holds no valid value: build a block, answer with ValueReady."""

    height: Height
    round: Round


class BroadcastProposal(Struct, frozen=True, kw_only=True):
    """Sign, record, send with the block, its records and the polka; then feed it back as ProposalReceived."""

    proposal: Proposal
    polka: PolkaCertificate | None


class BroadcastVote(Struct, frozen=True, kw_only=True):
    """Sign, record, send; then feed it back as VoteReceived."""

    vote: Vote


class BroadcastCertificate(Struct, frozen=True, kw_only=True):
    """Gossip duty: the polka on locking, the round certificate on entering a round."""

    certificate: PolkaCertificate | RoundCertificate


class ScheduleTimeout(Struct, frozen=True, kw_only=True):
    """Start a timer of T(round) = min(base + delta x round, max) for the timeout's kind."""

    timeout: Timeout


class Decide(Struct, frozen=True, kw_only=True):
    """This block is decided; the certificate may come before the block itself, which is then pulled.

    polkas: those known for the block, latest round first, back to valid round -1 where known.
    """

    block_hash: BlockHash
    certificate: CommitCertificate
    polkas: tuple[PolkaCertificate, ...]


class ReportEvidence(Struct, frozen=True, kw_only=True):
    """A member was caught; the application commits the proof within two blocks."""

    evidence: Evidence


Effect = (
    AskForValue | BroadcastProposal | BroadcastVote | BroadcastCertificate | ScheduleTimeout | Decide | ReportEvidence
)
