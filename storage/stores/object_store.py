"""Shards in an operator's own object store: for an operator that outgrows one machine.

Objects, below the prefix of one seat:

    owner                                 whose they are: refused to another seat or chain
    pieces/SEGMENT/COLUMN/PIECE           up to 1 MiB of a shard as it came; PIECE is 54 random bits, so that no write
                                          meets another
    index/SEGMENT/COLUMN                  ObjectRow: tenant, shape, root, leaf hashes, where its units lie in pieces
    waiting/SEGMENT/COLUMN                WaitingRow: finished, not yet seen committed
    held                                  HeldRow: bytes of all finished shards; after a crash off by a batch, until the
                                          next scrub counts them again

SEGMENT and PIECE are hex, COLUMN a digit. Order of writes: pieces, then index; a crash in between leaves pieces that
nothing names, found by drop_orphans(). Every leaf read is checked against its hash, the hashes against the root: the
cluster is believed no more than a disk. Open shards are in memory, as everywhere (open_shards.py).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.merkle import leaf_hash
from storage.errors import ShardCorruptError, ShardMissingError, WrongChainError
from storage.identifiers import LEAF_BYTES, UNIT_BYTES
from storage.merkle import root_of
from storage.segments import SegmentShape
from storage.stores.arrivals import Arrivals, Waiting, require_same
from storage.stores.object_rows import (
    PLACES_PER_PIECE,
    HeldRow,
    ObjectRow,
    WaitingRow,
    decoded,
    leaves_of,
    name_of,
    object_path,
    piece_path,
    pieces_of,
    shape_of,
)
from storage.stores.open_shards import LEAVES_PER_UNIT, OpenShard, Piece, cut_piece
from storage.stores.protocols import ShardName, StoredShard, UncommittedShard
from storage.stores.shard_rows import runs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from consensus.identifiers import Buffer, Height
    from storage.identifiers import ColumnIndex, SegmentId, ShardRoot, TenantId
    from storage.stores.object_bucket import ObjectBucket

PIECE_BITS: Final = 54
RESTORE_UNITS: Final = 16
CACHED_ROWS_MAX: Final = 1_024
UNCOMMITTED_BYTES_MAX: Final = 1 << 30
OWNER: Final = "owner"
HELD: Final = "held"


class ObjectShardStore:
    """The shards of one seat in a bucket; a ShardStore."""

    def __init__(
        self, bucket: ObjectBucket, owner: bytes, *, uncommitted_bytes_max: int = UNCOMMITTED_BYTES_MAX
    ) -> None:
        """Take a bucket for an owner (genesis hash and seat, say), and read what waits and how much is held.

        Raises:
            WrongChainError: It is another owner's.
            StoreUnavailableError: The cluster does not answer.
        """
        self._bucket = bucket
        if not bucket.create(OWNER, owner) and bucket.get(OWNER) != owner:
            raise WrongChainError("the bucket holds another seat's shards: give each seat a prefix of its own")
        self._arrivals = Arrivals(uncommitted_bytes_max)
        self._lock = threading.Lock()
        """Guards the busy pieces and the cached rows; never held while the cluster is waited for."""
        self._index_lock = threading.Lock()
        """Held by whoever changes the index or drops an open shard."""
        self._busy: set[str] = set()
        """Paths of pieces that are being written."""
        self._rows: OrderedDict[ShardName, ObjectRow] = OrderedDict()
        self._bytes_held = 0
        self._changes = 0
        """Of the index, since the start."""
        self._start()

    def put_units(self, name: ShardName, tenant: TenantId, shape: SegmentShape, offset: int, units: Buffer) -> None:
        """Write a piece of a shard durably; see ShardStore."""
        piece = cut_piece(shape, offset, units)
        stored = self._row(name)
        if stored is not None:
            require_same(stored.tenant, shape_of(stored), tenant, shape)
            return
        first = secrets.randbits(PIECE_BITS) * PLACES_PER_PIECE
        path = piece_path(name, first)
        with self._arrivals.lock:
            shard = self._arrivals.begin(name, tenant, shape)
            shard.check(piece)
        with self._lock:
            self._busy.add(path)
        try:
            self._bucket.put(path, b"".join(piece.units))
            with self._arrivals.lock:
                unneeded = self._place(name, shard, piece, first)
        except RejectionError:  # another piece came first while this one was written
            self._bucket.delete([path])
            raise
        finally:
            with self._lock:
                self._busy.discard(path)
        if len(unneeded) == len(piece.units):
            self._bucket.delete([path])

    def finish(self, names: Sequence[ShardName], expiry_height: Height) -> tuple[StoredShard | None, ...]:
        """Put complete shards into the index, durably; see ShardStore."""
        with self._index_lock:
            before = self._bytes_held
            found = {name: self._finish_one(name, expiry_height) for name in dict.fromkeys(names)}
            if self._bytes_held != before:
                self._write_held()
        return tuple(found[name] for name in names)

    def describe(self, name: ShardName) -> StoredShard | None:
        """Return a finished shard's entry; see ShardStore."""
        row = self._row(name)
        return None if row is None else _stored(name, row)

    def columns_of(self, segment_id: SegmentId) -> frozenset[ColumnIndex]:
        """Return the columns of a segment that are finished here."""
        listed = self._bucket.listing(f"index/{segment_id.hex()}/")
        return frozenset(name_of(found.path).column for found in listed)

    def read_leaves(self, name: ShardName, first_leaf: int, leaf_count: int) -> tuple[Buffer, ...]:
        """Return checked leaves; see ShardStore."""
        row = self._checked_row(name)
        shape = shape_of(row)
        if not 0 <= first_leaf < first_leaf + leaf_count <= shape.leaves:
            detail = f"leaves {first_leaf} to {first_leaf + leaf_count} of {shape.leaves}"
            raise RejectionError(RejectionReason.MALFORMED, detail)
        return tuple(self._read(name, row, first_leaf, first_leaf + leaf_count))

    def leaf_hashes(self, name: ShardName) -> tuple[bytes, ...]:
        """Return all leaf hashes; see ShardStore."""
        return leaves_of(self._checked_row(name))

    def restore(self, name: ShardName, tenant: TenantId, shape: SegmentShape, root: ShardRoot, shard: Buffer) -> None:
        """Write a rebuilt shard; see ShardStore."""
        whole = cut_piece(shape, 0, shard)
        if len(whole.leaves) != shape.leaves or root_of(whole.leaves) != root:
            raise ShardCorruptError(f"{memoryview(shard).nbytes} bytes are not the shard under {root.hex()[:16]}")
        firsts = [secrets.randbits(PIECE_BITS) * PLACES_PER_PIECE for _ in range(0, len(whole.units), RESTORE_UNITS)]
        paths = [piece_path(name, first) for first in firsts]
        with self._lock:
            self._busy.update(paths)
        try:
            counters: list[int] = []
            for number, (first, path) in enumerate(zip(firsts, paths, strict=True)):
                units = whole.units[number * RESTORE_UNITS : (number + 1) * RESTORE_UNITS]
                self._bucket.put(path, b"".join(units))
                counters.extend(range(first, first + len(units)))
            row = ObjectRow(
                tenant=tenant,
                k=shape.k,
                segment_bytes=shape.segment_bytes,
                root=root,
                runs=runs_of(counters),
                leaves=b"".join(whole.leaves),
            )
            with self._index_lock:
                self._drop_open(name)
                replaced = self._finished_rows((name,))
                self._put_row(name, row)  # over the old one: who looks meanwhile finds one or the other
                self._clear_away(replaced)
                self._write_held()
        finally:
            with self._lock:
                self._busy.difference_update(paths)

    def settle(self, names: Sequence[ShardName]) -> None:
        """Note that the chain has committed these shards; see ShardStore."""
        with self._index_lock:
            known = self._arrivals.waiting(names)
            self._bucket.delete([object_path("waiting", name) for name in known])
            for name in known:
                self._arrivals.forget_waiting(name)

    def uncommitted(self) -> tuple[UncommittedShard, ...]:
        """Return the finished shards that were not settled."""
        return self._arrivals.uncommitted()

    def abandon_open(self, *, before_s: float) -> int:
        """Forget unfinished shards that nobody continues; see ShardStore."""
        with self._index_lock:
            stale = self._arrivals.untouched_since(before_s)
            for name in stale:
                self._drop_open(name)
        return len(stale)

    def delete(self, names: Sequence[ShardName]) -> None:
        """Forget shards; see ShardStore."""
        with self._index_lock:
            for name in names:
                self._drop_open(name)
            self._delete_finished(names)

    def delete_expired(self, names: Sequence[ShardName], height: Height) -> None:
        """Forget uncommitted shards that have expired; see ShardStore."""
        with self._index_lock:
            self._delete_finished(self._arrivals.expired(names, height))

    def names(self, *, after: ShardName | None = None) -> Iterator[ShardName]:
        """Yield finished shards, in order, behind `after`."""
        for found in self._bucket.listing("index/", "" if after is None else object_path("index", after)):
            yield name_of(found.path)

    def verify(self, name: ShardName) -> None:
        """Reread all of a shard; see ShardStore."""
        self._forget_row(name)
        row = self._checked_row(name)
        for _ in self._read(name, row, 0, shape_of(row).leaves):
            pass

    def drop_orphans(self) -> int:
        """Delete pieces that nothing refers to; see ShardStore."""
        changes = self._changes
        with self._arrivals.lock, self._lock:
            used = set(self._busy)
            for name, shard in self._arrivals.every_open():
                used.update(piece_path(name, counter) for counter in shard.known_counters())
        listed = [found.path for found in self._bucket.listing("pieces/")]
        bytes_held = 0
        for name in self.names():
            row = self._row(name)
            if row is not None:
                used.update(pieces_of(name, row))
                bytes_held += shape_of(row).shard_bytes
        orphans = [path for path in listed if path not in used]
        self._bucket.delete(orphans)
        with self._index_lock:
            if self._changes == changes:
                self._bytes_held = bytes_held
                self._write_held()
        return len(orphans)

    def bytes_held(self) -> int:
        """Return the bytes of all finished shards."""
        return self._bytes_held

    def uncommitted_bytes(self, tenant: TenantId) -> int:
        """Return what counts against a tenant's limit."""
        return self._arrivals.bytes_of(tenant)

    def compact(self) -> None:
        """Nothing to do: what is deleted is the cluster's to clear."""

    def close(self) -> None:
        """Nothing to do: every call ended what it began."""

    def _start(self) -> None:
        held = self._bucket.get(HELD)
        self._bytes_held = 0 if held is None else decoded(held, HeldRow).bytes_held
        for found in self._bucket.listing("waiting/"):
            name, encoded = name_of(found.path), self._bucket.get(found.path)
            if encoded is None or self._row(name) is None:
                self._bucket.delete([found.path])  # a crash came before its index
                continue
            waiting = decoded(encoded, WaitingRow)
            shape = SegmentShape(waiting.segment_bytes, waiting.k)
            self._arrivals.load(name, Waiting(waiting.tenant, shape, waiting.expiry_height))

    def _finish_one(self, name: ShardName, expiry_height: Height) -> StoredShard | None:
        """Return one shard if all of it is here. The caller holds the index lock."""
        row = self._row(name)
        is_fresh = row is None
        if row is None and (row := self._complete_row(name)) is None:
            return None
        if is_fresh or self._arrivals.expired((name,), expiry_height):
            # The waiting row first: a shard without one is never swept away as expired.
            row_bytes = encode(
                WaitingRow(tenant=row.tenant, k=row.k, segment_bytes=row.segment_bytes, expiry_height=expiry_height)
            )
            self._bucket.put(object_path("waiting", name), row_bytes)
            if is_fresh:
                self._put_row(name, row)
            self._arrivals.wait(name, Waiting(row.tenant, shape_of(row), expiry_height))
        return _stored(name, row)

    def _complete_row(self, name: ShardName) -> ObjectRow | None:
        with self._arrivals.lock:
            shard = self._arrivals.find_complete(name)
            if shard is None:
                return None
            leaves = shard.complete_leaves()
            return ObjectRow(
                tenant=shard.tenant,
                k=shard.shape.k,
                segment_bytes=shard.shape.segment_bytes,
                root=root_of(leaves),
                runs=runs_of(counter for counter in shard.counters if counter is not None),
                leaves=b"".join(leaves),
            )

    def _put_row(self, name: ShardName, row: ObjectRow) -> None:
        self._bucket.put(object_path("index", name), encode(row))
        self._remember(name, row)
        self._bytes_held += shape_of(row).shard_bytes
        self._changes += 1

    def _write_held(self) -> None:
        self._bucket.put(HELD, encode(HeldRow(bytes_held=max(self._bytes_held, 0))))

    def _delete_finished(self, names: Iterable[ShardName]) -> None:
        """Delete finished shards: the index first. The caller holds the index lock."""
        rows = self._finished_rows(names)
        if rows:
            self._bucket.delete([object_path("index", name) for name in rows])
            for name in rows:
                self._forget_row(name)
            self._clear_away(rows)
            self._write_held()

    def _finished_rows(self, names: Iterable[ShardName]) -> dict[ShardName, ObjectRow]:
        return {name: row for name in names if (row := self._row(name)) is not None}

    def _clear_away(self, rows: Mapping[ShardName, ObjectRow]) -> None:
        """Delete what rows led to that are no longer in the index."""
        for name, row in rows.items():
            self._arrivals.forget_waiting(name)
            self._bytes_held -= shape_of(row).shard_bytes
            self._changes += 1
        self._bucket.delete([object_path("waiting", name) for name in rows])
        self._bucket.delete([path for name, row in rows.items() for path in pieces_of(name, row)])

    def _row(self, name: ShardName) -> ObjectRow | None:
        with self._lock:
            cached = self._rows.get(name)
            if cached is not None:
                self._rows.move_to_end(name)
                return cached
        encoded = self._bucket.get(object_path("index", name))
        if encoded is None:
            return None
        row = decoded(encoded, ObjectRow)
        self._remember(name, row)
        return row

    def _checked_row(self, name: ShardName) -> ObjectRow:
        row = self._row(name)
        if row is None:
            raise ShardMissingError(f"column {name.column} of {name.segment_id.hex()[:16]} is not here")
        leaves = leaves_of(row)
        if len(leaves) != shape_of(row).leaves or root_of(leaves) != row.root:
            raise self._corrupt(name, row, "leaf hashes")
        return row

    def _read(self, name: ShardName, row: ObjectRow, first: int, stop: int) -> Iterator[Buffer]:
        """Yield leaves `first` to `stop`, a buffer a run of units, each leaf checked."""
        shape, leaves, unit = shape_of(row), leaves_of(row), 0
        for run in row.runs:
            wanted = range(max(first, unit * LEAVES_PER_UNIT), min(stop, (unit + run.count) * LEAVES_PER_UNIT))
            if wanted:
                place = run.first_counter % PLACES_PER_PIECE * UNIT_BYTES
                start = place + (wanted.start - unit * LEAVES_PER_UNIT) * LEAF_BYTES
                end = min(wanted.stop * LEAF_BYTES, shape.shard_bytes)
                byte_count = end - wanted.start * LEAF_BYTES
                path = piece_path(name, run.first_counter)
                contents = self._bucket.get_range(path, start, byte_count)
                if contents is None or len(contents) != byte_count:
                    raise self._corrupt(name, row, f"piece {path}")
                view = memoryview(contents)
                for position, leaf in enumerate(wanted):
                    if leaf_hash(view[position * LEAF_BYTES : (position + 1) * LEAF_BYTES]) != leaves[leaf]:
                        raise self._corrupt(name, row, f"leaf {leaf}")
                yield view
            unit += run.count

    def _corrupt(self, name: ShardName, row: ObjectRow, what: str) -> ShardCorruptError | ShardMissingError:
        """Return why a read failed: the cluster, or somebody deleted or replaced the shard meanwhile."""
        self._forget_row(name)
        if self._row(name) != row:
            return ShardMissingError(f"column {name.column} of {name.segment_id.hex()[:16]} was just deleted")
        return ShardCorruptError(f"{what} of column {name.column} of {name.segment_id.hex()[:16]} is damaged")

    def _place(self, name: ShardName, shard: OpenShard, piece: Piece, first: int) -> Sequence[int]:
        """Note a durable piece; return its units that are not needed after all. The caller holds the lock."""
        if self._arrivals.find(name) is not shard:  # finished by the same pieces meanwhile, or deleted
            return range(first, first + len(piece.units))
        shard.touched_s = time.monotonic()
        return shard.place(piece, first)

    def _drop_open(self, name: ShardName) -> None:
        """Forget an unfinished shard and its pieces. The caller holds the index lock."""
        shard = self._arrivals.drop_open(name)
        if shard is not None:
            self._bucket.delete(sorted({piece_path(name, counter) for counter in shard.known_counters()}))

    def _remember(self, name: ShardName, row: ObjectRow) -> None:
        with self._lock:
            self._rows[name] = row
            if len(self._rows) > CACHED_ROWS_MAX:
                self._rows.popitem(last=False)

    def _forget_row(self, name: ShardName) -> None:
        with self._lock:
            self._rows.pop(name, None)


def _stored(name: ShardName, row: ObjectRow) -> StoredShard:
    return StoredShard(name=name, tenant=row.tenant, shape=shape_of(row), root=row.root)
