"""Frames of the shard channel: what is sent is read back; everything else is refused by reason."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, Signature
from node.network.shard_messages import (
    BULK_BYTES_MAX,
    HEADER_BYTES_MAX,
    Answer,
    AskHeld,
    AskReceipt,
    FoundRange,
    HeldAnswer,
    LeavesAnswer,
    Message,
    PieceAnswer,
    RangesAnswer,
    ReadLeaves,
    ReadPiece,
    ReadRanges,
    ReadRecords,
    ReceiptAnswer,
    RecordsAnswer,
    Refused,
    Request,
    Stored,
    StoreUnits,
    decode_answer,
    decode_request,
    encode_frame,
    error_of,
    expect_answer,
    refusal_of,
)
from storage.errors import ShardCorruptError, ShardMissingError, StorageError, StoreFullError, StoreUnavailableError
from storage.identifiers import ColumnIndex, RecordAddress, SeatIndex, SegmentId, ShardRoot, TenantId
from storage.read_receipts import LeafRange
from storage.receipts import Receipt, ReceiptItem

TENANT: Final = TenantId(b"t" * 16)
SEGMENT: Final = SegmentId(b"s" * 32)
COLUMN: Final = ColumnIndex(3)
ITEM: Final = ReceiptItem(segment_id=SEGMENT, column=COLUMN, shard_root=ShardRoot(b"r" * 32), shard_bytes=64)
STORE: Final = StoreUnits(tenant=TENANT, segment_id=SEGMENT, column=COLUMN, k=6, segment_bytes=100, offset=0)
REQUESTS: Final[tuple[Request, ...]] = (
    STORE,
    AskReceipt(tenant=TENANT, items=(ITEM,) * 2_048, expiry_height=Height(9)),
    ReadLeaves(segment_id=SEGMENT, column=COLUMN, first_leaf=0, leaf_count=64),
    ReadPiece(segment_id=SEGMENT, column=COLUMN, first_leaf=1, leaf_count=1),
    AskHeld(segment_ids=(SEGMENT,) * 2_048),
    ReadRecords(addresses=(RecordAddress(b"a" * 32),) * 64),
    ReadRanges(
        ranges=(LeafRange(segment_id=SegmentId(b"s" * 32), column=ColumnIndex(8), first_leaf=1023, leaf_count=4),) * 16
    ),
)
RECEIPT: Final = Receipt(seat=SeatIndex(1), held=b"\1", expiry_height=Height(9), signature=Signature(b"x" * 64))
ANSWERS: Final[tuple[Answer, ...]] = (
    Stored(),
    ReceiptAnswer(receipt=RECEIPT),
    ReceiptAnswer(receipt=None),
    LeavesAnswer(proof=(b"p" * 32,) * 64),
    PieceAnswer(),
    HeldAnswer(columns=(511, 0)),
    RecordsAnswer(record_bytes=(16_384, 0)),
    RangesAnswer(found=(FoundRange(range_bytes=BULK_BYTES_MAX, proof=(b"p" * 32,) * 64), None) * 8),
    refusal_of(RejectionError(RejectionReason.NOT_GRANTED, "no")),
)


def _joined(number: int, message: Message) -> bytes:
    return b"".join(bytes(part) for part in encode_frame(number, message))


@pytest.mark.parametrize("body", REQUESTS, ids=lambda body: type(body).__name__)
def test_a_request_is_read_as_it_was_sent(body: Request) -> None:
    bulk = (b"u" * BULK_BYTES_MAX,) if isinstance(body, StoreUnits) else ()
    received = decode_request(_joined(7, Message(body, bulk)))
    assert (received.number, received.body, bytes(received.bulk)) == (7, body, b"".join(bulk))


@pytest.mark.parametrize("body", ANSWERS, ids=lambda body: type(body).__name__)
def test_an_answer_is_read_as_it_was_sent(body: Answer) -> None:
    received = decode_answer(_joined(2**32 - 1, Message(body)))
    assert (received.number, received.body, received.bulk.nbytes) == (2**32 - 1, body, 0)


def test_bulk_is_not_copied() -> None:
    bulk = bytearray(b"u" * 64)
    assert encode_frame(1, Message(STORE, (bulk,)))[1] is bulk
    frame = bytearray(_joined(1, Message(STORE, (bulk,))))
    received = decode_request(frame)
    frame[-1] = ord("v")
    assert received.bulk[-1] == ord("v")


def _reason(frame: bytes) -> RejectionReason:
    with pytest.raises(RejectionError) as refused:
        decode_request(frame)
    return refused.value.reason


def test_bad_frames_are_refused_by_reason() -> None:
    good = _joined(1, Message(REQUESTS[2]))
    assert _reason(b"") is RejectionReason.MALFORMED
    assert _reason(good[:-1]) is RejectionReason.MALFORMED
    assert _reason(good + b"!") is RejectionReason.MALFORMED
    assert _reason(_joined(1, Message(STORE)) + bytes(BULK_BYTES_MAX + 1)) is RejectionReason.OVERSIZED
    oversized = (0).to_bytes(4, "big") + (HEADER_BYTES_MAX + 1).to_bytes(4, "big")
    assert _reason(oversized + bytes(HEADER_BYTES_MAX + 1)) is RejectionReason.OVERSIZED
    assert _reason(_joined(1, Message(Stored()))) is RejectionReason.MALFORMED


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_rejected(frame: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(frame)
        except RejectionError:
            continue


@given(st.data())
def test_a_changed_byte_changes_the_request_or_is_rejected(draw: st.DataObject) -> None:
    frame = bytearray(_joined(1, Message(STORE, (b"unit",))))
    position = draw.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= draw.draw(st.integers(1, 255))
    try:
        received = decode_request(bytes(frame))
    except RejectionError:
        return
    assert (received.number, received.body, bytes(received.bulk)) != (1, STORE, b"unit")


@pytest.mark.parametrize(
    "error",
    [
        RejectionError(RejectionReason.QUEUE_FULL, "full"),
        ShardMissingError("x"),
        ShardCorruptError("x"),
        StoreFullError("x"),
        StoreUnavailableError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_as_the_error_it_was(error: RejectionError | StorageError) -> None:
    refused = refusal_of(error)
    received = decode_answer(_joined(1, Message(refused))).body
    assert isinstance(received, Refused)
    arrived = error_of(received)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    with pytest.raises(type(error)):
        expect_answer(received, Stored)


def test_another_kind_of_answer_is_refused() -> None:
    assert expect_answer(Stored(), Stored) == Stored()
    with pytest.raises(RejectionError, match="HeldAnswer expected"):
        expect_answer(Stored(), HeldAnswer)
