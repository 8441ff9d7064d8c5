"""The queue of one link keeps the newest frames within its bounds, in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.network.streams import WRITE_BYTES_MAX, OutboundQueue


def drain(queue: OutboundQueue) -> list[bytes]:
    frames: list[bytes] = []
    while batch := queue.take():
        frames += batch
    return frames


def test_small_frames_that_wait_together_leave_together() -> None:
    queue = OutboundQueue(frames_max=10, bytes_max=100)
    for frame in (b"a", b"b", b"c"):
        assert queue.push(frame) == 0
    assert queue.take() == [b"a", b"b", b"c"]
    assert queue.take() == []


def test_a_large_frame_leaves_alone() -> None:
    queue = OutboundQueue(frames_max=10, bytes_max=2 * WRITE_BYTES_MAX)
    large = bytes(WRITE_BYTES_MAX)
    queue.push(large)
    queue.push(b"b")
    assert queue.take() == [large]
    assert queue.take() == [b"b"]


def test_no_more_is_taken_than_fits_and_a_length_counts() -> None:
    queue = OutboundQueue(frames_max=10, bytes_max=100)
    for frame in (b"ab", b"cd", b"ef"):
        queue.push(frame)
    assert queue.take_within(5) == []
    assert queue.take_within(6 + 5) == [b"ab"]
    assert queue.take_within(6 + 6) == [b"cd", b"ef"]
    assert len(queue) == 0


@given(
    frames=st.lists(st.binary(min_size=1, max_size=12), max_size=40),
    frames_max=st.integers(1, 8),
    bytes_max=st.integers(12, 60),
)
@settings(max_examples=200)
def test_the_oldest_leave_when_the_newest_do_not_fit(frames: list[bytes], frames_max: int, bytes_max: int) -> None:
    queue = OutboundQueue(frames_max=frames_max, bytes_max=bytes_max)
    model: list[bytes] = []
    for frame in frames:
        model.append(frame)
        before = len(model)
        while len(model) > frames_max or sum(map(len, model)) > bytes_max:
            model.pop(0)
        assert queue.push(frame) == before - len(model)
    assert drain(queue) == model
