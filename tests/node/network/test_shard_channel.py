"""The shard channel on loopback: who gets in, what arrives, and how everything hostile ends."""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from consensus.errors import RejectionError, RejectionReason
from consensus.signing import SigningKey
from node.errors import ConfigurationError, PeerUnreachableError
from node.network import shard_channel, shard_server
from node.network.certificates import client_context, make_certificate, server_context
from node.network.shard_channel import ShardServer, open_shard_client
from node.network.shard_messages import (
    BULK_BYTES_MAX,
    FRAME_BYTES_MAX,
    AskHeld,
    HeldAnswer,
    Message,
    PieceAnswer,
    ReadPiece,
    Stored,
    StoreUnits,
    encode_frame,
)
from node.network.tls_pipe import TlsPipe
from storage.errors import ShardMissingError
from storage.identifiers import UNIT_BYTES, ColumnIndex, SegmentId, TenantId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from consensus.identifiers import PublicKey
    from node.network.shard_channel import ShardClient
    from node.network.shard_messages import RequestFrame

SEAT: Final = SigningKey(b"seat" * 8)
MEMBER: Final = SigningKey(b"memb" * 8)
GRANTED: Final = SigningKey(b"gran" * 8)
STRANGER: Final = SigningKey(b"stra" * 8)
SEGMENT: Final = SegmentId(b"s" * 32)
HOST: Final = "127.0.0.1"
STORE: Final = StoreUnits(
    tenant=TenantId(b"t" * 16), segment_id=SEGMENT, column=ColumnIndex(0), k=1, segment_bytes=1 << 24, offset=0
)


@dataclass
class Echo:
    """Answers from memory; a request for column 8 waits until it is let go."""

    asked: list[PublicKey] = field(default_factory=list["PublicKey"])
    stored: list[bytes] = field(default_factory=list[bytes])
    open_count: int = 0
    open_count_max: int = 0
    let_go: trio.Event = field(default_factory=trio.Event)

    async def answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        self.asked.append(peer)
        self.open_count += 1
        self.open_count_max = max(self.open_count, self.open_count_max)
        try:
            return await self._answer(request)
        finally:
            self.open_count -= 1

    async def _answer(self, request: RequestFrame) -> Message:
        match request.body:
            case StoreUnits():
                self.stored.append(bytes(request.bulk))
                return Message(Stored())
            case ReadPiece(column=8):
                await self.let_go.wait()
                return Message(PieceAnswer(), (b"late",))
            case ReadPiece(first_leaf=first, leaf_count=count):
                return Message(
                    PieceAnswer(), (bytes([first]) * 100, memoryview(bytes([count]) * (BULK_BYTES_MAX - 100)))
                )
            case AskHeld(segment_ids=segment_ids):
                return Message(HeldAnswer(columns=tuple(0b101 for _ in segment_ids)))
            case _:
                raise ShardMissingError("nothing here")


@dataclass
class Site:
    """A server, who runs it, and where it listens."""

    server: ShardServer
    handler: Echo
    port: int
    nursery: trio.Nursery

    async def dial(self, identity: SigningKey, expected: SigningKey = SEAT) -> ShardClient:
        return await open_shard_client(self.nursery, HOST, self.port, identity, make_certificate(expected))

    async def dial_raw(self, identity: SigningKey) -> TlsPipe:
        stream = await trio.open_tcp_stream(HOST, self.port)
        context = client_context(identity, make_certificate(SEAT))
        pipe = TlsPipe(stream, context, server_side=ssl.Purpose.SERVER_AUTH)
        await pipe.handshake()
        return pipe


@asynccontextmanager
async def open_site() -> AsyncGenerator[Site]:
    handler = Echo()
    server = ShardServer(SEAT, handler)
    server.accept_only([make_certificate(MEMBER), make_certificate(GRANTED)])
    async with trio.open_nursery() as nursery:
        port = await server.listen(HOST, 0)
        nursery.start_soon(server.serve)
        with trio.fail_after(20):
            yield Site(server, handler, port, nursery)
        nursery.cancel_scope.cancel()


async def test_two_granted_peers_are_told_apart() -> None:
    async with open_site() as site:
        for identity in (MEMBER, GRANTED, MEMBER):
            client = await site.dial(identity)
            assert await client.ask_held([SEGMENT, SEGMENT]) == (frozenset({0, 2}),) * 2
            await client.aclose()
        assert site.handler.asked == [MEMBER.public, GRANTED.public, MEMBER.public]


async def test_bulk_arrives_whole_in_both_directions() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        units = bytes(range(256)) * (BULK_BYTES_MAX // 256)
        await client.store_units(STORE, units)
        await client.store_units(STORE, memoryview(units)[5:1000])
        assert site.handler.stored == [units, units[5:1000]]
        piece = await client.read_piece(SEGMENT, ColumnIndex(0), 7, 9)
        assert bytes(piece) == bytes([7]) * 100 + bytes([9]) * (BULK_BYTES_MAX - 100)


async def test_a_piece_is_received_where_it_belongs() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        memory = memoryview(bytearray(BULK_BYTES_MAX))
        into = [memory[start : start + UNIT_BYTES] for start in reversed(range(0, len(memory), UNIT_BYTES))]
        await client.read_piece_into(SEGMENT, ColumnIndex(0), 7, into)
        assert bytes(into[0]) == bytes([7]) * 100 + bytes([64]) * (UNIT_BYTES - 100)
        assert bytes(memory[: -len(into[0])]) == bytes([64]) * (BULK_BYTES_MAX - UNIT_BYTES)


async def test_a_piece_of_another_length_is_refused_and_touches_nothing() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        memory = memoryview(bytearray(UNIT_BYTES))
        with pytest.raises(RejectionError, match=r"^malformed: 1048576 bytes of leaves, 65536 asked for$"):
            await client.read_piece_into(SEGMENT, ColumnIndex(0), 0, [memory])
        assert not any(memory)
        assert not client.broken


async def test_memory_that_was_taken_back_is_not_written() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        memory = memoryview(bytearray(4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.read_piece_into, SEGMENT, ColumnIndex(8), 0, [memory])
            while site.handler.open_count == 0:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        site.handler.let_go.set()
        assert await client.ask_held([SEGMENT]) == (frozenset({0, 2}),), "the late answer was received"
        assert not any(memory)


async def test_a_stranger_is_refused_before_the_application() -> None:
    async with open_site() as site:
        # TLS 1.3: the client learns of it at its first read, or the connection is simply gone.
        client = await site.dial(STRANGER)
        with pytest.raises((RejectionError, PeerUnreachableError)):
            await client.ask_held([SEGMENT])
        assert client.broken
        assert site.handler.asked == []
        assert site.server.refused[RejectionReason.NOT_A_MEMBER] == 1


async def test_a_seat_with_another_certificate_is_not_talked_to() -> None:
    async with open_site() as site:
        with pytest.raises(RejectionError) as refused:
            await site.dial(MEMBER, expected=STRANGER)
        assert refused.value.reason is RejectionReason.NOT_A_MEMBER
        assert site.handler.asked == []


async def test_old_tls_and_no_tls_are_refused() -> None:
    async with open_site() as site:
        context = client_context(MEMBER, make_certificate(SEAT))
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        pipe = TlsPipe(await trio.open_tcp_stream(HOST, site.port), context, server_side=ssl.Purpose.SERVER_AUTH)
        with pytest.raises(PeerUnreachableError):
            await pipe.handshake()
        await pipe.aclose()
        async with await trio.open_tcp_stream(HOST, site.port) as plain:
            await plain.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in b"".join([received async for received in plain])
        assert site.handler.asked == []


async def test_grants_change_while_running() -> None:
    async with open_site() as site:
        revoked = await site.dial(GRANTED)
        kept = await site.dial(MEMBER)
        await revoked.ask_held([SEGMENT])
        await kept.ask_held([SEGMENT])
        site.server.accept_only([make_certificate(MEMBER), make_certificate(STRANGER)])
        with pytest.raises(PeerUnreachableError):
            await revoked.ask_held([SEGMENT])
        await kept.ask_held([SEGMENT])
        newcomer = await site.dial(STRANGER)
        await newcomer.ask_held([SEGMENT])
        assert site.handler.asked[-1] == STRANGER.public


async def test_answers_come_in_any_order() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        answered: list[str] = []

        async def ask_slow() -> None:
            assert bytes(await client.read_piece(SEGMENT, ColumnIndex(8), 0, 1)) == b"late"
            answered.append("slow")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_slow)
            await trio.testing.wait_all_tasks_blocked()
            await client.ask_held([SEGMENT])
            answered.append("quick")
            site.handler.let_go.set()
        assert answered == ["quick", "slow"]


async def test_open_requests_are_bounded_on_both_sides() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        pipe = await site.dial_raw(GRANTED)
        slow = Message(ReadPiece(segment_id=SEGMENT, column=ColumnIndex(8), first_leaf=0, leaf_count=1))
        for number in range(3 * shard_channel.WINDOW):
            await pipe.send_frame(encode_frame(number, slow))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert site.handler.open_count_max == shard_channel.WINDOW
        async with trio.open_nursery() as nursery:
            for _ in range(3 * shard_channel.WINDOW):
                nursery.start_soon(client.request, slow)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert site.handler.open_count == 2 * shard_channel.WINDOW
            site.handler.let_go.set()
        await pipe.aclose()


async def test_a_refusal_arrives_as_the_error_it_was() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        with pytest.raises(ShardMissingError, match="nothing here"):
            await client.read_leaves(SEGMENT, ColumnIndex(0), 0, 1)
        await client.ask_held([SEGMENT])


async def test_a_missing_answer_ends_at_the_deadline() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)
        with pytest.raises(PeerUnreachableError, match="no answer"):
            await client.read_piece(SEGMENT, ColumnIndex(8), 0, 1, deadline_s=0.05)
        await client.ask_held([SEGMENT])
        site.handler.let_go.set()
        await client.ask_held([SEGMENT])


async def test_oversized_truncated_and_malformed_frames_end_the_connection() -> None:
    async with open_site() as site:
        good = b"".join(bytes(part) for part in encode_frame(0, Message(AskHeld(segment_ids=(SEGMENT,)))))
        for hostile in (bytes(FRAME_BYTES_MAX + 1), b"", b"\0" * 9, good + b"!"):
            pipe = await site.dial_raw(MEMBER)
            try:
                await pipe.send_frame((hostile,))
                assert await pipe.receive_length(bytes_max=100) is None
            except PeerUnreachableError:
                pass  # the server has closed while we were still sending
            await pipe.aclose()
        assert site.handler.asked == []
        assert site.server.refused[RejectionReason.OVERSIZED] == 1
        assert site.server.refused[RejectionReason.MALFORMED] == 3


async def test_a_frame_that_is_cut_off_is_refused_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_site() as site:
        for begun in (b"\0\0", (1_000).to_bytes(4, "big") + b"x" * 999):
            pipe = await site.dial_raw(MEMBER)
            pipe._encrypt(memoryview(begun))
            await pipe._flush()
            await pipe._stream.send_eof()
            assert await pipe.receive_length(bytes_max=100) is None
            await pipe.aclose()
        assert site.handler.asked == []
        assert site.server.refused[RejectionReason.MALFORMED] == 2
    assert f"refused peer {MEMBER.public.hex()[:16]}: malformed: connection ended after 999 of 1000" in caplog.text


async def test_strangers_who_only_connect_keep_no_member_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_server, "CONNECTIONS_MAX", 3)
    async with open_site() as site:
        served = await site.dial(GRANTED)
        await served.ask_held([SEGMENT])
        idle = [await trio.open_tcp_stream(HOST, site.port) for _ in range(4)]
        client = await site.dial(MEMBER)
        await client.ask_held([SEGMENT])
        await served.ask_held([SEGMENT])
        assert await idle[0].receive_some(1) == b"", "the oldest gave way"
        for stream in idle:
            await trio.aclose_forcefully(stream)


async def test_an_answer_nobody_asked_for_ends_the_connection() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        context = server_context(SEAT, [make_certificate(MEMBER)])
        pipe = TlsPipe(stream, context, server_side=ssl.Purpose.CLIENT_AUTH)
        await pipe.handshake()
        await pipe.receive_length(bytes_max=FRAME_BYTES_MAX)
        await pipe.send_frame(encode_frame(77, Message(Stored())))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        client = await open_shard_client(nursery, HOST, port, MEMBER, make_certificate(SEAT))
        with pytest.raises(RejectionError, match="to no request"):
            await client.ask_held([SEGMENT])
        nursery.cancel_scope.cancel()


async def test_a_peer_that_hangs_up_fails_what_is_open() -> None:
    async with open_site() as site:
        client = await site.dial(MEMBER)

        async def ask() -> None:
            with pytest.raises(PeerUnreachableError):
                await client.read_piece(SEGMENT, ColumnIndex(8), 0, 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            site.server.accept_only([])


async def test_connections_of_one_peer_are_bounded() -> None:
    async with open_site() as site:
        clients = [await site.dial(MEMBER) for _ in range(shard_channel.CONNECTIONS_PER_PEER_MAX)]
        for client in clients:
            await client.ask_held([SEGMENT])
        one_more = await site.dial(MEMBER)
        with pytest.raises(PeerUnreachableError):
            await one_more.ask_held([SEGMENT])
        await (await site.dial(GRANTED)).ask_held([SEGMENT])


async def test_a_port_in_use_is_said_plainly() -> None:
    async with open_site() as site:
        with pytest.raises(ConfigurationError, match=f"shard port 127.0.0.1:{site.port} cannot be used"):
            await ShardServer(SEAT, Echo()).listen(HOST, site.port)


async def test_nobody_there_is_said_plainly() -> None:
    async with open_site() as site:
        port = site.port
    async with trio.open_nursery() as nursery:
        with pytest.raises(PeerUnreachableError, match=str(port)):
            await open_shard_client(nursery, HOST, port, MEMBER, make_certificate(SEAT))
