"""Which timeouts run and when each is due: a heap, no clock of its own.

The consensus task asks for the next moment, sleeps until then at most, and takes what is due. A timeout scheduled
twice keeps its first moment. Bounded: a height schedules three timeouts a round, and clear() ends the height.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from consensus.events import Timeout

TIMEOUTS_MAX: Final = 4_096
"""More would mean over a thousand rounds within the time of one timeout: our bug."""


class Timers:
    """The running timeouts of one height; moments are seconds of a monotonic clock."""

    __slots__ = ("_heap", "_order", "_running")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timeout]] = []
        self._running: set[Timeout] = set()
        self._order = 0

    def start(self, timeout: Timeout, due_at: float) -> None:
        """Run a timeout until due_at, unless it runs already."""
        if timeout in self._running:
            return
        assert len(self._running) < TIMEOUTS_MAX, "timeouts without end"
        self._running.add(timeout)
        self._order += 1
        heapq.heappush(self._heap, (due_at, self._order, timeout))

    def next_due(self) -> float:
        """Return the moment of the next timeout, infinity when none runs."""
        return self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float) -> tuple[Timeout, ...]:
        """Return the timeouts that are due, earliest first; each is returned once."""
        due: list[Timeout] = []
        while self._heap and self._heap[0][0] <= now:
            timeout = heapq.heappop(self._heap)[2]
            self._running.discard(timeout)
            due.append(timeout)
        return tuple(due)

    def clear(self) -> None:
        """Stop everything: the height is over."""
        self._heap.clear()
        self._running.clear()
