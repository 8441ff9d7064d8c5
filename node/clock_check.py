"""Whether this machine's clock may take part: compared once, at the start, with the chain and with the other members.

A member with a wrong clock harms nobody but itself: others refuse its blocks, and it votes nil on theirs (rule A52).
It would look like a failed site, so it is told at once instead, in words, and does not run.

Rule D15, in two parts
- A clock that stands before the last block's time by more than the drift is behind: six members signed that time.
- Of the answers of 2r + 1 others, of whom at most r lie, the median lies between two honest clocks. A clock
  farther from it than the drift, the answer's own delay set aside, is wrong. Fewer answers judge nothing.
"""

from __future__ import annotations

import logging
from statistics import median_low
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from consensus.messages import ClockRequest, ClockResponse
from node.catch_up_task import ask
from node.errors import ConfigurationError, PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.identifiers import MemberIndex, Milliseconds
    from consensus.members import MemberSet
    from node.catch_up_task import Asker

LOGGER = logging.getLogger(__name__)

RETRY_S: Final = 1.0
"""Between two rounds of questions while too few members answer."""
SECONDS_SAID_MAX: Final = 120
"""Beyond this an error is told in minutes."""


def check_clock_after(block_time_ms: Milliseconds, own_ms: Milliseconds, drift_ms: Milliseconds) -> None:
    """Compare the clock with the time of the last block (D15).

    Raises:
        ConfigurationError: The clock is behind.
    """
    behind_ms = block_time_ms - own_ms
    if behind_ms > drift_ms:
        raise ConfigurationError(
            f"the clock of this machine is {_span(behind_ms)} behind the last block of its chain: set it (NTP),"
            " then start again"
        )


async def check_clock_with(
    asker: Asker, members: MemberSet, seat: MemberIndex, wall_ms: Callable[[], Milliseconds], drift_ms: Milliseconds
) -> None:
    """Ask the other members for the time until enough have answered, and compare (D15).

    Raises:
        ConfigurationError: The clock is ahead or behind.
    """
    offsets: dict[MemberIndex, int] = {}
    others = tuple(member for member in members.indices if member != seat)
    needed = min(2 * members.budget.liars + 1, len(others))
    while len(offsets) < needed:
        async with trio.open_nursery() as nursery:
            for member in others:
                if member not in offsets:
                    nursery.start_soon(_ask_into, offsets, asker, member, wall_ms)
        if len(offsets) < needed:
            await trio.sleep(RETRY_S)
    apart_ms = median_low(offsets.values() or (0,))
    if abs(apart_ms) > drift_ms:
        direction = "behind" if apart_ms > 0 else "ahead of"
        raise ConfigurationError(
            f"the clock of this machine is {_span(abs(apart_ms))} {direction} those of {len(offsets)} other members:"
            " set it (NTP), then start again"
        )
    LOGGER.info("the clock is %d ms from those of %d other members", apart_ms, len(offsets))


async def _ask_into(
    offsets: dict[MemberIndex, int], asker: Asker, member: MemberIndex, wall_ms: Callable[[], Milliseconds]
) -> None:
    """Note how far a member's clock is from ours at least: any moment of the question's way may be the answer's."""
    asked_ms = wall_ms()
    try:
        answer = await ask(asker, member, ClockRequest())
    except RejectionError as error:
        LOGGER.info("member %d does not tell the time: %s", member, error)
        return
    except PeerUnreachableError:
        return
    answered_ms = wall_ms()
    if isinstance(answer, ClockResponse):
        offsets[member] = answer.time_ms - min(max(answer.time_ms, asked_ms), answered_ms)


def _span(span_ms: int) -> str:
    """Return a span of time as people say it."""
    seconds = span_ms // 1000
    return f"{seconds} s" if seconds < SECONDS_SAID_MAX else f"{seconds // 60} minutes"
