"""Merkle trees over SHA-256: one item proven without the others.

Tree (shape and prefixes of RFC 6962, section 2.1):

    leaf(item)        = SHA-256(0x00 || item)
    node(left, right) = SHA-256(0x01 || left || right)
    head of m leaves  = node(head of the first p, head of the other m - p), p the largest power of two below m
    head of no leaves = SHA-256("")

The distinct prefixes stop a node from passing as a leaf. A bare head does not bind the number of leaves (leaf 2 of 3
passes as leaf 1 of 2), so whoever checks a proof against one must know the count from elsewhere, as a shard's reader
does from the segment's shape. A Merkle *list* binds it:

    root of a list    = SHA-256(0x02 || number of items, 8 bytes big-endian || head)

A range proof holds the heads of the largest subtrees outside the range, left to right: at most 2 * log2(m) of them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import HASH, Buffer, MerkleRoot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HASH_BYTES: Final = 32
LEAVES_MAX: Final = 2**32
"""Trees beyond this are refused, so that a path stays within PATH_MAX."""
PATH_MAX: Final = 32
"""Hashes in the proof of one leaf: log2(LEAVES_MAX)."""
RANGE_PROOF_MAX: Final = 2 * PATH_MAX
"""Hashes in the proof of a range: one path on each side."""


class ListProof(Record):
    """That an item stands at a position of a Merkle list of `total` items."""

    index: Annotated[int, Meta(ge=0, le=LEAVES_MAX - 1)]
    total: Annotated[int, Meta(ge=1, le=LEAVES_MAX)]
    path: Annotated[tuple[Annotated[bytes, HASH], ...], Meta(max_length=PATH_MAX)]


def leaf_hash(item: Buffer) -> bytes:
    """Return the hash of one leaf; items above 2,047 bytes are hashed without holding the GIL."""
    leaf = hashlib.sha256(b"\0")
    leaf.update(item)
    return leaf.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the head of two subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


def tree_head(leaves: Sequence[bytes]) -> bytes:
    """Return the head over the hashes of all leaves, in order."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:
        # Pairing neighbours and carrying an odd last one up gives RFC 6962's shape without recursion.
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def prove_range(leaves: Sequence[bytes], first: int, count: int) -> tuple[bytes, ...]:
    """Return the proof that `count` leaves from `first` stand in the tree; at most RANGE_PROOF_MAX hashes."""
    assert 0 <= first < first + count <= len(leaves) <= LEAVES_MAX, "a proof is for leaves that exist"
    return tuple(_heads_outside(leaves, 0, len(leaves), range(first, first + count)))


def head_from_range(leaves: Sequence[bytes], first: int, total: int, proof: Sequence[bytes]) -> bytes:
    """Return the head that a range of leaf hashes and its proof lead to.

    Args:
        leaves: Hashes of the leaves of the range, at least one.
        first: Position of the first of them.
        total: Number of leaves of the whole tree, known to the caller from a source it trusts.
        proof: What prove_range() gave.

    Raises:
        RejectionError: BAD_PROOF when the range is empty or outside the tree, or the proof has another shape.
    """
    if not 0 <= first < first + len(leaves) <= total <= LEAVES_MAX:
        raise RejectionError(RejectionReason.BAD_PROOF, f"{len(leaves)} leaves from {first} of {total}")
    if len(proof) > RANGE_PROOF_MAX or any(len(head) != HASH_BYTES for head in proof):
        raise RejectionError(RejectionReason.BAD_PROOF, f"at most {RANGE_PROOF_MAX} hashes of {HASH_BYTES} bytes")
    unused = iter(proof)
    try:
        head = _head_within(leaves, unused, 0, total, range(first, first + len(leaves)))
    except StopIteration:
        raise RejectionError(RejectionReason.BAD_PROOF, f"{len(proof)} hashes are too few") from None
    if next(unused, None) is not None:
        raise RejectionError(RejectionReason.BAD_PROOF, f"{len(proof)} hashes are too many")
    return head


def list_root(items: Sequence[bytes]) -> MerkleRoot:
    """Return the root (32 bytes) of a list of byte strings; it binds their number, order and contents."""
    return root_of_leaves([leaf_hash(item) for item in items])


def root_of_leaves(leaves: Sequence[bytes]) -> MerkleRoot:
    """Return the root of the list whose items have these leaf hashes."""
    return _bind_count(len(leaves), tree_head(leaves))


def list_proof(items: Sequence[bytes], index: int) -> ListProof:
    """Return the proof that items[index] stands at that position."""
    return list_proof_of_leaves([leaf_hash(item) for item in items], index)


def list_proof_of_leaves(leaves: Sequence[bytes], index: int) -> ListProof:
    """Return the proof that the item with the leaf hash leaves[index] stands at that position."""
    return ListProof(index=index, total=len(leaves), path=prove_range(leaves, index, 1))


def check_list_proof(root: MerkleRoot, item: bytes, proof: ListProof) -> None:
    """Refuse an item that does not stand in the list at proof.index.

    Raises:
        RejectionError: BAD_PROOF.
    """
    head = head_from_range([leaf_hash(item)], proof.index, proof.total, proof.path)
    if _bind_count(proof.total, head) != root:
        raise RejectionError(RejectionReason.BAD_PROOF, f"item {proof.index} of {proof.total} is not under this root")


def _bind_count(total: int, head: bytes) -> MerkleRoot:
    return MerkleRoot(hashlib.sha256(b"\2" + total.to_bytes(8, "big") + head).digest())


def _split(low: int, high: int) -> int:
    """Return where the subtree over leaves low to high is split: after the largest power of two below its width."""
    return low + (1 << (high - low - 1).bit_length() - 1)


def _heads_outside(leaves: Sequence[bytes], low: int, high: int, wanted: range) -> Iterator[bytes]:
    if high <= wanted.start or wanted.stop <= low:
        yield tree_head(leaves[low:high])
    elif not wanted.start <= low < high <= wanted.stop:
        middle = _split(low, high)
        yield from _heads_outside(leaves, low, middle, wanted)
        yield from _heads_outside(leaves, middle, high, wanted)


def _head_within(leaves: Sequence[bytes], proof: Iterator[bytes], low: int, high: int, given: range) -> bytes:
    """Return the head of leaves low to high; the depth is log2 of the total, the work that of the range."""
    if high <= given.start or given.stop <= low:
        return next(proof)
    if given.start <= low < high <= given.stop:
        return tree_head(leaves[low - given.start : high - given.start])
    middle = _split(low, high)
    left = _head_within(leaves, proof, low, middle, given)
    return node_hash(left, _head_within(leaves, proof, middle, high, given))
