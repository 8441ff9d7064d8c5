"""HTTP/1.1 for the gateway: h11 on trio, close to the socket, with the hardening that a server needs.

Rules
- H1. One message has one length: a body with both Content-Length and Transfer-Encoding, or with a coding other than
  `chunked`, is refused and the connection closed, so that no proxy in front of us sees another request than we do.
- H2. A head has at most HEAD_BYTES_MAX bytes and HEAD_SECONDS; every wait for a byte, in or out, has a deadline.
- H3. Bodies are read as their taker asks and written as their reader takes: memory is flat whatever their length.
- H4. `Expect: 100-continue` is answered when the body is asked for, never before the head was judged.
- H5. A body that nobody read is drained up to DRAIN_BYTES_MAX, else the connection ends with the answer.
- H6. At most CONNECTIONS_MAX connections. For one more, the one that has waited longest for a head goes: whoever opens
  many and says nothing keeps nobody out. Where all carry requests out, the new one is closed.
- H7. No header of an answer carries control characters, whatever was stored in it: they become spaces.
- H8. drain() stops listening, lets running exchanges end, closes idle connections at once.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

import h11
import trio

from consensus.errors import GrandestError
from consensus.identifiers import Buffer
from node.gateway.errors import S3Code, S3Error
from node.gateway.signatures import RequestHead, read_query

if TYPE_CHECKING:
    import ssl

Send: TypeAlias = Callable[[Buffer], Awaitable[None]]
"""Takes the next bytes of an answer's body."""

LOGGER: Final = logging.getLogger(__name__)
HEAD_BYTES_MAX: Final = 64 * 1024
"""2 KiB of user metadata, 16 KiB of policy in a query, cookies that nobody needs."""
HEAD_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 75.0
RECEIVE_SECONDS: Final = 30.0
"""Without a byte of a body for so long the client is gone."""
SEND_SECONDS: Final = 60.0
"""For SEND_BYTES: below 4 KiB/s nobody is served."""
RECEIVE_BYTES: Final = 256 * 1024
SEND_BYTES: Final = 256 * 1024
DRAIN_BYTES_MAX: Final = 1024 * 1024
DRAIN_SECONDS: Final = 2.0
CONNECTIONS_MAX: Final = 1_024
BACKLOG: Final = 512
STOP_SECONDS: Final = 20.0
"""How long running exchanges have when the gateway stops."""
TLS_SECONDS: Final = 10.0


class BodyReader(Protocol):
    """A request's body as it came over the wire."""

    @property
    def content_length(self) -> int | None:
        """Return what the head announces; None without a body or with chunked coding."""
        ...

    async def read_some(self) -> memoryview | None:
        """Return the next bytes, None at the end.

        Raises:
            S3Error: The client is gone or too slow.
        """
        ...


class After(Enum):
    """What becomes of a connection after an answer."""

    NEXT_REQUEST = "next request"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request."""

    head: RequestHead
    request_id: str
    peer: str
    body: BodyReader


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """What is answered: bytes, or what writes them one after the other, exactly `content_length` of them."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    write: Callable[[Send], Awaitable[None]] | None = None
    content_length: int | None = None
    """Of what write() gives, or of the body that a HEAD would have."""


class Handler(Protocol):
    """Who answers requests; raises nothing but bugs."""

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Return the answer."""
        ...

    def refusal(self, request: HttpRequest, error: GrandestError) -> HttpAnswer:
        """Return the answer that stands for an error met before a byte of a body was written."""
        ...


class ClientGoneError(S3Error):
    """The client hung up, or stalled: nobody reads an answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(S3Code.REQUEST_TIMEOUT, detail)


class HttpServer:
    """Listens, and gives every request to one handler."""

    def __init__(
        self, handler: Handler, *, tls: ssl.SSLContext | None = None, connections_max: int = CONNECTIONS_MAX
    ) -> None:
        self._handler = handler
        self._tls = tls
        self._connections_max = connections_max
        self._connections: set[_Connection] = set()
        self._ended = trio.Event()
        self._draining = False
        self._accepting = trio.CancelScope()
        self._listeners: list[trio.SocketListener] = []

    async def listen(self, host: str, port: int) -> int:
        """Take the port (0: any free one) and return it.

        Raises:
            OSError: In use, or the address is not ours.
        """
        self._listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
        sockname: tuple[str, int] = self._listeners[0].socket.getsockname()
        return sockname[1]

    async def serve(self) -> None:
        """Serve until cancelled, or until drain() has ended everything."""
        async with trio.open_nursery() as nursery:
            with self._accepting:
                await trio.serve_listeners(self._serve_connection, self._listeners, handler_nursery=nursery)
            for listener in self._listeners:
                await listener.aclose()

    async def drain(self) -> None:
        """Stop listening, end idle connections, and wait for the others, STOP_SECONDS at most."""
        self._draining = True
        self._accepting.cancel()
        for connection in tuple(self._connections):
            connection.end_if_idle()
        with trio.move_on_after(STOP_SECONDS):
            while self._connections:
                await self._ended.wait()

    @property
    def is_draining(self) -> bool:
        """Tell whether every answer closes its connection."""
        return self._draining

    async def _serve_connection(self, raw: trio.SocketStream) -> None:
        peer = _peer_of(raw)
        stream: trio.abc.Stream = raw
        if self._tls is not None:
            stream = trio.SSLStream(raw, self._tls, server_side=True, https_compatible=True)
        connection = _Connection(stream, peer, self._handler, self)
        if not self._make_room():
            LOGGER.warning("connection of %s refused: %d are open", peer, len(self._connections))
            await trio.aclose_forcefully(stream)
            return
        self._connections.add(connection)
        try:
            if isinstance(stream, trio.SSLStream):
                with trio.fail_after(TLS_SECONDS):
                    await stream.do_handshake()
            await connection.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, ClientGoneError) as error:
            LOGGER.debug("connection of %s ended: %s", peer, error)
        except Exception:  # one connection that meets a bug of ours must not end those of all tenants
            LOGGER.exception("connection of %s met a bug", peer)
        finally:
            self._connections.discard(connection)
            self._ended.set()
            self._ended = trio.Event()
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                await trio.aclose_forcefully(stream)

    def _make_room(self) -> bool:
        """Say whether one more may connect (H6)."""
        if len(self._connections) < self._connections_max:
            return True
        longest = min(self._connections, key=lambda connection: connection.waits_since)
        if longest.waits_since == math.inf:
            return False
        self._connections.discard(longest)
        longest.end_if_idle()
        return True


class _Connection:
    """One connection: requests one after the other."""

    def __init__(self, stream: trio.abc.Stream, peer: str, handler: Handler, server: HttpServer) -> None:
        self._stream = stream
        self._peer = peer
        self._handler = handler
        self._server = server
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._idle_scope: trio.CancelScope | None = None
        self.waits_since = math.inf
        """Since when it waits for a head, of which a part may have come."""

    def end_if_idle(self) -> None:
        """Close if no request is being carried out."""
        if self._idle_scope is not None:
            self._idle_scope.cancel()

    async def run(self) -> None:
        """Carry out requests until either side ends the connection."""
        while True:
            self.waits_since = trio.current_time()
            request = await self._next_request()
            self.waits_since = math.inf
            if request is None:
                return
            await self._carry_out(request)
            if self._protocol.our_state is h11.MUST_CLOSE or self._server.is_draining:
                return
            if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
                return
            self._protocol.start_next_cycle()

    async def _next_request(self) -> h11.Request | None:
        """Return the next head; None when the connection is over or its head was refused."""
        seconds = IDLE_SECONDS
        while True:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse_head(error.error_status_hint, str(error))
                return None
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            received: bytes | bytearray = b""
            with trio.move_on_after(seconds) as self._idle_scope:
                received = await self._stream.receive_some(RECEIVE_BYTES)
            scope, self._idle_scope = self._idle_scope, None
            if scope.cancelled_caught:
                return None
            # From the first byte of a head on, all of it must come within HEAD_SECONDS.
            seconds = HEAD_SECONDS if seconds == IDLE_SECONDS else max(0.0, scope.deadline - trio.current_time())
            with suppress(h11.RemoteProtocolError):
                self._protocol.receive_data(bytes(received))

    async def _carry_out(self, event: h11.Request) -> None:
        request_id = secrets.token_hex(8).upper()
        refusal = _framing_fault(event)
        if refusal is not None:
            await self._refuse_head(HTTPStatus.BAD_REQUEST, refusal)
            return
        body = _Body(self._protocol, self._stream, _content_length(event))
        try:
            head = _head_of(event)
        except S3Error as error:
            await self._refuse_head(error.code.status, error.detail)
            return
        request = HttpRequest(head=head, request_id=request_id, peer=self._peer, body=body)
        answer = await self._handler.answer(request)
        after = After.NEXT_REQUEST if await body.drain() else After.CLOSED
        if answer.write is not None and event.method != b"HEAD":
            failed = await self._write_through(answer, answer.write, after)
            if failed is None:
                return
            answer = self._handler.refusal(request, failed)
        await self._answer(event, answer, after)

    async def _answer(self, event: h11.Request, answer: HttpAnswer, after: After) -> None:
        head = self._head(answer, after)
        body = b"" if event.method == b"HEAD" or answer.status in _BODILESS else answer.body
        await self._send_all(head + body if len(body) <= SEND_BYTES else head)
        if len(body) > SEND_BYTES:
            await self._send_all(body)
        self._end_message(len(body))

    def _head(self, answer: HttpAnswer, after: After) -> bytes:
        length = len(answer.body) if answer.content_length is None else answer.content_length
        headers = list(answer.headers)
        if answer.status not in _BODILESS:
            headers.append(("Content-Length", str(length)))
        if after is After.CLOSED or self._server.is_draining:
            headers.append(("Connection", "close"))
        wire_headers = [(name.encode("latin-1"), _header_bytes(text)) for name, text in headers]
        reason = _REASONS.get(answer.status, b"")
        return self._protocol.send(h11.Response(status_code=answer.status, headers=wire_headers, reason=reason)) or b""

    async def _write_through(
        self, answer: HttpAnswer, write: Callable[[Send], Awaitable[None]], after: After
    ) -> GrandestError | None:
        """Send what the writer gives; return its error when it failed before its first byte."""
        length = answer.content_length or 0
        sent = 0

        async def send(piece: Buffer) -> None:
            nonlocal sent
            view = memoryview(piece)
            try:
                if sent == 0:
                    first = view[:SEND_BYTES]
                    await self._send_all(b"".join((self._head(answer, after), first)))
                    sent, view = len(first), view[len(first) :]
                sent += len(view)
                assert sent <= length, "more body than announced"
                for start in range(0, len(view), SEND_BYTES):
                    await self._send_all(view[start : start + SEND_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                # Who reads an object knows nothing of connections: for it this is an expected error like others.
                raise ClientGoneError(f"the client left: {error}") from error

        try:
            await write(send)
        except GrandestError as error:
            if isinstance(error, ClientGoneError):
                raise
            if sent == 0:
                return error
            LOGGER.warning("an answer broke off after %d of %d bytes: %s", sent, length, error)
        if sent != length:
            raise trio.BrokenResourceError
        self._end_message(length)
        return None

    def _end_message(self, length: int) -> None:
        """Tell h11 of bytes that were sent past it, uncopied."""
        if length:
            self._protocol.send_with_data_passthrough(h11.Data(data=cast("bytes", _Length(length))))
        self._protocol.send(h11.EndOfMessage())

    async def _send_all(self, piece: bytes | memoryview) -> None:
        with trio.fail_after(SEND_SECONDS):
            await self._stream.send_all(piece)

    async def _refuse_head(self, status: int, detail: str) -> None:
        """Answer what is no request of HTTP, and close."""
        LOGGER.info("request of %s refused: %s", self._peer, detail)
        if self._protocol.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = f"<Error><Code>BadRequest</Code><Message>{HTTPStatus(status).phrase}</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), ("Connection", "close")]
        head = (
            self._protocol.send(h11.Response(status_code=status, headers=headers, reason=_REASONS.get(status, b"")))
            or b""
        )
        await self._send_all(head + body)


class _Length:
    """Stands for bytes that were sent past h11, which counts them without copying."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


class _Body:
    """Implements BodyReader on a connection."""

    def __init__(self, protocol: h11.Connection, stream: trio.abc.Stream, content_length: int | None) -> None:
        self._protocol = protocol
        self._stream = stream
        self._content_length = content_length
        self._is_over = False

    @property
    def content_length(self) -> int | None:
        return self._content_length

    async def read_some(self) -> memoryview | None:
        while not self._is_over:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError as error:
                raise S3Error(S3Code.INCOMPLETE_BODY, str(error)) from error
            if isinstance(event, h11.Data):
                return memoryview(event.data)
            if isinstance(event, h11.EndOfMessage):
                self._is_over = True
            elif event is h11.NEED_DATA:
                await self._receive()
            else:
                raise ClientGoneError("the connection ended inside a body")
        return None

    async def drain(self) -> bool:
        """Read what nobody read, within bounds; False when the connection must be closed instead."""
        if self._protocol.they_are_waiting_for_100_continue:
            return False
        drained = 0
        with trio.move_on_after(DRAIN_SECONDS):
            try:
                while drained <= DRAIN_BYTES_MAX and (piece := await self.read_some()) is not None:
                    drained += len(piece)
            except S3Error:
                return False
        return self._is_over

    async def _receive(self) -> None:
        if self._protocol.they_are_waiting_for_100_continue:
            proceed = self._protocol.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            await self._stream.send_all(proceed or b"")
        try:
            with trio.move_on_after(RECEIVE_SECONDS) as scope:
                received = await self._stream.receive_some(RECEIVE_BYTES)
                self._protocol.receive_data(bytes(received))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientGoneError(f"the client left inside a body: {error}") from error
        if scope.cancelled_caught:
            raise S3Error(S3Code.REQUEST_TIMEOUT)


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_VERSIONS: Final = frozenset({b"1.0", b"1.1"})
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def _framing_fault(event: h11.Request) -> str | None:
    """Return what is wrong with a message's lengths (H1, H2), or None."""
    head_bytes = sum(len(name) + len(text) for name, text in event.headers) + len(event.target)
    if head_bytes > HEAD_BYTES_MAX:  # h11 limits what is incomplete, not what came at once
        return "a head beyond its limit"
    if event.http_version not in _VERSIONS:
        return "a version of HTTP that is none"
    codings = [text.lower() for name, text in event.headers if name == b"transfer-encoding"]
    lengths = [text for name, text in event.headers if name == b"content-length"]
    if codings and lengths:
        return "both Content-Length and Transfer-Encoding"
    if codings and codings != [b"chunked"]:
        return "a transfer coding other than chunked"
    hosts = [text for name, text in event.headers if name == b"host"]
    return "not one Host" if len(hosts) != 1 else None


def _content_length(event: h11.Request) -> int | None:
    return next((int(text) for name, text in event.headers if name == b"content-length"), None)


def _head_of(event: h11.Request) -> RequestHead:
    target = event.target.decode("latin-1")
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in {"http", "https"}:
            raise S3Error(S3Code.INVALID_URI)
        target = "/" + rest.partition("/")[2]
    raw_path, _, raw_query = target.partition("?")
    return RequestHead(
        method=event.method.decode("ascii"),
        raw_path=raw_path,
        query=read_query(raw_query),
        headers=tuple((name.decode("latin-1"), text.decode("latin-1")) for name, text in event.headers),
    )


def _header_bytes(text: str) -> bytes:
    """Return a header's text as bytes (H7); what Latin-1 lacks travels as UTF-8."""
    harmless = _CONTROL.sub(" ", text).strip()
    try:
        return harmless.encode("latin-1")
    except UnicodeEncodeError:
        return harmless.encode("utf-8", "replace")


def _peer_of(stream: trio.SocketStream) -> str:
    with suppress(OSError):
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name: tuple[str, int] = stream.socket.getpeername()[:2]
        return f"{name[0]}:{name[1]}"
    return "unknown"
