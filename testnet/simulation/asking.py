"""Questions of one simulated node to the others' catch-up servers: several at once, each waited for by its own task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.errors import PeerUnreachableError
from testnet.simulation.timeline import SECOND_US, sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.identifiers import MemberIndex
    from testnet.simulation.network import Network
    from testnet.simulation.timeline import Task, Timeline

ASK_US: Final = 100_000
"""How long it takes to notice that nobody answers at a closed port."""


class Questions:
    """What one node has asked and not heard yet; gone with its process."""

    def __init__(
        self,
        seat: MemberIndex,
        timeline: Timeline,
        network: Network,
        answer_of: Callable[[MemberIndex, bytes], bytes | None],
    ) -> None:
        """Ask on behalf of a seat; `answer_of` is what another node says, None for nothing."""
        self._seat = seat
        self._timeline = timeline
        self._network = network
        self._answer_of = answer_of
        self._asked = 0
        self._waiting: dict[int, Task] = {}
        self._answers: dict[int, bytes | None] = {}

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        """Ask one node; waits in the task that runs."""
        self._asked += 1
        number, timeline = self._asked, self._timeline
        self._waiting[number] = timeline.running_task()
        self._network.send(self._seat, member, payload, lambda _a, _b, asked: self._serve(member, number, asked))
        ends_us = timeline.now_us + int(deadline_s * SECOND_US)
        try:
            while number not in self._answers and timeline.now_us < ends_us:
                await sleep(ends_us - timeline.now_us)
        finally:
            self._waiting.pop(number, None)
        answer = self._answers.pop(number, None)
        if answer is None:
            raise PeerUnreachableError(f"member {member} does not answer")
        return answer

    def forget(self) -> None:
        """The process has ended: nobody waits."""
        self._waiting.clear()
        self._answers.clear()

    def break_all(self) -> None:
        """Links have come up anew: what was asked before gets no answer."""
        for number in tuple(self._waiting):
            self._take(number, None)

    def _serve(self, member: MemberIndex, number: int, payload: bytes) -> None:
        """The question has arrived at the other node; a closed port is noticed, a silent one is not."""
        answer = self._answer_of(member, payload)
        if answer is None:
            self._timeline.after(ASK_US, lambda: self._take(number, None))
            return
        self._network.send(member, self._seat, answer, lambda _a, _b, frame: self._take(number, frame))

    def _take(self, number: int, answer: bytes | None) -> None:
        task = self._waiting.get(number)
        if task is not None and number not in self._answers:
            self._answers[number] = answer
            task.wake()
