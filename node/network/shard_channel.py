"""The shard channel: bulk between two parties that know each other's certificates (DESIGN section 8).

Rules:

1. TLS 1.3, both sides show the self-signed certificate of their key. A server accepts exactly the certificates it was
   given (members, granted clients), a client exactly the one of the seat it dials. Others end in the handshake: no byte
   of theirs reaches the application. The accepted set may change at any time; who left it is disconnected.
2. The dialling side asks, the other answers; requests carry numbers and are answered in any order. At most
   WINDOW requests of a connection are open: beyond that the server stops reading, and TCP holds the sender back.
3. Short frames go before long ones, and a long frame is at most 1 MiB: a question never waits behind a whole transfer.
4. Every wait for a peer has a deadline: handshake, rest of a frame, a send, an answer. A malformed frame, an answer
   nobody asked for, or a missed deadline ends the connection; what was open on it fails with PeerUnreachableError.
5. Reconnecting is the caller's, who knows which holders matter now.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import RejectionError, RejectionReason
from node.errors import ConfigurationError, PeerUnreachableError
from node.network.certificates import client_context, key_of_certificate, server_context
from node.network.shard_messages import (
    FRAME_BYTES_MAX,
    REQUEST_NUMBER_MAX,
    AnswerFrame,
    AskHeld,
    AskReceipt,
    HeldAnswer,
    LeavesAnswer,
    Message,
    PieceAnswer,
    ReadLeaves,
    ReadPiece,
    ReadRecords,
    ReceiptAnswer,
    RecordsAnswer,
    RequestFrame,
    Stored,
    StoreUnits,
    decode_answer,
    decode_request,
    encode_frame,
    expect_answer,
    refusal_of,
)
from node.network.tls_pipe import TlsPipe
from storage.errors import FatalStoreError, StorageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from consensus.identifiers import Height, PublicKey
    from consensus.signing import SigningKey
    from node.network.shard_messages import Buffer
    from storage.identifiers import ColumnIndex, RecordAddress, SegmentId, TenantId
    from storage.receipts import Receipt, ReceiptItem

LOGGER: Final = logging.getLogger(__name__)
WINDOW: Final = 8
"""Open requests of one connection: 8 MiB in flight fill a link of 1 Gbit/s with 60 ms of delay."""
UNANSWERED_MAX: Final = 4 * WINDOW
"""Requests given up by their callers and never answered, before the connection is given up too."""
SHORT_FRAME_BYTES: Final = 64 * 1024
CONNECTIONS_MAX: Final = 256
"""Of one server, handshakes included: 8 members and the granted clients, with room for reconnections."""
CONNECTIONS_PER_PEER_MAX: Final = 8
HANDSHAKE_S: Final = 10.0
FRAME_S: Final = 30.0
"""From a frame's length to its last byte, and for sending one: 1.3 MiB at 44 kB/s."""
IDLE_S: Final = 600.0
"""A server closes a connection on which nothing was asked for so long."""
ANSWER_S: Final = 30.0
"""The usual wait for an answer; callers who know better say so."""


class ShardHandler(Protocol):
    """Who answers; node/holder.py in a node."""

    async def answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        """Return the answer, or raise RejectionError or StorageError to refuse."""
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
            raise ConfigurationError(f"shard channel cannot listen on {host}:{port}: {error}") from error
        return int(self._listeners[0].socket.getsockname()[1])

    async def serve(self) -> None:
        """Answer until cancelled; closes the port then."""
        assert self._listeners, "listen() comes first"
        await trio.serve_listeners(self._connected, self._listeners)

    async def _connected(self, stream: trio.SocketStream) -> None:
        """Serve one connection; nothing that a peer does may raise from here."""
        if self._context is None or len(self._connections) >= CONNECTIONS_MAX:
            await trio.aclose_forcefully(stream)
            return
        pipe = TlsPipe(stream, self._context, server_side=ssl.Purpose.CLIENT_AUTH)
        with trio.CancelScope() as scope:
            self._connections[scope] = None
            try:
                peer = await self._identify(pipe)
                self._admit(scope, peer)
                await _Answering(pipe, peer, self.handler).run()
            except RejectionError as error:
                self.refused[error.reason] += 1
                LOGGER.info("shard channel: refused %s", error)
            except PeerUnreachableError as error:
                LOGGER.debug("shard channel: %s", error)
            finally:
                del self._connections[scope]
                with trio.CancelScope(shield=True):
                    await pipe.aclose()

    async def _identify(self, pipe: TlsPipe) -> PublicKey:
        with _deadline(HANDSHAKE_S, "handshake"):
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


class ShardClient:
    """The dialling side of one connection. Open it with open_shard_client()."""

    def __init__(self, pipe: TlsPipe) -> None:
        self._pipe = pipe
        self._outbox = _Outbox()
        self._window = trio.Semaphore(WINDOW)
        self._open: dict[int, _OpenRequest] = {}
        self._next_number = 0
        self._broken: RejectionError | PeerUnreachableError | None = None

    @property
    def broken(self) -> bool:
        """Whether the connection is gone; requests fail from then on."""
        return self._broken is not None

    async def request(self, message: Message, *, deadline_s: float = ANSWER_S) -> AnswerFrame:
        """Send a request and return its answer, which may be Refused; the deadline covers both.

        Raises:
            PeerUnreachableError: No answer in time, or the connection is gone.
            RejectionError: The peer broke the protocol or does not accept our certificate.
        """
        with _deadline(deadline_s, "answer"):
            async with self._window:
                return await self._ask(message)

    async def store_units(self, header: StoreUnits, units: Buffer, *, deadline_s: float = ANSWER_S) -> None:
        """Have a piece of a shard stored durably.

        Raises:
            RejectionError: Refused, with its reason. Also for every method below.
            StorageError: The holder cannot: full, unavailable, missing, corrupt. Also for every method below.
            PeerUnreachableError: As request(). Also for every method below.
        """
        answer = await self.request(Message(header, (units,)), deadline_s=deadline_s)
        expect_answer(answer.body, Stored)

    async def ask_receipt(
        self,
        tenant: TenantId,
        items: Sequence[ReceiptItem],
        expiry_height: Height,
        *,
        deadline_s: float = ANSWER_S,
    ) -> Receipt | None:
        """Return the holder's receipt for those of the items it has, None when it has none."""
        body = AskReceipt(tenant=tenant, items=tuple(items), expiry_height=expiry_height)
        answer = await self.request(Message(body), deadline_s=deadline_s)
        return expect_answer(answer.body, ReceiptAnswer).receipt

    async def read_leaves(
        self,
        segment_id: SegmentId,
        column: ColumnIndex,
        first_leaf: int,
        leaf_count: int,
        *,
        deadline_s: float = ANSWER_S,
    ) -> tuple[memoryview, tuple[bytes, ...]]:
        """Return leaves and their proof, for storage.merkle.check_range()."""
        body = ReadLeaves(segment_id=segment_id, column=column, first_leaf=first_leaf, leaf_count=leaf_count)
        answer = await self.request(Message(body), deadline_s=deadline_s)
        return answer.bulk, expect_answer(answer.body, LeavesAnswer).proof

    async def read_piece(
        self,
        segment_id: SegmentId,
        column: ColumnIndex,
        first_leaf: int,
        leaf_count: int,
        *,
        deadline_s: float = ANSWER_S,
    ) -> memoryview:
        """Return leaves without a proof; the caller checks the whole shard's root before using any."""
        body = ReadPiece(segment_id=segment_id, column=column, first_leaf=first_leaf, leaf_count=leaf_count)
        answer = await self.request(Message(body), deadline_s=deadline_s)
        expect_answer(answer.body, PieceAnswer)
        return answer.bulk

    async def ask_held(
        self, segment_ids: Sequence[SegmentId], *, deadline_s: float = ANSWER_S
    ) -> tuple[frozenset[int], ...]:
        """Return, per segment asked, the columns that the holder says it has."""
        answer = await self.request(Message(AskHeld(segment_ids=tuple(segment_ids))), deadline_s=deadline_s)
        bitmaps = expect_answer(answer.body, HeldAnswer).columns
        if len(bitmaps) != len(segment_ids):
            raise RejectionError(RejectionReason.MALFORMED, f"{len(bitmaps)} answers for {len(segment_ids)} segments")
        return tuple(frozenset(i for i in range(bits.bit_length()) if bits >> i & 1) for bits in bitmaps)

    async def read_records(
        self, addresses: Sequence[RecordAddress], *, deadline_s: float = ANSWER_S
    ) -> tuple[bytes | None, ...]:
        """Return, per address asked, the sealed record or None; the caller recomputes the address."""
        answer = await self.request(Message(ReadRecords(addresses=tuple(addresses))), deadline_s=deadline_s)
        lengths = expect_answer(answer.body, RecordsAnswer).record_bytes
        if len(lengths) != len(addresses) or sum(lengths) != answer.bulk.nbytes:
            raise RejectionError(RejectionReason.MALFORMED, "records of other lengths than said")
        records: list[bytes | None] = []
        start = 0
        for length in lengths:
            records.append(bytes(answer.bulk[start : start + length]) if length else None)
            start += length
        return tuple(records)

    async def aclose(self) -> None:
        """Close at once; what is open fails."""
        self._fail(PeerUnreachableError("closed"))
        await self._pipe.aclose()

    async def _ask(self, message: Message) -> AnswerFrame:
        if self._broken is not None:
            raise PeerUnreachableError(f"connection is gone: {self._broken}")
        number = self._next_number
        self._next_number = (number + 1) % (REQUEST_NUMBER_MAX + 1)
        if len(self._open) >= UNANSWERED_MAX:
            await self.aclose()
            raise PeerUnreachableError(f"{UNANSWERED_MAX} requests without an answer")
        waiting = self._open[number] = _OpenRequest()
        await self._outbox.send(encode_frame(number, message))
        await waiting.finished.wait()
        return waiting.outcome()

    async def run(self) -> None:
        """Send and receive until the connection ends; started by open_shard_client()."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.send_all, self._pipe)
                await self._receive_all()
                nursery.cancel_scope.cancel()
        except* (RejectionError, PeerUnreachableError) as errors:
            self._fail(_first_of(errors))
        else:
            self._fail(PeerUnreachableError("the peer closed the connection"))
        finally:
            with trio.CancelScope(shield=True):
                await self._pipe.aclose()

    async def _receive_all(self) -> None:
        while (length := await self._pipe.receive_length(bytes_max=FRAME_BYTES_MAX)) is not None:
            with _deadline(FRAME_S, "rest of a frame"):
                frame = await self._pipe.receive_exactly(length)
            answer = decode_answer(frame)
            waiting = self._open.pop(answer.number, None)
            if waiting is None:
                raise RejectionError(RejectionReason.MALFORMED, f"answer {answer.number} to no request")
            waiting.finish(answer)

    def _fail(self, error: RejectionError | PeerUnreachableError) -> None:
        if self._broken is None:
            self._broken = error
        self._outbox.abandon()
        for waiting in self._open.values():
            waiting.finish(error)
        self._open.clear()


async def open_shard_client(
    nursery: trio.Nursery,
    host: str,
    port: int,
    identity: SigningKey,
    peer_certificate: bytes,
    *,
    deadline_s: float = HANDSHAKE_S,
) -> ShardClient:
    """Dial a seat; the connection lives in the nursery until aclose() or its end.

    Args:
        nursery: Where its tasks run; they never raise into it.
        host: From the seat's record.
        port: Its shard port.
        identity: Our network key or client key.
        peer_certificate: The seat's certificate, DER; nobody else is talked to.
        deadline_s: For connecting and the handshake together.

    Raises:
        PeerUnreachableError: Nobody answers there in time.
        RejectionError: NOT_A_MEMBER when somebody else answers. That *we* are refused shows at the first request.
    """
    client = ShardClient(await _connect(host, port, identity, peer_certificate, deadline_s))
    nursery.start_soon(client.run)
    return client


async def _connect(host: str, port: int, identity: SigningKey, peer_certificate: bytes, deadline_s: float) -> TlsPipe:
    try:
        with _deadline(deadline_s, "connection"):
            stream = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=0.25)
            pipe = TlsPipe(stream, client_context(identity, peer_certificate), server_side=ssl.Purpose.SERVER_AUTH)
            shaken = False
            try:
                shown = await pipe.handshake()
                shaken = shown == peer_certificate
            finally:
                if not shaken:
                    await pipe.aclose()
            if not shaken:
                raise RejectionError(RejectionReason.NOT_A_MEMBER, "another certificate than the seat's")
            return pipe
    except OSError as error:
        raise PeerUnreachableError(f"{host}:{port}: {error}") from error


@dataclass(slots=True)
class _OpenRequest:
    """Who waits for an answer."""

    finished: trio.Event = field(default_factory=trio.Event)
    result: AnswerFrame | RejectionError | PeerUnreachableError | None = None

    def finish(self, result: AnswerFrame | RejectionError | PeerUnreachableError) -> None:
        self.result = result
        self.finished.set()

    def outcome(self) -> AnswerFrame:
        match self.result:
            case AnswerFrame():
                return self.result
            case RejectionError():
                raise RejectionError(self.result.reason, self.result.detail)
            case _:
                raise PeerUnreachableError(str(self.result))


@dataclass(slots=True, eq=False)
class _Departure:
    """A frame on its way out."""

    frame: tuple[Buffer, ...]
    left: trio.Event = field(default_factory=trio.Event)


class _Outbox:
    """Frames waiting to be sent, short ones first; bounded by the window of open requests."""

    def __init__(self) -> None:
        self._short: deque[_Departure] = deque()
        self._long: deque[_Departure] = deque()
        self._waiting = trio.Event()

    async def send(self, frame: tuple[Buffer, ...]) -> None:
        """Return once the frame has left; a cancelled caller takes it back unless it is leaving already."""
        queue = self._short if sum(memoryview(part).nbytes for part in frame) <= SHORT_FRAME_BYTES else self._long
        departure = _Departure(frame)
        queue.append(departure)
        self._waiting.set()
        try:
            await departure.left.wait()
        finally:
            if departure in queue:
                queue.remove(departure)

    async def send_all(self, pipe: TlsPipe) -> None:
        """Send for ever.

        Raises:
            PeerUnreachableError: Gone, or the peer takes nothing.
        """
        while True:
            await self._waiting.wait()
            queue = self._short or self._long
            if not queue:
                self._waiting = trio.Event()
                continue
            departure = queue.popleft()
            try:
                with _deadline(FRAME_S, "room to send"):
                    await pipe.send_frame(departure.frame)
            finally:
                departure.left.set()

    def abandon(self) -> None:
        """Let everybody who waits go: nothing more will leave."""
        for departure in (*self._short, *self._long):
            departure.left.set()


class _Answering:
    """The answering side of one connection."""

    def __init__(self, pipe: TlsPipe, peer: PublicKey, handler: ShardHandler) -> None:
        self._pipe = pipe
        self._peer = peer
        self._handler = handler
        self._outbox = _Outbox()
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
            ended = _first_of(errors)
        if ended is not None:
            raise ended

    async def _receive_all(self, nursery: trio.Nursery) -> None:
        while True:
            await self._window.acquire()
            with _deadline(IDLE_S, "next request"):
                length = await self._pipe.receive_length(bytes_max=FRAME_BYTES_MAX)
            if length is None:
                return
            with _deadline(FRAME_S, "rest of a frame"):
                frame = await self._pipe.receive_exactly(length)
            nursery.start_soon(self._answer, decode_request(frame))

    async def _answer(self, request: RequestFrame) -> None:
        try:
            message = await self._handler.answer(self._peer, request)
        except FatalStoreError:
            raise  # the process must stop, whoever asked
        except (RejectionError, StorageError) as error:
            message = Message(refusal_of(error))
        await self._outbox.send(encode_frame(request.number, message))
        self._window.release()  # only now, so that a peer that reads nothing holds at most a window of answers


@contextmanager
def _deadline(seconds: float, waited_for: str) -> Generator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise PeerUnreachableError(f"no {waited_for} within {seconds:g} s") from None


def _first_of(
    errors: BaseExceptionGroup[RejectionError | PeerUnreachableError],
) -> RejectionError | PeerUnreachableError:
    """Return the most telling of the errors that ended a connection: a broken rule before a broken link."""
    flat = _flatten(errors)
    return next((error for error in flat if isinstance(error, RejectionError)), flat[0])


def _flatten(
    errors: BaseExceptionGroup[RejectionError | PeerUnreachableError],
) -> list[RejectionError | PeerUnreachableError]:
    flat: list[RejectionError | PeerUnreachableError] = []
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            flat.extend(_flatten(error))
        else:
            flat.append(error)
    return flat
