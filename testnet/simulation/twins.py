"""Twins: a liar is an honest member that runs twice (Bano et al., "Twins: BFT Systems Made Robust", OPODIS 2021).

A twinned member's two copies share its key and know nothing of each other, so between them they say two things at once,
hide votes and forget locks. A scenario gives every round a leader and cuts the copies into two sides, anew for
proposals, prevotes and precommits; within a side all is heard, between the sides nothing. Leaders and sides are
enumerated; what differs by the names of honest members or of the sides alone is left out. Drives the pure core: no
clock, disk or signature.

Checked in every scenario: correct members decide alike, no correct member signs two votes for one place, none is
accused, and none prevotes against its lock unless a later polka allowed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Final, assert_never

from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate
from consensus.driver import HeightContext, HeightState, apply, start_state
from consensus.effects import (
    AskForValue,
    BroadcastCertificate,
    BroadcastProposal,
    BroadcastVote,
    Decide,
    Effect,
    ReportEvidence,
    ScheduleTimeout,
)
from consensus.errors import RejectionError
from consensus.events import (
    CommitReceived,
    Event,
    HeightStarted,
    PolkaReceived,
    ProposalReceived,
    RoundReceived,
    Timeout,
    TimeoutElapsed,
    TimeoutKind,
    Validity,
    ValueReady,
    VoteReceived,
)
from consensus.evidence import fault_place
from consensus.identifiers import BlockHash, Height, MemberIndex, Round, Signature
from consensus.proposals import SignedProposal
from consensus.quorum import fault_budget
from consensus.votes import Prevote, SignedVote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.certificates import Certificate
    from consensus.votes import Vote

HEIGHT: Final = Height(1)
UNSIGNED: Final = Signature(bytes(64))
ROUNDS: Final = 3
"""A lock and a hidden decision, another polka, another decision: what a forgotten lock needs."""
WAVES: Final = 3
"""Proposals, prevotes, precommits: the sides change between them, so that some hear of a step and others do not."""

WAITS: Final = (TimeoutKind.PROPOSE, TimeoutKind.PREVOTE, TimeoutKind.PRECOMMIT)
"""What runs out after each wave."""

Sides = tuple[int, ...]
"""Of every copy, in order: members, then second copies of the twinned; the first copy of member 0 is on side 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many members, and how many of them, from seat 0 on, are twinned."""

    members: int
    twinned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Of every round its leader, of every wave of it the sides."""

    shape: Shape
    number: int
    leaders: tuple[MemberIndex, ...]
    sides: tuple[Sides, ...]


class TwinsError(AssertionError):
    """A promise was broken; says which and how to see it again."""


@cache
def leader_orders(shape: Shape) -> tuple[tuple[MemberIndex, ...], ...]:
    """Return the orders of leaders; honest members, who are alike, come in the order of their seats."""
    return tuple(
        tuple(MemberIndex(m) for m in order)
        for order in product(range(shape.members), repeat=ROUNDS)
        if (new := list(dict.fromkeys(m for m in order if m >= shape.twinned)))
        == [*range(shape.twinned, shape.twinned + len(new))]
    )


@cache
def cuts(shape: Shape) -> tuple[Sides, ...]:
    """Return the sides of which at least one holds a quorum of keys: on others nothing is ever decided or locked."""
    quorum = fault_budget(shape.members).quorum
    keys = (*range(shape.members), *range(shape.twinned))
    return tuple(
        (0, *rest)
        for rest in product((0, 1), repeat=len(keys) - 1)
        if any(
            len({member for member, side in zip(keys, (0, *rest), strict=True) if side == s}) >= quorum for s in (0, 1)
        )
    )


def scenario_count(shape: Shape) -> int:
    """Return how many scenarios a shape has."""
    return len(leader_orders(shape)) * math.prod([len(cuts(shape))] * ROUNDS * WAVES)


def scenario(shape: Shape, number: int) -> Scenario:
    """Return a scenario by its number, from 0."""
    left, leaders = divmod(number, len(leader_orders(shape)))
    sides: list[Sides] = []
    for _ in range(ROUNDS * WAVES):
        left, cut = divmod(left, len(cuts(shape)))
        sides.append(cuts(shape)[cut])
    return Scenario(shape=shape, number=number, leaders=leader_orders(shape)[leaders], sides=tuple(sides))


def sample(shape: Shape, seed: int, count: int) -> Iterator[Scenario]:
    """Yield scenarios chosen by a seed; one of so many that none comes twice but by chance."""
    choice, total = Random(seed), scenario_count(shape)
    return (scenario(shape, choice.randrange(total)) for _ in range(count))


@dataclass(frozen=True, slots=True)
class _Leaders:
    order: tuple[MemberIndex, ...]

    def proposer(self, _height: Height, round_: Round, /) -> MemberIndex:
        return self.order[round_ % len(self.order)]


@dataclass(slots=True)
class Run:
    """One scenario under way."""

    scenario: Scenario
    keys: tuple[MemberIndex, ...] = field(init=False)
    states: list[HeightState] = field(init=False)
    mail: list[tuple[int, Event]] = field(default_factory=list[tuple[int, Event]])
    alarms: list[tuple[int, Timeout]] = field(default_factory=list[tuple[int, Timeout]])
    decided: dict[int, BlockHash] = field(default_factory=dict[int, BlockHash])
    signed: dict[tuple[str, Round, int], Vote] = field(default_factory=dict[tuple[str, Round, int], "Vote"])

    def __post_init__(self) -> None:
        """Start every copy."""
        shape = self.scenario.shape
        self.keys = tuple(MemberIndex(m) for m in (*range(shape.members), *range(shape.twinned)))
        turns, budget = _Leaders(self.scenario.leaders), fault_budget(shape.members)
        voters = frozenset(self.keys)
        self.states = [
            start_state(HeightContext(height=HEIGHT, budget=budget, voters=voters, turns=turns, me=member))
            for member in self.keys
        ]

    def play(self) -> dict[int, BlockHash]:
        """Play every round; return what correct members decided.

        Raises:
            TwinsError: A promise was broken.
        """
        for copy in range(len(self.keys)):
            self._give(copy, HeightStarted(height=HEIGHT))
        for wave, sides in enumerate(self.scenario.sides):
            self._deliver(sides)
            self._expire(WAITS[wave % WAVES])
        return self.decided

    def _expire(self, kind: TimeoutKind) -> None:
        due = [alarm for alarm in self.alarms if alarm[1].kind is kind]
        self.alarms = [alarm for alarm in self.alarms if alarm[1].kind is not kind]
        for copy, timeout in due:
            self._give(copy, TimeoutElapsed(timeout=timeout))

    def _deliver(self, sides: Sides) -> None:
        """Let everybody hear what was said on its side; the rest is lost."""
        said, self.mail = self.mail, []
        for sender, event in said:
            for copy, side in enumerate(sides):
                if copy != sender and side == sides[sender]:
                    self._give(copy, event)

    def _give(self, copy: int, event: Event) -> None:
        try:
            self.states[copy], effects = apply(self.states[copy], event)
        except RejectionError:
            return
        for effect in effects:
            self._carry_out(copy, effect)

    def _carry_out(self, copy: int, effect: Effect) -> None:
        match effect:
            case AskForValue(round=round_):
                block_hash = BlockHash(bytes((copy, round_)) * 16)
                self._give(copy, ValueReady(height=HEIGHT, round=round_, block_hash=block_hash))
            case BroadcastProposal(proposal=proposal, polka=polka):
                if polka is not None:
                    self.mail.append((copy, PolkaReceived(certificate=polka)))
                signed = SignedProposal(proposal=proposal, signature=UNSIGNED)
                self._say(copy, ProposalReceived(signed=signed, validity=Validity.VALID))
            case BroadcastVote(vote=vote):
                self._check_vote(copy, vote)
                self._say(copy, VoteReceived(signed=SignedVote(vote=vote, signature=UNSIGNED)))
            case BroadcastCertificate(certificate=certificate):
                self.mail.append((copy, event_of(certificate)))
            case ScheduleTimeout(timeout=timeout):
                self.alarms.append((copy, timeout))
            case Decide(block_hash=block_hash):
                self._decide(copy, block_hash)
            case ReportEvidence(evidence=evidence):
                _, guilty, _, _ = fault_place(evidence)
                self._promise("no correct member is accused", kept=guilty < self.scenario.shape.twinned)
            case _:
                assert_never(effect)

    def _say(self, copy: int, event: Event) -> None:
        self._give(copy, event)
        self.mail.append((copy, event))

    def _decide(self, copy: int, block_hash: BlockHash) -> None:
        if self._is_correct(copy):
            self.decided[copy] = block_hash
            self._promise("correct members decide alike", kept=len(set(self.decided.values())) == 1)

    def _check_vote(self, copy: int, vote: Vote) -> None:
        if not self._is_correct(copy):
            return
        first = self.signed.setdefault((type(vote).__name__, vote.round, copy), vote)
        self._promise("a correct member signs once", kept=first == vote)
        locked = self.states[copy].machine.locked
        if isinstance(vote, Prevote) and locked is not None and vote.block_hash not in {None, locked.block_hash}:
            shown = (vote.valid_round, vote.block_hash) in self.states[copy].keeper.polkas
            self._promise("a lock yields to a later polka alone", kept=shown and vote.valid_round > locked.round)

    def _is_correct(self, copy: int) -> bool:
        return self.keys[copy] >= self.scenario.shape.twinned

    def _promise(self, promise: str, *, kept: bool) -> None:
        if not kept:
            shape, number = self.scenario.shape, self.scenario.number
            again = f"python -m testnet.simulation.twins {shape.members} {shape.twinned} --number {number}"
            raise TwinsError(f"broken: {promise}; again: {again}")


def event_of(certificate: Certificate) -> Event:
    """Return a certificate as the event that it is to who hears it."""
    match certificate:
        case PolkaCertificate():
            return PolkaReceived(certificate=certificate)
        case CommitCertificate():
            return CommitReceived(certificate=certificate)
        case RoundCertificate():
            return RoundReceived(certificate=certificate)
        case _:
            assert_never(certificate)


def main() -> None:
    """Play one scenario, or a sample of a shape's."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m testnet.simulation.twins", description=__doc__)
    parser.add_argument("members", type=int)
    parser.add_argument("twinned", type=int)
    parser.add_argument("--number", type=int, help="play this scenario alone")
    parser.add_argument("--count", type=int, default=10_000, help="play so many")
    parser.add_argument("--seed", type=int, default=1, help="which")
    given = parser.parse_args()
    shape = Shape(members=given.members, twinned=given.twinned)
    one = given.number is not None
    chosen = [scenario(shape, given.number)] if one else sample(shape, given.seed, given.count)
    played = decided = 0
    for played, wanted in enumerate(chosen, 1):  # noqa: B007 (the count of the last is printed)
        decided += bool(Run(wanted).play())
    print(f"{played} of {scenario_count(shape)} scenarios kept every promise, {decided} of them decided")


if __name__ == "__main__":
    main()
