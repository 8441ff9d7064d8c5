"""Which lock allows which prevote: the stricter form of L22 and L28 (rules A45, A46)."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.events import Validity
from consensus.identifiers import NO_ROUND, BlockHash, Round
from consensus.round_machine import (
    CastPrevote,
    FreshProposal,
    ProvenProposal,
    RoundState,
    RoundValue,
    Step,
    apply,
    may_prevote,
)

RED: Final = BlockHash(b"r" * 32)
BLUE: Final = BlockHash(b"b" * 32)


def locked(round_: int, block_hash: BlockHash) -> RoundState:
    """Return a member in round 5 that locked a block."""
    return RoundState(round=Round(5), step=Step.PROPOSE, locked=RoundValue(round=Round(round_), block_hash=block_hash))


def proven(valid_round: int, block_hash: BlockHash, validity: Validity = Validity.VALID) -> ProvenProposal:
    return ProvenProposal(block_hash=block_hash, valid_round=Round(valid_round), validity=validity)


@pytest.mark.parametrize(
    ("lock", "proposal", "allowed"),
    [
        (locked(2, RED), proven(3, RED), True),
        (locked(2, RED), proven(3, BLUE), True),
        (locked(2, RED), proven(2, RED), True),
        (locked(2, RED), proven(2, BLUE), False),  # two polkas in one round: more liars than the budget
        (locked(2, RED), proven(1, RED), False),  # the paper's "or the same block is locked" is not ours
        (locked(2, RED), proven(1, BLUE), False),
        (locked(2, RED), proven(3, RED, Validity.INVALID), False),
        (locked(2, RED), FreshProposal(block_hash=RED, validity=Validity.VALID), False),
        (RoundState(round=Round(5), step=Step.PROPOSE), FreshProposal(block_hash=RED, validity=Validity.VALID), True),
        (RoundState(round=Round(5), step=Step.PROPOSE), proven(0, RED), True),
    ],
)
def test_the_lock_decides_what_may_be_prevoted(
    *, lock: RoundState, proposal: FreshProposal | ProvenProposal, allowed: bool
) -> None:
    assert may_prevote(lock, proposal) is allowed
    _, outputs = apply(lock, proposal)
    valid_round = proposal.valid_round if isinstance(proposal, ProvenProposal) else NO_ROUND
    assert outputs == (
        CastPrevote(block_hash=proposal.block_hash, valid_round=valid_round)
        if allowed
        else CastPrevote(block_hash=None, valid_round=NO_ROUND),
    )


@given(lock_round=st.integers(0, 4), valid_round=st.integers(0, 4))
def test_no_prevote_reads_as_a_forgotten_lock(lock_round: int, valid_round: int) -> None:
    """Whoever precommitted one block and then prevotes another shows a polka later than its precommit."""
    assert may_prevote(locked(lock_round, RED), proven(valid_round, BLUE)) == (valid_round > lock_round)
