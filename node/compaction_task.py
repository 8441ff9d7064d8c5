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
    from collections.abc import Callable, Sequence

    from consensus.identifiers import Height

LOGGER = logging.getLogger(__name__)

COMPACT_SECONDS: Final = 20.0
"""After at most PURGE_SECONDS until rows are deleted: half of the minute is left for the rewriting itself."""


class Compacted(Protocol):
    """A store that remembers what was deleted."""

    def compact(self) -> None:
        """Take what was deleted since the last call off the disk (blocks)."""
        ...


class Compaction:
    """The rounds of one node, and up to which height they have taken off its disks what blocks erased or freed."""

    def __init__(self, stores: Sequence[Compacted], deleted_height: Callable[[], Height | None]) -> None:
        """Compact stores; `deleted_height` says up to which block everything is deleted, if that is known."""
        self._stores = stores
        self._deleted_height = deleted_height
        self._purged_height: Height | None = None

    @property
    def purged_height(self) -> Height | None:
        """Return up to which block nothing erased or freed is in any file; None before the first whole round."""
        return self._purged_height

    async def run(self) -> None:
        """Compact until cancelled; what a disk refuses is tried again in the next round.

        Raises:
            FatalStoreError: The disk failed; the process must stop.
        """
        while True:
            await trio.sleep(COMPACT_SECONDS)
            deleted = self._deleted_height()
            is_whole = True
            for store in self._stores:
                try:
                    await trio.to_thread.run_sync(store.compact)
                except FatalStoreError:
                    raise
                except StorageError as error:
                    is_whole = False
                    LOGGER.warning("deleted rows stay on the disk for now: %s", error)
            if is_whole and deleted is not None:
                self._purged_height = deleted
