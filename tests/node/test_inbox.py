"""The inbox against a model: two queues, first in, first out, each member within its own share."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.identifiers import Height, MemberIndex, Round
from consensus.messages import StatusMessage
from node.inbox import MEMBER_BYTES_MAX, MEMBER_MESSAGES_MAX, Inbox, Received

MEMBERS = st.integers(0, 2).map(MemberIndex)
BYTES = st.sampled_from([0, 1, MEMBER_BYTES_MAX // 3, MEMBER_BYTES_MAX - 1, MEMBER_BYTES_MAX, MEMBER_BYTES_MAX + 1])


def received(member: MemberIndex, byte_count: int, number: int = 0) -> Received:
    return Received(member=member, message=StatusMessage(height=Height(number), round=Round(0)), byte_count=byte_count)


class InboxMachine(RuleBasedStateMachine):
    """What waits, in plain lists; each message carries its number."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.queue: deque[Received] = deque()
        self.following: list[Received] = []
        self.number = 0

    def fresh(self, member: MemberIndex, byte_count: int) -> Received:
        self.number += 1
        return received(member, byte_count, self.number)

    @rule(member=MEMBERS, byte_count=BYTES)
    def put(self, member: MemberIndex, byte_count: int) -> None:
        message = self.fresh(member, byte_count)
        fits = share(self.queue, member) + byte_count <= MEMBER_BYTES_MAX
        assert self.inbox.put(message) == fits
        self.queue.extend([message] if fits else [])

    @rule(member=MEMBERS, byte_count=BYTES)
    def put_next(self, member: MemberIndex, byte_count: int) -> None:
        message = self.fresh(member, byte_count)
        fits = share(self.following, member) + byte_count <= MEMBER_BYTES_MAX
        assert self.inbox.put_next(message) == fits
        self.following.extend([message] if fits else [])

    @precondition(lambda self: self.queue)
    @rule()
    def take(self) -> None:
        assert self.inbox.take() == self.queue.popleft()

    @rule()
    def begin_height(self) -> None:
        self.inbox.begin_height()
        for message in self.following:
            if share(self.queue, message.member) + message.byte_count <= MEMBER_BYTES_MAX:
                self.queue.append(message)
        self.following = []

    @invariant()
    def as_many_wait(self) -> None:
        assert len(self.inbox) == len(self.queue)


def share(waiting: deque[Received] | list[Received], member: MemberIndex) -> int:
    return sum(message.byte_count for message in waiting if message.member == member)


TestInbox = InboxMachine.TestCase


def test_a_flood_of_small_messages_costs_the_flooder_alone() -> None:
    inbox, flooder, other = Inbox(), MemberIndex(0), MemberIndex(1)
    taken = [inbox.put(received(flooder, 1)) for _ in range(MEMBER_MESSAGES_MAX + 1)]
    assert taken == [True] * MEMBER_MESSAGES_MAX + [False]
    assert inbox.put(received(other, 1))
    inbox.take()
    assert inbox.put(received(flooder, 1))
