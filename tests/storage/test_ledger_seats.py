"""Seats are changed by six of nine, effective two heights later, and never below what genesis promised."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from consensus.chain import check_decided, rules_at
from consensus.errors import RejectionError, RejectionReason
from consensus.genesis import ConsensusParameters
from consensus.identifiers import Height, MemberIndex, Milliseconds
from consensus.quorum import fault_budget
from consensus.turns import NOBODY, Suspension, suspensions
from storage.genesis import StorageParameters
from storage.identifiers import SeatIndex, SegmentId
from storage.ledger import check_transaction
from storage.ledger_seats import HEIGHTS_MIN, TIMEOUT_MS_MIN
from storage.membership import (
    PAST_MAX,
    SCHEDULED_KEY,
    PastOccupant,
    ProposalState,
    ScheduledState,
    proposal_key,
    read_membership,
    read_proposals,
    schedule_of,
)
from storage.outcomes import FailureReason
from storage.seat_changes import (
    AddSeat,
    ApproveChange,
    Change,
    ChangeParameters,
    ProposeChange,
    RemoveSeat,
    ReplaceOccupant,
    RotateKeys,
    change_id,
)
from storage.state import SegmentState, read_state, segment_key
from storage.transactions import CompleteColumns, Extent, decode_transaction
from tests.storage.ledger_world import TENANT, World, entry, segment_id, signing_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.blocks import Block
    from consensus.evidence import Evidence
    from consensus.identifiers import StateRoot
    from consensus.schedule import MemberSchedule


def reason(world: World, transaction: bytes) -> FailureReason | None:
    return world.apply(transaction).outcomes[0].reason


def replacing(world: World, number: int, name: str = "new") -> ReplaceOccupant:
    return ReplaceOccupant(offer=world.offer(number, name))


def key_of(world: World, number: int, height: int) -> bytes | None:
    keys = world.context.schedule.members_at(Height(height)).public_keys
    return keys[number] if number < len(keys) else None


def test_six_of_nine_change_a_seat_two_heights_later() -> None:
    world = World(seats=9)
    world.decide(world.propose(replacing(world, 3), by=7))
    world.decide(*(world.approve(7, by=member) for member in (0, 1, 2, 4)))
    assert read_state(world.state, SCHEDULED_KEY, ScheduledState) is None
    world.decide(world.approve(7, by=3))  # whoever goes may agree
    decided_at = world.tip.height
    assert read_state(world.state, SCHEDULED_KEY, ScheduledState) == ScheduledState(
        change=replacing(world, 3), effective=Height(decided_at + 2)
    )
    old, new = signing_key("seat 3").public, signing_key("new").public
    assert [key_of(world, 3, h) for h in range(1, decided_at + 3)] == [old] * (decided_at + 1) + [new]
    assert world.rules.members.public_keys[3] == old
    world.decide()
    assert world.rules.members.public_keys[3] == new
    assert [key_of(world, 3, h) for h in range(1, decided_at + 3)] == [old] * (decided_at + 1) + [new]
    assert read_state(world.state, SCHEDULED_KEY, ScheduledState) is None


def test_five_approvals_change_nothing() -> None:
    world = World(seats=9)
    world.decide(world.propose(replacing(world, 3)))
    world.decide(*(world.approve(0, by=member) for member in (1, 2, 3, 4)))
    for _ in range(5):
        world.decide()
    assert world.rules.members.public_keys[3] == signing_key("seat 3").public


def test_an_empty_block_carries_a_change_out_and_changes_the_root() -> None:
    world = World(seats=4)
    world.decide(world.propose(replacing(world, 3)))
    world.decide(world.approve(0, by=1), world.approve(0, by=2))
    before = world.tip.state_root
    world.decide()
    assert world.tip.state_root != before
    after = world.tip.state_root
    world.names[3] = "new"
    world.decide()
    assert world.tip.state_root == after


def test_each_height_is_judged_by_its_own_members() -> None:
    """The block before is proven by the old members, the first block of the change by the new ones alone."""
    world = World(seats=4)
    chain = [world.decide(world.propose(replacing(world, 3)))]
    chain.append(world.decide(world.approve(0, by=1), world.approve(0, by=2)))
    chain.append(world.decide())
    before = world.tip
    world.names[3] = "new"
    right = world.decide()
    application = _Judge(world)
    check_decided(right, before, rules_at("test", world.context.schedule, Height(4)), application)
    world.names[3] = "seat 3"
    wrong = world.certify(right.block)
    with pytest.raises(RejectionError) as caught:
        check_decided(wrong, before, rules_at("test", world.context.schedule, Height(4)), application)
    assert caught.value.reason is RejectionReason.BAD_SIGNATURE


@dataclasses.dataclass
class _Judge:
    """Admits every payload."""

    world: World

    def check_transactions(self, transactions: Sequence[bytes]) -> None:
        """Nothing is wrong."""

    def check_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Nothing is wrong."""

    def apply(self, block: Block) -> StateRoot:
        raise AssertionError(block)

    @property
    def schedule(self) -> MemberSchedule:
        return self.world.context.schedule


def test_strangers_neither_propose_nor_approve() -> None:
    world = World(seats=4)
    body = ProposeChange(change=replacing(world, 3))
    assert reason(world, world.transaction(body, sender="client")) is FailureReason.NOT_GRANTED
    world.apply(world.propose(replacing(world, 3)))
    proposal = read_state(world.state, proposal_key(SeatIndex(0)), ProposalState)
    assert proposal is not None
    name = change_id(SeatIndex(0), proposal.height, proposal.change)
    approval = ApproveChange(proposer=SeatIndex(0), change_id=name)
    assert reason(world, world.transaction(approval, sender="tenant")) is FailureReason.NOT_GRANTED
    assert reason(world, world.transaction(approval, sender="seat 0")) is FailureReason.APPROVED_ALREADY


def test_an_approval_is_of_one_proposal_alone() -> None:
    world = World(seats=4)
    world.apply(world.propose(replacing(world, 3)))
    approval = world.approve(0, by=1)
    world.apply(world.propose(replacing(world, 2)))  # takes the place of the first
    assert reason(world, approval) is FailureReason.CHANGE_UNKNOWN
    world.apply(world.propose(replacing(world, 3)))  # the same again is another proposal
    assert reason(world, world.transaction(_approval_of(approval), sender="seat 1")) is FailureReason.CHANGE_UNKNOWN
    assert reason(world, world.approve(0, by=1)) is None


def _approval_of(transaction: bytes) -> ApproveChange:
    body = decode_transaction(transaction).envelope.body
    assert isinstance(body, ApproveChange)
    return body


def test_members_propose_side_by_side_and_what_is_scheduled_voids_the_others() -> None:
    world = World(seats=9)
    world.apply(world.propose(replacing(world, 3), by=0), world.propose(replacing(world, 4, "another"), by=1))
    world.apply(*(world.approve(1, by=member) for member in (2, 3, 4, 5)))
    late = world.approve(1, by=7)
    change = world.apply(*(world.approve(0, by=member) for member in (1, 2, 3, 4, 5)), late)
    assert [outcome.reason for outcome in change.outcomes] == [None] * 5 + [FailureReason.CHANGE_UNDER_WAY]
    assert read_proposals(world.state) == ()
    assert reason(world, world.propose(replacing(world, 5))) is FailureReason.CHANGE_UNDER_WAY
    world.names[3] = "new"
    assert reason(world, world.transaction(_approval_of(late), sender="seat 7")) is FailureReason.CHANGE_UNKNOWN
    assert reason(world, world.propose(replacing(world, 5, "another"))) is None


def test_a_proposal_expires() -> None:
    world = World(seats=4)
    world.change(ChangeParameters(agreement=ConsensusParameters(), storage=_storage(proposal_heights=HEIGHTS_MIN)))
    world.apply(world.propose(replacing(world, 3)))
    for _ in range(HEIGHTS_MIN - 1):
        world.apply()
    assert reason(world, world.approve(0, by=1)) is None
    assert reason(world, world.approve(0, by=2)) is FailureReason.CHANGE_EXPIRED


def _storage(**changes: int) -> StorageParameters:
    return replace(StorageParameters(), **changes)


REFUSED: dict[str, tuple[FailureReason, str]] = {
    "a seat that is not there": (FailureReason.SEAT_UNKNOWN, "remove 9"),
    "one seat less than genesis promised": (FailureReason.BUDGET_TOO_SMALL, "remove 8"),
    "another number than the next": (FailureReason.WRONG_SEAT_NUMBER, "add 10 new"),
    "a signing key of another seat": (FailureReason.KEY_IN_USE, "add 9 seat 1"),
    "its own key for a new occupant": (FailureReason.KEY_IN_USE, "replace 1 seat 1"),
    "a rotation to another operator": (FailureReason.ANOTHER_OPERATOR, "rotate 1 new"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_change_that_the_seats_do_not_bear_is_refused(case: str) -> None:
    world = World(seats=9)
    wanted, words = REFUSED[case]
    kind, number, *names = words.split(" ")
    change: Change = RemoveSeat(number=SeatIndex(int(number)))
    if kind != "remove":
        offer = world.offer(int(number), " ".join(names))
        kinds: dict[str, type[AddSeat | ReplaceOccupant | RotateKeys]]
        kinds = {"add": AddSeat, "replace": ReplaceOccupant, "rotate": RotateKeys}
        change = kinds[kind](offer=offer)
    before = world.tip.state_root
    assert reason(world, world.propose(change)) is wanted
    assert read_proposals(world.state) == ()
    assert world.tip.state_root != before  # its sequence number is used


def test_the_budget_grows_with_a_seat_and_falls_back_to_genesis_at_most() -> None:
    world = World(seats=9)
    world.change(AddSeat(offer=world.offer(9, "ten")), "ten")
    assert world.rules.members.budget == fault_budget(10)
    assert world.context.coding == fault_budget(9)
    world.change(RemoveSeat(number=SeatIndex(2)))
    assert world.rules.members.budget == fault_budget(9)
    assert [int(member) for member in world.rules.members.indices] == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert reason(world, world.propose(RemoveSeat(number=SeatIndex(3)))) is FailureReason.BUDGET_TOO_SMALL
    assert reason(world, world.propose(replacing(world, 2))) is FailureReason.SEAT_UNKNOWN
    assert reason(world, world.propose(AddSeat(offer=world.offer(2, "new")))) is FailureReason.WRONG_SEAT_NUMBER
    world.decide()


def test_columns_never_become_fewer() -> None:
    world = World(seats=4)
    world.change(AddSeat(offer=world.offer(4, "five")), "five")
    assert world.context.coding == fault_budget(5)
    assert reason(world, world.propose(RemoveSeat(number=SeatIndex(1)))) is FailureReason.BUDGET_TOO_SMALL


@pytest.mark.parametrize(
    ("agreement", "storage"),
    [
        ({}, {}),
        ({"propose_timeout_ms": TIMEOUT_MS_MIN - 1}, {}),
        ({"timeout_max_ms": 400}, {}),
        ({"heartbeat_ms": 0}, {}),
        ({"clock_drift_ms": 0}, {}),
        ({"block_interval_min_ms": 60_001}, {}),
        ({}, {"receipt_heights": 0}),
        ({}, {"transaction_heights": 2**53 - 1}),
        ({}, {"uncommitted_bytes_max": 0}),
    ],
)
def test_parameters_that_stop_the_chain_are_refused(agreement: dict[str, int], storage: dict[str, int]) -> None:
    world = World(seats=4)
    times = {name: Milliseconds(value) for name, value in agreement.items()}
    change = ChangeParameters(agreement=replace(ConsensusParameters(), **times), storage=_storage(**storage))
    wanted = FailureReason.BAD_PARAMETERS if agreement or storage else FailureReason.NOTHING_TO_DO
    assert reason(world, world.propose(change)) is wanted


def test_parameters_change_at_their_height_and_the_members_stay() -> None:
    world = World(seats=4)
    agreement = replace(ConsensusParameters(), heartbeat_ms=Milliseconds(5_000))
    storage = _storage(transaction_heights=100)
    world.decide(world.propose(ChangeParameters(agreement=agreement, storage=storage)))
    world.decide(world.approve(0, by=1), world.approve(0, by=2))
    assert world.rules.parameters == ConsensusParameters()
    assert world.context.schedule.parameters_at(Height(4)) == agreement
    turns = world.tip.turns
    world.decide()
    assert world.rules.parameters == agreement
    assert world.context.parameters == storage
    assert len(world.context.schedule.members) == 1
    assert NOBODY not in (world.tip.turns.proposer_before, turns.proposer_before), "turns go on"
    assert reason(world, world.propose(replacing(world, 3), by=0)) is FailureReason.TOO_FAR_AHEAD


def test_an_offer_is_the_newcomers_own_for_this_seat_and_chain() -> None:
    world = World(seats=4)
    good = world.offer(4, "new")
    check_transaction(world.context, world.propose(AddSeat(offer=good)))
    elsewhere = World(seats=4, chain_id="another").offer(4, "new")
    forged = (
        replace(good, number=SeatIndex(3)),
        replace(good, signing_key=signing_key("seat 1").public),
        replace(good, seat=replace(good.seat, host="elsewhere")),
        elsewhere,
    )
    for offer in forged:
        with pytest.raises(RejectionError) as caught:
            check_transaction(world.context, world.propose(AddSeat(offer=offer)))
        assert caught.value.reason is RejectionReason.BAD_SIGNATURE


# --- what follows for turns, guilt and shards ------------------------------------------------------------------------


def test_guilt_stays_with_the_occupant_and_leaves_with_it() -> None:
    world = World(seats=9)
    world.decide(evidence=(world.evidence(6), world.evidence(7)))
    while len(suspensions(world.tip.turns)) < 2:
        world.decide()
    world.change(replacing(world, 6), "new")
    assert suspensions(world.tip.turns) == {}
    proof = _of_former_occupant(world)
    world.decide(evidence=(proof,))
    while (world.tip.height + 1) % 9:
        world.decide()
    assert suspensions(world.tip.turns) == {MemberIndex(7): Suspension.GUILTY}
    world.change(RotateKeys(offer=world.offer(7, "rotated", operator="operator 7")), "rotated")
    world.decide()
    while (world.tip.height + 1) % 9:
        world.decide()
    assert suspensions(world.tip.turns) == {MemberIndex(7): Suspension.GUILTY}


def _of_former_occupant(world: World) -> Evidence:
    """A fault of the old occupant that is found after it has left."""
    world.names[6] = "seat 6"
    proof = world.evidence(6, height=2)
    world.names[6] = "new"
    return proof


def test_a_new_occupant_holds_nothing_until_it_vouches_and_rotated_keys_keep_what_they_hold() -> None:
    world = World(seats=9)
    segments = (world.segment("a"),)
    world.decide(world.transaction(world.commit(segments, entry("a", Extent(segment=0, extent_bytes=1000)))))
    name = segment_id("a")
    seats = world.context.placement.column_seats(name, Height(1), Height(1))
    column = seats.index(SeatIndex(3))
    assert counted(world, name) == set(range(9))
    world.change(RotateKeys(offer=world.offer(3, "rotated", operator="operator 3")), "rotated")
    assert counted(world, name) == set(range(9))
    world.change(replacing(world, 3), "new")
    assert counted(world, name) == set(range(9)) - {column}
    old = world.receipt(3, segments, signer="rotated")
    complete = CompleteColumns(tenant=TENANT, segment_ids=(name,), receipts=(old,))
    assert reason(world, world.transaction(complete)) is FailureReason.BAD_RECEIPT
    complete = replace(complete, receipts=(world.receipt(3, segments),))
    assert reason(world, world.transaction(complete, sender="new")) is None
    assert counted(world, name) == set(range(9))
    state = read_state(world.state, segment_key(name), SegmentState)
    assert state is not None
    assert state.columns == tuple(range(9))
    assert state.vouched_at == world.tip.height


def test_another_column_noted_since_does_not_bring_a_lost_one_back() -> None:
    world = World(seats=9)
    segments = (world.segment("a"),)
    receipts = world.receipts(segments, range(1, 9))
    world.decide(
        world.transaction(world.commit(segments, entry("a", Extent(segment=0, extent_bytes=1000)), receipts=receipts))
    )
    name = segment_id("a")
    seats = world.context.placement.column_seats(name, Height(1), Height(1))
    world.change(replacing(world, 3), "new")
    complete = CompleteColumns(tenant=TENANT, segment_ids=(name,), receipts=(world.receipt(0, segments),))
    assert reason(world, world.transaction(complete)) is None
    assert counted(world, name) == set(range(9)) - {seats.index(SeatIndex(3))}


def test_the_column_of_a_seat_that_ends_goes_to_one_that_holds_none() -> None:
    world = World(seats=9)
    world.change(AddSeat(offer=world.offer(9, "ten")), "ten")
    born = Height(world.tip.height + 1)
    placement = world.context.placement
    names = [segment_id(str(i)) for i in range(60)]
    before = {name: placement.column_seats(name, born, born) for name in names}
    world.change(RemoveSeat(number=SeatIndex(2)))
    at = Height(world.tip.height + 1)
    for name in names:
        after = world.context.placement.column_seats(name, born, at)
        moved = [j for j in range(9) if after[j] != before[name][j]]
        assert moved == [j for j in range(9) if before[name][j] == 2]
        assert len(set(after)) == 9
        assert SeatIndex(2) not in after


def counted(world: World, name: SegmentId) -> set[int]:
    state = read_state(world.state, segment_key(name), SegmentState)
    assert state is not None
    return set(world.context.placement.counted_columns(name, state, Height(world.tip.height + 1)))


def test_the_oldest_members_are_forgotten_and_their_heights_refused() -> None:
    world = World(seats=4)
    membership = read_membership(world.state)
    keys = [signing_key(f"past {i}").public for i in range(PAST_MAX)]
    past = tuple(
        PastOccupant(until=Height(10 + 2 * (PAST_MAX - i)), seat=SeatIndex(3), signing_key=keys[i], joined=Height(0))
        for i in range(PAST_MAX)
    )
    schedule = schedule_of(dataclasses.replace(membership, past=past))
    assert len(schedule.members) == PAST_MAX
    assert schedule.members_at(Height(12)).public_keys[3] == keys[PAST_MAX - 2]
    with pytest.raises(RejectionError) as caught:
        schedule.members_at(Height(11))
    assert caught.value.reason is RejectionReason.WRONG_HEIGHT
