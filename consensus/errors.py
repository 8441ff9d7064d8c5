"""Errors of the whole house: what was expected to go wrong, and why an input was refused."""

from __future__ import annotations

from enum import StrEnum


class GrandestError(Exception):
    """Something expected failed; somebody above handles it."""


class RejectionReason(StrEnum):
    """Why an input from outside was refused; shared by logs, vectors, evidence and the audit report."""

    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    NOT_CANONICAL = "not_canonical"
    BAD_SIGNATURE = "bad_signature"
    NOT_A_MEMBER = "not_a_member"
    WRONG_CHAIN = "wrong_chain"
    WRONG_HEIGHT = "wrong_height"
    WRONG_ROUND = "wrong_round"
    WRONG_PROPOSER = "wrong_proposer"
    WRONG_PARENT = "wrong_parent"
    WRONG_TIME = "wrong_time"
    WRONG_STATE_ROOT = "wrong_state_root"
    WRONG_TRANSACTIONS_ROOT = "wrong_transactions_root"
    WRONG_EVIDENCE_ROOT = "wrong_evidence_root"
    WRONG_CERTIFICATE = "wrong_certificate"
    NO_QUORUM = "no_quorum"
    MISSING_POLKA = "missing_polka"
    BAD_EVIDENCE = "bad_evidence"
    BAD_PROOF = "bad_proof"
    BAD_TRANSACTION = "bad_transaction"
    DUPLICATE_TRANSACTION = "duplicate_transaction"
    BAD_RECORD = "bad_record"
    BAD_RECEIPT = "bad_receipt"
    BAD_GENESIS = "bad_genesis"
    QUEUE_FULL = "queue_full"
    NOT_GRANTED = "not_granted"
    TOO_LATE = "too_late"


class RejectionError(GrandestError):
    """An input breaks a rule."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
