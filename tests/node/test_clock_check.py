"""A clock is judged by the chain and by as many members that no two liars move the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import RejectionError
from consensus.identifiers import MemberIndex, Milliseconds
from consensus.messages import ClockRequest, ClockResponse, decode_request, encode_response
from node.clock_check import check_clock_after, check_clock_with
from node.errors import ConfigurationError, PeerUnreachableError
from tests.strategies import example_members

NOON = 1_700_000_000_000
DRIFT = Milliseconds(10_000)
ME = MemberIndex(0)
HOUR = 3_600_000


@dataclass(slots=True)
class Others:
    """Members that answer with their clocks; one that is not named is down."""

    clocks: Mapping[int, int]
    asked: list[int] = field(default_factory=list[int])

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        assert decode_request(payload) == ClockRequest()
        assert deadline_s > 0
        self.asked.append(member)
        if member not in self.clocks:
            raise PeerUnreachableError("down")
        return encode_response(ClockResponse(time_ms=Milliseconds(self.clocks[member])))

    def refuse(self, member: MemberIndex, error: RejectionError) -> None:
        raise AssertionError(f"{member} refused: {error}")


async def check(others: Others, own_ms: int = NOON) -> None:
    await check_clock_with(others, example_members(9), ME, lambda: Milliseconds(own_ms), DRIFT)


async def test_a_clock_among_the_others_is_fine() -> None:
    others = Others({member: NOON + 100 * member for member in range(1, 9)})
    await check(others)
    assert sorted(others.asked) == list(range(1, 9))


@pytest.mark.parametrize(("own_ms", "said"), [(NOON + HOUR, "60 minutes ahead of"), (NOON - HOUR, "60 minutes behind")])
async def test_a_clock_an_hour_off_is_told(own_ms: int, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^the clock of this machine is {said} those of 5 other members: set"):
        await check(Others(dict.fromkeys(range(1, 6), NOON)), own_ms)


async def test_two_liars_keep_nobody_out() -> None:
    await check(Others({1: NOON + HOUR, 2: NOON + HOUR, 3: NOON, 4: NOON, 5: NOON}))


async def test_two_liars_let_nobody_in() -> None:
    with pytest.raises(ConfigurationError, match="60 minutes behind"):
        await check(Others({1: NOON - HOUR, 2: NOON - HOUR, 3: NOON, 4: NOON, 5: NOON}), NOON - HOUR)


async def test_four_answers_judge_nothing(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    others = Others(dict.fromkeys(range(1, 5), NOON))
    with trio.move_on_after(60) as scope:
        await check(others, NOON + HOUR)
    assert scope.cancelled_caught
    others.clocks = dict.fromkeys(range(1, 6), NOON)
    with pytest.raises(ConfigurationError, match="ahead of"):
        await check(others, NOON + HOUR)


async def test_an_answer_on_its_way_for_long_is_no_wrong_clock() -> None:
    told = iter([NOON, NOON + HOUR])
    others = Others({1: NOON + HOUR // 2})
    await check_clock_with(others, example_members(2), ME, lambda: Milliseconds(next(told)), DRIFT)


@given(behind_ms=st.integers(-HOUR, HOUR))
def test_a_clock_behind_the_last_block_is_told(behind_ms: int) -> None:
    own_ms = Milliseconds(NOON - behind_ms)
    if behind_ms <= DRIFT:
        check_clock_after(Milliseconds(NOON), own_ms, DRIFT)
        return
    with pytest.raises(ConfigurationError, match="behind the last block of its chain: set it"):
        check_clock_after(Milliseconds(NOON), own_ms, DRIFT)
