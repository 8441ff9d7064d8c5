"""Roots that are no codeword: a client may commit columns that do not belong together. What proves it, what mends it.

    ShowBrokenCode   k + 1 leaves at one position, under their roots, of which k do not give the other
    VouchRoot        a member has recomputed a column that nobody has receipted, from the k lowest receipted ones

Holders are not to blame: each has the bytes that it signed for. Whoever signed the commit is, and stands in the block
of the segment's height. The rules stand in ledger_codes.py.

    "a" segment (32)     roots found to be no codeword           BrokenCodeState
    "p"                  roots vouched for by too few so far     RootVotesState
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record
from consensus.identifiers import HASH, HEIGHT, Height
from consensus.merkle import PATH_MAX
from storage.erasure import reconstruct
from storage.identifiers import (
    COLUMN,
    COLUMNS_MAX,
    LEAF_BYTES,
    ROOT,
    SEAT,
    SEGMENT,
    SEGMENT_BYTES_MAX,
    ColumnIndex,
    SeatIndex,
    SegmentId,
    ShardRoot,
)
from storage.merkle import check_range
from storage.segments import SegmentShape

if TYPE_CHECKING:
    from collections.abc import Collection

    from storage.state import SegmentState

PENDING_ROOTS_MAX: Final = 256
VOTE_HEIGHTS: Final = 2_000
"""What too few have vouched for is forgotten after so many blocks; who still thinks so says it again."""
ROOT_VOTES_KEY: Final = b"p"

Columns = Annotated[int, Meta(ge=1, le=2**COLUMNS_MAX - 1)]
"""A set of columns, bit j for column j."""


class ShownLeaf(Record):
    """A leaf and the way to its column's root."""

    column: Annotated[ColumnIndex, COLUMN]
    leaf: Annotated[bytes, Meta(min_length=1, max_length=LEAF_BYTES)]
    path: Annotated[tuple[Annotated[bytes, HASH], ...], Meta(max_length=PATH_MAX)]


class ShowBrokenCode(Record, tag=33):
    """k + 1 columns' leaves at one position, in order of columns."""

    segment_id: Annotated[SegmentId, SEGMENT]
    position: Annotated[int, Meta(ge=0, le=SEGMENT_BYTES_MAX // LEAF_BYTES - 1)]
    leaves: Annotated[tuple[ShownLeaf, ...], Meta(min_length=2, max_length=COLUMNS_MAX)]


class VouchRoot(Record, tag=34):
    """The sender, a seat, has recomputed a column from these others and found this root."""

    segment_id: Annotated[SegmentId, SEGMENT]
    column: Annotated[ColumnIndex, COLUMN]
    root: Annotated[ShardRoot, ROOT]
    from_columns: Columns


CodeDuty = ShowBrokenCode | VouchRoot
"""Bodies that only a seat's own key may send."""


class BrokenCodeState(Record, tag=35):
    """A segment whose roots are, or were, no codeword."""

    committed_height: Annotated[Height, HEIGHT]
    """Of the block whose transaction is to blame."""
    proven_height: Annotated[Height, HEIGHT]
    replaced: Annotated[tuple[Annotated[ColumnIndex, COLUMN], ...], Meta(max_length=COLUMNS_MAX)]
    """Columns whose roots r + 1 members have replaced; empty when leaves have proven it."""


class RootVote(Record):
    """What one seat has found."""

    seat: Annotated[SeatIndex, SEAT]
    root: Annotated[ShardRoot, ROOT]


class PendingRoot(Record):
    """A column that fewer than r + 1 members vouch for alike so far."""

    segment_id: Annotated[SegmentId, SEGMENT]
    column: Annotated[ColumnIndex, COLUMN]
    from_columns: Columns
    since: Annotated[Height, HEIGHT]
    votes: Annotated[tuple[RootVote, ...], Meta(min_length=1, max_length=64)]


class RootVotesState(Record, tag=36):
    """All of them, oldest first."""

    pending: Annotated[tuple[PendingRoot, ...], Meta(max_length=PENDING_ROOTS_MAX)]


def broken_code_key(segment_id: SegmentId) -> bytes:
    """Return the state key that tells that a segment's roots are no codeword; a seat's verdicts have a shorter one."""
    return b"a" + segment_id


def lowest_columns(state: SegmentState, counted: Collection[ColumnIndex]) -> tuple[ColumnIndex, ...]:
    """Return the k lowest columns with a receipt: those that everybody recomputes from."""
    return tuple(sorted(counted))[: state.k]


def column_set(columns: Collection[ColumnIndex]) -> int:
    """Return columns as a set of bits."""
    return sum(1 << column for column in columns)


def is_broken(state: SegmentState, shown: ShowBrokenCode) -> bool:
    """Say whether leaves prove that a segment's roots are no codeword.

    Raises:
        ShardCorruptError: A leaf is not under its root.
    """
    columns = [leaf.column for leaf in shown.leaves]
    shape = SegmentShape(state.segment_bytes, state.k, len(state.roots))
    is_fit = columns == sorted(set(columns)) and len(columns) == state.k + 1 and columns[-1] < len(state.roots)
    if not is_fit or shown.position >= shape.leaves:
        return False
    for leaf in shown.leaves:
        check_range(state.roots[leaf.column], leaf.leaf, shown.position, shape.shard_bytes, leaf.path)
    *sources, target = shown.leaves
    given = {leaf.column: leaf.leaf for leaf in sources}
    restored = reconstruct(given, (target.column,), state.k, len(state.roots))
    return bytes(restored[target.column]) != target.leaf
