"""What a client posts: one signed transaction and the off-chain records that it references.

Encoding: the canonical array [transaction, [record, ...]]. Limits: transaction 1 MiB, records 16 KiB each and 2 MiB
together, so that one submission always fits a block of 4 MiB with its records.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from consensus.blocks import TRANSACTION_BYTES_MAX
from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.messages import RecordList

SUBMISSION_RECORD_BYTES_MAX: Final = 2 * 1024 * 1024
SUBMISSION_BYTES_MAX: Final = TRANSACTION_BYTES_MAX + SUBMISSION_RECORD_BYTES_MAX + 256 * 1024
"""256 KiB for the lengths before 16,384 records and the rest of the frame."""


class Submission(Record):
    """The body of POST /v1/transactions."""

    transaction: Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)]
    records: RecordList


def encode_submission(submission: Submission) -> bytes:
    """Return the bytes to post."""
    return encode(submission)


def decode_submission(encoded: bytes) -> Submission:
    """Read a posted submission or raise RejectionError(OVERSIZED, MALFORMED, NOT_CANONICAL)."""
    submission = decode(encoded, Submission, bytes_max=SUBMISSION_BYTES_MAX)
    record_bytes = sum(len(record) for record in submission.records)
    if record_bytes > SUBMISSION_RECORD_BYTES_MAX:
        detail = f"{record_bytes} bytes of records, at most {SUBMISSION_RECORD_BYTES_MAX}"
        raise RejectionError(RejectionReason.OVERSIZED, detail)
    return submission
