"""Objects of an object_store.py bucket: what the small ones hold, and under which paths all of them lie."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

from msgspec import Meta

from consensus.encoding import Record, decode
from consensus.errors import RejectionError
from consensus.identifiers import HEIGHT, Height
from storage.errors import StoreDamagedError
from storage.identifiers import (
    COLUMNS_MAX,
    LEAF_BYTES,
    ROOT,
    SEGMENT_BYTES,
    SEGMENT_BYTES_MAX,
    TENANT,
    ColumnIndex,
    SegmentId,
    ShardRoot,
    TenantId,
)
from storage.segments import SegmentShape
from storage.stores.protocols import ShardName
from storage.stores.shard_rows import UNITS_MAX, UnitRun

HASH_BYTES: Final = 32
LEAVES_MAX: Final = SEGMENT_BYTES_MAX // LEAF_BYTES
ROW_BYTES_MAX: Final = 64 * 1024
"""1,024 leaf hashes, 256 runs, and the rest."""
PLACES_PER_PIECE: Final = 512
"""A unit is piece times this, plus its place in it. More than UNITS_MAX, so that runs of two pieces never touch."""


class ObjectRow(Record, tag=1):
    """A finished shard; runs count units of pieces, PLACES_PER_PIECE to a piece."""

    tenant: Annotated[TenantId, TENANT]
    k: Annotated[int, Meta(ge=1, le=COLUMNS_MAX)]
    segment_bytes: Annotated[int, SEGMENT_BYTES]
    root: Annotated[ShardRoot, ROOT]
    runs: Annotated[tuple[UnitRun, ...], Meta(min_length=1, max_length=UNITS_MAX)]
    leaves: Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=LEAVES_MAX * HASH_BYTES)]


class WaitingRow(Record, tag=2):
    """A finished shard that the chain has not been seen to commit."""

    tenant: Annotated[TenantId, TENANT]
    k: Annotated[int, Meta(ge=1, le=COLUMNS_MAX)]
    segment_bytes: Annotated[int, SEGMENT_BYTES]
    expiry_height: Annotated[Height, HEIGHT]


class HeldRow(Record, tag=3):
    """The bytes of all finished shards."""

    bytes_held: Annotated[int, Meta(ge=0, le=2**62)]


RowT = TypeVar("RowT", ObjectRow, WaitingRow, HeldRow)


def object_path(kind: str, name: ShardName) -> str:
    """Return where a shard's object of a kind lies: index, waiting, pieces."""
    return f"{kind}/{name.segment_id.hex()}/{name.column}"


def piece_path(name: ShardName, counter: int) -> str:
    """Return where the piece of a unit lies."""
    return f"{object_path('pieces', name)}/{counter // PLACES_PER_PIECE:014x}"


def pieces_of(name: ShardName, row: ObjectRow) -> tuple[str, ...]:
    """Return where a finished shard's pieces lie."""
    return tuple(dict.fromkeys(piece_path(name, run.first_counter) for run in row.runs))


def name_of(path: str) -> ShardName:
    """Return the name in a path of the index or of what waits."""
    try:
        _, segment, column = path.rsplit("/", 2)
        return ShardName(SegmentId(bytes.fromhex(segment)), ColumnIndex(int(column)))
    except ValueError as error:
        raise StoreDamagedError(f"the bucket holds {path!r}, which no seat has put there") from error


def decoded(encoded: bytes, kind: type[RowT]) -> RowT:
    """Read a row or raise StoreDamagedError."""
    try:
        return decode(encoded, kind, bytes_max=ROW_BYTES_MAX)
    except RejectionError as error:
        raise StoreDamagedError(f"a {kind.__name__} of the bucket is damaged: {error}") from error


def shape_of(row: ObjectRow) -> SegmentShape:
    """Return the shape of a row's segment."""
    return SegmentShape(row.segment_bytes, row.k)


def leaves_of(row: ObjectRow) -> tuple[bytes, ...]:
    """Return a row's leaf hashes."""
    return tuple(row.leaves[start : start + HASH_BYTES] for start in range(0, len(row.leaves), HASH_BYTES))
