"""Whatever is wrong with a seat's shards is found by one pass: flipped, missing, dead, orphaned; and is mended."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from consensus.identifiers import Milliseconds
from node import scrub_task
from node.client.holders import HolderPool
from node.client.reading import SegmentReader
from node.client.sources import bytes_source
from node.completion_task import CompletionTask
from node.own_shards import OwnColumns
from node.repair_task import RepairTask
from node.scrub_task import REQUEST_FILE, STATE_FILE, ScrubParts, ScrubTask
from storage.errors import FatalStoreError, ShardCorruptError, StoreUnavailableError
from storage.identifiers import SeatIndex, SegmentId
from storage.scrubbing import ScrubCounts, decode_scrub
from storage.stores.leveldb import WriteBatch
from storage.stores.memory import MemoryShardStore
from storage.stores.protocols import ShardName
from storage.stores.units import LevelShardStore
from tests.node.client.nine import SEATS, Nine
from tests.node.jumps import until
from tests.node.some_shards import COLUMNS, SHAPE, SHARD, TENANT, Ledger, keep, name
from tests.node.test_repair_task import EVERYBODY, LedgerOf, store_columns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

SEAT = SeatIndex(0)
FLIPS = 100
DAY_S = 86_400.0


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(rate=1.0)


@dataclass
class Bench:
    """A seat's scrub alone: its store, a ledger, and what repair would be told."""

    home: Path
    store: MemoryShardStore
    ledger: Ledger = field(default_factory=Ledger)
    told: list[SegmentId] = field(default_factory=list[SegmentId])

    def __post_init__(self) -> None:
        self.own = OwnColumns(self.store, self.ledger, COLUMNS)

    def parts(self) -> ScrubParts:
        def announce(segment_ids: Iterable[SegmentId]) -> None:
            self.told.extend(segment_ids)

        return ScrubParts(
            seat=SEAT,
            admitted=EVERYBODY,
            ledger=self.ledger,
            store=self.store,
            own=self.own,
            announce=announce,
            home=self.home,
            now_ms=lambda: Milliseconds(1_000 + int(trio.current_time() * 1_000)),
        )

    def own_name(self, number: int) -> ShardName:
        """The segment of a number is this seat's column of it."""
        column = (SEAT - number) % SEATS
        return name(number << 192, column)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, MemoryShardStore())


def settled(bench: Bench, *names: ShardName) -> None:
    keep(bench.store, *names)
    bench.store.settle(names)
    bench.ledger.live.update(kept.segment_id for kept in names)


@asynccontextmanager
async def scrubbing(parts: ScrubParts) -> AsyncGenerator[ScrubTask, None]:
    task = ScrubTask(parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.run)
        yield task
        nursery.cancel_scope.cancel()


async def test_one_pass_finds_what_is_damaged_missing_and_dead(bench: Bench, clock: trio.testing.MockClock) -> None:
    names = [bench.own_name(number) for number in range(20)]
    settled(bench, *names)
    bench.store.damage(names[3], 100)
    bench.store.damage(names[17], 200)
    bench.store.delete((names[5], names[11]))
    dead = name(999)
    keep(bench.store, dead)
    bench.store.settle((dead,))
    waiting = name(1_000)
    keep(bench.store, waiting)
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: task.state.passes == 1)
        last = task.state.last
    assert last is not None
    expected = ScrubCounts(shards=20, shard_bytes=20 * SHAPE.shard_bytes, damaged=2, missing=2, dead=1)
    assert last.counts == expected
    assert sorted(bench.told) == sorted(names[number].segment_id for number in (3, 5, 11, 17))
    assert bench.store.describe(dead) is None
    assert bench.store.describe(waiting) is not None, "a receipt for it may be out"
    assert not bench.own.has_shard(names[3].segment_id, names[3].column), "missing until it is rebuilt"


async def test_a_pass_is_paced_and_goes_on_after_a_restart(
    bench: Bench, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_task, "STEP_SHARDS", 4)
    monkeypatch.setattr(scrub_task, "SAVE_S", 0.0)
    monkeypatch.setattr("storage.scrubbing.BYTES_PER_S_MIN", SHAPE.shard_bytes)
    names = [bench.own_name(number) for number in range(20)]
    settled(bench, *names)
    began = clock.current_time()
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: task.state.counts.shards >= 8)
        assert clock.current_time() - began >= 4, "one shard a second"
        assert task.state.is_running
    kept = decode_scrub((bench.home / STATE_FILE).read_bytes())
    assert 8 <= kept.counts.shards < 20
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: task.state.passes == 1)
        assert task.state.last is not None
        assert task.state.last.counts.shards == 20, "none twice, none forgotten"
    assert clock.current_time() - began >= 15


async def test_damage_found_before_a_restart_is_not_forgotten(bench: Bench, clock: trio.testing.MockClock) -> None:
    names = [bench.own_name(number) for number in range(3)]
    settled(bench, *names)
    bench.store.damage(names[0], 1)
    bench.store.damage(names[1], 1)
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: task.state.passes == 1)
    bench.told.clear()
    bench.store.restore(names[1], TENANT, SHAPE, bench.ledger.state.roots[0], SHARD)
    bench.own = OwnColumns(bench.store, bench.ledger, COLUMNS)
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: bench.told == [names[0].segment_id])
        assert not bench.own.has_shard(names[0].segment_id, names[0].column)
        assert [suspect.segment_id for suspect in task.state.suspects] == [names[0].segment_id]


async def test_a_request_begins_a_pass_at_once_and_at_full_speed(
    bench: Bench, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(bench, *(bench.own_name(number) for number in range(20)))
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: task.state.passes == 1)
        monkeypatch.setattr(scrub_task, "STEP_SHARDS", 1)
        monkeypatch.setattr("storage.scrubbing.BYTES_PER_S_MIN", 0.001)
        monkeypatch.setattr("storage.scrubbing.BYTES_PER_S_MAX", 0.001)
        began = clock.current_time()
        (bench.home / REQUEST_FILE).touch()
        await until(clock, lambda: task.state.passes == 2)
        assert clock.current_time() - began < 60
        assert not (bench.home / REQUEST_FILE).exists()
        monkeypatch.undo()
        await until(clock, lambda: task.state.passes == 3, jump_s=600.0, within_s=2 * DAY_S)
        assert clock.current_time() - began > DAY_S / 2, "otherwise once a day"


async def test_a_disk_that_refuses_delays_a_pass_and_a_failed_one_ends_the_process(
    bench: Bench, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(bench, *(bench.own_name(number) for number in range(5)))
    refusals: list[Exception] = [StoreUnavailableError("no"), StoreUnavailableError("no")]
    verify = MemoryShardStore.verify

    def refusing(store: MemoryShardStore, wanted: ShardName) -> None:
        if refusals:
            raise refusals.pop()
        verify(store, wanted)

    monkeypatch.setattr(MemoryShardStore, "verify", refusing)
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: task.state.passes == 1)
        assert task.state.counts.shards == 5
    refusals.append(FatalStoreError("EIO"))
    (bench.home / STATE_FILE).unlink()
    with pytest.RaisesGroup(FatalStoreError, flatten_subgroups=True):
        async with scrubbing(bench.parts()):
            await trio.sleep_forever()


@pytest.mark.parametrize("kept", [b"", b"\0" * 100])
async def test_a_file_that_is_none_begins_anew(bench: Bench, clock: trio.testing.MockClock, kept: bytes) -> None:
    (bench.home / STATE_FILE).write_bytes(kept)
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: task.state.passes == 1)
    assert decode_scrub((bench.home / STATE_FILE).read_bytes()).passes == 1


async def test_more_damage_than_can_be_noted_waits_for_repair(
    bench: Bench, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_task, "SUSPECTS_MAX", 4)
    monkeypatch.setattr(scrub_task, "STEP_SHARDS", 2)
    names = [bench.own_name(number) for number in range(8)]
    settled(bench, *names)
    for damaged in names:
        bench.store.damage(damaged, 7)
    async with scrubbing(bench.parts()) as task:
        await until(clock, lambda: len(task.state.suspects) == 4)
        await until(clock, lambda: clock.current_time() > 100, jump_s=10.0)
        assert (len(task.state.suspects), task.state.passes) == (4, 0)
        for damaged in names:
            state = bench.ledger.state
            bench.own.replace_shard(damaged.segment_id, state, damaged.column, SHARD)
        await until(clock, lambda: task.state.passes == 1)
        assert task.state.suspects == ()


# --- the real store, a real repair ---------------------------------------------------------------------------------


@pytest.fixture
def nine(tmp_path: Path) -> Nine:
    return Nine(tmp_path)


def flip_in_files(folder: Path, units: Sequence[bytes], choice: random.Random) -> int:
    """Flip one random bit of one random byte of each unit, where it lies in the database's files; return how many."""
    files = {path: path.read_bytes() for path in (*folder.glob("*.ldb"), *folder.glob("*.log"))}
    flipped = 0
    for unit in units:
        for path, contents in files.items():
            start = contents.find(unit[:64])
            if start < 0 or contents[start : start + len(unit)] != unit:
                continue  # LevelDB's log cuts a row at its blocks of 32 KiB
            offset = start + choice.randrange(len(unit))
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(bytes((contents[offset] ^ (1 << choice.randrange(8)),)))
            flipped += 1
            break
    return flipped


async def stored(nine: Nine, store: LevelShardStore, segments: int) -> list[ShardName]:
    """Commit segments of one unit a column, and give the real store seat 0's columns."""
    async with nine.client() as client:
        for number in range(segments):
            await client.put("bucket", f"{number}", bytes_source(random.Random(number).randbytes(120_000)))
    names = store_columns(nine, store, SEAT)
    store.settle(names)
    store._units.compact()
    return names


def damaged_names(store: LevelShardStore, names: Sequence[ShardName]) -> set[ShardName]:
    """Read every leaf of every shard as a holder does: it is what the chain says, or it is refused."""
    damaged = set[ShardName]()
    for wanted in names:
        found = store.describe(wanted)
        assert found is not None
        for leaf in range(found.shape.leaves):
            try:
                store.read_leaves(wanted, leaf, 1)
            except ShardCorruptError:
                damaged.add(wanted)
    return damaged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "seat"


async def test_a_hundred_flipped_bytes_are_all_found_all_rebuilt_and_none_is_served(
    nine: Nine, folder: Path, clock: trio.testing.MockClock
) -> None:
    store = LevelShardStore(folder)
    names = await stored(nine, store, FLIPS + 10)
    units = [bytes(nine.holders[SEAT].shards[kept.segment_id, kept.column]) for kept in names[:FLIPS]]
    store.close()
    assert flip_in_files(folder / "units", units, random.Random(5)) == FLIPS
    store = LevelShardStore(folder)
    assert damaged_names(store, names) == set(names[:FLIPS]), "none is served"
    ledger, own = LedgerOf(nine), OwnColumns(store, LedgerOf(nine), SEATS)
    pool = HolderPool(EVERYBODY, nine.connect, 6)
    pool.exclude(SEAT)

    async def submit(transaction: bytes) -> None:
        await nine.chain.submit(transaction, ())

    completion = CompletionTask(
        seat=SEAT,
        admitted=EVERYBODY,
        columns=SEATS,
        ledger=ledger,
        shards=own,
        tip_height=lambda: nine.chain.height,
        signing_key=nine.holders[SEAT].signing_key,
        genesis_hash=nine.genesis_hash,
        submit=submit,
    )
    repair = RepairTask(
        seat=SEAT,
        admitted=EVERYBODY,
        columns=SEATS,
        ledger=ledger,
        shards=own,
        reader=SegmentReader(pool, EVERYBODY, SEATS),
        completion=completion,
    )
    parts = ScrubParts(
        seat=SEAT,
        admitted=EVERYBODY,
        ledger=ledger,
        store=store,
        own=own,
        announce=repair.announce,
        home=folder,
        now_ms=lambda: Milliseconds(int(trio.current_time() * 1_000)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await pool.settle()
        nursery.start_soon(repair.run)
        async with scrubbing(parts) as task:
            await until(clock, lambda: task.state.passes == 1)
            last = task.state.last
            assert last is not None
            assert (last.counts.shards, last.counts.damaged) == (FLIPS + 10, FLIPS)
            await until(clock, lambda: repair.status().rebuilt == FLIPS)
        nursery.cancel_scope.cancel()
    assert damaged_names(store, names) == set()
    for kept in names:
        contents = b"".join(bytes(part) for part in store.read_leaves(kept, 0, 2))
        assert contents == nine.holders[SEAT].shards[kept.segment_id, kept.column]
    store.close()


async def test_what_the_index_lost_and_what_it_never_had_is_found(
    nine: Nine, folder: Path, clock: trio.testing.MockClock
) -> None:
    """Rows of the store of units without an index, and an index without its rows."""
    store = LevelShardStore(folder)
    names = await stored(nine, store, 6)
    row = store._reader.row(names[0])
    assert row is not None
    store._dropped.drop([row.runs[0].first_counter])
    store._index.write(_deletion(b"s" + names[1].segment_id + bytes((names[1].column,))))
    own = OwnColumns(store, LedgerOf(nine), SEATS)
    told: list[SegmentId] = []
    parts = ScrubParts(
        seat=SEAT,
        admitted=EVERYBODY,
        ledger=LedgerOf(nine),
        store=store,
        own=own,
        announce=told.extend,
        home=folder,
        now_ms=lambda: Milliseconds(int(trio.current_time() * 1_000)),
    )
    async with scrubbing(parts) as task:
        await until(clock, lambda: task.state.passes == 1)
        counts = task.state.counts
    assert (counts.shards, counts.damaged, counts.missing, counts.dead, counts.orphans) == (5, 1, 1, 0, 2)
    assert set(told) == {names[0].segment_id, names[1].segment_id}
    store.close()


def _deletion(store_key: bytes) -> WriteBatch:
    batch = WriteBatch()
    batch.delete(store_key)
    return batch
