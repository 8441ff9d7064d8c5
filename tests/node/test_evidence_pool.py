"""A fault that reaches one honest member is told to all, kept through a restart, and stands in its next block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.blocks import Block
from consensus.chain import make_block
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import VoteEvidence, fault_place
from consensus.identifiers import BlockHash, Height, MemberIndex, Milliseconds, Round
from consensus.messages import EvidenceMessage, ProposalMessage, decode_message, encode_message
from consensus.vote_keeper import vote_evidence
from consensus.votes import Precommit
from node.evidence_pool import MEMBER_EVIDENCE_MAX
from node.member import Member
from node.message_gate import SecondCopyError
from storage.stores.waiting_evidence import WAITING_MAX
from tests.node.one_member import OneMember, open_member
from tests.node.small_chain import decide, signed, small_chain, small_genesis

GENESIS = small_genesis()
CHAIN = small_chain(GENESIS, 3)
ME, PEER = 4, MemberIndex(5)
"""The member whose turn is next, and one that hands evidence on."""


def proof(member: int = 7, height: int = 2, round_: int = 0) -> VoteEvidence:
    votes = (
        Precommit(
            height=Height(height),
            round=Round(round_),
            block_hash=BlockHash(bytes((fill,)) * 32),
            member=MemberIndex(member),
        )
        for fill in (1, 2)
    )
    one, two = (signed(GENESIS, vote) for vote in votes)
    return vote_evidence(one, two)


def frame(evidence: VoteEvidence) -> bytes:
    return encode_message(EvidenceMessage(evidence=evidence))


@pytest.fixture
def member(tmp_path: Path) -> Iterator[OneMember]:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as opened:
        yield opened


def inner(member: OneMember) -> Member:
    return member.consensus._member


async def work(member: OneMember) -> None:
    """Do all that is queued."""
    while True:
        await inner(member).advance()
        if not inner(member).has_queued:
            return


def told(member: OneMember) -> list[VoteEvidence]:
    messages = [decode_message(sent) for to, sent in member.sent.frames if to is None]
    return [m.evidence for m in messages if isinstance(m, EvidenceMessage) and isinstance(m.evidence, VoteEvidence)]


async def test_evidence_heard_is_told_to_all_once_and_stands_in_the_next_block(member: OneMember) -> None:
    await inner(member).recover()
    for sender in (PEER, MemberIndex(6)):
        member.consensus.receive(sender, frame(proof()))
    await work(member)
    assert told(member) == [proof()]
    proposals = [m for _, sent in member.sent.frames if isinstance(m := decode_message(sent), ProposalMessage)]
    assert [message.block.evidence for message in proposals] == [(proof(),)]
    await inner(member)._append(decide(GENESIS, proposals[0].block, 0), None)
    assert member.chain.is_known_fault(proof())
    member.sent.frames.clear()
    member.consensus.receive(PEER, frame(proof()))
    await work(member)
    assert told(member) == []


async def test_a_convicted_member_makes_no_further_block_by_what_it_signs(member: OneMember) -> None:
    await inner(member).recover()
    member.consensus.receive(PEER, frame(proof()))
    assert not member.chain.is_convicted(MemberIndex(7))
    await work(member)
    assert inner(member)._start_moment() < inner(member)._start.begun_at + 1
    await inner(member)._append(decide(GENESIS, made(member), 0), None)
    assert member.chain.is_convicted(MemberIndex(7))
    assert inner(member)._start_moment() < inner(member)._start.begun_at + 1, "the conviction is certified at once"
    await inner(member)._append(decide(GENESIS, made(member), 0), None)
    quiet = inner(member)._start_moment()
    assert quiet > inner(member)._start.begun_at + 1, "then there is no reason but the heartbeat"
    member.consensus.receive(PEER, frame(proof(round_=1)))
    await work(member)
    assert told(member)[-1] == proof(round_=1)
    assert inner(member)._start_moment() == quiet
    await inner(member)._append(decide(GENESIS, made(member), 0), None)
    assert member.chain.is_known_fault(proof(round_=1)), "committed all the same"
    assert inner(member)._start_moment() > inner(member)._start.begun_at + 1
    member.consensus.receive(PEER, frame(proof(member=6)))
    await inner(member).advance()
    assert inner(member)._start_moment() < inner(member)._start.begun_at + 1, "another member is a reason again"


def made(member: OneMember) -> Block:
    """Return the block that whoever has the turn makes of what waits."""
    chain, waiting = member.chain, inner(member)._evidence.waiting()
    tip = chain.tip
    proposer = chain.turns.proposer(Height(tip.height + 1), Round(0))
    return make_block(
        tip, chain.rules, proposer, transactions=(), evidence=waiting, now_ms=Milliseconds(tip.time_ms + 1)
    )


async def test_evidence_survives_a_restart_after_its_height(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=0) as member:
        await inner(member).recover()
        member.consensus.receive(PEER, frame(proof()))
        await work(member)
    with open_member(tmp_path / "home", (), seat=0, fresh=False) as member:
        await inner(member).recover()
        await inner(member)._repeat()
        assert told(member) == [proof()]


async def test_evidence_waits_and_is_told_again_with_every_block_that_lacks_it(member: OneMember) -> None:
    await inner(member).recover()
    member.consensus.receive(PEER, frame(proof()))
    await work(member)
    block = member.chain.make_block((), (), CHAIN[-1].block.header.time_ms, None)
    member.sent.frames.clear()
    await inner(member)._append(decide(GENESIS, block, 0), None)
    assert told(member) == [proof()]


def test_what_proves_nothing_costs_its_bearer_the_connection(member: OneMember) -> None:
    honest = replace(proof(), second=proof().first)
    with pytest.raises(RejectionError) as caught:
        member.consensus.receive(PEER, frame(honest))
    assert caught.value.reason is RejectionReason.BAD_EVIDENCE


def test_this_seats_own_signatures_from_elsewhere_stop_it(member: OneMember) -> None:
    with pytest.raises(SecondCopyError):
        member.consensus.receive(PEER, frame(proof(member=ME, height=4)))


async def test_a_liar_that_repeats_itself_takes_nobodys_place(member: OneMember) -> None:
    pool = inner(member)._evidence
    for round_ in range(WAITING_MAX):
        await pool.add(proof(7, round_=round_))
    assert len(pool.waiting()) == MEMBER_EVIDENCE_MAX
    for guilty in (0, 1, 2):
        await pool.add(proof(guilty))
    assert {fault_place(one)[1] for one in pool.waiting()} == {7, 0, 1, 2}


async def test_what_the_next_block_could_not_hold_waits_nowhere(member: OneMember) -> None:
    pool = inner(member)._evidence
    assert pool.has_room(proof(height=4))
    assert not pool.has_room(proof(height=5))


async def test_no_more_waits_than_one_block_takes(member: OneMember) -> None:
    pool = inner(member)._evidence
    for guilty in range(8):
        for round_ in range(MEMBER_EVIDENCE_MAX):
            await pool.add(proof(guilty, round_=round_))
    assert len(pool.waiting()) == WAITING_MAX
    assert len(member.chain.waiting_evidence()) == WAITING_MAX
