"""Cuts a failing world down: fewer faults, liars and heights that still break the same invariant.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) over the numbered
faults and liars of the plan, then fewer heights. Every attempt runs a whole world, so their number is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from testnet.simulation.checkers import Invariant, InvariantError
from testnet.simulation.faults import STORM_MS
from testnet.simulation.world import Settings, plan_of, run_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testnet.simulation.faults import Plan

ATTEMPTS_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A world in which an invariant breaks, and which of its plan's items take part.

    Items are numbered: the plan's faults in order, then its liars, then changes of the seats.
    """

    settings: Settings
    seed: int
    items: tuple[int, ...]
    invariant: Invariant
    detail: str

    @property
    def plan(self) -> Plan:
        """Return what goes wrong."""
        return keep_only(plan_of(self.settings, self.seed), self.items)

    def command(self) -> str:
        """Return the command line that replays it."""
        settings = self.settings
        kinds = ",".join(sorted(settings.kinds)) or "none"
        words = ["grandest simulate", f"--first-seed {self.seed} --seeds 1", f"--heights {settings.heights}"]
        words += [f"--seats {settings.seats}", f"--faults {kinds}", f"--signatures {settings.signatures}"]
        if settings.storm_ms_max != STORM_MS[1]:
            words.append(f"--storm {settings.storm_ms_max / 1000:g}")
        if settings.idle_minutes:
            words.append(f"--idle {settings.idle_minutes}")
        if settings.liars_max is not None:
            words.append(f"--liars {settings.liars_max}")
        return " ".join([*words, f"--only {','.join(map(str, self.items)) or 'none'}"])


def keep_only(plan: Plan, items: Sequence[int]) -> Plan:
    """Return a plan with these of its items alone."""
    first_liar = len(plan.faults)
    first_move = first_liar + len(plan.liars)
    return replace(
        plan,
        faults=tuple(fault for number, fault in enumerate(plan.faults) if number in items),
        liars=tuple(liar for number, liar in enumerate(plan.liars, first_liar) if number in items),
        moves=tuple(move for number, move in enumerate(plan.moves, first_move) if number in items),
    )


def items_of(settings: Settings, seed: int) -> tuple[int, ...]:
    """Return the numbers of all items of a seed's plan."""
    plan = plan_of(settings, seed)
    return tuple(range(len(plan.faults) + len(plan.liars) + len(plan.moves)))


def find_failure(settings: Settings, seed: int, items: Sequence[int] | None = None) -> Failure | None:
    """Run a world, or a part of what its plan holds; return what breaks."""
    chosen = items_of(settings, seed) if items is None else tuple(items)
    try:
        run_world(settings, seed, keep_only(plan_of(settings, seed), chosen))
    except InvariantError as error:
        return Failure(settings=settings, seed=seed, items=chosen, invariant=error.invariant, detail=error.detail)
    return None


def shrink(failure: Failure) -> Failure:
    """Return the smallest failure of the same invariant that ATTEMPTS_MAX worlds lead to."""
    attempts = [0]
    failure = _fewer_heights(failure, attempts)
    pieces = 2
    while failure.items and attempts[0] < ATTEMPTS_MAX:
        smaller = _without_a_piece(failure, pieces, attempts)
        if smaller is not None:
            failure, pieces = smaller, max(2, pieces - 1)
        elif pieces >= len(failure.items):
            break
        else:
            pieces = min(len(failure.items), 2 * pieces)
    return _fewer_heights(failure, attempts)


def _without_a_piece(failure: Failure, pieces: int, attempts: list[int]) -> Failure | None:
    items = failure.items
    for piece in range(pieces):
        start, stop = (len(items) * i // pieces for i in (piece, piece + 1))
        found = _attempt(failure, failure.settings, items[:start] + items[stop:], attempts) if stop > start else None
        if found is not None:
            return found
    return None


def _fewer_heights(failure: Failure, attempts: list[int]) -> Failure:
    heights = failure.settings.heights
    while heights > 1:
        heights //= 2
        found = _attempt(failure, replace(failure.settings, heights=heights), failure.items, attempts)
        if found is None:
            break
        failure = found
    return failure


def _attempt(failure: Failure, settings: Settings, items: tuple[int, ...], attempts: list[int]) -> Failure | None:
    if attempts[0] >= ATTEMPTS_MAX:
        return None
    attempts[0] += 1
    found = find_failure(settings, failure.seed, items)
    return found if found is not None and found.invariant is failure.invariant else None
