"""A shard's tree: every range of leaves is proven; a flipped bit, a moved leaf or another length is not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.merkle import leaf_hash, node_hash
from storage.errors import ShardCorruptError
from storage.identifiers import LEAF_BYTES, ShardRoot
from storage.merkle import check_range, check_shard, covering_leaves, leaf_count, leaf_hashes, prove, root_of

SHARD = random.Random(7).randbytes(5 * LEAF_BYTES + 640)
LEAVES = leaf_hashes(SHARD)
ROOT = root_of(LEAVES)


def part(first: int, count: int) -> bytes:
    return SHARD[first * LEAF_BYTES : (first + count) * LEAF_BYTES]


def test_root_is_a_tree_over_16_kib_leaves() -> None:
    shard = bytes(LEAF_BYTES) + b"tail"
    assert root_of(leaf_hashes(shard)) == node_hash(leaf_hash(bytes(LEAF_BYTES)), leaf_hash(b"tail"))


@pytest.mark.parametrize(("shard_bytes", "leaves"), [(1, 1), (LEAF_BYTES, 1), (LEAF_BYTES + 1, 2), (len(SHARD), 6)])
def test_leaf_count(shard_bytes: int, leaves: int) -> None:
    assert leaf_count(shard_bytes) == leaves == len(leaf_hashes(bytes(shard_bytes)))


def test_covering_leaves_hold_the_range() -> None:
    assert covering_leaves(0, 1) == range(1)
    assert covering_leaves(LEAF_BYTES - 1, 2) == range(2)
    assert covering_leaves(LEAF_BYTES, LEAF_BYTES) == range(1, 2)


def test_every_range_of_leaves_is_accepted() -> None:
    for first in range(6):
        for count in range(1, 7 - first):
            check_range(ROOT, part(first, count), first, len(SHARD), prove(LEAVES, first, count))


def test_views_and_bytearrays_have_the_same_leaves() -> None:
    assert leaf_hashes(memoryview(SHARD)) == leaf_hashes(bytearray(SHARD)) == LEAVES


def test_a_whole_shard_is_checked_against_its_root() -> None:
    check_shard(ROOT, SHARD)
    with pytest.raises(ShardCorruptError, match=r"^82559 bytes are not the shard under root [0-9a-f]{16}$"):
        check_shard(ROOT, SHARD[:-1])
    with pytest.raises(ShardCorruptError):
        check_shard(ROOT, b"")


def test_leaves_of_another_length_are_refused_before_hashing() -> None:
    with pytest.raises(ShardCorruptError, match=r"^16383 bytes from leaf 1, 16384 expected$"):
        check_range(ROOT, part(1, 1)[:-1], 1, len(SHARD), prove(LEAVES, 1, 1))
    with pytest.raises(ShardCorruptError, match=r"^641 bytes from leaf 5, 640 expected$"):
        check_range(ROOT, part(5, 1) + b"!", 5, len(SHARD), prove(LEAVES, 5, 1))


@pytest.mark.parametrize("first", [-1, 6, 2**40])
def test_a_place_outside_the_shard_is_refused(first: int) -> None:
    with pytest.raises(ShardCorruptError):
        check_range(ROOT, part(0, 1), first, len(SHARD), prove(LEAVES, 0, 1))


def test_no_leaves_are_no_answer() -> None:
    with pytest.raises(ShardCorruptError, match=r"^bad_proof: 0 leaves from 0 of 6$"):
        check_range(ROOT, b"", 0, len(SHARD), ())


@settings(max_examples=60)
@given(
    first=st.integers(0, 5),
    count=st.integers(1, 6),
    place=st.integers(min_value=0),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_of_leaves_root_or_proof_is_refused(first: int, count: int, place: int, bit: int) -> None:
    count = min(count, 6 - first)
    proof = prove(LEAVES, first, count)
    given_bytes = bytearray(part(first, count))
    given_bytes[place % len(given_bytes)] ^= 1 << bit
    with pytest.raises(ShardCorruptError):
        check_range(ROOT, given_bytes, first, len(SHARD), proof)
    root = bytearray(ROOT)
    root[place % 32] ^= 1 << bit
    with pytest.raises(ShardCorruptError):
        check_range(ShardRoot(bytes(root)), part(first, count), first, len(SHARD), proof)
    if proof:
        hashes = [bytearray(head) for head in proof]
        hashes[place % len(hashes)][place % 32] ^= 1 << bit
        with pytest.raises(ShardCorruptError):
            check_range(ROOT, part(first, count), first, len(SHARD), [bytes(head) for head in hashes])
