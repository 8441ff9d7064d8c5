"""The seats in the state: who sits now, what is proposed, what is decided and not effective yet, who sat before.

    "s" seat (1)    an occupant, the last one where the seat has ended                     SeatState
    "m" seat (1)    what the member of this seat proposes                                  ProposalState
    "m"             a change that q members have approved, until it is effective           ScheduledState
    "mh"            what changes of the members have replaced, newest first                HistoryState

Everything that the agreement must know of its members follows from these rows and the parameters under "c", so a state
root proves it (rule M1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, assert_never

from msgspec import Meta
from msgspec.structs import replace

from consensus.certificates import Bitmap
from consensus.encoding import Record, decode
from consensus.identifiers import HASH, HEIGHT, MEMBERS_MAX, GenesisHash, Height, PublicKey
from consensus.members import GENESIS, MemberSet, member_set
from consensus.schedule import MemberSchedule
from storage.identifiers import SEAT, SeatIndex
from storage.placement import Placement, SeatSpan
from storage.seat_changes import AddSeat, Change, ChangeParameters, RemoveSeat, ReplaceOccupant, RotateKeys
from storage.state import CHAIN_KEY, ChainState, SeatState, StateReader, read_state, seat_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MEMBERSHIP_PREFIX: Final = b"m"
SCHEDULED_KEY: Final = MEMBERSHIP_PREFIX
HISTORY_KEY: Final = b"mh"
PAST_MAX: Final = 1_024
"""Changes of members that are remembered: decades of them, in at most 60 KB of state."""
SEATS_BYTES_MAX: Final = 256 * 1024
"""64 seats of at most 2 KiB each, twice over."""
EFFECTIVE_HEIGHTS: Final = 2
"""From the block that decides a change to the first one of the new members (rule M1)."""


class ProposalState(Record, tag=20):
    """What a member proposes, at which height, and who has approved it."""

    change: Change
    height: Annotated[Height, HEIGHT]
    approvals: Bitmap


class ScheduledState(Record, tag=21):
    """A decided change and the first height at which it holds."""

    change: Change
    effective: Annotated[Height, HEIGHT]


class PastOccupant(Record):
    """Who sat on a seat until a height; no key where the seat did not exist."""

    until: Annotated[Height, HEIGHT]
    seat: Annotated[SeatIndex, SEAT]
    signing_key: Annotated[PublicKey, HASH] | None
    joined: Annotated[Height, HEIGHT]


class HistoryState(Record, tag=22):
    """What changes of the members have replaced, newest first."""

    past: Annotated[tuple[PastOccupant, ...], Meta(max_length=PAST_MAX)]


class SeatList(Record, tag=23):
    """Every seat that ever was, by number: what a node tells a client or a newcomer of the state."""

    seats: Annotated[tuple[SeatState, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """All that a state says of its seats.

    Attributes:
        seats: By number, those that have ended too.
        chain: Genesis hash and parameters.
        scheduled: A change that is decided and not effective.
        past: What changes have replaced, newest first.
    """

    seats: tuple[SeatState, ...]
    chain: ChainState
    scheduled: ScheduledState | None
    past: tuple[PastOccupant, ...]

    @property
    def occupied(self) -> tuple[tuple[SeatIndex, SeatState], ...]:
        """Return the seats that exist, in order."""
        return tuple((SeatIndex(number), seat) for number, seat in enumerate(self.seats) if seat.closed is None)


def proposal_key(proposer: SeatIndex) -> bytes:
    """Return the state key of what a member proposes."""
    return MEMBERSHIP_PREFIX + bytes((proposer,))


def read_membership(reader: StateReader) -> Membership:
    """Return what a state says of its seats."""
    chain = read_state(reader, CHAIN_KEY, ChainState)
    assert chain is not None, "every state names its chain"
    history = read_state(reader, HISTORY_KEY, HistoryState)
    return Membership(
        seats=tuple(_seats(reader)),
        chain=chain,
        scheduled=read_state(reader, SCHEDULED_KEY, ScheduledState),
        past=() if history is None else history.past,
    )


def read_proposals(reader: StateReader) -> tuple[tuple[SeatIndex, ProposalState], ...]:
    """Return what members propose, by seat; those that have expired too."""
    found = ((SeatIndex(n), read_state(reader, proposal_key(SeatIndex(n)), ProposalState)) for n in range(MEMBERS_MAX))
    return tuple((number, proposal) for number, proposal in found if proposal is not None)


def decode_seats(encoded: bytes) -> tuple[SeatState, ...]:
    """Read a SeatList or raise RejectionError."""
    return decode(encoded, SeatList, bytes_max=SEATS_BYTES_MAX).seats


def concerns_seats(state_keys: Iterable[bytes]) -> bool:
    """Say whether a block that changed these keys changed what read_membership() returns."""
    return any(state_key in (SCHEDULED_KEY, HISTORY_KEY, CHAIN_KEY) for state_key in state_keys)


def placement_of(seats: Sequence[SeatState]) -> Placement:
    """Return which seats exist when, from every seat that ever was, by number."""
    return Placement(
        tuple(
            SeatSpan(seat=SeatIndex(number), opened=seat.opened, joined=seat.joined, closed=seat.closed)
            for number, seat in enumerate(seats)
        )
    )


def schedule_of(membership: Membership) -> MemberSchedule:
    """Return who agrees on which height, a scheduled change included."""
    genesis_hash, past, scheduled = membership.chain.genesis_hash, membership.past, membership.scheduled
    since = past[0].until if past else GENESIS
    sets = [_members(genesis_hash, _rows(membership.seats), since)]
    sets += _past_sets(genesis_hash, _rows(membership.seats), past)
    parameters_change = None
    if scheduled is not None:
        change, effective = scheduled.change, scheduled.effective
        if isinstance(change, ChangeParameters):
            parameters_change = effective, change.agreement
        else:
            seats = seats_after(membership.seats, change, effective)
            sets.insert(0, _members(genesis_hash, _rows(seats), effective))
    return MemberSchedule(
        members=tuple(reversed(sets)), parameters=membership.chain.agreement, parameters_change=parameters_change
    )


def seats_after(seats: tuple[SeatState, ...], change: Change, effective: Height) -> tuple[SeatState, ...]:
    """Return the seats from the height on at which a change is effective; the change fits them."""
    match change:
        case AddSeat(offer=offer):
            opened = SeatState(
                signing_key=offer.signing_key, seat=offer.seat, opened=effective, joined=effective, closed=None
            )
            return (*seats, opened)
        case RemoveSeat(number=number):
            return _with(seats, number, replace(seats[number], closed=effective))
        case ReplaceOccupant(offer=offer) | RotateKeys(offer=offer):
            joined = effective if isinstance(change, ReplaceOccupant) else seats[offer.number].joined
            occupied = replace(seats[offer.number], signing_key=offer.signing_key, seat=offer.seat, joined=joined)
            return _with(seats, offer.number, occupied)
        case ChangeParameters():
            return seats
        case _:
            assert_never(change)


def replaced_occupant(seats: tuple[SeatState, ...], change: Change, effective: Height) -> PastOccupant | None:
    """Return what a change replaces, for the history; None when the members stay."""
    match change:
        case AddSeat(offer=offer):
            return PastOccupant(until=effective, seat=offer.number, signing_key=None, joined=GENESIS)
        case RemoveSeat(number=number):
            pass
        case ReplaceOccupant(offer=offer) | RotateKeys(offer=offer):
            number = offer.number
        case ChangeParameters():
            return None
        case _:
            assert_never(change)
    before = seats[number]
    return PastOccupant(until=effective, seat=number, signing_key=before.signing_key, joined=before.joined)


def members_of(genesis_hash: GenesisHash, seats: tuple[SeatState, ...], since: Height) -> MemberSet:
    """Return the member set that sits on these seats from a height on."""
    return _members(genesis_hash, _rows(seats), since)


_Row = tuple[PublicKey | None, Height]
"""Key and first height of an occupant, by seat number; no key where nobody sits."""


def _rows(seats: tuple[SeatState, ...]) -> list[_Row]:
    return [(seat.signing_key if seat.closed is None else None, seat.joined) for seat in seats]


def _members(genesis_hash: GenesisHash, rows: Sequence[_Row], since: Height) -> MemberSet:
    """Return a set up to its highest seat."""
    while rows[-1][0] is None:
        rows = rows[:-1]
    return member_set(
        genesis_hash, tuple(signing_key for signing_key, _ in rows), tuple(joined for _, joined in rows), since
    )


def _past_sets(genesis_hash: GenesisHash, rows: list[_Row], past: tuple[PastOccupant, ...]) -> list[MemberSet]:
    """Undo one change after the other; where the list is full, what the oldest one replaced has no beginning."""
    sets = list[MemberSet]()
    begins = [older.until for older in past[1:]]
    begins += [GENESIS] if 0 < len(past) < PAST_MAX else []
    for occupant, since in zip(past, begins, strict=False):
        rows[occupant.seat] = (occupant.signing_key, occupant.joined)
        sets.append(_members(genesis_hash, rows, since))
    return sets


def _with(seats: tuple[SeatState, ...], number: SeatIndex, seat: SeatState) -> tuple[SeatState, ...]:
    return (*seats[:number], seat, *seats[number + 1 :])


def _seats(reader: StateReader) -> Iterator[SeatState]:
    for number in range(MEMBERS_MAX):
        seat = read_state(reader, seat_key(SeatIndex(number)), SeatState)
        if seat is None:
            return
        yield seat
