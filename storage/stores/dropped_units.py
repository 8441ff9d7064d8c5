"""Deleted rows of a store of units, until their bytes have left the disk."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from storage.stores.leveldb import Durability, WriteBatch
from storage.stores.shard_rows import counter_key, merged_ranges, runs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.stores.leveldb import LevelDatabase

COMPACTED_RANGES_MAX: Final = 16
"""Each costs two compactions of the files it touches; living units between them are rewritten too."""
DELETED_RUNS_MAX: Final = 65_536
"""More are remembered as a few ranges that cover them."""


class DroppedUnits:
    """Deletes rows and remembers where, for compact(); thread-safe."""

    def __init__(self, units: LevelDatabase) -> None:
        self._units = units
        self._lock = threading.Lock()
        self._deleted: list[tuple[int, int]] = []
        """First and last counters deleted since the last compact(), whose bytes may still be on the disk."""

    def drop(self, counters: Sequence[int], durability: Durability = Durability.BUFFERED) -> None:
        """Delete rows; raises StoreUnavailableError."""
        if not counters:
            return
        batch = WriteBatch()
        for counter in counters:
            batch.delete(counter_key(counter))
        self._units.write(batch, durability=durability)
        with self._lock:
            self._deleted += [
                (run.first_counter, run.first_counter + run.count - 1) for run in runs_of(sorted(counters))
            ]
            if len(self._deleted) > DELETED_RUNS_MAX:
                self._deleted = merged_ranges(self._deleted, COMPACTED_RANGES_MAX)

    def compact(self) -> None:
        """Give the space of what was deleted back; takes as long as rewriting the live units near it."""
        with self._lock:
            deleted, self._deleted = self._deleted, []
        ranges = merged_ranges(deleted, COMPACTED_RANGES_MAX)
        try:
            while ranges:
                first, last = ranges[-1]
                self._units.purge(counter_key(first), counter_key(last))
                ranges.pop()
        finally:
            with self._lock:  # what the disk refused waits for the next time
                self._deleted += ranges
