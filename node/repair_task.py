"""Rebuilds the columns that this seat must hold and does not: a burnt disk, an absence, a rotten leaf.

The ledger says which segments live and placement which column of each is ours. A missing one is decoded from any k
others, each checked against the chain's roots, checked itself, stored, and reported (completion_task.py) where the
chain has no receipt of ours. Order: fewest receipted columns first. A segment that cannot be rebuilt now is set aside
with its reason and tried again later; it never blocks the others. Nothing is kept between runs but the stored columns
themselves, so an interrupted repair goes on where it was.
"""

from __future__ import annotations

import heapq
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import GrandestError
from consensus.identifiers import Buffer
from node.client.chain import segment_view
from storage.errors import ShardCorruptError
from storage.identifiers import ColumnIndex
from storage.merkle import check_shard
from storage.placement import Placement, column_of
from storage.repairing import RepairLoad, RepairProgress, pause_after
from storage.segments import SegmentShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from node.client.reading import SegmentReader
    from storage.identifiers import SeatIndex, SegmentId
    from storage.state import SegmentState


LOGGER = logging.getLogger(__name__)

REPAIRS_AT_ONCE: Final = 2
"""k shards of at most 2.7 MiB each: about 40 MiB in memory, and foreground reads keep most of the link."""
SCAN_ROWS: Final = 512
WANTED_MAX: Final = 100_000
"""Segments remembered in one pass; the next scan finds the rest."""
SCAN_SECONDS: Final = 600.0
"""The whole ledger is compared with the store so often, beside what is announced."""
SET_ASIDE_SECONDS: Final = 15.0
"""A segment that could not be rebuilt is tried again after so long: holders come back."""


SET_ASIDE_TOLD_MAX: Final = 20
PROGRESS_SECONDS: Final = 10.0


class SegmentLedger(Protocol):
    """The segments of this node's ledger; methods block."""

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        """Return a live segment."""
        ...

    def segments(
        self, *, after: SegmentId | None = None, limit: int = SCAN_ROWS
    ) -> Sequence[tuple[SegmentId, SegmentState]]:
        """Return live segments in order of id, behind `after`."""
        ...


class OwnShards(Protocol):
    """This seat's shards; methods block."""

    def has_shard(self, segment_id: SegmentId, column: ColumnIndex) -> bool:
        """Say whether the whole shard is stored durably and nothing of it is known to be damaged."""
        ...

    def replace_shard(self, segment_id: SegmentId, state: SegmentState, column: ColumnIndex, shard: Buffer) -> None:
        """Store a whole shard durably in place of whatever is there; its root is the committed one."""
        ...


class Completion(Protocol):
    """Who tells the chain of columns stored late."""

    def report(self, segment_id: SegmentId) -> None:
        """Note that this seat now holds its column of the segment."""
        ...


@dataclass(frozen=True, slots=True)
class RepairStatus:
    """What repair has done and has before it."""

    rebuilt: int
    waiting: int
    progress: RepairProgress
    """Of the last scan's findings and what was announced since."""
    set_aside: Mapping[SegmentId, str]
    """Not rebuildable now, and why."""


class RepairTask:
    """Keeps this seat's columns whole."""

    def __init__(
        self,
        *,
        seat: SeatIndex,
        admitted: Sequence[SeatIndex] | Placement,
        columns: int,
        ledger: SegmentLedger,
        shards: OwnShards,
        reader: SegmentReader,
        completion: Completion,
        on_mismatch: Callable[[SegmentId], None] = lambda _: None,
        asked: Callable[[], int] = lambda: 0,
    ) -> None:
        """Work for one seat.

        Args:
            seat: Ours.
            admitted: All seats.
            columns: Of every segment.
            ledger: Of this node.
            shards: Of this seat.
            reader: Over links to the other seats; ours among them is never live.
            completion: Told of columns that the chain has no receipt for.
            asked: How many questions of others this node has answered so far: a repair steps aside for them.
            on_mismatch: Told of segments whose other columns do not give ours: their roots may be no codeword.
        """
        self._seat = seat
        self._admitted = admitted
        self._columns = columns
        self._ledger = ledger
        self._shards = shards
        self._reader = reader
        self._completion = completion
        self._on_mismatch = on_mismatch
        self._wanted: list[tuple[int, SegmentId]] = []
        self._waiting: set[SegmentId] = set()
        """Those in the heap."""
        self._under_way: set[SegmentId] = set()
        self._again: set[SegmentId] = set()
        """Wanted while they were under way: what was looked at then may have changed since."""
        self._set_aside: dict[SegmentId, tuple[float, str]] = {}
        self._rebuilt = 0
        self._asked = asked
        self._planned = RepairLoad()
        self._done = RepairLoad()
        self._is_told = False
        self._began = 0.0
        self._told = 0.0
        self._wakeup = trio.Event()
        self._rescan = True

    def announce(self, segment_ids: Iterable[SegmentId]) -> None:
        """Have these segments looked at: just committed, or caught with a bad leaf."""
        for segment_id in segment_ids:
            self._want(segment_id, 0)
        self._wakeup.set()

    def status(self) -> RepairStatus:
        """Return what has been done and what is left."""
        set_aside = {segment_id: reason for segment_id, (_, reason) in self._set_aside.items()}
        waiting, progress = len(self._wanted), self._progress()
        return RepairStatus(rebuilt=self._rebuilt, waiting=waiting, progress=progress, set_aside=set_aside)

    def _progress(self) -> RepairProgress:
        seconds = trio.current_time() - self._began
        return RepairProgress(planned=self._planned, done=self._done, seconds=seconds, set_aside=len(self._set_aside))

    async def run(self) -> None:
        """Repair until cancelled."""
        while True:
            if self._rescan:
                self._rescan = False
                await self._plan()
            await self._repair_wanted()
            self._tell_end()
            self._wakeup = trio.Event()
            if self._wanted or self._rescan:
                continue
            with trio.move_on_after(SET_ASIDE_SECONDS if self._set_aside else SCAN_SECONDS) as scope:
                await self._wakeup.wait()
            if scope.cancelled_caught:
                self._take_back()

    def _take_back(self) -> None:
        """Try again what was set aside; with nothing set aside, compare everything."""
        self._rescan = not self._set_aside
        now = trio.current_time()
        for segment_id, (until, _) in list(self._set_aside.items()):
            if until <= now:
                del self._set_aside[segment_id]
                self._want(segment_id, 0)

    def _want(self, segment_id: SegmentId, receipted: int) -> None:
        if segment_id in self._under_way:
            self._again.add(segment_id)
        elif segment_id not in self._waiting and segment_id not in self._set_aside and len(self._waiting) < WANTED_MAX:
            self._waiting.add(segment_id)
            heapq.heappush(self._wanted, (receipted, segment_id))

    async def _plan(self) -> None:
        """Find what is missing and say what it takes, before anything is read."""
        self._planned = self._done = RepairLoad()
        self._is_told = False
        await self._scan()
        self._began = self._told = trio.current_time()
        if self._planned.columns:
            LOGGER.info("%s", self._progress().plan_text())

    def _tell_end(self) -> None:
        if not self._planned.columns or self._is_told:
            return
        self._is_told = True
        LOGGER.info("%s", self._progress().progress_text())
        for segment_id, (_, reason) in list(self._set_aside.items())[:SET_ASIDE_TOLD_MAX]:
            LOGGER.warning("repair: segment %s is set aside: %s", segment_id.hex(), reason)

    async def _scan(self) -> None:
        after: SegmentId | None = None
        while True:
            rows = await trio.to_thread.run_sync(self._rows_behind, after)
            for segment_id, state, is_missing in await trio.to_thread.run_sync(self._incomplete, rows):
                self._want(segment_id, len(state.columns))
                if is_missing:
                    self._planned = self._planned.with_column(state.k, self._shape(state).shard_bytes)
            if len(rows) < SCAN_ROWS:
                return
            after = rows[-1][0]

    def _rows_behind(self, after: SegmentId | None) -> Sequence[tuple[SegmentId, SegmentState]]:
        return self._ledger.segments(after=after, limit=SCAN_ROWS)

    def _shape(self, state: SegmentState) -> SegmentShape:
        return SegmentShape(state.segment_bytes, state.k, self._columns)

    def _incomplete(self, rows: Sequence[tuple[SegmentId, SegmentState]]) -> list[tuple[SegmentId, SegmentState, bool]]:
        """Return the segments whose column of ours is missing here (True), or not yet vouched for on chain."""
        found: list[tuple[SegmentId, SegmentState, bool]] = []
        for segment_id, state in rows:
            column = column_of(segment_id, self._seat, state.height, self._admitted)
            if column is None:
                continue
            is_missing = not self._shards.has_shard(segment_id, column)
            if is_missing or column not in state.columns:
                found.append((segment_id, state, is_missing))
        return found

    async def _repair_wanted(self) -> None:
        limit = trio.Semaphore(REPAIRS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            while self._wanted:
                await limit.acquire()
                if not self._wanted:
                    break
                _, segment_id = heapq.heappop(self._wanted)
                self._waiting.remove(segment_id)
                self._under_way.add(segment_id)
                nursery.start_soon(self._repair_and_release, segment_id, limit)

    async def _repair_and_release(self, segment_id: SegmentId, limit: trio.Semaphore) -> None:
        began, asked = trio.current_time(), self._asked()
        try:
            await self._repair(segment_id)
            await trio.sleep(pause_after(trio.current_time() - began, self._asked() - asked))
        except GrandestError as error:
            self._set_aside[segment_id] = (trio.current_time() + SET_ASIDE_SECONDS, str(error))
        finally:
            self._end(segment_id)
            limit.release()

    def _end(self, segment_id: SegmentId) -> None:
        self._under_way.remove(segment_id)
        if segment_id in self._again:
            self._again.remove(segment_id)
            self._want(segment_id, 0)

    async def _repair(self, segment_id: SegmentId) -> None:
        state = await trio.to_thread.run_sync(self._ledger.segment, segment_id)
        if state is None:
            return  # freed meanwhile
        column = column_of(segment_id, self._seat, state.height, self._admitted)
        if column is None:
            return  # none of ours
        if not await trio.to_thread.run_sync(self._shards.has_shard, segment_id, column):
            shape = self._shape(state)
            segment = segment_view(segment_id, state)
            found = await self._reader.read_columns(segment, (column,), range(shape.leaves))
            shard = found[column]
            try:
                await trio.to_thread.run_sync(check_shard, state.roots[column], shard)
            except ShardCorruptError:
                self._on_mismatch(segment_id)
                raise
            await trio.to_thread.run_sync(self._shards.replace_shard, segment_id, state, column, shard)
            self._note_rebuilt(state.k, shape.shard_bytes)
        if column not in state.columns:
            self._completion.report(segment_id)

    def _note_rebuilt(self, k: int, shard_bytes: int) -> None:
        self._rebuilt += 1
        self._done = self._done.with_column(k, shard_bytes)
        if self._planned.columns and trio.current_time() - self._told >= PROGRESS_SECONDS:
            self._told = trio.current_time()
            LOGGER.info("%s", self._progress().progress_text())
