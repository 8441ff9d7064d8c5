"""What members bring to a holder for moves, bounded: a lying one fills no tenant's limit.

A member may store for any tenant, since it moves bytes to new segments without a key (docs/protocol.md, rule T70). What
it brings counts against the tenant's uncommitted bytes; so only so much of it may wait for the chain at a time.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from consensus.errors import RejectionError, RejectionReason

if TYPE_CHECKING:
    from consensus.identifiers import PublicKey
    from storage.identifiers import SegmentId

MOVES_WAITING_MAX: Final = 4
"""Columns of at most 2.7 MiB: eight liars take 90 MiB of a tenant's 1 GiB."""
UNFINISHED_S: Final = 600.0
"""By then the store has forgotten what was begun and not finished (own_shards.py)."""


class Fate(Protocol):
    """What became of a segment that a member brought; both methods block."""

    def is_decided(self, segment_id: SegmentId) -> bool:
        """Say whether the chain knows the segment, live or freed."""
        ...

    def is_kept(self, segment_id: SegmentId) -> bool:
        """Say whether a finished column of it waits here for the chain."""
        ...


class MovedIn:
    """The segments that members have brought and the chain has not; thread-safe."""

    def __init__(self, fate: Fate) -> None:
        """Begin with none; a restart forgets what was unfinished anyway."""
        self._fate = fate
        self._lock = threading.Lock()
        self._waiting: dict[PublicKey, dict[SegmentId, float]] = {}

    def admit(self, member: PublicKey, segment_id: SegmentId) -> None:
        """Let a member bring a segment's column, or refuse by RejectionError(QUEUE_FULL)."""
        with self._lock:
            waiting = self._waiting.setdefault(member, {})
            if segment_id in waiting:
                return
            now = time.monotonic()
            for brought, began in list(waiting.items()):
                if self._is_over(brought, now - began):
                    del waiting[brought]
            if len(waiting) >= MOVES_WAITING_MAX:
                detail = f"{len(waiting)} moved segments of this member wait for the chain"
                raise RejectionError(RejectionReason.QUEUE_FULL, detail)
            waiting[segment_id] = now

    def _is_over(self, segment_id: SegmentId, age_s: float) -> bool:
        return self._fate.is_decided(segment_id) or (age_s > UNFINISHED_S and not self._fate.is_kept(segment_id))
