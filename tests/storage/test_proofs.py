"""Proofs convince with the members' keys alone, and no mutation of them does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.certificates import CommitCertificate, bitmap_of
from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import MemberIndex
from storage.proofs import (
    StateProof,
    certified_header,
    check_state_proof,
    check_transaction_proof,
    decode_state_proof,
    decode_transaction_proof,
    transaction_proof,
)
from storage.state import EntryState, decode_state, entry_key, segment_key
from storage.state_tree import prove
from storage.transactions import Extent
from tests.storage.ledger_world import BUCKET, TENANT, World, entry, name_tag, segment_id

ENTRY = entry_key(TENANT, BUCKET, name_tag("a"))


def small_world() -> tuple[World, StateProof]:
    """Commit one object on nine seats and prove it by the empty block that follows."""
    world = World(seats=9)
    body = world.commit((world.segment("s"),), entry("a", Extent(segment=0, extent_bytes=10)))
    world.decide(world.transaction(body))
    return world, proof_of(world, ENTRY)


def proof_of(world: World, state_key: bytes) -> StateProof:
    decided = world.decide()
    return StateProof(
        certified=certified_header(decided, world.rules.members),
        value=world.state.value(state_key),
        tree=prove(world.state, state_key),
    )


WORLD, PROOF = small_world()
MEMBERS = WORLD.rules.members


def test_an_entry_is_proven_by_six_signatures() -> None:
    value = check_state_proof(decode_state_proof(encode(PROOF)), ENTRY, MEMBERS)
    assert value is not None
    assert decode_state(value, EntryState).extents[0].segment_id == segment_id("s")
    assert len(PROOF.certified.commit.signatures) == 6
    assert len(encode(PROOF)) - len(value) < 3 * 1024


def test_absence_is_proven_too() -> None:
    for state_key in (entry_key(TENANT, BUCKET, name_tag("none")), segment_key(segment_id("none"))):
        assert check_state_proof(proof_of(WORLD, state_key), state_key, MEMBERS) is None


def test_a_proof_of_one_key_proves_no_other() -> None:
    with pytest.raises(RejectionError, match="bad_proof"):
        check_state_proof(PROOF, entry_key(TENANT, BUCKET, name_tag("b")), MEMBERS)
    with pytest.raises(RejectionError, match="bad_proof"):
        check_state_proof(msgspec.structs.replace(PROOF, value=None), ENTRY, MEMBERS)


def test_five_signatures_are_not_enough() -> None:
    commit = PROOF.certified.commit
    five = CommitCertificate(
        height=commit.height,
        round=commit.round,
        block_hash=commit.block_hash,
        members=bitmap_of(MemberIndex(i) for i in range(5)),
        signatures=commit.signatures[:5],
    )
    weak = msgspec.structs.replace(PROOF, certified=msgspec.structs.replace(PROOF.certified, commit=five))
    with pytest.raises(RejectionError) as refused:
        check_state_proof(weak, ENTRY, MEMBERS)
    assert refused.value.reason is RejectionReason.NO_QUORUM


def test_another_chains_members_prove_nothing() -> None:
    with pytest.raises(RejectionError, match="bad_signature"):
        check_state_proof(PROOF, ENTRY, World(seats=9, chain_id="another").rules.members)


@settings(max_examples=400)
@given(st.integers(0, len(encode(PROOF)) - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_state_proof_is_refused(position: int, change: int) -> None:
    mutated = bytearray(encode(PROOF))
    mutated[position] ^= change
    with pytest.raises(RejectionError):
        check_state_proof(decode_state_proof(bytes(mutated)), ENTRY, MEMBERS)


def test_a_transaction_is_proven_and_any_changed_byte_refused() -> None:
    world = World()
    transactions = [world.transaction(world.commit((), entry(f"e{i}"))) for i in range(5)]
    decided = world.decide(*transactions)
    proof = transaction_proof(decided, 3, world.rules.members)
    assert check_transaction_proof(proof, world.rules.members) == transactions[3]
    encoded = encode(proof)
    assert len(encoded) - len(transactions[3]) < 3 * 1024
    for position in range(len(encoded)):
        mutated = bytearray(encoded)
        mutated[position] ^= 1
        with pytest.raises(RejectionError):
            check_transaction_proof(decode_transaction_proof(bytes(mutated)), world.rules.members)
