"""Worlds in which every invariant holds, and the promise that a seed says everything."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testnet.simulation.checkers import InvariantError
from testnet.simulation.disks import SimulatedDisk
from testnet.simulation.faults import FaultKind, Lie, Move, Plan
from testnet.simulation.restart_check import RestartCheck
from testnet.simulation.signatures import SignatureKind
from testnet.simulation.world import Settings, World, plan_of, run_world

SHORT_WORLDS = 2_000
"""0.15 s of CPU each: two and a half minutes of both cores."""
ROOT = Path(__file__).parents[2]
TRACE = """
import logging
logging.disable(logging.CRITICAL)
from testnet.simulation.world import Settings, run_world
print([run_world(Settings(heights=6), seed).trace for seed in (2, 17)])
"""


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_every_invariant_holds_under_all_faults(first: int) -> None:
    for seed in range(first, first + 10):
        assert run_world(Settings(), seed).heights >= 20


@pytest.mark.parametrize("first", range(1_000, 1_000 + SHORT_WORLDS, 50))
def test_every_invariant_holds_in_many_short_worlds(first: int) -> None:
    """A short storm and what comes after it, which is where things go wrong; growth that follows is left out."""
    for seed in range(first, first + 50):
        run_world(Settings(heights=3, storm_ms_max=3_000), seed)


@pytest.mark.parametrize("seats", [4, 7, 10])
def test_every_invariant_holds_for_other_numbers_of_seats(seats: int) -> None:
    for seed in range(6):
        run_world(Settings(seats=seats, heights=8), seed)


def test_every_invariant_holds_with_real_signatures() -> None:
    for seed in range(3):
        run_world(Settings(heights=5, signatures=SignatureKind.REAL), seed)


def test_a_world_without_faults_decides_in_round_0_alone() -> None:
    report = run_world(Settings(kinds=frozenset()), 1)
    assert (report.rounds_above_zero, report.restarts) == (0, 0)


def test_storms_leave_traces() -> None:
    reports = [run_world(Settings(heights=8), seed) for seed in range(100, 106)]
    assert sum(report.rounds_above_zero for report in reports) > 0
    assert sum(report.restarts for report in reports) > 0


@pytest.mark.parametrize("move", Move)
def test_every_invariant_holds_while_members_change(move: Move) -> None:
    """Three changes of a kind in storms, with liars; the last correct newcomer catches up from nothing."""
    changes = 0
    for seed in range(300, 304):
        plan = replace(plan_of(Settings(), seed), moves=(move,) * 3)
        changes += run_world(Settings(heights=30), seed, plan).changes
    assert changes >= 8, "most are approved before the world ends"


GROWING = Plan(storm_ms=0, faults=(), liars=(), moves=(Move.ADD,) * 6)


def test_four_members_become_ten_without_a_stop() -> None:
    report = run_world(Settings(seats=4, heights=150, kinds=frozenset()), 1, GROWING)
    assert report.changes == 6


def test_every_kind_of_fault_is_survived_alone() -> None:
    for number, kind in enumerate(FaultKind):
        run_world(Settings(heights=5, kinds=frozenset({kind})), 200 + number)


def test_liars_that_equivocate_for_ever_make_no_block_once_they_are_convicted() -> None:
    """Three quiet minutes: a heartbeat each, and the blocks that convict a late liar."""
    liars = tuple((seat, frozenset({Lie.EQUIVOCATE})) for seat in (1, 5))
    world = World(Settings(heights=20), 3, Plan(storm_ms=2_000, faults=(), liars=liars))
    world.run()
    before, faults = world.watch.height, world.watch.faults
    world.run_on(seconds=180)
    assert 2 <= world.watch.height - before <= 7
    assert world.watch.faults > faults, "what they do is on chain, convicted or not"


@pytest.mark.parametrize("seat", [0, 4])
def test_a_home_from_an_old_backup_signs_nothing_and_stops(seat: int) -> None:
    """The backup is of minutes ago; its links come up late, and it is asked for a transaction meanwhile."""
    world = World(Settings(heights=20, kinds=frozenset()), 5, Plan(storm_ms=3_000, faults=(), liars=()))
    node = world.nodes[seat]
    backups: list[SimulatedDisk] = []
    world.timeline.after(2_500_000, lambda: backups.append(node.disk.backup()))
    world.run()
    world.run_on(seconds=200)
    node.stop(loses_power=False)
    node.disk, node._restart = backups[0], RestartCheck()
    statements = world.watch.statements
    for other in range(9):
        world.network.cut(other, seat)
        world.network.cut(seat, other)
    node.start()
    posted: list[bool] = []
    world.timeline.after(1_500_000, lambda: posted.append(node.submit(world._workload.next_submission())))
    world.run_on(seconds=4)
    world.network.heal()
    node.break_requests()
    node.say_status_to_all()
    with pytest.raises(InvariantError, match="another copy of this seat is running, or this home is a backup"):
        world.run_on(seconds=30)
    assert [said for said in world.watch.statements[len(statements) :] if said == seat] == []


def test_halves_that_meet_again_decide_within_ten_seconds() -> None:
    """Four and five of nine, apart for five minutes: nothing is decided, and then soon."""
    world = World(Settings(heights=5, kinds=frozenset()), 11, Plan(storm_ms=2_000, faults=(), liars=()))
    world.run()
    sides = [(a, b) for a in range(9) for b in range(9) if (a < 4) != (b < 4)]
    for sender, receiver in sides:
        world.network.cut(sender, receiver)
    world.run_on(seconds=1)
    before = world.watch.height
    for node in world.nodes:
        node.submit(world._workload.next_submission())
    world.run_on(seconds=300)
    assert world.watch.height == before
    world.network.heal()
    for node in world.nodes:
        node.say_status_to_all()
    world.run_on(seconds=10)
    assert world.watch.height > before


def test_a_world_with_nothing_to_do_makes_a_block_a_minute() -> None:
    report = run_world(Settings(heights=3, storm_ms_max=3_000, idle_minutes=20), 3)
    assert report.virtual_s >= 20 * 60
    assert 13 <= report.heights - 3 <= 30


def test_one_seed_is_one_history_under_any_hash_seed() -> None:
    histories = [
        subprocess.run(
            [sys.executable, "-c", TRACE],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    ]
    assert histories[0] == histories[1]
    assert run_world(Settings(heights=6), 2).trace in histories[0]
    assert run_world(Settings(heights=6), 3).trace not in histories[0]
