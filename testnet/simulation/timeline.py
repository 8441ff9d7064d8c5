"""Virtual time: what happens next, and tasks that wait in it. One thread; equal seeds give equal histories.

Time is an integer of microseconds. What is due at one moment happens in the order in which it was asked for.
"""

from __future__ import annotations

import heapq
import types
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

SECOND_US: Final = 1_000_000
MILLISECOND_US: Final = 1_000
FOREVER: Final = -1
"""Waits until it is woken."""


class Timeline:
    """The queue of everything that is going to happen."""

    __slots__ = ("_order", "_queue", "now_us", "running", "steps")

    def __init__(self) -> None:
        self.now_us = 0
        self.steps = 0
        self.running: Task | None = None
        self._order = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []

    def after(self, span_us: int, action: Callable[[], None]) -> None:
        """Have something happen this much later."""
        assert span_us >= 0, "nothing happens in the past"
        self._order += 1
        heapq.heappush(self._queue, (self.now_us + span_us, self._order, action))

    def running_task(self) -> Task:
        """Return the task that runs."""
        assert self.running is not None, "asked from inside of a task"
        return self.running

    def step(self) -> None:
        """Let the next thing happen; there is one."""
        self.now_us, _, action = heapq.heappop(self._queue)
        self.steps += 1
        action()


@types.coroutine
def sleep(span_us: int) -> Generator[int, None, None]:
    """Wait this long, FOREVER until woken; to be awaited in a Task."""
    yield span_us


class Task:
    """A coroutine that waits by sleep() alone. Whoever owns it is told of what ends it."""

    __slots__ = ("_coroutine", "_is_running", "_on_end", "_timeline", "_turn")

    def __init__(
        self,
        timeline: Timeline,
        coroutine: Coroutine[int, None, None],
        on_end: Callable[[BaseException], None],
    ) -> None:
        """Start at once, in a step of its own."""
        self._timeline = timeline
        self._coroutine = coroutine
        self._on_end = on_end
        self._turn = 0
        self._is_running = False
        self.wake()

    def wake(self) -> None:
        """End its wait now."""
        self._resume_after(0)

    def cancel(self) -> None:
        """End it where it waits, silently."""
        self._turn += 1
        if not self._is_running:
            self._coroutine.close()

    def _resume_after(self, span_us: int) -> None:
        self._turn += 1
        turn = self._turn
        self._timeline.after(span_us, lambda: self._resume(turn))

    def _resume(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._is_running = True
        self._timeline.running = self
        try:
            span_us = self._coroutine.send(None)
        except BaseException as error:  # noqa: BLE001 (its owner tells a power cut from a bug)
            self._on_end(error)
            return
        finally:
            self._is_running = False
            self._timeline.running = None
        if turn == self._turn and span_us != FOREVER:
            self._resume_after(span_us)
