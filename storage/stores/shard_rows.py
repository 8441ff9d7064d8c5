"""Rows of the index of shards (units.py): what they hold and under which store key."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Final, TypeVar

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError
from consensus.identifiers import HEIGHT, Height
from storage.errors import StoreDamagedError
from storage.identifiers import (
    COLUMNS_MAX,
    ROOT,
    SEGMENT_BYTES,
    SEGMENT_BYTES_MAX,
    TENANT,
    UNIT_BYTES,
    ColumnIndex,
    SegmentId,
    ShardRoot,
    TenantId,
)
from storage.segments import SegmentShape
from storage.stores.leveldb import WriteBatch
from storage.stores.protocols import ShardName

UNITS_MAX: Final = SEGMENT_BYTES_MAX // UNIT_BYTES
ROW_BYTES_MAX: Final = 8 * 1024
"""A row of 256 runs of one unit, about 11 bytes each, and the rest."""
COUNTER_BYTES: Final = 8
SHARD_ROWS: Final = b"s"
PENDING_ROWS: Final = b"u"
USED_ROWS: Final = b"r"
GARBAGE_ROWS: Final = b"d"
TOTALS_KEY: Final = b"t"


_Counter = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class UnitRun(Record):
    """Units that lie under consecutive counters, in order."""

    first_counter: _Counter
    count: Annotated[int, Meta(ge=1, le=UNITS_MAX)]


class ShardRow(Record):
    """Where a finished shard lies."""

    tenant: Annotated[TenantId, TENANT]
    k: Annotated[int, Meta(ge=1, le=COLUMNS_MAX)]
    segment_bytes: Annotated[int, SEGMENT_BYTES]
    root: Annotated[ShardRoot, ROOT]
    runs: Annotated[tuple[UnitRun, ...], Meta(min_length=1, max_length=UNITS_MAX)]
    leaves_counter: _Counter


class PendingRow(Record):
    """A finished shard that the chain has not been seen to commit."""

    tenant: Annotated[TenantId, TENANT]
    expiry_height: Annotated[Height, HEIGHT]


class GarbageRow(Record):
    """Units to delete."""

    runs: Annotated[tuple[UnitRun, ...], Meta(max_length=UNITS_MAX + 1)]


class TotalsRow(Record):
    """What a start needs to know without reading the whole index."""

    bytes_held: Annotated[int, Meta(ge=0, le=2**62)]
    swept_counter: _Counter


RowT = TypeVar("RowT", ShardRow, PendingRow, GarbageRow, TotalsRow)


def shape_of(row: ShardRow) -> SegmentShape:
    """Return the shape of a row's segment."""
    return SegmentShape(row.segment_bytes, row.k)


def all_runs(row: ShardRow) -> tuple[UnitRun, ...]:
    """Return every counter that a shard uses, its leaf hashes' included."""
    return (*row.runs, UnitRun(first_counter=row.leaves_counter, count=1))


def counters_of(runs: Iterable[UnitRun]) -> tuple[int, ...]:
    """Return the counters of runs, in order."""
    return tuple(run.first_counter + position for run in runs for position in range(run.count))


def runs_of(counters: Iterable[int]) -> tuple[UnitRun, ...]:
    """Return counters, in their order, as few runs."""
    runs: list[list[int]] = []
    for counter in counters:
        if runs and counter == sum(runs[-1]) and runs[-1][1] < UNITS_MAX:
            runs[-1][1] += 1
        else:
            runs.append([counter, 1])
    return tuple(UnitRun(first_counter=first, count=count) for first, count in runs)


def shard_key(rows: bytes, name: ShardName) -> bytes:
    """Return the store key of a shard's row of a kind."""
    return rows + name.segment_id + bytes((name.column,))


def shard_name(store_key: bytes) -> ShardName:
    """Return the name in a store key of SHARD_ROWS or PENDING_ROWS."""
    return ShardName(SegmentId(store_key[1:33]), ColumnIndex(store_key[33]))


def counter_key(counter: int) -> bytes:
    """Return a counter as the 8 bytes that order rows by it."""
    return counter.to_bytes(COUNTER_BYTES, "big")


def put_shard_row(batch: WriteBatch, name: ShardName, row: ShardRow) -> None:
    """Add a finished shard to the index, and its counters to those in use."""
    batch.put(shard_key(SHARD_ROWS, name), encode(row))
    for run in all_runs(row):
        batch.put(USED_ROWS + counter_key(run.first_counter), run.count.to_bytes(4, "big"))


def read_row(encoded: bytes, kind: type[RowT]) -> RowT:
    """Read a row of the index.

    Raises:
        StoreDamagedError: It is not one, although LevelDB's checksum passed.
    """
    try:
        return decode(encoded, kind, bytes_max=ROW_BYTES_MAX)
    except RejectionError as error:
        raise StoreDamagedError(f"a {kind.__name__} of the index is damaged: {error}") from error


def merged_ranges(deleted: Iterable[tuple[int, int]], ranges_max: int) -> list[tuple[int, int]]:
    """Return counter ranges, first and last, that cover those given: at most so many, over the smallest gaps."""
    spans = sorted(deleted)
    gaps = sorted((after[0] - before[1], after[0]) for before, after in pairwise(spans))
    starts = {start for _, start in gaps[-(ranges_max - 1) :]}
    ranges: list[tuple[int, int]] = []
    for first, last in spans:
        if not ranges or first in starts:
            ranges.append((first, last))
        else:
            ranges[-1] = ranges[-1][0], max(last, ranges[-1][1])
    return ranges
