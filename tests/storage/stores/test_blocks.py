"""The chain on disk: what was appended is there after a restart, whatever happened between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consensus.blocks import DecidedBlock, header_hash
from consensus.chain import check_block, check_decided, make_block
from consensus.encoding import encode
from consensus.errors import RejectionError
from consensus.identifiers import Height, MemberIndex, Milliseconds, Round, TransactionId
from consensus.turns import Suspension, suspensions
from storage.errors import StorageError, StoreFullError
from storage.faults import Fault
from storage.outcomes import FailureReason
from storage.proofs import check_state_proof, check_transaction_proof
from storage.state import EntryState, decode_state, entry_key, segment_key
from storage.stores.blocks import ChainStore, open_chain
from storage.stores.leveldb import LevelDatabase, WriteBatch
from storage.stores.turns import TURNS_ROW
from storage.transactions import CommitObjects, DeleteEntries, EntryName, Extent, GrantClient, transaction_id
from tests.storage.ledger_world import (
    BUCKET,
    OTHER_TENANT,
    TENANT,
    World,
    entry,
    make_genesis,
    name_tag,
    segment_id,
    signing_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


NO_ENTRY = EntryName(bucket_tag=BUCKET, name_tag=name_tag("nothing"), version_id=None)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store(tmp_path: Path, world: World) -> Iterator[ChainStore]:
    with open_chain(tmp_path / "chain", world.genesis) as opened:
        yield opened


def commit(world: World, name: str, *, segment: str | None = None) -> CommitObjects:
    return world.commit((world.segment(segment or name),), entry(name, Extent(segment=0, extent_bytes=10)))


def append(store: ChainStore, decided: DecidedBlock) -> None:
    check_decided(decided, store.tip, World().rules, store)
    store.append(decided, store.execute(decided.block))


def test_a_chain_of_blocks_survives_reopening(tmp_path: Path, world: World) -> None:
    decided = [world.decide(world.transaction(commit(world, f"o{i}"))) for i in range(3)]
    with open_chain(tmp_path / "chain", world.genesis) as store:
        for block in decided:
            append(store, block)
    with open_chain(tmp_path / "chain", world.genesis) as store:
        assert store.tip == world.tip
        assert store.decided_block(Height(2)) == decided[1]
        assert store.decided_block(Height(4)) is None
        assert store.decided_range(Height(1), 10, 1 << 20) == tuple(encode(block) for block in decided)
        assert store.decided_range(Height(2), 10, 1) == (encode(decided[1]),)
        assert store.decided_range(Height(4), 1, 1 << 20) == ()
        assert {k: store.value(k) for k in world.state.values} == world.state.values
        append(store, world.decide())
        assert store.tip.height == 4


def test_whose_turn_comes_next_is_rebuilt_from_blocks_where_its_row_is_missing(tmp_path: Path, world: World) -> None:
    with open_chain(tmp_path / "chain", world.genesis) as store:
        for _ in range(6):
            append(store, world.decide())
    with LevelDatabase(tmp_path / "chain") as database:
        assert database.get(TURNS_ROW) == encode(world.tip.turns)
        batch = WriteBatch()
        batch.delete(TURNS_ROW)
        database.write(batch)
    with open_chain(tmp_path / "chain", world.genesis) as store:
        assert store.tip == world.tip
        append(store, world.decide())
        assert store.tip == world.tip


def test_a_fault_is_on_chain_once_for_ever(tmp_path: Path, world: World) -> None:
    proof, other = world.evidence(1), world.evidence(1, round_=1)
    with open_chain(tmp_path / "chain", world.genesis) as store:
        assert not store.is_known_fault(proof)
        append(store, world.decide(evidence=(proof,)))
        append(store, world.decide())
    with open_chain(tmp_path / "chain", world.genesis) as store:
        assert store.tip == world.tip
        assert store.is_known_fault(proof)
        assert store.faults() == (
            Fault(member=MemberIndex(1), kind="precommit", height=Height(1), round=Round(0), proven_at=Height(1)),
        )
        repeated = make_block(
            world.tip,
            world.rules,
            store.tip.turns.proposer(Height(3), Round(0)),
            transactions=(),
            evidence=(proof,),
            now_ms=Milliseconds(world.tip.time_ms + 1),
        )
        with pytest.raises(RejectionError, match="bad_evidence: precommit of member 1, height 1, round 0: on chain"):
            check_block(repeated, store.tip, world.rules, store)
        append(store, world.decide(evidence=(other,)))
        assert [fault.round for fault in store.faults()] == [0, 1]


def test_evidence_waits_through_a_restart_until_a_block_holds_it(tmp_path: Path, world: World) -> None:
    proof, other = world.evidence(1), world.evidence(2)
    with open_chain(tmp_path / "chain", world.genesis) as store:
        store.keep_evidence(proof)
        store.keep_evidence(other)
        store.keep_evidence(proof)
    with open_chain(tmp_path / "chain", world.genesis) as store:
        assert store.waiting_evidence() == (proof, other)
        append(store, world.decide(evidence=(proof,)))
        assert store.waiting_evidence() == (other,)


def test_the_guilty_of_long_ago_are_rebuilt_from_the_ledger(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consensus.turns.FRESH_START_TURNS", 4)
    with open_chain(tmp_path / "chain", world.genesis) as store:
        append(store, world.decide(evidence=(world.evidence(1),)))
        for _ in range(19):
            append(store, world.decide())
    batch = WriteBatch()
    batch.delete(TURNS_ROW)
    with LevelDatabase(tmp_path / "chain") as database:
        database.write(batch)
    with open_chain(tmp_path / "chain", world.genesis) as store:
        assert suspensions(store.tip.turns) == {1: Suspension.GUILTY}
        assert store.tip == world.tip


def test_a_transaction_keeps_the_place_where_it_ran(store: ChainStore, world: World) -> None:
    """A proposer includes it again; and one that failed before it could run has the place where it ran at last."""
    key = signing_key("late client").public
    early = world.transaction(commit(world, "late"), sender="late client")
    ran = world.transaction(commit(world, "a"))
    failed = world.transaction(DeleteEntries(tenant=TENANT, entries=(NO_ENTRY,)))
    grant = world.transaction(GrantClient(tenant=TENANT, public_key=key, certificate=b"c"), sender="tenant")
    append(store, world.decide(early, ran, failed))
    append(store, world.decide(grant))
    append(store, world.decide(ran, early, failed))
    places = [store.transaction(transaction_id(encoded)) for encoded in (ran, failed, early)]
    assert [(p.height, p.index, p.outcome.reason) for p in places if p is not None] == [
        (1, 1, None),
        (1, 2, None),
        (3, 1, None),
    ]
    assert places[1] is not None
    assert [entry.reason for entry in places[1].outcome.failed_entries] == [FailureReason.ENTRY_UNKNOWN]


def test_transactions_are_found_with_their_outcome(store: ChainStore, world: World) -> None:
    good = world.transaction(commit(world, "a"))
    bad = world.transaction(commit(world, "b"), sender="stranger")
    append(store, world.decide(good, bad))
    places = [store.transaction(transaction_id(encoded)) for encoded in (good, bad)]
    assert [(p.height, p.index, p.outcome.reason) for p in places if p is not None] == [
        (1, 0, None),
        (1, 1, FailureReason.NOT_GRANTED),
    ]
    assert store.transaction(TransactionId(bytes(32))) is None
    proof = store.transaction_proof(transaction_id(bad))
    assert proof is not None
    assert check_transaction_proof(proof, world.rules.members) == bad
    assert store.transaction_proof(TransactionId(bytes(32))) is None


def test_entries_and_segments_are_listed_in_order_page_by_page(store: ChainStore, world: World) -> None:
    for i in range(5):
        append(store, world.decide(world.transaction(commit(world, f"o{i}"))))
    tags = sorted(name_tag(f"o{i}") for i in range(5))
    assert [listed.name_tag for listed in store.entries(TENANT)] == tags
    first = store.entries(TENANT, BUCKET, limit=2)
    rest = store.entries(TENANT, BUCKET, after=(first[-1].bucket_tag, first[-1].name_tag))
    assert [listed.name_tag for listed in (*first, *rest)] == tags
    assert store.entries(OTHER_TENANT) == ()
    assert first[0].state == store.entry(TENANT, BUCKET, first[0].name_tag)
    names = sorted(segment_id(f"o{i}") for i in range(5))
    found = [*store.segments(limit=3), *store.segments(after=names[2])]
    assert [name for name, _ in found] == names
    assert store.segment(names[0]) == found[0][1]
    assert [name for name, _ in store.tenants()] == [OTHER_TENANT, TENANT]
    assert [state.certificate for _, state in store.grants(TENANT)] == [b"client certificate"]


def test_proofs_are_given_at_a_certified_root_under_constant_load(store: ChainStore, world: World) -> None:
    state_key = entry_key(TENANT, BUCKET, name_tag("a"))
    with pytest.raises(StorageError, match="not certified yet"):
        store.proof(state_key)
    append(store, world.decide(world.transaction(commit(world, "a", segment="first"))))
    assert check_state_proof(store.proof(state_key), state_key, world.rules.members) is None
    append(store, world.decide(world.transaction(commit(world, "a", segment="second"))))
    value = check_state_proof(store.proof(state_key), state_key, world.rules.members)
    assert value is not None
    assert decode_state(value, EntryState).extents[0].segment_id == segment_id("first")
    freed = segment_key(segment_id("first"))
    assert check_state_proof(store.proof(freed), freed, world.rules.members) is not None
    append(store, world.decide())
    assert check_state_proof(store.proof(freed), freed, world.rules.members) is None


def test_after_a_restart_proofs_wait_only_for_an_uncertified_root(tmp_path: Path, world: World) -> None:
    state_key = entry_key(TENANT, BUCKET, name_tag("a"))
    with open_chain(tmp_path / "chain", world.genesis) as store:
        append(store, world.decide(world.transaction(commit(world, "a"))))
    with open_chain(tmp_path / "chain", world.genesis) as store:
        with pytest.raises(StorageError, match="ask again after the next block"):
            store.proof(state_key)
        append(store, world.decide())
    with open_chain(tmp_path / "chain", world.genesis) as store:
        assert check_state_proof(store.proof(state_key), state_key, world.rules.members) is not None


def test_what_is_deleted_leaves_the_state_rows(tmp_path: Path, world: World) -> None:
    with open_chain(tmp_path / "chain", world.genesis) as store:
        append(store, world.decide(world.transaction(commit(world, "a"))))
        name = EntryName(bucket_tag=BUCKET, name_tag=name_tag("a"), version_id=None)
        append(store, world.decide(world.transaction(DeleteEntries(tenant=TENANT, entries=(name,)))))
    with LevelDatabase(tmp_path / "chain") as database:
        assert [row for row, _ in database.iterate(b"se")] == []
        assert {row[1:]: page for row, page in database.iterate(b"n")} == world.state.pages


def test_another_genesis_is_refused_plainly(tmp_path: Path, world: World) -> None:
    open_chain(tmp_path / "chain", world.genesis).close()
    with pytest.raises(StorageError, match="holds another chain: its genesis is"):
        open_chain(tmp_path / "chain", make_genesis(4, "another"))
    open_chain(tmp_path / "chain", world.genesis).close()


@pytest.mark.parametrize(
    ("row", "what"),
    [(b"b" + bytes(7) + b"\2", "block 2 is missing"), (b"n\0", "another root than the tip"), (b"g", "genesis or tip")],
)
def test_a_store_that_disagrees_with_itself_is_not_opened(tmp_path: Path, world: World, row: bytes, what: str) -> None:
    with open_chain(tmp_path / "chain", world.genesis) as store:
        for name in ("a", "b"):
            append(store, world.decide(world.transaction(commit(world, name))))
    with LevelDatabase(tmp_path / "chain") as database:
        batch = WriteBatch()
        batch.delete(row)
        database.write(batch)
    with pytest.raises(StorageError, match=what):
        open_chain(tmp_path / "chain", world.genesis)


@pytest.mark.parametrize("is_written", [False, True])
def test_a_refused_append_may_be_tried_again(
    store: ChainStore,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    is_written: bool,  # noqa: FBT001
) -> None:
    append(store, world.decide(world.transaction(commit(world, "a", segment="first"))))
    decided = world.decide(world.transaction(commit(world, "a", segment="second")))
    write = LevelDatabase.write

    def refuse(database: LevelDatabase, batch: WriteBatch) -> None:
        if is_written:
            write(database, batch)
        raise StoreFullError("write refused: No space left")

    with monkeypatch.context() as patched:
        patched.setattr(LevelDatabase, "write", refuse)
        with pytest.raises(StoreFullError):
            store.append(decided, store.execute(decided.block))
    change = store.execute(decided.block)
    assert change.freed_segments == (segment_id("first"),)
    assert store.append(decided, change).block_hash == header_hash(decided.block.header)
    assert store.tip == world.tip
    append(store, world.decide())
    assert store.tip.height == 3


def test_a_transaction_is_verified_once(store: ChainStore, world: World) -> None:
    good = world.transaction(commit(world, "a"))
    store.check_admissible(good)
    store.check_transactions([good])
    forged = good[:-1] + bytes((good[-1] ^ 1,))
    for transactions in ([good, forged], [good, good]):
        with pytest.raises(RejectionError):
            store.check_transactions(transactions)
