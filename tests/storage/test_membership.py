"""Any run of proposals and approvals, against a plain list of who sat when."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.identifiers import MEMBERS_MAX, Height, PublicKey
from consensus.quorum import fault_budget
from storage.identifiers import SeatIndex
from storage.ledger import context_at
from storage.membership import read_proposals
from storage.seat_changes import AddSeat, Change, ChangeParameters, RemoveSeat, ReplaceOccupant, RotateKeys
from tests.storage.ledger_world import World, signing_key

SEATS = 7
"""Removals need more: three may come and go."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """Who sits where from a height on."""

    since: int
    names: tuple[str | None, ...]


class Seats(RuleBasedStateMachine):
    """Changes decided one after the other, with proposals that come to nothing between them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(seats=SEATS)
        self.sittings = [Sitting(0, tuple(f"seat {i}" for i in range(SEATS)))]
        self.newcomers = 0

    def newcomer(self) -> str:
        self.newcomers += 1
        return f"newcomer {self.newcomers}"

    def drawn(self, kind: int, number: int) -> tuple[Change, str | None]:
        """Return a change of a kind, and who would sit."""
        names = self.sittings[-1].names
        seated = [i for i, name in enumerate(names) if name is not None]
        chosen = seated[number % len(seated)]
        name = self.newcomer()
        match kind:
            case 0:
                return AddSeat(offer=self.world.offer(len(names), name)), name
            case 1:
                return RemoveSeat(number=SeatIndex(chosen)), None
            case 2:
                return ReplaceOccupant(offer=self.world.offer(chosen, name)), name
            case _:
                operator = self.world.context.membership.seats[chosen].seat.operator
                return RotateKeys(offer=self.world.offer(chosen, name, operator=operator)), name

    @rule(kind=st.integers(0, 3), number=st.integers(0, 20), votes=st.integers(1, 12))
    def propose_and_vote(self, kind: int, number: int, votes: int) -> None:
        change, name = self.drawn(kind, number)
        voters = [int(member) for member in self.world.rules.members.indices][:votes]
        outcome = self.world.apply(self.world.propose(change, by=voters[0])).outcomes[0]
        if outcome.reason is not None:
            return
        quorum = self.world.rules.members.budget.quorum
        for voter in voters[1:]:
            if read_proposals(self.world.state):
                self.world.apply(self.world.approve(voters[0], by=voter))
            if self.world.context.membership.scheduled is not None:
                break
        scheduled = self.world.context.membership.scheduled
        assert (scheduled is not None) == (len(voters) >= quorum)
        if scheduled is not None:
            assert scheduled.effective == self.world.tip.height + 2
            self.note(change, name, scheduled.effective)
            self.world.apply()

    def note(self, change: Change, name: str | None, since: int) -> None:
        names = list(self.sittings[-1].names)
        if isinstance(change, RemoveSeat):
            names[change.number] = None
        else:
            assert not isinstance(change, ChangeParameters)
            names[change.offer.number : change.offer.number + 1] = [name]
        self.sittings.append(Sitting(since, tuple(names)))
        self.world.names = [name or "nobody" for name in names]

    @rule()
    def nothing_happens(self) -> None:
        before = self.world.tip.state_root
        self.world.apply()
        assert self.world.tip.state_root == before

    @precondition(lambda self: len(self.sittings[-1].names) < MEMBERS_MAX)
    @invariant()
    def every_height_has_its_members(self) -> None:
        for sitting in self.sittings:
            members = self.world.context.schedule.members_at(Height(sitting.since))
            keys = [_key(name) for name in sitting.names]
            assert members.public_keys == tuple(keys[: max(members.indices) + 1])
            assert not any(keys[max(members.indices) + 1 :])
            assert members.since == sitting.since
            assert members.budget == fault_budget(len(members.indices))

    @invariant()
    def the_budget_is_never_below_genesis(self) -> None:
        budget, least = self.world.rules.members.budget, fault_budget(SEATS)
        assert budget.failures >= least.failures
        assert budget.liars >= least.liars
        assert self.world.context.coding.members == min(9, budget.members)

    @invariant()
    def what_is_remembered_is_what_the_state_says(self) -> None:
        assert context_at(self.world.state, self.world.tip.height) == self.world.context


def _key(name: str | None) -> PublicKey | None:
    return None if name is None else signing_key(name).public


TestSeats = Seats.TestCase
TestSeats.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
