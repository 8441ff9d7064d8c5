"""What to reread next, how fast, and what of a pass survives a restart. Pure.

A pass goes through the finished shards in order of their names. Segment ids are random, so any hour of a pass is a fair
sample of the store. It is paced to take five days of the seven that are promised, so that two days of standing still do
no harm; a small store is read once a day, in minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, structs

from consensus.encoding import Record, decode, encode
from consensus.identifiers import TIME, Milliseconds
from storage.identifiers import COLUMN, SEGMENT, ColumnIndex, SegmentId

if TYPE_CHECKING:
    from collections.abc import Iterable

PASS_S: Final = 5 * 86_400.0
REST_S: Final = 86_400.0
"""Between the beginnings of two passes, at least."""
BYTES_PER_S_MIN: Final = 1024 * 1024
BYTES_PER_S_MAX: Final = 96 * 1024 * 1024
"""40 TiB in five days; hashing costs 5 % of a core."""
SUSPECTS_MAX: Final = 1_024
"""Damaged shards that wait for repair; with more, the pass waits for it too."""
SCRUB_BYTES_MAX: Final = 128 * 1024

_Count = Annotated[int, TIME]


class ShardRef(Record):
    """One column of one segment."""

    segment_id: Annotated[SegmentId, SEGMENT]
    column: Annotated[ColumnIndex, COLUMN]


class ScrubCounts(Record):
    """What a pass has met."""

    shards: _Count = 0
    shard_bytes: _Count = 0
    damaged: _Count = 0
    """Shards with a leaf that is not what was stored, or without a row that their index names."""
    missing: _Count = 0
    """Columns that the chain gives this seat and that are not here."""
    dead: _Count = 0
    """Shards that the chain does not know, deleted."""
    orphans: _Count = 0
    """Rows that no shard refers to, deleted."""


class PassEnd(Record):
    """A pass that is over."""

    begun_ms: Annotated[Milliseconds, TIME]
    ended_ms: Annotated[Milliseconds, TIME]
    counts: ScrubCounts


class ScrubState(Record, tag=1):
    """Where a seat's scrub stands; the file HOME/scrub."""

    begun_ms: Annotated[Milliseconds, TIME]
    """Of the pass that runs; of the last one while none does."""
    is_running: bool
    held_bytes: _Count
    """Stored when it began."""
    place: ShardRef | None
    """The last shard looked at; the pass goes on behind it."""
    counts: ScrubCounts
    suspects: Annotated[tuple[ShardRef, ...], Meta(max_length=SUSPECTS_MAX)]
    """Found damaged and not seen whole since."""
    last: PassEnd | None
    passes: _Count
    """Ended so far."""


NEVER_SCRUBBED: Final = ScrubState(
    begun_ms=Milliseconds(0),
    is_running=False,
    held_bytes=0,
    place=None,
    counts=ScrubCounts(),
    suspects=(),
    last=None,
    passes=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of a pass has found."""

    place: ShardRef | None
    """The last shard looked at, or where the step began when it met none."""
    is_last: bool
    """Nothing is behind it."""
    counts: ScrubCounts
    damaged: tuple[ShardRef, ...] = ()


def decode_scrub(encoded: bytes) -> ScrubState:
    """Read the file or raise RejectionError."""
    return decode(encoded, ScrubState, bytes_max=SCRUB_BYTES_MAX)


def encode_scrub(state: ScrubState) -> bytes:
    """Return what the file holds."""
    return encode(state)


def wait_s(state: ScrubState, now_ms: Milliseconds) -> float:
    """Return how long until the next pass begins; 0 while one runs."""
    if state.is_running or state.passes == 0:
        return 0.0
    return max(0.0, REST_S - (now_ms - state.begun_ms) / 1000)


def bytes_per_s(state: ScrubState, now_ms: Milliseconds) -> float:
    """Return the rate at which the pass that runs will end in time."""
    left_bytes = max(state.held_bytes - state.counts.shard_bytes, 0)
    left_s = max(PASS_S - (now_ms - state.begun_ms) / 1000, 1.0)
    return min(max(left_bytes / left_s, BYTES_PER_S_MIN), BYTES_PER_S_MAX)


def begin_pass(state: ScrubState, held_bytes: int, now_ms: Milliseconds) -> ScrubState:
    """Return the state at the beginning of a pass."""
    return structs.replace(
        state, begun_ms=now_ms, is_running=True, held_bytes=held_bytes, place=None, counts=ScrubCounts()
    )


def after_step(state: ScrubState, step: Step) -> ScrubState:
    """Return the state after a step; the caller leaves room for its suspects."""
    suspects = tuple(dict.fromkeys((*state.suspects, *step.damaged)))
    return structs.replace(state, place=step.place, counts=_sum(state.counts, step.counts), suspects=suspects)


def end_pass(state: ScrubState, orphans: int, now_ms: Milliseconds) -> ScrubState:
    """Return the state at the end of a pass."""
    counts = _sum(state.counts, ScrubCounts(orphans=orphans))
    last = PassEnd(begun_ms=state.begun_ms, ended_ms=now_ms, counts=counts)
    return structs.replace(state, is_running=False, place=None, counts=counts, last=last, passes=state.passes + 1)


def without_suspects(state: ScrubState, whole: Iterable[ShardRef]) -> ScrubState:
    """Return the state when some suspects are whole again, or no longer anybody's concern."""
    cleared = set(whole)
    return structs.replace(state, suspects=tuple(suspect for suspect in state.suspects if suspect not in cleared))


def _sum(one: ScrubCounts, other: ScrubCounts) -> ScrubCounts:
    return ScrubCounts(
        shards=one.shards + other.shards,
        shard_bytes=one.shard_bytes + other.shard_bytes,
        damaged=one.damaged + other.damaged,
        missing=one.missing + other.missing,
        dead=one.dead + other.dead,
        orphans=one.orphans + other.orphans,
    )
