"""What the chain asks of a store of rows, and holders of a store of shards; on LevelDB, or in memory in tests.

Life of a shard: pieces arrive (put_units), each durable when the call returns; when all are there, finish() gives the
shard a place in the index and its root, durable before a receipt is signed; it stays *uncommitted* and counts against
its tenant's limit until settle() says that the chain has it; delete() forgets it; restore() writes a rebuilt shard.

Every method blocks and is thread-safe: call it from a worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from consensus.identifiers import Buffer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from consensus.identifiers import Height
    from storage.identifiers import ColumnIndex, SegmentId, ShardRoot, TenantId
    from storage.segments import SegmentShape
    from storage.state import SegmentState
    from storage.stores.leveldb import WriteBatch


@dataclass(frozen=True, slots=True, order=True)
class ShardName:
    """One column of one segment."""

    segment_id: SegmentId
    column: ColumnIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShard:
    """A finished shard as the index has it."""

    name: ShardName
    tenant: TenantId
    shape: SegmentShape
    root: ShardRoot

    def is_committed_as(self, state: SegmentState) -> bool:
        """Say whether this is, byte for byte, the column that the chain has committed under its segment's id."""
        here = (self.tenant, self.shape.k, self.shape.segment_bytes, self.root)
        roots = state.roots[self.name.column : self.name.column + 1]
        return any(here == (state.tenant, state.k, state.segment_bytes, root) for root in roots)


@dataclass(frozen=True, slots=True, kw_only=True)
class UncommittedShard:
    """A finished shard that the chain has not been seen to commit; a receipt may be out until the expiry height."""

    name: ShardName
    tenant: TenantId
    expiry_height: Height


class StateView(Protocol):
    """Rows of one moment (leveldb.LevelSnapshot)."""

    def scan(self, prefix: bytes, *, start: bytes | None = None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Return up to rows_max rows with the prefix, in order, from `start` (inclusive)."""
        ...


class RowStore(Protocol):
    """Ordered rows of bytes, as leveldb.py's LevelDatabase keeps them for the chain and its records."""

    @property
    def directory(self) -> Path:
        """Where it lies, for messages."""
        ...

    def get(self, store_key: bytes) -> bytes | None:
        """Return a row's value; raises StoreUnavailableError."""
        ...

    def scan(self, prefix: bytes, *, start: bytes | None = None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Return up to rows_max rows whose store key has the prefix, in order, from `start` (inclusive)."""
        ...

    def iterate(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield every row with the prefix, in order."""
        ...

    def write(self, batch: WriteBatch) -> None:
        """Apply a batch atomically and durably; raises StoreUnavailableError, and then the outcome is unknown."""
        ...

    def snapshot(self) -> AbstractContextManager[StateView]:
        """Give a view that later writes do not change."""
        ...

    def purge(self, first: bytes, last: bytes) -> None:
        """Take the bytes of deleted rows between two store keys off the disk."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class ShardStore(Protocol):
    """Shards of one holder."""

    def put_units(self, name: ShardName, tenant: TenantId, shape: SegmentShape, offset: int, units: Buffer) -> None:
        """Write a piece of a shard durably; the same piece twice is the same as once.

        Args:
            name: Which shard; its first piece fixes tenant and shape.
            tenant: Whose it is.
            shape: Of the segment.
            offset: In the shard, a multiple of UNIT_BYTES.
            units: Whole units, or up to the shard's end.

        Raises:
            RejectionError: MALFORMED for a piece that does not fit; NOT_GRANTED when the shard is another tenant's;
                QUEUE_FULL beyond the tenant's limit of uncommitted bytes.
            StoreFullError: The disk is nearly full.
            StoreUnavailableError: The disk refused.
        """
        ...

    def finish(self, names: Sequence[ShardName], expiry_height: Height) -> tuple[StoredShard | None, ...]:
        """Return, per name, the shard if all of it is here; durable in the index, and kept to the expiry height."""
        ...

    def describe(self, name: ShardName) -> StoredShard | None:
        """Return a finished shard's entry."""
        ...

    def columns_of(self, segment_id: SegmentId) -> frozenset[ColumnIndex]:
        """Return the columns of a segment that are finished here."""
        ...

    def read_leaves(self, name: ShardName, first_leaf: int, leaf_count: int) -> tuple[Buffer, ...]:
        """Return leaves as consecutive buffers, each leaf checked against its hash and those against the root.

        Raises:
            ShardMissingError: Not finished here.
            ShardCorruptError: What is on the disk is not what was stored.
            RejectionError: MALFORMED for leaves that the shard does not have.
        """
        ...

    def leaf_hashes(self, name: ShardName) -> tuple[bytes, ...]:
        """Return the hashes of all leaves, checked against the root; raises as read_leaves()."""
        ...

    def restore(self, name: ShardName, tenant: TenantId, shape: SegmentShape, root: ShardRoot, shard: Buffer) -> None:
        """Write a rebuilt shard of a committed segment, replacing what is there; durable when it returns.

        Raises:
            ShardCorruptError: The bytes are not under this root.
            StoreUnavailableError: The disk refused.
        """
        ...

    def settle(self, names: Sequence[ShardName]) -> None:
        """Note that the chain has committed these shards; names not stored here are passed over."""
        ...

    def uncommitted(self) -> tuple[UncommittedShard, ...]:
        """Return the finished shards that were not settled."""
        ...

    def abandon_open(self, *, before_s: float) -> int:
        """Forget unfinished shards whose last piece came before this time (time.monotonic); return how many."""
        ...

    def delete(self, names: Sequence[ShardName]) -> None:
        """Forget shards, finished or not; names not stored here are passed over."""
        ...

    def delete_expired(self, names: Sequence[ShardName], height: Height) -> None:
        """Forget those of these shards that are uncommitted and expire below a height now; a receipt may prolong."""
        ...

    def names(self, *, after: ShardName | None = None) -> Iterator[ShardName]:
        """Yield finished shards, in order, behind `after`."""
        ...

    def verify(self, name: ShardName) -> None:
        """Reread a finished shard from the disk and check every byte of it; raises as read_leaves()."""
        ...

    def drop_orphans(self) -> int:
        """Delete stored bytes that no shard refers to, such as a refused write may leave; return how many rows."""
        ...

    def bytes_held(self) -> int:
        """Return the bytes of all finished shards."""
        ...

    def uncommitted_bytes(self, tenant: TenantId) -> int:
        """Return what counts against a tenant's limit."""
        ...

    def compact(self) -> None:
        """Give the space of deleted shards back to the disk."""
        ...

    def close(self) -> None:
        """Release the directory."""
        ...
