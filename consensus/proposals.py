"""What the proposer of a round suggests: a block's hash, and the round in which it was last valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from consensus.encoding import Record, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import (
    HASH,
    HEIGHT,
    MEMBER,
    ROUND,
    SIGNATURE,
    VALID_ROUND,
    BlockHash,
    GenesisHash,
    Height,
    MemberIndex,
    Round,
    Signature,
)
from consensus.signing import Domain, check_signature, sign_bytes

if TYPE_CHECKING:
    from consensus.members import MemberSet
    from consensus.signing import SignatureCheck


class Proposal(Record, tag=4):
    """The block travels beside it; so does the polka certificate when there is a valid round."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    block_hash: Annotated[BlockHash, HASH]
    valid_round: Annotated[Round, VALID_ROUND]
    proposer: Annotated[MemberIndex, MEMBER]


class SignedProposal(Record, tag=5):
    """A proposal and its proposer's signature."""

    proposal: Proposal
    signature: Annotated[Signature, SIGNATURE]


def proposal_sign_bytes(proposal: Proposal, genesis_hash: GenesisHash) -> bytes:
    """Return the bytes that the proposer signs."""
    return sign_bytes(Domain.PROPOSAL, genesis_hash, encode(proposal))


def check_proposal(signed: SignedProposal, members: MemberSet, check: SignatureCheck = check_signature) -> None:
    """Verify one proposal's signature and valid round; whether its sender had the turn is the driver's (rule A21).

    Raises:
        RejectionError: NOT_A_MEMBER, WRONG_ROUND (a valid round that is not earlier), BAD_SIGNATURE.
    """
    proposal = signed.proposal
    public_key = members.public_key(proposal.proposer)
    if proposal.valid_round >= proposal.round:
        raise RejectionError(RejectionReason.WRONG_ROUND, "a valid round comes before the round")
    check(public_key, proposal_sign_bytes(proposal, members.genesis_hash), signed.signature)
