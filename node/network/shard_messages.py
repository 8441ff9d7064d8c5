"""What is asked and answered on the shard channel, byte by byte.

A frame, after its length on the wire (shard_channel.py):

    request number (4, big-endian) || header bytes (4, big-endian) || header || bulk

The header is a canonical record: a Request from the dialling side, with a member's word for the leaves that it asks for
(storage/read_receipts.py), an Answer from the other, each naming the request number it belongs to. The bulk (units,
leaves, sealed records) follows raw, so that large buffers are never copied through MessagePack. Header at most
HEADER_BYTES_MAX, bulk at most BULK_BYTES_MAX; only the messages that say so carry
bulk. Every answer is the request's own, or Refused.

| Request (tag) | Bulk | Answer (tag) | Bulk |
|---|---|---|---|
| StoreUnits (1) | whole units, in order | Stored (1), when durable | |
| AskReceipt (2) | | ReceiptAnswer (2) | |
| ReadLeaves (3) | | LeavesAnswer (3), with a proof | leaves |
| ReadPiece (4) | | PieceAnswer (4), without one | leaves |
| AskHeld (5) | | HeldAnswer (5) | |
| ReadRecords (6) | | RecordsAnswer (6) | records, joined |
| ReadRanges (7) | | RangesAnswer (8) | leaves of those that are here, joined |
| AskVoucher (8) | | VoucherAnswer (9) | |
| AskHeight (50) | | HeightAnswer (50) | |
| any | | Refused (7) | |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, TypeVar

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import GrandestError, RejectionError, RejectionReason
from consensus.identifiers import HASH, HEIGHT, Buffer, Height
from consensus.merkle import RANGE_PROOF_MAX
from storage.errors import (
    ShardCorruptError,
    ShardMissingError,
    StorageError,
    StoreFullError,
    StoreUnavailableError,
)
from storage.identifiers import (
    COLUMN,
    COLUMNS_MAX,
    LEAF_BYTES,
    SEGMENT,
    SEGMENT_BYTES,
    SEGMENT_BYTES_MAX,
    TENANT,
    ColumnIndex,
    RecordAddress,
    SegmentId,
    TenantId,
)
from storage.moves import Move, Voucher
from storage.read_receipts import LEAVES_PER_READ_MAX, RANGES_PER_READ_MAX, LeafRange, LeafRanges, SignedRead
from storage.receipts import RECEIPT_SEGMENTS_MAX, Receipt, ReceiptItem
from storage.records import RECORD_BYTES_MAX

BULK_BYTES_MAX: Final = 1024 * 1024
"""16 units, 64 leaves, or 64 sealed records of 16 KiB."""
HEADER_BYTES_MAX: Final = 256 * 1024
"""AskReceipt is the longest: 2,048 items of about 80 bytes."""
PREFIX_BYTES: Final = 8
"""Request number and header length."""
FRAME_BYTES_MAX: Final = PREFIX_BYTES + HEADER_BYTES_MAX + BULK_BYTES_MAX
REQUEST_NUMBER_MAX: Final = 2**32 - 1
RECORDS_PER_READ_MAX: Final = BULK_BYTES_MAX // RECORD_BYTES_MAX
DETAIL_LENGTH_MAX: Final = 256

_LEAF = Meta(ge=0, le=SEGMENT_BYTES_MAX // LEAF_BYTES - 1)
_LEAF_COUNT = Meta(ge=1, le=LEAVES_PER_READ_MAX)


class StoreUnits(Record, tag=1):
    """Keep a piece of a shard: the bulk, from `offset` (a multiple of UNIT_BYTES) on, whole units or to the end.

    The first piece of a shard fixes tenant and shape; a later one that disagrees is refused. Answered when durable.
    """

    tenant: Annotated[TenantId, TENANT]
    segment_id: Annotated[SegmentId, SEGMENT]
    column: Annotated[ColumnIndex, COLUMN]
    k: Annotated[int, Meta(ge=1, le=COLUMNS_MAX)]
    segment_bytes: Annotated[int, SEGMENT_BYTES]
    offset: Annotated[int, Meta(ge=0, le=SEGMENT_BYTES_MAX)]


class AskReceipt(Record, tag=2):
    """Sign for this seat's column of every segment of one transaction, in its order."""

    tenant: Annotated[TenantId, TENANT]
    items: Annotated[tuple[ReceiptItem, ...], Meta(min_length=1, max_length=RECEIPT_SEGMENTS_MAX)]
    expiry_height: Annotated[Height, HEIGHT]


class ReadLeaves(Record, tag=3):
    """Send leaves of a shard and the proof that they stand under its root; one random leaf proves possession."""

    segment_id: Annotated[SegmentId, SEGMENT]
    column: Annotated[ColumnIndex, COLUMN]
    first_leaf: Annotated[int, _LEAF]
    leaf_count: Annotated[int, _LEAF_COUNT]


class ReadPiece(Record, tag=4):
    """Send leaves without a proof; for who reads the whole shard and checks its root at the end."""

    segment_id: Annotated[SegmentId, SEGMENT]
    column: Annotated[ColumnIndex, COLUMN]
    first_leaf: Annotated[int, _LEAF]
    leaf_count: Annotated[int, _LEAF_COUNT]


class AskHeld(Record, tag=5):
    """Say which columns of these segments are stored completely."""

    segment_ids: Annotated[
        tuple[Annotated[SegmentId, SEGMENT], ...], Meta(min_length=1, max_length=RECEIPT_SEGMENTS_MAX)
    ]


class ReadRecords(Record, tag=6):
    """Send sealed records."""

    addresses: Annotated[
        tuple[Annotated[RecordAddress, HASH], ...], Meta(min_length=1, max_length=RECORDS_PER_READ_MAX)
    ]


class ReadRanges(Record, tag=7):
    """Send leaves of many shards, each range with its proof; together at most LEAVES_PER_READ_MAX leaves.

    It is what many readers of small objects want of one holder at a moment.
    """

    ranges: LeafRanges


class AskHeight(Record, tag=50):
    """Say up to which height this seat has precommitted: whatever was acknowledged is at or below what q seats say."""


class AskVoucher(Record, tag=8):
    """Recompute a move's roots from the bytes that it names, and sign for them; members ask members."""

    move: Move


Request = StoreUnits | AskReceipt | ReadLeaves | ReadPiece | AskHeld | ReadRecords | ReadRanges | AskHeight | AskVoucher


class Stored(Record, tag=1):
    """The piece is durable."""


class ReceiptAnswer(Record, tag=2):
    """The receipt for what is held with the roots asked; None when nothing is."""

    receipt: Receipt | None


class LeavesAnswer(Record, tag=3):
    """The leaves are the bulk; the proof is for storage.merkle.check_range()."""

    proof: Annotated[tuple[Annotated[bytes, HASH], ...], Meta(max_length=RANGE_PROOF_MAX)]


class PieceAnswer(Record, tag=4):
    """The leaves are the bulk."""


class HeldAnswer(Record, tag=5):
    """Per segment asked, in order: bit j set when column j is stored."""

    columns: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=2**COLUMNS_MAX - 1)], ...], Meta(max_length=RECEIPT_SEGMENTS_MAX)
    ]


class RecordsAnswer(Record, tag=6):
    """Per address asked, in order: the bytes of its record within the bulk, 0 where it is not held."""

    record_bytes: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=RECORD_BYTES_MAX)], ...], Meta(max_length=RECORDS_PER_READ_MAX)
    ]


class FoundRange(Record):
    """A range that is here: its bytes within the bulk, and its proof."""

    range_bytes: Annotated[int, Meta(ge=1, le=BULK_BYTES_MAX)]
    proof: Annotated[tuple[Annotated[bytes, HASH], ...], Meta(max_length=RANGE_PROOF_MAX)]


class RangesAnswer(Record, tag=8):
    """Per range asked, in order; None where it is not here."""

    found: Annotated[tuple[FoundRange | None, ...], Meta(max_length=RANGES_PER_READ_MAX)]


class HeightAnswer(Record, tag=50):
    """The greatest height at which this seat has signed a precommit, or whose block it has."""

    height: Annotated[Height, HEIGHT]


class VoucherAnswer(Record, tag=9):
    """The member's word."""

    voucher: Voucher


class Refusal(StrEnum):
    """What kind of refusal; each is raised at the asking side as the error it was."""

    REJECTED = "rejected"
    SHARD_MISSING = "shard_missing"
    SHARD_CORRUPT = "shard_corrupt"
    STORE_FULL = "store_full"
    STORE_UNAVAILABLE = "store_unavailable"


class Refused(Record, tag=7):
    """The request is not answered, and why; the reason only when it was rejected."""

    refusal: Refusal
    reason: RejectionReason | None
    detail: Annotated[str, Meta(max_length=DETAIL_LENGTH_MAX)]


Answer = (
    Stored
    | ReceiptAnswer
    | LeavesAnswer
    | PieceAnswer
    | HeldAnswer
    | RecordsAnswer
    | Refused
    | RangesAnswer
    | HeightAnswer
    | VoucherAnswer
)


ReadRequest = ReadLeaves | ReadPiece | ReadRanges
"""Questions for leaves, which members sign (rule S65)."""


class _RequestHeader(Record):
    body: Request
    signed: SignedRead | None


class _AnswerHeader(Record):
    body: Answer


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer with its bulk; the bulk may be several buffers, sent one after the other."""

    body: Request | Answer
    bulk: tuple[Buffer, ...] = ()
    signed: SignedRead | None = None
    """A member's word for the leaves that it asks for."""


@dataclass(frozen=True, slots=True)
class RequestFrame:
    """A request as it was received; the bulk is a view of the frame's own buffer."""

    number: int
    body: Request
    bulk: memoryview
    signed: SignedRead | None = None


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """An answer as it was received; its bulk, or how much of it was received elsewhere."""

    number: int
    body: Answer
    bulk: memoryview
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FramePrefix:
    """What a frame's first bytes say of the rest."""

    number: int
    header_bytes: int
    bulk_bytes: int


def encode_frame(number: int, message: Message) -> tuple[Buffer, ...]:
    """Return a frame as the buffers to send: prefix and header first, then the bulk as it is."""
    body = message.body
    head = _RequestHeader(body=body, signed=message.signed) if isinstance(body, Request) else _AnswerHeader(body=body)
    header = encode(head)
    assert 0 <= number <= REQUEST_NUMBER_MAX, number
    assert len(header) <= HEADER_BYTES_MAX, len(header)
    assert sum(memoryview(part).nbytes for part in message.bulk) <= BULK_BYTES_MAX, "bulk beyond its limit"
    return (number.to_bytes(4, "big") + len(header).to_bytes(4, "big") + header, *message.bulk)


def decode_prefix(prefix: Buffer, frame_bytes: int) -> FramePrefix:
    """Read the first PREFIX_BYTES of a frame of that length or raise RejectionError."""
    if frame_bytes < PREFIX_BYTES:
        raise RejectionError(RejectionReason.MALFORMED, f"frame of {frame_bytes} bytes")
    view = memoryview(prefix)
    number = int.from_bytes(view[:4], "big")
    header_bytes = int.from_bytes(view[4:PREFIX_BYTES], "big")
    bulk_bytes = frame_bytes - PREFIX_BYTES - header_bytes
    if header_bytes > HEADER_BYTES_MAX or bulk_bytes > BULK_BYTES_MAX:
        raise RejectionError(RejectionReason.OVERSIZED, f"header of {header_bytes} bytes, bulk of {bulk_bytes}")
    if bulk_bytes < 0:
        raise RejectionError(RejectionReason.MALFORMED, f"header of {header_bytes} bytes in {frame_bytes}")
    return FramePrefix(number, header_bytes, bulk_bytes)


def decode_request(frame: Buffer) -> RequestFrame:
    """Read a frame from the dialling side or raise RejectionError."""
    number, header, bulk = _split(frame)
    head = decode(header, _RequestHeader, bytes_max=HEADER_BYTES_MAX)
    body = head.body
    if bulk.nbytes and not isinstance(body, StoreUnits):
        raise RejectionError(RejectionReason.MALFORMED, f"{type(body).__name__} carries no bulk")
    if head.signed is not None and not isinstance(body, ReadRequest):
        raise RejectionError(RejectionReason.MALFORMED, f"{type(body).__name__} carries no receipt")
    return RequestFrame(number, body, bulk, head.signed)


def ranges_asked(body: ReadRequest) -> tuple[LeafRange, ...]:
    """Return the leaves that a question is about: what a member signs (rule S65)."""
    if isinstance(body, ReadRanges):
        return body.ranges
    asked = LeafRange(
        segment_id=body.segment_id, column=body.column, first_leaf=body.first_leaf, leaf_count=body.leaf_count
    )
    return (asked,)


def decode_answer(frame: Buffer) -> AnswerFrame:
    """Read a frame from the answering side or raise RejectionError."""
    number, header, bulk = _split(frame)
    return AnswerFrame(number, decode_answer_header(header, bulk.nbytes), bulk)


def decode_answer_header(header: bytes, bulk_bytes: int) -> Answer:
    """Read the header of an answer, before its bulk has come, or raise RejectionError."""
    body = decode(header, _AnswerHeader, bytes_max=HEADER_BYTES_MAX).body
    if bulk_bytes and not isinstance(body, LeavesAnswer | PieceAnswer | RecordsAnswer | RangesAnswer):
        raise RejectionError(RejectionReason.MALFORMED, f"{type(body).__name__} carries no bulk")
    return body


def refusal_of(error: RejectionError | StorageError) -> Refused:
    """Return the answer that carries an error to the asking side."""
    if isinstance(error, RejectionError):
        return Refused(refusal=Refusal.REJECTED, reason=error.reason, detail=error.detail[:DETAIL_LENGTH_MAX])
    match error:
        case ShardMissingError():
            refusal = Refusal.SHARD_MISSING
        case ShardCorruptError():
            refusal = Refusal.SHARD_CORRUPT
        case StoreFullError():
            refusal = Refusal.STORE_FULL
        case _:
            refusal = Refusal.STORE_UNAVAILABLE
    return Refused(refusal=refusal, reason=None, detail=str(error)[:DETAIL_LENGTH_MAX])


def error_of(refused: Refused) -> GrandestError:
    """Return the error that a refusal stands for; its text is the peer's and proves nothing."""
    match refused.refusal:
        case Refusal.REJECTED:
            return RejectionError(refused.reason or RejectionReason.MALFORMED, refused.detail)
        case Refusal.SHARD_MISSING:
            return ShardMissingError(refused.detail)
        case Refusal.SHARD_CORRUPT:
            return ShardCorruptError(refused.detail)
        case Refusal.STORE_FULL:
            return StoreFullError(refused.detail)
        case Refusal.STORE_UNAVAILABLE:
            return StoreUnavailableError(refused.detail)


AnswerT = TypeVar(
    "AnswerT",
    Stored,
    ReceiptAnswer,
    LeavesAnswer,
    PieceAnswer,
    HeldAnswer,
    RecordsAnswer,
    RangesAnswer,
    HeightAnswer,
    VoucherAnswer,
)


def expect_answer(answer: Answer, kind: type[AnswerT]) -> AnswerT:
    """Return an answer as the kind asked for.

    Raises:
        RejectionError: Of another kind (MALFORMED), or what the peer refused with.
        StorageError: What the peer failed with.
    """
    if isinstance(answer, Refused):
        raise error_of(answer)
    if not isinstance(answer, kind):
        raise RejectionError(RejectionReason.MALFORMED, f"{kind.__name__} expected, not {type(answer).__name__}")
    return answer


def _split(frame: Buffer) -> tuple[int, bytes, memoryview]:
    view = memoryview(frame)
    prefix = decode_prefix(view[:PREFIX_BYTES], view.nbytes)
    end = PREFIX_BYTES + prefix.header_bytes
    return prefix.number, bytes(view[PREFIX_BYTES:end]), view[end:]
