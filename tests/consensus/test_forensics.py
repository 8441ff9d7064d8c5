"""Two decisions of one height name at least 2q - n members, and only liars."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.blocks import Block, DecidedBlock, header_hash
from consensus.certificates import commit_certificate, polka_certificate
from consensus.errors import RejectionError, RejectionReason
from consensus.events import Validity
from consensus.forensics import Culprit, Guilt, is_amnesia, name_culprits
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, Round, Signature
from consensus.members import MemberSet
from consensus.round_machine import FreshProposal, ProvenProposal, RoundState, RoundValue, may_prevote
from consensus.votes import Precommit, Prevote, SignedVote, Vote, vote_sign_bytes
from tests.consensus.test_chain import CHAIN, GENESIS, KEYS, RULES, START, made_on

MEMBERS: MemberSet = RULES.members
ONE, OTHER = made_on(START, 1, b"one"), made_on(START, 1, b"other")


def signed(vote: Vote) -> SignedVote:
    return SignedVote(vote=vote, signature=KEYS[vote.member].sign(vote_sign_bytes(vote, CHAIN)))


def proven(block: Block, voters: list[int], rounds: tuple[int, ...]) -> DecidedBlock:
    """Decide a block in the last of these rounds; all of them have a polka unless that is round 0."""
    name = header_hash(block.header)
    polkas = [
        polka_certificate(
            [
                signed(
                    Prevote(
                        height=Height(1),
                        round=Round(round_),
                        block_hash=name,
                        valid_round=Round(valid),
                        member=MemberIndex(member),
                    )
                )
                for member in voters
            ]
        )
        for valid, round_ in pairwise((NO_ROUND, *rounds))
    ]
    commit = commit_certificate(
        [
            signed(Precommit(height=Height(1), round=Round(rounds[-1]), block_hash=name, member=MemberIndex(member)))
            for member in voters
        ]
    )
    return DecidedBlock(block=block, commit=commit, polkas=tuple(reversed(polkas)) if rounds[-1] else ())


def named(culprits: tuple[Culprit, ...]) -> set[int]:
    return {int(culprit.member) for culprit in culprits}


ROUNDS = st.sets(st.integers(0, 6), min_size=1, max_size=4).map(lambda rounds: tuple(sorted(rounds)))


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32), count=st.integers(3, 6), one=ROUNDS, other=ROUNDS)
def test_a_fork_of_three_to_six_liars_names_at_least_three_and_only_liars(
    seed: int, count: int, one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    seats = Random(seed).sample(range(9), 9)
    liars, honest = seats[:count], seats[count:]
    half = 6 - count
    sides = (honest[:half], honest[len(honest) - half :])  # each honest member sees one block alone
    assert not set(sides[0]) & set(sides[1])
    decisions = [
        proven(block, sorted([*liars, *side]), rounds)
        for block, side, rounds in zip((ONE, OTHER), sides, (one, other), strict=True)
    ]
    culprits = name_culprits(decisions[0], decisions[1], MEMBERS)
    assert named(culprits) <= set(liars)
    assert len(culprits) >= 2 * MEMBERS.budget.quorum - 9
    assert named(name_culprits(decisions[1], decisions[0], MEMBERS)) == named(culprits)


def test_commits_of_one_round_prove_two_precommits() -> None:
    culprits = name_culprits(proven(ONE, [0, 1, 2, 3, 4, 5], (0,)), proven(OTHER, [3, 4, 5, 6, 7, 8], (0,)), MEMBERS)
    assert [(c.member, c.guilt) for c in culprits] == [(m, Guilt.EQUIVOCATION) for m in (3, 4, 5)]


def test_commits_of_different_rounds_prove_a_forgotten_lock() -> None:
    culprits = name_culprits(proven(ONE, [0, 1, 2, 3, 4, 5], (0,)), proven(OTHER, [3, 4, 5, 6, 7, 8], (1, 3)), MEMBERS)
    assert [(c.member, c.guilt) for c in culprits] == [(m, Guilt.AMNESIA) for m in (3, 4, 5)]
    assert all(is_amnesia(c.first.vote, c.second.vote) for c in culprits)


BLOCKS = st.sampled_from([BlockHash(b"a" * 32), BlockHash(b"b" * 32)])


@given(st.lists(st.tuples(BLOCKS, st.integers(-1, 5), st.booleans()), max_size=6))
def test_whoever_obeys_its_lock_is_never_accused(proposals: list[tuple[BlockHash, int, bool]]) -> None:
    """Any proposals, one a round: an honest member prevotes what its lock allows and may see a polka for it."""
    state, votes = RoundState(), list[Vote]()
    for number, (block_hash, valid, sees_polka) in enumerate(proposals):
        round_, me = Round(number), MemberIndex(0)
        valid_round = Round(min(valid, number - 1))
        shown = (
            FreshProposal(block_hash=block_hash, validity=Validity.VALID)
            if valid_round == NO_ROUND
            else ProvenProposal(block_hash=block_hash, valid_round=valid_round, validity=Validity.VALID)
        )
        if not may_prevote(state, shown):
            continue
        votes.append(Prevote(height=Height(1), round=round_, block_hash=block_hash, valid_round=valid_round, member=me))
        if sees_polka:
            votes.append(Precommit(height=Height(1), round=round_, block_hash=block_hash, member=me))
            state = RoundState(locked=RoundValue(round=round_, block_hash=block_hash))
    assert not any(is_amnesia(first, second) for first in votes for second in votes)


def test_what_was_not_decided_accuses_nobody() -> None:
    whole, late = proven(ONE, list(range(6)), (0,)), proven(OTHER, list(range(3, 9)), (1, 3))

    def refusal(other: DecidedBlock) -> RejectionReason:
        with pytest.raises(RejectionError) as caught:
            name_culprits(whole, other, MEMBERS)
        return caught.value.reason

    assert refusal(whole) is RejectionReason.WRONG_HEIGHT
    assert refusal(replace(late, polkas=late.polkas[:1])) is RejectionReason.MISSING_POLKA
    assert refusal(replace(late, polkas=())) is RejectionReason.MISSING_POLKA
    forged = replace(late.commit, signatures=(Signature(bytes(64)), *late.commit.signatures[1:]))
    assert refusal(replace(late, commit=forged)) is RejectionReason.BAD_SIGNATURE
    assert refusal(replace(late, block=ONE)) is RejectionReason.WRONG_CERTIFICATE
    assert GENESIS.members == MEMBERS.public_keys
