"""A store rereads its own shards past every cache, and finds rows that nothing refers to, but none on its way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.identifiers import Height
from storage.errors import ShardCorruptError, ShardMissingError
from storage.identifiers import UNIT_BYTES, ColumnIndex, SegmentId, TenantId
from storage.merkle import leaf_hashes, root_of
from storage.segments import SegmentShape
from storage.stores import counters
from storage.stores.counters import CounterBook, _gaps
from storage.stores.group_commit import GroupCommit
from storage.stores.leveldb import LevelDatabase, WriteBatch
from storage.stores.memory import MemoryShardStore
from storage.stores.protocols import ShardName, ShardStore
from storage.stores.shard_rows import counter_key
from storage.stores.units import LevelShardStore

TENANT = TenantId(b"t" * 16)
SHAPE = SegmentShape(1_000_000, 6)
SHARD = random.Random(1).randbytes(SHAPE.shard_bytes)
ROOT = root_of(leaf_hashes(SHARD))
EXPIRY = Height(100)


def name(number: int) -> ShardName:
    return ShardName(SegmentId(number.to_bytes(32, "big")), ColumnIndex(3))


def keep(store: ShardStore, *names: ShardName) -> None:
    for kept in names:
        for offset in range(0, len(SHARD), UNIT_BYTES):
            store.put_units(kept, TENANT, SHAPE, offset, SHARD[offset : offset + UNIT_BYTES])
    store.finish(names, EXPIRY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LevelShardStore]:
    opened = LevelShardStore(tmp_path)
    yield opened
    opened.close()


def rows(store: LevelShardStore) -> dict[int, bytes]:
    return {int.from_bytes(store_key, "big"): value for store_key, value in store._units.iterate()}


def write_row(store: LevelShardStore, counter: int, value: bytes | None) -> None:
    batch = WriteBatch()
    if value is None:
        batch.delete(counter_key(counter))
    else:
        batch.put(counter_key(counter), value)
    store._units.write(batch)


@pytest.mark.parametrize("kind", ["memory", "level"])
def test_names_go_on_behind_any_place(kind: str, tmp_path: Path) -> None:
    opened: ShardStore = MemoryShardStore() if kind == "memory" else LevelShardStore(tmp_path)
    keep(opened, *(name(number) for number in (5, 1, 3)))
    assert list(opened.names()) == [name(1), name(3), name(5)]
    assert list(opened.names(after=name(1))) == [name(3), name(5)]
    assert list(opened.names(after=name(2))) == [name(3), name(5)]
    assert list(opened.names(after=name(5))) == []
    opened.verify(name(3))
    with pytest.raises(ShardMissingError):
        opened.verify(name(4))
    assert opened.drop_orphans() == 0
    opened.close()


def test_every_row_of_a_shard_is_reread_whatever_was_read_before(store: LevelShardStore) -> None:
    """Units and leaf hashes, changed behind the store's back after everything was cached."""
    keep(store, name(1))
    whole = rows(store)
    store.read_leaves(name(1), 0, SHAPE.leaves)
    for counter, value in whole.items():
        changed = bytearray(value)
        changed[len(value) // 2] ^= 1
        for damage in (bytes(changed), value[:-1], None):
            write_row(store, counter, damage)
            with pytest.raises(ShardCorruptError):
                store.verify(name(1))
        write_row(store, counter, value)
        store.verify(name(1))
    assert len(whole) == 4, "three units and the leaf hashes"


def test_rows_that_nothing_refers_to_go_and_all_others_stay(
    store: LevelShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "WINDOW_COUNTERS", 5)
    monkeypatch.setattr(counters, "KEYS_AT_ONCE", 2)
    keep(store, name(1))
    store.put_units(name(2), TENANT, SHAPE, 0, SHARD[:UNIT_BYTES])
    keep(store, name(3), name(4))
    whole = rows(store)
    store.delete((name(3),))
    kept = rows(store)
    assert len(kept) < len(whole)
    for counter in set(whole) - set(kept):
        write_row(store, counter, b"left over")
    assert store.drop_orphans() == len(whole) - len(kept)
    assert rows(store) == kept
    assert store.drop_orphans() == 0
    store.verify(name(1))
    store.verify(name(4))
    keep(store, name(2))
    store.verify(name(2))


def test_what_is_being_written_is_no_orphan(store: LevelShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked for at the worst moment: the rows are durable, and the shard does not know yet."""
    write = GroupCommit.write
    found: list[int] = []

    def look_then(commit: GroupCommit, batch: WriteBatch) -> None:
        write(commit, batch)
        found.append(store.drop_orphans())

    monkeypatch.setattr(GroupCommit, "write", look_then)
    keep(store, name(1))
    store.restore(name(2), TENANT, SHAPE, ROOT, SHARD)
    monkeypatch.undo()
    assert len(found) >= 5
    assert set(found) == {0}
    store.verify(name(1))
    store.verify(name(2))
    assert store._counters.view().busy == ()


def test_a_refused_write_leaves_no_counter_busy(store: LevelShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(commit: GroupCommit, batch: WriteBatch) -> None:
        raise ShardCorruptError("refused")

    monkeypatch.setattr(GroupCommit, "write", refuse)
    with pytest.raises(ShardCorruptError):
        store.put_units(name(1), TENANT, SHAPE, 0, SHARD)
    with pytest.raises(ShardCorruptError):
        store.restore(name(2), TENANT, SHAPE, ROOT, SHARD)
    assert store._counters.view().busy == ()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9))), st.integers(0, 20), st.integers(0, 30))
def test_gaps_are_what_the_runs_leave(runs: list[tuple[int, int]], first: int, length: int) -> None:
    stop = first + length
    near = sorted(run for run in runs if run[0] < stop and run[0] + run[1] > first)
    taken = {counter for run_first, count in runs for counter in range(run_first, run_first + count)}
    found = [counter for start, end in _gaps(near, first, stop) for counter in range(start, end)]
    assert found == [counter for counter in range(first, stop) if counter not in taken]


def test_counters_are_given_out_once() -> None:
    book = CounterBook()
    book.start_at(10)
    assert [book.reserve(3), book.reserve(2)] == [10, 13]
    assert (book.view().end, book.view().busy) == (15, ((10, 3), (13, 2)))
    book.release(10)
    assert book.view().busy == ((13, 2),)


def test_keys_are_listed_between_two_places(tmp_path: Path) -> None:
    with LevelDatabase(tmp_path / "keys") as database:
        batch = WriteBatch()
        for number in range(9):
            batch.put(bytes((number,)), b"")
        database.write(batch)
        assert database.store_keys(b"\2", b"\5", 9) == [b"\2", b"\3", b"\4"]
        assert database.store_keys(b"\2", b"\5", 2) == [b"\2", b"\3"]
        assert [key for key, _ in database.iterate(start=b"\7")] == [b"\7", b"\10"]
