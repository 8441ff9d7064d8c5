"""Tenants in the ledger: registered, moved, given quotas and keys, recovered (rules T30 to T35)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, assert_never

from msgspec.structs import replace

from consensus.identifiers import MemberIndex
from storage.identifiers import SeatIndex
from storage.outcomes import FailedTransactionError, FailureReason
from storage.state import (
    AccessState,
    Approval,
    EscrowState,
    Recovery,
    StateOverlay,
    StateReader,
    TenantState,
    access_key,
    escrow_key,
    read_state,
    tenant_key,
)
from storage.tenant_changes import (
    AnnounceRecovery,
    ApproveRecovery,
    CancelRecovery,
    ChangeTenantKey,
    MoveTenant,
    RegisterTenant,
    SetAccess,
    SetEscrow,
    SetQuota,
)
from storage.tenants import read_tenant

if TYPE_CHECKING:
    from consensus.identifiers import PublicKey
    from consensus.members import MemberSet
    from storage.genesis import StorageParameters
    from storage.identifiers import TenantId
    from storage.ledger_batch import SegmentEvents
    from storage.moments import Moment
    from storage.tenant_changes import TenantChange


class TenantRules(Protocol):
    """What of a ledger's context the rules of tenants need."""

    @property
    def members(self) -> MemberSet:
        """Return who registers and recovers tenants."""
        ...

    @property
    def seats(self) -> tuple[SeatIndex, ...]:
        """Return all seats."""
        ...

    @property
    def parameters(self) -> StorageParameters:
        """Return the shared limits."""
        ...


@dataclass(frozen=True, slots=True)
class TenantRun:
    """A tenant's change being run: by whom, under which rules, on what."""

    rules: TenantRules
    overlay: StateOverlay
    moment: Moment
    sender: PublicKey
    events: SegmentEvents

    @property
    def seat(self) -> SeatIndex:
        """Return the seat that signed."""
        member: MemberIndex | None = self.rules.members.index_of(self.sender)
        assert member is not None, "check_sender() lets members alone do this"
        return SeatIndex(member)


def change_tenant(run: TenantRun, body: TenantChange) -> None:
    """Change a tenant; check_sender() has admitted who signed.

    Raises:
        FailedTransactionError: It may not be.
    """
    match body:
        case RegisterTenant():
            _register(run, body)
        case SetQuota():
            _set_quota(run, body)
        case ChangeTenantKey():
            _write(run, body.tenant, replace(read_tenant(run.overlay, body.tenant), public_key=body.public_key))
        case MoveTenant():
            _move(run, body)
        case SetAccess():
            _set_access(run, body)
        case SetEscrow():
            _set_escrow(run, body)
        case AnnounceRecovery():
            _announce(run, body)
        case ApproveRecovery():
            _approve(run, body)
        case CancelRecovery():
            _cancel(run, body)
        case _:
            assert_never(body)


def _register(run: TenantRun, body: RegisterTenant) -> None:
    """Write a tenant that is new, under the operator that signed (T30)."""
    if run.seat != body.home:
        raise FailedTransactionError(FailureReason.NOT_GRANTED)
    if run.overlay.value(tenant_key(body.tenant)) is not None:
        raise FailedTransactionError(FailureReason.TENANT_EXISTS)
    state = TenantState(
        public_key=body.public_key,
        home=body.home,
        quota_bytes=body.quota_bytes,
        grant_count=0,
        bucket_count=0,
        entry_count=0,
        entry_bytes=0,
        segment_count=0,
        segment_bytes=0,
    )
    run.overlay.put(tenant_key(body.tenant), state)


def _set_quota(run: TenantRun, body: SetQuota) -> None:
    """Let the home operator, and no other, say how much its tenant may store (T31)."""
    tenant = read_tenant(run.overlay, body.tenant)
    if run.seat != tenant.home:
        raise FailedTransactionError(FailureReason.NOT_GRANTED)
    _write(run, body.tenant, replace(tenant, quota_bytes=body.quota_bytes))


def _move(run: TenantRun, body: MoveTenant) -> None:
    """Let another operator be the tenant's home, without asking the one before (T32)."""
    if body.home not in run.rules.seats:
        raise FailedTransactionError(FailureReason.SEAT_UNKNOWN)
    _write(run, body.tenant, replace(read_tenant(run.overlay, body.tenant), home=body.home))


def _set_access(run: TenantRun, body: SetAccess) -> None:
    """Name the record of the tenant's access keys, or none (T33)."""
    state_key = access_key(body.tenant)
    known = read_state(run.overlay, state_key, AccessState)
    run.events.replace_record(
        None if known is None else known.access.record_address,
        None if body.access is None else body.access.record_address,
    )
    if body.access is None:
        run.overlay.delete(state_key)
    else:
        run.overlay.put(state_key, AccessState(access=body.access))


def _set_escrow(run: TenantRun, body: SetEscrow) -> None:
    """Put the tenant's keys in escrow anew, or take them out; recoveries of the earlier shares are over (T34)."""
    state_key = escrow_key(body.tenant)
    known = read_state(run.overlay, state_key, EscrowState)
    if known is not None:
        _give_up(known.recoveries, run.events)
        run.events.replace_record(known.shares.record_address, None)
    if body.shares is None:
        run.overlay.delete(state_key)
        return
    seats = {commitment.seat for commitment in body.commitments}
    if len(seats) != len(body.commitments) or not seats <= set(run.rules.seats):
        raise FailedTransactionError(FailureReason.SEAT_UNKNOWN)
    if len(seats) < run.rules.members.budget.quorum:
        raise FailedTransactionError(FailureReason.TOO_FEW_SHARES)
    run.events.replace_record(None, body.shares.record_address)
    run.overlay.put(state_key, EscrowState(shares=body.shares, commitments=body.commitments, recoveries=()))


def _announce(run: TenantRun, body: AnnounceRecovery) -> None:
    """Note what a member announces, in place of what it announced before (T35)."""
    escrow = _escrow(run.overlay, body.tenant)
    if any(recovery.public_key == body.public_key for recovery in escrow.recoveries):
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    others = tuple(recovery for recovery in escrow.recoveries if recovery.announced_by != run.seat)
    _give_up(tuple(recovery for recovery in escrow.recoveries if recovery.announced_by == run.seat), run.events)
    recovery = Recovery(
        public_key=body.public_key, announced_by=run.seat, announced_ms=run.moment.time_ms, approvals=()
    )
    run.overlay.put(escrow_key(body.tenant), replace(escrow, recoveries=(*others, recovery)))


def _approve(run: TenantRun, body: ApproveRecovery) -> None:
    """Count a member's approval; with those of a quorum the announced key is the tenant's (T35)."""
    escrow = _escrow(run.overlay, body.tenant)
    found = [recovery for recovery in escrow.recoveries if recovery.public_key == body.public_key]
    if not found:
        raise FailedTransactionError(FailureReason.RECOVERY_UNKNOWN)
    (recovery,) = found
    if run.moment.time_ms < recovery.announced_ms + run.rules.parameters.recovery_delay_ms:
        raise FailedTransactionError(FailureReason.RECOVERY_EARLY)
    if any(approval.seat == run.seat for approval in recovery.approvals):
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    if run.seat not in {commitment.seat for commitment in escrow.commitments}:
        raise FailedTransactionError(FailureReason.SEAT_UNKNOWN)
    run.events.replace_record(None, body.share.record_address)
    approved = replace(recovery, approvals=(*recovery.approvals, Approval(seat=run.seat, share=body.share)))
    others = tuple(other for other in escrow.recoveries if other.public_key != body.public_key)
    if len(approved.approvals) >= run.rules.members.budget.quorum:
        _give_up(others, run.events)
        others = ()
        _write(run, body.tenant, replace(read_tenant(run.overlay, body.tenant), public_key=body.public_key))
    run.overlay.put(escrow_key(body.tenant), replace(escrow, recoveries=(*others, approved)))


def _cancel(run: TenantRun, body: CancelRecovery) -> None:
    """Drop all that is announced; what was handed over is erased (T35)."""
    escrow = _escrow(run.overlay, body.tenant)
    if not escrow.recoveries:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    _give_up(escrow.recoveries, run.events)
    run.overlay.put(escrow_key(body.tenant), replace(escrow, recoveries=()))


def _escrow(reader: StateReader, tenant: TenantId) -> EscrowState:
    found = read_state(reader, escrow_key(tenant), EscrowState)
    if found is None:
        raise FailedTransactionError(FailureReason.ESCROW_UNKNOWN)
    return found


def _give_up(recoveries: tuple[Recovery, ...], events: SegmentEvents) -> None:
    for recovery in recoveries:
        for approval in recovery.approvals:
            events.replace_record(approval.share.record_address, None)


def _write(run: TenantRun, tenant: TenantId, state: TenantState) -> None:
    run.overlay.put(tenant_key(tenant), state)
