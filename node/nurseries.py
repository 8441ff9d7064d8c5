"""For those who wait for one thing: what ended it, a failure or Ctrl-C, arrives as itself, not inside a group."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from consensus.errors import GrandestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

ResultT = TypeVar("ResultT")


@asynccontextmanager
async def open_plain_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery that raises what `first_expected` finds in its group of errors."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        raise first_expected(group) from group


def run_plainly(work: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Run a command's work; Ctrl-C arrives as KeyboardInterrupt out of whatever nursery it met."""
    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise KeyboardInterrupt from group


def first_expected(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first expected error of a group of nothing else, or the group itself: a bug keeps its traceback."""
    expected, rest = group.split((GrandestError, OSError))
    if expected is None or rest is not None:
        return group
    error: BaseException = expected
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
