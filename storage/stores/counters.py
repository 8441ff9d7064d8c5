"""Counters of a store of units: given out once, watched while rows are written under them, and found when orphaned.

A unit is an orphan when its row is there and nothing refers to it: no finished shard, no open one, no write under way.
Crashes leave some, which the next start deletes where it can see them (units.py); a refused write may leave others.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storage.stores.shard_rows import COUNTER_BYTES, SHARD_ROWS, ShardRow, all_runs, counter_key, read_row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from storage.stores.leveldb import LevelDatabase

WINDOW_COUNTERS: Final = 1 << 23
"""Looked at with one walk over the index: 512 GiB of units, of which some 200,000 runs are sorted in memory."""
KEYS_AT_ONCE: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterView:
    """One moment of a book: what is above `end` is younger, what is in `busy` is being written."""

    end: int
    busy: tuple[tuple[int, int], ...]
    """First counter and number."""


class CounterBook:
    """The growing counter of one store; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._busy: dict[int, int] = {}

    def start_at(self, counter: int) -> None:
        """Give out counters from here on."""
        self._next = counter

    @property
    def end(self) -> int:
        """Return the counter that is given out next."""
        return self._next

    def reserve(self, count: int) -> int:
        """Return the first of `count` new counters, busy until release()."""
        with self._lock:
            first, self._next = self._next, self._next + count
            self._busy[first] = count
            return first

    def release(self, first: int) -> None:
        """Note that what reserve() gave is referred to now, or was given up."""
        with self._lock:
            del self._busy[first]

    def view(self) -> CounterView:
        """Return this moment."""
        with self._lock:
            return CounterView(end=self._next, busy=tuple(self._busy.items()))


def orphans(
    units: LevelDatabase, index: LevelDatabase, view: CounterView, open_counters: Collection[int]
) -> Iterator[int]:
    """Yield the counters of orphaned rows, ascending.

    Args:
        units: The rows.
        index: Where finished shards name theirs; read after `view` and `open_counters` were taken.
        view: Younger rows are left alone.
        open_counters: Of shards that were arriving at the moment of the view.
    """
    taken = [*view.busy, *((counter, 1) for counter in open_counters)]
    for first in range(0, view.end, WINDOW_COUNTERS):
        stop = min(first + WINDOW_COUNTERS, view.end)
        used = sorted(run for run in (*taken, *_used_runs(index)) if run[0] < stop and run[0] + run[1] > first)
        for gap_first, gap_stop in _gaps(used, first, stop):
            yield from _present(units, gap_first, gap_stop)


def _used_runs(index: LevelDatabase) -> Iterator[tuple[int, int]]:
    for _, encoded in index.iterate(SHARD_ROWS):
        for run in all_runs(read_row(encoded, ShardRow)):
            yield run.first_counter, run.count


def _gaps(used: Collection[tuple[int, int]], first: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield what sorted runs leave free between two counters."""
    position = first
    for run_first, count in used:
        if run_first > position:
            yield position, min(run_first, stop)
        position = max(position, run_first + count)
    if position < stop:
        yield position, stop


def _present(units: LevelDatabase, first: int, stop: int) -> Iterator[int]:
    start = counter_key(first)
    while found := units.store_keys(start, counter_key(stop), KEYS_AT_ONCE):
        yield from (int.from_bytes(store_key, "big") for store_key in found if len(store_key) == COUNTER_BYTES)
        start = found[-1] + b"\0"
