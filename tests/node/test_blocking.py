"""Brief work runs where it is called; what was long once goes to a thread for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node import blocking
from node.blocking import AVERAGED, BRIEF_S, THREADED_CALLS, BriefWork, ReturnT, unhurried_s


class Disk:
    """A clock that the work moves, and a thread that counts its calls."""

    def __init__(self) -> None:
        self.now = 100.0
        self.threaded = 0
        self.work = BriefWork(self.in_thread, lambda: self.now)

    async def in_thread(self, function: Callable[..., ReturnT], /, *arguments: object) -> ReturnT:
        self.threaded += 1
        return function(*arguments)

    def flush(self, span_s: float) -> float:
        self.now += span_s
        return span_s


async def test_brief_work_needs_no_thread() -> None:
    disk = Disk()
    for _ in range(1000):
        assert await disk.work(disk.flush, BRIEF_S / 2) == BRIEF_S / 2
    assert disk.threaded == 0


async def test_one_call_that_is_not_brief_changes_nothing() -> None:
    disk = Disk()
    await disk.work(disk.flush, BRIEF_S * AVERAGED / 2)
    for _ in range(100):
        await disk.work(disk.flush, BRIEF_S / 10)
    assert disk.threaded == 0


async def test_after_a_long_call_the_next_ones_go_to_a_thread_and_then_the_disk_is_tried_again() -> None:
    disk = Disk()
    await disk.work(disk.flush, 1.0)
    assert disk.threaded == 0
    for _ in range(2 * THREADED_CALLS):
        await disk.work(disk.flush, BRIEF_S / 10)
    assert THREADED_CALLS <= disk.threaded < 2 * THREADED_CALLS


async def test_a_disk_that_stays_slow_is_asked_in_threads_alone() -> None:
    disk = Disk()
    for _ in range(1000):
        await disk.work(disk.flush, 1.0)
    assert disk.threaded == 999


async def test_what_the_work_raises_comes_through_and_its_time_counts() -> None:
    disk = Disk()

    def fail() -> None:
        disk.now += 1.0
        raise OSError("the disk refuses")

    for threaded in (0, 1):
        with pytest.raises(OSError, match="the disk refuses"):
            await disk.work(fail)
        assert disk.threaded == threaded


def test_the_unhurried_clock_never_runs_ahead_of_the_ordinary_one_and_counts_what_a_call_waits_for() -> None:
    ordinary, unhurried = time.monotonic(), unhurried_s()
    assert unhurried <= time.monotonic()
    threading.Event().wait(0.05)  # what a disk does to its caller
    assert 0.04 < unhurried_s() - unhurried <= time.monotonic() - ordinary


def test_where_the_kernel_does_not_tell_the_clock_is_an_ordinary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "SCHEDSTAT", "/proc/no such file")
    before, told = time.monotonic(), list[float]()
    run_thread(lambda: told.append(unhurried_s()))
    assert before <= told[0] <= time.monotonic()


def test_a_thread_that_ends_leaves_no_file_open() -> None:
    unhurried_s()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(8):
        run_thread(unhurried_s)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def run_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
