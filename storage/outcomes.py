"""What became of each transaction of a block: applied, or refused for a named reason.

A block with transactions writes the Merkle list root of its outcomes, in their order, under the state key "o". A
refused transaction changes nothing but, once its sender was known, the sender's sequence numbers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import GrandestError
from consensus.identifiers import HASH, HEIGHT, Height, MerkleRoot, TransactionId
from consensus.merkle import list_root
from storage.transactions import ENTRIES_MAX

OUTCOME_BYTES_MAX: Final = 512 * 1024
"""ENTRIES_MAX failed entries of about 25 bytes, and room."""


class FailureReason(StrEnum):
    """Why a transaction, or one of its entries, had no effect."""

    UNKNOWN_TENANT = "unknown_tenant"
    NOT_GRANTED = "not_granted"
    TOO_LATE = "too_late"
    TOO_FAR_AHEAD = "too_far_ahead"
    SEQUENCE_USED = "sequence_used"
    NOTHING_TO_DO = "nothing_to_do"
    SEGMENT_TWICE = "segment_twice"
    SEGMENT_LIVE = "segment_live"
    SEGMENT_FREED = "segment_freed"
    SEGMENT_UNKNOWN = "segment_unknown"
    WRONG_COLUMNS = "wrong_columns"
    WRONG_K = "wrong_k"
    BAD_RECEIPT = "bad_receipt"
    RECEIPT_EXPIRED = "receipt_expired"
    RECEIPT_TOO_FAR = "receipt_too_far"
    TOO_FEW_RECEIPTS = "too_few_receipts"
    EXTENT_OUTSIDE = "extent_outside"
    CONDITION_FAILED = "condition_failed"
    ENTRY_UNKNOWN = "entry_unknown"
    VERSION_CHANGED = "version_changed"
    GRANT_EXISTS = "grant_exists"
    GRANT_UNKNOWN = "grant_unknown"
    GRANTS_FULL = "grants_full"
    EPOCH_OVER = "epoch_over"
    BAD_MAINTENANCE = "bad_maintenance"
    BAD_LEAF = "bad_leaf"
    CODE_IS_WHOLE = "code_is_whole"
    TOO_MANY_ROOTS = "too_many_roots"
    QUOTA_EXCEEDED = "quota_exceeded"
    BUCKET_UNKNOWN = "bucket_unknown"
    BUCKET_NOT_EMPTY = "bucket_not_empty"
    BUCKETS_FULL = "buckets_full"
    SETTINGS_KEPT = "settings_kept"
    VERSIONING_OFF = "versioning_off"
    VERSION_NEEDED = "version_needed"
    VERSION_TAKEN = "version_taken"
    LOCK_OFF = "lock_off"
    RETAINED = "retained"
    TENANT_EXISTS = "tenant_exists"
    TOO_FEW_SHARES = "too_few_shares"
    ESCROW_UNKNOWN = "escrow_unknown"
    RECOVERY_UNKNOWN = "recovery_unknown"
    RECOVERY_EARLY = "recovery_early"
    CHANGE_UNKNOWN = "change_unknown"
    CHANGE_EXPIRED = "change_expired"
    CHANGE_UNDER_WAY = "change_under_way"
    APPROVED_ALREADY = "approved_already"
    SEAT_UNKNOWN = "seat_unknown"
    WRONG_SEAT_NUMBER = "wrong_seat_number"
    SEATS_FULL = "seats_full"
    KEY_IN_USE = "key_in_use"
    ANOTHER_OPERATOR = "another_operator"
    BUDGET_TOO_SMALL = "budget_too_small"
    BAD_PARAMETERS = "bad_parameters"
    BAD_VOUCHER = "bad_voucher"
    TOO_FEW_VOUCHERS = "too_few_vouchers"


BEFORE_RUNNING: Final = frozenset(
    {
        FailureReason.UNKNOWN_TENANT,
        FailureReason.NOT_GRANTED,
        FailureReason.TOO_LATE,
        FailureReason.TOO_FAR_AHEAD,
        FailureReason.SEQUENCE_USED,
    }
)
"""Found before a sequence number is used: the same transaction may still run in a later block."""


class FailedEntry(Record):
    """An entry that failed alone; `index` counts over all buckets of its transaction."""

    index: Annotated[int, Meta(ge=0, le=ENTRIES_MAX - 1)]
    reason: FailureReason


class Outcome(Record, tag=1):
    """What became of one transaction. `place` is the segment or receipt that was wrong, -1 when none is to blame."""

    transaction: Annotated[TransactionId, HASH]
    reason: FailureReason | None
    place: Annotated[int, Meta(ge=-1, le=ENTRIES_MAX)]
    failed_entries: Annotated[tuple[FailedEntry, ...], Meta(max_length=ENTRIES_MAX)]

    @property
    def has_run(self) -> bool:
        """Say whether the transaction got as far as using its sequence number: it never will again."""
        return self.reason not in BEFORE_RUNNING


class TransactionPlace(Record, tag=2):
    """Where a transaction stands in the chain, and what became of it."""

    height: Annotated[Height, HEIGHT]
    index: Annotated[int, Meta(ge=0, le=2**31)]
    outcome: Outcome


class FailedTransactionError(GrandestError):
    """A transaction breaks a rule of the ledger; its block is valid and records the reason."""

    def __init__(self, reason: FailureReason, place: int = -1) -> None:
        super().__init__(reason.value if place < 0 else f"{reason.value} at {place}")
        self.reason = reason
        self.place = place


def outcomes_root(outcomes: tuple[Outcome, ...]) -> MerkleRoot:
    """Return the root that the state keeps for a block's outcomes."""
    return list_root([encode(outcome) for outcome in outcomes])


def decode_place(encoded: bytes) -> TransactionPlace:
    """Read a transaction's place or raise RejectionError."""
    return decode(encoded, TransactionPlace, bytes_max=OUTCOME_BYTES_MAX)
