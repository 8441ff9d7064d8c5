"""Who is behind and gets the decided block, who is ahead and can be asked for blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from consensus.identifiers import Height, MemberIndex

ANSWER_INTERVAL_S: Final = 0.2
"""A member that asks for one height again sooner than this gets nothing."""


class PeerHeights:
    """The heights at which other members last said they vote."""

    __slots__ = ("_answered", "_heights")

    def __init__(self) -> None:
        self._heights: dict[MemberIndex, Height] = {}
        self._answered: dict[MemberIndex, tuple[Height, float]] = {}

    def note(self, member: MemberIndex, height: Height) -> None:
        """A member votes at this height, so it has decided the one before."""
        if height > self._heights.get(member, -1):
            self._heights[member] = height

    def forget(self, member: MemberIndex) -> None:
        """A member lied about its height, or restarted."""
        self._heights.pop(member, None)

    def ahead_of(self, height: Height) -> tuple[MemberIndex, ...]:
        """Return the members that have decided this height, the furthest first."""
        ahead = [member for member, theirs in self._heights.items() if theirs > height]
        return tuple(sorted(ahead, key=lambda member: -self._heights[member]))

    def height_of(self, member: MemberIndex) -> Height | None:
        """Return what a member said last."""
        return self._heights.get(member)

    def may_answer(self, member: MemberIndex, height: Height, now: float) -> bool:
        """Say whether a member that is behind gets an answer now, and note that it does."""
        before = self._answered.get(member)
        if before is not None and before[0] == height and now - before[1] < ANSWER_INTERVAL_S:
            return False
        self._answered[member] = (height, now)
        return True
