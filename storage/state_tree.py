"""The authenticated map: every value of the ledger's state under one root of 32 bytes.

A compressed sparse binary Merkle tree over paths. The path of a state key is SHA-256(state key), 256 bits, first bit
first: 0 is left.

    leaf(path, value)      = SHA-256(0x03 || path || SHA-256(value))
    branch(left, right)    = SHA-256(0x04 || left || right)
    subtree without leaves = 32 zero bytes
    subtree with one leaf  = that leaf, at whatever depth
    any other subtree      = branch of its two halves

So the same set of keys and values gives the same root, in whatever order it was written. The prefixes differ from each
other and from those of Merkle lists (consensus/merkle.py). A million keys are about 20 levels deep; a proof is a bitmap
of the levels whose sibling is not empty, and those siblings: about 700 bytes.

Only the latest tree is stored, in place, so that what is deleted is gone. Nodes lie in pages of four levels:

    page name = levels above / 4, 1 byte || the bits above the page, left-aligned in whole bytes
    page      = for each node present, in order of position: position (1), kind (1), two times 32 bytes

Position 1 is the page's top, 2p and 2p + 1 are below p. A leaf (kind 3) holds path and value hash, a branch (kind 4)
the hashes of its halves.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeAlias

from msgspec import Meta

from consensus.encoding import Record
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import HASH, StateRoot

if TYPE_CHECKING:
    from collections.abc import Mapping

EMPTY: Final = bytes(32)
"""The hash of a subtree without leaves."""
EMPTY_ROOT: Final = StateRoot(EMPTY)
PATH_BITS: Final = 256
PAGE_LEVELS: Final = 4
_LEAF: Final = 3
_BRANCH: Final = 4
_LEAF_PREFIX: Final = bytes((_LEAF,))
_BRANCH_PREFIX: Final = bytes((_BRANCH,))
_ROW_BYTES: Final = 66

TreeNode: TypeAlias = bytes
"""65 bytes, hashed as they are: kind, then path and value hash of a leaf, or the hashes of a branch's halves.

Bare bytes and not a class: a block of 100 objects handles thousands, and this halves the cost of a block.
"""


Leaves: TypeAlias = list[tuple[int, bytes | None]]
"""Paths, ascending, each with its value hash; None deletes."""


class PageReader(Protocol):
    """Where pages of the tree are read."""

    def page(self, page_name: bytes) -> bytes | None:
        """Return a page, None where the tree has none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeChange:
    """A new root, and the pages to write (None: to delete) for it."""

    root: StateRoot
    pages: Mapping[bytes, bytes | None]


class OtherLeaf(Record):
    """The leaf that stands where an absent key would."""

    path: Annotated[bytes, HASH]
    value_hash: Annotated[bytes, HASH]


class TreeProof(Record):
    """The way from a root down to a key, or to the place where it would be.

    Bit i of `present` (first bit of the first byte is level 0, the root's) tells that the sibling at that level is not
    empty; those siblings follow from the top.
    """

    depth: Annotated[int, Meta(ge=0, le=PATH_BITS)]
    present: Annotated[bytes, Meta(max_length=PATH_BITS // 8)]
    siblings: Annotated[tuple[Annotated[bytes, HASH], ...], Meta(max_length=PATH_BITS)]
    other: OtherLeaf | None


def path_of(state_key: bytes) -> bytes:
    """Return the path (32 bytes) of a state key."""
    return hashlib.sha256(state_key).digest()


def value_hash(value: bytes) -> bytes:
    """Return what a leaf says of a value (32 bytes)."""
    return hashlib.sha256(value).digest()


def update(reader: PageReader, changes: Mapping[bytes, bytes | None]) -> TreeChange:
    """Put and delete (None) state keys in one go; the order of the mapping does not matter.

    Deleting an absent key changes nothing. The cost is one page per four levels and key, those above shared.
    """
    pages = _Pages(reader=reader)
    leaves = sorted(
        (int.from_bytes(path_of(state_key), "big"), None if value is None else value_hash(value))
        for state_key, value in changes.items()
    )
    if leaves:
        _apply(pages, 0, 0, leaves)
    top = pages.get(0, 0)
    return TreeChange(root=StateRoot(_digest(top)), pages=pages.written())


def root_of_tree(reader: PageReader) -> StateRoot:
    """Return the root of the stored tree."""
    top = _Pages(reader=reader).get(0, 0)
    return StateRoot(_digest(top))


def subtree_hash(depth: int, leaves: Leaves) -> bytes:
    """Return the hash (32 bytes) of the subtree at a depth that holds exactly these leaves, which share its prefix."""
    if not leaves:
        return EMPTY
    return _digest(_build(_Pages(reader=_NO_PAGES), depth, leaves[0][0] >> (PATH_BITS - depth), list(leaves)))


def joined_hash(left_leaves: int, left: bytes, right_leaves: int, right: bytes) -> bytes:
    """Return the hash of the subtree whose halves have these numbers of leaves and these hashes."""
    if left_leaves + right_leaves <= 1:
        return left if left_leaves else right
    return _digest(_BRANCH_PREFIX + left + right)


def prove(reader: PageReader, state_key: bytes) -> TreeProof:
    """Return the proof that a key is there, with whatever value, or that it is not."""
    path = path_of(state_key)
    bits = int.from_bytes(path, "big")
    pages = _Pages(reader=reader)
    depth, present, siblings = 0, 0, list[bytes]()
    node = pages.get(0, 0)
    while node is not None and node[0] == _BRANCH:
        goes_right = bits >> (PATH_BITS - 1 - depth) & 1
        sibling = node[1:33] if goes_right else node[33:]
        if sibling != EMPTY:
            present |= 1 << (PATH_BITS - 1 - depth)
            siblings.append(sibling)
        depth += 1
        node = pages.get(depth, bits >> (PATH_BITS - depth))
    other = OtherLeaf(path=node[1:33], value_hash=node[33:]) if node is not None and node[1:33] != path else None
    bitmap = present.to_bytes(PATH_BITS // 8, "big")[: (depth + 7) // 8]
    return TreeProof(depth=depth, present=bitmap, siblings=tuple(siblings), other=other)


def check_inclusion(root: StateRoot, state_key: bytes, value: bytes, proof: TreeProof) -> None:
    """Refuse a value that the key does not have under the root.

    Raises:
        RejectionError: BAD_PROOF.
    """
    if proof.other is not None:
        raise RejectionError(RejectionReason.BAD_PROOF, "a proof of inclusion names no other leaf")
    path = path_of(state_key)
    leaf = _LEAF_PREFIX + path + value_hash(value)
    _check_climb(root, path, _digest(leaf), proof)


def check_absence(root: StateRoot, state_key: bytes, proof: TreeProof) -> None:
    """Refuse the claim that a key has no value under the root, unless proven.

    Raises:
        RejectionError: BAD_PROOF.
    """
    path = path_of(state_key)
    if proof.other is None:
        _check_climb(root, path, EMPTY, proof)
        return
    if proof.other.path == path or not _shares(proof.other.path, path, proof.depth):
        raise RejectionError(RejectionReason.BAD_PROOF, "the other leaf does not stand in the key's place")
    leaf = _LEAF_PREFIX + proof.other.path + proof.other.value_hash
    _check_climb(root, path, _digest(leaf), proof)


def _shares(path: bytes, other: bytes, depth: int) -> bool:
    difference = int.from_bytes(path, "big") ^ int.from_bytes(other, "big")
    return difference >> (PATH_BITS - depth) == 0


def _check_climb(root: StateRoot, path: bytes, bottom: bytes, proof: TreeProof) -> None:
    """Hash from the bottom up and compare with the root."""
    bits = int.from_bytes(path, "big")
    present = int.from_bytes(proof.present, "big") << (PATH_BITS - 8 * len(proof.present))
    if len(proof.present) != (proof.depth + 7) // 8 or present & ((1 << (PATH_BITS - proof.depth)) - 1):
        raise RejectionError(RejectionReason.BAD_PROOF, "the bitmap of siblings does not fit the depth")
    if present.bit_count() != len(proof.siblings):
        raise RejectionError(RejectionReason.BAD_PROOF, "the number of siblings does not fit their bitmap")
    siblings = list(proof.siblings)
    digest = bottom
    for level in range(proof.depth - 1, -1, -1):
        mask = 1 << (PATH_BITS - 1 - level)
        sibling = siblings.pop() if present & mask else EMPTY
        digest = _digest(_BRANCH_PREFIX + (sibling + digest if bits & mask else digest + sibling))
    if digest != root:
        raise RejectionError(RejectionReason.BAD_PROOF, "the proof leads to another root")


def _digest(node: TreeNode | None) -> bytes:
    return EMPTY if node is None else hashlib.sha256(node).digest()


def _apply(pages: _Pages, depth: int, prefix: int, leaves: Leaves) -> TreeNode | None:
    """Change the subtree at `prefix` (its first `depth` bits) and return its new top."""
    node = pages.get(depth, prefix)
    if node is not None and node[0] == _BRANCH:
        node = _apply_branch(pages, depth, prefix, node, leaves)
    else:
        if node is not None:
            path = int.from_bytes(node[1:33], "big")
            place = bisect_left(leaves, path, key=_leaf_path)
            if place == len(leaves) or leaves[place][0] != path:
                leaves = [*leaves[:place], (path, node[33:]), *leaves[place:]]
        node = _build(pages, depth, prefix, [leaf for leaf in leaves if leaf[1] is not None])
    pages.put(depth, prefix, node)
    return node


def _apply_branch(pages: _Pages, depth: int, prefix: int, branch: TreeNode, leaves: Leaves) -> TreeNode | None:
    middle = bisect_left(leaves, (prefix << 1 | 1) << (PATH_BITS - 1 - depth), key=_leaf_path)
    digests = [branch[1:33], branch[33:]]
    for side, part in enumerate((leaves[:middle], leaves[middle:])):
        if part:
            top = _apply(pages, depth + 1, prefix << 1 | side, part)
            digests[side] = _digest(top)
    if EMPTY not in digests:
        return _BRANCH_PREFIX + digests[0] + digests[1]
    side = 0 if digests[0] != EMPTY else 1
    top = pages.get(depth + 1, prefix << 1 | side)
    if top is not None and top[0] == _BRANCH:
        return _BRANCH_PREFIX + digests[0] + digests[1]
    # A subtree with one leaf is that leaf: it moves up into its parent's place.
    pages.put(depth + 1, prefix << 1 | side, None)
    return top


def _build(pages: _Pages, depth: int, prefix: int, leaves: Leaves) -> TreeNode | None:
    """Return the top of a new subtree whose nodes below the top are put into their pages."""
    if len(leaves) <= 1:
        return _leaf_node(*leaves[0]) if leaves else None
    middle = bisect_left(leaves, (prefix << 1 | 1) << (PATH_BITS - 1 - depth), key=_leaf_path)
    digests = list[bytes]()
    for side, part in enumerate((leaves[:middle], leaves[middle:])):
        top = _build(pages, depth + 1, prefix << 1 | side, part)
        pages.put(depth + 1, prefix << 1 | side, top)
        digests.append(_digest(top))
    return _BRANCH_PREFIX + digests[0] + digests[1]


def _leaf_path(leaf: tuple[int, bytes | None]) -> int:
    return leaf[0]


def _leaf_node(path: int, value_hash: bytes | None) -> TreeNode:
    assert value_hash is not None, "deleted leaves are built into no tree"
    return _LEAF_PREFIX + path.to_bytes(PATH_BITS // 8, "big") + value_hash


@dataclass(slots=True)
class _Pages:
    """The pages touched by one update, decoded; written back once."""

    reader: PageReader
    loaded: dict[bytes, dict[int, TreeNode]] = field(default_factory=dict[bytes, dict[int, TreeNode]])
    changed: set[bytes] = field(default_factory=set[bytes])

    def get(self, depth: int, prefix: int) -> TreeNode | None:
        page_name, position = _place(depth, prefix)
        return self._load(page_name).get(position)

    def put(self, depth: int, prefix: int, node: TreeNode | None) -> None:
        page_name, position = _place(depth, prefix)
        nodes = self._load(page_name)
        if nodes.get(position) == node:
            return
        self.changed.add(page_name)
        if node is None:
            del nodes[position]
        else:
            nodes[position] = node

    def written(self) -> dict[bytes, bytes | None]:
        return {page_name: _encode_page(self.loaded[page_name]) or None for page_name in sorted(self.changed)}

    def _load(self, page_name: bytes) -> dict[int, TreeNode]:
        nodes = self.loaded.get(page_name)
        if nodes is None:
            nodes = _decode_page(self.reader.page(page_name) or b"")
            self.loaded[page_name] = nodes
        return nodes


class _NoPages:
    """A tree without nodes."""

    def page(self, page_name: bytes) -> bytes | None:
        """Return nothing."""
        del page_name
        return None


_NO_PAGES: Final = _NoPages()


def _place(depth: int, prefix: int) -> tuple[bytes, int]:
    """Return the page of a node and its position there."""
    number, level = divmod(depth, PAGE_LEVELS)
    above = prefix >> level
    bits = number * PAGE_LEVELS
    name_bytes = (bits + 7) // 8
    page_name = bytes((number,)) + (above << (8 * name_bytes - bits)).to_bytes(name_bytes, "big")
    return page_name, 1 << level | (prefix & ((1 << level) - 1))


def _encode_page(nodes: Mapping[int, TreeNode]) -> bytes:
    return b"".join([bytes((position,)) + nodes[position] for position in sorted(nodes)])


def _decode_page(page: bytes) -> dict[int, TreeNode]:
    """Read our own page; the store has checked its bytes."""
    assert len(page) % _ROW_BYTES == 0, "a page of the state tree is cut"
    return {page[i]: page[i + 1 : i + _ROW_BYTES] for i in range(0, len(page), _ROW_BYTES)}
