"""Segments: their shape, where each byte lies, their shards, and back."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import RejectionError
from storage.erasure import reconstruct
from storage.identifiers import SEGMENT_BYTES_MAX, UNIT_BYTES, ColumnIndex
from storage.merkle import check_shard, leaf_hashes, root_of
from storage.segments import (
    CodedSegment,
    SegmentShape,
    ShardRange,
    assemble,
    code_segment,
    data_units,
    restore_units,
)

EDGES = (1, 63, 64, 65, 383, 384, 385, 65_535, 65_536, 65_537, 393_215, 393_216, 393_217, 393_600, 1_000_000)

KNOWN_ROOTS = [
    "47a0521bd7dcf685",
    "1c09602ab8cb8077",
    "95de4732ba9bb083",
    "a789d3028eb96e14",
    "ad0b349aae9a9eff",
    "0a3eefe7bfe483f4",
    "07cef22a0c47ccc3",
    "191b934ce46cc5fc",
    "e179e584b96be7c3",
]
"""Of the bytes i mod 251 for i below 500,000, k = 6; first eight bytes of each."""


def contents(segment_bytes: int, seed: int = 3) -> bytes:
    return random.Random(seed).randbytes(segment_bytes)


def columns_of(segment: CodedSegment) -> dict[ColumnIndex, memoryview]:
    return {ColumnIndex(i): shard for i, shard in enumerate(segment.shards)}


def test_shape_of_a_full_segment() -> None:
    shape = SegmentShape(SEGMENT_BYTES_MAX, 6)
    # 256 frames: 42 stripes of six, and four frames in a last stripe of six units of 43,712 bytes.
    assert (shape.full_stripes, shape.last_unit_bytes) == (42, 43_712)
    assert shape.shard_bytes == 42 * UNIT_BYTES + 43_712
    assert shape.leaves == 171
    assert SegmentShape(SEGMENT_BYTES_MAX, 4).shard_bytes == 4 * 1024 * 1024


def test_shape_of_a_small_object() -> None:
    shape = SegmentShape(1040, 6)
    assert (shape.full_stripes, shape.last_unit_bytes, shape.shard_bytes, shape.leaves) == (0, 192, 192, 1)


def test_whole_stripes_have_no_last_unit() -> None:
    assert SegmentShape(2 * 5 * UNIT_BYTES, 5).last_unit_bytes == 0


@pytest.mark.parametrize(
    ("segment_bytes", "k", "n", "detail"),
    [
        (0, 6, 9, "segment of 0 bytes, 1 to 16777216 allowed"),
        (SEGMENT_BYTES_MAX + 1, 6, 9, "segment of 16777217 bytes, 1 to 16777216 allowed"),
        (1, 0, 9, "0 data columns of 9"),
        (1, 10, 9, "10 data columns of 9"),
        (1, 6, 10, "6 data columns of 10"),
    ],
)
def test_impossible_shapes_are_refused(segment_bytes: int, k: int, n: int, detail: str) -> None:
    with pytest.raises(RejectionError) as caught:
        SegmentShape(segment_bytes, k, n)
    assert str(caught.value) == f"malformed: {detail}"


def test_a_small_read_of_a_frame_touches_one_unit() -> None:
    shape = SegmentShape(SEGMENT_BYTES_MAX, 6)
    assert shape.locate(8 * UNIT_BYTES + 100, 4096) == (ShardRange(ColumnIndex(2), UNIT_BYTES + 100, 4096),)


def test_a_read_across_units_is_split_in_order() -> None:
    shape = SegmentShape(7 * UNIT_BYTES, 6)
    assert shape.last_unit_bytes == 10_944
    assert shape.locate(6 * UNIT_BYTES - 10, 10_944 + 15) == (
        ShardRange(ColumnIndex(5), UNIT_BYTES - 10, 10),
        ShardRange(ColumnIndex(0), UNIT_BYTES, 10_944),
        ShardRange(ColumnIndex(1), UNIT_BYTES, 5),
    )
    assert shape.locate(5, 0) == ()


@pytest.mark.parametrize("segment_bytes", EDGES)
@pytest.mark.parametrize("k", [6, 5, 4])
def test_segments_come_back_from_their_data_shards(segment_bytes: int, k: int) -> None:
    segment = contents(segment_bytes)
    coded = code_segment(segment, k)
    assert len(coded.shards) == len(coded.roots) == 9
    assert {len(shard) for shard in coded.shards} == {coded.shape.shard_bytes}
    assert coded.shape.shard_bytes * k < segment_bytes + k * 64
    assert assemble(columns_of(coded), coded.shape) == segment
    for shard, root in zip(coded.shards, coded.roots, strict=True):
        check_shard(root, shard)


@pytest.mark.parametrize(("k", "patterns"), [(6, 84), (5, 126), (4, 126)])
def test_segments_come_back_after_every_loss(k: int, patterns: int) -> None:
    segment = contents(k * UNIT_BYTES + 5000)
    coded = code_segment(segment, k)
    columns = columns_of(coded)
    tried = 0
    for lost in combinations(columns, 9 - k):
        available = {column: shard for column, shard in columns.items() if column not in lost}
        restored = reconstruct(available, lost, k, 9)
        assert restored == {column: columns[column] for column in lost}
        assert assemble({**available, **restored}, coded.shape) == segment
        tried += 1
    assert tried == patterns


def test_a_full_segment_is_coded_the_same_twice() -> None:
    segment = contents(SEGMENT_BYTES_MAX)
    coded = code_segment(memoryview(segment), 6)
    assert coded.shards[1][:UNIT_BYTES] == segment[UNIT_BYTES : 2 * UNIT_BYTES]
    assert coded.roots == code_segment(bytearray(segment), 6).roots
    assert assemble(columns_of(coded), coded.shape) == segment


def test_padding_is_zeros() -> None:
    coded = code_segment(b"\xff" * 65, 6)
    shards = [bytes(shard).rstrip(b"\0") for shard in coded.shards[:6]]
    assert shards == [b"\xff" * 64, b"\xff", b"", b"", b"", b""]


@pytest.mark.parametrize("segment_bytes", [1, 65, 6 * UNIT_BYTES, 6 * UNIT_BYTES + 1, 1_000_000])
def test_memory_that_is_used_again_leaves_nothing_of_before_in_a_shard(segment_bytes: int) -> None:
    segment = contents(segment_bytes)
    memory = memoryview(bytearray(b"\xa5" * (9 * SegmentShape(segment_bytes, 6).shard_bytes + 1)))
    coded = code_segment(segment, 6, memory=memory)
    assert [bytes(shard) for shard in coded.shards] == [bytes(shard) for shard in code_segment(segment, 6).shards]
    assert coded.roots == code_segment(segment, 6).roots
    assert memory[-1] == 0xA5, "nothing is written behind the last shard"


def test_known_roots() -> None:
    """The format of a shard is frozen: these roots stand on chains."""
    coded = code_segment(bytes(i % 251 for i in range(500_000)), 6)
    assert [root.hex()[:16] for root in coded.roots] == KNOWN_ROOTS


@settings(max_examples=80)
@given(segment_bytes=st.integers(1, SEGMENT_BYTES_MAX), k=st.integers(1, 9), place=st.integers(min_value=0))
def test_every_byte_lies_in_exactly_one_place(segment_bytes: int, k: int, place: int) -> None:
    shape = SegmentShape(segment_bytes, k)
    pieces = shape.locate(0, segment_bytes)
    assert sum(piece.byte_count for piece in pieces) == segment_bytes
    assert all(piece.column < k and piece.offset + piece.byte_count <= shape.shard_bytes for piece in pieces)
    spans = sorted((piece.column, piece.offset, piece.byte_count) for piece in pieces)
    for (column, offset, byte_count), (next_column, next_offset, _) in pairwise(spans):
        assert column != next_column or offset + byte_count <= next_offset
    (one,) = shape.locate(place % segment_bytes, 1)
    assert any(
        piece.column == one.column and piece.offset <= one.offset < piece.offset + piece.byte_count for piece in pieces
    )


@settings(max_examples=40)
@given(
    segment_bytes=st.integers(1, 900_000),
    k=st.sampled_from([6, 5, 4, 3]),
    start=st.integers(min_value=0),
    byte_count=st.integers(1, 200_000),
)
def test_located_bytes_are_the_segments(segment_bytes: int, k: int, start: int, byte_count: int) -> None:
    segment = contents(segment_bytes)
    coded = code_segment(segment, k)
    first = start % segment_bytes
    wanted = segment[first : first + byte_count]
    pieces = coded.shape.locate(first, len(wanted))
    assert b"".join(coded.shards[p.column][p.offset : p.offset + p.byte_count] for p in pieces) == wanted


@settings(max_examples=30)
@given(segment_bytes=st.integers(1, 300_000), column=st.integers(0, 8), place=st.integers(min_value=0))
def test_a_changed_byte_changes_the_root(segment_bytes: int, column: int, place: int) -> None:
    coded = code_segment(contents(segment_bytes), 6)
    changed = bytearray(coded.shards[column])
    changed[place % len(changed)] ^= 1
    assert root_of(leaf_hashes(changed)) != coded.roots[column]


@settings(max_examples=30)
@given(
    shape=st.sampled_from([(6, 9), (5, 9), (4, 9), (3, 4)]), segment_bytes=st.integers(1, 900_000), seed=st.integers()
)
def test_any_k_columns_restore_a_segment_where_it_lies(shape: tuple[int, int], segment_bytes: int, seed: int) -> None:
    k, n = shape
    choice = random.Random(seed)
    segment = choice.randbytes(segment_bytes)
    coded = code_segment(segment, k, n)
    kept = choice.sample(range(n), k)
    memory = memoryview(bytearray(choice.randbytes(coded.shape.padded_bytes)))
    for column in range(k):
        rest = memoryview(coded.shards[column])
        for unit in data_units(memory, coded.shape, ColumnIndex(column)):
            if column in kept:
                unit[:] = rest[: len(unit)]
            rest = rest[len(unit) :]
        assert not rest, "the units of a column are as long as its shard"
    parity = {ColumnIndex(column): coded.shards[column] for column in kept if column >= k}
    missing = {ColumnIndex(column) for column in range(k) if column not in kept}
    restore_units(memory, coded.shape, parity, missing)
    assert memory[:segment_bytes] == segment
    assert not any(memory[segment_bytes:]), "zeros follow the segment"
