"""What a client posts: one signed transaction and the off-chain records that it references, or many such.

Encoding: the canonical array [transaction, [record, ...]]; of many, the array of one array of these. Limits:
transaction 1 MiB, records 16 KiB each and 2 MiB together, so that one submission always fits a block of 4 MiB with its
records. Many share the bytes that one may have.
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


SUBMISSIONS_MAX: Final = 256
"""Posted together: seconds of one client's transactions, in a body that one large transaction may have as well."""


class Submission(Record):
    """The body of POST /v1/transactions."""

    transaction: Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)]
    records: RecordList


class Submissions(Record):
    """The body of POST /v1/transactions/many: each is taken or refused by itself."""

    submissions: Annotated[tuple[Submission, ...], Meta(min_length=1, max_length=SUBMISSIONS_MAX)]


def encode_submission(submission: Submission) -> bytes:
    """Return the bytes to post."""
    return encode(submission)


def decode_submission(encoded: bytes) -> Submission:
    """Read a posted submission or raise RejectionError(OVERSIZED, MALFORMED, NOT_CANONICAL)."""
    submission = decode(encoded, Submission, bytes_max=SUBMISSION_BYTES_MAX)
    _check_records(submission)
    return submission


def encode_submissions(submissions: Submissions) -> bytes:
    """Return the bytes to post."""
    return encode(submissions)


def decode_submissions(encoded: bytes) -> Submissions:
    """Read many posted submissions or raise RejectionError(OVERSIZED, MALFORMED, NOT_CANONICAL)."""
    submissions = decode(encoded, Submissions, bytes_max=SUBMISSION_BYTES_MAX)
    for submission in submissions.submissions:
        _check_records(submission)
    return submissions


def _check_records(submission: Submission) -> None:
    record_bytes = sum(len(record) for record in submission.records)
    if record_bytes > SUBMISSION_RECORD_BYTES_MAX:
        detail = f"{record_bytes} bytes of records, at most {SUBMISSION_RECORD_BYTES_MAX}"
        raise RejectionError(RejectionReason.OVERSIZED, detail)
