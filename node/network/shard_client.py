"""The asking side of the shard channel (rules in shard_channel.py)."""

from __future__ import annotations

import ssl
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError, RejectionReason
from node.errors import PeerUnreachableError
from node.network.certificates import client_context, key_of_certificate
from node.network.shard_connection import FRAME_S, HANDSHAKE_S, WINDOW, Outbox, deadline, first_of
from node.network.shard_messages import (
    BULK_BYTES_MAX,
    FRAME_BYTES_MAX,
    PREFIX_BYTES,
    REQUEST_NUMBER_MAX,
    AnswerFrame,
    AskHeight,
    AskHeld,
    AskReceipt,
    AskVoucher,
    HeightAnswer,
    HeldAnswer,
    LeavesAnswer,
    Message,
    PieceAnswer,
    RangesAnswer,
    ReadLeaves,
    ReadPiece,
    ReadRanges,
    ReadRecords,
    ReadRequest,
    ReceiptAnswer,
    RecordsAnswer,
    Stored,
    StoreUnits,
    VoucherAnswer,
    decode_answer_header,
    decode_prefix,
    encode_frame,
    expect_answer,
    ranges_asked,
)
from node.network.tls_pipe import TlsPipe
from storage.identifiers import LEAF_BYTES
from storage.read_receipts import sign_read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.identifiers import Buffer, GenesisHash, Height, Milliseconds
    from consensus.signing import SigningKey
    from storage.identifiers import ColumnIndex, RecordAddress, SegmentId, TenantId
    from storage.moves import Move, Voucher
    from storage.read_receipts import LeafRange, SignedRead
    from storage.receipts import Receipt, ReceiptItem

UNANSWERED_MAX: Final = 4 * WINDOW
"""Requests given up by their callers and never answered, before the connection is given up too."""
ANSWER_S: Final = 30.0
"""The usual wait for an answer; callers who know better say so."""
VOUCHER_S: Final = 120.0
"""A member reads and codes 16 MiB first, behind others who asked before."""
_UNWANTED: Final = memoryview(bytearray(BULK_BYTES_MAX))
"""Where bytes go that nobody waits for any more; never read."""


class ShardClient:
    """The dialling side of one connection. Open it with open_shard_client()."""

    def __init__(self, pipe: TlsPipe, sign: Callable[[ReadRequest], SignedRead] | None = None) -> None:
        """Ask over a pipe; `sign` gives a member's word for each question for leaves (rule S65)."""
        self._pipe = pipe
        self._sign = sign
        self._outbox = Outbox()
        self._window = trio.Semaphore(WINDOW)
        self._open: dict[int, _OpenRequest] = {}
        self._next_number = 0
        self._broken: RejectionError | PeerUnreachableError | None = None

    @property
    def broken(self) -> bool:
        """Whether the connection is gone; requests fail from then on."""
        return self._broken is not None

    async def request(
        self, message: Message, *, deadline_s: float = ANSWER_S, into: Sequence[memoryview] = ()
    ) -> AnswerFrame:
        """Send a request and return its answer, which may be Refused; the deadline covers both.

        Args:
            message: What is asked.
            deadline_s: For sending, waiting and receiving.
            into: Where a bulk of exactly these lengths is received; the answer's own is empty then. Once this returns
                or raises, nothing is written there any more.

        Raises:
            PeerUnreachableError: No answer in time, or the connection is gone.
            RejectionError: The peer broke the protocol or does not accept our certificate.
        """
        if self._sign is not None and isinstance(message.body, ReadRequest):
            message = replace(message, signed=self._sign(message.body))
        with deadline(deadline_s, "answer"):
            async with self._window:
                return await self._ask(message, _BulkTarget(into) if into else None)

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

    async def read_piece_into(
        self,
        segment_id: SegmentId,
        column: ColumnIndex,
        first_leaf: int,
        into: Sequence[memoryview],
        *,
        deadline_s: float = ANSWER_S,
    ) -> None:
        """Receive whole leaves without a proof to where they belong, as many as these views hold together."""
        wanted_bytes = sum(view.nbytes for view in into)
        leaves = -(-wanted_bytes // LEAF_BYTES)
        body = ReadPiece(segment_id=segment_id, column=column, first_leaf=first_leaf, leaf_count=leaves)
        answer = await self.request(Message(body), deadline_s=deadline_s, into=into)
        expect_answer(answer.body, PieceAnswer)
        if answer.received_bytes != wanted_bytes:
            detail = f"{answer.bulk.nbytes} bytes of leaves, {wanted_bytes} asked for"
            raise RejectionError(RejectionReason.MALFORMED, detail)

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

    async def read_ranges(
        self, ranges: Sequence[LeafRange], *, deadline_s: float = ANSWER_S
    ) -> tuple[tuple[memoryview, tuple[bytes, ...]] | None, ...]:
        """Return, per range asked, leaves and their proof, None where the holder has none of it."""
        answer = await self.request(Message(ReadRanges(ranges=tuple(ranges))), deadline_s=deadline_s)
        found = expect_answer(answer.body, RangesAnswer).found
        found_bytes = sum(part.range_bytes for part in found if part is not None)
        if len(found) != len(ranges) or found_bytes != answer.bulk.nbytes:
            raise RejectionError(RejectionReason.MALFORMED, "ranges of other lengths than said")
        rest = answer.bulk
        parts: list[tuple[memoryview, tuple[bytes, ...]] | None] = []
        for part in found:
            parts.append(None if part is None else (rest[: part.range_bytes], part.proof))
            rest = rest[0 if part is None else part.range_bytes :]
        return tuple(parts)

    async def ask_height(self, *, deadline_s: float = ANSWER_S) -> Height:
        """Return up to which height the seat says it has precommitted; it may lie."""
        answer = await self.request(Message(AskHeight()), deadline_s=deadline_s)
        return expect_answer(answer.body, HeightAnswer).height

    async def ask_voucher(self, move: Move, *, deadline_s: float = VOUCHER_S) -> Voucher:
        """Return the member's word for a move; the caller checks its signature."""
        answer = await self.request(Message(AskVoucher(move=move)), deadline_s=deadline_s)
        return expect_answer(answer.body, VoucherAnswer).voucher

    async def aclose(self) -> None:
        """Close at once; what is open fails."""
        self._fail(PeerUnreachableError("closed"))
        await self._pipe.aclose()

    async def _ask(self, message: Message, target: _BulkTarget | None) -> AnswerFrame:
        if self._broken is not None:
            raise PeerUnreachableError(f"connection is gone: {self._broken}")
        number = self._next_number
        self._next_number = (number + 1) % (REQUEST_NUMBER_MAX + 1)
        if len(self._open) >= UNANSWERED_MAX:
            await self.aclose()
            raise PeerUnreachableError(f"{UNANSWERED_MAX} requests without an answer")
        waiting = self._open[number] = _OpenRequest(target)
        try:
            await self._outbox.send(encode_frame(number, message))
            await waiting.finished.wait()
        finally:
            if target is not None:
                target.give_back()
        return waiting.outcome()

    async def run(self) -> None:
        """Send and receive until the connection ends; started by open_shard_client()."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.send_all, self._pipe)
                await self._receive_all()
                nursery.cancel_scope.cancel()
        except* (RejectionError, PeerUnreachableError) as errors:
            self._fail(first_of(errors))
        else:
            self._fail(PeerUnreachableError("the peer closed the connection"))
        finally:
            with trio.CancelScope(shield=True):
                await self._pipe.aclose()

    async def _receive_all(self) -> None:
        while (length := await self._pipe.receive_length(bytes_max=FRAME_BYTES_MAX)) is not None:
            with deadline(FRAME_S, "rest of a frame"):
                await self._receive_answer(length)

    async def _receive_answer(self, length: int) -> None:
        prefix = decode_prefix(await self._pipe.receive_exactly(min(length, PREFIX_BYTES)), length)
        header = await self._pipe.receive_exactly(prefix.header_bytes)
        body = decode_answer_header(bytes(header), prefix.bulk_bytes)
        waiting = self._open.get(prefix.number)
        if waiting is None:
            raise RejectionError(RejectionReason.MALFORMED, f"answer {prefix.number} to no request")
        target = waiting.target
        if target is not None and target.byte_count == prefix.bulk_bytes:
            await self._pipe.receive_into(target, prefix.bulk_bytes)
            answer = AnswerFrame(prefix.number, body, memoryview(b""), prefix.bulk_bytes)
        else:
            answer = AnswerFrame(prefix.number, body, await self._pipe.receive_exactly(prefix.bulk_bytes))
        del self._open[prefix.number]  # only now: whoever waits learns of a connection that ends meanwhile
        waiting.finish(answer)

    def _fail(self, error: RejectionError | PeerUnreachableError) -> None:
        if self._broken is None:
            self._broken = error
        self._outbox.abandon()
        for waiting in self._open.values():
            waiting.finish(error)
        self._open.clear()


@dataclass(frozen=True, slots=True)
class MemberReads:
    """What a member needs to sign for what it reads (rule S65), beside the network key that it dials with."""

    genesis_hash: GenesisHash
    now_ms: Callable[[], Milliseconds]

    def signer(self, network_key: SigningKey, peer_certificate: bytes) -> Callable[[ReadRequest], SignedRead]:
        """Return what signs questions to the holder of a certificate; raises RejectionError where it is none."""
        holder = key_of_certificate(peer_certificate)

        def sign(body: ReadRequest) -> SignedRead:
            ranges = ranges_asked(body)
            return sign_read(network_key, self.genesis_hash, holder=holder, time_ms=self.now_ms(), ranges=ranges)

        return sign


async def open_shard_client(
    nursery: trio.Nursery,
    host: str,
    port: int,
    identity: SigningKey,
    peer_certificate: bytes,
    *,
    deadline_s: float = HANDSHAKE_S,
    reads: MemberReads | None = None,
) -> ShardClient:
    """Dial a seat; the connection lives in the nursery until aclose() or its end.

    Args:
        nursery: Where its tasks run; they never raise into it.
        host: From the seat's record.
        port: Its shard port.
        identity: Our network key or client key.
        peer_certificate: The seat's certificate, DER; nobody else is talked to.
        deadline_s: For connecting and the handshake together.
        reads: With a member's identity: signs for what is read.

    Raises:
        PeerUnreachableError: Nobody answers there in time.
        RejectionError: NOT_A_MEMBER when somebody else answers. That *we* are refused shows at the first request.
    """
    sign = None if reads is None else reads.signer(identity, peer_certificate)
    client = ShardClient(await _connect(host, port, identity, peer_certificate, deadline_s), sign)
    nursery.start_soon(client.run)
    return client


async def _connect(host: str, port: int, identity: SigningKey, peer_certificate: bytes, deadline_s: float) -> TlsPipe:
    try:
        with deadline(deadline_s, "connection"):
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


class _BulkTarget:
    """Where an answer's bulk belongs; implements Landing. Given back, it takes nothing more."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.byte_count = sum(view.nbytes for view in views)
        self._rest = deque(views)
        self._is_given_back = False

    def give_back(self) -> None:
        self._is_given_back = True
        self._rest.clear()

    def room(self) -> memoryview:
        return _UNWANTED if self._is_given_back else self._rest[0]

    def advance(self, byte_count: int) -> None:
        if self._is_given_back:
            return
        left = self._rest.popleft()[byte_count:]
        if left:
            self._rest.appendleft(left)


@dataclass(slots=True)
class _OpenRequest:
    """Who waits for an answer."""

    target: _BulkTarget | None
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
