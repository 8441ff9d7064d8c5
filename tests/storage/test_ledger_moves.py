"""Moves: references change to a new segment that members vouch for, and nothing else does (T70 to T73)."""

from __future__ import annotations

import pytest
from msgspec import structs

from consensus.genesis import genesis_hash
from consensus.identifiers import Milliseconds
from storage.buckets import (
    LockChange,
    NewHold,
    NewRetention,
    ObjectLock,
    Retention,
    RetentionMode,
    SetBucket,
    SetRetention,
    Versioning,
)
from storage.identifiers import SeatIndex, ShardRoot, VersionId
from storage.ledger_versions import find_version, read_current
from storage.moves import Move, MovedEntry, MovedRange, ReplaceSegment, Voucher, sign_move
from storage.outcomes import FailureReason, Outcome
from storage.receipts import Receipt
from storage.state import (
    EntryState,
    FreedState,
    ObjectName,
    SegmentState,
    TenantState,
    freed_key,
    read_state,
    segment_key,
    tenant_key,
)
from storage.transactions import DeleteEntries, EntryCommit, EntryName, Extent, StoredExtent
from tests.storage.ledger_world import BUCKET, OTHER_TENANT, TENANT, World, entry, name_tag, segment_id, signing_key

SEATS = 9


def world_with(*entries: EntryCommit, k: int = 6, segment_bytes: int = 1000) -> World:
    """A world of nine with one segment, "old", shared by entries."""
    world = World(seats=SEATS)
    old = world.segment("old", segment_bytes=segment_bytes, k=k)
    assert world.run(world.commit((old,), *entries)).reason is None
    return world


def moved_entry(name: str, version: str = "1") -> MovedEntry:
    written = entry(name, version=version)
    return MovedEntry(
        bucket_tag=BUCKET,
        name_tag=written.name_tag,
        version_id=written.version_id,
        record_address=written.record_address,
    )


def move_of(world: World, *ranges: tuple[int, int], name: str = "new", k: int = 6) -> Move:
    segment = world.segment(name, segment_bytes=sum(count for _, count in ranges), k=k)
    return Move(
        tenant=TENANT,
        segment_id=segment.segment_id,
        k=segment.k,
        segment_bytes=segment.segment_bytes,
        roots=segment.roots,
        ranges=tuple(
            MovedRange(segment_id=segment_id("old"), offset=offset, range_bytes=count) for offset, count in ranges
        ),
    )


def vouchers(world: World, move: Move, *seats: int) -> tuple[Voucher, ...]:
    return tuple(
        sign_move(signing_key(f"seat {seat}"), genesis_hash(world.genesis), SeatIndex(seat), move) for seat in seats
    )


def receipts(world: World, move: Move, seats: range | None = None) -> tuple[Receipt, ...]:
    name = "new"
    segment = structs.replace(
        world.segment(name), k=move.k, segment_bytes=move.segment_bytes, roots=move.roots, segment_id=move.segment_id
    )
    return world.receipts((segment,), seats)


def replacement(world: World, move: Move, *names: str) -> ReplaceSegment:
    return ReplaceSegment(
        move=move,
        entries=tuple(moved_entry(name) for name in names),
        receipts=receipts(world, move),
        vouchers=vouchers(world, move, 1, 4, 7),
    )


def run(world: World, body: ReplaceSegment) -> Outcome:
    return world.run(body, sender="seat 3")


def current(world: World, name: str) -> EntryState:
    found = read_current(world.state, ObjectName(TENANT, BUCKET, name_tag(name)))
    assert found is not None
    return found


def segment(world: World, name: str) -> SegmentState | None:
    return read_state(world.state, segment_key(segment_id(name)), SegmentState)


def usage(world: World) -> TenantState:
    found = read_state(world.state, tenant_key(TENANT), TenantState)
    assert found is not None
    return found


def test_a_segment_of_smaller_k_is_brought_back_to_the_full_one() -> None:
    world = world_with(
        entry("a", Extent(segment=0, extent_bytes=400)), entry("b", Extent(segment=0, extent_bytes=600)), k=4
    )
    before = current(world, "a")
    assert run(world, replacement(world, move_of(world, (0, 1000)), "a", "b")).reason is None
    assert current(world, "a") == structs.replace(
        before, extents=(StoredExtent(segment_id=segment_id("new"), offset=0, extent_bytes=400),)
    )
    assert current(world, "b").extents == (StoredExtent(segment_id=segment_id("new"), offset=400, extent_bytes=600),)
    found = segment(world, "new")
    assert found is not None
    assert (found.k, found.references, found.columns) == (6, 2, tuple(range(SEATS)))
    assert segment(world, "old") is None
    assert read_state(world.state, freed_key(segment_id("old")), FreedState) is not None
    assert (usage(world).segment_count, usage(world).segment_bytes, usage(world).entry_bytes) == (1, 1000, 1000)


def test_what_is_alive_in_a_pack_is_gathered_and_the_dead_bytes_go() -> None:
    names = "abcd"
    world = world_with(*(entry(name, Extent(segment=0, extent_bytes=250)) for name in names))
    gone = tuple(EntryName(bucket_tag=BUCKET, name_tag=name_tag(name), version_id=None) for name in "ac")
    world.run(DeleteEntries(tenant=TENANT, entries=gone))
    change = world.apply(
        world.transaction(replacement(world, move_of(world, (250, 250), (750, 250)), "b", "d"), sender="seat 3")
    )
    assert change.outcomes[0].reason is None
    assert change.committed_segments == (segment_id("new"),)
    assert change.freed_segments == (segment_id("old"),)
    assert current(world, "d").extents == (StoredExtent(segment_id=segment_id("new"), offset=250, extent_bytes=250),)
    assert usage(world).segment_bytes == 500


def test_an_entry_that_was_overwritten_or_deleted_meanwhile_stays_as_it_is_and_fails_alone() -> None:
    world = world_with(*(entry(name, Extent(segment=0, extent_bytes=100)) for name in "abc"))
    body = replacement(world, move_of(world, (0, 300)), "a", "b", "c")
    other = world.segment("other", segment_bytes=50)
    world.run(world.commit((other,), entry("a", Extent(segment=0, extent_bytes=50), version="2")))
    world.run(
        DeleteEntries(tenant=TENANT, entries=(EntryName(bucket_tag=BUCKET, name_tag=name_tag("b"), version_id=None),))
    )
    outcome = run(world, body)
    assert outcome.reason is None
    assert [(failed.index, failed.reason) for failed in outcome.failed_entries] == [
        (0, FailureReason.ENTRY_UNKNOWN),
        (1, FailureReason.ENTRY_UNKNOWN),
    ]
    assert current(world, "a").extents[0].segment_id == segment_id("other")
    assert segment(world, "old") is None
    again = run(world, replacement(world, move_of(world, (0, 300), name="new"), "c"))
    assert again.reason is FailureReason.SEGMENT_UNKNOWN


def test_bytes_that_the_move_leaves_behind_keep_their_entry_and_their_segment() -> None:
    world = world_with(entry("a", Extent(segment=0, extent_bytes=500)), entry("b", Extent(segment=0, extent_bytes=500)))
    outcome = run(world, replacement(world, move_of(world, (0, 700)), "a", "b"))
    assert [(failed.index, failed.reason) for failed in outcome.failed_entries] == [(1, FailureReason.EXTENT_OUTSIDE)]
    old = segment(world, "old")
    assert old is not None
    assert old.references == 1


def test_an_entry_with_another_record_does_not_move() -> None:
    world = world_with(entry("a", Extent(segment=0, extent_bytes=500)))
    body = replacement(world, move_of(world, (0, 500)), "a")
    changed = structs.replace(body.entries[0], record_address=entry("b").record_address)
    outcome = run(world, structs.replace(body, entries=(changed,)))
    assert outcome.reason is FailureReason.NOTHING_TO_DO
    assert segment(world, "new") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("vouchers", FailureReason.TOO_FEW_VOUCHERS),
        ("twice", FailureReason.BAD_VOUCHER),
        ("other roots", FailureReason.BAD_VOUCHER),
        ("no seat", FailureReason.BAD_VOUCHER),
        ("receipts", FailureReason.TOO_FEW_RECEIPTS),
        ("k", FailureReason.WRONG_K),
        ("overlap", FailureReason.EXTENT_OUTSIDE),
        ("beyond", FailureReason.EXTENT_OUTSIDE),
        ("tenant", FailureReason.SEGMENT_UNKNOWN),
    ],
)
def test_a_move_that_breaks_a_rule_changes_nothing(change: str, reason: FailureReason) -> None:
    world = world_with(entry("a", Extent(segment=0, extent_bytes=1000)))
    move = move_of(world, (0, 1000))
    body = replacement(world, move, "a")
    seats = vouchers(world, move, 0, 1, 2)
    others = structs.replace(move, roots=(ShardRoot(bytes(32)), *move.roots[1:]))
    foreign = structs.replace(move, tenant=OTHER_TENANT)
    bodies = {
        "vouchers": structs.replace(body, vouchers=seats[:2]),
        "twice": structs.replace(body, vouchers=(*seats, seats[0])),
        "other roots": structs.replace(body, vouchers=(*seats[:2], *vouchers(world, others, 5))),
        "no seat": structs.replace(body, vouchers=(*seats[:2], structs.replace(seats[2], seat=SeatIndex(9)))),
        "receipts": structs.replace(body, receipts=receipts(world, move, range(8))),
        "k": replacement(world, move_of(world, (0, 1000), k=5), "a"),
        "overlap": replacement(world, move_of(world, (0, 600), (500, 500)), "a"),
        "beyond": replacement(world, move_of(world, (0, 1000), (1000, 1)), "a"),
        "tenant": structs.replace(body, move=foreign, vouchers=vouchers(world, foreign, 0, 1, 2)),
    }
    assert run(world, bodies[change]).reason is reason
    assert (segment(world, "new"), segment(world, "old") is None) == (None, False)


@pytest.mark.parametrize("sender", ["client", "tenant", "network 1"])
def test_only_a_seat_moves_bytes(sender: str) -> None:
    world = world_with(entry("a", Extent(segment=0, extent_bytes=1000)))
    body = replacement(world, move_of(world, (0, 1000)), "a")
    assert world.run(body, sender=sender).reason is FailureReason.NOT_GRANTED


def test_a_version_is_named_by_its_own_id() -> None:
    world = world_with(entry("a", Extent(segment=0, extent_bytes=1000)))
    body = replacement(world, move_of(world, (0, 1000)), "a")
    null = structs.replace(body.entries[0], version_id=VersionId(bytes(16)))
    outcome = run(world, structs.replace(body, entries=(null, body.entries[0])))
    assert [(failed.index, failed.reason) for failed in outcome.failed_entries] == [(0, FailureReason.VERSION_CHANGED)]


def locked_world() -> World:
    """A bucket with object lock and one version, "a", in the segment "old"."""
    world = World(seats=SEATS)
    bucket = SetBucket(
        tenant=TENANT,
        bucket_tag=BUCKET,
        version_id=VersionId(b"s" * 16),
        record_address=entry("settings").record_address,
        versioning=Versioning.ENABLED,
        lock=ObjectLock(default=None),
        condition=None,
    )
    assert world.run(bucket).reason is None
    old = world.segment("old")
    body = world.commit((old,), entry("a", Extent(segment=0, extent_bytes=1000)))
    assert world.run(structs.replace(body, new_buckets=())).reason is None
    return world


@pytest.mark.parametrize(
    "change",
    [
        NewHold(legal_hold=True),
        NewRetention(
            retention=Retention(mode=RetentionMode.COMPLIANCE, until_ms=Milliseconds(2**52)), bypass_governance=False
        ),
    ],
)
def test_a_lock_that_was_set_meanwhile_moves_along_and_holds(change: NewHold | NewRetention) -> None:
    world = locked_world()
    body = replacement(world, move_of(world, (0, 1000)), "a")
    version = body.entries[0].version_id
    locked = LockChange(bucket_tag=BUCKET, name_tag=name_tag("a"), version_id=version, change=change)
    assert world.run(SetRetention(tenant=TENANT, changes=(locked,))).failed_entries == ()
    before = current(world, "a")
    assert run(world, body).failed_entries == ()
    moved = current(world, "a")
    assert moved == structs.replace(before, extents=moved.extents)
    assert moved.lock is not None
    assert moved.extents[0].segment_id == segment_id("new")
    name = EntryName(bucket_tag=BUCKET, name_tag=name_tag("a"), version_id=version)
    refused = world.run(DeleteEntries(tenant=TENANT, entries=(name,), bypass_governance=True)).failed_entries
    assert [failed.reason for failed in refused] == [FailureReason.RETAINED]
    assert segment(world, "new") is not None


def test_a_version_that_was_covered_by_a_newer_one_meanwhile_moves_where_it_lies() -> None:
    world = locked_world()
    body = replacement(world, move_of(world, (0, 1000)), "a")
    newer = world.commit((world.segment("other"),), entry("a", Extent(segment=0, extent_bytes=50), version="2"))
    assert world.run(structs.replace(newer, new_buckets=())).reason is None
    assert run(world, body).failed_entries == ()
    assert current(world, "a").extents[0].segment_id == segment_id("other")
    older = find_version(world.state, ObjectName(TENANT, BUCKET, name_tag("a")), body.entries[0].version_id)
    assert older is not None
    assert older.extents[0].segment_id == segment_id("new")
    assert segment(world, "old") is None
