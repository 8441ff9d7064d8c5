"""Who read what of whom: signed by the reader, for one holder, chain and minute; who rebuilds what it vouched for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from consensus.encoding import encode
from consensus.errors import RejectionError
from consensus.identifiers import GenesisHash, Milliseconds
from consensus.signing import SigningKey
from storage.identifiers import ColumnIndex, SegmentId
from storage.read_receipts import (
    FETCHED_MIN,
    FETCHED_MS,
    RECEIPT_BYTES_MAX,
    RECEIPT_DRIFT_MS,
    LeafRange,
    ReadAudit,
    ReadReceipt,
    check_read,
    check_read_time,
    decode_read,
    sign_read,
)

READER, HOLDER = SigningKey(b"r" * 32), SigningKey(b"h" * 32)
GENESIS = GenesisHash(b"g" * 32)
NOW = Milliseconds(1_000_000)
SEGMENT = SegmentId(b"s" * 32)
K, LEAVES, OWN = 6, 171, ColumnIndex(2)
"""Of a segment of 16 MiB."""


def leaves(column: int, first: int, count: int = 1) -> LeafRange:
    return LeafRange(segment_id=SEGMENT, column=ColumnIndex(column), first_leaf=first, leaf_count=count)


def receipt(*ranges: LeafRange, time_ms: int = NOW) -> ReadReceipt:
    signed = sign_read(READER, GENESIS, holder=HOLDER.public, time_ms=Milliseconds(time_ms), ranges=ranges)
    return ReadReceipt(
        reader=READER.public,
        holder=HOLDER.public,
        time_ms=signed.time_ms,
        ranges=ranges,
        signature=signed.signature,
    )


def test_a_receipt_is_of_its_reader_holder_chain_time_and_leaves() -> None:
    good = receipt(leaves(0, 3), leaves(1, 4, 2))
    check_read(good, GENESIS)
    assert decode_read(encode(good)) == good
    for changed in (
        structs.replace(good, reader=HOLDER.public),
        structs.replace(good, holder=READER.public),
        structs.replace(good, time_ms=Milliseconds(NOW + 1)),
        structs.replace(good, ranges=good.ranges[:1]),
        structs.replace(good, ranges=(leaves(0, 3), leaves(1, 5, 2))),
    ):
        with pytest.raises(RejectionError, match="bad_signature"):
            check_read(changed, GENESIS)
    with pytest.raises(RejectionError, match="bad_signature"):
        check_read(good, GenesisHash(b"x" * 32))


def test_the_longest_receipt_fits() -> None:
    longest = receipt(*(leaves(8, 1_023, 64) for _ in range(16)), time_ms=2**53 - 1)
    assert len(encode(longest)) <= RECEIPT_BYTES_MAX
    assert decode_read(encode(longest)) == longest


def test_a_receipt_is_of_this_minute() -> None:
    good = receipt(leaves(0, 0))
    for drift_ms in (-RECEIPT_DRIFT_MS, 0, RECEIPT_DRIFT_MS):
        check_read_time(good, Milliseconds(NOW + drift_ms))
    for drift_ms in (-RECEIPT_DRIFT_MS - 1, RECEIPT_DRIFT_MS + 1):
        with pytest.raises(RejectionError, match="too_late"):
            check_read_time(good, Milliseconds(NOW + drift_ms))


def audit_of(*receipts: ReadReceipt) -> ReadAudit:
    found = ReadAudit()
    for one in receipts:
        found.add(one)
    return found


def fetched(position: int, columns: int = K, time_ms: int = NOW, apart_ms: int = 0) -> list[ReadReceipt]:
    """Reads of others' leaves at one position."""
    others = [column for column in range(9) if column != OWN][:columns]
    return [receipt(leaves(column, position), time_ms=time_ms + i * apart_ms) for i, column in enumerate(others)]


def test_who_rebuilds_the_leaves_that_it_is_asked_for_is_found() -> None:
    asked = random.Random(1).sample(range(LEAVES), 94)
    audit = audit_of(*(one for position in asked for one in fetched(position)))
    tally = audit.tally([(SEGMENT, K, LEAVES, OWN)])
    assert (tally.leaves_rebuilt, tally.segments_rebuilt, tally.fetches_its_answers) == (94, 0, True)
    assert (tally.questions, tally.leaves) == (94 * K, 94 * K)
    not_vouched = audit.tally([(SEGMENT, K, LEAVES, None)])
    assert not not_vouched.fetches_its_answers, "what it has not vouched for nobody asks it for"
    assert not audit.tally([]).fetches_its_answers, "nor what lives no more: its bytes were moved"


def test_a_repair_reads_whole_columns_and_is_no_answer() -> None:
    pieces = [leaves(column, first, min(64, LEAVES - first)) for column in range(3, 9) for first in (0, 64, 128)]
    hedged = leaves(0, 0, 64)
    tally = audit_of(*(receipt(part) for part in (*pieces, hedged))).tally([(SEGMENT, K, LEAVES, OWN)])
    assert (tally.segments_rebuilt, tally.leaves_rebuilt) == (1, 0)
    assert tally.leaves == 6 * LEAVES + 64


def test_fewer_columns_or_longer_times_rebuild_nothing() -> None:
    few = audit_of(*(one for position in range(90) for one in fetched(position, columns=K - 1)))
    assert few.tally([(SEGMENT, K, LEAVES, OWN)]).leaves_rebuilt == 0
    slow = audit_of(*(one for position in range(90) for one in fetched(position, apart_ms=FETCHED_MS // 5 + 1)))
    assert slow.tally([(SEGMENT, K, LEAVES, OWN)]).leaves_rebuilt == 0
    quick = audit_of(*(one for position in range(90) for one in fetched(position, apart_ms=FETCHED_MS // 5)))
    assert quick.tally([(SEGMENT, K, LEAVES, OWN)]).leaves_rebuilt == 90


def test_a_verifier_of_many_seats_meets_one_position_seldom() -> None:
    """Of six seats at once, the most that a lot gives in 27 of 28 epochs, over data of 30 such segments."""
    choice = random.Random(2)
    audit = ReadAudit()
    for column in [column for column in range(9) if column != OWN][:K]:
        for place in choice.sample(range(30 * LEAVES), 94):
            segment = SegmentId(bytes([place // LEAVES]) * 32)
            part = structs.replace(leaves(column, place % LEAVES), segment_id=segment)
            audit.add(receipt(part))
    live = [(segment, K, LEAVES, OWN) for segment in audit.segment_ids()]
    assert audit.tally(live).leaves_rebuilt < FETCHED_MIN


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20), st.integers(0, 200_000)), max_size=80))
def test_the_tally_is_what_a_look_at_every_position_gives(reads: list[tuple[int, int, int]]) -> None:
    audit = audit_of(*(receipt(leaves(column, position), time_ms=time_ms) for column, position, time_ms in reads))
    last = {(column, position): time_ms for column, position, time_ms in reads}
    expected = 0
    for position in range(21):
        times = [last[column, position] for column in range(9) if column != OWN and (column, position) in last]
        starts = [sum(start <= time <= start + FETCHED_MS for time in times) >= 3 for start in times]
        expected += any(starts)
    assert audit.tally([(SEGMENT, 3, LEAVES, OWN)]).leaves_rebuilt == (expected if reads else 0)
