"""The thresholds of the fault budget, for every n."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import MEMBERS_MAX
from consensus.quorum import fault_budget


@pytest.mark.parametrize(
    ("members", "failures", "liars", "quorum", "weak_quorum"),
    [(1, 0, 0, 1, 1), (4, 1, 1, 3, 2), (7, 2, 2, 5, 3), (9, 3, 2, 6, 3), (10, 3, 3, 7, 4), (13, 4, 4, 9, 5)],
)
def test_the_budget_is_the_published_one(
    members: int, failures: int, liars: int, quorum: int, weak_quorum: int
) -> None:
    budget = fault_budget(members)
    assert (budget.failures, budget.liars) == (failures, liars)
    assert (budget.quorum, budget.weak_quorum) == (quorum, weak_quorum)


@given(members=st.integers(1, MEMBERS_MAX))
def test_two_quorums_share_an_honest_member(members: int) -> None:
    budget = fault_budget(members)
    assert 2 * budget.quorum - members >= budget.liars + 1


@given(members=st.integers(1, MEMBERS_MAX))
def test_the_honest_alone_are_a_quorum_after_every_survived_failure(members: int) -> None:
    budget = fault_budget(members)
    assert members - budget.failures >= budget.quorum
    assert budget.weak_quorum == budget.liars + 1 <= budget.quorum


def test_twice_the_liars_plus_one_is_no_quorum_for_nine() -> None:
    budget = fault_budget(9)
    too_few = 2 * budget.liars + 1
    assert 2 * too_few - 9 <= budget.liars  # Two such groups may share liars alone.
    assert budget.quorum > too_few


@pytest.mark.parametrize("members", [0, -1, MEMBERS_MAX + 1])
def test_a_set_outside_the_bounds_is_refused(members: int) -> None:
    with pytest.raises(RejectionError) as caught:
        fault_budget(members)
    assert caught.value.reason is RejectionReason.BAD_GENESIS


@pytest.mark.parametrize(("live", "columns"), [(9, 6), (8, 6), (7, 5), (6, 4), (5, None), (0, None)])
def test_writes_step_down_with_the_live_holders(live: int, columns: int | None) -> None:
    assert fault_budget(9).data_columns(live) == columns


def test_the_smallest_stripe_is_the_one_of_a_bare_quorum() -> None:
    assert fault_budget(9).data_columns_min == fault_budget(9).data_columns(6) == 4
