"""Blocks of a height are kept while they are needed; what waits for records is bounded, the oldest giving way."""

from __future__ import annotations

import pytest

from consensus.events import Validity
from consensus.identifiers import NO_ROUND, BlockHash, MemberIndex, Round, Signature
from consensus.messages import ProposalMessage
from consensus.proposals import Proposal, SignedProposal
from node.proposal_pool import BLOCKS_MAX, WAITING_MAX, KnownBlock, ProposalPool, WaitingProposal
from storage.identifiers import RecordAddress, TenantId, VersionId
from storage.record_claims import RecordClaim
from tests.node.small_chain import small_chain, small_genesis

(DECIDED,) = small_chain(small_genesis(), 1)
BLOCK = DECIDED.block


def named(number: int) -> BlockHash:
    return BlockHash(number.to_bytes(32, "big"))


def address(number: int) -> RecordAddress:
    return RecordAddress(number.to_bytes(32, "big"))


def known(*addresses: int, validity: Validity = Validity.VALID) -> KnownBlock:
    return KnownBlock(block=BLOCK, validity=validity, addresses=tuple(address(number) for number in addresses))


def waiting(number: int) -> WaitingProposal:
    proposal = Proposal(
        height=BLOCK.header.height,
        round=Round(0),
        block_hash=named(number),
        valid_round=NO_ROUND,
        proposer=MemberIndex(0),
    )
    signed = SignedProposal(proposal=proposal, signature=Signature(bytes(64)))
    claim = RecordClaim(tenant=TenantId(bytes(16)), version_id=VersionId(bytes(16)), address=address(number))
    message = ProposalMessage(signed=signed, block=BLOCK, records=(), polka=None)
    return WaitingProposal(message=message, missing={claim.address: claim}, found={})


def test_a_block_is_what_it_was_first_said_to_be() -> None:
    pool = ProposalPool()
    assert pool.get(named(1)) is None
    pool.add(named(1), known())
    pool.add(named(1), known(validity=Validity.INVALID))
    assert pool.get(named(1)) == known()


def test_records_of_blocks_that_were_dropped_are_still_to_be_erased() -> None:
    pool = ProposalPool()
    pool.add(named(1), known(1, 2))
    pool.add(named(2), known(2, 3))
    pool.keep_only(frozenset([named(2), named(9)]))
    assert pool.get(named(1)) is None
    assert pool.get(named(2)) == known(2, 3)
    assert pool.addresses() == {address(1), address(2), address(3)}


def test_more_blocks_than_proposals_are_our_bug() -> None:
    pool = ProposalPool()
    for number in range(BLOCKS_MAX):
        pool.add(named(number), known())
    with pytest.raises(AssertionError, match="more blocks than proposals"):
        pool.add(named(BLOCKS_MAX), known())


def test_the_oldest_of_too_many_gives_way() -> None:
    pool = ProposalPool()
    for number in range(WAITING_MAX + 2):
        pool.wait(named(number), waiting(number))
    assert [block_hash for block_hash, _ in pool.all_waiting()] == [named(n) for n in range(2, WAITING_MAX + 2)]
    assert pool.waiting(named(0)) is None


def test_who_comes_again_is_young_again() -> None:
    pool = ProposalPool()
    for number in range(WAITING_MAX):
        pool.wait(named(number), waiting(number))
    pool.wait(named(0), waiting(0))
    pool.wait(named(WAITING_MAX), waiting(WAITING_MAX))
    assert pool.waiting(named(0)) is not None
    assert pool.waiting(named(1)) is None


def test_a_complete_one_waits_no_more_and_a_new_height_knows_nothing() -> None:
    pool = ProposalPool()
    pool.wait(named(1), waiting(1))
    pool.wait(named(2), waiting(2))
    pool.complete(named(1))
    pool.complete(named(7))
    assert [block_hash for block_hash, _ in pool.all_waiting()] == [named(2)]
    pool.add(named(1), known(1))
    pool.clear()
    assert (pool.get(named(1)), pool.all_waiting(), pool.addresses()) == (None, (), frozenset())
