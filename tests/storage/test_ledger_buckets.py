"""Buckets, versions and their retention in the ledger, rule by rule."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Milliseconds
from storage.buckets import (
    DAY_MS,
    NULL_VERSION,
    ChangeRecords,
    ChangeTags,
    DefaultRetention,
    DeleteBucket,
    EntryDetails,
    EntryKind,
    LockChange,
    NewHold,
    NewRetention,
    ObjectLock,
    RecordChange,
    Retention,
    RetentionMode,
    SetBucket,
    SetRetention,
    TagsChange,
    Versioning,
    VersionLock,
)
from storage.identifiers import RecordAddress, VersionId
from storage.ledger import check_transactions
from storage.outcomes import FailureReason, Outcome
from storage.state import (
    BucketState,
    EntryState,
    TenantState,
    bucket_state_key,
    entry_key,
    read_state,
    tenant_key,
    version_key,
)
from storage.transactions import CommitObjects, DeleteEntries, EntryCommit, EntryName, Extent
from tests.storage.ledger_world import BUCKET, NEW_BUCKET, TENANT, World, entry, name_tag

MARKER = EntryDetails(kind=EntryKind.MARKER, lock=None)
LOCKED = ObjectLock(default=None)
NAME = name_tag("a")


def address(name: str) -> RecordAddress:
    return RecordAddress(hashlib.sha256(name.encode()).digest())


def bucket(
    versioning: Versioning = Versioning.ENABLED,
    *,
    lock: ObjectLock | None = None,
    condition: bytes | None = None,
    settings: bytes = b"s",
) -> SetBucket:
    return SetBucket(
        tenant=TENANT,
        bucket_tag=BUCKET,
        version_id=VersionId(settings * 16),
        record_address=address(settings.hex()),
        versioning=versioning,
        lock=lock,
        condition=condition,
    )


def world_with(*settings: SetBucket) -> World:
    world = World(seats=1)
    for body in settings:
        assert world.run(body).reason is None
    return world


def put(world: World, *entries: EntryCommit) -> Outcome:
    """Commit entries of one object each, in a segment of their own."""
    number = world.sequence
    segment = world.segment(f"s{number}")
    placed = [
        msgspec.structs.replace(one, extents=() if one.details == MARKER else (Extent(segment=0, extent_bytes=10),))
        for one in entries
    ]
    return world.run(msgspec.structs.replace(world.commit((segment,), *placed), new_buckets=()))


def delete(world: World, version: VersionId | None, *, bypass: bool = False) -> FailureReason | None:
    name = EntryName(bucket_tag=BUCKET, name_tag=NAME, version_id=version)
    outcome = world.run(DeleteEntries(tenant=TENANT, entries=(name,), bypass_governance=bypass))
    assert outcome.reason is None
    return outcome.failed_entries[0].reason if outcome.failed_entries else None


def change_lock(world: World, change: NewRetention | NewHold, version: VersionId) -> FailureReason | None:
    one = LockChange(bucket_tag=BUCKET, name_tag=NAME, version_id=version, change=change)
    outcome = world.run(SetRetention(tenant=TENANT, changes=(one,)))
    assert outcome.reason is None
    return outcome.failed_entries[0].reason if outcome.failed_entries else None


def until(world: World, seconds: int) -> Milliseconds:
    return Milliseconds(world.tip.time_ms + seconds * 1_000)


def current(world: World) -> EntryState | None:
    return read_state(world.state, entry_key(TENANT, BUCKET, NAME), EntryState)


def older(world: World, version: VersionId) -> EntryState | None:
    return read_state(world.state, version_key(TENANT, BUCKET, NAME, version), EntryState)


def bucket_state(world: World) -> BucketState | None:
    return read_state(world.state, bucket_state_key(TENANT, BUCKET), BucketState)


def failures(outcome: Outcome) -> list[FailureReason]:
    assert outcome.reason is None
    return [failed.reason for failed in outcome.failed_entries]


def version(number: str) -> VersionId:
    return entry("a", version=number).version_id


def test_nothing_is_committed_into_a_bucket_that_is_not_there() -> None:
    world = World(seats=1)
    assert failures(put(world, entry("a"))) == [FailureReason.BUCKET_UNKNOWN]


def test_a_commit_makes_the_bucket_that_it_needs() -> None:
    world = World(seats=1)
    assert world.run(world.commit((), entry("a"))).reason is None
    made = bucket_state(world)
    assert made is not None
    assert (made.versioning, made.entry_count, made.version_id) == (Versioning.OFF, 1, NEW_BUCKET.version_id)
    change = world.apply(world.transaction(world.commit((), entry("b"))))
    assert NEW_BUCKET.record_address not in change.added_records
    tenant = read_state(world.state, tenant_key(TENANT), TenantState)
    assert tenant is not None
    assert (tenant.bucket_count, tenant.entry_count) == (1, 2)


def test_of_many_makers_of_a_bucket_one_wins() -> None:
    world = World(seats=1)
    makers = [world.transaction(bucket(condition=b"", settings=bytes((i,)))) for i in range(1, 5)]
    reasons = [outcome.reason for outcome in world.apply(*makers).outcomes]
    assert reasons == [None, *[FailureReason.CONDITION_FAILED] * 3]


def test_settings_are_replaced_under_their_condition() -> None:
    world = world_with(bucket())
    stale = bucket(Versioning.SUSPENDED, condition=b"x" * 16, settings=b"t")
    assert world.run(stale).reason is FailureReason.CONDITION_FAILED
    change = world.apply(
        world.transaction(bucket(Versioning.SUSPENDED, condition=bytes(bucket().version_id), settings=b"t"))
    )
    assert change.outcomes[0].reason is None
    assert change.erased_records == (bucket().record_address,)
    assert change.added_records == (bucket(settings=b"t").record_address,)


def test_versioning_and_lock_are_for_ever() -> None:
    for settings, following in (
        (bucket(), bucket(Versioning.OFF)),
        (bucket(lock=LOCKED), bucket()),
        (bucket(lock=LOCKED), bucket(Versioning.SUSPENDED, lock=LOCKED)),
    ):
        assert world_with(settings).run(following).reason is FailureReason.SETTINGS_KEPT
    assert World(seats=1).run(bucket(Versioning.OFF, lock=LOCKED)).reason is FailureReason.SETTINGS_KEPT


def test_a_bucket_goes_when_it_is_empty() -> None:
    world = world_with(bucket())
    put(world, entry("a", details=MARKER))
    gone = DeleteBucket(tenant=TENANT, bucket_tag=BUCKET)
    assert world.run(gone).reason is FailureReason.BUCKET_NOT_EMPTY
    assert delete(world, version("1")) is None
    change = world.apply(world.transaction(gone))
    assert change.outcomes[0].reason is None
    assert change.erased_records == (bucket().record_address,)
    assert bucket_state(world) is None
    assert world.run(gone).reason is FailureReason.BUCKET_UNKNOWN


def test_an_overwritten_version_is_kept_where_versioning_is_enabled() -> None:
    world = world_with(bucket())
    for number in "123":
        assert failures(put(world, entry("a", version=number))) == []
    newest, middle = current(world), older(world, version("2"))
    assert newest is not None
    assert middle is not None
    assert (newest.version_id, newest.older, newest.newer) == (version("3"), version("2"), None)
    assert (middle.older, middle.newer) == (version("1"), version("3"))
    made = bucket_state(world)
    assert made is not None
    assert made.entry_count == 3


def test_versions_have_an_order_within_their_block() -> None:
    world = world_with(bucket())
    first = world.transaction(world.commit((), entry("b"), entry("a", version="1")))
    second = world.transaction(world.commit((), entry("a", version="2")))
    world.apply(first, second)
    newest, oldest = current(world), older(world, version("1"))
    assert newest is not None
    assert oldest is not None
    assert newest.height == oldest.height
    assert newest.order > oldest.order


def test_the_next_version_becomes_current_when_the_current_one_goes() -> None:
    world = world_with(bucket())
    for number in "123":
        put(world, entry("a", version=number))
    assert delete(world, version("2")) is None
    assert delete(world, version("3")) is None
    found = current(world)
    assert found is not None
    assert (found.version_id, found.older, found.newer) == (version("1"), None, None)
    assert older(world, version("1")) is None
    assert delete(world, version("1")) is None
    assert current(world) is None
    assert delete(world, version("1")) is FailureReason.ENTRY_UNKNOWN


def test_a_version_is_needed_to_delete_where_versions_are_kept() -> None:
    world = world_with(bucket())
    put(world, entry("a"))
    assert delete(world, None) is FailureReason.VERSION_NEEDED


def test_a_version_id_is_used_once() -> None:
    world = world_with(bucket())
    put(world, entry("a"))
    put(world, entry("a", version="2"))
    assert failures(put(world, entry("a"))) == [FailureReason.VERSION_TAKEN]
    null = msgspec.structs.replace(entry("b"), version_id=NULL_VERSION)
    assert failures(put(world, null)) == [FailureReason.VERSION_TAKEN]


def test_a_marker_counts_as_absent() -> None:
    world = world_with(bucket())
    put(world, entry("a"))
    put(world, entry("a", version="m", details=MARKER))
    assert failures(put(world, entry("a", version="2", condition=bytes(version("m"))))) == [
        FailureReason.CONDITION_FAILED
    ]
    assert failures(put(world, entry("a", version="2", condition=b""))) == []


def test_a_marker_needs_versioning() -> None:
    world = world_with(bucket(Versioning.OFF))
    assert failures(put(world, entry("a", details=MARKER))) == [FailureReason.VERSIONING_OFF]
    odd = world.commit((world.segment("s"),), entry("a", Extent(segment=0, extent_bytes=1), details=MARKER))
    with pytest.raises(RejectionError) as refused:
        check_transactions(world.context, [world.transaction(odd)])
    assert refused.value.reason is RejectionReason.BAD_TRANSACTION


def test_the_null_version_is_replaced_wherever_it_lies() -> None:
    world = world_with(bucket(Versioning.OFF))
    put(world, entry("a", version="null 1"))
    world.run(bucket(settings=b"t"))
    put(world, entry("a", version="named"))
    kept = older(world, NULL_VERSION)
    assert kept is not None
    assert kept.version_id == version("null 1")
    world.run(bucket(Versioning.SUSPENDED, settings=b"u"))
    put(world, entry("a", version="null 2"))
    newest = current(world)
    assert newest is not None
    assert (newest.is_null, newest.version_id, newest.older) == (True, version("null 2"), version("named"))
    assert older(world, NULL_VERSION) is None
    put(world, entry("a", version="null 3", details=MARKER))
    marker = current(world)
    assert marker is not None
    assert (marker.kind, marker.older) == (EntryKind.MARKER, version("named"))
    assert delete(world, NULL_VERSION) is None
    found = current(world)
    assert found is not None
    assert (found.version_id, found.older) == (version("named"), None)


def test_compliance_is_never_shortened_and_nothing_deletes_before_its_end() -> None:
    world = world_with(bucket(lock=LOCKED))
    put(world, entry("a"))
    strict = Retention(mode=RetentionMode.COMPLIANCE, until_ms=until(world, 60))
    assert change_lock(world, NewRetention(retention=strict, bypass_governance=False), version("1")) is None
    shorter = msgspec.structs.replace(strict, until_ms=until(world, 30))
    weaker = msgspec.structs.replace(strict, mode=RetentionMode.GOVERNANCE, until_ms=until(world, 90))
    for retention in (None, shorter, weaker):
        change = NewRetention(retention=retention, bypass_governance=True)
        assert change_lock(world, change, version("1")) is FailureReason.RETAINED
    assert delete(world, version("1"), bypass=True) is FailureReason.RETAINED
    while world.tip.time_ms + 1_000 < strict.until_ms:
        world.apply()
    assert delete(world, version("1")) is None, "the block's time has reached the end"


def test_governance_yields_to_who_asks_to_bypass_it() -> None:
    world = world_with(bucket(lock=LOCKED))
    lenient = Retention(mode=RetentionMode.GOVERNANCE, until_ms=until(world, 60))
    lock = VersionLock(retention=lenient, legal_hold=False)
    put(world, entry("a", details=EntryDetails(kind=EntryKind.OBJECT, lock=lock)))
    longer = msgspec.structs.replace(lenient, until_ms=until(world, 90))
    strict = msgspec.structs.replace(longer, mode=RetentionMode.COMPLIANCE)
    for retention, reason in ((None, FailureReason.RETAINED), (strict, FailureReason.RETAINED), (longer, None)):
        change = NewRetention(retention=retention, bypass_governance=False)
        assert change_lock(world, change, version("1")) is reason
    assert delete(world, version("1")) is FailureReason.RETAINED
    assert delete(world, version("1"), bypass=True) is None


def test_a_legal_hold_yields_to_nobody() -> None:
    world = world_with(bucket(lock=LOCKED))
    put(world, entry("a"))
    assert change_lock(world, NewHold(legal_hold=True), version("1")) is None
    assert delete(world, version("1"), bypass=True) is FailureReason.RETAINED
    assert failures(put(world, entry("a", version="2"))) == [], "another version may stand above it"
    assert change_lock(world, NewHold(legal_hold=False), version("1")) is None
    assert delete(world, version("1")) is None


def test_the_default_of_a_bucket_retains_from_the_time_of_the_block() -> None:
    default = DefaultRetention(mode=RetentionMode.COMPLIANCE, days=2)
    world = world_with(bucket(lock=ObjectLock(default=default)))
    put(world, entry("a"))
    found = current(world)
    assert found is not None
    expected = Retention(mode=RetentionMode.COMPLIANCE, until_ms=Milliseconds(world.tip.time_ms + 2 * DAY_MS))
    assert found.lock == VersionLock(retention=expected, legal_hold=False)
    put(world, entry("a", version="m", details=MARKER))
    assert delete(world, version("m")) is None, "markers are not retained"
    assert delete(world, version("1")) is FailureReason.RETAINED


def test_retention_needs_a_bucket_with_a_lock() -> None:
    world = world_with(bucket())
    lock = VersionLock(retention=None, legal_hold=True)
    held = entry("a", details=EntryDetails(kind=EntryKind.OBJECT, lock=lock))
    assert failures(put(world, held)) == [FailureReason.LOCK_OFF]
    put(world, entry("a"))
    assert change_lock(world, NewHold(legal_hold=True), version("1")) is FailureReason.LOCK_OFF
    assert change_lock(world, NewHold(legal_hold=True), version("9")) is FailureReason.ENTRY_UNKNOWN


def test_tags_are_a_second_record_even_of_what_is_retained() -> None:
    world = world_with(bucket(lock=LOCKED))
    put(world, entry("a"))
    change_lock(world, NewHold(legal_hold=True), version("1"))

    def tag(record: RecordAddress | None) -> tuple[tuple[RecordAddress, ...], tuple[RecordAddress, ...]]:
        one = TagsChange(bucket_tag=BUCKET, name_tag=NAME, version_id=version("1"), record_address=record)
        change = world.apply(world.transaction(ChangeTags(tenant=TENANT, changes=(one,))))
        assert failures(change.outcomes[0]) == []
        return change.added_records, change.erased_records

    assert tag(address("t1")) == ((address("t1"),), ())
    assert tag(address("t2")) == ((address("t2"),), (address("t1"),))
    assert tag(None) == ((), (address("t2"),))


def test_records_are_sealed_again_unless_they_are_retained() -> None:
    world = world_with(bucket(lock=LOCKED))
    put(world, entry("a"))

    def renew(old: RecordAddress, new: RecordAddress) -> list[FailureReason]:
        one = RecordChange(bucket_tag=BUCKET, name_tag=NAME, version_id=version("1"), old_address=old, new_address=new)
        return failures(world.run(ChangeRecords(tenant=TENANT, changes=(one,))))

    assert renew(entry("a").record_address, address("r2")) == []
    assert renew(entry("a").record_address, address("r3")) == [FailureReason.VERSION_CHANGED]
    change_lock(world, NewHold(legal_hold=True), version("1"))
    assert renew(address("r2"), address("r3")) == [FailureReason.RETAINED]


def test_a_commit_beyond_the_quota_fails_whole() -> None:
    world = World(seats=1)
    tenant = read_state(world.state, tenant_key(TENANT), TenantState)
    assert tenant is not None
    limited = msgspec.msgpack.encode(msgspec.structs.replace(tenant, quota_bytes=1_500))
    world.state.values[tenant_key(TENANT)] = limited
    first = world.commit((world.segment("s"),), entry("a", Extent(segment=0, extent_bytes=10)))
    second = world.commit((world.segment("t"),), entry("b", Extent(segment=0, extent_bytes=10)))
    assert world.run(first).reason is None
    assert world.run(second).reason is FailureReason.QUOTA_EXCEEDED
    assert isinstance(second, CommitObjects)
    assert failures(world.run(msgspec.structs.replace(second, segments=(), receipts=(), buckets=()))) == []
