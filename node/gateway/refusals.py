"""Why the ledger refused a write, in the words that the gateway tells apart."""

from __future__ import annotations

from enum import Enum

from node.errors import NodeError


class WriteFailure(Enum):
    """Why the ledger did not do a write."""

    CONDITION_FAILED = "condition_failed"
    CONFLICT = "conflict"
    QUOTA_EXCEEDED = "quota_exceeded"
    RETAINED = "retained"
    BUCKET_MISSING = "bucket_missing"
    BUCKET_EXISTS = "bucket_exists"
    BUCKET_NOT_EMPTY = "bucket_not_empty"
    VERSION_MISSING = "version_missing"
    LOCK_OFF = "lock_off"
    TOO_MANY_BUCKETS = "too_many_buckets"
    OTHER = "other"


class WriteRefusedError(NodeError):
    """The ledger refused a write."""

    def __init__(self, failure: WriteFailure, detail: str = "") -> None:
        super().__init__(detail or failure.value)
        self.failure = failure
