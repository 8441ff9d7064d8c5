"""Changes of the seats: proposed, approved by q members, effective two heights later (rules M4 to M8).

- M4. Members alone propose and approve. Each member has one proposal at a time, its own approval with it; a new one
  takes its place, so that nobody keeps the others from proposing.
- M5. Whoever is to sit has offered it itself: ledger.check_transaction() refuses any other offer.
- M6. A proposal that q members of the present set have approved is scheduled for two heights later, and all other
  proposals are void: they were judged by seats that are no more. Until it is effective nothing is proposed or approved.
- M7. Never fewer failures or liars survived than by genesis, nor fewer columns a segment than now; no key of two
  seats, no number used twice; the occupant stays the same legal person when its keys change; parameters stay within
  bounds under which the chain goes on.
- M8. The last block before the first height of a change carries it out, whatever else it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, assert_never

from consensus.certificates import bitmap_members, bitmap_of
from consensus.identifiers import MEMBERS_MAX, Height, MemberIndex
from consensus.quorum import fault_budget
from storage.identifiers import COLUMNS_MAX, SeatIndex
from storage.ledger_audits import forget_audits, number_epochs_by
from storage.membership import (
    EFFECTIVE_HEIGHTS,
    HISTORY_KEY,
    PAST_MAX,
    SCHEDULED_KEY,
    HistoryState,
    Membership,
    ProposalState,
    ScheduledState,
    proposal_key,
    replaced_occupant,
    seats_after,
)
from storage.outcomes import FailedTransactionError, FailureReason
from storage.seat_changes import (
    AddSeat,
    ApproveChange,
    Change,
    ChangeParameters,
    ProposeChange,
    RemoveSeat,
    ReplaceOccupant,
    RotateKeys,
    SeatOffer,
    change_id,
)
from storage.state import CHAIN_KEY, ChainState, SeatState, StateOverlay, StateReader, read_state, seat_key

if TYPE_CHECKING:
    from consensus.genesis import ConsensusParameters
    from consensus.identifiers import PublicKey
    from consensus.members import MemberSet
    from storage.genesis import StorageParameters

TIMEOUT_MS_MIN: Final = 10
"""Below the way of a frame through one region nobody would ever hear a proposal in time."""
DRIFT_MS_MIN: Final = 1_000
HEARTBEAT_MS_MIN: Final = 1_000
HEIGHTS_MIN: Final = 64
"""A transaction, a receipt or a proposal lives for so many heights at least: seconds at the highest rate."""
HEIGHTS_MAX: Final = 10_000_000
UNCOMMITTED_BYTES_MIN: Final = 64 * 1024 * 1024
"""A few segments under way."""


class SeatRules(Protocol):
    """What of a ledger's context the rules of seats need."""

    @property
    def members(self) -> MemberSet:
        """Return who may propose and approve."""
        ...

    @property
    def membership(self) -> Membership:
        """Return what the state before this block says of the seats."""
        ...

    @property
    def parameters(self) -> StorageParameters:
        """Return the shared limits."""
        ...


def propose_change(
    rules: SeatRules, overlay: StateOverlay, height: Height, sender: PublicKey, body: ProposeChange
) -> None:
    """Note a member's proposal with its approval, or raise FailedTransactionError."""
    _require_quiet(overlay)
    check_change(rules.membership, body.change)
    proposer = _member(rules, sender)
    proposal = ProposalState(change=body.change, height=height, approvals=bitmap_of((proposer,)))
    _note(rules, overlay, height, SeatIndex(proposer), proposal)


def approve_change(
    rules: SeatRules, overlay: StateOverlay, height: Height, sender: PublicKey, body: ApproveChange
) -> None:
    """Note a member's approval, or raise FailedTransactionError."""
    _require_quiet(overlay)
    proposal = read_state(overlay, proposal_key(body.proposer), ProposalState)
    if proposal is None or change_id(body.proposer, proposal.height, proposal.change) != body.change_id:
        raise FailedTransactionError(FailureReason.CHANGE_UNKNOWN)
    if is_expired(proposal, height, rules.parameters):
        raise FailedTransactionError(FailureReason.CHANGE_EXPIRED)
    approvals, member = bitmap_members(proposal.approvals), _member(rules, sender)
    if member in approvals:
        raise FailedTransactionError(FailureReason.APPROVED_ALREADY)
    approved = ProposalState(change=proposal.change, height=proposal.height, approvals=bitmap_of((*approvals, member)))
    _note(rules, overlay, height, body.proposer, approved)


def is_expired(proposal: ProposalState, height: Height, parameters: StorageParameters) -> bool:
    """Say whether a block of this height can no longer hold an approval."""
    return height > proposal.height + parameters.proposal_heights


def is_due(membership: Membership, height: Height) -> bool:
    """Say whether the block of this height carries a scheduled change out (M8)."""
    return membership.scheduled is not None and membership.scheduled.effective == height + 1


def carry_out(membership: Membership, overlay: StateOverlay) -> None:
    """Write the seats and parameters of the next height."""
    scheduled = membership.scheduled
    assert scheduled is not None, "a change is due"
    change, effective = scheduled.change, scheduled.effective
    after = seats_after(membership.seats, change, effective)
    for number, seat in enumerate(after):
        if number >= len(membership.seats) or seat != membership.seats[number]:
            overlay.put(seat_key(SeatIndex(number)), seat)
    if isinstance(change, RemoveSeat):
        forget_audits(overlay, change.number)
    if isinstance(change, ReplaceOccupant):
        forget_audits(overlay, change.offer.number)
    if isinstance(change, ChangeParameters):
        chain = ChainState(
            genesis_hash=membership.chain.genesis_hash, parameters=change.storage, agreement=change.agreement
        )
        overlay.put(CHAIN_KEY, chain)
        number_epochs_by(overlay, change.storage.epoch_ms)
    replaced = replaced_occupant(membership.seats, change, effective)
    if replaced is not None:
        overlay.put(HISTORY_KEY, HistoryState(past=(replaced, *membership.past)[:PAST_MAX]))
    overlay.delete(SCHEDULED_KEY)


def check_change(membership: Membership, change: Change) -> None:
    """Refuse a change that these seats do not bear (M7) by FailedTransactionError."""
    match change:
        case AddSeat(offer=offer):
            _check_new_number(membership, offer)
        case RemoveSeat(number=number):
            _occupied(membership, number)
        case ReplaceOccupant(offer=offer):
            _occupied(membership, offer.number)
        case RotateKeys(offer=offer):
            if _occupied(membership, offer.number).seat.operator != offer.seat.operator:
                raise FailedTransactionError(FailureReason.ANOTHER_OPERATOR)
        case ChangeParameters(agreement=agreement, storage=storage):
            _check_parameters(membership, agreement, storage)
        case _:
            assert_never(change)
    if not isinstance(change, RemoveSeat | ChangeParameters):
        _check_keys(membership, change)
    _check_budget(membership, change)


def _require_quiet(reader: StateReader) -> None:
    if reader.value(SCHEDULED_KEY) is not None:
        raise FailedTransactionError(FailureReason.CHANGE_UNDER_WAY)


def _member(rules: SeatRules, sender: PublicKey) -> MemberIndex:
    member = rules.members.index_of(sender)
    assert member is not None, "check_sender() lets members alone do this"
    return member


def _note(
    rules: SeatRules, overlay: StateOverlay, height: Height, proposer: SeatIndex, proposal: ProposalState
) -> None:
    """Write a proposal, or schedule it and void all (M6)."""
    if len(bitmap_members(proposal.approvals)) < rules.members.budget.quorum:
        overlay.put(proposal_key(proposer), proposal)
        return
    for number in range(MEMBERS_MAX):
        if overlay.value(proposal_key(SeatIndex(number))) is not None:
            overlay.delete(proposal_key(SeatIndex(number)))
    scheduled = ScheduledState(change=proposal.change, effective=Height(height + EFFECTIVE_HEIGHTS))
    overlay.put(SCHEDULED_KEY, scheduled)


def _occupied(membership: Membership, number: SeatIndex) -> SeatState:
    if number >= len(membership.seats) or membership.seats[number].closed is not None:
        raise FailedTransactionError(FailureReason.SEAT_UNKNOWN)
    return membership.seats[number]


def _check_new_number(membership: Membership, offer: SeatOffer) -> None:
    if len(membership.seats) == MEMBERS_MAX:
        raise FailedTransactionError(FailureReason.SEATS_FULL)
    if offer.number != len(membership.seats):
        raise FailedTransactionError(FailureReason.WRONG_SEAT_NUMBER)


def _check_keys(membership: Membership, change: AddSeat | ReplaceOccupant | RotateKeys) -> None:
    """Refuse keys that another seat has; a rotation may keep its own, a new occupant brings new ones."""
    offer, may_keep = change.offer, isinstance(change, RotateKeys)
    for number, seat in membership.occupied:
        if number == offer.number and may_keep:
            continue
        if seat.signing_key == offer.signing_key or seat.seat.network_key == offer.seat.network_key:
            raise FailedTransactionError(FailureReason.KEY_IN_USE)
    if may_keep and _is_same(membership.seats[offer.number], offer):
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)


def _is_same(seat: SeatState, offer: SeatOffer) -> bool:
    return (seat.signing_key, seat.seat) == (offer.signing_key, offer.seat)


def _check_budget(membership: Membership, change: Change) -> None:
    before = len(membership.occupied)
    after = before + isinstance(change, AddSeat) - isinstance(change, RemoveSeat)
    least = fault_budget(sum(seat.opened == 0 for seat in membership.seats))
    fewest = min(before, COLUMNS_MAX)
    if after < fewest or fault_budget(after).failures < least.failures or fault_budget(after).liars < least.liars:
        raise FailedTransactionError(FailureReason.BUDGET_TOO_SMALL)


def _check_parameters(membership: Membership, agreement: ConsensusParameters, storage: StorageParameters) -> None:
    chain = membership.chain
    if (chain.agreement, chain.parameters) == (agreement, storage):
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    timeouts = (agreement.propose_timeout_ms, agreement.prevote_timeout_ms, agreement.precommit_timeout_ms)
    lives = (storage.receipt_heights, storage.transaction_heights, storage.proposal_heights)
    is_bounded = (
        min(timeouts) >= TIMEOUT_MS_MIN
        and agreement.timeout_max_ms >= max(timeouts)
        and agreement.clock_drift_ms >= DRIFT_MS_MIN
        and agreement.heartbeat_ms >= HEARTBEAT_MS_MIN
        and agreement.block_interval_min_ms <= agreement.heartbeat_ms
        and min(lives) >= HEIGHTS_MIN
        and max(lives) <= HEIGHTS_MAX
        and storage.uncommitted_bytes_max >= UNCOMMITTED_BYTES_MIN
    )
    if not is_bounded:
        raise FailedTransactionError(FailureReason.BAD_PARAMETERS)
