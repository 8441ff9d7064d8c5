"""Rereads all that this seat stores, and what lies beside it: damage is found before it is needed.

One pass, in steps of a few megabytes, each checking what storage/scrubbing.py says comes next:

- every leaf of every finished shard against its hash, the hashes against the root (damaged: repair rebuilds it);
- every shard against the ledger (dead: deleted), the ledger against the store (missing: repair rebuilds it);
- at the end every row of the store of units against its index (orphans: deleted).

Where the pass stands, and which damaged shards wait for repair, lies in HOME/scrub, so that a restart goes on. A file
HOME/scrub.now begins a pass at once and at full speed (`grandest node scrub --now`): whoever may write to the home may
ask for it, and nobody else.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from node.disk import LOCAL_DISK
from storage.errors import FatalStoreError, ShardCorruptError, ShardMissingError, StorageError
from storage.placement import Placement, column_of
from storage.scrubbing import (
    NEVER_SCRUBBED,
    SUSPECTS_MAX,
    ScrubCounts,
    ScrubState,
    ShardRef,
    Step,
    after_step,
    begin_pass,
    bytes_per_s,
    decode_scrub,
    encode_scrub,
    end_pass,
    wait_s,
    without_suspects,
)
from storage.stores.protocols import ShardName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from consensus.identifiers import Milliseconds
    from node.disk import Disk
    from node.own_shards import OwnColumns
    from node.repair_task import SegmentLedger
    from storage.identifiers import SeatIndex, SegmentId
    from storage.stores.protocols import ShardStore

LOGGER = logging.getLogger(__name__)

STATE_FILE: Final = "scrub"
REQUEST_FILE: Final = "scrub.now"
STEP_BYTES: Final = 4 * 1024 * 1024
STEP_SHARDS: Final = 128
LEDGER_ROWS: Final = 512
ANNOUNCED_MAX: Final = 10_000
"""Missing columns handed to repair in one step: its own comparison finds the others."""
CHECK_S: Final = 2.0
"""Between looks for a request; nine idle nodes notice nothing of it."""
SAVE_S: Final = 10.0
"""What a restart reads again: 10 s of a pass."""
RETRY_S: Final = 30.0
"""After the disk refused, or while damaged shards wait for repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubParts:
    """What a scrub looks at, and whom it tells."""

    seat: SeatIndex
    admitted: Sequence[SeatIndex] | Placement
    ledger: SegmentLedger
    store: ShardStore
    own: OwnColumns
    announce: Callable[[Iterable[SegmentId]], None]
    """Has repair look at segments; called in the trio thread."""
    home: Path
    now_ms: Callable[[], Milliseconds]
    disk: Disk = LOCAL_DISK


class ScrubTask:
    """The scrub of one seat."""

    def __init__(self, parts: ScrubParts) -> None:
        self._parts = parts
        self._state = NEVER_SCRUBBED
        self._asked = trio.Event()
        self._saved_at = -SAVE_S

    @property
    def state(self) -> ScrubState:
        """Return where the scrub stands."""
        return self._state

    async def run(self) -> None:
        """Scrub until cancelled.

        Raises:
            FatalStoreError: The disk failed; the process must stop.
        """
        self._state = await trio.to_thread.run_sync(self._load)
        self._parts.announce([suspect.segment_id for suspect in self._state.suspects])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_requests)
            while True:
                await self._pause(wait_s(self._state, self._parts.now_ms()))
                try:
                    await self._pass()
                except FatalStoreError:
                    raise
                except StorageError as error:
                    LOGGER.warning("scrub: %s; going on in %.0f s", error, RETRY_S)
                    await self._pause(RETRY_S)

    async def _pass(self) -> None:
        """Begin a pass or go on with it, to its end or until another is asked for."""
        is_urgent = self._asked.is_set()
        self._asked = trio.Event()
        if is_urgent or not self._state.is_running:
            self._state = begin_pass(self._state, self._parts.store.bytes_held(), self._parts.now_ms())
        is_over = False
        while not is_over:
            if self._asked.is_set():
                return
            await self._clear_suspects()
            if len(self._state.suspects) + STEP_SHARDS > SUSPECTS_MAX:
                await self._pause(RETRY_S)
                continue
            began = trio.current_time()
            step = await trio.to_thread.run_sync(self._step, self._state.place)
            self._state, is_over = after_step(self._state, step), step.is_last
            if step.damaged or trio.current_time() >= self._saved_at + SAVE_S:
                await self._save()
            if not is_urgent and not is_over:
                rate = bytes_per_s(self._state, self._parts.now_ms())
                await self._pause(max(began + step.counts.shard_bytes / rate - trio.current_time(), 0.0))
        await self._end_pass()

    async def _end_pass(self) -> None:
        orphans = await trio.to_thread.run_sync(self._parts.store.drop_orphans)
        await self._clear_suspects()
        self._state = end_pass(self._state, orphans, self._parts.now_ms())
        await self._save()
        counts = self._state.counts
        LOGGER.info(
            "scrub: %d shards reread, %d damaged, %d missing, %d dead, %d orphaned rows",
            counts.shards,
            counts.damaged,
            counts.missing,
            counts.dead,
            counts.orphans,
        )

    def _step(self, place: ShardRef | None) -> Step:
        """Check the shards behind a place and the ledger's segments among them (blocks)."""
        parts = self._parts
        after = None if place is None else ShardName(place.segment_id, place.column)
        looked: list[ShardName] = []
        damaged: list[ShardRef] = []
        byte_count = 0
        for name in islice(parts.store.names(after=after), STEP_SHARDS):
            looked.append(name)
            byte_count += self._check(name, damaged)
            if byte_count >= STEP_BYTES:
                break
        dead = parts.own.delete_dead(looked)
        is_last = len(looked) < STEP_SHARDS and byte_count < STEP_BYTES
        missing = self._missing(place, None if is_last else looked[-1].segment_id)
        repairable = [*(ref.segment_id for ref in damaged), *missing[:ANNOUNCED_MAX]]
        trio.from_thread.run_sync(parts.announce, repairable)
        return Step(
            place=ShardRef(segment_id=looked[-1].segment_id, column=looked[-1].column) if looked else place,
            is_last=is_last,
            counts=ScrubCounts(
                shards=len(looked), shard_bytes=byte_count, damaged=len(damaged), missing=len(missing), dead=dead
            ),
            damaged=tuple(damaged),
        )

    def _check(self, name: ShardName, damaged: list[ShardRef]) -> int:
        """Reread one shard; return its bytes."""
        stored = self._parts.store.describe(name)
        if stored is None:
            return 0  # deleted meanwhile
        try:
            self._parts.store.verify(name)
        except ShardMissingError:
            return 0
        except ShardCorruptError as error:
            LOGGER.warning("scrub: %s: rebuilding it", error)
            self._parts.own.note_damaged(name.segment_id, name.column)
            damaged.append(ShardRef(segment_id=name.segment_id, column=name.column))
        return stored.shape.shard_bytes

    def _missing(self, place: ShardRef | None, last: SegmentId | None) -> list[SegmentId]:
        """Return the live segments behind a place, up to the last one looked at, of which our column is not here."""
        parts = self._parts
        found: list[SegmentId] = []
        after = None if place is None else place.segment_id
        while rows := parts.ledger.segments(after=after, limit=LEDGER_ROWS):
            for segment_id, state in rows:
                if last is not None and segment_id > last:
                    return found
                column = column_of(segment_id, parts.seat, state.height, parts.admitted)
                if column is not None and parts.store.describe(ShardName(segment_id, column)) is None:
                    found.append(segment_id)
            after = rows[-1][0]
        return found

    async def _clear_suspects(self) -> None:
        """Forget suspects that are whole again, or of no live segment."""
        if self._state.suspects:
            cleared = await trio.to_thread.run_sync(self._cleared, self._state.suspects)
            self._state = without_suspects(self._state, cleared)

    def _cleared(self, suspects: Sequence[ShardRef]) -> list[ShardRef]:
        parts = self._parts
        return [
            suspect
            for suspect in suspects
            if parts.ledger.segment(suspect.segment_id) is None
            or parts.own.has_shard(suspect.segment_id, suspect.column)
        ]

    def _load(self) -> ScrubState:
        """Read where the last process stopped; its suspects are looked at again (blocks)."""
        parts = self._parts
        path = parts.home / STATE_FILE
        try:
            state = decode_scrub(path.read_bytes())
        except FileNotFoundError:
            return NEVER_SCRUBBED
        except (OSError, RejectionError) as error:
            LOGGER.warning("scrub: %s cannot be read (%s): beginning anew", path, error)
            return NEVER_SCRUBBED
        damaged: list[ShardRef] = []
        for suspect in state.suspects:
            self._check(ShardName(suspect.segment_id, suspect.column), damaged)
        return without_suspects(state, set(state.suspects) - set(damaged))

    async def _save(self) -> None:
        self._saved_at = trio.current_time()
        await trio.to_thread.run_sync(self._write)

    def _write(self) -> None:
        """Keep the state (blocks); what a full disk refuses is read again after a restart, no more."""
        path = self._parts.home / STATE_FILE
        try:
            self._parts.disk.replace(path, encode_scrub(self._state))
        except OSError as error:
            LOGGER.warning("scrub: %s cannot be written: %s", path, error.strerror)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until a pass is asked for."""
        with trio.move_on_after(seconds):
            await self._asked.wait()
        await trio.lowlevel.checkpoint()

    async def _watch_requests(self) -> None:
        """Take requests for a pass from the home."""
        request = self._parts.home / REQUEST_FILE
        while True:
            if request.exists():
                request.unlink(missing_ok=True)
                self._asked.set()
            await trio.sleep(CHECK_S)
