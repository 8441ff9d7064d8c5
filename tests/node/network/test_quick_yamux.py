"""Bytes that pass the shortened way are the library's: against itself, against the library, in whatever pieces."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from node.network.peers import NetworkSeed, peer_id_of
from node.network.quick_yamux import QuickStream, QuickYamux
from node.network.swarm import security_options

SEEDS = (NetworkSeed(b"dialling" * 4), NetworkSeed(b"answering" * 3 + b"_____"))
SIZES = (1, 11, 12, 13, 500, 64 * 1024 - 12, 64 * 1024, 300_000)


async def nothing() -> None:
    """Closing needs nothing more."""


@asynccontextmanager
async def secured_pair() -> AsyncGenerator[tuple[SecureSession, SecureSession]]:
    """Two ends of one noise session over a real socket."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    found: dict[int, SecureSession] = {}
    async with listener:
        port = listener.socket.getsockname()[1]

        async def dial() -> None:
            raw = RawConnection(TrioTCPStream(await trio.open_tcp_stream("127.0.0.1", port)), initiator=True)
            transport = security_options(SEEDS[0].key_pair())[NOISE_PROTOCOL_ID]
            session = await transport.secure_outbound(raw, peer_id_of(SEEDS[1].public_key()))
            assert isinstance(session, SecureSession)
            found[0] = session

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            raw = RawConnection(TrioTCPStream(await listener.accept()), initiator=False)
            session = await security_options(SEEDS[1].key_pair())[NOISE_PROTOCOL_ID].secure_inbound(raw)
            assert isinstance(session, SecureSession)
            found[1] = session
    try:
        yield found[0], found[1]
    finally:
        for session in found.values():
            await session.close()


def muxed(session: SecureSession, end: int, kind: type[Yamux]) -> Yamux:
    return kind(session, peer_id_of(SEEDS[1 - end].public_key()), is_initiator=end == 0, on_close=nothing)


@asynccontextmanager
async def stream_pair(dialling: type[Yamux], answering: type[Yamux]) -> AsyncGenerator[tuple[QuickStream, QuickStream]]:
    """Both ends of one stream; an end of the library's is used the library's way."""
    async with secured_pair() as sessions, trio.open_nursery() as nursery:
        ends = (muxed(sessions[0], 0, dialling), muxed(sessions[1], 1, answering))
        for end in ends:
            nursery.start_soon(end.start)
        for end in ends:
            await end.event_started.wait()
        opened = await ends[0].open_stream()
        accepted = await ends[1].accept_stream()
        assert isinstance(opened, YamuxStream)
        assert isinstance(accepted, YamuxStream)
        yield QuickStream(NetStream(opened, None, None)), QuickStream(NetStream(accepted, None, None))
        for end in ends:
            await end.close()
        nursery.cancel_scope.cancel()


async def send_all(stream: QuickStream, pieces: list[bytes]) -> None:
    for piece in pieces:
        await stream.write(piece)


async def receive(stream: QuickStream, byte_count: int, most: int) -> bytes:
    received = b""
    while len(received) < byte_count:
        received += await stream.read(most)
    return received


@pytest.mark.parametrize("ends", [(QuickYamux, QuickYamux), (QuickYamux, Yamux), (Yamux, QuickYamux)])
async def test_every_byte_arrives_in_order_both_ways(ends: tuple[type[Yamux], type[Yamux]]) -> None:
    rng = random.Random(7)
    pieces = [rng.randbytes(rng.choice(SIZES)) for _ in range(60)]
    whole = b"".join(pieces)
    with trio.fail_after(20):
        async with stream_pair(*ends) as (first, second):
            for sender, receiver in ((first, second), (second, first)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send_all, sender, pieces)
                    assert await receive(receiver, len(whole), most=100_000) == whole


async def test_a_window_opens_again_without_an_update_for_every_read() -> None:
    pieces = [bytes(1_000)] * 2_000
    with trio.fail_after(20):
        async with stream_pair(QuickYamux, QuickYamux) as (first, second):
            updates = 0
            accepted = second._muxed
            assert accepted is not None
            send_update = accepted.send_window_update

            async def counted(increment: int, skip_lock: bool = False) -> None:  # noqa: FBT001, FBT002 (the library's)
                nonlocal updates
                updates += 1
                await send_update(increment, skip_lock)

            accepted.send_window_update = counted  # type: ignore[method-assign]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, first, pieces)
                await receive(second, 2_000_000, most=100_000)
            assert 0 < updates < 10


class Sink:
    """Keeps what pours in; fails when told."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.failure: Exception | None = None

    def take(self, piece: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.received += piece


async def pour(stream: QuickStream, sink: Sink) -> None:
    with pytest.raises(StreamEOF):
        await stream.pour(sink.take)


@pytest.mark.parametrize("ends", [(QuickYamux, QuickYamux), (Yamux, QuickYamux)])
async def test_a_poured_stream_gives_every_byte_in_order_until_its_end(ends: tuple[type[Yamux], type[Yamux]]) -> None:
    rng = random.Random(8)
    pieces = [rng.randbytes(rng.choice(SIZES)) for _ in range(60)]
    sink = Sink()
    with trio.fail_after(20):
        async with stream_pair(*ends) as (first, second), trio.open_nursery() as nursery:
            nursery.start_soon(pour, second, sink)
            await send_all(first, pieces)
            await first._stream.close()
    assert bytes(sink.received) == b"".join(pieces)


async def test_what_a_sink_raises_is_raised_where_the_stream_is_poured_and_the_connection_lives() -> None:
    sink = Sink()
    sink.failure = ValueError("no more")
    with trio.fail_after(20):
        async with stream_pair(QuickYamux, QuickYamux) as (first, second):
            await first.write(b"x")
            with pytest.raises(ValueError, match="no more"):
                await second.pour(sink.take)
            await second.write(b"still here")
            assert await receive(first, 10, most=100) == b"still here"


async def test_what_the_socket_does_not_take_at_once_leaves_before_the_next_write() -> None:
    rng = random.Random(9)
    written = bytearray()
    with trio.fail_after(20):
        async with stream_pair(QuickYamux, QuickYamux) as (first, second):
            assert first._muxed is not None
            first._muxed.send_window = 2**30  # as if the peer had opened it: the socket is what fills
            session = first._yamux._session
            while not first.has_unsent:
                piece = rng.randbytes(min(first.room(), 60_000))
                written += piece
                first.write_now(piece)
            assert first.room() == 0
            assert session.has_unsent
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.write, b"after")
                assert await receive(second, len(written) + 5, most=100_000) == bytes(written) + b"after"
            assert not first.has_unsent


async def test_bytes_that_the_library_kept_are_poured_before_those_that_came_after() -> None:
    sink = Sink()
    with trio.fail_after(20):
        async with stream_pair(QuickYamux, QuickYamux) as (first, second), trio.open_nursery() as nursery:
            nursery.start_soon(pour, second, sink)
            await first.write(b"poured,")
            while bytes(sink.received) != b"poured,":
                await trio.lowlevel.checkpoint()
            assert second._muxed is not None
            stream_id = second._muxed.stream_id
            second._yamux.stream_buffers[stream_id] += b"kept,"
            second._yamux._deliver(stream_id, b"after")
            assert bytes(sink.received) == b"poured,"
            while bytes(sink.received) != b"poured,kept,after":
                await trio.lowlevel.checkpoint()
            await first._stream.close()
