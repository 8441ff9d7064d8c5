"""The queue of one link keeps the newest frames within its bounds, in order."""

from __future__ import annotations

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from node.network.streams import WRITE_BYTES_MAX, OutboundQueue


async def drain(queue: OutboundQueue, count: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < count:
        frames += await queue.take()
    return frames


async def test_small_frames_that_wait_together_leave_together() -> None:
    queue = OutboundQueue(frames_max=10, bytes_max=100)
    for frame in (b"a", b"b", b"c"):
        assert queue.push(frame) == 0
    assert await queue.take() == [b"a", b"b", b"c"]


async def test_a_large_frame_leaves_alone() -> None:
    queue = OutboundQueue(frames_max=10, bytes_max=2 * WRITE_BYTES_MAX)
    large = bytes(WRITE_BYTES_MAX)
    queue.push(large)
    queue.push(b"b")
    assert await queue.take() == [large]
    assert await queue.take() == [b"b"]


async def test_taking_from_an_empty_queue_waits_for_a_frame() -> None:
    queue = OutboundQueue(frames_max=10, bytes_max=100)
    taken: list[list[bytes]] = []

    async def take() -> None:
        taken.append(await queue.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert taken == []
        queue.push(b"x")
    assert taken == [[b"x"]]


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
    assert trio.run(drain, queue, len(model)) == model
