"""Random schedules of small worlds: agreement always, a decision once the network heals, replay equals the state."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.driver import apply, start_state
from consensus.errors import RejectionError
from consensus.identifiers import Round
from consensus.quorum import fault_budget
from consensus.timeouts import rebroadcast_ms
from tests.consensus.small_world import PARAMETERS, World

SIZES = (4, 7, 9)
SEEDS = st.integers(0, 2**32)


def deadline_ms(world: World) -> int:
    """Five rounds with their timeouts and one repetition for every dead member in a row."""
    latest = max(world.rounds()) + 5 + fault_budget(world.count).failures
    return sum(rebroadcast_ms(Round(r), PARAMETERS) for r in range(max(world.rounds()), latest + 1)) + rebroadcast_ms(
        Round(latest), PARAMETERS
    )


def run(world: World, steps: int, loss: float) -> World:
    for _ in range(steps):
        world.step(loss)
    world.heal(deadline_ms(world))
    return world


@pytest.mark.parametrize("count", SIZES)
def test_a_quiet_network_decides_in_round_0(count: int) -> None:
    world = World(seed=1, count=count)
    world.heal(0)
    assert {decide.certificate.round for decide in world.decided.values()} == {0}


@pytest.mark.parametrize("count", SIZES)
def test_lost_late_and_doubled_messages_never_split_members(count: int) -> None:
    @settings(max_examples=40)
    @given(seed=SEEDS, loss=st.floats(0, 0.7))
    def check(seed: int, loss: float) -> None:
        run(World(seed=seed, count=count, silent=seed % (fault_budget(count).failures + 1)), 400, loss)

    check()


@pytest.mark.parametrize("count", SIZES)
def test_liars_within_the_budget_never_split_members(count: int) -> None:
    @settings(max_examples=40)
    @given(seed=SEEDS, loss=st.floats(0, 0.5))
    def check(seed: int, loss: float) -> None:
        budget = fault_budget(count)
        run(World(seed=seed, count=count, liars=budget.liars, silent=budget.failures - budget.liars), 500, loss)

    check()


@settings(max_examples=20)
@given(seed=SEEDS)
def test_replaying_the_log_gives_the_state_and_its_effects_again(seed: int) -> None:
    world = run(World(seed=seed, count=4, liars=1), 200, 0.3)
    for member, log in world.logs.items():
        state = start_state(world.states[member].context)
        for event in log:
            try:
                state, _ = apply(state, event)
            except RejectionError:
                continue
        assert state == world.states[member]
