"""Makes this node's snapshots, and prunes the bodies of old blocks behind them where the operator wants that.

The state of a snapshot is a view of the database, opened in the moment in which its block is appended and held while
pieces are written; blocks go on meanwhile. A node that is stopped in between makes the next one.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from consensus.identifiers import Height
from storage.errors import StoreFullError

if TYPE_CHECKING:
    from storage.stores.blocks import ChainStore
    from storage.stores.protocols import StateView
    from storage.stores.snapshots import MadeSnapshots

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The state after a block."""

    height: Height
    view: StateView
    release: ExitStack


class SnapshotTask:
    """Writes a snapshot after every block whose height is a multiple of the chain's `snapshot_heights`."""

    def __init__(self, *, store: ChainStore, made: MadeSnapshots, history_heights: int | None) -> None:
        """Make snapshots of a store.

        Args:
            store: Whose state.
            made: Where they go.
            history_heights: Blocks below the oldest snapshot that keep their bodies; None for all.
        """
        self._store = store
        self._made = made
        self._history_heights = history_heights
        self._interval = store.context.parameters.snapshot_heights
        self._held: _Held | None = None
        self._news = trio.Event()

    def hold_state(self, height: Height) -> None:
        """Hold the state after the block that was just appended, if it is one of those; before the next is appended."""
        if height % self._interval == 0 and self._held is None:
            release = ExitStack()
            self._held = _Held(height=height, view=release.enter_context(self._store.view()), release=release)

    def wake(self) -> None:
        """Tell the task of a block."""
        if self._held is not None:
            self._news.set()

    async def run(self) -> None:
        """Write what is held, until cancelled."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                if self._held is not None:
                    await trio.to_thread.run_sync(self._write, self._held)
                    self._release()
                await self._prune()
        finally:
            self._release()

    def _write(self, held: _Held) -> None:
        try:
            manifest = self._made.make(held.height, held.view)
            self._made.keep_newest()
        except OSError as error:
            LOGGER.warning("no snapshot of height %d: %s", held.height, error)
            return
        LOGGER.info("snapshot of height %d: %d pieces", held.height, len(manifest.cells))

    def _release(self) -> None:
        if self._held is not None:
            self._held.release.close()
            self._held = None

    async def _prune(self) -> None:
        """Keep the bodies that the oldest snapshot's joiners need, and as many below as the operator wants."""
        heights = self._made.heights()
        if self._history_heights is None or not heights:
            return
        below = Height(max(1, heights[-1] - self._history_heights))
        first = await trio.to_thread.run_sync(self._store.first_body)
        if first is None or first >= below:
            return
        try:
            while await trio.to_thread.run_sync(self._store.prune_some, below):
                pass
            await trio.to_thread.run_sync(self._store.purge_pruned, first, below)
        except StoreFullError as error:
            LOGGER.warning("old blocks are pruned later: %s", error)
