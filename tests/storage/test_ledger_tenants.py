"""Tenants on chain: who registers them, who changes what, and how lost keys come back."""

from __future__ import annotations

import hashlib

import pytest

from storage.identifiers import RecordAddress, SeatIndex, TenantId, VersionId
from storage.outcomes import FailureReason
from storage.record_claims import state_claims
from storage.state import (
    AccessState,
    EscrowState,
    GrantState,
    TenantState,
    access_key,
    escrow_key,
    grant_key,
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
    ShareCommitment,
    TenantRecord,
)
from storage.transactions import GrantClient, RevokeClient
from tests.storage.ledger_world import TENANT, World, signing_key

NEW = TenantId(b"N" * 16)
DELAY_MS = 259_200_000


def record(name: str) -> TenantRecord:
    digest = hashlib.sha256(name.encode()).digest()
    return TenantRecord(version_id=VersionId(digest[:16]), record_address=RecordAddress(digest))


def register(home: int = 2) -> RegisterTenant:
    return RegisterTenant(
        tenant=NEW, public_key=signing_key("new owner").public, home=SeatIndex(home), quota_bytes=1_000
    )


def tenant(world: World, which: TenantId = TENANT) -> TenantState:
    state = read_state(world.state, tenant_key(which), TenantState)
    assert state is not None
    return state


def escrow(world: World) -> EscrowState:
    state = read_state(world.state, escrow_key(TENANT), EscrowState)
    assert state is not None
    return state


def in_escrow(name: str = "shares", seats: int = 9) -> SetEscrow:
    commitments = tuple(ShareCommitment(seat=SeatIndex(i), commitment=bytes([i]) * 32) for i in range(seats))
    return SetEscrow(tenant=TENANT, shares=record(name), commitments=commitments)


def announce(name: str = "finder") -> AnnounceRecovery:
    return AnnounceRecovery(tenant=TENANT, public_key=signing_key(name).public)


def approve(seat: int, name: str = "finder") -> ApproveRecovery:
    return ApproveRecovery(tenant=TENANT, public_key=signing_key(name).public, share=record(f"{name} {seat}"))


def test_an_operator_registers_tenants_at_its_own_seat() -> None:
    world = World()
    for sender, reason in (
        ("new owner", FailureReason.NOT_GRANTED),
        ("seat 1", FailureReason.NOT_GRANTED),
        ("seat 2", None),
        ("seat 2", FailureReason.TENANT_EXISTS),
    ):
        assert world.run(register(), sender=sender).reason is reason
    assert (tenant(world, NEW).home, tenant(world, NEW).quota_bytes) == (2, 1_000)


def test_the_home_operator_alone_sets_the_quota_wherever_the_tenant_has_moved() -> None:
    world = World()
    quota = SetQuota(tenant=TENANT, quota_bytes=7)
    assert world.run(quota, sender="tenant").reason is FailureReason.NOT_GRANTED
    assert world.run(quota, sender="seat 1").reason is FailureReason.NOT_GRANTED
    assert world.run(quota, sender="seat 0").reason is None
    assert tenant(world).quota_bytes == 7
    move = MoveTenant(tenant=TENANT, home=SeatIndex(1))
    assert world.run(move, sender="client").reason is FailureReason.NOT_GRANTED
    assert world.run(move, sender="tenant").reason is None
    assert world.run(quota, sender="seat 0").reason is FailureReason.NOT_GRANTED
    assert world.run(quota, sender="seat 1").reason is None
    nowhere = MoveTenant(tenant=TENANT, home=SeatIndex(40))
    assert world.run(nowhere, sender="tenant").reason is FailureReason.SEAT_UNKNOWN


def test_a_tenant_changes_its_key_itself() -> None:
    world = World()
    change = ChangeTenantKey(tenant=TENANT, public_key=signing_key("second").public)
    assert world.run(change, sender="client").reason is FailureReason.NOT_GRANTED
    assert world.run(change, sender="tenant").reason is None
    assert world.run(change, sender="tenant").reason is FailureReason.NOT_GRANTED
    assert world.run(change, sender="second").reason is None


def test_access_keys_are_a_record_that_the_tenant_alone_replaces() -> None:
    world = World()
    first, second = SetAccess(tenant=TENANT, access=record("1")), SetAccess(tenant=TENANT, access=record("2"))
    assert world.run(first, sender="client").reason is FailureReason.NOT_GRANTED
    assert world.run(first, sender="tenant").reason is None
    change = world.apply(world.transaction(second, sender="tenant"))
    assert (change.added_records, change.erased_records) == (
        (record("2").record_address,),
        (record("1").record_address,),
    )
    state = read_state(world.state, access_key(TENANT), AccessState)
    assert state == AccessState(access=record("2"))
    gone = world.apply(world.transaction(SetAccess(tenant=TENANT, access=None), sender="tenant"))
    assert gone.erased_records == (record("2").record_address,)
    assert world.state.value(access_key(TENANT)) is None


def test_the_keys_sealed_to_a_client_are_replaced_and_go_with_its_grant() -> None:
    world = World()
    client = signing_key("gateway").public
    body = GrantClient(tenant=TENANT, public_key=client, certificate=b"c", keys=record("1"))
    renewed = GrantClient(tenant=TENANT, public_key=client, certificate=b"c", keys=record("2"))
    assert world.run(body, sender="tenant").reason is None
    assert world.run(body, sender="tenant").reason is FailureReason.GRANT_EXISTS
    other = GrantClient(tenant=TENANT, public_key=client, certificate=b"other", keys=record("2"))
    assert world.run(other, sender="tenant").reason is FailureReason.GRANT_EXISTS
    change = world.apply(world.transaction(renewed, sender="tenant"))
    assert change.erased_records == (record("1").record_address,)
    encoded = world.state.value(grant_key(TENANT, client))
    assert [claim.address for claim in state_claims(grant_key(TENANT, client), encoded)] == [record("2").record_address]
    assert read_state(world.state, grant_key(TENANT, client), GrantState) == GrantState(
        certificate=b"c", keys=record("2")
    )
    assert tenant(world).grant_count == 2
    gone = world.apply(world.transaction(RevokeClient(tenant=TENANT, public_key=client), sender="tenant"))
    assert gone.erased_records == (record("2").record_address,)


def test_six_of_nine_bring_a_lost_key_back_after_the_delay() -> None:
    world = World(seats=9)
    assert world.run(announce(), sender="seat 0").reason is FailureReason.ESCROW_UNKNOWN
    assert world.run(in_escrow(), sender="tenant").reason is None
    assert world.run(announce(), sender="finder").reason is FailureReason.NOT_GRANTED
    assert world.run(announce(), sender="seat 0").reason is None
    assert world.run(approve(0), sender="seat 0").reason is FailureReason.RECOVERY_EARLY
    world.apply(later_ms=DELAY_MS - 2_001)
    assert world.run(approve(0), sender="seat 0").reason is FailureReason.RECOVERY_EARLY
    for seat in range(6):
        assert tenant(world).public_key == signing_key("tenant").public
        assert world.run(approve(seat), sender=f"seat {seat}").reason is None
        if seat == 0:
            assert world.run(approve(0), sender="seat 0").reason is FailureReason.NOTHING_TO_DO
    assert tenant(world).public_key == signing_key("finder").public
    (recovery,) = escrow(world).recoveries
    assert [approval.share for approval in recovery.approvals] == [record(f"finder {seat}") for seat in range(6)]
    change = world.apply(world.transaction(in_escrow("new shares"), sender="finder"))
    assert set(change.erased_records) == {
        record("shares").record_address,
        *(record(f"finder {seat}").record_address for seat in range(6)),
    }


def test_the_tenant_stops_what_it_did_not_ask_for() -> None:
    world = World(seats=9)
    world.run(in_escrow(), sender="tenant")
    cancel = CancelRecovery(tenant=TENANT)
    assert world.run(cancel, sender="tenant").reason is FailureReason.NOTHING_TO_DO
    world.run(announce("thief"), sender="seat 3")
    assert world.run(cancel, sender="seat 3").reason is FailureReason.NOT_GRANTED
    world.apply(later_ms=DELAY_MS)
    world.run(approve(3, "thief"), sender="seat 3")
    change = world.apply(world.transaction(cancel, sender="tenant"))
    assert change.erased_records == (record("thief 3").record_address,)
    assert world.run(approve(4, "thief"), sender="seat 4").reason is FailureReason.RECOVERY_UNKNOWN


def test_one_seats_announcement_blocks_no_other() -> None:
    world = World(seats=9)
    world.run(in_escrow(), sender="tenant")
    for seat, name in ((3, "thief"), (4, "finder"), (3, "thief again")):
        assert world.run(announce(name), sender=f"seat {seat}").reason is None
    assert world.run(announce("finder"), sender="seat 5").reason is FailureReason.NOTHING_TO_DO
    assert [recovery.announced_by for recovery in escrow(world).recoveries] == [4, 3]
    world.apply(later_ms=DELAY_MS)
    for seat in range(6):
        assert world.run(approve(seat), sender=f"seat {seat}").reason is None
    assert [recovery.announced_by for recovery in escrow(world).recoveries] == [4]


@pytest.mark.parametrize(
    ("seats", "reason"), [(5, FailureReason.TOO_FEW_SHARES), (6, None), (9, None), (10, FailureReason.SEAT_UNKNOWN)]
)
def test_an_escrow_has_a_quorum_of_shares_at_seats_that_exist(seats: int, reason: FailureReason | None) -> None:
    assert World(seats=9).run(in_escrow(seats=seats), sender="tenant").reason is reason


def test_taking_keys_out_of_escrow_erases_the_shares() -> None:
    world = World(seats=9)
    world.run(in_escrow(), sender="tenant")
    nothing = SetEscrow(tenant=TENANT, shares=None, commitments=())
    change = world.apply(world.transaction(nothing, sender="tenant"))
    assert change.erased_records == (record("shares").record_address,)
    assert world.state.value(escrow_key(TENANT)) is None
