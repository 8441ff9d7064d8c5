"""Short ways to write down what members say; signed by the example keys, or unsigned for the core."""

from __future__ import annotations

from consensus.certificates import CommitCertificate, PolkaCertificate, commit_certificate, polka_certificate
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, Round
from consensus.proposals import Proposal, SignedProposal, proposal_sign_bytes
from consensus.votes import Precommit, Prevote, SignedVote, Vote, vote_sign_bytes
from tests.strategies import CHAIN, signing_keys

HEIGHT = Height(1)
RED, BLUE = BlockHash(b"r" * 32), BlockHash(b"b" * 32)
KEYS = signing_keys(16)


def sign_vote(vote: Vote, signer: int | None = None) -> SignedVote:
    signing_key = KEYS[vote.member if signer is None else signer]
    return SignedVote(vote=vote, signature=signing_key.sign(vote_sign_bytes(vote, CHAIN)))


def prevote(
    member: int, block_hash: BlockHash | None, round_: int = 0, valid_round: int = -1, height: int = HEIGHT
) -> SignedVote:
    return sign_vote(
        Prevote(
            height=Height(height),
            round=Round(round_),
            block_hash=block_hash,
            valid_round=Round(valid_round),
            member=MemberIndex(member),
        )
    )


def precommit(member: int, block_hash: BlockHash | None, round_: int = 0, height: int = HEIGHT) -> SignedVote:
    return sign_vote(
        Precommit(height=Height(height), round=Round(round_), block_hash=block_hash, member=MemberIndex(member))
    )


def proposal(
    proposer: int, block_hash: BlockHash, round_: int = 0, valid_round: int = NO_ROUND, height: int = HEIGHT
) -> SignedProposal:
    made = Proposal(
        height=Height(height),
        round=Round(round_),
        block_hash=block_hash,
        valid_round=Round(valid_round),
        proposer=MemberIndex(proposer),
    )
    return SignedProposal(proposal=made, signature=KEYS[proposer].sign(proposal_sign_bytes(made, CHAIN)))


def polka(
    members: range, block_hash: BlockHash, round_: int = 0, valid_round: int = -1, height: int = HEIGHT
) -> PolkaCertificate:
    return polka_certificate([prevote(m, block_hash, round_, valid_round, height) for m in members])


def commit(members: range, block_hash: BlockHash, round_: int = 0, height: int = HEIGHT) -> CommitCertificate:
    return commit_certificate([precommit(m, block_hash, round_, height) for m in members])
