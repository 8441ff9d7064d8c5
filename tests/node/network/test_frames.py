"""Frames arrive whole, or are refused by reason, whatever the chunks."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from trio.testing import MockClock

from consensus.errors import RejectionError
from node.errors import PeerUnreachableError
from node.network.frames import FrameReader, encode_frame, write_frames


class Chunks:
    """A stream that gives these chunks, then ends, hangs or breaks."""

    def __init__(self, chunks: list[bytes], end: str = "eof") -> None:
        self.chunks = [chunk for chunk in chunks if chunk]
        self.end = end
        self.written = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.chunks:
            chunk = self.chunks.pop(0)
            if n is not None and len(chunk) > n:
                self.chunks.insert(0, chunk[n:])
                chunk = chunk[:n]
            return chunk
        match self.end:
            case "eof":
                raise StreamEOF
            case "reset":
                raise StreamReset
            case _:
                await trio.sleep_forever()
                raise AssertionError("never")

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.end == "hang":
            await trio.sleep_forever()
        self.written += data


async def test_a_frame_is_its_length_and_its_bytes() -> None:
    stream = Chunks([])
    await write_frames(stream, [b"ab", b""], deadline_s=1)
    assert bytes(stream.written) == b"\x00\x00\x00\x02ab\x00\x00\x00\x00"


async def test_an_end_between_frames_is_orderly() -> None:
    reader = FrameReader(Chunks([encode_frame(b"x")]), 10)
    assert await reader.next_frame(deadline_s=1) == b"x"
    assert await reader.next_frame(deadline_s=1) is None


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
async def test_an_end_inside_a_frame_is_refused(cut: int) -> None:
    reader = FrameReader(Chunks([encode_frame(b"abc")[:cut]]), 10)
    with pytest.raises(RejectionError, match=r"^malformed: the stream ended inside a frame$"):
        await reader.next_frame(deadline_s=1)


async def test_an_oversized_frame_is_refused_before_its_bytes_are_read() -> None:
    stream = Chunks([(11).to_bytes(4, "big"), b"eleven byte"])
    with pytest.raises(RejectionError, match=r"^oversized: frame of 11 bytes, at most 10$"):
        await FrameReader(stream, 10).next_frame(deadline_s=1)
    assert stream.chunks == [b"eleven byte"]


async def test_a_frame_of_exactly_the_limit_arrives() -> None:
    assert await FrameReader(Chunks([encode_frame(bytes(10))]), 10).next_frame(deadline_s=1) == bytes(10)


async def test_a_frame_that_never_ends_meets_the_deadline(autojump_clock: MockClock) -> None:
    reader = FrameReader(Chunks([encode_frame(b"abc")[:5]], end="hang"), 10)
    with pytest.raises(trio.TooSlowError):
        await reader.next_frame(deadline_s=15)
    assert trio.current_time() == 15


async def test_a_broken_stream_is_an_unreachable_peer() -> None:
    with pytest.raises(PeerUnreachableError, match="read failed"):
        await FrameReader(Chunks([], end="reset"), 10).next_frame(deadline_s=1)


async def test_a_write_that_the_peer_does_not_take_meets_the_deadline(autojump_clock: MockClock) -> None:
    with pytest.raises(PeerUnreachableError, match="write failed"):
        await write_frames(Chunks([], end="hang"), [b"x"], deadline_s=10)


@given(payloads=st.lists(st.binary(max_size=40)), cuts=st.lists(st.integers(1, 50), min_size=1))
@settings(max_examples=200)
def test_frames_arrive_whole_whatever_the_chunks(payloads: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(encode_frame(payload) for payload in payloads)
    chunks: list[bytes] = []
    while wire:
        cut = cuts[len(chunks) % len(cuts)]
        chunks.append(wire[:cut])
        wire = wire[cut:]

    async def read_all() -> list[bytes]:
        reader = FrameReader(Chunks(chunks), 40)
        frames: list[bytes] = []
        while (frame := await reader.next_frame(deadline_s=5)) is not None:
            frames.append(frame)
        return frames

    assert trio.run(read_all) == payloads
