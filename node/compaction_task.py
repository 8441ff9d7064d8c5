"""Takes what was deleted off the disk: within a minute nothing of an erased record or a freed shard is in any file.

LevelDB keeps the bytes of a deleted row until a compaction happens to meet them. A round starts COMPACT_SECONDS after
the last one has ended; where nothing was deleted it costs nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import trio

from storage.errors import FatalStoreError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOGGER = logging.getLogger(__name__)

COMPACT_SECONDS: Final = 20.0
"""After at most PURGE_SECONDS until rows are deleted: half of the minute is left for the rewriting itself."""


class Compacted(Protocol):
    """A store that remembers what was deleted."""

    def compact(self) -> None:
        """Take what was deleted since the last call off the disk (blocks)."""
        ...


async def run_compaction(stores: Sequence[Compacted]) -> None:
    """Compact until cancelled; what a disk refuses is tried again in the next round.

    Raises:
        FatalStoreError: The disk failed; the process must stop.
    """
    while True:
        await trio.sleep(COMPACT_SECONDS)
        for store in stores:
            try:
                await trio.to_thread.run_sync(store.compact)
            except FatalStoreError:
                raise
            except StorageError as error:
                LOGGER.warning("deleted rows stay on the disk for now: %s", error)
