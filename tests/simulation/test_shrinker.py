"""A failing world is cut down, and the command that replays it says all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.helping import Helper
from testnet.cli import main
from testnet.simulation.checkers import Invariant
from testnet.simulation.shrinker import find_failure, items_of, keep_only, shrink
from testnet.simulation.world import Settings, plan_of

if TYPE_CHECKING:
    import pytest

    from consensus.height_state import HeightState

SETTINGS = Settings(heights=8)


async def say_nothing(_self: Helper, _state: HeightState) -> None:
    """Break the duty to repeat."""


def no_time(_round: object, _parameters: object) -> int:
    """Break the bound of decisions after healing."""
    return 0


def test_a_failure_is_cut_down_to_what_is_needed_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Helper, "repeat", say_nothing)
    failure = next(found for seed in range(17, 40) if (found := find_failure(SETTINGS, seed)) is not None)
    small = shrink(failure)
    assert small.invariant is failure.invariant is Invariant.DECIDES_AFTER_HEALING
    assert len(small.items) < len(failure.items)
    again = find_failure(small.settings, small.seed, small.items)
    assert again == small
    assert small.command().startswith(f"grandest simulate --first-seed {small.seed} --seeds 1 --heights")
    words = small.command().split()[1:]
    assert main(words) == 1
    monkeypatch.undo()
    assert main(words) == 0


def test_items_are_faults_then_liars() -> None:
    seed = next(seed for seed in range(50) if plan_of(SETTINGS, seed).liars)
    plan, items = plan_of(SETTINGS, seed), items_of(SETTINGS, seed)
    assert keep_only(plan, items) == plan
    assert keep_only(plan, items[: len(plan.faults)]).liars == ()
    assert keep_only(plan, items[len(plan.faults) :]).faults == ()


def test_the_command_runs_worlds_and_says_what_broke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "--seeds", "3", "--first-seed", "20", "--heights", "2", "--jobs", "2"]
    assert main(words) == 0
    assert "3 worlds, 0 broken" in capsys.readouterr().out
    monkeypatch.setattr("testnet.simulation.command.FAILURES_SHOWN", 1)
    monkeypatch.setattr("testnet.simulation.world.ROUNDS_AFTER_HEALING", 0)
    monkeypatch.setattr("testnet.simulation.world.rebroadcast_ms", no_time)
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "3 worlds, 3 broken" in shown.out
    assert "grandest simulate --first-seed 2" in shown.err
