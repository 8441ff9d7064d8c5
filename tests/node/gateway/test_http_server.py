"""HTTP close to the socket: each of its rules, by bytes on a real connection."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from consensus.errors import GrandestError
from node.gateway import http_server
from node.gateway.errors import S3Code, S3Error
from node.gateway.http_server import HttpAnswer, HttpRequest, HttpServer, Send
from node.nurseries import open_plain_nursery


@dataclass
class Echo:
    """Answers with what it read, or as it is told."""

    reads: bool = True
    written: bytes = b""
    breaks_at: int | None = None
    waits: trio.Event | None = None
    seen: list[HttpRequest] = field(default_factory=list[HttpRequest])

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        self.seen.append(request)
        if self.waits is not None:
            await self.waits.wait()
        if self.written:
            return HttpAnswer(status=200, write=self._writer(), content_length=len(self.written))
        if not self.reads:
            return HttpAnswer(status=403, body=b"no")
        pieces: list[bytes] = []
        try:
            while (piece := await request.body.read_some()) is not None:
                pieces.append(bytes(piece))
        except S3Error as error:
            return self.refusal(request, error)
        return HttpAnswer(status=200, body=b"".join(pieces))

    def _writer(self) -> Callable[[Send], Awaitable[None]]:
        async def write(send: Send) -> None:
            async with open_plain_nursery():  # as readers of objects do
                for start in range(0, len(self.written), 1000):
                    if self.breaks_at == start:
                        raise S3Error(S3Code.SLOW_DOWN)
                    await send(self.written[start : start + 1000])

        return write

    def refusal(self, request: HttpRequest, error: GrandestError) -> HttpAnswer:
        assert isinstance(error, S3Error)
        return HttpAnswer(status=error.code.status, body=error.code.code.encode())


@asynccontextmanager
async def connected(handler: Echo) -> AsyncGenerator[tuple[HttpServer, trio.SocketStream]]:
    server = HttpServer(handler)
    port = await server.listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        yield server, stream
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def told(stream: trio.SocketStream, request: bytes) -> bytes:
    await stream.send_all(request)
    return await until_end(stream)


async def until_end(stream: trio.SocketStream) -> bytes:
    answer = b""
    while piece := await stream.receive_some():
        answer += piece
    return answer


async def one_answer(stream: trio.SocketStream, request: bytes) -> bytes:
    """Return an answer with its body from a connection that stays."""
    await stream.send_all(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive_some()
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += await stream.receive_some()
    return head + b"\r\n\r\n" + body


PUT = b"PUT /b/k HTTP/1.1\r\nHost: h\r\n"


async def test_a_body_comes_through_and_the_connection_stays() -> None:
    async with connected(Echo()) as (_, stream):
        for body in (b"hello", b"again"):
            answer = await one_answer(stream, PUT + b"Content-Length: 5\r\n\r\n" + body)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(body)


async def test_a_body_in_chunked_coding_comes_through() -> None:
    async with connected(Echo()) as (_, stream):
        wire = PUT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert (await one_answer(stream, wire)).endswith(b"abcde")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5\r\nHost: other\r\n",
        b"Content Length: 5\r\n",
    ],
)
async def test_a_message_of_two_lengths_is_refused_and_the_connection_closed(head: bytes) -> None:
    handler = Echo()
    async with connected(handler) as (_, stream):
        answer = await told(stream, PUT + head + b"\r\nhello")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert handler.seen == []


async def test_a_head_beyond_its_limit_is_refused() -> None:
    async with connected(Echo()) as (_, stream):
        answer = await told(stream, PUT + b"x-filler: " + b"a" * http_server.HEAD_BYTES_MAX)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_continue_is_said_when_the_body_is_wanted_and_not_before() -> None:
    async with connected(Echo()) as (_, stream):
        await stream.send_all(PUT + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        assert (await one_answer(stream, b"hello")).endswith(b"hello")
    async with connected(Echo(reads=False)) as (_, stream):
        answer = await told(stream, PUT + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"connection: close" in answer.lower()


async def test_a_small_body_that_nobody_read_leaves_the_connection_usable() -> None:
    async with connected(Echo(reads=False)) as (_, stream):
        for _ in range(2):
            assert (await one_answer(stream, PUT + b"Content-Length: 5\r\n\r\nhello")).startswith(b"HTTP/1.1 403 ")


async def test_a_client_that_leaves_inside_a_body_leaves_nothing_behind() -> None:
    handler = Echo()
    async with connected(handler) as (_, stream):
        await stream.send_all(PUT + b"Content-Length: 500\r\n\r\nhello")
        await stream.send_eof()
        assert (await until_end(stream)).endswith(S3Code.INCOMPLETE_BODY.code.encode())


async def test_an_answer_is_written_piece_by_piece() -> None:
    written = bytes(range(256)) * 1000
    async with connected(Echo(written=written)) as (_, stream):
        answer = await one_answer(stream, b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.partition(b"\r\n\r\n")[2] == written


async def test_what_fails_before_its_first_byte_is_an_error_and_later_a_broken_connection() -> None:
    async with connected(Echo(written=bytes(5000), breaks_at=0)) as (_, stream):
        answer = await one_answer(stream, b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
    async with connected(Echo(written=bytes(5000), breaks_at=2000)) as (_, stream):
        answer = await told(stream, b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert len(answer.partition(b"\r\n\r\n")[2]) == 2000


async def test_a_client_that_breaks_off_a_large_answer_ends_its_own_connection_alone() -> None:
    handler = Echo(written=bytes(30_000_000))
    async with connected(handler) as (_, stream):
        await stream.send_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
        await stream.receive_some(1000)
        port: int = stream.socket.getpeername()[1]
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
        await stream.aclose()
        async with await trio.open_tcp_stream("127.0.0.1", port) as second:
            handler.written = b"still here"
            answer = await one_answer(second, b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
            assert answer.endswith(b"still here")


async def test_a_head_is_answered_without_a_body_and_with_its_length() -> None:
    async with connected(Echo(written=bytes(5000))) as (_, stream):
        await stream.send_all(b"HEAD /b/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = await until_end(stream)
        assert b"content-length: 5000" in answer.lower()
        assert answer.endswith(b"\r\n\r\n")


async def test_one_connection_more_than_are_busy_is_closed() -> None:
    handler = Echo(waits=trio.Event())
    server = HttpServer(handler, connections_max=1)
    port = await server.listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        async with await trio.open_tcp_stream("127.0.0.1", port) as first:
            await first.send_all(PUT + b"Content-Length: 1\r\n\r\nx")
            while not handler.seen:
                await trio.lowlevel.checkpoint()
            async with await trio.open_tcp_stream("127.0.0.1", port) as second:
                assert await second.receive_some() == b""
            assert handler.waits is not None
            handler.waits.set()
            assert (await first.receive_some()).startswith(b"HTTP/1.1 200 ")
        nursery.cancel_scope.cancel()


async def test_who_says_nothing_keeps_nobody_out() -> None:
    server = HttpServer(Echo(), connections_max=2)
    port = await server.listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        async with (
            await trio.open_tcp_stream("127.0.0.1", port) as silent,
            await trio.open_tcp_stream("127.0.0.1", port) as dribbling,
        ):
            await dribbling.send_all(b"PUT")
            await trio.testing.wait_all_tasks_blocked(0.01)
            async with await trio.open_tcp_stream("127.0.0.1", port) as honest:
                assert (await one_answer(honest, PUT + b"Content-Length: 1\r\n\r\nx")).endswith(b"x")
                assert await silent.receive_some() == b""
                async with await trio.open_tcp_stream("127.0.0.1", port) as another:
                    assert (await one_answer(another, PUT + b"Content-Length: 1\r\n\r\nx")).endswith(b"x")
                    assert await dribbling.receive_some() == b""
        nursery.cancel_scope.cancel()


async def test_a_drain_lets_a_running_request_end_and_closes_idle_connections() -> None:
    handler = Echo(waits=trio.Event())
    async with connected(handler) as (server, busy):
        await busy.send_all(PUT + b"Content-Length: 1\r\n\r\nx")
        while not handler.seen:
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            await trio.testing.wait_all_tasks_blocked()
            assert handler.waits is not None
            handler.waits.set()
            answer = await until_end(busy)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
