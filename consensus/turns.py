"""Whose turn it is to propose: proposer(height, round) = A[(height + round) mod |A|] (rules A2 to A6).

A is the active list: every member but those suspended, at most u of them. It is recomputed at heights that are
multiples of n, from blocks below alone: the certificate of the parent that each carries, its proposer, its evidence.
Who is suspended still votes.

- A turn is missed when the height it was at needed a later round, unless that member made the block after all.
- Three own turns missed in a row: *absent* if the last 3n certificates lack its precommit, until three certificates in
  a row hold it; otherwise *silent*, out for 2, 4, 8... up to 64 times n heights, and again after one more missed turn.
- *Guilty*: a block holds evidence against it. For good, until another occupant takes the seat.
- Every 256 times n heights all but guilt and absence starts afresh, so that a joiner needs the last few blocks alone
  (`first_needed`), whatever came before: there is no hidden priority state.
- At the first height of other members all but the guilt of those who stay starts afresh: nothing below is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final, Protocol

from msgspec import Meta
from msgspec.structs import replace

from consensus.certificates import Bitmap, bitmap_members, bitmap_of
from consensus.encoding import Record
from consensus.evidence import fault_place
from consensus.identifiers import HEIGHT, MEMBERS_MAX, NO_ROUND, Height, MemberIndex, Round

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.blocks import Block
    from consensus.heads import BlockHead
    from consensus.members import MemberSet

TURNS_MISSED: Final = 3
"""Own turns in a row that end a member's turns."""
CERTIFICATES_BACK: Final = 3
"""Certificates in a row that end an absence: more than the two of a chance, less than two liars can keep it out of."""
TURNS_ABSENT: Final = 3
"""Times n certificates without a precommit: three turns of everybody."""
SILENT_TURNS_MAX: Final = 64
"""Times n heights off: one missed turn in 576 heights of nine costs 1 to 3 %, and a repaired member is soon back."""
FRESH_START_TURNS: Final = 256
"""Times n heights: room for 2 + 4 + 8 + 16 + 32 + 64 + 64 + 64; a joiner reads 2,331 heights of nine at most."""
ORDERS_KEPT: Final = 256
"""Whose turn it is was asked with every message: at most u of nine are suspended, in 130 ways."""
NOBODY: Final = MemberIndex(-1)
GENESIS: Final = Height(0)
_Count = Annotated[int, Meta(ge=0, le=TURNS_ABSENT * MEMBERS_MAX)]


class ProposerOrder(Protocol):
    """Who proposes when; the core needs no more, so that vectors may bring an order of their own."""

    def proposer(self, height: Height, round_: Round, /) -> MemberIndex:
        """Return the only member whose proposal counts in this round."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The members who take turns, in seat order."""

    active: tuple[MemberIndex, ...]

    def __post_init__(self) -> None:
        """Guard the order that every member must derive alike."""
        assert self.active, "somebody must propose"
        assert list(self.active) == sorted(set(self.active)), "seat order, no seat twice"

    def proposer(self, height: Height, round_: Round) -> MemberIndex:
        """Return the only member whose proposal counts in this round."""
        return self.active[(height + round_) % len(self.active)]


class Suspension(StrEnum):
    """Why a member takes no turns; in the order in which places among the u suspended are given."""

    GUILTY = "guilty"
    ABSENT = "absent"
    SILENT = "silent"


class Attendance(Record):
    """How one member kept its turns and signed lately; no count goes further than a rule looks.

    Attributes:
        missed: Own turns missed in a row, up to TURNS_MISSED.
        unsigned: Certificates in a row without its precommit, up to 3n.
        signed: Certificates in a row with it, up to CERTIFICATES_BACK.
        silences: Times it was silent since it last kept a turn; its next one lasts 2 ** (silences + 1) turns.
        silent_until: The height at which its silence ends, 0 for none.
    """

    missed: _Count = 0
    unsigned: _Count = 0
    signed: _Count = 0
    silences: _Count = 0
    silent_until: Annotated[Height, HEIGHT] = Height(0)
    is_absent: bool = False
    is_guilty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFacts:
    """What one block says of turns: its proposer, its parent's certificate, who is proven guilty in it.

    The round is NO_ROUND where there is no certificate: in the first block.
    """

    height: Height
    proposer: MemberIndex
    parent_round: Round
    parent_signers: frozenset[MemberIndex]
    guilty: frozenset[MemberIndex]


class TurnState(Record):
    """What the blocks up to a height say of the turns above it; a ProposerOrder of the next height.

    Attributes:
        height: Of the last block.
        failures: u, the most that are suspended.
        members: Those of the next height.
        attendance: Of each of them, in seat order.
        suspended: Who has no turns at the next height.
        suspended_before: Who had none at this height.
        proposer_before: Of the last block; NOBODY where its height's turns are not to be counted.
    """

    height: Annotated[Height, HEIGHT]
    failures: Annotated[int, Meta(ge=0, le=MEMBERS_MAX - 1)]
    members: Bitmap
    attendance: Annotated[tuple[Attendance, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]
    suspended: Bitmap
    suspended_before: Bitmap
    proposer_before: Annotated[MemberIndex, Meta(ge=-1, le=MEMBERS_MAX - 1)]

    def proposer(self, height: Height, round_: Round) -> MemberIndex:
        """Return the only member whose proposal counts in this round of the next height."""
        return active_turns(self).proposer(height, round_)


def first_turns(members: MemberSet, height: Height = GENESIS, guilty: Iterable[MemberIndex] = ()) -> TurnState:
    """Return the state at genesis, or that from which a joiner goes on: see first_needed().

    Args:
        members: Of the next height.
        height: Of the block below the first that is added.
        guilty: Who is proven guilty up to that height.
    """
    known = frozenset(guilty)
    nobody = bitmap_of(())
    return TurnState(
        height=height,
        failures=members.budget.failures,
        members=bitmap_of(members.indices),
        attendance=tuple(Attendance(is_guilty=member in known) for member in members.indices),
        suspended=nobody,
        suspended_before=nobody,
        proposer_before=NOBODY,
    )


def first_needed(height: Height, members: MemberSet) -> Height:
    """Return the lowest block that says anything of the turns at a height, whose members these are.

    It lies 3n below the last fresh start, but not below their first height.
    """
    count = members.budget.members
    span = FRESH_START_TURNS * count
    return Height(max(height // span * span - TURNS_ABSENT * count, members.since, 1))


def active_turns(state: TurnState) -> Turns:
    """Return who takes turns at the next height."""
    return _without(state.suspended, state.members)


def suspensions(state: TurnState) -> dict[MemberIndex, Suspension]:
    """Return who has no turns at the next height, and why."""
    out = frozenset(bitmap_members(state.suspended))
    return {
        member: _why(one, Height(state.height + 1)) or Suspension.ABSENT
        for member, one in _rows(state, state.attendance)
        if member in out
    }


def turn_facts(block: Block | BlockHead, members: MemberSet) -> TurnFacts:
    """Return what a block says of turns; these are the members of its height."""
    accused = (fault_place(evidence) for evidence in block.evidence)
    commit = block.parent_commit
    return TurnFacts(
        height=block.header.height,
        proposer=block.header.proposer,
        parent_round=NO_ROUND if commit is None else commit.round,
        parent_signers=frozenset(() if commit is None else bitmap_members(commit.members)),
        guilty=frozenset(member for _, member, height, _ in accused if members.is_occupant(member, height)),
    )


def turns_after(state: TurnState, facts: TurnFacts, following: MemberSet) -> TurnState:
    """Return the state after the next block, with the members of the height that follows it."""
    counted = next_turns(state, facts)
    if following.since != facts.height + 1:
        return counted
    guilty = [
        member
        for member, one in _rows(counted, counted.attendance)
        if one.is_guilty and following.is_occupant(member, facts.height)
    ]
    return first_turns(following, facts.height, guilty)


def next_turns(state: TurnState, facts: TurnFacts) -> TurnState:
    """Return the state after the next block, which the same members follow."""
    assert facts.height == state.height + 1, "blocks are counted in order"
    members = len(state.attendance)
    attendance = _with_guilt(state, facts.guilty)
    if facts.parent_round != NO_ROUND:
        attendance = _with_turns(state, attendance, facts.parent_round)
        attendance = _with_signatures(state, attendance, facts.parent_signers)
    counted = replace(
        state,
        height=facts.height,
        attendance=attendance,
        suspended_before=state.suspended,
        proposer_before=facts.proposer,
    )
    return _recomputed(counted) if (facts.height + 1) % members == 0 else counted


def _rows(state: TurnState, attendance: tuple[Attendance, ...]) -> Iterable[tuple[MemberIndex, Attendance]]:
    return zip(bitmap_members(state.members), attendance, strict=True)


@lru_cache(maxsize=ORDERS_KEPT)
def _without(suspended: bytes, members: bytes) -> Turns:
    out = frozenset(bitmap_members(suspended))
    return Turns(active=tuple(member for member in bitmap_members(members) if member not in out))


def _with_guilt(state: TurnState, guilty: frozenset[MemberIndex]) -> tuple[Attendance, ...]:
    if not guilty:
        return state.attendance
    rows = _rows(state, state.attendance)
    return tuple(replace(one, is_guilty=one.is_guilty or member in guilty) for member, one in rows)


def _with_turns(state: TurnState, attendance: tuple[Attendance, ...], round_: Round) -> tuple[Attendance, ...]:
    """Count the turns of the height before, which was decided in this round."""
    if state.proposer_before == NOBODY:
        return attendance
    turns = _without(state.suspended_before, state.members)
    kept = {state.proposer_before, turns.proposer(state.height, round_)}
    rounds = range(min(round_, len(turns.active)))
    missed = {turns.proposer(state.height, Round(r)) for r in rounds} - kept
    return tuple(_with_turn(one, member, kept, missed) for member, one in _rows(state, attendance))


def _with_turn(one: Attendance, member: MemberIndex, kept: set[MemberIndex], missed: set[MemberIndex]) -> Attendance:
    if member in missed:
        return replace(one, missed=min(one.missed + 1, TURNS_MISSED))
    if member in kept and (one.missed or one.silences):
        return replace(one, missed=0, silences=0, silent_until=Height(0))
    return one


def _with_signatures(
    state: TurnState, attendance: tuple[Attendance, ...], signers: frozenset[MemberIndex]
) -> tuple[Attendance, ...]:
    unsigned_max = TURNS_ABSENT * len(attendance)
    return tuple(
        _with_signature(one)
        if member in signers
        else replace(one, signed=0, unsigned=min(one.unsigned + 1, unsigned_max))
        for member, one in _rows(state, attendance)
    )


def _with_signature(one: Attendance) -> Attendance:
    signed = min(one.signed + 1, CERTIFICATES_BACK)
    if one.is_absent and signed == CERTIFICATES_BACK:
        return replace(one, signed=signed, unsigned=0, missed=0, is_absent=False)
    if one.signed == signed and not one.unsigned:
        return one
    return replace(one, signed=signed, unsigned=0)


def _recomputed(state: TurnState) -> TurnState:
    """Judge every member anew; the next height is a multiple of n."""
    height, members = Height(state.height + 1), len(state.attendance)
    is_fresh = height % (FRESH_START_TURNS * members) == 0
    judge = _fresh if is_fresh else _judged
    attendance = tuple(judge(one, height, TURNS_ABSENT * members) for one in state.attendance)
    wanted = [(_why(one, height), member) for member, one in _rows(state, attendance)]
    ranked = [member for why in Suspension for found, member in wanted if found is why]
    suspended = bitmap_of(ranked[: state.failures])
    counted = replace(state, attendance=attendance, suspended=suspended)
    return replace(counted, suspended_before=bitmap_of(()), proposer_before=NOBODY) if is_fresh else counted


def _why(one: Attendance, height: Height) -> Suspension | None:
    if one.is_guilty:
        return Suspension.GUILTY
    if one.is_absent:
        return Suspension.ABSENT
    return Suspension.SILENT if one.silent_until > height else None


def _fresh(one: Attendance, _height: Height, unsigned_max: int) -> Attendance:
    """Forget what only older blocks say."""
    return Attendance(
        unsigned=one.unsigned, signed=one.signed, is_absent=one.unsigned >= unsigned_max, is_guilty=one.is_guilty
    )


def _judged(one: Attendance, height: Height, unsigned_max: int) -> Attendance:
    if one.missed < TURNS_MISSED or one.is_absent or one.silent_until > height:
        return one
    if one.unsigned >= unsigned_max or (one.silent_until and one.signed < CERTIFICATES_BACK):
        return replace(one, is_absent=True, silent_until=Height(0))  # nobody comes back without signing
    if one.silent_until:  # the silence is over: one more missed turn begins the next
        return replace(one, missed=TURNS_MISSED - 1, silent_until=Height(0))
    turns = min(2 << one.silences, SILENT_TURNS_MAX)
    return replace(one, silences=one.silences + 1, silent_until=Height(height + turns * (unsigned_max // TURNS_ABSENT)))
