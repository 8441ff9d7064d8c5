"""Stores of shards keep what they acknowledged, serve only what they checked, and forget what they are told to."""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from storage.errors import ShardCorruptError, ShardMissingError, StorageError, StoreFullError
from storage.identifiers import LEAF_BYTES, UNIT_BYTES, ColumnIndex, SegmentId, ShardRoot, TenantId
from storage.merkle import check_range, leaf_hashes, prove, root_of
from storage.segments import SegmentShape
from storage.stores.group_commit import GroupCommit
from storage.stores.leveldb import DamageRule, LevelDatabase, LevelOptions, WriteBatch, WritePurpose, free_bytes
from storage.stores.memory import MemoryShardStore
from storage.stores.object_bucket import memory_bucket
from storage.stores.object_store import ObjectShardStore
from storage.stores.protocols import ShardName, ShardStore, StoredShard
from storage.stores.units import LevelShardStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TENANT: Final = TenantId(b"t" * 16)
OTHER: Final = TenantId(b"o" * 16)
NAME: Final = ShardName(SegmentId(b"s" * 32), ColumnIndex(3))
SHAPE: Final = SegmentShape(1_000_000, 6)
"""Three units, the last of them shorter: 166,720 bytes, eleven leaves."""
SHARD: Final = bytes(position * 7 % 251 for position in range(SHAPE.shard_bytes))
ROOT: Final = root_of(leaf_hashes(SHARD))
EXPIRY: Final = Height(100)
REPLACED: Final = 20
"""Times, while others look."""


STORES: Final[dict[str, Callable[[Path], ShardStore]]] = {
    "memory": lambda _: MemoryShardStore(),
    "level": LevelShardStore,
    "bucket": lambda _: ObjectShardStore(memory_bucket(), b"owner"),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShardStore]:
    opened = STORES[str(request.param)](tmp_path)
    yield opened
    opened.close()


def _put(store: ShardStore, name: ShardName = NAME, *, piece_bytes: int = UNIT_BYTES) -> None:
    for offset in reversed(range(0, len(SHARD), piece_bytes)):
        store.put_units(name, TENANT, SHAPE, offset, memoryview(SHARD)[offset : offset + piece_bytes])


def _read(store: ShardStore, name: ShardName = NAME) -> bytes:
    return b"".join(bytes(part) for part in store.read_leaves(name, 0, SHAPE.leaves))


@pytest.mark.parametrize("piece_bytes", [UNIT_BYTES, 2 * UNIT_BYTES, 1 << 20])
def test_a_shard_is_finished_when_all_of_it_came(store: ShardStore, piece_bytes: int) -> None:
    assert store.finish((NAME,), EXPIRY) == (None,)
    _put(store, piece_bytes=piece_bytes)
    assert store.describe(NAME) is None
    with pytest.raises(ShardMissingError):
        store.read_leaves(NAME, 0, 1)
    finished = store.finish((NAME,), EXPIRY)[0]
    assert finished is not None
    assert (finished.root, finished.tenant, finished.shape.shard_bytes) == (ROOT, TENANT, len(SHARD))
    assert store.describe(NAME) == finished
    assert _read(store) == SHARD
    assert store.columns_of(NAME.segment_id) == {NAME.column}
    assert store.bytes_held() == len(SHARD)
    assert list(store.names()) == [NAME]


def test_any_leaves_are_read_and_proven(store: ShardStore) -> None:
    _put(store)
    store.finish((NAME,), EXPIRY)
    hashes = store.leaf_hashes(NAME)
    assert hashes == leaf_hashes(SHARD)
    for first in range(SHAPE.leaves):
        for count in range(1, SHAPE.leaves - first + 1):
            leaves = b"".join(bytes(part) for part in store.read_leaves(NAME, first, count))
            check_range(ROOT, leaves, first, len(SHARD), prove(hashes, first, count))
    for first, count in ((SHAPE.leaves, 1), (0, SHAPE.leaves + 1), (-1, 1), (0, 0)):
        with pytest.raises(RejectionError):
            store.read_leaves(NAME, first, count)


@pytest.mark.parametrize(
    ("offset", "byte_count"), [(1, 64), (0, 64), (0, UNIT_BYTES + 1), (UNIT_BYTES * 3, 64), (0, 0)]
)
def test_pieces_that_are_not_whole_units_are_refused(store: ShardStore, offset: int, byte_count: int) -> None:
    with pytest.raises(RejectionError) as refused:
        store.put_units(NAME, TENANT, SHAPE, offset, bytes(byte_count))
    assert refused.value.reason is RejectionReason.MALFORMED
    assert store.uncommitted_bytes(TENANT) == 0


def test_the_same_piece_twice_is_the_same_as_once(store: ShardStore) -> None:
    _put(store)
    _put(store, piece_bytes=2 * UNIT_BYTES)
    finished = store.finish((NAME, NAME), EXPIRY)
    assert finished[0] == finished[1] == store.describe(NAME)
    _put(store)
    assert store.finish((NAME,), EXPIRY) == finished[:1]
    assert _read(store) == SHARD


def test_a_piece_with_other_bytes_or_shape_or_tenant_is_refused(store: ShardStore) -> None:
    store.put_units(NAME, TENANT, SHAPE, 0, SHARD[:UNIT_BYTES])
    with pytest.raises(RejectionError, match="other bytes"):
        store.put_units(NAME, TENANT, SHAPE, 0, bytes(UNIT_BYTES))
    with pytest.raises(RejectionError, match="came with"):
        store.put_units(NAME, TENANT, SegmentShape(1_000_000, 5), 0, SHARD[:UNIT_BYTES])
    for finished in (False, True):
        if finished:
            _put(store)
            store.finish((NAME,), EXPIRY)
        with pytest.raises(RejectionError) as refused:
            store.put_units(NAME, OTHER, SHAPE, 0, SHARD[:UNIT_BYTES])
        assert refused.value.reason is RejectionReason.NOT_GRANTED
    assert _read(store) == SHARD


def test_refused_units_do_not_stay_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that conflict with what is here, nor those that lose a race against other bytes."""
    store = LevelShardStore(tmp_path)
    store.put_units(NAME, TENANT, SHAPE, 0, SHARD[:UNIT_BYTES])
    with pytest.raises(RejectionError, match="other bytes"):
        store.put_units(NAME, TENANT, SHAPE, 0, bytes(2 * UNIT_BYTES))
    write = GroupCommit.write

    def overtaken(commit: GroupCommit, batch: WriteBatch) -> None:
        monkeypatch.setattr(GroupCommit, "write", write)
        store.put_units(NAME, TENANT, SHAPE, UNIT_BYTES, SHARD[UNIT_BYTES : 2 * UNIT_BYTES])
        write(commit, batch)

    monkeypatch.setattr(GroupCommit, "write", overtaken)
    with pytest.raises(RejectionError, match="other bytes"):
        store.put_units(NAME, TENANT, SHAPE, UNIT_BYTES, bytes(UNIT_BYTES))
    store.close()
    assert list(_unit_rows(tmp_path).values()) == [SHARD[:UNIT_BYTES], SHARD[UNIT_BYTES : 2 * UNIT_BYTES]]


def test_units_of_a_shard_that_was_deleted_while_they_were_written_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LevelShardStore(tmp_path)
    write = GroupCommit.write

    def deleted_meanwhile(commit: GroupCommit, batch: WriteBatch) -> None:
        monkeypatch.setattr(GroupCommit, "write", write)
        write(commit, batch)
        store.delete((NAME,))

    monkeypatch.setattr(GroupCommit, "write", deleted_meanwhile)
    store.put_units(NAME, TENANT, SHAPE, 0, SHARD)
    assert (store.finish((NAME,), EXPIRY), store.uncommitted_bytes(TENANT)) == ((None,), 0)
    store.close()
    assert _unit_rows(tmp_path) == {}


def test_an_expired_shard_that_a_receipt_prolongs_is_not_deleted(store: ShardStore) -> None:
    other = ShardName(SegmentId(b"2" * 32), ColumnIndex(0))
    settled = ShardName(SegmentId(b"3" * 32), ColumnIndex(0))
    for name in (NAME, other, settled):
        _put(store, name)
    store.finish((NAME, other, settled), EXPIRY)
    store.settle((settled,))
    store.finish((NAME,), Height(200))
    store.delete_expired((NAME, other, settled), Height(101))
    assert list(store.names()) == sorted((NAME, settled))


def test_a_tenants_uncommitted_bytes_are_bounded(tmp_path: Path) -> None:
    for store in (
        MemoryShardStore(uncommitted_bytes_max=len(SHARD)),
        LevelShardStore(tmp_path, uncommitted_bytes_max=len(SHARD)),
    ):
        _put(store)
        second = ShardName(SegmentId(b"2" * 32), NAME.column)
        with pytest.raises(RejectionError) as refused:
            store.put_units(second, TENANT, SHAPE, 0, SHARD[:UNIT_BYTES])
        assert refused.value.reason is RejectionReason.QUEUE_FULL
        store.put_units(second, OTHER, SHAPE, 0, SHARD[:UNIT_BYTES])
        store.delete((second,))
        store.finish((NAME,), EXPIRY)
        assert store.uncommitted_bytes(TENANT) == len(SHARD)
        store.settle((NAME,))
        assert (store.uncommitted_bytes(TENANT), store.uncommitted_bytes(OTHER)) == (0, 0)
        _put(store, second)
        store.close()


def test_a_receipt_prolongs_what_is_uncommitted_and_only_that(store: ShardStore) -> None:
    _put(store)
    store.finish((NAME,), EXPIRY)
    store.finish((NAME,), Height(200))
    store.finish((NAME,), Height(150))
    assert [shard.expiry_height for shard in store.uncommitted()] == [200]
    store.settle((NAME, ShardName(NAME.segment_id, ColumnIndex(0))))
    assert store.uncommitted() == ()
    store.finish((NAME,), Height(300))
    assert store.uncommitted() == ()


HURRIES: Final[dict[str, Callable[[LevelShardStore], object]]] = {
    "deleted": lambda store: store.delete((NAME,)),
    "rebuilt": lambda store: store.restore(NAME, TENANT, SHAPE, ROOT, SHARD),
    "abandoned": lambda store: store.abandon_open(before_s=math.inf),
}


@pytest.mark.parametrize("hurry", HURRIES)
def test_a_shard_that_is_being_finished_keeps_its_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurry: str
) -> None:
    """Whoever drops it meanwhile waits: the receipt that is about to be signed speaks of rows that are there."""
    store = LevelShardStore(tmp_path)
    _put(store)
    other = threading.Thread(target=HURRIES[hurry], args=(store,))
    write = store._index.write

    def write_after_the_other_began(batch: WriteBatch, *, purpose: WritePurpose) -> None:
        if not other.ident:
            other.start()
            other.join(timeout=0.2)  # it must not get through
        write(batch, purpose=purpose)

    monkeypatch.setattr(store._index, "write", write_after_the_other_began)
    finished = store.finish((NAME,), EXPIRY)[0]
    monkeypatch.undo()
    other.join()
    assert finished is not None
    if hurry == "deleted":
        assert store.describe(NAME) is None
        assert store.bytes_held() == 0
    else:
        assert _read(store) == SHARD
        assert store.bytes_held() == len(SHARD)
    store.close()


def test_deleted_shards_are_gone(store: ShardStore) -> None:
    _put(store)
    store.finish((NAME,), EXPIRY)
    _read(store)
    store.delete((NAME, NAME))
    assert store.describe(NAME) is None
    with pytest.raises(ShardMissingError):
        store.read_leaves(NAME, 0, 1)
    assert (store.bytes_held(), store.uncommitted(), store.uncommitted_bytes(TENANT)) == (0, (), 0)
    store.compact()
    _put(store)
    store.finish((NAME,), EXPIRY)
    assert _read(store) == SHARD


def test_unfinished_shards_that_nobody_continues_are_forgotten(store: ShardStore) -> None:
    store.put_units(NAME, TENANT, SHAPE, 0, SHARD[:UNIT_BYTES])
    assert store.abandon_open(before_s=0.0) == 0
    assert store.abandon_open(before_s=float("inf")) == 1
    assert store.uncommitted_bytes(TENANT) == 0
    _put(store)
    assert store.finish((NAME,), EXPIRY)[0] is not None


def test_a_shard_that_is_replaced_is_there_all_along(store: ShardStore) -> None:
    store.restore(NAME, TENANT, SHAPE, ROOT, SHARD)
    seen: set[StoredShard | None] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            seen.add(store.describe(NAME))
            with suppress(ShardMissingError):  # replaced while it was read
                store.verify(NAME)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(REPLACED):
        store.restore(NAME, TENANT, SHAPE, ROOT, SHARD)
    is_over.set()
    looking.join()
    assert seen == {StoredShard(name=NAME, tenant=TENANT, shape=SHAPE, root=ROOT)}
    assert store.bytes_held() == SHAPE.shard_bytes


def test_a_rebuilt_shard_replaces_what_was_there(store: ShardStore) -> None:
    with pytest.raises(ShardCorruptError):
        store.restore(NAME, TENANT, SHAPE, ShardRoot(b"x" * 32), SHARD)
    with pytest.raises(ShardCorruptError):
        store.restore(NAME, TENANT, SHAPE, ROOT, SHARD[:UNIT_BYTES])
    store.put_units(NAME, OTHER, SHAPE, 0, bytes(UNIT_BYTES))
    store.restore(NAME, TENANT, SHAPE, ROOT, SHARD)
    store.restore(NAME, TENANT, SHAPE, ROOT, memoryview(bytearray(SHARD)))
    assert _read(store) == SHARD
    assert (store.bytes_held(), store.uncommitted()) == (len(SHARD), ())
    assert (store.uncommitted_bytes(TENANT), store.uncommitted_bytes(OTHER)) == (0, 0)


def _unit_rows(directory: Path) -> dict[bytes, bytes]:
    with LevelDatabase(directory / "units") as units:
        return dict(units.iterate())


def test_what_was_finished_survives_a_restart_and_nothing_else(tmp_path: Path) -> None:
    other = ShardName(SegmentId(b"2" * 32), ColumnIndex(0))
    store = LevelShardStore(tmp_path)
    store.put_units(other, TENANT, SHAPE, 0, SHARD[:UNIT_BYTES])
    _put(store)
    store.finish((NAME,), EXPIRY)
    store.put_units(other, TENANT, SHAPE, UNIT_BYTES, SHARD[UNIT_BYTES : 2 * UNIT_BYTES])
    store.close()
    assert len(_unit_rows(tmp_path)) == 3 + 1 + 2
    for _ in range(2):
        store = LevelShardStore(tmp_path)
        assert _read(store) == SHARD
        assert list(store.names()) == [NAME]
        assert [shard.expiry_height for shard in store.uncommitted()] == [EXPIRY]
        assert (store.bytes_held(), store.uncommitted_bytes(TENANT)) == (len(SHARD), len(SHARD))
        store.close()
        assert len(_unit_rows(tmp_path)) == 3 + 1
    store = LevelShardStore(tmp_path)
    _put(store, other)
    store.finish((other,), EXPIRY)
    store.delete((NAME,))
    store.close()
    store = LevelShardStore(tmp_path)
    assert _read(store, other) == SHARD
    store.close()
    assert len(_unit_rows(tmp_path)) == 3 + 1


@pytest.mark.parametrize("row", range(4))
def test_a_flipped_bit_is_never_served(tmp_path: Path, row: int) -> None:
    """Rows 0 to 2 hold the units, row 3 begins with the leaf hashes."""
    store = LevelShardStore(tmp_path)
    _put(store, piece_bytes=1 << 20)
    store.finish((NAME,), EXPIRY)
    store.close()
    rows = sorted(_unit_rows(tmp_path).items())
    with LevelDatabase(tmp_path / "units") as units:
        batch = WriteBatch()
        flipped = bytearray(rows[row][1])
        flipped[0 if row == 3 else -1] ^= 1
        batch.put(rows[row][0], flipped)
        units.write(batch)
    store = LevelShardStore(tmp_path)
    for leaf in range(SHAPE.leaves):
        last_of_row = leaf == SHAPE.leaves - 1 if row == 2 else leaf == 4 * row + 3
        if row == 3 or last_of_row:
            with pytest.raises(ShardCorruptError):
                store.read_leaves(NAME, leaf, 1)
            with pytest.raises(ShardCorruptError):
                store.read_leaves(NAME, leaf // 4 * 4, min(4, SHAPE.leaves - leaf // 4 * 4))
        else:
            assert b"".join(store.read_leaves(NAME, leaf, 1)) == SHARD[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
    store.restore(NAME, TENANT, SHAPE, ROOT, SHARD)
    assert _read(store) == SHARD
    store.close()


def test_a_bit_flipped_in_a_file_neither_stops_the_store_nor_is_served(tmp_path: Path) -> None:
    store = LevelShardStore(tmp_path)
    _put(store)
    store.finish((NAME,), EXPIRY)
    store.close()
    with LevelDatabase(tmp_path / "units") as units:
        units.compact()
    (table,) = [path for path in (tmp_path / "units").glob("*.ldb") if path.stat().st_size > UNIT_BYTES]
    contents = bytearray(table.read_bytes())
    contents[contents.index(SHARD[:64]) + 5] ^= 1
    table.write_bytes(contents)
    store = LevelShardStore(tmp_path)
    with pytest.raises(ShardCorruptError):
        _read(store)
    other = ShardName(SegmentId(b"2" * 32), ColumnIndex(0))
    _put(store, other)
    store.finish((other,), EXPIRY)
    store.close()
    with LevelDatabase(tmp_path / "units", LevelOptions(damage_rule=DamageRule.KEEP_GOING)) as units:
        units.compact()
    store = LevelShardStore(tmp_path)
    assert _read(store, other) == SHARD
    with pytest.raises(ShardCorruptError):
        _read(store)
    store.close()


def test_a_nearly_full_disk_refuses_tenants_but_serves(tmp_path: Path) -> None:
    store = LevelShardStore(tmp_path)
    _put(store)
    store.finish((NAME,), EXPIRY)
    store.close()
    store = LevelShardStore(tmp_path, options=LevelOptions(reserve_bytes=2 * free_bytes(tmp_path)))
    other = ShardName(SegmentId(b"2" * 32), ColumnIndex(0))
    with pytest.raises(StoreFullError):
        _put(store, other)
    assert _read(store) == SHARD
    store.settle((NAME,))
    store.delete((NAME, other))
    assert store.bytes_held() == 0
    store.close()


def test_deleted_shards_give_their_space_back(tmp_path: Path) -> None:
    def used_bytes() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "units").iterdir())

    store = LevelShardStore(tmp_path)
    names = [ShardName(SegmentId(bytes([number]) * 32), ColumnIndex(0)) for number in range(100)]
    for name in names:
        _put(store, name)
    store.finish(names, EXPIRY)
    before = used_bytes()
    store.delete(names[10::2])
    store.compact()
    store.delete(names[11::2])
    store.compact()
    assert before > 100 * len(SHARD)
    assert used_bytes() < 20 * len(SHARD)
    assert all(_read(store, name) == SHARD for name in names[:10])
    store.close()


def test_many_writers_share_the_flushes(tmp_path: Path) -> None:
    store = LevelShardStore(tmp_path)
    names = [ShardName(SegmentId(bytes([number]) * 32), ColumnIndex(number % 9)) for number in range(16)]
    failed: list[StorageError | RejectionError] = []

    def write(name: ShardName) -> None:
        try:
            _put(store, name)
        except (StorageError, RejectionError) as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(name,)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert all(store.finish(names, EXPIRY))
    assert all(_read(store, name) == SHARD for name in names)
    store.close()
