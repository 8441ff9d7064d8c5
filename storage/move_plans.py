"""Which segments are worth moving, and what of them: decided from the entries of one tenant.

A segment is moved when its k is below the full one, when more than a quarter of it is dead, or when something of it has
been dead for DEAD_MS_MAX. Only what lives moves: several small remains into one new segment; a segment of more entries
than one move may name in parts, in order of their bytes, each with all that its entries have there, so that an entry's
bytes in a segment move together. It is freed when the last part has moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from storage.identifiers import SEGMENT_BYTES_MAX, SegmentId
from storage.moves import MOVED_ENTRIES_MAX, RANGES_MAX, MovedEntry, MovedRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from consensus.identifiers import Milliseconds
    from storage.state import SegmentState
    from storage.transactions import StoredExtent

DEAD_SHARE: Final = 4
"""More than a quarter dead: at most three bytes that live are written again for one that goes."""
DEAD_MS_MAX: Final = 24 * 3_600_000
"""Erased ciphertext stays no longer in a living pack."""


@dataclass(slots=True)
class _Found:
    """What entries keep of one segment."""

    spans: dict[MovedEntry, list[tuple[int, int]]] = field(default_factory=dict[MovedEntry, list[tuple[int, int]]])


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What one move takes along."""

    ranges: tuple[MovedRange, ...]
    entries: tuple[MovedEntry, ...]

    @property
    def segment_bytes(self) -> int:
        """Return the length of the new segment."""
        return sum(part.range_bytes for part in self.ranges)


class LivingBytes:
    """What the entries of one tenant keep of some of its segments."""

    def __init__(self, wanted: Iterable[SegmentId]) -> None:
        """Look at these segments alone; add() every version that there is."""
        self._found: dict[SegmentId, _Found] = {segment_id: _Found() for segment_id in wanted}

    def add(self, entry: MovedEntry, extents: Iterable[StoredExtent]) -> None:
        """Note a version and where its bytes lie."""
        for extent in extents:
            found = self._found.get(extent.segment_id)
            if found is not None:
                span = (extent.offset, extent.offset + extent.extent_bytes)
                found.spans.setdefault(entry, []).append(span)

    def ranges(self, segment_id: SegmentId) -> tuple[MovedRange, ...]:
        """Return what lives of a segment, in order; above RANGES_MAX stretches the smallest gaps come along."""
        return _ranges(segment_id, self._found[segment_id].spans.values())

    def plans(self, moved: Sequence[SegmentId]) -> tuple[MovePlan, ...]:
        """Return moves for these segments, as few as hold them."""
        plans: list[MovePlan] = []
        ranges: list[MovedRange] = []
        entries: dict[MovedEntry, None] = {}
        for part in (part for segment_id in moved for part in self._parts(segment_id)):
            more = dict.fromkeys(part.entries)
            if ranges and not _fits([*ranges, *part.ranges], entries | more):
                plans.append(MovePlan(tuple(ranges), tuple(entries)))
                ranges, entries = [], {}
            ranges += part.ranges
            entries |= more
        if ranges:
            plans.append(MovePlan(tuple(ranges), tuple(entries)))
        return tuple(plans)

    def _parts(self, segment_id: SegmentId) -> Iterator[MovePlan]:
        """Yield what lives of a segment in parts that one move may name, as even as they come."""
        spans = self._found[segment_id].spans
        owners = sorted(spans, key=lambda entry: min(spans[entry]))
        count = -(-len(owners) // MOVED_ENTRIES_MAX)
        for part in range(count):
            some = owners[len(owners) * part // count : len(owners) * (part + 1) // count]
            yield MovePlan(_ranges(segment_id, (spans[entry] for entry in some)), tuple(some))


def worth_moving(
    living: LivingBytes,
    segments: Mapping[SegmentId, SegmentState],
    full_k: int,
    dead_since: Mapping[SegmentId, Milliseconds],
    now_ms: Milliseconds,
) -> tuple[SegmentId, ...]:
    """Return the segments to move, those of the smallest k first.

    Args:
        living: Of all the tenant's versions.
        segments: The tenant's, all columns of which have receipts.
        full_k: Of a segment written with every site up.
        dead_since: When something of a segment was first seen dead.
        now_ms: Now.
    """
    found: list[tuple[int, SegmentId]] = []
    for segment_id, state in segments.items():
        live_bytes = sum(part.range_bytes for part in living.ranges(segment_id))
        dead_bytes = state.segment_bytes - live_bytes
        is_old = dead_bytes > 0 and now_ms - dead_since.get(segment_id, now_ms) >= DEAD_MS_MAX
        if state.k < full_k or dead_bytes * DEAD_SHARE > state.segment_bytes or is_old:
            found.append((state.k, segment_id))
    return tuple(segment_id for _, segment_id in sorted(found))


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return stretches without overlap or touch that cover the spans."""
    stretches: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if stretches and start <= stretches[-1][1]:
            stretches[-1] = stretches[-1][0], max(stop, stretches[-1][1])
        else:
            stretches.append((start, stop))
    return stretches


def bridged(stretches: Sequence[tuple[int, int]], count_max: int) -> list[tuple[int, int]]:
    """Return at most so many stretches that cover these, over the smallest gaps."""
    gaps = sorted((after[0] - before[1], before[1]) for before, after in pairwise(stretches))
    closed = {end for _, end in gaps[: max(0, len(stretches) - count_max)]}
    joined: list[tuple[int, int]] = []
    for start, stop in stretches:
        if joined and joined[-1][1] in closed:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return joined


def _ranges(segment_id: SegmentId, spans: Iterable[Iterable[tuple[int, int]]]) -> tuple[MovedRange, ...]:
    stretches = merged(span for some in spans for span in some)
    return tuple(
        MovedRange(segment_id=segment_id, offset=start, range_bytes=stop - start)
        for start, stop in bridged(stretches, RANGES_MAX)
    )


def _fits(ranges: Sequence[MovedRange], entries: Mapping[MovedEntry, None]) -> bool:
    moved_bytes = sum(part.range_bytes for part in ranges)
    return moved_bytes <= SEGMENT_BYTES_MAX and len(ranges) <= RANGES_MAX and len(entries) <= MOVED_ENTRIES_MAX
