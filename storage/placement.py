"""Which seat holds which column of a segment: a pure function that every member recomputes.

With c = min(admitted seats, 9) holders, in order of seat, column j of segment s goes to the holder at position
(j + first 8 bytes of s, big-endian) mod c. The segment's id is random, so parity and data spread evenly.

More than nine admitted seats: the nine of the highest scores, then in order of seat as above. Score =
SHA-256("grandest/1/placement" || NUL || segment id || seat, 2 bytes big-endian). Adding or removing a seat touches only
the segments that it gains or loses.

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998 (rendezvous hashing).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from storage.identifiers import COLUMNS_MAX, ColumnIndex, SeatIndex, SegmentId

if TYPE_CHECKING:
    from collections.abc import Collection

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


def _holders(segment_id: SegmentId, admitted: Collection[SeatIndex]) -> tuple[SeatIndex, ...]:
    seats = sorted(set(admitted))
    assert seats, "somebody must hold a segment"
    if len(seats) > COLUMNS_MAX:
        seats = sorted(sorted(seats, key=lambda seat: _score(segment_id, seat), reverse=True)[:COLUMNS_MAX])
    return tuple(seats)


def _score(segment_id: SegmentId, seat: SeatIndex) -> bytes:
    return hashlib.sha256(_DOMAIN + segment_id + seat.to_bytes(2, "big")).digest()
