"""One member with a real disk: what is durable before a vote leaves, and what a restart still knows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus.blocks import Block, header_hash
from consensus.certificates import polka_certificate
from consensus.chain import make_block
from consensus.events import HeightStarted, ProposalReceived, Validity, VoteReceived
from consensus.genesis import genesis_hash
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, PublicKey, Round, Signature
from consensus.messages import PolkaMessage, ProposalMessage, VoteMessage, decode_message, encode_message
from consensus.proposals import Proposal, SignedProposal, proposal_sign_bytes
from consensus.round_machine import RoundValue
from consensus.signing import check_signature
from consensus.votes import Precommit, Prevote, SignedVote
from node.clock import now_ms
from node.member import Member
from node.write_ahead_log import WriteAheadLog
from tests.node.one_member import OneMember, open_member
from tests.node.small_chain import KEYS, signed, small_chain, small_genesis

GENESIS = small_genesis()
CHAIN = small_chain(GENESIS, 2)
NEXT = Height(3)
ME = MemberIndex(0)
PEERS = tuple(MemberIndex(m) for m in range(1, 6))


def inner(member: OneMember) -> Member:
    return member.consensus._member


async def hear(member: OneMember, *messages: ProposalMessage | VoteMessage | PolkaMessage) -> None:
    for message in messages:
        member.consensus.receive(PEERS[0], encode_message(message))
    await inner(member).advance()
    while inner(member).has_queued:
        await inner(member).advance()


def cast(member: OneMember) -> list[tuple[str, BlockHash | None]]:
    messages = [decode_message(frame) for to, frame in member.sent.frames if to is None]
    votes = [message.signed.vote for message in messages if isinstance(message, VoteMessage)]
    return [(type(vote).__name__, vote.block_hash) for vote in votes]


def fresh_block(member: OneMember) -> Block:
    proposer = member.chain.turns.proposer(NEXT, Round(0))
    return make_block(member.chain.tip, member.chain.rules, proposer, transactions=(), evidence=(), now_ms=now_ms())


def proposed(block: Block) -> ProposalMessage:
    proposer = block.header.proposer
    made = Proposal(
        height=NEXT,
        round=Round(0),
        block_hash=header_hash(block.header),
        valid_round=NO_ROUND,
        proposer=proposer,
    )
    signature = KEYS[proposer].sign(proposal_sign_bytes(made, genesis_hash(GENESIS)))
    return ProposalMessage(
        signed=SignedProposal(proposal=made, signature=signature), block=block, records=(), polka=None
    )


def prevote(member: MemberIndex, block_hash: BlockHash | None) -> SignedVote:
    vote = Prevote(height=NEXT, round=Round(0), block_hash=block_hash, valid_round=NO_ROUND, member=member)
    return signed(GENESIS, vote)


def precommit(member: MemberIndex, block_hash: BlockHash | None) -> SignedVote:
    return signed(GENESIS, Precommit(height=NEXT, round=Round(0), block_hash=block_hash, member=member))


async def test_log_then_record_are_flushed_before_a_vote_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = list[tuple[str, int]]()
    really = os.fdatasync
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:

        def watched(descriptor: int) -> None:
            flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, len(cast(member))))
            really(descriptor)

        await inner(member).recover()
        monkeypatch.setattr(os, "fdatasync", watched)
        block = fresh_block(member)
        await hear(member, proposed(block))
        assert cast(member) == [("Prevote", header_hash(block.header))]
        assert flushed == [("log", 0), ("signer", 0)]


async def test_a_restarted_member_holds_its_lock_and_the_locked_block(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        await inner(member).recover()
        block = fresh_block(member)
        named = header_hash(block.header)
        await hear(member, proposed(block), *[VoteMessage(signed=prevote(m, named)) for m in PEERS])
        assert cast(member) == [("Prevote", named), ("Precommit", named)]
        before = inner(member).state
        assert before.machine.locked == RoundValue(round=Round(0), block_hash=named)
    with open_member(tmp_path / "home", (), seat=ME, fresh=False) as member:
        await inner(member).recover()
        assert inner(member).state == before
        known = inner(member)._intake.pool.get(named)
        assert known is not None
        assert known.block == block
        assert cast(member) == [("Precommit", named)]  # the record says whether it left, the log need not


async def test_a_vote_that_the_crash_prevented_is_cast_after_the_restart(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_member(home, CHAIN, seat=ME) as member:
        block = fresh_block(member)
    named = header_hash(block.header)
    log = WriteAheadLog(home / "wal", genesis_hash(GENESIS))
    log.begin(NEXT)
    log.append_event(HeightStarted(height=NEXT))
    log.append_event(VoteReceived(signed=prevote(PEERS[0], named)))
    log.append_event(ProposalReceived(signed=proposed(block).signed, validity=Validity.VALID))
    log.flush()
    log.close()
    with open_member(home, (), seat=ME, fresh=False) as member:
        await inner(member).recover()
        assert cast(member) == [("Prevote", named)]


async def test_a_polka_leaves_after_its_precommit_and_only_to_whoever_has_not_precommitted_the_block(
    tmp_path: Path,
) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        await inner(member).recover()
        block = fresh_block(member)
        named = header_hash(block.header)
        early = [VoteMessage(signed=precommit(m, named)) for m in PEERS[:2]]
        other = VoteMessage(signed=precommit(PEERS[2], None))
        await hear(member, *early, other, proposed(block), *[VoteMessage(signed=prevote(m, named)) for m in PEERS])
        kinds = [(type(decode_message(frame)), to) for to, frame in member.sent.frames]
        shown = {to for kind, to in kinds if kind is PolkaMessage}
        assert shown == set(map(MemberIndex, range(9))) - set(PEERS[:2])
        last_vote = max(i for i, (kind, _) in enumerate(kinds) if kind is VoteMessage)
        assert all(i > last_vote for i, (kind, _) in enumerate(kinds) if kind is PolkaMessage)


async def test_a_polka_that_was_counted_here_and_votes_of_no_use_are_not_checked_again(tmp_path: Path) -> None:
    checked = list[bytes]()

    def check(public_key: PublicKey, message: bytes, signature: Signature) -> None:
        checked.append(message)
        check_signature(public_key, message, signature)

    with open_member(tmp_path / "home", CHAIN, seat=ME, check=check) as member:
        await inner(member).recover()
        block = fresh_block(member)
        named = header_hash(block.header)
        votes = [prevote(m, named) for m in PEERS]
        polka = PolkaMessage(certificate=polka_certificate([*votes, prevote(MemberIndex(6), named)]))
        await hear(member, proposed(block), *[VoteMessage(signed=signed) for signed in votes])
        assert cast(member) == [("Prevote", named), ("Precommit", named)]
        checked.clear()
        await hear(member, polka)
        late = Prevote(height=Height(NEXT - 1), round=Round(0), block_hash=named, valid_round=NO_ROUND, member=PEERS[0])
        await hear(member, VoteMessage(signed=signed(GENESIS, late)))
        assert checked == []
