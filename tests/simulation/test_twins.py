"""Members that run twice: within the budget nothing breaks in any scenario tried, beyond it the checks see a fork."""

from __future__ import annotations

import pytest

from consensus import round_machine
from consensus.events import Validity
from consensus.round_machine import FreshProposal, ProvenProposal, RoundState
from testnet.simulation.twins import ROUNDS, Run, Shape, TwinsError, cuts, leader_orders, sample, scenario

FOUR_AND_ONE = Shape(members=4, twinned=1)
SEVEN_AND_TWO = Shape(members=7, twinned=2)
FOUR_AND_TWO = Shape(members=4, twinned=2)


@pytest.mark.parametrize(
    ("shape", "seed", "count"),
    [(FOUR_AND_ONE, seed, 4_000) for seed in range(4)] + [(SEVEN_AND_TWO, seed, 2_000) for seed in range(2)],
)
def test_twins_within_the_budget_break_no_promise(shape: Shape, seed: int, count: int) -> None:
    assert play(shape, seed, count) > count // 10  # enough of them come to a decision


def play(shape: Shape, seed: int, count: int) -> int:
    """Return how many scenarios decided."""
    return sum(bool(Run(wanted).play()) for wanted in sample(shape, seed, count))


def test_more_twins_than_liars_allowed_fork_and_the_failure_names_its_command() -> None:
    with pytest.raises(TwinsError, match=r"decide alike; again: python -m testnet\.simulation\.twins 4 2 --number \d+"):
        play(FOUR_AND_TWO, 1, 500)


def test_a_member_that_ignores_its_lock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def ignores_its_lock(_state: RoundState, given: FreshProposal | ProvenProposal) -> bool:
        return given.validity is Validity.VALID

    monkeypatch.setattr(round_machine, "may_prevote", ignores_its_lock)
    with pytest.raises(TwinsError, match="a lock yields to a later polka alone"):
        play(FOUR_AND_ONE, 0, 500)


def test_a_number_is_one_scenario_and_honest_members_come_in_order() -> None:
    assert scenario(FOUR_AND_ONE, 77_777) == scenario(FOUR_AND_ONE, 77_777) != scenario(FOUR_AND_ONE, 77_778)
    assert all(len(order) == ROUNDS for order in leader_orders(FOUR_AND_ONE))
    assert (0, 1, 1) in leader_orders(FOUR_AND_ONE)
    assert (0, 2, 1) not in leader_orders(FOUR_AND_ONE)
    assert (0, 1, 0, 1, 0) not in cuts(FOUR_AND_ONE)
