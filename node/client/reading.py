"""Ranges of segments from their holders: every leaf checked against the chain's root before it is decoded or given.

The data columns that hold a range are read at once. A holder that is down, lies, lost its shard or is slower than the
others by HEDGE_SECONDS is not waited for: parity columns are fetched beside it and the range is decoded from the first
k that are right. Any k do.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

import trio

from consensus.identifiers import Buffer
from node.client.gathering import Gathering
from node.client.links import PIECE_BYTES, PLACE_LEAVES_MAX, PLACES_PER_READ_MAX, LeafPlace
from storage.erasure import reconstruct
from storage.errors import NotEnoughShardsError, ShardCorruptError
from storage.identifiers import LEAF_BYTES, UNIT_BYTES, ColumnIndex
from storage.merkle import check_range, check_shard, covering_leaves, leaf_hashes, root_of
from storage.placement import Placement, holders_of
from storage.segments import SegmentShape, data_units, restore_units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from node.client.chain import SegmentView
    from node.client.holders import HolderPool
    from node.client.links import HolderLink, LeavesAnswer
    from storage.identifiers import SeatIndex
    from storage.segments import ShardRange

    Units = tuple[memoryview, ...]
    """A column's units, top to bottom, where they lie in a segment's memory."""

HEDGE_SECONDS: Final = 0.15
"""No news for so long: slow holders are read around, unless all have been as slow lately (HEDGE_USUAL)."""
PATIENT_SECONDS: Final = 5.0
"""The same for repairs, which nobody waits for: their traffic stays k columns for one."""
HEDGE_USUAL: Final = 4.0
"""Times the usual answer: where everybody is slow, asking more of them makes it worse."""
HEDGE_SECONDS_MAX: Final = 2.0
USUAL_WEIGHT: Final = 0.1
RETURN_SECONDS: Final = 3.0
"""How long a read waits for holders whose links broke: they are dialled again at once."""
STALL_SECONDS: Final = 10.0
"""No news for so long with everybody asked: the read fails."""
PLACED_MAX: Final = 4_096
"""Segments whose holders are remembered: a read asks for them once a column and more."""
PIECE_LEAVES: Final = PIECE_BYTES // LEAF_BYTES
PIECE_UNITS: Final = PIECE_BYTES // UNIT_BYTES
LEAVES_PER_UNIT: Final = UNIT_BYTES // LEAF_BYTES
READS_IN_FLIGHT: Final = 2
"""Small reads' questions of one holder: one is answered while the next gathers what comes."""
INLINE_BYTES_MAX: Final = 128 * 1024
"""Below this, hashing costs less than the way to a worker thread."""


class SegmentReader:
    """Reads segments of one chain."""

    def __init__(
        self,
        pool: HolderPool,
        admitted: Sequence[SeatIndex] | Placement,
        columns: int,
        hedge_seconds_min: float = HEDGE_SECONDS,
    ) -> None:
        """Read from the seats where placement puts columns; a segment has `columns` of them.

        Who waits for nobody asks others after hedge_seconds_min at the earliest: it reads no column in vain.
        """
        self._hedge_seconds_min = hedge_seconds_min
        self._pool = pool
        self._columns = columns
        self._holders = lru_cache(PLACED_MAX)(partial(holders_of, seats=admitted))
        self._usual_seconds = 0.0
        self._gathered: dict[SeatIndex, Gathering[LeafPlace, LeavesAnswer | None]] = {}

    async def run(self) -> None:
        """Ask each holder for small reads together, until cancelled; while it does not run they are asked alone."""
        self._gathered = {
            seat: Gathering(
                partial(self._ask_places, seat), together_max=PLACES_PER_READ_MAX, in_flight_max=READS_IN_FLIGHT
            )
            for seat in self._pool.seats()
        }
        async with trio.open_nursery() as nursery:
            for gathering in self._gathered.values():
                nursery.start_soon(gathering.run)

    def seats(self, segment: SegmentView) -> tuple[SeatIndex, ...]:
        """Return the holders by column."""
        return self._holders(segment.segment_id, segment.height)

    async def read_range(self, segment: SegmentView, first: int, byte_count: int) -> Buffer:
        """Return a range of a segment's bytes.

        Raises:
            NotEnoughShardsError: Fewer than k columns can be had.
        """
        shape = SegmentShape(segment.segment_bytes, segment.k, self._columns)
        pieces = shape.locate(first, byte_count)
        leaves = covering_leaves(
            min(piece.offset for piece in pieces),
            max(piece.offset + piece.byte_count for piece in pieces) - min(piece.offset for piece in pieces),
        )
        columns = await self.read_columns(segment, tuple({piece.column: None for piece in pieces}), leaves)
        return _join(pieces, columns, leaves.start * LEAF_BYTES)

    async def read_segment(self, segment: SegmentView, memory: memoryview) -> memoryview:
        """Receive a whole segment to where it belongs and return it.

        Args:
            segment: As the chain shows it.
            memory: Writable, at least the padded bytes of its shape.

        Raises:
            NotEnoughShardsError: Fewer than k columns can be had.
        """
        shape = SegmentShape(segment.segment_bytes, segment.k, self._columns)
        into = {ColumnIndex(column): data_units(memory, shape, ColumnIndex(column)) for column in range(shape.k)}
        found = await self._race(segment, tuple(into), range(shape.leaves), into)
        missing = frozenset(into) - found.keys()
        if missing:
            parity = {column: shard for column, shard in found.items() if column not in into}
            await trio.to_thread.run_sync(restore_units, memory, shape, parity, missing)
        return memory[: shape.segment_bytes]

    async def read_columns(
        self, segment: SegmentView, wanted: Sequence[ColumnIndex], leaves: range
    ) -> Mapping[ColumnIndex, Buffer]:
        """Return the same leaves of the wanted columns, checked, or decoded from others that were."""
        found = await self._race(segment, wanted, leaves, {})
        missing = [column for column in wanted if column not in found]
        if not missing:
            return found
        restored = await trio.to_thread.run_sync(reconstruct, found, missing, segment.k, self._columns)
        return {**found, **restored}

    async def _race(
        self, segment: SegmentView, wanted: Sequence[ColumnIndex], leaves: range, into: Mapping[ColumnIndex, Units]
    ) -> dict[ColumnIndex, Buffer]:
        """Return the wanted columns or any k; those with units of their own are there, and empty in the answer.

        Tried again while holders come back.
        """
        deadline = trio.current_time() + RETURN_SECONDS
        while True:
            race = _Race(self, segment, leaves, wanted, into)
            try:
                return await race.run()
            except NotEnoughShardsError:
                if race.has_all_answers:
                    raise  # nobody is to come back: the segment was replaced, say
                with trio.move_on_at(deadline) as scope:
                    await self._pool.changed()
                if scope.cancelled_caught:
                    raise

    def hedge_seconds(self) -> float:
        """Return how long no news is no reason for worry."""
        usual = min(max(HEDGE_SECONDS, HEDGE_USUAL * self._usual_seconds), HEDGE_SECONDS_MAX)
        return max(self._hedge_seconds_min, usual)

    def note_answer(self, seconds: float) -> None:
        """Learn how long answers take."""
        self._usual_seconds += USUAL_WEIGHT * (seconds - self._usual_seconds)

    async def fetch_column(
        self, segment: SegmentView, column: ColumnIndex, leaves: range, into: Units = ()
    ) -> Buffer | None:
        """Return leaves of one column as its holder has them, checked; None when it has not or they are wrong.

        Args:
            segment: As the chain shows it.
            column: Which.
            leaves: Of the column; all of them with `into`.
            into: Where the whole column's units belong; what is returned is empty then.
        """
        seat = self.seats(segment)[column]
        if not into and len(leaves) <= PLACE_LEAVES_MAX and seat in self._gathered:
            return await self._fetch_gathered(seat, segment, column, leaves)
        found: list[Buffer] = []

        async def fetch(_seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
            if into:
                await _fetch_into(link, segment, column, into)
                found.append(b"")
            else:
                found.append(await _fetch(link, segment, column, leaves, self._columns))

        return found[0] if await self._pool.ask_one(seat, fetch) else None

    async def _fetch_gathered(
        self, seat: SeatIndex, segment: SegmentView, column: ColumnIndex, leaves: range
    ) -> Buffer | None:
        place = LeafPlace(segment.segment_id, column, leaves.start, len(leaves))
        answer = await self._gathered[seat].ask(place)
        if answer is None:
            return None
        shape = SegmentShape(segment.segment_bytes, segment.k, self._columns)
        try:
            check_range(segment.roots[column], answer.leaves, leaves.start, shape.shard_bytes, answer.proof)
        except ShardCorruptError as error:
            self._pool.note_fault(seat, str(error))
            return None
        return answer.leaves

    async def _ask_places(self, seat: SeatIndex, places: Sequence[LeafPlace]) -> Sequence[LeavesAnswer | None]:
        found: list[LeavesAnswer | None] = []

        async def ask(_seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
            found.extend(await link.read_places(places))

        return found if await self._pool.ask_one(seat, ask) else [None] * len(places)

    def is_live(self, segment: SegmentView, column: ColumnIndex) -> bool:
        """Say whether the column's holder answers."""
        return self._pool.link(self.seats(segment)[column]) is not None

    def is_prompt(self, segment: SegmentView, column: ColumnIndex) -> bool:
        """Say whether the column's holder answers and was not slow lately."""
        return self._pool.is_prompt(self.seats(segment)[column])

    def note_slow(self, segment: SegmentView, column: ColumnIndex) -> None:
        """Remember that the column's holder was too slow for a read."""
        self._pool.note_slow(self.seats(segment)[column])


class _Race:
    """One read: the wanted columns, and as many others as it takes."""

    def __init__(
        self,
        reader: SegmentReader,
        segment: SegmentView,
        leaves: range,
        wanted: Sequence[ColumnIndex],
        into: Mapping[ColumnIndex, Units],
    ) -> None:
        self._reader = reader
        self._into = into
        self._segment = segment
        self._leaves = leaves
        self._wanted = frozenset(wanted)
        everyone = (ColumnIndex(column) for column in range(len(segment.roots)))
        live = [column for column in everyone if reader.is_live(segment, column)]
        prompt = [column for column in live if reader.is_prompt(segment, column)]
        self._first = [column for column in prompt if column in self._wanted]
        self._spare = [column for column in prompt if column not in self._wanted]
        self._spare += [column for column in live if column not in prompt]
        self._running: set[ColumnIndex] = set()
        self._slow: set[ColumnIndex] = set()
        self._answered = 0
        self._found: dict[ColumnIndex, Buffer] = {}
        self._news = trio.Event()
        self.has_all_answers = False
        """Whether every holder was live and has answered, and still too few columns are right."""

    async def run(self) -> dict[ColumnIndex, Buffer]:
        """Return all wanted columns, or at least k."""
        async with trio.open_nursery() as nursery:
            for column in self._first:
                self._start(nursery, column)
            while not self._is_done() and await self._step(nursery):
                pass
            slow = self._slow & self._running
            self.has_all_answers = self._answered == len(self._segment.roots)
            nursery.cancel_scope.cancel()
        for column in slow:
            self._reader.note_slow(self._segment, column)
        if not self._is_done():
            raise NotEnoughShardsError(self._segment.k, len(self._found))
        return self._found

    def _is_done(self) -> bool:
        return len(self._found) >= self._segment.k or self._wanted <= self._found.keys()

    async def _step(self, nursery: trio.Nursery) -> bool:
        """Keep enough columns coming and wait for news; False when nothing more can come."""
        prompt = self._running - self._slow
        if not self._wanted <= self._found.keys() | prompt:
            while len(self._found) + len(prompt) < self._segment.k and self._spare:
                column = self._spare.pop(0)
                self._start(nursery, column)
                prompt.add(column)
        if not self._running:
            return False
        self._news = trio.Event()
        with trio.move_on_after(self._reader.hedge_seconds() if self._spare else STALL_SECONDS) as scope:
            await self._news.wait()
        if scope.cancelled_caught:
            if not self._spare:
                return False
            self._slow |= self._running
        return True

    def _start(self, nursery: trio.Nursery, column: ColumnIndex) -> None:
        self._running.add(column)
        nursery.start_soon(self._fetch, column)

    async def _fetch(self, column: ColumnIndex) -> None:
        asked_at = trio.current_time()
        contents = await self._reader.fetch_column(self._segment, column, self._leaves, self._into.get(column, ()))
        self._running.discard(column)
        self._answered += self._reader.is_live(self._segment, column)
        if contents is not None:
            self._reader.note_answer(trio.current_time() - asked_at)
            self._found[column] = contents
        self._news.set()


async def _fetch(link: HolderLink, segment: SegmentView, column: ColumnIndex, leaves: range, columns: int) -> Buffer:
    """Fetch and check; raises ShardCorruptError naming what was wrong."""
    shape = SegmentShape(segment.segment_bytes, segment.k, columns)
    pieces: list[Buffer] = []
    is_whole = len(leaves) == shape.leaves
    for first in range(leaves.start, leaves.stop, PIECE_LEAVES):
        count = min(PIECE_LEAVES, leaves.stop - first)
        if is_whole:
            pieces.append(await link.read_piece(segment.segment_id, column, first, count))
            continue
        answer = await link.read_leaves(segment.segment_id, column, first, count)
        check_range(segment.roots[column], answer.leaves, first, shape.shard_bytes, answer.proof)
        pieces.append(answer.leaves)
    contents = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if is_whole and len(contents) > INLINE_BYTES_MAX:
        await trio.to_thread.run_sync(check_shard, segment.roots[column], contents)
    elif is_whole:
        check_shard(segment.roots[column], contents)
    return contents


async def _fetch_into(link: HolderLink, segment: SegmentView, column: ColumnIndex, into: Units) -> None:
    """Fetch a whole column to where it belongs and check it; hashed piece by piece, while it is in the cache."""
    hashes: list[bytes] = []
    for first in range(0, len(into), PIECE_UNITS):
        units = into[first : first + PIECE_UNITS]
        await link.read_piece_into(segment.segment_id, column, first * LEAVES_PER_UNIT, units)
        for unit in units:
            hashes.extend(leaf_hashes(unit))
    if root_of(hashes) != segment.roots[column]:
        raise ShardCorruptError(f"{len(hashes)} leaves are not under root {segment.roots[column].hex()[:16]}")


def _join(pieces: Sequence[ShardRange], columns: Mapping[ColumnIndex, Buffer], start: int) -> Buffer:
    views = [
        memoryview(columns[piece.column])[piece.offset - start : piece.offset - start + piece.byte_count]
        for piece in pieces
    ]
    return views[0] if len(views) == 1 else b"".join(views)
