"""The two votes of a round. A block hash of None is a vote for nil.

A precommit carries no time and a prevote only its proposal's valid round: two honest signings of one vote are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, assert_never

from consensus.encoding import Record, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import (
    HASH,
    HEIGHT,
    MEMBER,
    NO_ROUND,
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


class Prevote(Record, tag=1):
    """First vote of a round; the valid round is the proposal's (the accountable form), -1 for nil."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    block_hash: Annotated[BlockHash, HASH] | None
    valid_round: Annotated[Round, VALID_ROUND]
    member: Annotated[MemberIndex, MEMBER]


class Precommit(Record, tag=2):
    """Second vote of a round."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    block_hash: Annotated[BlockHash, HASH] | None
    member: Annotated[MemberIndex, MEMBER]


Vote = Prevote | Precommit


class SignedVote(Record, tag=3):
    """A vote and its member's signature over `vote_sign_bytes`."""

    vote: Vote
    signature: Annotated[Signature, SIGNATURE]


def vote_sign_bytes(vote: Vote, genesis_hash: GenesisHash) -> bytes:
    """Return the bytes that a member signs for a vote."""
    match vote:
        case Prevote():
            domain = Domain.PREVOTE
        case Precommit():
            domain = Domain.PRECOMMIT
        case _:
            assert_never(vote)
    return sign_bytes(domain, genesis_hash, encode(vote))


def check_vote(signed: SignedVote, members: MemberSet, check: SignatureCheck = check_signature) -> None:
    """Verify one vote (rule A20).

    Raises:
        RejectionError: NOT_A_MEMBER, BAD_SIGNATURE, or WRONG_ROUND for a prevote whose valid round is not earlier,
            or that is nil and has one: no honest member signs such, and nil must have one encoding.
    """
    vote = signed.vote
    public_key = members.public_key(vote.member)
    if isinstance(vote, Prevote):
        latest = NO_ROUND if vote.block_hash is None else vote.round - 1
        if vote.valid_round > latest:
            raise RejectionError(RejectionReason.WRONG_ROUND, f"valid round {vote.valid_round} in round {vote.round}")
    check(public_key, vote_sign_bytes(vote, members.genesis_hash), signed.signature)
