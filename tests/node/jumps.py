"""Tasks that pause for seconds or minutes, tested in moments: threads get real time, pauses are jumped over."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing


async def until(
    clock: trio.testing.MockClock, is_done: Callable[[], bool], *, jump_s: float = 0.1, within_s: float = 600.0
) -> None:
    """Let the tasks work, and time pass when they wait; the clock runs at rate 1, since disks are asked in threads.

    While a thread is at work nothing is jumped over: a slow disk would make every deadline pass.
    """
    end = clock.current_time() + within_s
    threads = trio.to_thread.current_default_thread_limiter()
    while not is_done():
        assert clock.current_time() < end, "it never happened"
        await trio.testing.wait_all_tasks_blocked(0.002)
        if threads.borrowed_tokens == 0:
            clock.jump(jump_s)


async def pause(seconds: float) -> None:
    """Let virtual time pass."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()
