"""What to do about a refusal of the ledger, for people; reasons that only a bug of the sender gives have no words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.errors import GrandestError
from node.client.errors import NotCommittedError
from storage.errors import UnsealError

if TYPE_CHECKING:
    from collections.abc import Mapping

REMEDIES: Final[Mapping[str, str]] = {
    "unknown_tenant": "no such tenant: its operator registers it with `grandest tenant register`",
    "not_granted": "this key has no right to it: who has shows `grandest tenant show`",
    "nothing_to_do": "it is so already, or there is nothing of the kind",
    "quota_exceeded": "delete something, or ask the tenant's home operator for `grandest tenant quota`",
    "tenant_exists": "draw another with `grandest tenant create`",
    "grants_full": "revoke a grant first",
    "grant_exists": "it is granted already",
    "grant_unknown": "it is not granted",
    "escrow_unknown": "the tenant's keys are not in escrow",
    "recovery_unknown": "an operator announces it first: `grandest tenant recover announce`",
    "recovery_early": "the delay since its announcement is not over",
    "bad_maintenance": "at most 24 hours, from now on, and six days after the last one's end at the earliest",
    "change_unknown": "look again with `grandest operator changes`",
    "change_expired": "have it proposed again",
    "change_under_way": "another change is decided: wait until it is effective",
    "approved_already": "this seat has approved it",
    "seat_unknown": "nobody sits there",
    "wrong_seat_number": "the offer is for another number: make it anew, without --seat for one more seat",
    "seats_full": "there is no number left",
    "key_in_use": "a key of another seat: make new ones",
    "another_operator": "other keys are for the same legal person: name it as the seat does",
    "budget_too_small": "the others would survive less than genesis promises: let another company sit first",
    "bad_parameters": "timeouts from 10 ms to timeout_max_ms, clock_drift_ms and heartbeat_ms from 1000,"
    " block_interval_min_ms at most the heartbeat, heights from 64, uncommitted_bytes_max from 67108864",
    "bucket_unknown": "no such bucket: the first put makes it",
    "retained": "it is retained or on legal hold",
}
"""By the text of a FailureReason."""


OLDER_KEYS: Final = (
    "the folder's keys may be older: have it written again by `grandest tenant client`, or `receive` at a gateway"
)


def explained(error: GrandestError) -> str:
    """Return what an error says, with what to do about it where that is known."""
    match error:
        case NotCommittedError(reason=reason):
            remedy = REMEDIES.get(reason)
        case UnsealError():
            remedy = OLDER_KEYS
        case _:
            remedy = None
    return str(error) if remedy is None else f"{error}: {remedy}"
