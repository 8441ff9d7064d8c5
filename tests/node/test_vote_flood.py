"""A member that floods another with votes of every useless kind costs it bounded memory and nothing on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import BlockHash, Height, MemberIndex, PublicKey, Round, Signature
from consensus.messages import VoteMessage, encode_message
from consensus.signing import check_signature
from consensus.vote_keeper import ROUNDS_KEPT
from consensus.votes import SignedVote, Vote
from node.inbox import MEMBER_MESSAGES_MAX
from node.message_gate import SEEN_MAX
from tests.consensus.messages_by_hand import RED
from tests.node.one_member import open_member
from tests.node.small_chain import signed
from tests.node.test_member import CHAIN, GENESIS, ME, NEXT, inner, prevote

FLOOD = 2_000
LIAR = MemberIndex(4)
VOTE = prevote(LIAR, RED).vote


async def test_a_flood_of_votes_is_bounded_in_memory_and_leaves_the_log_alone(tmp_path: Path) -> None:
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        await inner(member).recover()
        consensus, log = member.consensus, tmp_path / "home" / "wal" / "log"
        member.consensus._parts.log.flush()
        before = log.stat().st_size
        for number in range(FLOOD):
            ahead = replace(VOTE, height=Height(NEXT + 1), round=Round(number))
            far = replace(VOTE, height=Height(NEXT + 2 + number))
            late = replace(VOTE, round=Round(ROUNDS_KEPT + 2 + number))
            for vote in (ahead, far, late):
                consensus.receive(LIAR, encode_message(VoteMessage(signed=signed(GENESIS, vote))))
        forged = encode_message(VoteMessage(signed=replace(signed(GENESIS, VOTE), signature=Signature(bytes(64)))))
        for _ in range(20):
            with pytest.raises(RejectionError) as caught:
                consensus.receive(LIAR, forged)
            assert caught.value.reason is RejectionReason.BAD_SIGNATURE
        inbox = inner(member)._inbox
        assert len(inbox) <= MEMBER_MESSAGES_MAX
        assert len(inbox._next) <= MEMBER_MESSAGES_MAX
        assert len(inner(member)._gate._seen) <= SEEN_MAX
        while inner(member).has_queued:
            await inner(member).advance()
        member.consensus._parts.log.flush()
        assert log.stat().st_size - before < 64, "the height has started, and that is all"
        assert not inner(member).state.keeper.tallies


@dataclass(slots=True)
class CountedChecks:
    """Checks signatures, and counts how often it was asked."""

    count: int = 0

    def __call__(self, public_key: PublicKey, message: bytes, signature: Signature) -> None:
        self.count += 1
        check_signature(public_key, message, signature)


async def test_votes_that_would_be_dropped_cost_no_signature_check(tmp_path: Path) -> None:
    checks = CountedChecks()
    with open_member(tmp_path / "home", CHAIN, seat=ME, check=checks) as member:
        await inner(member).recover()

        def flooded(*votes: Vote) -> int:
            before = checks.count
            for vote in votes:
                # Forged, so that whatever is checked is refused too.
                signed_vote = SignedVote(vote=vote, signature=Signature(bytes(64)))
                member.consensus.receive(LIAR, encode_message(VoteMessage(signed=signed_vote)))
            return checks.count - before

        far = range(ROUNDS_KEPT + 1, FLOOD)
        assert flooded(*(replace(VOTE, round=Round(number)) for number in far)) == 0
        assert flooded(*(replace(VOTE, height=Height(NEXT + 1), round=Round(number)) for number in far)) == 0
        assert flooded(*(replace(VOTE, height=Height(NEXT + 2 + number)) for number in far)) == 0
        with pytest.raises(RejectionError):
            flooded(replace(VOTE, round=Round(ROUNDS_KEPT)))
        with pytest.raises(RejectionError):
            flooded(replace(VOTE, height=Height(NEXT + 1), round=Round(ROUNDS_KEPT)))


async def test_what_a_members_share_of_the_next_height_has_no_room_for_costs_no_signature_check(tmp_path: Path) -> None:
    checks = CountedChecks()
    with open_member(tmp_path / "home", CHAIN, seat=ME, check=checks) as member:
        await inner(member).recover()
        for number in range(MEMBER_MESSAGES_MAX + 100):
            block_hash = BlockHash(number.to_bytes(32, "big"))
            vote = replace(VOTE, height=Height(NEXT + 1), block_hash=block_hash)
            member.consensus.receive(LIAR, encode_message(VoteMessage(signed=signed(GENESIS, vote))))
        assert checks.count == MEMBER_MESSAGES_MAX
        assert len(inner(member)._inbox._next) == MEMBER_MESSAGES_MAX
