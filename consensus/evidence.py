"""Equivocation: two different signed messages of one member for the same kind, height and round.

Self-contained: two signatures of one key suffice, so no honest member can be accused (rules A36, A37). Whether a fault
was committed before is the application's to say: it alone remembers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.encoding import Record, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.proposals import SignedProposal, check_proposal
from consensus.signing import check_signature
from consensus.votes import SignedVote, check_vote

if TYPE_CHECKING:
    from consensus.identifiers import Height, MemberIndex, Round
    from consensus.members import MemberSet
    from consensus.signing import SignatureCheck


class VoteEvidence(Record, tag=9):
    """Two votes that no honest member signs both; the lower encoding first, so that one pair has one proof."""

    first: SignedVote
    second: SignedVote


class ProposalEvidence(Record, tag=10):
    """Two proposals of one round by its proposer; the lower encoding first."""

    first: SignedProposal
    second: SignedProposal


Evidence = VoteEvidence | ProposalEvidence

FaultPlace = tuple[str, "MemberIndex", "Height", "Round"]
"""Kind of message, member, height, round: one fault, however many pairs of messages prove it."""


def fault_place(evidence: Evidence) -> FaultPlace:
    """Return what a fault is counted by: committed once, whichever pair of messages proves it."""
    return _place(evidence.first)


def check_evidence(evidence: Evidence, members: MemberSet, check: SignatureCheck = check_signature) -> None:
    """Verify a proof of equivocation.

    Raises:
        RejectionError: BAD_EVIDENCE (not one fault, equal messages, wrong order), NOT_A_MEMBER, WRONG_ROUND,
            BAD_SIGNATURE.
    """
    if _place(evidence.first) != _place(evidence.second):
        raise RejectionError(RejectionReason.BAD_EVIDENCE, "two messages that may both be signed")
    if _statement(evidence.first) == _statement(evidence.second):
        raise RejectionError(RejectionReason.BAD_EVIDENCE, "one statement twice")
    if encode(evidence.first) >= encode(evidence.second):
        raise RejectionError(RejectionReason.BAD_EVIDENCE, "the lower encoding comes first")
    for signed in (evidence.first, evidence.second):
        if isinstance(signed, SignedVote):
            check_vote(signed, members, check)
        else:
            check_proposal(signed, members, check)


def _place(signed: SignedVote | SignedProposal) -> FaultPlace:
    if isinstance(signed, SignedVote):
        vote = signed.vote
        return type(vote).__name__, vote.member, vote.height, vote.round
    proposal = signed.proposal
    return type(proposal).__name__, proposal.proposer, proposal.height, proposal.round


def _statement(signed: SignedVote | SignedProposal) -> Record:
    return signed.vote if isinstance(signed, SignedVote) else signed.proposal
