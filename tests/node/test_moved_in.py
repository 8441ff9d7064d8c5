"""What members bring is bounded until the chain has decided about it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import PublicKey
from node.moved_in import MOVES_WAITING_MAX, UNFINISHED_S, MovedIn
from storage.identifiers import SegmentId

LIAR = PublicKey(b"l" * 32)
OTHER = PublicKey(b"o" * 32)


@dataclass
class Fates:
    """Implements Fate."""

    decided: set[SegmentId] = field(default_factory=set[SegmentId])
    kept: set[SegmentId] = field(default_factory=set[SegmentId])

    def is_decided(self, segment_id: SegmentId) -> bool:
        return segment_id in self.decided

    def is_kept(self, segment_id: SegmentId) -> bool:
        return segment_id in self.kept


def segment(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(32, "big"))


def test_so_many_segments_of_a_member_wait_and_no_more() -> None:
    fates = Fates()
    moved = MovedIn(fates)
    for number in range(MOVES_WAITING_MAX):
        moved.admit(LIAR, segment(number))
        moved.admit(LIAR, segment(number))  # its next piece
    with pytest.raises(RejectionError) as refused:
        moved.admit(LIAR, segment(9))
    assert refused.value.reason is RejectionReason.QUEUE_FULL
    moved.admit(OTHER, segment(9))
    fates.decided.add(segment(2))
    moved.admit(LIAR, segment(9))
    with pytest.raises(RejectionError):
        moved.admit(LIAR, segment(10))


def test_what_was_begun_and_forgotten_counts_no_longer_what_is_kept_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    moved = MovedIn(Fates(kept={segment(0), segment(1), segment(2)}))
    for number in range(MOVES_WAITING_MAX):
        moved.admit(LIAR, segment(number))
    clock[0] = UNFINISHED_S
    with pytest.raises(RejectionError):
        moved.admit(LIAR, segment(9))
    clock[0] = UNFINISHED_S + 1
    moved.admit(LIAR, segment(9))
    with pytest.raises(RejectionError):
        moved.admit(LIAR, segment(10))
