"""Who may do what, until when, and never twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from storage.identifiers import GRANTS_MAX, TenantId
from storage.outcomes import FailureReason
from storage.state import SenderState, TenantState, read_state, sender_key, tenant_key
from storage.tenants import check_admissible, has_granted
from storage.transactions import (
    SEQUENCES_KEPT,
    DeleteEntries,
    EntryName,
    GrantClient,
    RevokeClient,
    decode_transaction,
)
from tests.storage.ledger_world import BUCKET, OTHER_TENANT, TENANT, World, name_tag, signing_key

NOTHING = DeleteEntries(
    tenant=TENANT, entries=(EntryName(bucket_tag=BUCKET, name_tag=name_tag("none"), version_id=None),)
)


def grant(name: str) -> GrantClient:
    return GrantClient(tenant=TENANT, public_key=signing_key(name).public, certificate=b"certificate")


def revoke(name: str) -> RevokeClient:
    return RevokeClient(tenant=TENANT, public_key=signing_key(name).public)


def reason_of(world: World, transaction: bytes) -> FailureReason | None:
    return world.apply(transaction).outcomes[0].reason


def test_only_the_tenant_and_its_clients_act_for_it() -> None:
    world = World()
    assert world.run(NOTHING, sender="tenant").reason is None
    assert world.run(NOTHING, sender="client").reason is None
    for sender in ("stranger", "other tenant", "seat 0"):
        assert world.run(NOTHING, sender=sender).reason is FailureReason.NOT_GRANTED
        assert world.state.value(sender_key(signing_key(sender).public)) is None
    nobody = DeleteEntries(tenant=TenantId(bytes(16)), entries=NOTHING.entries)
    assert world.run(nobody).reason is FailureReason.UNKNOWN_TENANT


def test_a_grant_lasts_until_it_is_revoked() -> None:
    world = World()
    public_key = signing_key("gateway").public
    assert world.run(grant("gateway"), sender="client").reason is FailureReason.NOT_GRANTED
    assert world.run(grant("gateway"), sender="tenant").reason is None
    assert world.run(grant("gateway"), sender="tenant").reason is FailureReason.GRANT_EXISTS
    assert has_granted(world.state, TENANT, public_key)
    assert not has_granted(world.state, OTHER_TENANT, public_key)
    assert world.run(NOTHING, sender="gateway").reason is None
    assert world.run(revoke("gateway"), sender="tenant").reason is None
    assert world.run(NOTHING, sender="gateway").reason is FailureReason.NOT_GRANTED
    assert world.run(revoke("gateway"), sender="tenant").reason is FailureReason.GRANT_UNKNOWN
    state = read_state(world.state, tenant_key(TENANT), TenantState)
    assert state is not None
    assert state.grant_count == 1


def test_a_tenant_has_at_most_so_many_clients() -> None:
    world = World()
    transactions = [world.transaction(grant(f"g{i}"), sender="tenant", sequence=i) for i in range(GRANTS_MAX)]
    reasons = [outcome.reason for outcome in world.apply(*transactions).outcomes]
    assert reasons == [None] * (GRANTS_MAX - 1) + [FailureReason.GRANTS_FULL]


@pytest.mark.parametrize(
    ("valid_until", "reason"),
    [(0, FailureReason.TOO_LATE), (1, None), (1_001, None), (1_002, FailureReason.TOO_FAR_AHEAD)],
)
def test_a_transaction_stands_within_its_heights(valid_until: int, reason: FailureReason | None) -> None:
    world = World()
    assert reason_of(world, world.transaction(NOTHING, valid_until=valid_until)) is reason


def test_a_failed_transaction_never_runs_again() -> None:
    world = World()
    transaction = world.transaction(revoke("gateway"), sender="tenant", sequence=7)
    assert reason_of(world, transaction) is FailureReason.GRANT_UNKNOWN
    assert world.run(grant("gateway"), sender="tenant").reason is None
    assert reason_of(world, transaction) is FailureReason.SEQUENCE_USED
    assert has_granted(world.state, TENANT, signing_key("gateway").public)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=150))
def test_no_sequence_number_is_used_twice_and_new_ones_always_work(sequences: list[int]) -> None:
    world = World(seats=1)
    transactions = [world.transaction(NOTHING, sequence=number) for number in sequences]
    outcomes = [world.apply(transaction).outcomes[0] for transaction in transactions]
    used = list[int]()
    for number, outcome in zip(sequences, outcomes, strict=True):
        is_old = len(used) >= SEQUENCES_KEPT and number < sorted(used)[-SEQUENCES_KEPT]
        assert (outcome.reason is None) is (number not in used and not is_old)
        if outcome.reason is None:
            used.append(number)
    state = read_state(world.state, sender_key(signing_key("client").public), SenderState)
    assert state is not None
    assert state.sequences == tuple(sorted(used)[-SEQUENCES_KEPT:])


def test_what_would_fail_is_not_collected() -> None:
    world = World()
    used = world.transaction(NOTHING, sequence=5)
    world.apply(used)
    cases = {
        RejectionReason.DUPLICATE_TRANSACTION: used,
        RejectionReason.TOO_LATE: world.transaction(NOTHING, valid_until=1),
        RejectionReason.NOT_GRANTED: world.transaction(NOTHING, sender="stranger"),
    }
    for reason, transaction in cases.items():
        envelope = decode_transaction(transaction).envelope
        with pytest.raises(RejectionError) as refused:
            check_admissible(world.state, envelope, Height(2), world.context.members, world.context.parameters)
        assert refused.value.reason is reason
    envelope = decode_transaction(world.transaction(NOTHING)).envelope
    check_admissible(world.state, envelope, Height(2), world.context.members, world.context.parameters)


def test_once_so_many_numbers_are_kept_those_below_the_least_are_used() -> None:
    world = World(seats=1)
    numbers = range(10, 10 + 2 * SEQUENCES_KEPT, 2)
    world.apply(*(world.transaction(NOTHING, sequence=number) for number in numbers))
    assert reason_of(world, world.transaction(NOTHING, sequence=9)) is FailureReason.SEQUENCE_USED
    assert reason_of(world, world.transaction(NOTHING, sequence=11)) is None
    assert reason_of(world, world.transaction(NOTHING, sequence=10)) is FailureReason.SEQUENCE_USED
