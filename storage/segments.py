"""What is coded and placed at once: a segment's shape, its shards and their roots.

A segment of L bytes, 1 to 16 MiB, with k data columns is laid out row by row in stripes of k units:

    full stripes  f = L // (k * 65,536), with units of 65,536 bytes
    the rest      r = L - f * k * 65,536; when r > 0 one last stripe follows, its units ceil(r / k) bytes rounded up
                  to a multiple of 64, the end padded with zeros
    shard         column j, top to bottom: f * 65,536 bytes and the last unit

Byte p of the segment lies, in a full stripe, in column (p // 65,536) mod k at offset (p // (k * 65,536)) * 65,536
+ p mod 65,536. Frames are as long as units, so that a frame that starts at a multiple of 65,536 bytes is one unit.
Parity column i holds the code of the data columns (storage/erasure.py). Every shard has its own Merkle tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Buffer
from storage.erasure import encode, reconstruct_into
from storage.identifiers import (
    COLUMNS_MAX,
    SEGMENT_BYTES_MAX,
    UNIT_ALIGNMENT_BYTES,
    UNIT_BYTES,
    ColumnIndex,
    ShardRoot,
)
from storage.merkle import leaf_count, leaf_hashes, root_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class ShardRange:
    """Bytes of one column."""

    column: ColumnIndex
    offset: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class SegmentShape:
    """How a segment of so many bytes lies in n columns, k of them data.

    Raises:
        RejectionError: MALFORMED for a shape that no segment has; shapes come from peers and the chain.
    """

    segment_bytes: int
    k: int
    n: int = COLUMNS_MAX

    def __post_init__(self) -> None:
        """Refuse impossible shapes once, here."""
        if not 1 <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            detail = f"segment of {self.segment_bytes} bytes, 1 to {SEGMENT_BYTES_MAX} allowed"
            raise RejectionError(RejectionReason.MALFORMED, detail)
        if not 1 <= self.k <= self.n <= COLUMNS_MAX:
            raise RejectionError(RejectionReason.MALFORMED, f"{self.k} data columns of {self.n}")

    @property
    def full_stripes(self) -> int:
        """Return the number of stripes whose units have UNIT_BYTES bytes."""
        return self.segment_bytes // (self.k * UNIT_BYTES)

    @property
    def last_unit_bytes(self) -> int:
        """Return the bytes of a unit of the last, shorter stripe; 0 where there is none."""
        rest = self.segment_bytes - self.full_stripes * self.k * UNIT_BYTES
        alignment = self.k * UNIT_ALIGNMENT_BYTES
        return -(-rest // alignment) * UNIT_ALIGNMENT_BYTES

    @property
    def shard_bytes(self) -> int:
        """Return the bytes of every column."""
        return self.full_stripes * UNIT_BYTES + self.last_unit_bytes

    @property
    def padded_bytes(self) -> int:
        """Return the bytes of all data columns: the segment's and the zeros at its end."""
        return self.k * self.shard_bytes

    @property
    def leaves(self) -> int:
        """Return the number of leaves of a shard's Merkle tree."""
        return leaf_count(self.shard_bytes)

    def locate(self, first: int, byte_count: int) -> tuple[ShardRange, ...]:
        """Return where a range of the segment lies, in its order, one piece per unit touched."""
        assert 0 <= first <= first + byte_count <= self.segment_bytes, "a range within the segment"
        return tuple(self._pieces(first, first + byte_count))

    def _pieces(self, start: int, end: int) -> Iterator[ShardRange]:
        full_bytes = self.full_stripes * self.k * UNIT_BYTES
        while start < end:
            in_full = start < full_bytes
            unit_bytes = UNIT_BYTES if in_full else self.last_unit_bytes
            unit, within = divmod(start if in_full else start - full_bytes, unit_bytes)
            row, column = divmod(unit, self.k)
            offset = (row if in_full else self.full_stripes) * UNIT_BYTES + within
            byte_count = min(unit_bytes - within, end - start)
            yield ShardRange(ColumnIndex(column), offset, byte_count)
            start += byte_count


@dataclass(frozen=True, slots=True)
class CodedSegment:
    """The n shards of a segment and their roots, data columns first."""

    shape: SegmentShape
    shards: tuple[memoryview, ...]
    """Each shape.shard_bytes long, one behind the other in one memory."""
    roots: tuple[ShardRoot, ...]


def code_segment(segment: Buffer, k: int, n: int = COLUMNS_MAX, memory: memoryview | None = None) -> CodedSegment:
    """Cut a segment into k data shards, compute the n - k parity shards and all roots.

    Takes about 13 ms for 16 MiB, most of it hashing with the GIL released: call it in a worker thread.

    Args:
        segment: Its bytes.
        k: Data columns.
        n: All columns.
        memory: Where the shards are put, at least n * shard_bytes and writable; a fresh one when None.
    """
    with memoryview(segment) as view:
        shape = SegmentShape(len(view), k, n)
        place = memoryview(bytearray(n * shape.shard_bytes)) if memory is None else memory
        shards = tuple(place[j * shape.shard_bytes : (j + 1) * shape.shard_bytes] for j in range(n))
        assert len(shards[-1]) == shape.shard_bytes, "memory for all columns"
        for column in range(k):
            _fill_shard(shards[column], view, shape, column)
    encode(shards[:k], shards[k:])
    return CodedSegment(shape, shards, tuple(root_of(leaf_hashes(shard)) for shard in shards))


def assemble(shards: Mapping[ColumnIndex, Buffer], shape: SegmentShape) -> bytes:
    """Join the k data shards to the segment's bytes; parity columns among them are ignored.

    The caller has checked the shards against their roots and restored missing ones (erasure.reconstruct).
    """
    views = [memoryview(shards[ColumnIndex(column)]) for column in range(shape.k)]
    assert all(len(view) == shape.shard_bytes for view in views), "shards of another shape"
    pieces = shape.locate(0, shape.segment_bytes)
    return b"".join(views[piece.column][piece.offset : piece.offset + piece.byte_count] for piece in pieces)


def data_units(memory: memoryview, shape: SegmentShape, column: ColumnIndex) -> tuple[memoryview, ...]:
    """Return where a data column's units lie in a segment's memory, top to bottom.

    Args:
        memory: At least shape.padded_bytes.
        shape: Of the segment.
        column: Below k.
    """
    assert 0 <= column < shape.k, f"column {column} is none of {shape.k} data columns"
    stripe_bytes = shape.k * UNIT_BYTES
    starts = range(column * UNIT_BYTES, shape.full_stripes * stripe_bytes, stripe_bytes)
    units = [memory[start : start + UNIT_BYTES] for start in starts]
    if shape.last_unit_bytes:
        start = shape.full_stripes * stripe_bytes + column * shape.last_unit_bytes
        units.append(memory[start : start + shape.last_unit_bytes])
    return tuple(units)


def restore_units(
    memory: memoryview,
    shape: SegmentShape,
    parity: Mapping[ColumnIndex, Buffer],
    missing: Collection[ColumnIndex],
) -> None:
    """Compute the missing data columns of a segment's memory, stripe by stripe, where they belong.

    Args:
        memory: Writable, at least shape.padded_bytes; the other data columns are in place and were checked.
        shape: Of the segment.
        parity: Whole parity columns, checked, with the data columns in place at least k.
        missing: Data columns.

    Raises:
        NotEnoughShardsError: Fewer than k columns in all.
    """
    columns = [data_units(memory, shape, ColumnIndex(column)) for column in range(shape.k)]
    views = {column: memoryview(shard) for column, shard in parity.items()}
    for row in range(len(columns[0])):
        start, stop = row * UNIT_BYTES, row * UNIT_BYTES + len(columns[0][row])
        available = {
            ColumnIndex(column): units[row] for column, units in enumerate(columns) if column not in missing
        } | {column: view[start:stop] for column, view in views.items()}
        reconstruct_into(available, {column: columns[column][row] for column in missing}, shape.k, shape.n)


def _fill_shard(shard: memoryview, segment: memoryview, shape: SegmentShape, column: int) -> None:
    """Copy the units of one data column, padded with zeros at the segment's end."""
    stripe_bytes = shape.k * UNIT_BYTES
    for row in range(shape.full_stripes):
        start = row * stripe_bytes + column * UNIT_BYTES
        shard[row * UNIT_BYTES : (row + 1) * UNIT_BYTES] = segment[start : start + UNIT_BYTES]
    last_start = shape.full_stripes * stripe_bytes + column * shape.last_unit_bytes
    last_unit = segment[last_start : last_start + shape.last_unit_bytes]
    padding_start = shape.full_stripes * UNIT_BYTES + len(last_unit)
    shard[shape.full_stripes * UNIT_BYTES : padding_start] = last_unit
    shard[padding_start:] = bytes(shape.shard_bytes - padding_start)
