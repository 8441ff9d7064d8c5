"""What goes wrong in a world, when and to whom: drawn from the seed beforehand, so that it can be cut down.

During the storm anything may fail together: all links, more machines than the budget, all clocks. Safety must hold
throughout. At its end everything heals but the liars, and decisions must come in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from consensus.quorum import FaultBudget


class FaultKind(StrEnum):
    """A way to fail."""

    LOSS = "loss"
    DUPLICATES = "duplicates"
    DELAY = "delay"
    HALVES = "halves"
    RING = "ring"
    ONE_WAY = "one-way"
    FLAPPING = "flapping"
    SPLITS = "splits"
    CRASH = "crash"
    POWER_CUT = "power-cut"
    DISK = "disk"
    CLOCK = "clock"
    SLOW = "slow"
    LIARS = "liars"
    SEATS = "seats"


class Move(StrEnum):
    """What members change about themselves."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"
    ROTATE = "rotate"
    PARAMETERS = "parameters"


class Lie(StrEnum):
    """What a liar does besides its duties."""

    EQUIVOCATE = "equivocate"
    WITHHOLD = "withhold"
    REPLAY = "replay"
    LIE_IN_SYNC = "lie in sync"
    FORGE = "forge"
    AMNESIA = "amnesia"
    MUTATE = "mutate"


STORM_MS: Final = (2_000, 12_000)
FAULTS_MAX: Final = 14
MOVES_MAX: Final = 3
SPAN_MS: Final = (100, 4_000)
ALL_KINDS: Final = frozenset(FaultKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong from a moment on for a while.

    Attributes:
        seats: Whom it concerns, in an order that matters for some kinds.
        number: 32 bits for whatever else the kind has to choose.
    """

    kind: FaultKind
    at_ms: int
    span_ms: int
    seats: tuple[int, ...]
    number: int

    def __str__(self) -> str:
        """Say it in a line of a report."""
        return f"{self.at_ms / 1000:.3f} s, for {self.span_ms} ms: {self.kind} {list(self.seats)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that goes wrong in one world."""

    storm_ms: int
    faults: tuple[Fault, ...]
    liars: tuple[tuple[int, frozenset[Lie]], ...]
    """Seat and lies, by seat."""
    moves: tuple[Move, ...] = ()
    """Changes of the seats, one after the other."""


def draw_plan(
    seed: int, budget: FaultBudget, kinds: frozenset[FaultKind], liars_max: int, storm_ms_max: int = STORM_MS[1]
) -> Plan:
    """Return what the seed has in store."""
    rng = Random(f"plan {seed}")
    storm_ms = rng.randrange(STORM_MS[0], storm_ms_max)
    count = rng.randrange(1, FAULTS_MAX + 1)
    drawable = sorted(kinds - {FaultKind.LIARS, FaultKind.SEATS})
    faults = [_draw(rng, budget.members, storm_ms, drawable) for _ in range(count)] if drawable else []
    faults.sort(key=lambda fault: fault.at_ms)
    liar_count = rng.randrange(liars_max + 1) if FaultKind.LIARS in kinds else 0
    liars = sorted(rng.sample(range(budget.members), liar_count))
    return Plan(
        storm_ms=storm_ms,
        faults=tuple(faults),
        liars=tuple((seat, frozenset(rng.sample(sorted(Lie), rng.randrange(1, len(Lie) + 1)))) for seat in liars),
        moves=_draw_moves(seed) if FaultKind.SEATS in kinds else (),
    )


def _draw_moves(seed: int) -> tuple[Move, ...]:
    rng = Random(f"moves {seed}")
    return tuple(rng.choices(list(Move), k=rng.randrange(MOVES_MAX + 1)))


def _draw(rng: Random, members: int, storm_ms: int, kinds: list[FaultKind]) -> Fault:
    at_ms = rng.randrange(storm_ms)
    seats = rng.sample(range(members), rng.randrange(1, members + 1))
    kind = rng.choice(kinds)
    if kind is FaultKind.RING:
        seats = rng.sample(range(members), members)
    elif rng.random() < 1 / 2:
        seats = seats[:2]
    return Fault(
        kind=kind,
        at_ms=at_ms,
        span_ms=min(rng.randrange(*SPAN_MS), storm_ms - at_ms),
        seats=tuple(seats),
        number=rng.getrandbits(32),
    )
