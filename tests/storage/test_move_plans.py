"""What is worth moving: only what lives, each segment whole, three bytes at most for one that goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.identifiers import Height, Milliseconds
from storage import move_plans
from storage.identifiers import SEGMENT_BYTES_MAX, BucketTag, NameTag, RecordAddress, SegmentId, VersionId
from storage.move_plans import DEAD_MS_MAX, LivingBytes, bridged, merged, worth_moving
from storage.moves import MovedEntry
from storage.state import SegmentState
from storage.transactions import StoredExtent
from tests.node.some_shards import ROOT, TENANT

NOW = Milliseconds(DEAD_MS_MAX * 2)


def segment(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(32, "big"))


def entry(number: int) -> MovedEntry:
    return MovedEntry(
        bucket_tag=BucketTag(bytes(16)),
        name_tag=NameTag(number.to_bytes(16, "big")),
        version_id=VersionId(bytes(16)),
        record_address=RecordAddress(bytes(32)),
    )


def state(segment_bytes: int, k: int = 6) -> SegmentState:
    return SegmentState(
        tenant=TENANT,
        k=k,
        segment_bytes=segment_bytes,
        roots=(ROOT,) * 9,
        columns=tuple(range(9)),
        references=1,
        height=Height(1),
        vouched_at=Height(1),
    )


def extent(number: int, offset: int, extent_bytes: int) -> StoredExtent:
    return StoredExtent(segment_id=segment(number), offset=offset, extent_bytes=extent_bytes)


def test_a_segment_moves_when_more_than_a_quarter_of_it_is_dead() -> None:
    living = LivingBytes(segment(number) for number in (1, 2))
    living.add(entry(1), [extent(1, 0, 750), extent(2, 0, 749)])
    segments = {segment(number): state(1000) for number in (1, 2)}
    assert worth_moving(living, segments, 6, {}, NOW) == (segment(2),)


def test_what_is_dead_for_a_day_goes_however_little_it_is() -> None:
    living = LivingBytes([segment(1), segment(2)])
    living.add(entry(1), [extent(1, 0, 999), extent(2, 0, 1000)])
    segments = {segment(number): state(1000) for number in (1, 2)}
    since = {segment(1): Milliseconds(NOW - DEAD_MS_MAX), segment(2): Milliseconds(0)}
    assert worth_moving(living, segments, 6, since, NOW) == (segment(1),)
    assert worth_moving(living, segments, 6, since, Milliseconds(NOW - 1)) == ()


def test_segments_of_a_smaller_k_move_first() -> None:
    living = LivingBytes(segment(number) for number in (1, 2, 3))
    living.add(entry(1), [extent(1, 0, 100), extent(2, 0, 1000), extent(3, 0, 1000)])
    segments = {segment(1): state(1000), segment(2): state(1000, k=5), segment(3): state(1000, k=4)}
    assert worth_moving(living, segments, 6, {}, NOW) == (segment(3), segment(2), segment(1))


def test_small_remains_share_a_new_segment_and_a_full_one_does_not_overflow() -> None:
    living = LivingBytes(segment(number) for number in range(4))
    for number, live in enumerate((100, SEGMENT_BYTES_MAX - 100, 1, 50)):
        living.add(entry(number), [extent(number, 0, live)])
    plans = living.plans([segment(number) for number in range(4)])
    assert [plan.segment_bytes for plan in plans] == [SEGMENT_BYTES_MAX, 51]
    assert [plan.entries for plan in plans] == [(entry(0), entry(1)), (entry(2), entry(3))]


def test_a_dead_segment_without_entries_is_in_no_plan() -> None:
    living = LivingBytes([segment(1)])
    assert living.plans([segment(1)]) == ()


@given(st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 300)), min_size=1, max_size=40), st.integers(1, 20))
def test_stretches_cover_all_that_lives_and_nothing_twice(spans: list[tuple[int, int]], count_max: int) -> None:
    lived = {byte for start, count in spans for byte in range(start, start + count)}
    stretches = merged((start, start + count) for start, count in spans)
    covered = [byte for start, stop in stretches for byte in range(start, stop)]
    assert covered == sorted(lived)
    joined = bridged(stretches, count_max)
    assert len(joined) <= count_max
    assert lived <= {byte for start, stop in joined for byte in range(start, stop)}
    assert sum(stop - start for start, stop in joined) == len({b for start, stop in joined for b in range(start, stop)})


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 900), st.integers(1, 100)), max_size=60))
def test_a_plan_takes_every_living_byte_of_its_segments_along_once(kept: list[tuple[int, int, int]]) -> None:
    living = LivingBytes(segment(number) for number in range(5))
    for number, (owner, offset, count) in enumerate(kept):
        living.add(entry(number), [extent(owner, offset, count)])
    plans = living.plans([segment(number) for number in range(5)])
    ranges = [part for plan in plans for part in plan.ranges]
    for owner, offset, count in kept:
        assert any(
            part.segment_id == segment(owner)
            and part.offset <= offset
            and offset + count <= part.offset + part.range_bytes
            for part in ranges
        )
    for plan in plans:
        assert plan.segment_bytes <= SEGMENT_BYTES_MAX
        assert len({(part.segment_id, part.offset) for part in plan.ranges}) == len(plan.ranges)


@pytest.mark.parametrize("count", [10, 11, 20, 21, 25, 31])
def test_a_segment_of_many_entries_moves_in_parts_that_one_move_may_name(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_plans, "MOVED_ENTRIES_MAX", 10)
    living = LivingBytes([segment(1), segment(2)])
    for number in range(count):
        living.add(entry(number), [extent(1, 40 * number, 10), extent(1, 40 * number + 20, 10)])
    living.add(entry(99), [extent(2, 0, 10)])
    plans = living.plans([segment(1), segment(2)])
    assert [len(plan.entries) for plan in plans if len(plan.entries) > 10] == []
    named_once = [named.name_tag for plan in plans for named in plan.entries]
    assert sorted(named_once) == sorted(entry(number).name_tag for number in (*range(count), 99))
    for plan in plans:
        covered = [(part.segment_id, part.offset, part.range_bytes) for part in plan.ranges]
        for named in plan.entries:
            number = int.from_bytes(named.name_tag, "big")
            if number < count:
                assert {(segment(1), 40 * number, 10), (segment(1), 40 * number + 20, 10)} <= set(covered)
        assert len(set(covered)) == len(covered)
    assert sum(plan.segment_bytes for plan in plans) == 20 * count + 10, "no byte moves twice"
