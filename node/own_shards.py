"""This seat's columns: the shard store seen with the ledger's eyes, for repair, completion and purge.

Every method blocks and is thread-safe as its store is: call it from a worker thread.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from consensus.identifiers import Buffer
from storage.segments import SegmentShape
from storage.stores.protocols import ShardName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consensus.identifiers import Height
    from node.repair_task import SegmentLedger
    from storage.identifiers import ColumnIndex, SegmentId
    from storage.state import SegmentState
    from storage.stores.protocols import ShardStore


DELETED_AT_ONCE: Final = 256
OPEN_SHARD_S: Final = 600.0
"""An upload that sends nothing for so long has ended; its sender would start again."""


class OwnColumns:
    """Implements OwnShards and PurgedShards over a ShardStore."""

    def __init__(self, store: ShardStore, ledger: SegmentLedger, columns: int) -> None:
        """Look at one seat's store; every segment has `columns` columns."""
        self._store = store
        self._ledger = ledger
        self._columns = columns
        self._lock = threading.Lock()
        self._damaged: set[ShardName] = set()

    def note_damaged(self, segment_id: SegmentId, column: ColumnIndex) -> None:
        """Learn that a leaf of a shard is not what was stored: it counts as missing until it is rebuilt."""
        with self._lock:
            self._damaged.add(ShardName(segment_id, column))

    def has_shard(self, segment_id: SegmentId, column: ColumnIndex) -> bool:
        """Say whether the committed shard is stored whole and nothing of it is known to be damaged."""
        name = ShardName(segment_id, column)
        with self._lock:
            if name in self._damaged:
                return False
        return self.is_committed(name)

    def replace_shard(self, segment_id: SegmentId, state: SegmentState, column: ColumnIndex, shard: Buffer) -> None:
        """Store a rebuilt shard durably in place of whatever is there; what was freed meanwhile goes again at once."""
        name = ShardName(segment_id, column)
        shape = SegmentShape(state.segment_bytes, state.k, self._columns)
        self._store.restore(name, state.tenant, shape, state.roots[column], shard)
        if self._ledger.segment(segment_id) is None:
            self._delete((name,))
        with self._lock:
            self._damaged.discard(name)

    def settle_segments(self, segment_ids: Sequence[SegmentId]) -> None:
        """Note that the chain has committed these segments: their shards count against no limit any more."""
        self._store.settle([name for name in self._names(segment_ids) if self.is_committed(name)])

    def delete_segments(self, segment_ids: Sequence[SegmentId]) -> None:
        """Delete all columns of these segments; absent ones are no error."""
        self._delete(self._names(segment_ids))

    def collect_expired(self, height: Height) -> None:
        """Settle or delete shards whose receipts have expired, by whether the chain has committed just them.

        Uploads that nobody continues go too.
        """
        expired = [shard.name for shard in self._store.uncommitted() if shard.expiry_height < height]
        live = {name for name in expired if self.is_committed(name)}
        if live:
            self._store.settle(sorted(live))
        dead = [name for name in expired if name not in live]
        for start in range(0, len(dead), DELETED_AT_ONCE):
            self._store.delete_expired(dead[start : start + DELETED_AT_ONCE], height)
        self._store.abandon_open(before_s=time.monotonic() - OPEN_SHARD_S)

    def is_committed(self, name: ShardName) -> bool:
        """Say whether what is stored under a name is what the chain has committed under it: anybody may upload."""
        state = self._ledger.segment(name.segment_id)
        stored = None if state is None else self._store.describe(name)
        return state is not None and stored is not None and stored.is_committed_as(state)

    def delete_dead(self, names: Sequence[ShardName]) -> int:
        """Delete those of the shards that the chain does not know and no receipt may still bring; return how many."""
        # The store first: what was finished, receipted and committed since waits here or is on chain there.
        waiting = {shard.name for shard in self._store.uncommitted()}
        dead = [name for name in names if name not in waiting and not self.is_committed(name)]
        self._delete(dead)
        return len(dead)

    def sweep_dead(self) -> None:
        """Delete the shards of segments that were freed while this process was down; at the start, once caught up."""
        waiting = {shard.name for shard in self._store.uncommitted()}
        dead: list[ShardName] = []
        committed: list[ShardName] = []
        for name in self._store.names():
            is_live = self.is_committed(name)
            if is_live and name in waiting:
                committed.append(name)
            elif not is_live and name not in waiting:
                dead.append(name)
        if committed:
            self._store.settle(committed)
        self.delete_dead(dead)

    def _names(self, segment_ids: Iterable[SegmentId]) -> list[ShardName]:
        return [
            ShardName(segment_id, column)
            for segment_id in segment_ids
            for column in sorted(self._store.columns_of(segment_id))
        ]

    def _delete(self, names: Sequence[ShardName]) -> None:
        for start in range(0, len(names), DELETED_AT_ONCE):
            part = names[start : start + DELETED_AT_ONCE]
            self._store.delete(part)
            with self._lock:
                self._damaged.difference_update(part)
