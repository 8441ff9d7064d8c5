"""A seat that lost its record signs again above what six others prove they decided, and no liar moves that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio.testing
from msgspec.structs import replace

from consensus.blocks import DecidedBlock
from consensus.encoding import encode
from consensus.genesis import genesis_hash
from consensus.identifiers import Height, MemberIndex, Signature
from consensus.messages import (
    BlocksRequest,
    BlocksResponse,
    HeightRequest,
    HeightResponse,
    RecordsResponse,
    decided_height_sign_bytes,
    decode_request,
    encode_response,
)
from consensus.schedule import MemberSchedule, genesis_schedule
from node.rejoin import FLOOR_MARGIN, rejoin
from node.signer import Signer, SigningRefusedError
from tests.node.asked import Answering, Members
from tests.node.real_chain import open_signer
from tests.node.small_chain import KEYS, small_chain, small_genesis
from tests.node.test_signer import precommit

GENESIS = small_genesis()
CHAIN = small_chain(GENESIS, 6)
ME = MemberIndex(0)
NONCE_OF_BEFORE = b"n" * 32


@dataclass(slots=True)
class Following:
    """The chain of the seat that rejoins."""

    height: Height
    schedule: MemberSchedule


FAR = Following(Height(10_000), genesis_schedule(GENESIS))


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[Signer]:
    with open_signer(tmp_path, fresh=False) as opened:
        yield opened


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.01)


def word(member: int, nonce: bytes, height: int, signer: int | None = None) -> HeightResponse:
    message = decided_height_sign_bytes(nonce, Height(height), genesis_hash(GENESIS))
    signature = KEYS[member if signer is None else signer].sign(message)
    return HeightResponse(height=Height(height), member=MemberIndex(member), signature=signature)


def telling(
    member: int,
    height: int,
    *,
    nonce: bytes | None = None,
    signer: int | None = None,
    named: int | None = None,
    shown: tuple[DecidedBlock, ...] | None = None,
) -> Answering:
    """Return a member that says it decided a height; what is given is where it lies."""

    async def answer(payload: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        match request := decode_request(payload):
            case HeightRequest():
                said = word(member, nonce or request.nonce, height, signer)
                return encode_response(said if named is None else replace(said, member=MemberIndex(named)))
            case BlocksRequest(from_height=first):
                blocks = CHAIN[first - 1 : first] if shown is None else shown
                return encode_response(BlocksResponse(decided=tuple(encode(block) for block in blocks)))
            case _:
                raise AssertionError(request)

    return answer


async def confused(payload: bytes) -> bytes:
    del payload
    await trio.lowlevel.checkpoint()
    return encode_response(RecordsResponse(records=()))


def honest(*heights: int, first: int = 1) -> dict[MemberIndex, Answering]:
    return {MemberIndex(m): telling(m, height) for m, height in enumerate(heights, first)}


async def test_the_floor_is_two_above_the_highest_of_six_others(signer: Signer) -> None:
    floor = await rejoin(signer, FAR, ME, Members(honest(3, 4, 4, 6, 4, 3)))
    assert floor == 6 + FLOOR_MARGIN == 8
    with pytest.raises(SigningRefusedError):
        signer.sign_vote(replace(precommit(8), member=ME))
    signer.sign_vote(replace(precommit(9), member=ME))


async def test_a_chain_without_blocks_is_shown_by_saying_so(signer: Signer) -> None:
    assert await rejoin(signer, FAR, ME, Members(honest(0, 0, 0, 0, 0, 0))) == FLOOR_MARGIN


async def test_nobody_asks_itself_and_every_question_is_fresh(signer: Signer) -> None:
    members = Members(honest(1, 1, 1, 1, 1, 1, 1, 1))
    await rejoin(signer, FAR, ME, members)
    questions = [payload for _, payload in members.asked if isinstance(decode_request(payload), HeightRequest)]
    assert len(set(questions)) == len(questions) == 8
    assert ME not in {member for member, _ in members.asked}


BAD = replace(CHAIN[5], commit=replace(CHAIN[5].commit, signatures=(Signature(bytes(64)),) * 6))
LIARS = {
    "the word of before the fire": telling(8, 6, nonce=NONCE_OF_BEFORE),
    "another's signature": telling(8, 6, signer=7),
    "in another's name": telling(8, 6, named=1),
    "a height that is not there": telling(8, 1_000, shown=()),
    "a height with another's block": telling(8, 6, shown=(CHAIN[4],)),
    "two blocks": telling(8, 6, shown=CHAIN[4:6]),
    "an unproven block": telling(8, 6, shown=(BAD,)),
    "a certificate of another block": telling(8, 6, shown=(replace(CHAIN[5], block=CHAIN[4].block),)),
    "something else": confused,
}


@pytest.mark.parametrize("lie", LIARS)
async def test_a_liar_counts_for_nothing(signer: Signer, autojump_clock: trio.testing.MockClock, lie: str) -> None:
    """Five honest members and the liar are no six: the seat waits for the sixth, and the lie leaves no trace."""
    members = Members(honest(1, 1, 1, 1, 1) | {MemberIndex(8): LIARS[lie]})
    with trio.move_on_after(10):
        await rejoin(signer, FAR, ME, members)
        raise AssertionError("the liar was counted")
    assert signer.floor is None
    assert autojump_clock.current_time() > 0
    assert await rejoin(signer, FAR, ME, Members(honest(1, 1, 1, 1, 1, 1) | {MemberIndex(8): LIARS[lie]})) == 3


async def test_it_goes_on_asking_until_six_are_back(signer: Signer, autojump_clock: trio.testing.MockClock) -> None:
    members = Members(honest(2, 2, 2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rejoin, signer, FAR, ME, members)
        await trio.testing.wait_all_tasks_blocked()
        while autojump_clock.current_time() < 1:
            await trio.lowlevel.checkpoint()
            autojump_clock.jump(0.5)
        assert not signer.may_sign(Height(1_000))
        members.answers |= honest(5, 5, 5, first=4)
    assert signer.floor == 7
    assert sum(1 for member, _ in members.asked if member == 1) == 2, "who answered is not asked again"
