"""A proven fault is a line of the state: once, for ever, under a key that says all but when it was proven."""

from __future__ import annotations

import pytest
from hypothesis import given

from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import ProposalEvidence, VoteEvidence, fault_place
from storage.faults import FaultState, check_new_faults, fault_key, read_fault
from storage.ledger import apply_transactions
from storage.state import read_state
from tests.storage.ledger_world import World
from tests.strategies import records

EVIDENCE = records(VoteEvidence) | records(ProposalEvidence)


@given(EVIDENCE, EVIDENCE)
def test_one_key_is_one_fault(one: VoteEvidence | ProposalEvidence, other: VoteEvidence | ProposalEvidence) -> None:
    assert (fault_key(one) == fault_key(other)) == (fault_place(one) == fault_place(other))
    fault = read_fault(fault_key(one), b"\x92\x09\x07")
    kind, member, height, round_ = fault_place(one)
    assert (fault.kind, fault.member, fault.height, fault.round) == (kind.lower(), member, height, round_)
    assert fault.proven_at == 7


def test_evidence_alone_changes_the_root_and_no_outcome() -> None:
    world = World()
    before, proof = world.tip.state_root, world.evidence(2)
    decided = world.decide(evidence=(proof,))
    assert decided.block.evidence == (proof,)
    assert world.tip.state_root != before
    assert read_state(world.state, fault_key(proof), FaultState) == FaultState(height=world.tip.height)
    assert b"o" not in world.state.values


def test_a_fault_is_known_whichever_pair_of_messages_proves_it() -> None:
    world = World()
    proof = world.evidence(2)
    check_new_faults(world.state, (proof, world.evidence(2, round_=1)))
    world.decide(evidence=(proof,))
    check_new_faults(world.state, (world.evidence(1), world.evidence(2, round_=1), world.evidence(2, height=2)))
    for repeated in ((proof,), (world.evidence(1), proof)):
        with pytest.raises(RejectionError) as caught:
            check_new_faults(world.state, repeated)
        assert caught.value.reason is RejectionReason.BAD_EVIDENCE


def test_evidence_and_transactions_change_the_state_together() -> None:
    world = World()
    proof = world.evidence(2)
    change = apply_transactions(world.context, world.state, world.next_moment(), (), (proof,))
    assert set(change.values) == {fault_key(proof)}
    assert change.outcomes == ()
