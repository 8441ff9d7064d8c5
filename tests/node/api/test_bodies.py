"""What strangers may hold of a node by bodies that are on their way is bounded, in bytes and in time."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from node.api import bodies
from node.api.bodies import BodyGate
from node.api.questions import answering, read_body
from node.api.server import serve_api
from tests.node.jumps import pause

BODY_BYTES_MAX = 1_000


async def measure(request: Request) -> Response:
    return Response(str(len(await read_body(request, BODY_BYTES_MAX))))


APPLICATION = Starlette(routes=[Route("/", answering(measure), methods=["POST"])])


@dataclass(frozen=True, slots=True)
class Served:
    """A server, and the connections to it."""

    port: int
    gate: BodyGate
    opened: AsyncExitStack

    async def connect(self) -> trio.SocketStream:
        return await self.opened.enter_async_context(await trio.open_tcp_stream("127.0.0.1", self.port))


@asynccontextmanager
async def open_server() -> AsyncGenerator[Served]:
    gate = BodyGate(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    async with trio.open_nursery() as nursery, AsyncExitStack() as opened:
        nursery.start_soon(serve_api, gate, "127.0.0.1", port)
        await trio.testing.wait_all_tasks_blocked(0.01)
        yield Served(port, gate, opened)
        nursery.cancel_scope.cancel()


async def ask(stream: trio.SocketStream, sent: bytes, announced: int) -> bytes:
    """Send a request and return what comes back."""
    await stream.send_all(f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n\r\n".encode() + sent)
    return bytes(await stream.receive_some())


async def test_bodies_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODIES_BYTES_MAX", 1_500)
    async with open_server() as served:
        holding = await served.connect()
        await holding.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n" + b"x" * 899)
        with trio.fail_after(5):
            while served.gate.held_bytes < 899:
                await trio.lowlevel.checkpoint()
        refused = await ask(await served.connect(), b"x" * 900, 900)
        assert b"429" in refused
        assert b"200" in await ask(await served.connect(), b"x" * 600, 600)
        await holding.send_all(b"x")
        assert b"200" in await holding.receive_some()
        with trio.fail_after(5):
            while served.gate.held_bytes:
                await trio.lowlevel.checkpoint()


def test_a_body_comes_in_time() -> None:
    came: list[Message] = []

    async def application(_scope: Scope, receive: Receive, _send: Send) -> None:
        came.append(await receive())
        came.append(await receive())

    async def dribble() -> Message:
        await pause(bodies.BODY_S / 2 + 1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(_message: Message) -> None:
        raise AssertionError("nothing to say")

    async def serve() -> int:
        gate = BodyGate(application)
        await gate({"type": "http"}, dribble, send)
        return gate.held_bytes

    assert trio.run(serve, clock=trio.testing.MockClock(autojump_threshold=0)) == 0
    assert [message["type"] for message in came] == ["http.request", "http.disconnect"]
