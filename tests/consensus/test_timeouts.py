"""Timeouts grow in a line up to a cap; members take turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.events import TimeoutKind
from consensus.genesis import ConsensusParameters
from consensus.identifiers import Height, MemberIndex, Round
from consensus.timeouts import clock_drift_ms, rebroadcast_ms, timeout_ms
from consensus.turns import Turns

DEFAULTS = ConsensusParameters()


@pytest.mark.parametrize(
    ("kind", "round_", "expected_ms"),
    [
        (TimeoutKind.PROPOSE, 0, 500),
        (TimeoutKind.PREVOTE, 0, 300),
        (TimeoutKind.PRECOMMIT, 2, 800),
        (TimeoutKind.PROPOSE, 38, 10_000),
        (TimeoutKind.PROPOSE, 2**31 - 1, 10_000),
    ],
)
def test_timeouts_grow_in_a_line_up_to_a_cap(kind: TimeoutKind, round_: int, expected_ms: int) -> None:
    assert timeout_ms(kind, Round(round_), DEFAULTS) == expected_ms


def test_the_stuck_repeat_themselves_after_one_timeout_of_each_kind() -> None:
    assert rebroadcast_ms(Round(0), DEFAULTS) == 1_100


def test_the_allowed_drift_grows_with_the_round() -> None:
    assert clock_drift_ms(Round(0), DEFAULTS) == 10_500
    assert clock_drift_ms(Round(4), DEFAULTS) == 11_500


def test_members_take_turns_by_height_and_round() -> None:
    turns = Turns(active=tuple(MemberIndex(i) for i in range(4)))
    assert [turns.proposer(Height(h), Round(0)) for h in range(5)] == [0, 1, 2, 3, 0]
    assert [turns.proposer(Height(2), Round(r)) for r in range(3)] == [2, 3, 0]


@given(st.sets(st.integers(0, 63), min_size=1), st.integers(0, 2**40), st.integers(0, 2**20))
def test_everybody_active_has_one_turn_in_as_many_rounds(active: set[int], height: int, round_: int) -> None:
    turns = Turns(active=tuple(MemberIndex(i) for i in sorted(active)))
    seen = [turns.proposer(Height(height), Round(round_ + i)) for i in range(len(active))]
    assert sorted(seen) == sorted(active)


def test_the_order_of_turns_is_not_ours_to_choose() -> None:
    with pytest.raises(AssertionError, match="seat order"):
        Turns(active=(MemberIndex(1), MemberIndex(0)))
