"""Certificates: the votes that prove something to whoever was not there.

Polka: q prevotes for one block with one valid round. Commit: q precommits for one block.
Round: the right to be in round r, by q precommits of round r - 1 or by w messages of round r.
Signatures stand in the order of the bitmap's set bits, lowest member first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import (
    HASH,
    HEIGHT,
    MEMBERS_MAX,
    ROUND,
    SIGNATURE,
    VALID_ROUND,
    BlockHash,
    Height,
    MemberIndex,
    Round,
    Signature,
)
from consensus.proposals import SignedProposal, check_proposal
from consensus.signing import check_signature
from consensus.votes import Precommit, Prevote, SignedVote, check_vote, vote_sign_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consensus.members import MemberSet
    from consensus.signing import SignatureCheck

BITMAP_BYTES: Final = MEMBERS_MAX // 8

Bitmap = Annotated[bytes, Meta(min_length=BITMAP_BYTES, max_length=BITMAP_BYTES)]
"""Member i is bit i of the big-endian integer; MEMBERS_MAX bits."""
Signatures = Annotated[tuple[Annotated[Signature, SIGNATURE], ...], Meta(min_length=1, max_length=MEMBERS_MAX)]


class PolkaCertificate(Record, tag=6):
    """q prevotes for one block in one round; a value locked may be unlocked by a later one."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    block_hash: Annotated[BlockHash, HASH]
    valid_round: Annotated[Round, VALID_ROUND]
    members: Bitmap
    signatures: Signatures


class CommitCertificate(Record, tag=7):
    """q or more precommits for one block in one round: it is decided."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    block_hash: Annotated[BlockHash, HASH]
    members: Bitmap
    signatures: Signatures


class RoundCertificate(Record, tag=8):
    """Why its bearer is in `round`: q precommits of the round before, or w messages of this one."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    votes: Annotated[tuple[SignedVote, ...], Meta(max_length=MEMBERS_MAX)]
    proposal: SignedProposal | None


Certificate = PolkaCertificate | CommitCertificate | RoundCertificate


def bitmap_of(members: Iterable[MemberIndex]) -> bytes:
    """Return the 8-byte bitmap of these members."""
    bits = 0
    for member in members:
        bits |= 1 << member
    return bits.to_bytes(BITMAP_BYTES, "big")


def bitmap_members(bitmap: bytes) -> tuple[MemberIndex, ...]:
    """Return the members of a bitmap, lowest first."""
    bits = int.from_bytes(bitmap, "big")
    return tuple(MemberIndex(i) for i in range(bits.bit_length()) if bits >> i & 1)


def signers(certificate: PolkaCertificate | CommitCertificate) -> tuple[MemberIndex, ...]:
    """Return who signed, lowest first."""
    return bitmap_members(certificate.members)


def round_senders(certificate: RoundCertificate) -> frozenset[MemberIndex]:
    """Return the distinct senders of the messages that a round certificate holds."""
    senders = {signed.vote.member for signed in certificate.votes}
    if certificate.proposal is not None:
        senders.add(certificate.proposal.proposal.proposer)
    return frozenset(senders)


def polka_certificate(votes: Sequence[SignedVote]) -> PolkaCertificate:
    """Return the certificate of prevotes that differ in nothing but member and signature."""
    first = votes[0].vote
    assert isinstance(first, Prevote), "a polka is made of prevotes"
    assert first.block_hash is not None, "nil needs no polka certificate"
    by_member = {signed.vote.member: signed.signature for signed in votes}
    assert len(by_member) == len(votes), "one prevote a member"
    return PolkaCertificate(
        height=first.height,
        round=first.round,
        block_hash=first.block_hash,
        valid_round=first.valid_round,
        members=bitmap_of(by_member),
        signatures=tuple(by_member[member] for member in sorted(by_member)),
    )


def commit_certificate(votes: Sequence[SignedVote]) -> CommitCertificate:
    """Return the certificate of precommits that differ in nothing but member and signature."""
    first = votes[0].vote
    assert isinstance(first, Precommit), "a commit is made of precommits"
    assert first.block_hash is not None, "nil is never decided"
    by_member = {signed.vote.member: signed.signature for signed in votes}
    assert len(by_member) == len(votes), "one precommit a member"
    return CommitCertificate(
        height=first.height,
        round=first.round,
        block_hash=first.block_hash,
        members=bitmap_of(by_member),
        signatures=tuple(by_member[member] for member in sorted(by_member)),
    )


def polka_votes(certificate: PolkaCertificate) -> tuple[SignedVote, ...]:
    """Return the prevotes that a polka certificate condenses, lowest member first."""
    return tuple(
        SignedVote(
            vote=Prevote(
                height=certificate.height,
                round=certificate.round,
                block_hash=certificate.block_hash,
                valid_round=certificate.valid_round,
                member=member,
            ),
            signature=signature,
        )
        for member, signature in zip(signers(certificate), certificate.signatures, strict=True)
    )


def commit_votes(certificate: CommitCertificate) -> tuple[SignedVote, ...]:
    """Return the precommits that a commit certificate condenses, lowest member first."""
    return tuple(
        SignedVote(
            vote=Precommit(
                height=certificate.height, round=certificate.round, block_hash=certificate.block_hash, member=member
            ),
            signature=signature,
        )
        for member, signature in zip(signers(certificate), certificate.signatures, strict=True)
    )


def check_polka(certificate: PolkaCertificate, members: MemberSet, check: SignatureCheck = check_signature) -> None:
    """Verify a polka certificate (rule A22).

    Raises:
        RejectionError: WRONG_ROUND (a valid round that is not earlier), WRONG_CERTIFICATE, NOT_A_MEMBER, NO_QUORUM,
            BAD_SIGNATURE.
    """
    if certificate.valid_round >= certificate.round:
        raise RejectionError(RejectionReason.WRONG_ROUND, "a valid round comes before the round")
    _check_bitmap(certificate, members)
    _check_signatures(polka_votes(certificate), members, check)


def check_commit(certificate: CommitCertificate, members: MemberSet, check: SignatureCheck = check_signature) -> None:
    """Verify a commit certificate (rule A23).

    Raises:
        RejectionError: WRONG_CERTIFICATE, NOT_A_MEMBER, NO_QUORUM, BAD_SIGNATURE.
    """
    _check_bitmap(certificate, members)
    _check_signatures(commit_votes(certificate), members, check)


def check_round_certificate(
    certificate: RoundCertificate, members: MemberSet, check: SignatureCheck = check_signature
) -> None:
    """Verify the right to be in a round: q precommits of the round before, or w messages of this one (rule A24).

    Whether the proposal's sender had the turn is the driver's to say.

    Raises:
        RejectionError: WRONG_CERTIFICATE (order, mixture), WRONG_HEIGHT, WRONG_ROUND, NOT_A_MEMBER, NO_QUORUM,
            BAD_SIGNATURE.
    """
    if certificate.round == 0:
        raise RejectionError(RejectionReason.WRONG_ROUND, "nobody needs a right to round 0")
    voters = [signed.vote.member for signed in certificate.votes]
    if voters != sorted(set(voters)):
        raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "votes not in member order, or a member twice")
    _check_round_messages(certificate, members)
    for signed in certificate.votes:
        check_vote(signed, members, check)
    if certificate.proposal is not None:
        check_proposal(certificate.proposal, members, check)


def _check_round_messages(certificate: RoundCertificate, members: MemberSet) -> None:
    budget = members.budget
    if any(signed.vote.height != certificate.height for signed in certificate.votes):
        raise RejectionError(RejectionReason.WRONG_HEIGHT, "a vote of another height")
    rounds = {signed.vote.round for signed in certificate.votes}
    proposal = certificate.proposal
    if proposal is not None:
        if proposal.proposal.height != certificate.height:
            raise RejectionError(RejectionReason.WRONG_HEIGHT, "a proposal of another height")
        rounds.add(proposal.proposal.round)
    if rounds == {certificate.round}:
        if len(round_senders(certificate)) < budget.weak_quorum:
            raise RejectionError(RejectionReason.NO_QUORUM, f"fewer than {budget.weak_quorum} senders in the round")
        return
    if rounds != {certificate.round - 1}:
        raise RejectionError(RejectionReason.WRONG_ROUND, f"messages of rounds {sorted(rounds)[:4]}")
    if proposal is not None or not all(isinstance(signed.vote, Precommit) for signed in certificate.votes):
        raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "precommits alone end the round before")
    if len(certificate.votes) < budget.quorum:
        raise RejectionError(RejectionReason.NO_QUORUM, f"fewer than {budget.quorum} precommits of the round before")


def _check_bitmap(certificate: PolkaCertificate | CommitCertificate, members: MemberSet) -> None:
    voters = signers(certificate)
    if len(voters) != len(certificate.signatures):
        raise RejectionError(
            RejectionReason.WRONG_CERTIFICATE, f"{len(voters)} members, {len(certificate.signatures)} signatures"
        )
    for member in voters:
        members.public_key(member)
    if len(voters) < members.budget.quorum:
        raise RejectionError(RejectionReason.NO_QUORUM, f"{len(voters)} of {members.budget.quorum} votes")


def _check_signatures(votes: tuple[SignedVote, ...], members: MemberSet, check: SignatureCheck) -> None:
    for signed in votes:
        message = vote_sign_bytes(signed.vote, members.genesis_hash)
        check(members.public_key(signed.vote.member), message, signed.signature)
