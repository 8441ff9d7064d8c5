"""Serves the API: an ASGI application behind the HTTP server of the gateway, whose limits and time-outs it shares.

An answer of the API has at most ANSWER_BYTES_MAX and is made before its first byte leaves; so the application is called
in the task of its connection, without one of its own (docs/decisions/0014).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode

from starlette.types import Message, Scope

from node.api.answers import refusal_answer
from node.gateway.errors import S3Error
from node.gateway.http_server import SEND_BYTES, HttpAnswer, HttpServer
from node.ports import check_port_is_free

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from consensus.errors import GrandestError
    from node.gateway.http_server import BodyReader, HttpRequest, Send


async def serve_api(application: ASGIApp, host: str, port: int) -> None:
    """Serve until cancelled.

    Raises:
        ConfigurationError: The port is in use or the address is not ours.
    """
    check_port_is_free("API", host, port)
    server = HttpServer(ApiHandler(application))
    await server.listen(host, port)
    await server.serve()


class ApiHandler:
    """Implements the server's Handler by an ASGI application that reads a body whole and answers in one piece."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Return the application's answer."""
        answer = _Answer()
        await self._application(_scope_of(request), _Body(request.body).receive, answer.take)
        return answer.whole()

    def refusal(self, request: HttpRequest, error: GrandestError) -> HttpAnswer:
        """Return the answer that stands for an error; the server asks for it only where an answer is streamed."""
        del request
        refused = refusal_answer(error)
        return HttpAnswer(status=refused.status_code, body=bytes(refused.body))


@dataclass(slots=True)
class _Answer:
    """What an application sends."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytearray = field(default_factory=bytearray)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            pairs = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in message["headers"]]
            self.headers = tuple(pair for pair in pairs if pair[0] != "content-length")  # the server counts itself
        else:
            self.body += message.get("body", b"")

    def whole(self) -> HttpAnswer:
        """Return the answer; a long one is written piece by piece, each with a deadline of its own."""
        if len(self.body) <= SEND_BYTES:
            return HttpAnswer(status=self.status, headers=self.headers, body=bytes(self.body))
        return HttpAnswer(status=self.status, headers=self.headers, write=self._write, content_length=len(self.body))

    async def _write(self, send: Send) -> None:
        await send(self.body)


class _Body:
    """Gives an application the pieces of a request's body."""

    def __init__(self, body: BodyReader) -> None:
        self._body = body
        self._is_over = False

    async def receive(self) -> Message:
        """Return the next piece; what cannot be read is a client that left."""
        try:
            piece = None if self._is_over else await self._body.read_some()
        except S3Error:
            return {"type": "http.disconnect"}
        self._is_over = piece is None
        return {"type": "http.request", "body": b"" if piece is None else bytes(piece), "more_body": piece is not None}


def _scope_of(request: HttpRequest) -> Scope:
    head = request.head
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": head.method,
        "scheme": "http",
        "path": unquote(head.raw_path),
        "raw_path": head.raw_path.encode("latin-1"),
        "root_path": "",
        "query_string": urlencode(head.query).encode() if head.query else b"",
        "headers": [(name.encode("latin-1"), text.encode("latin-1")) for name, text in head.headers],
        "client": None,
        "server": None,
    }
