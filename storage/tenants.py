"""Who may do what, and never twice.

Rules
- T1. The tenant's own key grants and revokes, and alone changes itself, home, access keys and escrow. It and every
  granted client commit, delete and complete.
- T2. A seat's signing key completes columns of any tenant, and alone reports on the seats' duties (audits.py), proposes
  and approves changes of the seats (M4), registers tenants, sets their quotas and recovers them (ledger_tenants.py),
  and moves bytes to new segments (T70).
- T3. A transaction stands in a block of at most its last height, which is at most `transaction_heights` above it.
- T4. A sender's greatest SEQUENCES_KEPT sequence numbers are kept. A new one is none of them and, once so many are
  kept, above the least. A transaction that fails after this has used its number: it never runs again.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from msgspec.structs import replace

from consensus.errors import RejectionError, RejectionReason
from storage.audits import SeatDuty
from storage.broken_codes import CodeDuty
from storage.identifiers import GRANTS_MAX
from storage.moves import ReplaceSegment
from storage.outcomes import FailedTransactionError, FailureReason
from storage.seat_changes import SeatChange
from storage.state import (
    GrantState,
    SenderState,
    StateOverlay,
    StateReader,
    TenantState,
    grant_key,
    read_state,
    sender_key,
    tenant_key,
)
from storage.tenant_changes import OwnChange, SeatsChange
from storage.transactions import SEQUENCES_KEPT, CompleteColumns, Envelope, GrantClient, RevokeClient

if TYPE_CHECKING:
    from consensus.identifiers import Height, PublicKey
    from consensus.members import MemberSet
    from storage.genesis import StorageParameters
    from storage.identifiers import RecordAddress, TenantId
    from storage.ledger_batch import SegmentEvents


def read_tenant(reader: StateReader, tenant: TenantId) -> TenantState:
    """Return a tenant's state or raise FailedTransactionError(UNKNOWN_TENANT)."""
    state = read_state(reader, tenant_key(tenant), TenantState)
    if state is None:
        raise FailedTransactionError(FailureReason.UNKNOWN_TENANT)
    return state


def check_sender(reader: StateReader, envelope: Envelope, members: MemberSet) -> None:
    """Refuse a sender who may not do this (T1, T2, M4) by FailedTransactionError."""
    body = envelope.body
    if isinstance(body, SeatDuty | CodeDuty | SeatChange | SeatsChange | ReplaceSegment):
        if members.index_of(envelope.sender) is None:
            raise FailedTransactionError(FailureReason.NOT_GRANTED)
        return
    tenant = read_tenant(reader, body.tenant)
    if envelope.sender == tenant.public_key:
        return
    if isinstance(body, CompleteColumns) and members.index_of(envelope.sender) is not None:
        return
    is_granted = reader.value(grant_key(body.tenant, envelope.sender)) is not None
    if not is_granted or isinstance(body, GrantClient | RevokeClient | OwnChange):
        raise FailedTransactionError(FailureReason.NOT_GRANTED)


def check_window(envelope: Envelope, height: Height, parameters: StorageParameters) -> None:
    """Refuse a transaction outside its heights (T3) by FailedTransactionError."""
    if envelope.valid_until_height < height:
        raise FailedTransactionError(FailureReason.TOO_LATE)
    if envelope.valid_until_height > height + parameters.transaction_heights:
        raise FailedTransactionError(FailureReason.TOO_FAR_AHEAD)


def check_sequence(reader: StateReader, envelope: Envelope) -> tuple[int, ...]:
    """Return the sender's sequence numbers with this one, or raise FailedTransactionError(SEQUENCE_USED) (T4)."""
    state = read_state(reader, sender_key(envelope.sender), SenderState)
    used = [] if state is None else list(state.sequences)
    if envelope.sequence in used or (len(used) == SEQUENCES_KEPT and envelope.sequence < used[0]):
        raise FailedTransactionError(FailureReason.SEQUENCE_USED)
    insort(used, envelope.sequence)
    return tuple(used[-SEQUENCES_KEPT:])


def use_sequence(overlay: StateOverlay, envelope: Envelope) -> None:
    """Note a sequence number as used, or raise FailedTransactionError(SEQUENCE_USED)."""
    overlay.put(sender_key(envelope.sender), SenderState(sequences=check_sequence(overlay, envelope)))


def check_admissible(
    reader: StateReader, envelope: Envelope, height: Height, members: MemberSet, parameters: StorageParameters
) -> None:
    """Refuse what a block of this height could only record as failed; for those who collect transactions.

    Raises:
        RejectionError: NOT_GRANTED, TOO_LATE, DUPLICATE_TRANSACTION.
    """
    try:
        check_sender(reader, envelope, members)
        check_window(envelope, height, parameters)
        check_sequence(reader, envelope)
    except FailedTransactionError as error:
        raise RejectionError(_admission_reason(error.reason), str(error)) from error


def change_grant(overlay: StateOverlay, body: GrantClient | RevokeClient, events: SegmentEvents) -> None:
    """Grant or revoke, or raise FailedTransactionError."""
    if isinstance(body, GrantClient):
        _grant(overlay, body, events)
    else:
        _revoke(overlay, body, events)


def _grant(overlay: StateOverlay, body: GrantClient, events: SegmentEvents) -> None:
    """Let a client act for the tenant, or give it other keys; another certificate needs a revocation first (T15)."""
    tenant = read_tenant(overlay, body.tenant)
    state_key = grant_key(body.tenant, body.public_key)
    known = read_state(overlay, state_key, GrantState)
    if known is not None and (known.certificate != body.certificate or known.keys == body.keys):
        raise FailedTransactionError(FailureReason.GRANT_EXISTS)
    if known is None:
        if tenant.grant_count == GRANTS_MAX:
            raise FailedTransactionError(FailureReason.GRANTS_FULL)
        overlay.put(tenant_key(body.tenant), replace(tenant, grant_count=tenant.grant_count + 1))
    granted = GrantState(certificate=body.certificate, keys=body.keys)
    events.replace_record(None if known is None else _keys_address(known), _keys_address(granted))
    overlay.put(state_key, granted)


def _revoke(overlay: StateOverlay, body: RevokeClient, events: SegmentEvents) -> None:
    """Take a grant back; the keys that were sealed to it are erased."""
    tenant = read_tenant(overlay, body.tenant)
    state_key = grant_key(body.tenant, body.public_key)
    known = read_state(overlay, state_key, GrantState)
    if known is None:
        raise FailedTransactionError(FailureReason.GRANT_UNKNOWN)
    events.replace_record(_keys_address(known), None)
    overlay.delete(state_key)
    overlay.put(tenant_key(body.tenant), replace(tenant, grant_count=tenant.grant_count - 1))


def has_granted(reader: StateReader, tenant: TenantId, public_key: PublicKey) -> bool:
    """Tell whether a key acts for a tenant now, its own included."""
    state = read_state(reader, tenant_key(tenant), TenantState)
    if state is None:
        return False
    return public_key == state.public_key or reader.value(grant_key(tenant, public_key)) is not None


def _keys_address(grant: GrantState) -> RecordAddress | None:
    return None if grant.keys is None else grant.keys.record_address


def _admission_reason(reason: FailureReason) -> RejectionReason:
    if reason in {FailureReason.UNKNOWN_TENANT, FailureReason.NOT_GRANTED}:
        return RejectionReason.NOT_GRANTED
    if reason is FailureReason.SEQUENCE_USED:
        return RejectionReason.DUPLICATE_TRANSACTION
    return RejectionReason.TOO_LATE
