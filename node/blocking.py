"""How work that waits for a disk is run: in a worker thread by a node, at once by a simulation.

What takes a RunBlocking uses `async` for nothing else, so that under a runner that never waits it is plain code that
one seed decides (testnet/simulation).
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

ReturnT = TypeVar("ReturnT")
ArgumentsT = TypeVarTuple("ArgumentsT")


BRIEF_S: Final = 0.01
"""What a disk may keep the loop of a node waiting, on the average of the last calls: the two flushes of a vote take
0.3 ms on an SSD, 20 on a disk that turns."""
AVERAGED: Final = 8
THREADED_CALLS: Final = 64
"""Five heights' votes: so long a disk is not asked again whether it is quick."""


SCHEDSTAT: Final = "/proc/thread-self/schedstat"
SCHEDSTAT_BYTES: Final = 128
"""Three numbers: time on a core, time waiting for one, both in nanoseconds, and turns."""
NANOSECONDS: Final = 1_000_000_000


class RunBlocking(Protocol):
    """Calls a function that may block, and waits for it."""

    async def __call__(self, function: Callable[[*ArgumentsT], ReturnT], /, *arguments: *ArgumentsT) -> ReturnT:
        """Return what the function returns; its exceptions come through."""
        ...


class BriefWork:
    """A RunBlocking that calls what is brief at once, and what was not brief lately in a thread.

    The way into a worker thread and back costs a node more than a quick disk's flush takes: a third of the CPU of a
    block. Only work that a slow disk makes long belongs here, never what a peer can make long.
    """

    __slots__ = ("_average_s", "_monotonic_s", "_run_blocking", "_threaded_left")

    def __init__(self, run_blocking: RunBlocking, monotonic_s: Callable[[], float] | None = None) -> None:
        """Use `run_blocking` for work that is not brief; the clock is unhurried_s() if none is given."""
        self._run_blocking = run_blocking
        self._monotonic_s = monotonic_s or unhurried_s
        self._threaded_left = 0
        self._average_s = 0.0

    async def __call__(self, function: Callable[[*ArgumentsT], ReturnT], /, *arguments: *ArgumentsT) -> ReturnT:
        """Return what the function returns; its exceptions come through."""
        if self._threaded_left:
            self._threaded_left -= 1
            return await self._run_blocking(self._timed, function, *arguments)
        return self._timed(function, *arguments)

    def _timed(self, function: Callable[[*ArgumentsT], ReturnT], *arguments: *ArgumentsT) -> ReturnT:
        began = self._monotonic_s()
        try:
            return function(*arguments)
        finally:
            self._average_s += (self._monotonic_s() - began - self._average_s) / AVERAGED
            if self._average_s > BRIEF_S:
                self._threaded_left = THREADED_CALLS


class _Waiting:
    """How long one thread has waited for a core; the file that tells it stays open while the thread lives."""

    __slots__ = ("_descriptor",)

    def __init__(self) -> None:
        """Open the calling thread's file, if there is one."""
        try:
            self._descriptor = os.open(SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1

    def __del__(self) -> None:
        """Close it when the thread has ended."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def seconds(self) -> float:
        """Return seconds of waiting; none where the kernel does not tell."""
        if self._descriptor < 0:
            return 0.0
        waited = os.pread(self._descriptor, SCHEDSTAT_BYTES, 0).split()[1:2]
        return sum(map(int, waited)) / NANOSECONDS


class _OfThread(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.waiting = _Waiting()


_OF_THREAD: Final = _OfThread()


def unhurried_s() -> float:
    """Return seconds of a clock that stands still while this thread waits for a core: a busy machine is no slow disk.

    Where the kernel does not tell, the clock is an ordinary one.
    """
    return time.monotonic() - _OF_THREAD.waiting.seconds()
