"""What waits for the member: every other member's messages of this height and of the next, each within its own share.

First in, first out. What does not fit its sender's share is refused and counted by the caller: a flood costs the
flooder, and stuck members repeat themselves, so nothing is lost for good.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from consensus.messages import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.blocks import DecidedBlock
    from consensus.errors import RejectionError
    from consensus.identifiers import MemberIndex
    from consensus.messages import Message

MEMBER_MESSAGES_MAX: Final = 512
"""Of one member and height: four a round, and its answers with decided blocks and records."""
MEMBER_BYTES_MAX: Final = 3 * MESSAGE_BYTES_MAX
"""Of one member and height: two proposals and a decided block of the largest kind; 240 MiB if eight members flood."""
OFFERED_MAX: Final = 64
"""Blocks of catch-up that wait at once: one answer of a member."""


class Received(Struct, frozen=True, kw_only=True):
    """A proven message, the member that brought it, and the length of its frame."""

    member: MemberIndex
    message: Message
    byte_count: int


class OfferedBlock(Struct, frozen=True, kw_only=True):
    """A decided block from catch-up; `answer` is told what became of it (None: appended, or known already)."""

    decided: DecidedBlock
    answer: Callable[[RejectionError | None], None]


class _Shares:
    """How much of each member waits."""

    __slots__ = ("_byte_counts", "_message_counts")

    def __init__(self) -> None:
        self._message_counts: Counter[MemberIndex] = Counter()
        self._byte_counts: Counter[MemberIndex] = Counter()

    def has_room(self, member: MemberIndex, byte_count: int) -> bool:
        """Say whether a message of so many bytes fits its member's share."""
        is_within = self._message_counts[member] < MEMBER_MESSAGES_MAX
        return is_within and self._byte_counts[member] + byte_count <= MEMBER_BYTES_MAX

    def add(self, received: Received) -> bool:
        """Count a message in; False when its member's share is full."""
        member = received.member
        if not self.has_room(member, received.byte_count):
            return False
        self._message_counts[member] += 1
        self._byte_counts[member] += received.byte_count
        return True

    def remove(self, received: Received) -> None:
        """Count a message out."""
        self._message_counts[received.member] -= 1
        self._byte_counts[received.member] -= received.byte_count


class Inbox:
    """Two queues: of the present height, and of the next until it begins."""

    __slots__ = ("_next", "_next_shares", "_offered", "_queue", "_shares")

    def __init__(self) -> None:
        self._queue: deque[Received | OfferedBlock] = deque()
        self._shares = _Shares()
        self._next: list[Received] = []
        self._next_shares = _Shares()
        self._offered = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, received: Received) -> bool:
        """Queue a message of the present height; False when its member's share is full."""
        if not self._shares.add(received):
            return False
        self._queue.append(received)
        return True

    def has_room_next(self, member: MemberIndex, byte_count: int) -> bool:
        """Say whether a message of the next height fits its member's share, before the work of checking it."""
        return self._next_shares.has_room(member, byte_count)

    def put_next(self, received: Received) -> bool:
        """Keep a message of the next height; False when its member's share is full."""
        if not self._next_shares.add(received):
            return False
        self._next.append(received)
        return True

    def offer(self, offered: OfferedBlock) -> None:
        """Queue a block; whoever offers waits for the answer, so few are under way."""
        assert self._offered < OFFERED_MAX, "blocks are offered one after the other"
        self._offered += 1
        self._queue.append(offered)

    def take(self) -> Received | OfferedBlock:
        """Return what came first; there is something."""
        taken = self._queue.popleft()
        if isinstance(taken, OfferedBlock):
            self._offered -= 1
        else:
            self._shares.remove(taken)
        return taken

    def begin_height(self) -> None:
        """The next height is the present one now: its messages join the queue as far as there is room."""
        waiting, self._next, self._next_shares = self._next, [], _Shares()
        for received in waiting:
            self.put(received)
