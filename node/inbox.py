"""What waits for the member: bounded queues of this height and of the next, and who is told when one is full.

What does not fit is refused and counted by the caller; stuck members repeat themselves, so nothing is lost for good.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.blocks import DecidedBlock
    from consensus.errors import RejectionError
    from consensus.identifiers import MemberIndex
    from consensus.messages import Message
    from node.message_gate import AgreementMessage

INBOX_MAX: Final = 4_096
"""Nine members' messages of a hundred rounds."""
NEXT_HEIGHT_MAX: Final = 64
"""Messages of the next height kept for one member; a round needs four of them."""
OFFERED_MAX: Final = 64
"""Blocks of catch-up that wait at once: one answer of a member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A proven message and the member that brought it."""

    member: MemberIndex
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedBlock:
    """A decided block from catch-up; `answer` is told what became of it (None: appended, or known already)."""

    decided: DecidedBlock
    answer: Callable[[RejectionError | None], None]


class Inbox:
    """First in, first out; messages of the next height wait beside until it begins."""

    __slots__ = ("_next_height", "_offered", "_queue")

    def __init__(self) -> None:
        self._queue: deque[Received | OfferedBlock] = deque()
        self._next_height: dict[MemberIndex, list[AgreementMessage]] = {}
        self._offered = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, received: Received) -> bool:
        """Queue a message; False when the queue is full."""
        if len(self._queue) >= INBOX_MAX:
            return False
        self._queue.append(received)
        return True

    def offer(self, offered: OfferedBlock) -> None:
        """Queue a block; whoever offers waits for the answer, so few are under way."""
        assert self._offered < OFFERED_MAX, "blocks are offered one after the other"
        self._offered += 1
        self._queue.append(offered)

    def put_next(self, member: MemberIndex, message: AgreementMessage) -> bool:
        """Keep a message of the next height; False when this member's share is full."""
        waiting = self._next_height.setdefault(member, [])
        if len(waiting) >= NEXT_HEIGHT_MAX:
            return False
        waiting.append(message)
        return True

    def take(self) -> Received | OfferedBlock:
        """Return what came first."""
        taken = self._queue.popleft()
        self._offered -= isinstance(taken, OfferedBlock)
        return taken

    def begin_height(self) -> None:
        """The next height is the present one now: its messages join the queue."""
        for member, messages in self._next_height.items():
            self._queue.extend(Received(member=member, message=message) for message in messages)
        self._next_height.clear()
