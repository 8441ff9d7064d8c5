"""Which seat holds which column of a segment: a pure function that every member recomputes.

With c = min(admitted seats, 9) holders, in order of seat, column j of segment s goes to the holder at position
(j + first 8 bytes of s, big-endian) mod c. The segment's id is random, so parity and data spread evenly.

More than nine admitted seats: the nine of the highest scores, then in order of seat as above. Score =
SHA-256("grandest/1/placement" || NUL || segment id || seat, 2 bytes big-endian).

A segment lies where the seats that existed at its height put it, whatever seats are added later. When a seat ends, its
column goes to that of the seats existing then which holds none of this segment and has the highest score. All other
columns stay where they are (`Placement`).

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998 (rendezvous hashing).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.identifiers import Height
from storage.identifiers import COLUMNS_MAX, ColumnIndex, SeatIndex, SegmentId

if TYPE_CHECKING:
    from collections.abc import Collection

    from storage.state import SegmentState

ALWAYS: Final = Height(2**53 - 1)
"""Later than every change that the state knows of: as it is now."""
_DOMAIN: Final = b"grandest/1/placement\0"


def column_seats(segment_id: SegmentId, admitted: Collection[SeatIndex]) -> tuple[SeatIndex, ...]:
    """Return the seat of each column, in order of columns.

    Args:
        segment_id: 32 random bytes.
        admitted: Seats that the bucket's policy admits, at least one; their order does not matter.
    """
    holders = _holders(segment_id, admitted)
    offset = int.from_bytes(segment_id[:8], "big") % len(holders)
    return holders[offset:] + holders[:offset]


def seat_column(segment_id: SegmentId, seat: SeatIndex, admitted: Collection[SeatIndex]) -> ColumnIndex | None:
    """Return the column that a seat holds; None when this segment does not lie there."""
    seats = column_seats(segment_id, admitted)
    return ColumnIndex(seats.index(seat)) if seat in seats else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatSpan:
    """When a seat exists, and since when its present occupant has it; None: no end."""

    seat: SeatIndex
    opened: Height
    joined: Height
    closed: Height | None

    def exists_at(self, height: Height) -> bool:
        """Say whether the seat is one of the members' at a height."""
        return self.opened <= height and (self.closed is None or height < self.closed)


@dataclass(frozen=True, slots=True)
class Placement:
    """Which seats exist when, by number; every seat that ever was stands in it."""

    spans: tuple[SeatSpan, ...]

    def seats_at(self, height: Height) -> tuple[SeatIndex, ...]:
        """Return the seats of a height, in order."""
        return tuple(span.seat for span in self.spans if span.exists_at(height))

    def column_seats(self, segment_id: SegmentId, born: Height, at: Height) -> tuple[SeatIndex, ...]:
        """Return the seat of each column at a height.

        Args:
            segment_id: 32 bytes.
            born: The height of the block that committed the segment, or will.
            at: That height or a later one.
        """
        seats = column_seats(segment_id, self.seats_at(born))
        ended = [(span.closed, span.seat) for span in self.spans if span.closed is not None]
        for closed, seat in sorted(ended):
            if born < closed <= at and seat in seats:
                substitute = self._substitute(segment_id, closed, seats)
                seats = tuple(substitute if held == seat else held for held in seats)
        return seats

    def seat_column(self, segment_id: SegmentId, seat: SeatIndex, born: Height, at: Height) -> ColumnIndex | None:
        """Return the column that a seat holds at a height; None when this segment does not lie there."""
        seats = self.column_seats(segment_id, born, at)
        return ColumnIndex(seats.index(seat)) if seat in seats else None

    def counted_columns(self, segment_id: SegmentId, state: SegmentState, at: Height) -> frozenset[ColumnIndex]:
        """Return the columns of a live segment that their present holders have vouched for themselves."""
        vouched_at = state.vouched_at
        columns = frozenset(ColumnIndex(column) for column in state.columns)
        moved = (max(span.joined, span.closed or span.joined) for span in self.spans)
        if all(height <= vouched_at or height > at for height in moved):
            return columns
        now = self.column_seats(segment_id, state.height, at)
        then = self.column_seats(segment_id, state.height, vouched_at)
        return frozenset(
            column for column in columns if now[column] == then[column] and self.spans[now[column]].joined <= vouched_at
        )

    def _substitute(self, segment_id: SegmentId, closed: Height, held: tuple[SeatIndex, ...]) -> SeatIndex:
        free = [seat for seat in self.seats_at(closed) if seat not in held]
        assert free, "no seat ends where a segment has a column at each (rule M7)"
        return max(free, key=lambda seat: _score(segment_id, seat))


def holders_of(
    segment_id: SegmentId, born: Height | None, seats: Collection[SeatIndex] | Placement
) -> tuple[SeatIndex, ...]:
    """Return the seat of each column now.

    Args:
        segment_id: 32 bytes.
        born: The height of its block; None before it is committed.
        seats: Those of the chain's next height where they have always been the same, else which exist when.
    """
    if not isinstance(seats, Placement):
        return column_seats(segment_id, seats)
    return seats.column_seats(segment_id, ALWAYS if born is None else born, ALWAYS)


def column_of(
    segment_id: SegmentId, seat: SeatIndex, born: Height | None, seats: Collection[SeatIndex] | Placement
) -> ColumnIndex | None:
    """Return the column that a seat holds now, as holders_of(); None when this segment does not lie there."""
    holders = holders_of(segment_id, born, seats)
    return ColumnIndex(holders.index(seat)) if seat in holders else None


def _holders(segment_id: SegmentId, admitted: Collection[SeatIndex]) -> tuple[SeatIndex, ...]:
    seats = sorted(set(admitted))
    assert seats, "somebody must hold a segment"
    if len(seats) > COLUMNS_MAX:
        seats = sorted(sorted(seats, key=lambda seat: _score(segment_id, seat), reverse=True)[:COLUMNS_MAX])
    return tuple(seats)


def _score(segment_id: SegmentId, seat: SeatIndex) -> bytes:
    return hashlib.sha256(_DOMAIN + segment_id + seat.to_bytes(2, "big")).digest()
