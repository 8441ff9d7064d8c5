"""A member that was away gets the chain from whoever has it; liars cost a question, and answers have their bounds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, MemberIndex, Round, Signature
from consensus.messages import (
    BlocksRequest,
    BlocksResponse,
    HeightRequest,
    HeightResponse,
    RecordsRequest,
    RecordsResponse,
    StatusMessage,
    check_decided_height,
    decode_request,
    decode_response,
    encode_message,
    encode_request,
    encode_response,
)
from node import catch_up_task
from node.catch_up_task import run_catch_up
from storage.identifiers import RecordAddress
from tests.node.asked import Answering, Members
from tests.node.one_member import OneMember, open_member
from tests.node.small_chain import small_chain, small_genesis

CHAIN = small_chain(small_genesis(), 5)
ONE, TWO = MemberIndex(1), MemberIndex(2)
NONCE = b"n" * 32
PATIENCE_S = 20.0


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[OneMember]:
    with open_member(tmp_path / "whole", CHAIN, seat=1) as member:
        yield member


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[OneMember]:
    with open_member(tmp_path / "behind", CHAIN[:1], seat=8) as member:
        yield member


@asynccontextmanager
async def catching_up(member: OneMember, members: Members) -> AsyncGenerator[None, None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.consensus.run)
        nursery.start_soon(run_catch_up, member.consensus, members)
        yield
        nursery.cancel_scope.cancel()


def says(member: OneMember, index: MemberIndex, height: int) -> None:
    member.consensus.receive(index, encode_message(StatusMessage(height=Height(height), round=Round(0))))


async def until_height(member: OneMember, height: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while member.chain.tip.height < height:
            await member.consensus.appended.wait()


async def until(is_done: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not is_done():
            await trio.testing.wait_all_tasks_blocked(0.01)


def lying(*responses: BlocksResponse) -> Answering:
    answers = list(responses)

    async def answer(payload: bytes) -> bytes:
        del payload
        await trio.lowlevel.checkpoint()
        return encode_response(answers[0] if len(answers) == 1 else answers.pop(0))

    return answer


async def test_who_is_behind_fetches_all_at_once(whole: OneMember, behind: OneMember) -> None:
    members = Members({ONE: whole.server.answer})
    async with catching_up(behind, members):
        says(behind, ONE, 6)
        await until_height(behind, 5)
    assert behind.chain.tip == whole.chain.tip
    assert [appended.height for appended in behind.appended] == [2, 3, 4, 5]
    assert members.asked == [(ONE, encode_request(BlocksRequest(from_height=Height(2), count=64)))]


FORGED = replace(CHAIN[1], commit=replace(CHAIN[1].commit, signatures=(Signature(bytes(64)),) * 6))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (BlocksResponse(decided=(encode(FORGED),)), RejectionReason.BAD_SIGNATURE),
        (BlocksResponse(decided=(encode(CHAIN[2]),)), RejectionReason.WRONG_HEIGHT),
        (BlocksResponse(decided=(b"\xc1",)), RejectionReason.MALFORMED),
    ],
)
async def test_a_liar_is_named_and_the_chain_comes_from_another(
    whole: OneMember, behind: OneMember, answer: BlocksResponse, reason: RejectionReason
) -> None:
    members = Members({ONE: lying(answer), TWO: whole.server.answer})
    async with catching_up(behind, members):
        says(behind, ONE, 1_000)
        await until(lambda: bool(members.refused))
        assert behind.chain.tip.height == 1
        says(behind, TWO, 6)
        says(behind, ONE, 1_000)
        await until_height(behind, 5)
    assert [(member, error.reason) for member, error in members.refused] == [(ONE, reason)]
    assert behind.chain.tip == whole.chain.tip


async def test_who_has_not_what_it_claims_is_left_alone_and_not_blamed(whole: OneMember, behind: OneMember) -> None:
    members = Members({ONE: lying(BlocksResponse(decided=()))})
    async with catching_up(behind, members):
        says(behind, ONE, 9)
        says(behind, TWO, 8)  # and is away
        await until(lambda: {member for member, _ in members.asked} == {ONE, TWO})
        assert members.refused == []
        members.answers[TWO] = whole.server.answer
        says(behind, TWO, 8)
        await until_height(behind, 5)


async def test_good_blocks_before_a_bad_one_are_kept(behind: OneMember) -> None:
    members = Members({ONE: lying(BlocksResponse(decided=(encode(CHAIN[1]), encode(CHAIN[2]), encode(FORGED))))})
    async with catching_up(behind, members):
        says(behind, ONE, 9)
        await until_height(behind, 3)


async def asked(member: OneMember, request: BlocksRequest | HeightRequest | RecordsRequest) -> object:
    return decode_response(await member.server.answer(encode_request(request)))


async def test_blocks_are_served_from_the_first_asked_for(whole: OneMember) -> None:
    for first, count, heights in ((1, 64, [1, 2, 3, 4, 5]), (2, 2, [2, 3]), (5, 64, [5]), (6, 1, []), (0, 2, [1])):
        answer = await asked(whole, BlocksRequest(from_height=Height(first), count=count))
        assert answer == BlocksResponse(decided=tuple(encode(CHAIN[height - 1]) for height in heights))


async def test_an_answer_has_as_many_blocks_as_fit_and_one_at_least(
    whole: OneMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [len(encode(decided)) for decided in CHAIN]
    for bytes_max, count in ((1, 1), (sizes[0] + sizes[1], 2), (sizes[0] + sizes[1] + sizes[2] - 1, 2)):
        monkeypatch.setattr(catch_up_task, "BLOCKS_BYTES_MAX", bytes_max)
        answer = await asked(whole, BlocksRequest(from_height=Height(1), count=64))
        assert answer == BlocksResponse(decided=tuple(encode(decided) for decided in CHAIN[:count]))


async def test_the_decided_height_is_signed_with_the_nonce(whole: OneMember) -> None:
    answer = await asked(whole, HeightRequest(nonce=NONCE))
    assert isinstance(answer, HeightResponse)
    assert (answer.height, answer.member) == (5, 1)
    check_decided_height(answer, NONCE, whole.chain.rules.members)
    with pytest.raises(RejectionError) as caught:
        check_decided_height(answer, b"o" * 32, whole.chain.rules.members)
    assert caught.value.reason is RejectionReason.BAD_SIGNATURE


async def test_who_rejoins_speaks_for_no_height(tmp_path: Path) -> None:
    with open_member(tmp_path / "burnt", CHAIN, fresh=False) as burnt:
        for floor in (None, Height(6)):
            if floor is not None:
                burnt.signer.set_floor(floor)
            with pytest.raises(RejectionError, match="too_late: this seat is rejoining itself"):
                await burnt.server.answer(encode_request(HeightRequest(nonce=NONCE)))


async def test_records_are_served_as_far_as_they_are_here_and_fit(
    whole: OneMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [RecordAddress(bytes([number]) * 32) for number in range(4)]
    whole.chain.write_records({addresses[1]: b"a" * 10, addresses[3]: b"b" * 10, addresses[0]: b"c" * 10})
    request = RecordsRequest(addresses=tuple(addresses))
    assert await asked(whole, request) == RecordsResponse(records=(b"c" * 10, b"a" * 10, b"b" * 10))
    monkeypatch.setattr(catch_up_task, "RECORDS_BYTES_MAX", 25)
    assert await asked(whole, request) == RecordsResponse(records=(b"c" * 10, b"a" * 10))


@pytest.mark.parametrize("payload", [b"", b"\x90", b"\xc1" * 40, encode_response(BlocksResponse(decided=()))])
async def test_what_is_no_question_is_refused(whole: OneMember, payload: bytes) -> None:
    with pytest.raises(RejectionError) as caught:
        await whole.server.answer(payload)
    assert caught.value.reason is RejectionReason.MALFORMED


async def test_members_are_asked_side_by_side_for_a_share_each(
    whole: OneMember, behind: OneMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up_task, "BLOCKS_PER_REQUEST_MAX", 2)
    members = Members({ONE: whole.server.answer, TWO: whole.server.answer})
    async with catching_up(behind, members):
        says(behind, ONE, 6)
        says(behind, TWO, 6)
        await until_height(behind, 5)
    asked = [(member, decode_request(payload)) for member, payload in members.asked]
    assert asked == [
        (ONE, BlocksRequest(from_height=Height(2), count=2)),
        (TWO, BlocksRequest(from_height=Height(4), count=2)),
    ]
    assert behind.chain.tip == whole.chain.tip


async def test_the_share_behind_a_liars_is_asked_for_again(
    whole: OneMember, behind: OneMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up_task, "BLOCKS_PER_REQUEST_MAX", 2)
    members = Members({ONE: lying(BlocksResponse(decided=(encode(FORGED),))), TWO: whole.server.answer})
    async with catching_up(behind, members):
        says(behind, ONE, 6)
        says(behind, TWO, 6)
        await until_height(behind, 5)
    assert [(member, error.reason) for member, error in members.refused] == [(ONE, RejectionReason.BAD_SIGNATURE)]
    assert behind.chain.tip == whole.chain.tip
