"""A prevote that a polka here already says is not proven again, and still proves its sender's second word."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.blocks import header_hash
from consensus.certificates import polka_certificate
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import VoteEvidence
from consensus.identifiers import BlockHash, MemberIndex, PublicKey, Round, Signature
from consensus.messages import EvidenceMessage, PolkaMessage, VoteMessage, decode_message, encode_message
from consensus.signing import check_signature
from consensus.vote_keeper import tally
from consensus.votes import SignedVote
from tests.consensus.messages_by_hand import RED
from tests.node.one_member import OneMember, open_member
from tests.node.test_member import CHAIN, ME, PEERS, fresh_block, hear, inner, prevote, proposed

LATE, OTHER = MemberIndex(7), MemberIndex(8)


class Counting:
    """Signatures that were proven, by key."""

    def __init__(self) -> None:
        self.keys: list[PublicKey] = []

    def __call__(self, public_key: PublicKey, message: bytes, signature: Signature) -> None:
        self.keys.append(public_key)
        check_signature(public_key, message, signature)


def say(member: OneMember, *votes: SignedVote) -> None:
    """Have each vote arrive from its own member."""
    for signed in votes:
        member.consensus.receive(signed.vote.member, encode_message(VoteMessage(signed=signed)))


async def locked(member: OneMember) -> BlockHash:
    """Bring a member to where it has seen the polka of its round."""
    await inner(member).recover()
    block = fresh_block(member)
    block_hash = header_hash(block.header)
    await hear(member, proposed(block), *(VoteMessage(signed=prevote(peer, block_hash)) for peer in PEERS))
    assert inner(member).state.machine.locked is not None
    return block_hash


def prevoted(member: OneMember) -> set[MemberIndex]:
    return set(tally(inner(member).state.keeper, Round(0)).prevotes)


def guilty(member: OneMember) -> set[MemberIndex]:
    """Return whose second prevote was told to others."""
    messages = [decode_message(frame) for _, frame in member.sent.frames]
    proofs = [message.evidence for message in messages if isinstance(message, EvidenceMessage)]
    return {proof.first.vote.member for proof in proofs if isinstance(proof, VoteEvidence)}


async def test_a_late_prevote_costs_no_proof_and_no_place_in_the_queue(tmp_path: Path) -> None:
    check = Counting()
    with open_member(tmp_path / "home", CHAIN, seat=ME, check=check) as member:
        block_hash = await locked(member)
        before = len(check.keys)
        say(member, prevote(LATE, block_hash), prevote(OTHER, block_hash))
        assert len(check.keys) == before
        assert not inner(member).has_queued
        assert LATE not in prevoted(member)


async def test_a_prevote_is_late_once_a_quorum_of_its_like_is_queued(tmp_path: Path) -> None:
    check = Counting()
    with open_member(tmp_path / "home", CHAIN, seat=ME, check=check) as member:
        await inner(member).recover()
        block = fresh_block(member)
        block_hash = header_hash(block.header)
        first = (*PEERS, OTHER)
        say(member, *(prevote(peer, block_hash) for peer in first))
        assert len(check.keys) == len(first) == inner(member).state.context.budget.quorum
        say(member, prevote(LATE, block_hash))
        assert len(check.keys) == len(first)
        polka = polka_certificate([prevote(peer, block_hash) for peer in first])
        member.consensus.receive(OTHER, encode_message(PolkaMessage(certificate=polka)))
        while inner(member).has_queued:
            await inner(member).advance()
        assert prevoted(member) == set(first), "a polka that says the same lets nothing in"
        await hear(member, proposed(block))
        assert inner(member).state.machine.locked is not None


async def test_who_repeats_a_late_prevote_is_heard(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        block_hash = await locked(member)
        say(member, prevote(LATE, block_hash), prevote(OTHER, block_hash), prevote(LATE, block_hash))
        while inner(member).has_queued:
            await inner(member).advance()
        assert {LATE, OTHER} <= prevoted(member)


@pytest.mark.parametrize("second", [RED, None])
async def test_who_says_something_else_is_proven_guilty(tmp_path: Path, second: BlockHash | None) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        block_hash = await locked(member)
        say(member, prevote(LATE, block_hash), prevote(OTHER, block_hash), prevote(LATE, second))
        while inner(member).has_queued:
            await inner(member).advance()
        assert {LATE, OTHER} <= prevoted(member), "what was kept was let in"
        assert guilty(member) == {LATE}


async def test_a_polka_for_another_block_meets_what_was_kept(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        block_hash = await locked(member)
        say(member, prevote(LATE, block_hash))
        liars = (*PEERS, LATE)
        await hear(member, PolkaMessage(certificate=polka_certificate([prevote(liar, RED) for liar in liars])))
        assert guilty(member) == set(liars)


async def test_what_another_brings_is_proven_at_once(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        block_hash = await locked(member)
        forged = replace(prevote(LATE, block_hash), signature=Signature(bytes(64)))
        with pytest.raises(RejectionError) as caught:
            member.consensus.receive(OTHER, encode_message(VoteMessage(signed=forged)))
        assert caught.value.reason is RejectionReason.BAD_SIGNATURE


async def test_a_forged_late_vote_harms_its_bearer_alone(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        block_hash = await locked(member)
        say(member, replace(prevote(LATE, block_hash), signature=Signature(bytes(64))))
        say(member, prevote(OTHER, None))
        while inner(member).has_queued:
            await inner(member).advance()
        assert OTHER in prevoted(member)
        assert LATE not in prevoted(member)
        assert guilty(member) == set()


async def test_a_new_height_keeps_nothing(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        say(member, prevote(LATE, await locked(member)))
        late = inner(member)._reception._late
        assert late._by_place
        inner(member)._begin_height()
        assert not late._by_place
