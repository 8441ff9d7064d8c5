"""What transactions do to the state, rule by rule; nine seats where the budget matters, four elsewhere."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from consensus.merkle import check_list_proof, list_proof
from storage.identifiers import SegmentId
from storage.ledger import check_transactions, genesis_state
from storage.outcomes import FailedEntry, FailureReason
from storage.state import (
    OUTCOMES_KEY,
    EntryState,
    MemoryState,
    OutcomesState,
    SegmentState,
    TenantState,
    entry_key,
    read_state,
    segment_key,
    tenant_key,
)
from storage.state_tree import root_of_tree, update
from storage.transactions import (
    CommitObjects,
    CompleteColumns,
    DeleteEntries,
    EntryCommit,
    EntryName,
    Extent,
    StoredExtent,
)
from tests.storage.ledger_world import (
    BUCKET,
    NEW_BUCKET,
    OTHER_TENANT,
    TENANT,
    World,
    entry,
    make_genesis,
    name_tag,
    record_addresses,
    segment_id,
    signing_key,
)


def entry_state(world: World, name: str) -> EntryState | None:
    return read_state(world.state, entry_key(TENANT, BUCKET, name_tag(name)), EntryState)


def segment_state(world: World, name: str) -> SegmentState | None:
    return read_state(world.state, segment_key(segment_id(name)), SegmentState)


def tenant_state(world: World) -> TenantState:
    state = read_state(world.state, tenant_key(TENANT), TenantState)
    assert state is not None
    return state


def delete(*names: str) -> DeleteEntries:
    return DeleteEntries(
        tenant=TENANT,
        entries=tuple(EntryName(bucket_tag=BUCKET, name_tag=name_tag(name), version_id=None) for name in names),
    )


def stored(world: World, name: str = "a", *, version: str = "1") -> EntryCommit:
    """Commit one object in its own segment."""
    segments = (world.segment(f"{name} {version}"),)
    committed = entry(name, Extent(segment=0, extent_bytes=1000), version=version)
    assert world.run(world.commit(segments, committed)).reason is None
    return committed


def test_a_commit_writes_entry_segment_and_usage() -> None:
    world = World()
    segments = (world.segment("s"),)
    change = world.apply(
        world.transaction(
            world.commit(
                segments,
                entry("a", Extent(segment=0, extent_bytes=400)),
                entry("b", Extent(segment=0, extent_bytes=600)),
            )
        )
    )
    assert change.outcomes[0].reason is None
    found = entry_state(world, "b")
    assert found is not None
    assert found.extents == (StoredExtent(segment_id=segment_id("s"), offset=400, extent_bytes=600),)
    segment = segment_state(world, "s")
    assert segment is not None
    assert (segment.references, segment.columns, segment.height) == (2, (0, 1, 2, 3), 1)
    usage = tenant_state(world)
    assert (usage.entry_count, usage.entry_bytes, usage.segment_count, usage.segment_bytes) == (2, 1000, 1, 1000)
    assert change.committed_segments == (segment_id("s"),)
    assert change.freed_segments == ()
    assert change.erased_records == ()
    records = (NEW_BUCKET.record_address, entry("a").record_address, entry("b").record_address)
    assert change.added_records == records
    assert [changed.name_tag for changed in change.changed_objects] == [name_tag("a"), name_tag("b")]
    assert change.state_root == root_of_tree(world.state)


def test_an_empty_block_changes_nothing() -> None:
    world = World()
    stored(world)
    change = world.apply()
    assert (change.values, change.pages, change.outcomes) == ({}, {}, ())
    assert change.state_root == root_of_tree(world.state)


def test_outcomes_stand_under_the_state_root() -> None:
    world = World()
    transactions = [world.transaction(delete("nothing")), world.transaction(delete("x"), sender="stranger")]
    change = world.apply(*transactions)
    assert [outcome.reason for outcome in change.outcomes] == [None, FailureReason.NOT_GRANTED]
    outcomes = read_state(world.state, OUTCOMES_KEY, OutcomesState)
    assert outcomes is not None
    assert outcomes.height == 1
    encoded = [encode(outcome) for outcome in change.outcomes]
    check_list_proof(outcomes.root, encoded[1], list_proof(encoded, 1))


@pytest.mark.parametrize(("seats", "k", "held", "is_enough"), [
    (9, 6, 8, True), (9, 6, 7, False), (9, 5, 7, True), (9, 5, 6, False), (9, 4, 6, True), (9, 4, 5, False),
    (4, 3, 4, True), (4, 3, 3, False), (4, 2, 3, True), (1, 1, 1, True),
])  # fmt: skip
def test_never_fewer_receipts_than_data_columns_and_liars(seats: int, k: int, held: int, is_enough: bool) -> None:  # noqa: FBT001
    world = World(seats=seats)
    segments = (world.segment("s", k=k),)
    body = world.commit(
        segments, entry("a", Extent(segment=0, extent_bytes=1)), receipts=world.receipts(segments, range(held))
    )
    outcome = world.run(body)
    assert outcome.reason is (None if is_enough else FailureReason.TOO_FEW_RECEIPTS)
    assert (segment_state(world, "s") is not None) is is_enough


@pytest.mark.parametrize(("k", "reason"), [(3, FailureReason.WRONG_K), (7, FailureReason.WRONG_K), (4, None)])
def test_data_columns_stay_within_the_budget(k: int, reason: FailureReason | None) -> None:
    world = World(seats=9)
    assert world.run(world.commit((world.segment("s", k=k),), entry("a"))).reason is reason


def test_a_segment_has_all_its_columns() -> None:
    world = World()
    segment = msgspec.structs.replace(world.segment("s"), roots=world.segment("s").roots[:3])
    outcome = world.run(world.commit((segment,), entry("a"), receipts=()))
    assert (outcome.reason, outcome.place) == (FailureReason.WRONG_COLUMNS, 0)


def test_bad_receipts_fail_the_whole_transaction() -> None:
    world = World()
    segments = (world.segment("s"),)
    good = world.receipts(segments)
    bad = {
        FailureReason.BAD_RECEIPT: [
            (*good[:3], world.receipt(3, segments, signer="seat 2")),
            (*good[:3], world.receipt(3, segments, tenant=OTHER_TENANT)),
            (*good[:3], good[0]),
            (*good[:3], world.receipt(3, (world.segment("s", segment_bytes=999_999),))),
            (*good, msgspec.structs.replace(good[0], seat=4)),
        ],
        FailureReason.RECEIPT_EXPIRED: [(*good[:3], world.receipt(3, segments, expiry=0))],
        FailureReason.RECEIPT_TOO_FAR: [(*good[:3], world.receipt(3, segments, expiry=5_000))],
    }
    for reason, cases in bad.items():
        for receipts in cases:
            assert world.run(world.commit(segments, entry("a"), receipts=receipts)).reason is reason
    assert segment_state(world, "s") is None
    assert world.run(world.commit(segments, entry("a", Extent(segment=0, extent_bytes=1)))).reason is None


@pytest.mark.parametrize(
    ("expiry", "reason"),
    [
        (1, FailureReason.RECEIPT_EXPIRED),
        (2, None),
        (1_002, None),
        (1_003, FailureReason.RECEIPT_TOO_FAR),
    ],
)
def test_a_receipt_counts_up_to_its_expiry_height(expiry: int, reason: FailureReason | None) -> None:
    world = World()
    world.apply()
    segments = (world.segment("s"),)
    receipts = tuple(world.receipt(seat, segments, expiry=expiry) for seat in range(4))
    committed = entry("a", Extent(segment=0, extent_bytes=1))
    assert world.run(world.commit(segments, committed, receipts=receipts)).reason is reason


def test_a_segment_without_a_surviving_entry_is_freed_at_once() -> None:
    world = World()
    segments = (world.segment("s"), world.segment("t"))
    change = world.apply(
        world.transaction(
            world.commit(
                segments,
                entry("a", Extent(segment=0, extent_bytes=10)),
                entry("b", Extent(segment=1, extent_bytes=10), condition=b"v" * 16),
            )
        )
    )
    assert change.outcomes[0].failed_entries == (FailedEntry(index=1, reason=FailureReason.CONDITION_FAILED),)
    assert (change.committed_segments, change.freed_segments) == ((segment_id("s"),), (segment_id("t"),))
    assert change.added_records == (NEW_BUCKET.record_address, entry("a").record_address)
    assert (tenant_state(world).segment_count, tenant_state(world).entry_count) == (1, 1)


def test_of_many_creators_one_wins() -> None:
    world = World(seats=4)
    transactions = list[bytes]()
    for i in range(8):
        segments = (world.segment(f"s{i}"),)
        committed = entry("a", Extent(segment=0, extent_bytes=10), version=str(i), condition=b"")
        transactions.append(world.transaction(world.commit(segments, committed)))
    change = world.apply(*transactions)
    assert [len(outcome.failed_entries) for outcome in change.outcomes] == [0, *[1] * 7]
    assert change.committed_segments == (segment_id("s0"),)
    assert len(change.freed_segments) == 7


def test_overwriting_frees_what_was_there() -> None:
    world = World()
    first = stored(world)
    segments = (world.segment("new"),)
    again = entry("a", Extent(segment=0, extent_bytes=5), version="2", condition=bytes(first.version_id))
    change = world.apply(world.transaction(world.commit(segments, again)))
    assert change.outcomes[0].failed_entries == ()
    assert change.freed_segments == (segment_id("a 1"),)
    assert change.erased_records == (first.record_address,)
    assert change.added_records == (again.record_address,)
    assert (tenant_state(world).entry_count, tenant_state(world).entry_bytes) == (1, 5)


def test_a_segment_lives_as_long_as_one_entry_refers_to_it() -> None:
    world = World()
    segments = (world.segment("s"),)
    extents = [Extent(segment=0, extent_bytes=10), Extent(segment=0, extent_bytes=10)]
    world.run(world.commit(segments, entry("a", extents[0]), entry("b", extents[1])))
    copied = entry("c", StoredExtent(segment_id=segment_id("s"), offset=3, extent_bytes=4))
    assert world.run(world.commit((), copied)).failed_entries == ()
    assert world.apply(world.transaction(delete("a", "b"))).freed_segments == ()
    segment = segment_state(world, "s")
    assert segment is not None
    assert segment.references == 1
    change = world.apply(world.transaction(delete("c")))
    assert change.freed_segments == (segment_id("s"),)
    assert change.erased_records == (entry("c").record_address,)
    assert tenant_state(world).segment_count == tenant_state(world).entry_bytes == 0


def test_a_reference_given_up_and_taken_in_one_transaction_keeps_the_segment() -> None:
    world = World()
    stored(world)
    moved = entry("a", StoredExtent(segment_id=segment_id("a 1"), offset=0, extent_bytes=1000), version="2")
    change = world.apply(world.transaction(world.commit((), moved)))
    assert change.outcomes[0].failed_entries == ()
    assert change.freed_segments == ()


def test_extents_stay_inside_their_own_tenants_segments() -> None:
    world = World()
    stored(world)
    for extent, reason in (
        (StoredExtent(segment_id=segment_id("a 1"), offset=1, extent_bytes=1000), FailureReason.EXTENT_OUTSIDE),
        (StoredExtent(segment_id=segment_id("none"), offset=0, extent_bytes=1), FailureReason.SEGMENT_UNKNOWN),
    ):
        assert world.run(world.commit((), entry("b", extent))).failed_entries == (FailedEntry(index=0, reason=reason),)
    segments = (world.segment("s"),)
    too_long = entry("b", Extent(segment=0, extent_bytes=1001))
    assert world.run(world.commit(segments, too_long)).reason is FailureReason.EXTENT_OUTSIDE
    beyond = entry("b", Extent(segment=1, extent_bytes=1))
    assert world.run(world.commit(segments, beyond)).reason is FailureReason.SEGMENT_UNKNOWN
    theirs = CommitObjects(
        tenant=OTHER_TENANT,
        segments=(),
        buckets=world.commit(
            (), entry("x", StoredExtent(segment_id=segment_id("a 1"), offset=0, extent_bytes=1))
        ).buckets,
        receipts=(),
        new_buckets=(NEW_BUCKET,),
    )
    outcome = world.run(theirs, sender="other tenant")
    assert outcome.failed_entries == (FailedEntry(index=0, reason=FailureReason.SEGMENT_UNKNOWN),)


def test_failing_entries_keep_their_place_in_the_segment() -> None:
    world = World()
    committed = world.commit(
        (world.segment("s"),),
        entry("a", Extent(segment=0, extent_bytes=100), condition=b"v" * 16),
        entry("b", Extent(segment=0, extent_bytes=200)),
    )
    world.run(committed)
    found = entry_state(world, "b")
    assert found is not None
    assert found.extents[0].offset == 100


def test_a_live_segment_id_is_not_committed_again() -> None:
    world = World()
    segments = (world.segment("s"),)
    body = world.commit(segments, entry("a", Extent(segment=0, extent_bytes=1)))
    assert world.run(body).reason is None
    outcome = world.run(body)
    assert (outcome.reason, outcome.place) == (FailureReason.SEGMENT_LIVE, 0)
    assert world.run(world.commit((*segments, *segments), receipts=())).reason is FailureReason.SEGMENT_TWICE


def test_the_id_of_a_freed_segment_is_used_up() -> None:
    """Its receipts would be good for a thousand heights, and nobody has the shards any more."""
    world = World()
    for name, condition in (("a", None), ("b", b"v" * 16)):
        segments = (world.segment(name),)
        receipts = world.receipts(segments)
        body = world.commit(segments, entry(name, Extent(segment=0, extent_bytes=1), condition=condition))
        world.run(body)
        world.run(delete(name))
        assert segment_state(world, name) is None
        again = world.commit(segments, entry(name, Extent(segment=0, extent_bytes=1)), receipts=receipts)
        outcome = world.run(again)
        assert (outcome.reason, outcome.place) == (FailureReason.SEGMENT_FREED, 0)
        recoded = world.commit((world.segment(name, segment_bytes=2000),), entry(name))
        assert world.run(recoded).reason is FailureReason.SEGMENT_FREED


def test_deleting_what_changed_or_never_was_fails_alone() -> None:
    world = World()
    first = stored(world)
    body = DeleteEntries(
        tenant=TENANT,
        entries=(
            EntryName(bucket_tag=BUCKET, name_tag=name_tag("none"), version_id=None),
            EntryName(bucket_tag=BUCKET, name_tag=name_tag("a"), version_id=entry("a", version="9").version_id),
            EntryName(bucket_tag=BUCKET, name_tag=name_tag("a"), version_id=first.version_id),
        ),
    )
    outcome = world.run(body)
    assert [(failed.index, failed.reason) for failed in outcome.failed_entries] == [
        (0, FailureReason.ENTRY_UNKNOWN),
        (1, FailureReason.VERSION_CHANGED),
    ]
    assert entry_state(world, "a") is None


def test_a_seat_completes_its_column_later() -> None:
    world = World(seats=9)
    segments = (world.segment("s", k=4), world.segment("t", k=4))
    six = world.receipts(segments, range(6))
    extents = [Extent(segment=i, extent_bytes=10) for i in range(2)]
    assert world.run(world.commit(segments, entry("a", *extents), receipts=six)).reason is None
    complete = CompleteColumns(
        tenant=TENANT,
        segment_ids=(segment_id("s"), segment_id("t")),
        receipts=(world.receipt(7, segments, held=(1,)),),
    )
    assert world.run(complete, sender="seat 7").reason is None
    counts = [len(state.columns) for name in "st" if (state := segment_state(world, name)) is not None]
    assert counts == [6, 7]
    assert world.run(complete, sender="seat 7").reason is FailureReason.NOTHING_TO_DO
    assert world.run(complete, sender="stranger").reason is FailureReason.NOT_GRANTED
    unknown = msgspec.structs.replace(complete, segment_ids=(segment_id("s"), SegmentId(bytes(32))))
    assert world.run(unknown, sender="seat 7").reason is FailureReason.SEGMENT_UNKNOWN


def test_no_block_holds_what_cannot_be_read_or_was_not_signed() -> None:
    world = World()
    good = world.transaction(delete("a"))
    check_transactions(world.context, [good])
    forged = good[:-1] + bytes((good[-1] ^ 1,))
    odd = world.transaction(world.commit((), entry("a", condition=b"seven..")))
    for transactions, reason in (
        ([good, good], RejectionReason.DUPLICATE_TRANSACTION),
        ([good, forged], RejectionReason.BAD_SIGNATURE),
        ([good[:-1]], RejectionReason.MALFORMED),
        ([odd], RejectionReason.BAD_TRANSACTION),
        ([bytes(1024 * 1024 + 1)], RejectionReason.OVERSIZED),
    ):
        with pytest.raises(RejectionError) as refused:
            check_transactions(world.context, transactions)
        assert refused.value.reason is reason
    other = World(chain_id="another")
    with pytest.raises(RejectionError, match="bad_signature"):
        check_transactions(other.context, [good])


def test_records_travel_with_commits_alone() -> None:
    world = World()
    body = world.commit((), entry("a"), entry("b"), entry("a"))
    records = (NEW_BUCKET.record_address, entry("a").record_address, entry("b").record_address)
    assert record_addresses(world.transaction(body)) == records
    assert record_addresses(world.transaction(delete("a"))) == ()


def test_genesis_must_seat_every_member() -> None:
    genesis = make_genesis(4)
    with pytest.raises(RejectionError, match="bad_genesis: 4 seats, 3 members"):
        genesis_state(msgspec.structs.replace(genesis, members=genesis.members[:3]))
    with pytest.raises(RejectionError):
        genesis_state(msgspec.structs.replace(genesis, application=b"\0"))


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(st.tuples(st.sampled_from(["put", "swap", "delete", "create"]), NAMES, NAMES), max_size=14)


@settings(max_examples=40)
@given(STEPS)
def test_references_usage_and_tree_always_add_up(steps: list[tuple[str, str, str]]) -> None:
    world = World(seats=1)
    for number, (kind, name, other) in enumerate(steps):
        extents = (Extent(segment=0, extent_bytes=100),)
        segments = (world.segment(f"s{number}"),)
        existing = entry_state(world, other)
        body: CommitObjects | DeleteEntries
        if kind == "delete":
            body = delete(name, other)
        elif kind == "swap" and existing is not None:
            body = world.commit((), entry(name, *existing.extents, version=str(number)), entry(other, version="z"))
        else:
            condition = b"" if kind == "create" else None
            committed = [entry(n, *extents, version=str(number), condition=condition) for n in (name, other)]
            body = world.commit(segments, *committed)
        change = world.apply(world.transaction(body))
        assert not set(change.freed_segments) & set(change.committed_segments)
        assert not set(change.added_records) & set(change.erased_records)
    _check_sums(world)


def _check_sums(world: World) -> None:
    values = world.state.values
    entries = [read_state(world.state, k, EntryState) for k in values if k[:1] == b"e"]
    extents = [extent for state in entries if state is not None for extent in state.extents]
    segments = {k[1:]: read_state(world.state, k, SegmentState) for k in values if k[:1] == b"x"}
    counted = {name: sum(extent.segment_id == name for extent in extents) for name in segments}
    assert {name: state.references for name, state in segments.items() if state is not None} == counted
    assert all(count > 0 for count in counted.values())
    assert {extent.segment_id for extent in extents} == segments.keys()
    usage = tenant_state(world)
    assert usage.entry_count == len(entries)
    assert usage.entry_bytes == sum(extent.extent_bytes for extent in extents)
    assert usage.segment_count == len(segments)
    fresh = update(MemoryState(), dict(values))
    assert (fresh.root, {k: v for k, v in fresh.pages.items() if v}) == (world.tip.state_root, world.state.pages)


def test_the_sum_check_sees_a_lost_reference() -> None:
    world = World(seats=1)
    stored(world)
    state = segment_state(world, "a 1")
    assert state is not None
    world.state.values[segment_key(segment_id("a 1"))] = encode(msgspec.structs.replace(state, references=2))
    with pytest.raises(AssertionError):
        _check_sums(world)


def test_a_member_set_of_the_context_is_that_of_genesis() -> None:
    world = World(seats=9)
    assert world.context.members.public_keys[3] == signing_key("seat 3").public
    assert replace(world.context, coding=world.context.members.budget) == world.context
    assert world.tip.height == Height(0)
