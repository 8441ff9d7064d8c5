"""The answering side of the shard channel (rules in shard_channel.py)."""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import RejectionError, RejectionReason
from node.buffers import BufferPool
from node.errors import ConfigurationError, PeerUnreachableError
from node.network.certificates import key_of_certificate, server_context
from node.network.shard_connection import (
    FRAME_S,
    HANDSHAKE_S,
    SHORT_FRAME_BYTES,
    WINDOW,
    Outbox,
    deadline,
    first_of,
)
from node.network.shard_messages import (
    FRAME_BYTES_MAX,
    Message,
    RequestFrame,
    decode_request,
    encode_frame,
    refusal_of,
)
from node.network.tls_pipe import FrameCutOffError, TlsPipe
from storage.errors import FatalStoreError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from mmap import mmap

    from consensus.identifiers import PublicKey
    from consensus.signing import SigningKey

LOGGER: Final = logging.getLogger(__name__)
CONNECTIONS_MAX: Final = 256
"""Of one server, handshakes included: 8 members and the granted clients, with room for reconnections."""
CONNECTIONS_PER_PEER_MAX: Final = 8
FRAMES_KEPT_MAX: Final = 8
"""Of 1.3 MiB: what one busy client has under way."""
IDLE_S: Final = 600.0
"""A server closes a connection on which nothing was asked for so long."""


class ShardHandler(Protocol):
    """Who answers; node/holder.py in a node."""

    async def answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        """Return the answer, or raise RejectionError or StorageError to refuse; the bulk is looked at no more then."""
        ...


@dataclass(slots=True)
class ShardServer:
    """The answering side of a node: who is accepted, who is connected, what was refused."""

    identity: SigningKey
    handler: ShardHandler
    refused: Counter[RejectionReason] = field(default_factory=Counter[RejectionReason])
    _listeners: list[trio.SocketListener] = field(default_factory=list["trio.SocketListener"])
    _accepted: dict[bytes, PublicKey] = field(default_factory=dict[bytes, "PublicKey"])
    _context: ssl.SSLContext | None = None
    _frames: BufferPool = field(default_factory=lambda: BufferPool(FRAMES_KEPT_MAX, FRAME_BYTES_MAX))
    _connections: dict[trio.CancelScope, PublicKey | None] = field(
        default_factory=dict[trio.CancelScope, "PublicKey | None"]
    )

    def accept_only(self, certificates: Iterable[bytes]) -> None:
        """Replace the accepted certificates; connections of others are cut.

        Raises:
            RejectionError: One is not a certificate of ours (certificates.py).
        """
        self._accepted = {certificate: key_of_certificate(certificate) for certificate in certificates}
        self._context = server_context(self.identity, self._accepted)
        keys = set(self._accepted.values())
        for scope, peer in self._connections.items():
            if peer is not None and peer not in keys:
                scope.cancel()

    async def listen(self, host: str, port: int) -> int:
        """Take the port (0: any free one) and return it; serve() answers.

        Raises:
            ConfigurationError: The port is in use or not ours to take.
        """
        assert not self._listeners, "listens once"
        try:
            self._listeners = list(await trio.open_tcp_listeners(port, host=host))
        except OSError as error:
            raise ConfigurationError(
                f"shard port {host}:{port} cannot be used ({error.strerror}): choose another, or stop who has it"
            ) from error
        return int(self._listeners[0].socket.getsockname()[1])

    async def serve(self) -> None:
        """Answer until cancelled; closes the port then."""
        assert self._listeners, "listen() comes first"
        await trio.serve_listeners(self._connected, self._listeners)

    async def _connected(self, stream: trio.SocketStream) -> None:
        """Serve one connection; nothing that a peer does may raise from here."""
        if self._context is None or not self._has_room():
            await trio.aclose_forcefully(stream)
            return
        pipe = TlsPipe(stream, self._context, server_side=ssl.Purpose.CLIENT_AUTH)
        with trio.CancelScope() as scope:
            self._connections[scope] = None
            try:
                peer = await self._identify(pipe)
                self._admit(scope, peer)
                await _Answering(pipe, peer, self.handler, self._frames).run()
            except RejectionError as error:
                self._note_refusal(scope, error.reason, error.detail)
            except FrameCutOffError as error:
                self._note_refusal(scope, RejectionReason.MALFORMED, str(error))
            except PeerUnreachableError as error:
                LOGGER.debug("shard channel: %s", error)
            finally:
                self._connections.pop(scope, None)
                with trio.CancelScope(shield=True):
                    await pipe.aclose()

    def _has_room(self) -> bool:
        """Say whether one more may connect; the oldest that has shown no certificate yet gives way to it."""
        if len(self._connections) < CONNECTIONS_MAX:
            return True
        oldest = next((scope for scope, peer in self._connections.items() if peer is None), None)
        if oldest is None:
            return False
        del self._connections[oldest]
        oldest.cancel()
        return True

    def _note_refusal(self, scope: trio.CancelScope, reason: RejectionReason, detail: str) -> None:
        peer = self._connections.get(scope)
        name = "a stranger" if peer is None else f"peer {peer.hex()[:16]}"
        self.refused[reason] += 1
        LOGGER.info("shard channel: refused %s: %s: %s", name, reason, detail)

    async def _identify(self, pipe: TlsPipe) -> PublicKey:
        with deadline(HANDSHAKE_S, "handshake"):
            certificate = await pipe.handshake()
        # OpenSSL checked a chain; we check the bytes, against the set as it is now.
        peer = self._accepted.get(certificate)
        if peer is None:
            raise RejectionError(RejectionReason.NOT_A_MEMBER, "certificate not in the accepted set")
        return peer

    def _admit(self, scope: trio.CancelScope, peer: PublicKey) -> None:
        if sum(1 for other in self._connections.values() if other == peer) >= CONNECTIONS_PER_PEER_MAX:
            raise RejectionError(RejectionReason.QUEUE_FULL, f"{CONNECTIONS_PER_PEER_MAX} connections of one peer")
        self._connections[scope] = peer


class _Answering:
    """The answering side of one connection."""

    def __init__(self, pipe: TlsPipe, peer: PublicKey, handler: ShardHandler, frames: BufferPool) -> None:
        self._pipe = pipe
        self._peer = peer
        self._handler = handler
        self._frames = frames
        self._outbox = Outbox()
        self._window = trio.Semaphore(WINDOW)

    async def run(self) -> None:
        """Answer until the peer closes, breaks a rule or falls silent.

        Raises:
            RejectionError: It broke a rule.
            PeerUnreachableError: It is gone.
        """
        ended: RejectionError | PeerUnreachableError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.send_all, self._pipe)
                await self._receive_all(nursery)
                nursery.cancel_scope.cancel()
        except* (RejectionError, PeerUnreachableError) as errors:
            ended = first_of(errors)
        if ended is not None:
            raise ended

    async def _receive_all(self, nursery: trio.Nursery) -> None:
        while True:
            await self._window.acquire()
            with deadline(IDLE_S, "next request"):
                length = await self._pipe.receive_length(bytes_max=FRAME_BYTES_MAX)
            if length is None:
                return
            lent = self._frames.take() if length > SHORT_FRAME_BYTES else None
            frame = memoryview(bytearray(length) if lent is None else lent)[:length]
            with deadline(FRAME_S, "rest of a frame"):
                await self._pipe.receive_filling(frame)
            nursery.start_soon(self._answer, decode_request(frame), lent)

    async def _answer(self, request: RequestFrame, lent: mmap | None) -> None:
        message = await self._answered(request)
        if lent is not None:
            self._frames.give_back(lent)
        await self._outbox.send(encode_frame(request.number, message))
        self._window.release()  # only now, so that a peer that reads nothing holds at most a window of answers

    async def _answered(self, request: RequestFrame) -> Message:
        try:
            return await self._handler.answer(self._peer, request)
        except FatalStoreError:
            raise  # the process must stop, whoever asked
        except (RejectionError, StorageError) as error:
            return Message(refusal_of(error))
