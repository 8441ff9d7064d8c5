"""What a process has to hear before its seat says anything, and what it says then."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from consensus.effects import BroadcastVote, Effect, ScheduleTimeout
from consensus.events import Timeout, TimeoutKind
from consensus.genesis import genesis_hash, genesis_members
from consensus.identifiers import Height, MemberIndex, Round, Signature
from consensus.messages import (
    HeightRequest,
    HeightResponse,
    decided_height_sign_bytes,
    decode_request,
    encode_response,
)
from consensus.schedule import MemberSchedule, genesis_schedule
from node.errors import PeerUnreachableError
from node.high_water import HeightQuestion, HighWater, Unsaid
from tests.consensus.messages_by_hand import RED, prevote
from tests.node.small_chain import KEYS, small_genesis

GENESIS = small_genesis()
PEER = MemberIndex(5)


class OurChain:
    """Implements OwnChain."""

    height = Height(1)

    @property
    def schedule(self) -> MemberSchedule:
        return genesis_schedule(GENESIS)


class Peer:
    """Implements Asker: answers one by one as told."""

    def __init__(self, answers: Sequence[HeightResponse | None]) -> None:
        self.answers = list(answers)
        self.nonces: list[bytes] = []

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        asked = decode_request(payload)
        assert isinstance(asked, HeightRequest)
        self.nonces.append(asked.nonce)
        answer = self.answers.pop(0)
        if answer is None:
            raise PeerUnreachableError("silent")
        return encode_response(answer)

    def refuse(self, member: MemberIndex, error: Exception) -> None:
        raise AssertionError("an answer that proves nothing is asked for again")


def answer_of(member: int, height: int, nonce: bytes) -> HeightResponse:
    message = decided_height_sign_bytes(nonce, Height(height), genesis_hash(GENESIS))
    return HeightResponse(height=Height(height), member=MemberIndex(member), signature=KEYS[member].sign(message))


def test_nothing_is_signed_until_q_less_one_others_had_decided_no_more() -> None:
    mark = HighWater(needed=genesis_members(GENESIS).budget.quorum - 1)
    for member in range(1, 5):
        mark.note(MemberIndex(member), Height(7))
    assert not mark.is_reached(Height(7)), "four are not enough"
    mark.note(MemberIndex(5), Height(9))
    assert not mark.is_reached(Height(8)), "the fifth is ahead"
    mark.note(MemberIndex(6), Height(10**9))
    assert mark.is_reached(Height(9)), "who names a height that does not exist is waited for by nobody"
    assert mark.is_reached(Height(1)), "and it stays so"


async def test_a_member_is_asked_until_it_answers_this_very_question() -> None:
    nonce, pauses = b"n" * 32, list[float]()
    forged = HeightResponse(height=Height(3), member=PEER, signature=Signature(bytes(64)))
    peer = Peer([None, forged, answer_of(5, 3, b"o" * 32), answer_of(6, 3, nonce), answer_of(5, 4, nonce)])

    async def pause(span_s: float) -> None:
        pauses.append(span_s)

    mark = HighWater(needed=1)
    await HeightQuestion(mark=mark, nonce=nonce, chain=OurChain()).ask(peer, PEER, pause)
    assert peer.nonces == [nonce] * 5
    assert len(pauses) == 4
    assert not mark.is_reached(Height(3))
    assert mark.is_reached(Height(4))


@pytest.mark.parametrize("tip", [4, 9])
def test_votes_wait_in_their_order_and_all_else_does_not(tip: int) -> None:
    mark = HighWater(needed=1)
    unsaid = Unsaid(mark=mark)
    votes: list[Effect] = [BroadcastVote(vote=prevote(round_, RED).vote) for round_ in range(2)]
    timeout = ScheduleTimeout(timeout=Timeout(kind=TimeoutKind.PROPOSE, height=Height(5), round=Round(0)))
    assert [unsaid.holds(effect, Height(tip)) for effect in (*votes, timeout)] == [True, True, False]
    assert unsaid.take(Height(tip)) == ()
    mark.note(PEER, Height(4))
    assert unsaid.take(Height(tip)) == tuple(votes)
    assert unsaid.take(Height(tip)) == ()
    assert not unsaid.holds(votes[0], Height(tip))
