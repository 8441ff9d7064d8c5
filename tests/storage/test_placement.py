"""Placement: every member computes the same seats; columns spread evenly; no seat holds two."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.identifiers import Height
from storage.identifiers import SeatIndex, SegmentId
from storage.placement import (
    Placement,
    SeatSpan,
    column_of,
    column_seats,
    holders_of,
    seat_column,
)

NINE = [SeatIndex(i) for i in range(9)]
THIRTEEN = [SeatIndex(i) for i in range(13)]
SEGMENTS = [SegmentId(hashlib.sha256(i.to_bytes(4, "big")).digest()) for i in range(900)]
SEGMENT_IDS = st.binary(min_size=32, max_size=32).map(SegmentId)
ADMITTED = st.sets(st.integers(0, 63).map(SeatIndex), min_size=1, max_size=20)


@pytest.mark.parametrize(("prefix", "first"), [(0, 0), (1, 1), (8, 8), (9, 0), (2**64 - 1, (2**64 - 1) % 9)])
def test_columns_start_where_the_id_says(prefix: int, first: int) -> None:
    segment_id = SegmentId(prefix.to_bytes(8, "big") + b"\xff" * 24)
    assert column_seats(segment_id, NINE) == tuple((j + first) % 9 for j in range(9))
    assert column_seats(segment_id, NINE)[4] == (4 + first) % 9


def test_only_the_first_eight_bytes_rotate() -> None:
    assert column_seats(SegmentId(bytes(8) + b"a" * 24), NINE) == column_seats(SegmentId(bytes(32)), NINE)


def test_four_seats_hold_four_columns() -> None:
    assert column_seats(SegmentId((5).to_bytes(8, "big") + bytes(24)), NINE[:4]) == (1, 2, 3, 0)


def test_gaps_between_seats_do_not_matter() -> None:
    admitted = [SeatIndex(i) for i in (40, 3, 17)]
    assert column_seats(SegmentId((1).to_bytes(8, "big") + bytes(24)), admitted) == (17, 40, 3)


def test_parity_is_spread_over_all_nine() -> None:
    load = Counter(column_seats(segment, NINE)[8] for segment in SEGMENTS)
    assert set(load) == set(NINE)
    assert all(60 < held < 140 for held in load.values())


def test_nine_of_thirteen_are_chosen_evenly() -> None:
    load = Counter(seat for segment in SEGMENTS for seat in column_seats(segment, THIRTEEN))
    assert set(load) == set(THIRTEEN)
    # 900 * 9 / 13 = 623 on average, standard deviation 14.
    assert all(550 < held < 700 for held in load.values())


def test_the_chosen_nine_have_the_highest_scores() -> None:
    segment = SEGMENTS[0]
    scores = {
        seat: hashlib.sha256(b"grandest/1/placement\0" + segment + bytes([0, seat])).digest() for seat in THIRTEEN
    }
    assert set(column_seats(segment, THIRTEEN)) == set(sorted(THIRTEEN, key=lambda seat: scores[seat])[4:])


def test_a_new_seat_touches_only_the_segments_that_it_gains() -> None:
    for segment in SEGMENTS:
        before, after = column_seats(segment, THIRTEEN[:12]), column_seats(segment, THIRTEEN)
        assert (before == after) == (SeatIndex(12) not in after)


@given(segment_id=SEGMENT_IDS, admitted=ADMITTED)
def test_seats_and_columns_invert(segment_id: SegmentId, admitted: set[SeatIndex]) -> None:
    seats = column_seats(segment_id, admitted)
    assert len(seats) == len(set(seats)) == min(len(admitted), 9)
    assert set(seats) <= admitted
    for column, seat in enumerate(seats):
        assert seat_column(segment_id, seat, admitted) == column
        assert column_seats(segment_id, admitted)[column] == seat
    for seat in admitted - set(seats):
        assert seat_column(segment_id, seat, admitted) is None


@given(segment_id=SEGMENT_IDS, admitted=ADMITTED)
def test_the_order_of_admitted_seats_does_not_matter(segment_id: SegmentId, admitted: set[SeatIndex]) -> None:
    ordered = sorted(admitted)
    assert column_seats(segment_id, ordered) == column_seats(segment_id, ordered[::-1])


def span(seat: int, opened: int = 0, closed: int | None = None) -> SeatSpan:
    ended = None if closed is None else Height(closed)
    return SeatSpan(seat=SeatIndex(seat), opened=Height(opened), joined=Height(opened), closed=ended)


TEN_SINCE_50 = Placement((*(span(seat) for seat in range(9)), span(9, opened=50)))
SEVEN_LEFT_AT_90 = Placement((*(span(seat, closed=90 if seat == 7 else None) for seat in range(9)), span(9, opened=50)))


@given(segment_id=SEGMENT_IDS, born=st.integers(1, 49))
def test_a_segment_stays_where_it_was_when_a_seat_is_added(segment_id: SegmentId, born: int) -> None:
    assert holders_of(segment_id, Height(born), TEN_SINCE_50) == column_seats(segment_id, NINE)
    assert holders_of(segment_id, Height(50), TEN_SINCE_50) == column_seats(segment_id, [*NINE, SeatIndex(9)])
    assert holders_of(segment_id, None, TEN_SINCE_50) == column_seats(segment_id, [*NINE, SeatIndex(9)])


@given(segment_id=SEGMENT_IDS, born=st.integers(1, 49))
def test_the_only_free_seat_takes_the_column_of_one_that_ends(segment_id: SegmentId, born: int) -> None:
    before = column_seats(segment_id, NINE)
    after = holders_of(segment_id, Height(born), SEVEN_LEFT_AT_90)
    assert after == tuple(9 if seat == 7 else seat for seat in before)
    assert column_of(segment_id, SeatIndex(9), Height(born), SEVEN_LEFT_AT_90) == before.index(SeatIndex(7))
    assert column_of(segment_id, SeatIndex(7), Height(born), SEVEN_LEFT_AT_90) is None
    assert SEVEN_LEFT_AT_90.column_seats(segment_id, Height(born), Height(89)) == before


@given(segment_id=SEGMENT_IDS, born=st.integers(0, 100))
def test_without_changes_placement_is_that_of_the_seats(segment_id: SegmentId, born: int) -> None:
    nine = Placement(tuple(span(seat) for seat in range(9)))
    assert holders_of(segment_id, Height(born), nine) == holders_of(segment_id, None, NINE)
