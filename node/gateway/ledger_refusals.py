"""The ledger's reasons in the words that the gateway tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.gateway.refusals import WriteFailure, WriteRefusedError

if TYPE_CHECKING:
    from node.client.errors import NotCommittedError

_FAILURES: Final = {
    "condition_failed": WriteFailure.CONDITION_FAILED,
    "version_changed": WriteFailure.CONFLICT,
    "quota_exceeded": WriteFailure.QUOTA_EXCEEDED,
    "retained": WriteFailure.RETAINED,
    "bucket_unknown": WriteFailure.BUCKET_MISSING,
    "bucket_not_empty": WriteFailure.BUCKET_NOT_EMPTY,
    "entry_unknown": WriteFailure.VERSION_MISSING,
    "lock_off": WriteFailure.LOCK_OFF,
    "buckets_full": WriteFailure.TOO_MANY_BUCKETS,
}


def refusal_of(error: NotCommittedError) -> WriteRefusedError:
    """Return the gateway's error for a refusal of the ledger."""
    return WriteRefusedError(_FAILURES.get(error.reason, WriteFailure.OTHER), str(error))


def removal_failure(reason: str | None) -> WriteFailure | None:
    """Return why a version was not removed; nothing is wrong with one that is not there."""
    if reason is None or reason == "entry_unknown":
        return None
    return _FAILURES.get(reason, WriteFailure.OTHER)
