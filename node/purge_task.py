"""Deletes the shards of segments that the chain has freed, and those that were never committed and have expired.

Freed segments come with each decided block; what was freed while this process was down is found by comparing the
store with the ledger at the start. Deleting is repeated until it succeeds, so a disk that refuses for a while loses
nothing but time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from storage.errors import FatalStoreError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consensus.identifiers import Height
    from storage.identifiers import SegmentId

PURGE_SECONDS: Final = 5.0
"""Between rounds: freed shards are gone within a minute (rule S25), and a round serves many blocks."""
SEGMENTS_PER_ROUND: Final = 1_024


class PurgedShards(Protocol):
    """This seat's shards; methods block."""

    def sweep_dead(self) -> None:
        """Delete the shards of segments that were freed while this process was down."""
        ...

    def settle_segments(self, segment_ids: Sequence[SegmentId]) -> None:
        """Note that the chain has committed these segments."""
        ...

    def delete_segments(self, segment_ids: Sequence[SegmentId]) -> None:
        """Delete all columns of these segments; absent ones are no error."""
        ...

    def collect_expired(self, height: Height) -> None:
        """Delete uncommitted shards whose receipts have expired at this height, and those of dead segments."""
        ...


class PurgeTask:
    """Deletes what the chain no longer knows."""

    def __init__(self, shards: PurgedShards) -> None:
        """Work on one seat's shards."""
        self._shards = shards
        self._freed: dict[SegmentId, None] = {}
        self._committed: dict[SegmentId, None] = {}
        self._is_swept = False
        self._height: Height | None = None
        self._done_height: Height | None = None
        self._wakeup = trio.Event()

    @property
    def done_height(self) -> Height | None:
        """Return up to which block all that was freed is deleted here; None before the first sweep."""
        return self._done_height

    def announce(self, height: Height, committed: Iterable[SegmentId], freed: Iterable[SegmentId]) -> None:
        """Learn of a decided block, and of the segments it committed and freed."""
        self._height = height
        self._committed.update(dict.fromkeys(committed))
        self._freed.update(dict.fromkeys(freed))
        self._wakeup.set()

    async def run(self) -> None:
        """Purge until cancelled.

        Raises:
            FatalStoreError: The disk failed; the process must stop.
        """
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            await self._purge()
            await trio.sleep(PURGE_SECONDS)

    async def _purge(self) -> None:
        freed, committed = tuple(self._freed)[:SEGMENTS_PER_ROUND], tuple(self._committed)[:SEGMENTS_PER_ROUND]
        height, is_all = self._height, len(freed) == len(self._freed)
        try:
            await trio.to_thread.run_sync(self._purge_batch, committed, freed)
        except FatalStoreError:
            raise
        except StorageError:
            self._wakeup.set()  # again after PURGE_SECONDS
            return
        for segment_id in freed:
            del self._freed[segment_id]
        for segment_id in committed:
            del self._committed[segment_id]
        if is_all:
            self._done_height = height
        if self._freed or self._committed:
            self._wakeup.set()

    def _purge_batch(self, committed: tuple[SegmentId, ...], freed: tuple[SegmentId, ...]) -> None:
        if committed:
            self._shards.settle_segments(committed)
        if freed:
            self._shards.delete_segments(freed)
        if self._height is not None:
            self._shards.collect_expired(self._height)
        if not self._is_swept:
            self._shards.sweep_dead()
            self._is_swept = True
