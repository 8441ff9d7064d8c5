"""Changes of the seats over HTTP: what is proposed, who has approved it, and what is decided and not effective yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from consensus.certificates import bitmap_members
from consensus.encoding import encode
from storage.ledger_seats import is_expired
from storage.membership import SeatList, read_proposals
from storage.seat_changes import RemoveSeat, change_id, offer_of

if TYPE_CHECKING:
    from storage.identifiers import SeatIndex
    from storage.membership import ProposalState, ScheduledState
    from storage.seat_changes import Change
    from storage.stores.blocks import ChainStore


class ProposalAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a member proposes."""

    proposer: int
    change_id: str
    height: int
    expires: int
    """The last height at which it can be approved."""
    approvals: list[int]
    kind: str
    """AddSeat, RemoveSeat, ReplaceOccupant, RotateKeys or ChangeParameters."""
    seat: int | None
    operator: str | None
    """Who would sit; null where nobody new does."""
    change: str
    """The canonical bytes, in hex."""


class ScheduledAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A change that is decided."""

    effective: int
    kind: str
    seat: int | None
    operator: str | None


class ChangesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/seats/changes."""

    height: int
    quorum: int
    proposals: list[ProposalAnswer]
    scheduled: ScheduledAnswer | None


def changes_answer(store: ChainStore) -> ChangesAnswer:
    """Return what is proposed and decided after the last block; blocks."""
    context, height = store.context, store.tip.height
    scheduled = context.membership.scheduled
    return ChangesAnswer(
        height=height,
        quorum=context.members.budget.quorum,
        proposals=[
            _proposal(proposer, proposal, context.parameters.proposal_heights)
            for proposer, proposal in read_proposals(store)
            if not is_expired(proposal, height, context.parameters)
        ],
        scheduled=None if scheduled is None else _scheduled(scheduled),
    )


def raw_seats(store: ChainStore) -> bytes:
    """Return every seat that ever was, encoded."""
    return encode(SeatList(seats=store.context.membership.seats))


def _proposal(proposer: SeatIndex, proposal: ProposalState, proposal_heights: int) -> ProposalAnswer:
    seat, operator = _seated(proposal.change)
    name = change_id(proposer, proposal.height, proposal.change)
    return ProposalAnswer(
        proposer=proposer,
        change_id=name.hex(),
        height=proposal.height,
        expires=proposal.height + proposal_heights,
        approvals=[int(member) for member in bitmap_members(proposal.approvals)],
        kind=type(proposal.change).__name__,
        seat=seat,
        operator=operator,
        change=encode(proposal.change).hex(),
    )


def _scheduled(scheduled: ScheduledState) -> ScheduledAnswer:
    seat, operator = _seated(scheduled.change)
    return ScheduledAnswer(
        effective=scheduled.effective, kind=type(scheduled.change).__name__, seat=seat, operator=operator
    )


def _seated(change: Change) -> tuple[int | None, str | None]:
    offer = offer_of(change)
    if offer is not None:
        return int(offer.number), offer.seat.operator
    return (int(change.number), None) if isinstance(change, RemoveSeat) else (None, None)
