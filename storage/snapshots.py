"""Snapshots: the ledger's state at one height, in pieces of which each is verified by itself.

Rules
- P1. The state tree's paths (256 bits) are cut into *cells*: a cell is all paths with one prefix. The whole is one cell
  while its rows have at most PIECE_BYTES_MAX bytes; a larger one is cut in two, and so on. So every node that has the
  same state makes the same cells, and a joiner may take pieces from all of them at once.
- P2. The manifest names depth, number of leaves and hash of every cell, in order. The state root follows from it
  (state_tree.py: an empty subtree is 32 zero bytes, one of one leaf is that leaf), so that a manifest is true if the
  root is the one in a certified header, and a liar is found out before a piece is asked for.
- P3. A piece is the rows of one cell in order of their paths. It is true if its subtree has the cell's hash.

A snapshot of height H is the state after block H, whose root header H + 1 certifies.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import HASH, HEIGHT, Height, StateRoot
from consensus.messages import MANIFEST_BYTES_MAX, PIECES_MAX
from consensus.messages import PIECE_BYTES_MAX as ENCODED_PIECE_BYTES_MAX
from storage.state import STATE_VALUE_BYTES_MAX
from storage.state_tree import EMPTY, PATH_BITS, joined_hash, path_of, subtree_hash, value_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PIECE_BYTES_MAX: Final = 1024 * 1024
"""Rows of one cell; a single row has at most STATE_VALUE_BYTES_MAX and so always fits."""
STATE_KEY_BYTES_MAX: Final = 128
CELLS_MAX: Final = PIECES_MAX
"""A manifest of 40 bytes a cell stays below 6 MiB: states up to about 64 GiB."""
BUCKET_BITS: Final = 8
BUCKETS: Final = 1 << BUCKET_BITS
"""Rows are sorted into this many groups by the first bits of their paths before they are cut."""


class Cell(Record):
    """All leaves whose path has one prefix of `depth` bits; the prefix follows from the cells before it."""

    depth: Annotated[int, Meta(ge=0, le=PATH_BITS)]
    leaves: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    subtree: Annotated[bytes, HASH]


class SnapshotManifest(Record, tag=23):
    """The cells of the state after the block of a height, in order of their paths."""

    height: Annotated[Height, HEIGHT]
    cells: Annotated[tuple[Cell, ...], Meta(min_length=1, max_length=CELLS_MAX)]


class SnapshotRow(Record):
    """One state key and its value."""

    state_key: Annotated[bytes, Meta(min_length=1, max_length=STATE_KEY_BYTES_MAX)]
    value: Annotated[bytes, Meta(max_length=STATE_VALUE_BYTES_MAX)]


class SnapshotPiece(Record, tag=24):
    """The rows of one cell, in order of their paths."""

    rows: Annotated[tuple[SnapshotRow, ...], Meta(max_length=PIECE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class PathRow:
    """A row at its place in the tree."""

    path: int
    row: SnapshotRow

    @property
    def byte_count(self) -> int:
        """What counts against PIECE_BYTES_MAX."""
        return len(self.row.state_key) + len(self.row.value)


def path_row(state_key: bytes, value: bytes) -> PathRow:
    """Return a row with its path."""
    return PathRow(int.from_bytes(path_of(state_key), "big"), SnapshotRow(state_key=state_key, value=value))


def bucket_of(row: PathRow) -> int:
    """Return the group of a row: the first BUCKET_BITS of its path."""
    return row.path >> (PATH_BITS - BUCKET_BITS)


def cut_state(
    bucket_bytes: Sequence[int],
    read_bucket: Callable[[int], Sequence[PathRow]],
    piece_bytes_max: int = PIECE_BYTES_MAX,
) -> Iterator[tuple[Cell, SnapshotPiece]]:
    """Cut a state into cells and pieces, in order (P1); memory holds one group of rows and one piece.

    Args:
        bucket_bytes: Of each of the BUCKETS groups, the bytes of its rows.
        read_bucket: Gives the rows of a group, in any order.
        piece_bytes_max: The same on all nodes of a chain.
    """
    assert len(bucket_bytes) == BUCKETS, "every group is counted"
    for depth, buckets in _cut_buckets(bucket_bytes, piece_bytes_max, 0, range(BUCKETS)):
        rows = sorted((row for bucket in buckets for row in read_bucket(bucket)), key=_path)
        for cell_depth, part in _cut_rows(depth, rows, piece_bytes_max):
            cell = Cell(depth=cell_depth, leaves=len(part), subtree=subtree_hash(cell_depth, _leaves(part)))
            yield cell, SnapshotPiece(rows=tuple(row.row for row in part))


def manifest_root(manifest: SnapshotManifest) -> StateRoot:
    """Return the state root that a manifest leads to (P2).

    Raises:
        RejectionError: BAD_PROOF when its cells do not tile the tree.
    """
    waiting: list[tuple[int, int, bytes]] = []
    for cell in manifest.cells:
        if (cell.leaves == 0) != (cell.subtree == EMPTY):
            raise RejectionError(RejectionReason.BAD_PROOF, "an empty cell has the empty hash, no other has")
        depth, leaves, subtree = cell.depth, cell.leaves, cell.subtree
        while waiting and waiting[-1][0] == depth:
            _, left_leaves, left = waiting.pop()
            leaves, subtree, depth = left_leaves + leaves, joined_hash(left_leaves, left, leaves, subtree), depth - 1
        if waiting and waiting[-1][0] > depth:
            raise RejectionError(RejectionReason.BAD_PROOF, "the cells leave a gap")
        waiting.append((depth, leaves, subtree))
    if len(waiting) != 1 or waiting[0][0] != 0:
        raise RejectionError(RejectionReason.BAD_PROOF, "the cells do not cover the tree")
    return StateRoot(waiting[0][2])


def cell_starts(manifest: SnapshotManifest) -> tuple[int, ...]:
    """Return the first path of every cell of a manifest that manifest_root() accepted."""
    starts = [0]
    for cell in manifest.cells:
        starts.append(starts[-1] + (1 << (PATH_BITS - cell.depth)))
    return tuple(starts[:-1])


def check_piece(cell: Cell, start: int, piece: SnapshotPiece) -> None:
    """Refuse a piece that is not all of a cell, and that alone (P3).

    Args:
        cell: Of a manifest whose root is certified.
        start: The first path of the cell.
        piece: From a peer or a disk.

    Raises:
        RejectionError: BAD_PROOF.
    """
    rows = [path_row(row.state_key, row.value) for row in piece.rows]
    paths = [row.path for row in rows]
    if any(path >= following for path, following in pairwise(paths)):
        raise RejectionError(RejectionReason.BAD_PROOF, "rows out of order, or one twice")
    if paths and not start <= paths[0] <= paths[-1] < start + (1 << (PATH_BITS - cell.depth)):
        raise RejectionError(RejectionReason.BAD_PROOF, "a row outside its cell")
    if len(rows) != cell.leaves or subtree_hash(cell.depth, _leaves(rows)) != cell.subtree:
        raise RejectionError(RejectionReason.BAD_PROOF, "the piece has another hash than its cell")


def decode_manifest(encoded: bytes) -> SnapshotManifest:
    """Read a manifest or raise RejectionError; manifest_root() judges it."""
    return decode(encoded, SnapshotManifest, bytes_max=MANIFEST_BYTES_MAX)


def decode_piece(encoded: bytes) -> SnapshotPiece:
    """Read a piece or raise RejectionError; check_piece() judges it."""
    return decode(encoded, SnapshotPiece, bytes_max=ENCODED_PIECE_BYTES_MAX)


def encode_piece(piece: SnapshotPiece) -> bytes:
    """Return a piece as it travels and lies on disk."""
    return encode(piece)


def _cut_buckets(byte_counts: Sequence[int], bytes_max: int, depth: int, buckets: range) -> Iterator[tuple[int, range]]:
    """Give depth and groups of what fits a piece, or of one group that does not."""
    if len(buckets) == 1 or sum(byte_counts[bucket] for bucket in buckets) <= bytes_max:
        yield depth, buckets
        return
    half = len(buckets) // 2
    yield from _cut_buckets(byte_counts, bytes_max, depth + 1, buckets[:half])
    yield from _cut_buckets(byte_counts, bytes_max, depth + 1, buckets[half:])


def _cut_rows(depth: int, rows: list[PathRow], bytes_max: int) -> Iterator[tuple[int, list[PathRow]]]:
    if len(rows) <= 1 or sum(row.byte_count for row in rows) <= bytes_max:
        yield depth, rows
        return
    prefix = rows[0].path >> (PATH_BITS - depth)
    middle = bisect_left(rows, (prefix << 1 | 1) << (PATH_BITS - 1 - depth), key=_path)
    yield from _cut_rows(depth + 1, rows[:middle], bytes_max)
    yield from _cut_rows(depth + 1, rows[middle:], bytes_max)


def _path(row: PathRow) -> int:
    return row.path


def _leaves(rows: Sequence[PathRow]) -> list[tuple[int, bytes | None]]:
    return [(row.path, value_hash(row.row.value)) for row in rows]
