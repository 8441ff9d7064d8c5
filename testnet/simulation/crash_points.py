"""Crash points: in a small world, one node fails at every single write and flush of a run, one after the other.

    python -m testnet.simulation.crash_points --runs 1000

A run is a world of four nodes in bad weather, all of it from its seed. It is played once to count what the node asks of
its disk; then once for each of these operations and each way to fail there: the power is cut (what was not flushed is
lost, or torn), the process is killed, a write is refused, a flush is refused, the disk is full. The world plays on to
its end, with every invariant watched: no place is signed twice, the log gives the state, no lock is forgotten
(restart_check.py), the node starts again and votes.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from consensus.identifiers import MemberIndex
from testnet.simulation.checkers import InvariantError
from testnet.simulation.disks import Trap
from testnet.simulation.faults import Fault, FaultKind, Plan
from testnet.simulation.world import Settings, World

if TYPE_CHECKING:
    from collections.abc import Iterator

SEATS: Final = 4
CRASHING: Final = MemberIndex(0)
SETTINGS: Final = Settings(seats=SEATS, heights=2)
WEATHER: Final = (FaultKind.LOSS, FaultKind.DELAY, FaultKind.HALVES, FaultKind.ONE_WAY, FaultKind.SLOW)
"""What keeps heights from being decided in their first round."""
STORM_MS: Final = (1_500, 3_000)
"""A second of it the nodes only listen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashPoint:
    """The seed of a run, how its node fails, and at which operation that can fail so, from 1."""

    seed: int
    trap: Trap
    operation: int

    def command(self) -> str:
        """Return the command line that plays it again."""
        words = f"--seed {self.seed} --trap {self.trap.name.lower()} --operation {self.operation}"
        return f"python -m testnet.simulation.crash_points {words}"


class CrashPointError(AssertionError):
    """An invariant does not hold after a crash; says which, and how to see it again."""


def plan_of_run(seed: int) -> Plan:
    """Return the weather of a run."""
    rng = Random(f"crash points {seed}")
    storm_ms = rng.randrange(*STORM_MS)
    faults = tuple(_draw(rng, storm_ms) for _ in range(rng.randrange(4)))
    return Plan(storm_ms=storm_ms, faults=tuple(sorted(faults, key=lambda fault: fault.at_ms)), liars=())


def _draw(rng: Random, storm_ms: int) -> Fault:
    at_ms = rng.randrange(1_000, storm_ms)
    return Fault(
        kind=rng.choice(WEATHER),
        at_ms=at_ms,
        span_ms=storm_ms - at_ms,
        seats=tuple(rng.sample(range(SEATS), rng.randrange(1, SEATS))),
        number=rng.getrandbits(32),
    )


def points_of(seed: int) -> Iterator[CrashPoint]:
    """Play a run as it is and yield every point at which it can be hurt."""
    world = World(SETTINGS, seed, plan_of_run(seed))
    world.run()
    passed = world.nodes[CRASHING].disk.passed
    for trap in Trap:
        for operation in range(1, passed[trap] + 1):
            yield CrashPoint(seed=seed, trap=trap, operation=operation)


def play(point: CrashPoint) -> None:
    """Play a run with its failure; raises CrashPointError."""
    world = World(SETTINGS, point.seed, plan_of_run(point.seed), crashing=CRASHING)
    world.nodes[CRASHING].disk.arm(point.trap, point.operation)
    try:
        world.run()
    except InvariantError as error:
        raise CrashPointError(f"{error}; again: {point.command()}") from error


def play_all(seed: int) -> int:
    """Hurt a run at each of its points; return how many there are."""
    logging.disable(logging.CRITICAL)
    count = 0
    for count, point in enumerate(points_of(seed), 1):  # noqa: B007 (the count of the last is returned)
        play(point)
    return count


def main() -> None:
    """Play many runs at all their points, or one point again."""
    parser = argparse.ArgumentParser(prog="python -m testnet.simulation.crash_points", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--trap", choices=[trap.name.lower() for trap in Trap], help="play one point alone")
    parser.add_argument("--operation", type=int, default=1)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if given.trap is not None:
        play(CrashPoint(seed=given.seed, trap=Trap[given.trap.upper()], operation=given.operation))
        print("every invariant holds")
        return
    with multiprocessing.Pool() as pool:
        counts = list(pool.imap_unordered(play_all, range(given.seed, given.seed + given.runs)))
    print(f"{len(counts)} runs, hurt at {sum(counts)} points: every invariant held")


if __name__ == "__main__":
    main()
