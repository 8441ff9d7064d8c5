"""What the ledger knows stays, what it freed or never took goes, and nothing that was just receipted is swept away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.identifiers import Height
from node import own_shards
from node.own_shards import OwnColumns
from storage.errors import ShardCorruptError
from storage.identifiers import ColumnIndex, SegmentId
from storage.stores.memory import MemoryShardStore
from storage.stores.protocols import ShardName, ShardStore
from storage.stores.units import LevelShardStore
from tests.node.some_shards import COLUMNS, SHAPE, SHARD, STATE, TENANT, Ledger, keep, name, segment


@pytest.fixture(params=["memory", "level"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShardStore]:
    opened: ShardStore = MemoryShardStore() if request.param == "memory" else LevelShardStore(tmp_path)
    yield opened
    opened.close()


def test_freed_segments_go_with_all_their_columns(store: ShardStore) -> None:
    keep(store, name(1, 2), name(1, 7), name(2))
    own = OwnColumns(store, Ledger(), COLUMNS)
    own.delete_segments([segment(1), segment(99)])
    own.delete_segments([segment(1)])
    assert list(store.names()) == [name(2)]


def test_expired_shards_go_unless_the_chain_took_them(store: ShardStore) -> None:
    keep(store, name(1), name(2), expiry=10)
    keep(store, name(3), expiry=11)
    own = OwnColumns(store, Ledger({segment(2)}), COLUMNS)
    own.collect_expired(Height(10))
    assert len(store.uncommitted()) == 3
    own.collect_expired(Height(11))
    assert list(store.names()) == [name(2), name(3)]
    assert [shard.name for shard in store.uncommitted()] == [name(3)]


@pytest.mark.parametrize(
    "changed", [{"tenant": b"v" * 16}, {"k": 5}, {"segment_bytes": 4_999}, {"roots": (bytes(32),) * COLUMNS}]
)
def test_garbage_under_a_committed_id_is_missing_and_goes(store: ShardStore, changed: dict[str, object]) -> None:
    """It is neither taken for the shard, nor settled as committed, and it is replaced by what repair rebuilds."""
    keep(store, name(1), name(2), expiry=10)
    store.settle([name(2)])
    ledger = Ledger({segment(1), segment(2)}, msgspec.structs.replace(STATE, **changed))
    own = OwnColumns(store, ledger, COLUMNS)
    assert not own.has_shard(segment(1), ColumnIndex(2))
    own.settle_segments([segment(1)])
    assert [shard.name for shard in store.uncommitted()] == [name(1)]
    own.collect_expired(Height(11))
    own.sweep_dead()
    assert list(store.names()) == []
    keep(store, name(1))
    ledger.state = STATE
    own.replace_shard(segment(1), STATE, ColumnIndex(2), SHARD)
    assert own.has_shard(segment(1), ColumnIndex(2))


def test_a_receipt_that_prolongs_a_shard_while_it_is_collected_keeps_it(store: ShardStore) -> None:
    keep(store, name(1), expiry=10)

    def prolong(_asked: SegmentId) -> None:
        store.finish([name(1)], Height(20))

    OwnColumns(store, Ledger(on_question=prolong), COLUMNS).collect_expired(Height(11))
    assert [(shard.name, shard.expiry_height) for shard in store.uncommitted()] == [(name(1), 20)]


def test_an_upload_that_nobody_continues_is_forgotten(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_units(name(1), TENANT, SHAPE, 0, SHARD)
    own = OwnColumns(store, Ledger(), COLUMNS)
    own.collect_expired(Height(1))
    assert store.uncommitted_bytes(TENANT) > 0
    monkeypatch.setattr(own_shards, "OPEN_SHARD_S", -1.0)
    own.collect_expired(Height(1))
    assert store.uncommitted_bytes(TENANT) == 0


def test_the_sweep_drops_the_dead_and_settles_the_living(store: ShardStore) -> None:
    keep(store, name(1), name(2), name(3), name(4))
    store.settle([name(1), name(2)])
    OwnColumns(store, Ledger({segment(2), segment(3)}), COLUMNS).sweep_dead()
    assert list(store.names()) == [name(2), name(3), name(4)]
    assert [shard.name for shard in store.uncommitted()] == [name(4)]


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_shard_that_is_receipted_during_the_sweep_is_kept(is_committed: bool) -> None:  # noqa: FBT001 (pytest's)
    """The store lists it, though it did not wait when the sweep began, and the ledger has it only a moment later."""
    store = MemoryShardStore()
    keep(store, name(1))
    store.settle([name(1)])
    ledger = Ledger()

    def finished_meanwhile(asked: SegmentId) -> None:
        if asked == segment(1) and store.describe(name(2)) is None:
            keep(store, name(2))
        elif asked == segment(2) and is_committed:
            ledger.on_question = lambda _: None
            store.settle([name(2)])
            ledger.live.add(segment(2))

    class Late(MemoryShardStore):
        """Lists what was finished after the iteration began, as a scan in pages does."""

        def names(self, *, after: ShardName | None = None) -> Iterator[ShardName]:
            yield name(1)
            yield name(2)

    late = Late()
    keep(late, name(1))
    late.settle([name(1)])
    store = late
    ledger.on_question = finished_meanwhile
    OwnColumns(store, ledger, COLUMNS).sweep_dead()
    assert store.describe(name(2)) is not None
    assert store.describe(name(1)) is None


def test_a_damaged_shard_is_missing_until_it_is_replaced_or_deleted(store: ShardStore) -> None:
    keep(store, name(1))
    own = OwnColumns(store, Ledger({segment(1)}), COLUMNS)
    own.note_damaged(segment(1), ColumnIndex(2))
    assert not own.has_shard(segment(1), ColumnIndex(2))
    with pytest.raises(ShardCorruptError):
        own.replace_shard(segment(1), STATE, ColumnIndex(2), bytes(len(SHARD)))
    assert not own.has_shard(segment(1), ColumnIndex(2))
    own.replace_shard(segment(1), STATE, ColumnIndex(2), SHARD)
    assert own.has_shard(segment(1), ColumnIndex(2))
    own.note_damaged(segment(1), ColumnIndex(2))
    own.delete_segments([segment(1)])
    keep(store, name(1))
    assert own.has_shard(segment(1), ColumnIndex(2)), "another shard, not the damaged one"
    assert not own.has_shard(segment(1), ColumnIndex(3))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 20)), max_size=8), st.integers(1, 22))
def test_a_shard_stays_while_the_chain_has_it_or_still_may(facts: list[tuple[bool, bool, int]], height: int) -> None:
    store, ledger = MemoryShardStore(), Ledger()
    expected = set[ShardName]()
    for number, (is_live, is_settled, expiry) in enumerate(facts):
        keep(store, name(number), expiry=expiry)
        if is_live:
            ledger.live.add(segment(number))
        if is_settled:
            store.settle([name(number)])
        if is_live or (not is_settled and height <= expiry):
            expected.add(name(number))
    own = OwnColumns(store, ledger, COLUMNS)
    own.collect_expired(Height(height))
    own.sweep_dead()
    assert set(store.names()) == expected
    assert {shard.name.segment_id for shard in store.uncommitted()}.isdisjoint(ledger.live)
