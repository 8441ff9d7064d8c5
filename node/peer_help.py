"""Who is behind and gets the decided block, who is ahead and can be asked for blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from consensus.identifiers import Height, MemberIndex

ANSWER_INTERVAL_S: Final = 0.2
"""A member that asks for one height again sooner than this gets nothing."""
RECORDS_INTERVAL_S: Final = 0.1
"""A member's questions for records sooner than this are dropped: at most 10,000 reads a second for one member."""
AVOID_S_MIN: Final = 0.5
AVOID_S_MAX: Final = 30.0
"""A member asked in vain is avoided for AVOID_S_MIN, doubled each time in a row."""


class PeerHeights:
    """The heights at which other members last said they vote; moments are seconds of a monotonic clock."""

    __slots__ = ("_answered", "_avoided", "_heights", "_records_answered")

    def __init__(self) -> None:
        self._heights: dict[MemberIndex, Height] = {}
        self._answered: dict[MemberIndex, tuple[Height, float]] = {}
        self._records_answered: dict[MemberIndex, float] = {}
        self._avoided: dict[MemberIndex, tuple[float, float]] = {}
        """Member -> (until when, for how long)."""

    def note(self, member: MemberIndex, height: Height) -> None:
        """A member votes at this height, so it has decided the one before."""
        if height > self._heights.get(member, -1):
            self._heights[member] = height

    def avoid(self, member: MemberIndex, now: float) -> None:
        """A member was asked in vain: what it said of its height is forgotten, and it is left alone for a while."""
        self._heights.pop(member, None)
        span_s = min(AVOID_S_MAX, 2 * self._avoided.get(member, (0.0, AVOID_S_MIN / 2))[1])
        self._avoided[member] = (now + span_s, span_s)

    def trust(self, member: MemberIndex) -> None:
        """A member gave what it was asked for."""
        self._avoided.pop(member, None)

    def ahead_of(self, height: Height, now: float) -> tuple[MemberIndex, ...]:
        """Return the members that have decided this height and need not be avoided, the furthest first."""
        ahead = [
            member
            for member, theirs in self._heights.items()
            if theirs > height and self._avoided.get(member, (now, 0.0))[0] <= now
        ]
        return tuple(sorted(ahead, key=lambda member: -self._heights[member]))

    def is_any_ahead(self, height: Height) -> bool:
        """Say whether a member, to be avoided or not, says that it has decided this height."""
        return any(theirs > height for theirs in self._heights.values())

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

    def may_answer_records(self, member: MemberIndex, now: float) -> bool:
        """Say whether a member's question for records is answered now, and note that it is."""
        if now - self._records_answered.get(member, -math.inf) < RECORDS_INTERVAL_S:
            return False
        self._records_answered[member] = now
        return True
