"""Shards on LevelDB: units in one database under a growing counter, their index in another.

Random keys beside units cost 1.7 times the CPU, measured, so the database of units knows nothing but its counter:

    units:  counter (8, big-endian)          -> a unit, 64 bytes to 64 KiB, or a shard's leaf row (leaf_rows.py)
    index:  `s` segment id (32) column (1)   -> ShardRow: tenant, shape, root, where its units and leaf hashes lie
            `u` segment id (32) column (1)   -> PendingRow: not yet seen committed; kept to its expiry height
            `r` counter (8)                  -> count (4): counters in use by shards finished since the last start
            `d` counter (8)                  -> GarbageRow: counters of a deleted shard, until they are deleted too;
                                                named by the counter of its leaf hashes
            `t`                              -> TotalsRow: bytes held, and the counter at the last start

Order of writes: units, flushed, by group commit; then the index, flushed. A crash in between leaves units that nothing
refers to: at start, counters since the last start that no `r` row covers are deleted. A damaged unit is never returned:
its leaf hashes are checked on every read, and the leaf hashes against the root.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from consensus.encoding import encode
from consensus.errors import RejectionError
from consensus.identifiers import Buffer
from storage.errors import ShardCorruptError, StorageError, StoreDamagedError
from storage.identifiers import COLUMNS_MAX, ColumnIndex, SegmentId, ShardRoot, TenantId
from storage.merkle import root_of
from storage.stores.arrivals import Arrivals, Waiting, require_same
from storage.stores.counters import CounterBook, orphans
from storage.stores.dropped_units import DroppedUnits
from storage.stores.group_commit import GroupCommit
from storage.stores.leaf_rows import encode_leaf_row
from storage.stores.leveldb import DamageRule, Durability, LevelDatabase, LevelOptions, WriteBatch, WritePurpose
from storage.stores.open_shards import Piece, cut_piece
from storage.stores.protocols import ShardName, StoredShard, UncommittedShard
from storage.stores.shard_reader import ShardReader
from storage.stores.shard_rows import (
    GARBAGE_ROWS,
    PENDING_ROWS,
    SHARD_ROWS,
    TOTALS_KEY,
    USED_ROWS,
    GarbageRow,
    PendingRow,
    ShardRow,
    TotalsRow,
    UnitRun,
    all_runs,
    counter_key,
    counters_of,
    put_shard_row,
    read_row,
    runs_of,
    shape_of,
    shard_key,
    shard_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from consensus.identifiers import Height
    from storage.segments import SegmentShape
    from storage.stores.open_shards import OpenShard

UNCOMMITTED_BYTES_MAX: Final = 1 << 30
"""Per tenant; the genesis may say otherwise."""
RESTORE_UNITS: Final = 16
"""Written at once when a rebuilt shard is put back: 1 MiB."""
ORPHANS_AT_ONCE: Final = 4_096
SWEPT_COUNTERS_MAX: Final = 10_000_000
"""Units a start looks for after a crash: 600 GiB; more means a damaged counter, and is left to the disk."""


class LevelShardStore:
    """The shards of one holder; a ShardStore."""

    def __init__(
        self,
        directory: Path,
        *,
        options: LevelOptions | None = None,
        uncommitted_bytes_max: int = UNCOMMITTED_BYTES_MAX,
    ) -> None:
        """Open both databases, creating them if absent, and delete what a crash left over.

        Raises:
            StoreUnavailableError: In use, damaged, or the disk refuses.
        """
        tuning = options or LevelOptions()
        # A flipped bit in a unit must neither stop compaction nor the start: units carry their own hashes.
        self._units = LevelDatabase(directory / "units", replace(tuning, damage_rule=DamageRule.KEEP_GOING))
        self._index = LevelDatabase(directory / "index", tuning)
        self._commit = GroupCommit(self._units)
        self._arrivals = Arrivals(uncommitted_bytes_max)
        self._reader = ShardReader(self._units, self._index)
        self._dropped = DroppedUnits(self._units)
        self._garbage_lock = threading.Lock()
        self._garbage: list[bytes] = []
        """Rows of deleted shards whose units are deleted, and whose bytes compact() takes off the disk."""
        self._index_lock = threading.Lock()
        """Held by whoever changes the index or drops an open shard: what finish() puts there is still whole then."""
        self._totals = TotalsRow(bytes_held=0, swept_counter=0)
        self._counters = CounterBook()
        self._start()

    def put_units(self, name: ShardName, tenant: TenantId, shape: SegmentShape, offset: int, units: Buffer) -> None:
        """Write a piece of a shard durably; see ShardStore."""
        piece = cut_piece(shape, offset, units)
        stored = self._reader.row(name)
        if stored is not None:
            require_same(stored.tenant, shape_of(stored), tenant, shape)
            return  # a finished shard never changes: what came again is what came before, or is not asked for
        with self._arrivals.lock:
            shard = self._arrivals.begin(name, tenant, shape)
            shard.check(piece)
            leaf_row = shard.leaf_row_with(piece)
            first_counter = self._counters.reserve(len(piece.units) + 1)
        batch = _piece_batch(piece, first_counter)
        leaves_counter = first_counter + len(piece.units)
        if leaf_row is not None:
            batch.put(counter_key(leaves_counter), leaf_row)
        try:
            self._commit.write(batch)
            with self._arrivals.lock:
                unneeded = self._place(name, shard, piece, first_counter, leaves_counter if leaf_row else None)
        except RejectionError:  # another piece came first while this one was written
            self._dropped.drop(range(first_counter, leaves_counter + 1))
            raise
        finally:
            self._counters.release(first_counter)
        self._dropped.drop(unneeded)

    def finish(self, names: Sequence[ShardName], expiry_height: Height) -> tuple[StoredShard | None, ...]:
        """Put complete shards into the index, durably; see ShardStore."""
        with self._index_lock:
            self._write_missing_leaves(names)
            batch = WriteBatch()
            fresh: dict[ShardName, ShardRow] = {}
            rows: dict[ShardName, ShardRow] = {}
            for name in dict.fromkeys(names):
                row = self._reader.row(name)
                if row is None and (row := self._complete_row(name)) is not None:
                    fresh[name] = row
                    put_shard_row(batch, name, row)
                if row is not None:
                    rows[name] = row
            kept = self._prolonged(rows, fresh, expiry_height)
            for name, waiting in kept.items():
                row_bytes = encode(PendingRow(tenant=waiting.tenant, expiry_height=waiting.expiry_height))
                batch.put(shard_key(PENDING_ROWS, name), row_bytes)
            if batch.operations:
                self._write_index(batch, added_bytes=sum(shape_of(row).shard_bytes for row in fresh.values()))
            for name, waiting in kept.items():
                self._arrivals.wait(name, waiting)
        return tuple(_stored(name, rows[name]) if name in rows else None for name in names)

    def describe(self, name: ShardName) -> StoredShard | None:
        """Return a finished shard's entry; see ShardStore."""
        row = self._reader.row(name)
        return None if row is None else _stored(name, row)

    def columns_of(self, segment_id: SegmentId) -> frozenset[ColumnIndex]:
        """Return the columns of a segment that are finished here."""
        rows = self._index.scan(SHARD_ROWS + segment_id, rows_max=COLUMNS_MAX)
        return frozenset(shard_name(store_key).column for store_key, _ in rows)

    def read_leaves(self, name: ShardName, first_leaf: int, leaf_count: int) -> tuple[Buffer, ...]:
        """Return checked leaves; see ShardStore."""
        return self._reader.read_leaves(name, first_leaf, leaf_count)

    def leaf_hashes(self, name: ShardName) -> tuple[bytes, ...]:
        """Return all leaf hashes; see ShardStore."""
        return self._reader.find(name).leaves

    def restore(self, name: ShardName, tenant: TenantId, shape: SegmentShape, root: ShardRoot, shard: Buffer) -> None:
        """Write a rebuilt shard; see ShardStore."""
        whole = cut_piece(shape, 0, shard)
        if len(whole.leaves) != shape.leaves or root_of(whole.leaves) != root:
            raise ShardCorruptError(f"{memoryview(shard).nbytes} bytes are not the shard under {root.hex()[:16]}")
        first_counter = self._counters.reserve(len(whole.units) + 1)
        try:
            self._restore(name, tenant, shape, whole, first_counter)
        finally:
            self._counters.release(first_counter)

    def _restore(
        self, name: ShardName, tenant: TenantId, shape: SegmentShape, whole: Piece, first_counter: int
    ) -> None:
        """Write a rebuilt shard under counters of its own, then put it into the index."""
        count = len(whole.units)
        for start in range(0, count, RESTORE_UNITS):
            units = whole.units[start : start + RESTORE_UNITS]
            self._commit.write(_piece_batch(Piece(start, units, (), ()), first_counter + start))
        leaves = WriteBatch()
        leaves.put(counter_key(first_counter + count), encode_leaf_row(whole.leaves, whole.checksums))
        self._commit.write(leaves)
        row = ShardRow(
            tenant=tenant,
            k=shape.k,
            segment_bytes=shape.segment_bytes,
            root=root_of(whole.leaves),
            runs=(UnitRun(first_counter=first_counter, count=count),),
            leaves_counter=first_counter + count,
        )
        with self._index_lock:
            self._drop_open(name)
            replaced = self._finished_rows((name,))
            batch = WriteBatch()
            _retire(batch, replaced)
            put_shard_row(batch, name, row)  # in the same batch: who looks meanwhile finds one or the other
            self._write_index(batch, added_bytes=shape.shard_bytes - _bytes_of(replaced))
            self._forget(replaced)

    def settle(self, names: Sequence[ShardName]) -> None:
        """Note that the chain has committed these shards; see ShardStore."""
        with self._index_lock:
            known = self._arrivals.waiting(names)
            batch = WriteBatch()
            for name in known:
                batch.delete(shard_key(PENDING_ROWS, name))
            if known:
                self._write_index(batch, added_bytes=0, purpose=WritePurpose.CONSENSUS)
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
        with self._index_lock:  # finish() holds it too: what it prolongs is seen here, or is gone when it looks
            self._delete_finished(self._arrivals.expired(names, height))

    def names(self, *, after: ShardName | None = None) -> Iterator[ShardName]:
        """Yield finished shards, in order, behind `after`."""
        start = None if after is None else shard_key(SHARD_ROWS, after) + b"\0"
        for store_key, _ in self._index.iterate(SHARD_ROWS, start=start):
            yield shard_name(store_key)

    def verify(self, name: ShardName) -> None:
        """Reread all of a shard; see ShardStore."""
        self._reader.verify(name)

    def drop_orphans(self) -> int:
        """Delete rows that nothing refers to; see ShardStore."""
        with self._arrivals.lock:
            view = self._counters.view()
            arriving = [shard.known_counters() for _, shard in self._arrivals.every_open()]
        dropped = 0
        found = orphans(self._units, self._index, view, tuple(chain.from_iterable(arriving)))
        while batch := list(islice(found, ORPHANS_AT_ONCE)):
            self._dropped.drop(batch)
            dropped += len(batch)
        return dropped

    def bytes_held(self) -> int:
        """Return the bytes of all finished shards."""
        return self._totals.bytes_held

    def uncommitted_bytes(self, tenant: TenantId) -> int:
        """Return what counts against a tenant's limit."""
        return self._arrivals.bytes_of(tenant)

    def compact(self) -> None:
        """Give the space of deleted shards back to the disk; takes as long as rewriting the live units near them."""
        with self._garbage_lock:
            garbage, self._garbage = self._garbage, []
        try:
            self._dropped.compact()
        except StorageError:
            with self._garbage_lock:
                self._garbage += garbage
            raise
        if garbage:
            batch = WriteBatch()
            for row_key in garbage:
                batch.delete(row_key)
            self._index.write(batch, durability=Durability.BUFFERED)

    def close(self) -> None:
        """Release the directory."""
        self._units.close()
        self._index.close()

    def _delete_finished(self, names: Sequence[ShardName]) -> None:
        """Delete finished shards. The caller holds the index lock."""
        rows = self._finished_rows(names)
        if rows:
            batch = WriteBatch()
            _retire(batch, rows)
            self._write_index(batch, added_bytes=-_bytes_of(rows), purpose=WritePurpose.CONSENSUS)
            self._forget(rows)

    def _finished_rows(self, names: Sequence[ShardName]) -> dict[ShardName, ShardRow]:
        return {name: row for name in names if (row := self._reader.row(name)) is not None}

    def _forget(self, rows: Mapping[ShardName, ShardRow]) -> None:
        """Drop what memory knows of retired rows, and delete their units."""
        for name in rows:
            self._arrivals.forget_waiting(name)
            self._reader.forget(name)
        self._delete_garbage([all_runs(row) for row in rows.values()])

    def _start(self) -> None:
        """Delete what a crash left over, and learn what is uncommitted."""
        totals = self._index.get(TOTALS_KEY)
        if totals is not None:
            self._totals = read_row(totals, TotalsRow)
        garbage = [read_row(encoded, GarbageRow).runs for _, encoded in self._index.iterate(GARBAGE_ROWS)]
        self._delete_garbage(garbage)
        last_key = self._units.last_store_key()
        used = [
            (int.from_bytes(store_key[1:], "big"), int.from_bytes(count, "big"))
            for store_key, count in self._index.iterate(USED_ROWS)
        ]
        ends = [first + count for first, count in used]
        after_last = 0 if last_key is None else int.from_bytes(last_key, "big") + 1
        self._counters.start_at(max(self._totals.swept_counter, after_last, *ends, 0))
        self._sweep(used)
        for store_key, encoded in self._index.iterate(PENDING_ROWS):
            self._load_pending(shard_name(store_key), read_row(encoded, PendingRow))

    def _sweep(self, used: Sequence[tuple[int, int]]) -> None:
        """Delete the units, written since the last start, of shards that were never finished."""
        orphans: list[int] = []
        position = self._totals.swept_counter
        for first, count in (*sorted(used), (self._counters.end, 0)):
            if first - position > SWEPT_COUNTERS_MAX:
                break
            orphans.extend(range(position, first))
            position = max(position, first + count)
        self._dropped.drop(orphans)
        batch = WriteBatch()
        for first, _ in used:
            batch.delete(USED_ROWS + counter_key(first))
        self._totals = TotalsRow(bytes_held=self._totals.bytes_held, swept_counter=self._counters.end)
        self._write_index(batch, added_bytes=0, purpose=WritePurpose.CONSENSUS)

    def _load_pending(self, name: ShardName, pending: PendingRow) -> None:
        row = self._reader.row(name)
        if row is None:
            raise StoreDamagedError(f"uncommitted shard {name.segment_id.hex()[:16]}/{name.column} has no row")
        self._arrivals.load(name, Waiting(row.tenant, shape_of(row), pending.expiry_height))

    def _place(
        self, name: ShardName, shard: OpenShard, piece: Piece, first_counter: int, leaves_counter: int | None
    ) -> list[int]:
        """Note a durable piece; return the counters that are not needed after all. The caller holds the lock."""
        if self._arrivals.find(name) is not shard:  # finished by the same pieces meanwhile, or deleted
            return list(range(first_counter, first_counter + len(piece.units) + 1))
        shard.touched_s = time.monotonic()
        unneeded = list(shard.place(piece, first_counter))
        if leaves_counter is not None and shard.leaves_counter is None:
            shard.leaves_counter = leaves_counter
        elif leaves_counter is not None:
            unneeded.append(leaves_counter)
        return unneeded

    def _write_missing_leaves(self, names: Iterable[ShardName]) -> None:
        """Write the leaf hashes of complete shards whose last pieces crossed each other."""
        batch = WriteBatch()
        placed: list[tuple[OpenShard, int]] = []
        with self._arrivals.lock:
            for name in dict.fromkeys(names):
                shard = self._arrivals.find_complete(name)
                if shard is not None and shard.leaves_counter is None:
                    counter = self._counters.reserve(1)
                    batch.put(counter_key(counter), shard.complete_leaf_row())
                    placed.append((shard, counter))
        if placed:
            self._commit.write(batch)
        for shard, counter in placed:
            shard.leaves_counter = counter
            self._counters.release(counter)

    def _complete_row(self, name: ShardName) -> ShardRow | None:
        with self._arrivals.lock:
            shard = self._arrivals.find_complete(name)
            if shard is None or shard.leaves_counter is None:
                return None
            return ShardRow(
                tenant=shard.tenant,
                k=shard.shape.k,
                segment_bytes=shard.shape.segment_bytes,
                root=root_of(shard.complete_leaves()),
                runs=runs_of(counter for counter in shard.counters if counter is not None),
                leaves_counter=shard.leaves_counter,
            )

    def _prolonged(
        self, rows: dict[ShardName, ShardRow], fresh: dict[ShardName, ShardRow], expiry_height: Height
    ) -> dict[ShardName, Waiting]:
        """Return the uncommitted shards whose expiry height is new or rises."""
        shorter = self._arrivals.expired(rows, expiry_height)
        return {name: Waiting(rows[name].tenant, shape_of(rows[name]), expiry_height) for name in (*fresh, *shorter)}

    def _write_index(self, batch: WriteBatch, *, added_bytes: int, purpose: WritePurpose = WritePurpose.TENANT) -> None:
        """Write a change of the index with the totals after it. The caller holds the index lock, or is the start."""
        totals = TotalsRow(bytes_held=self._totals.bytes_held + added_bytes, swept_counter=self._totals.swept_counter)
        batch.put(TOTALS_KEY, encode(totals))
        self._index.write(batch, purpose=purpose)
        self._totals = totals

    def _drop_open(self, name: ShardName) -> None:
        """Forget an unfinished shard and its units. The caller holds the index lock."""
        shard = self._arrivals.drop_open(name)
        if shard is not None:
            self._dropped.drop(shard.known_counters())

    def _delete_garbage(self, garbage: Sequence[Sequence[UnitRun]]) -> None:
        """Delete the units of deleted shards; the rows that remember to go once the bytes have left the disk."""
        if not garbage:
            return
        self._dropped.drop([counter for runs in garbage for counter in counters_of(runs)], Durability.FLUSHED)
        with self._garbage_lock:
            self._garbage += [GARBAGE_ROWS + counter_key(runs[-1].first_counter) for runs in garbage]


def _piece_batch(piece: Piece, first_counter: int) -> WriteBatch:
    batch = WriteBatch()
    for position, unit in enumerate(piece.units):
        batch.put(counter_key(first_counter + position), unit)
    return batch


def _retire(batch: WriteBatch, rows: Mapping[ShardName, ShardRow]) -> None:
    """Take finished shards out of the index, and remember to delete their units."""
    for name, row in rows.items():
        batch.delete(shard_key(SHARD_ROWS, name))
        batch.delete(shard_key(PENDING_ROWS, name))
        batch.put(GARBAGE_ROWS + counter_key(row.leaves_counter), encode(GarbageRow(runs=all_runs(row))))


def _bytes_of(rows: Mapping[ShardName, ShardRow]) -> int:
    return sum(shape_of(row).shard_bytes for row in rows.values())


def _stored(name: ShardName, row: ShardRow) -> StoredShard:
    return StoredShard(name=name, tenant=row.tenant, shape=shape_of(row), root=row.root)
