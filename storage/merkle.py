"""A shard's Merkle tree: leaves of 16 KiB, the last one shorter; its head is what the chain commits.

The number of leaves follows from the shard's bytes, which the segment's shape gives; a proof is always checked against
that number. A reader checks every leaf it is given before anything decodes or serves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.errors import RejectionError
from consensus.identifiers import Buffer
from consensus.merkle import head_from_range, leaf_hash, prove_range, tree_head
from storage.errors import ShardCorruptError
from storage.identifiers import LEAF_BYTES, ShardRoot

if TYPE_CHECKING:
    from collections.abc import Sequence


def leaf_count(shard_bytes: int) -> int:
    """Return how many leaves a shard of so many bytes has."""
    return -(-shard_bytes // LEAF_BYTES)


def covering_leaves(first_byte: int, byte_count: int) -> range:
    """Return the leaves that hold a range of a shard's bytes; their bytes run from range.start * LEAF_BYTES."""
    assert first_byte >= 0 and byte_count > 0, "a range has a place and at least one byte"  # noqa: PT018 one fact
    return range(first_byte // LEAF_BYTES, leaf_count(first_byte + byte_count))


def leaf_hashes(shard: Buffer) -> tuple[bytes, ...]:
    """Return the hashes of a shard's leaves, or of a piece of it that starts at a leaf."""
    with memoryview(shard) as view:
        return tuple(leaf_hash(view[start : start + LEAF_BYTES]) for start in range(0, len(view), LEAF_BYTES))


def root_of(leaves: Sequence[bytes]) -> ShardRoot:
    """Return the shard root over its leaf hashes."""
    assert leaves, "a shard has at least one leaf"
    return ShardRoot(tree_head(leaves))


def prove(leaves: Sequence[bytes], first: int, count: int) -> tuple[bytes, ...]:
    """Return the proof for `count` leaves from `first`, given the hashes of all."""
    return prove_range(leaves, first, count)


def root_from_range(leaves: Sequence[bytes], first: int, total: int, proof: Sequence[bytes]) -> ShardRoot:
    """Return the root that a range of leaf hashes and its proof lead to.

    Raises:
        RejectionError: BAD_PROOF when range or proof do not fit a tree of `total` leaves.
    """
    return ShardRoot(head_from_range(leaves, first, total, proof))


def check_range(root: ShardRoot, leaves: Buffer, first: int, shard_bytes: int, proof: Sequence[bytes]) -> None:
    """Refuse bytes that are not the shard's leaves from `first` on.

    Args:
        root: What the chain committed.
        leaves: Whole leaves, joined; only the shard's last one may be shorter.
        first: Position of the first leaf.
        shard_bytes: Length of the whole shard, from the segment's shape.
        proof: What prove() gave.

    Raises:
        ShardCorruptError: Bytes, range or proof do not belong to this root.
    """
    last = first + leaf_count(len(leaves))
    expected_bytes = min(last * LEAF_BYTES, shard_bytes) - first * LEAF_BYTES
    if len(leaves) != expected_bytes:
        raise ShardCorruptError(f"{len(leaves)} bytes from leaf {first}, {expected_bytes} expected")
    try:
        found = root_from_range(leaf_hashes(leaves), first, leaf_count(shard_bytes), proof)
    except RejectionError as error:
        raise ShardCorruptError(str(error)) from error
    if found != root:
        raise ShardCorruptError(f"leaves {first} to {last - 1} are not under root {root.hex()[:16]}")


def check_shard(root: ShardRoot, shard: Buffer) -> None:
    """Refuse a whole shard that is not the one committed.

    Raises:
        ShardCorruptError: Its root is another.
    """
    if not shard or root_of(leaf_hashes(shard)) != root:
        raise ShardCorruptError(f"{len(shard)} bytes are not the shard under root {root.hex()[:16]}")
