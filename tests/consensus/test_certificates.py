"""What proves something to whoever was not there, and every way in which it may fail to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.certificates import (
    RoundCertificate,
    bitmap_members,
    bitmap_of,
    check_commit,
    check_polka,
    check_round_certificate,
    commit_votes,
    polka_votes,
    signers,
)
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import ProposalEvidence, VoteEvidence, check_evidence, fault_place
from consensus.identifiers import NO_ROUND, GenesisHash, Height, MemberIndex, Round, Signature
from consensus.members import member_set
from consensus.messages import HeightResponse, check_decided_height, decided_height_sign_bytes
from consensus.proposals import check_proposal
from consensus.vote_keeper import proposal_evidence, vote_evidence
from consensus.votes import Prevote, SignedVote, check_vote
from tests.consensus.messages_by_hand import BLUE, KEYS, RED, commit, polka, precommit, prevote, proposal, sign_vote
from tests.strategies import CHAIN, example_members

if TYPE_CHECKING:
    from collections.abc import Callable

NINE = example_members(9)
BAD = Signature(bytes(64))


def reason(check: Callable[[], None]) -> RejectionReason:
    with pytest.raises(RejectionError) as caught:
        check()
    return caught.value.reason


@given(st.sets(st.integers(0, 63)))
def test_a_bitmap_names_its_members_in_order(members: set[int]) -> None:
    bitmap = bitmap_of(MemberIndex(i) for i in members)
    assert len(bitmap) == 8
    assert bitmap_members(bitmap) == tuple(sorted(members))


@pytest.mark.parametrize("count", [4, 7, 9, 10, 13])
def test_a_quorum_proves_and_one_fewer_does_not(count: int) -> None:
    members = example_members(count)
    quorum = members.budget.quorum
    check_polka(polka(range(quorum), RED), members)
    check_commit(commit(range(count - quorum, count), RED), members)
    assert reason(lambda: check_polka(polka(range(quorum - 1), RED), members)) is RejectionReason.NO_QUORUM
    assert reason(lambda: check_commit(commit(range(quorum - 1), RED), members)) is RejectionReason.NO_QUORUM


def test_five_of_nine_prove_nothing() -> None:
    assert reason(lambda: check_commit(commit(range(2 * 2 + 1), RED), NINE)) is RejectionReason.NO_QUORUM


def test_a_certificate_may_hold_more_than_a_quorum() -> None:
    certificate = commit(range(9), RED)
    check_commit(certificate, NINE)
    assert signers(certificate) == tuple(range(9))


def test_certificates_give_their_votes_back() -> None:
    assert list(polka_votes(polka(range(6), RED, 3, 1))) == [prevote(m, RED, 3, 1) for m in range(6)]
    assert list(commit_votes(commit(range(6), RED, 3))) == [precommit(m, RED, 3) for m in range(6)]


@settings(max_examples=30)
@given(position=st.integers(0, 5), bit=st.integers(0, 511))
def test_any_flipped_bit_of_a_signature_is_noticed(position: int, bit: int) -> None:
    certificate = commit(range(6), RED)
    signature = bytearray(certificate.signatures[position])
    signature[bit // 8] ^= 1 << bit % 8
    signatures = list(certificate.signatures)
    signatures[position] = Signature(bytes(signature))
    changed = replace(certificate, signatures=tuple(signatures))
    assert reason(lambda: check_commit(changed, NINE)) is RejectionReason.BAD_SIGNATURE


def test_the_count_of_signatures_is_exact() -> None:
    certificate = commit(range(6), RED)
    more = replace(certificate, signatures=(*certificate.signatures, certificate.signatures[0]))
    fewer = replace(certificate, signatures=certificate.signatures[:5])
    assert reason(lambda: check_commit(more, NINE)) is RejectionReason.WRONG_CERTIFICATE
    assert reason(lambda: check_commit(fewer, NINE)) is RejectionReason.WRONG_CERTIFICATE


def test_a_member_counts_once_however_often_it_signs() -> None:
    one = precommit(0, RED).signature
    forged = replace(commit(range(6), RED), signatures=(one,) * 6)
    assert reason(lambda: check_commit(forged, NINE)) is RejectionReason.BAD_SIGNATURE


def test_strangers_are_refused() -> None:
    assert reason(lambda: check_commit(commit(range(5, 11), RED), NINE)) is RejectionReason.NOT_A_MEMBER
    assert reason(lambda: check_vote(precommit(9, RED), NINE)) is RejectionReason.NOT_A_MEMBER
    assert reason(lambda: check_proposal(proposal(9, RED), NINE)) is RejectionReason.NOT_A_MEMBER


def test_a_commit_is_no_polka_and_another_chain_is_another_chain() -> None:
    certificate = polka(range(6), RED)
    as_commit = replace(commit(range(6), RED), signatures=certificate.signatures)
    assert reason(lambda: check_commit(as_commit, NINE)) is RejectionReason.BAD_SIGNATURE
    elsewhere = member_set(GenesisHash(bytes(32)), NINE.public_keys)
    assert reason(lambda: check_polka(certificate, elsewhere)) is RejectionReason.BAD_SIGNATURE


def test_a_polka_proves_its_valid_round_too() -> None:
    certificate = replace(polka(range(6), RED, 3, 1), valid_round=Round(0))
    assert reason(lambda: check_polka(certificate, NINE)) is RejectionReason.BAD_SIGNATURE
    later = polka(range(6), RED, 3, 3)
    assert reason(lambda: check_polka(later, NINE)) is RejectionReason.WRONG_ROUND


def test_votes_and_proposals_are_checked_alone() -> None:
    check_vote(prevote(8, None), NINE)
    check_vote(prevote(8, RED, 3, 2), NINE)
    check_proposal(proposal(2, RED, 3, 2), NINE)
    assert (
        reason(lambda: check_vote(sign_vote(precommit(3, RED).vote, signer=4), NINE)) is RejectionReason.BAD_SIGNATURE
    )
    assert reason(lambda: check_vote(prevote(3, RED, 1, 1), NINE)) is RejectionReason.WRONG_ROUND
    assert reason(lambda: check_vote(prevote(3, None, 1, 0), NINE)) is RejectionReason.WRONG_ROUND
    assert reason(lambda: check_proposal(proposal(3, RED, 1, 1), NINE)) is RejectionReason.WRONG_ROUND
    forged = replace(proposal(3, RED), signature=BAD)
    assert reason(lambda: check_proposal(forged, NINE)) is RejectionReason.BAD_SIGNATURE


def right(round_: int, *votes: SignedVote, first: int | None = None) -> RoundCertificate:
    said = None if first is None else proposal(first, RED, round_)
    return RoundCertificate(height=Height(1), round=Round(round_), votes=votes, proposal=said)


def test_the_right_to_a_round_is_a_quorum_before_it_or_a_weak_quorum_in_it() -> None:
    check_round_certificate(right(2, *[precommit(m, None if m % 2 else RED, 1) for m in range(6)]), NINE)
    check_round_certificate(right(2, prevote(0, RED, 2), precommit(4, None, 2), prevote(8, None, 2)), NINE)
    check_round_certificate(right(2, prevote(0, RED, 2), precommit(4, None, 2), first=3), NINE)


def bad_rights() -> list[tuple[RoundCertificate, RejectionReason]]:
    nils = [precommit(m, None, 1) for m in range(6)]
    two = (prevote(0, RED, 2), prevote(1, RED, 2))
    return [
        (right(2, *nils[:5]), RejectionReason.NO_QUORUM),
        (right(2, *two), RejectionReason.NO_QUORUM),
        (right(2, *two, first=1), RejectionReason.NO_QUORUM),  # two senders of three messages
        (right(2), RejectionReason.WRONG_ROUND),
        (right(0, *[prevote(m, RED) for m in range(3)]), RejectionReason.WRONG_ROUND),
        (right(3, *nils), RejectionReason.WRONG_ROUND),
        (right(2, *nils[:5], prevote(8, RED, 2)), RejectionReason.WRONG_ROUND),
        (right(2, *nils[:5], prevote(8, RED, 1)), RejectionReason.WRONG_CERTIFICATE),
        (right(2, *nils[::-1]), RejectionReason.WRONG_CERTIFICATE),
        (right(2, *nils[:5], nils[4]), RejectionReason.WRONG_CERTIFICATE),
        (right(2, *nils[:5], precommit(8, None, 1, height=2)), RejectionReason.WRONG_HEIGHT),
        (right(2, *nils[:5], replace(nils[5], signature=BAD)), RejectionReason.BAD_SIGNATURE),
        (right(2, *nils[:5], precommit(9, None, 1)), RejectionReason.NOT_A_MEMBER),
    ]


@pytest.mark.parametrize(("certificate", "expected"), bad_rights())
def test_no_other_messages_give_a_right_to_a_round(certificate: RoundCertificate, expected: RejectionReason) -> None:
    assert reason(lambda: check_round_certificate(certificate, NINE)) is expected


def test_two_statements_for_one_place_are_evidence() -> None:
    votes = vote_evidence(prevote(3, RED), prevote(3, None))
    proposals = proposal_evidence(proposal(3, RED), proposal(3, BLUE))
    check_evidence(votes, NINE)
    check_evidence(proposals, NINE)
    assert fault_place(votes) == ("Prevote", 3, 1, 0)
    assert fault_place(proposals) == ("Proposal", 3, 1, 0)


def test_a_proof_does_not_depend_on_who_found_it() -> None:
    assert vote_evidence(prevote(3, RED), prevote(3, None)) == vote_evidence(prevote(3, None), prevote(3, RED))


def innocent_pairs() -> list[tuple[SignedVote, SignedVote]]:
    return [
        (prevote(3, RED), prevote(3, RED)),
        (prevote(3, RED), prevote(4, None)),
        (prevote(3, RED), prevote(3, None, 1)),
        (prevote(3, RED), prevote(3, None, height=2)),
        (prevote(3, RED), precommit(3, None)),
        (prevote(3, RED), SignedVote(vote=prevote(3, RED).vote, signature=BAD)),
    ]


@pytest.mark.parametrize("pair", innocent_pairs())
def test_nobody_is_accused_of_what_may_be_signed(pair: tuple[SignedVote, SignedVote]) -> None:
    for first, second in (pair, pair[::-1]):
        proof = VoteEvidence(first=first, second=second)
        assert reason(lambda proof=proof: check_evidence(proof, NINE)) is RejectionReason.BAD_EVIDENCE  # type: ignore[misc]


def test_forged_evidence_accuses_nobody() -> None:
    proof = vote_evidence(prevote(3, RED), sign_vote(prevote(3, None).vote, signer=4))
    assert reason(lambda: check_evidence(proof, NINE)) is RejectionReason.BAD_SIGNATURE
    turned = vote_evidence(prevote(3, RED), prevote(3, None))
    turned = VoteEvidence(first=turned.second, second=turned.first)
    assert reason(lambda: check_evidence(turned, NINE)) is RejectionReason.BAD_EVIDENCE
    forged = proposal_evidence(proposal(3, RED), replace(proposal(3, BLUE), signature=BAD))
    assert isinstance(forged, ProposalEvidence)
    assert reason(lambda: check_evidence(forged, NINE)) is RejectionReason.BAD_SIGNATURE


def test_a_height_is_vouched_for_under_one_nonce() -> None:
    nonce, height = bytes(32), Height(77)
    signature = KEYS[3].sign(decided_height_sign_bytes(nonce, height, CHAIN))
    answer = HeightResponse(height=height, member=MemberIndex(3), signature=signature)
    check_decided_height(answer, nonce, NINE)
    assert reason(lambda: check_decided_height(answer, b"n" * 32, NINE)) is RejectionReason.BAD_SIGNATURE
    higher = replace(answer, height=Height(78))
    assert reason(lambda: check_decided_height(higher, nonce, NINE)) is RejectionReason.BAD_SIGNATURE


def test_a_prevote_for_nil_has_one_encoding() -> None:
    vote = Prevote(height=Height(1), round=Round(4), block_hash=None, valid_round=NO_ROUND, member=MemberIndex(1))
    assert sign_vote(vote) == prevote(1, None, 4)
