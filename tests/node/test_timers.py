"""Timeouts come due once, earliest first, and none survives its height."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.events import Timeout, TimeoutKind
from consensus.identifiers import Height, Round
from node.timers import TIMEOUTS_MAX, Timers


def timeout(round_: int, kind: TimeoutKind = TimeoutKind.PROPOSE) -> Timeout:
    return Timeout(kind=kind, height=Height(1), round=Round(round_))


def test_nothing_runs_at_first() -> None:
    timers = Timers()
    assert timers.next_due() == math.inf
    assert timers.take_due(1e9) == ()


def test_a_second_start_does_not_put_a_timeout_off() -> None:
    timers = Timers()
    timers.start(timeout(0), 1.0)
    timers.start(timeout(0), 5.0)
    assert timers.next_due() == 1.0
    assert timers.take_due(1.0) == (timeout(0),)
    assert timers.next_due() == math.inf
    timers.start(timeout(0), 7.0)
    assert timers.next_due() == 7.0


def test_equal_moments_come_in_the_order_they_were_started() -> None:
    timers = Timers()
    for kind in (TimeoutKind.PREVOTE, TimeoutKind.PROPOSE, TimeoutKind.PRECOMMIT):
        timers.start(timeout(0, kind), 1.0)
    assert [due.kind for due in timers.take_due(1.0)] == ["prevote", "propose", "precommit"]


def test_a_new_height_stops_everything() -> None:
    timers = Timers()
    timers.start(timeout(0), 1.0)
    timers.clear()
    assert timers.take_due(2.0) == ()
    timers.start(timeout(0), 3.0)
    assert timers.take_due(3.0) == (timeout(0),)


def test_timeouts_without_end_are_our_bug() -> None:
    timers = Timers()
    for round_ in range(TIMEOUTS_MAX):
        timers.start(timeout(round_), 1.0)
    timers.start(timeout(0), 1.0)
    with pytest.raises(AssertionError, match="timeouts without end"):
        timers.start(timeout(TIMEOUTS_MAX), 1.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20))), st.lists(st.integers(0, 25)))
def test_each_is_taken_once_when_it_is_due(started: list[tuple[int, int]], moments: list[int]) -> None:
    timers = Timers()
    expected: dict[Timeout, int] = {}
    for round_, due_at in started:
        timers.start(timeout(round_), due_at)
        expected.setdefault(timeout(round_), due_at)
    for now in sorted(moments):
        due = timers.take_due(now)
        assert sorted(due, key=lambda one: expected[one]) == list(due)
        assert set(due) == {one for one, due_at in expected.items() if due_at <= now}
        expected = {one: due_at for one, due_at in expected.items() if due_at > now}
        assert timers.next_due() == min(expected.values(), default=math.inf)
