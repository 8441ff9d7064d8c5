"""`grandest simulate`: many worlds, one a seed, on all cores; what breaks is cut down and can be replayed.

    grandest simulate --seeds 1000 --first-seed 0 --minutes 5 --faults all

Exit code 0 when every invariant held in every world, 1 otherwise.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from argparse import ArgumentTypeError
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode, UsageError
from node.cli.output import Progress, note, print_json, print_line
from node.cli.parser import add_json_option, new_command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

    from node.cli.parser import Commands
    from testnet.simulation.shrinker import Failure
    from testnet.simulation.world import Settings, WorldReport

SEEDS_DEFAULT: Final = 200
STORM_S_MIN: Final = 2
STORM_S_MAX: Final = 60
IDLE_MINUTES_MAX: Final = 400
"""Of 4,500 events each: a world ends below its most (world.STEPS_MAX)."""
FAILURES_SHOWN: Final = 3
"""Cutting one down takes up to a minute."""


def add_commands(commands: Commands) -> None:
    """Add `simulate`."""
    parser = new_command(commands, "simulate", "run nine nodes in virtual time under every kind of fault")
    parser.set_defaults(run=run_simulate)
    _add_choice_of_worlds(parser)
    parser.add_argument("--seeds", type=_positive, default=SEEDS_DEFAULT, metavar="N", help="how many worlds")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first world's seed")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop after this long")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="processes at once")
    parser.add_argument("--only", type=_items, metavar="I,J", help="of the plan, these numbered faults and liars alone")
    add_json_option(parser)


def _add_choice_of_worlds(parser: ArgumentParser) -> None:
    parser.add_argument("--seats", type=_positive, default=9, metavar="N", help="nodes of a world")
    parser.add_argument("--heights", type=_positive, default=20, metavar="N", help="blocks of a world")
    parser.add_argument("--liars", type=int, metavar="N", help="at most this many; the budget's r unless said")
    parser.add_argument("--storm", type=_storm, default=12.0, metavar="SECONDS", help="the longest storm, above 2")
    parser.add_argument(
        "--idle", type=_minutes, default=0, metavar="MINUTES", help="virtual time with nothing to do, at the end"
    )
    parser.add_argument("--faults", default="all", metavar="KINDS", help="all, none, or some by name: loss,crash,liars")
    parser.add_argument("--signatures", choices=("stub", "real"), default="stub", help="real ones are ten times slower")


def run_simulate(arguments: Namespace) -> int:
    """Run the worlds, show what broke."""
    settings = _settings(arguments)
    logging.disable(logging.CRITICAL)  # a node's warnings are what is simulated
    if arguments.only is not None:
        return _replay(settings, arguments)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ends_at = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    summary = _run_all(settings, seeds, arguments.jobs, ends_at)
    if arguments.json:
        print_json(summary.as_json())
    else:
        print_line(str(summary))
    return ExitCode.FAILED if summary.failures else ExitCode.DONE


@dataclass(slots=True)
class Summary:
    """What became of all worlds."""

    worlds: int = 0
    totals: Counter[str] = field(default_factory=Counter[str])
    failures: list[Failure] = field(default_factory=list["Failure"])
    began: float = field(default_factory=time.monotonic)

    def add(self, outcome: WorldReport | Failure) -> None:
        """Count a world."""
        from testnet.simulation.shrinker import Failure

        self.worlds += 1
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            return
        self.totals["events"] += outcome.steps
        self.totals["heights"] += outcome.heights
        self.totals["restarts"] += outcome.restarts
        self.totals["decided_above_round_0"] += outcome.rounds_above_zero
        self.totals["virtual_seconds"] += int(outcome.virtual_s)
        self.totals["changes_of_seats"] += outcome.changes

    def as_json(self) -> dict[str, int | float | list[str]]:
        """Return it as `--json` shows it."""
        return {
            "worlds": self.worlds,
            **self.totals,
            "seconds": round(time.monotonic() - self.began, 1),
            "failures": [failure.command() for failure in self.failures],
        }

    def __str__(self) -> str:
        """Say it in a line."""
        totals, seconds = self.totals, time.monotonic() - self.began
        return (
            f"{self.worlds} worlds, {len(self.failures)} broken; {totals['events']} events,"
            f" {totals['heights']} heights, {totals['restarts']} restarts,"
            f" {totals['decided_above_round_0']} decisions above round 0,"
            f" {totals['changes_of_seats']} changes of seats;"
            f" {totals['virtual_seconds']} s of virtual time in {seconds:.0f} s"
        )


def _run_all(settings: Settings, seeds: range, jobs: int, ends_at: float | None) -> Summary:
    summary = Summary()
    ignoring = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process, which ends the others
    with multiprocessing.Pool(jobs, signal.signal, ignoring) as pool, Progress("worlds", len(seeds)) as progress:
        for outcome in pool.imap_unordered(partial(run_seed, settings), seeds):
            summary.add(outcome)
            progress.advance(1)
            if ends_at is not None and time.monotonic() > ends_at:
                break
        pool.terminate()
    _show(summary.failures[:FAILURES_SHOWN])
    return summary


def run_seed(settings: Settings, seed: int) -> WorldReport | Failure:
    """Run one world."""
    from testnet.simulation.checkers import InvariantError
    from testnet.simulation.shrinker import Failure, items_of
    from testnet.simulation.world import run_world

    logging.disable(logging.CRITICAL)
    try:
        return run_world(settings, seed)
    except InvariantError as error:
        items = items_of(settings, seed)
        return Failure(settings=settings, seed=seed, items=items, invariant=error.invariant, detail=error.detail)


def _show(failures: Iterable[Failure]) -> None:
    """Cut failures down and say how to replay them."""
    from testnet.simulation.shrinker import shrink

    for failure in failures:
        note(f"\nseed {failure.seed}: {failure.invariant}: {failure.detail}\n  {failure.command()}\n  cutting it down")
        _show_plan(shrink(failure))


def _show_plan(failure: Failure) -> None:
    plan = failure.plan
    note(f"  {failure.invariant}: {failure.detail}")
    lies = (f"seat {seat} lies: {', '.join(sorted(said))}" for seat, said in plan.liars)
    for line in (*plan.faults, *lies, *(f"members {move}" for move in plan.moves)):
        note(f"    {line}")
    note(f"  {failure.command()}")


def _replay(settings: Settings, arguments: Namespace) -> int:
    from testnet.simulation.shrinker import find_failure

    failure = find_failure(settings, arguments.first_seed, arguments.only)
    if failure is None:
        print_line(f"seed {arguments.first_seed}: every invariant holds")
        return ExitCode.DONE
    _show_plan(failure)
    return ExitCode.FAILED


def _settings(arguments: Namespace) -> Settings:
    from testnet.simulation.faults import ALL_KINDS, FaultKind
    from testnet.simulation.signatures import SignatureKind
    from testnet.simulation.world import Settings

    named: str = arguments.faults
    names: list[str] = [] if named == "none" else named.split(",")
    unknown = [name for name in names if name not in {*FaultKind, "all"}]
    if unknown:
        raise UsageError(f"no such fault: {', '.join(unknown)}; there are {', '.join(FaultKind)}")
    kinds = ALL_KINDS if "all" in names else frozenset(FaultKind(name) for name in names)
    return Settings(
        seats=arguments.seats,
        heights=arguments.heights,
        liars_max=arguments.liars,
        storm_ms_max=int(1_000 * arguments.storm),
        idle_minutes=arguments.idle,
        kinds=kinds,
        signatures=SignatureKind(arguments.signatures),
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _storm(text: str) -> float:
    seconds = float(text)
    if not STORM_S_MIN < seconds <= STORM_S_MAX:
        raise ArgumentTypeError(f"{text} is not above {STORM_S_MIN}, up to {STORM_S_MAX}")
    return seconds


def _minutes(text: str) -> int:
    minutes = _positive(text)
    if minutes > IDLE_MINUTES_MAX:
        raise ArgumentTypeError(f"{text} minutes are more than {IDLE_MINUTES_MAX}: let more worlds idle instead")
    return minutes


def _items(text: str) -> tuple[int, ...]:
    words = [] if text == "none" else text.split(",")
    if not all(word.isdecimal() for word in words):
        raise ArgumentTypeError(f"{text!r} is neither whole numbers with commas between them nor none")
    return tuple(map(int, words))
