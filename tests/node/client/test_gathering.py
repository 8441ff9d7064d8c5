"""Questions are asked together, each answered by an asking that began after it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.client.gathering import Gathering
from node.errors import PeerUnreachableError


class Oracle:
    """Answers each number with its double, when it is let."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate = trio.Event()

    async def double(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        await self.gate.wait()
        return [2 * number for number in numbers]


async def test_a_lone_question_leaves_at_once_and_those_that_come_meanwhile_leave_together() -> None:
    oracle = Oracle()
    gathering = Gathering(oracle.double, together_max=3, in_flight_max=1)
    answers: dict[int, int] = {}

    async def ask(number: int) -> None:
        answers[number] = await gathering.ask(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gathering.run)
        async with trio.open_nursery() as askers:
            askers.start_soon(ask, 0)
            await wait_all_tasks_blocked()
            for number in (1, 2, 3, 4):
                askers.start_soon(ask, number)
            await wait_all_tasks_blocked()
            assert oracle.asked == [[0]]
            oracle.gate.set()
        nursery.cancel_scope.cancel()
    assert sorted(map(len, oracle.asked)) == [1, 1, 3]
    assert answers == {number: 2 * number for number in range(5)}


async def test_the_same_question_is_asked_once_while_it_waits_and_again_while_it_is_under_way() -> None:
    oracle = Oracle()
    gathering = Gathering(oracle.double, together_max=8, in_flight_max=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gathering.run)
        async with trio.open_nursery() as askers:
            askers.start_soon(gathering.ask, 7)
            await wait_all_tasks_blocked()
            for _ in range(3):
                askers.start_soon(gathering.ask, 7)
            await wait_all_tasks_blocked()
            oracle.gate.set()
        nursery.cancel_scope.cancel()
    assert oracle.asked == [[7], [7]]


async def test_a_failed_asking_fails_all_who_shared_it_and_nobody_else() -> None:
    async def fail(numbers: Sequence[int]) -> list[int]:
        await trio.lowlevel.checkpoint()
        if 13 in numbers:
            raise PeerUnreachableError("nobody answers")
        return list(numbers)

    gathering = Gathering(fail, together_max=8, in_flight_max=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gathering.run)
        with pytest.raises(PeerUnreachableError, match=r"^nobody answers$"):
            await gathering.ask(13)
        assert await gathering.ask(14) == 14
        nursery.cancel_scope.cancel()
