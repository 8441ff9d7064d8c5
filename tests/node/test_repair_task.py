"""A burnt seat gets its columns back from the others, tells the chain, and drops what the chain freed."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from consensus.identifiers import Height
from node import repair_task
from node.client.holders import HolderPool
from node.client.reading import SegmentReader
from node.client.sources import bytes_source
from node.completion_task import CompletionTask
from node.own_shards import OwnColumns
from node.purge_task import PurgeTask
from node.repair_task import RepairTask
from storage.errors import StoreUnavailableError
from storage.identifiers import ColumnIndex, SeatIndex, SegmentId
from storage.merkle import check_shard
from storage.repairing import RepairLoad
from storage.segments import SegmentShape
from storage.state import SegmentState, decode_state, read_state, segment_key
from storage.stores.protocols import ShardName
from storage.stores.units import LevelShardStore
from tests.node.client.nine import SEATS, MemoryHolder, Nine
from tests.node.jumps import until

EVERYBODY = tuple(SeatIndex(seat) for seat in range(SEATS))


@dataclass
class LedgerOf:
    """Implements SegmentLedger."""

    nine: Nine

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        return read_state(self.nine.chain.state, segment_key(segment_id), SegmentState)

    def segments(self, *, after: SegmentId | None = None, limit: int = 512) -> Sequence[tuple[SegmentId, SegmentState]]:
        states = self.nine.chain.state.values
        rows = sorted(row for row in states if row[:1] == b"x" and row[1:] > (after or b""))
        return [(SegmentId(row[1:]), decode_state(states[row], SegmentState)) for row in rows[:limit]]


@dataclass
class ShardsOf:
    """Implements OwnShards on a holder in memory."""

    holder: MemoryHolder
    columns_max: int | None = None
    """Beyond which the disk refuses."""

    def has_shard(self, segment_id: SegmentId, column: ColumnIndex) -> bool:
        return (segment_id, column) in self.holder.shards

    def replace_shard(
        self, segment_id: SegmentId, state: SegmentState, column: ColumnIndex, shard: bytes | bytearray | memoryview
    ) -> None:
        check_shard(state.roots[column], shard)
        if len(self.holder.shards) == self.columns_max:
            raise StoreUnavailableError("the disk refuses")
        self.holder.shards[segment_id, column] = bytearray(shard)


@pytest.fixture
def nine(tmp_path: Path) -> Nine:
    return Nine(tmp_path)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Real time, and jumps."""
    return trio.testing.MockClock(rate=1.0)


@asynccontextmanager
async def repairing(nine: Nine, seat: SeatIndex, columns_max: int | None = None) -> AsyncGenerator[RepairTask, None]:
    holder = nine.holders[seat]
    others = tuple(other for other in EVERYBODY if other != seat)
    pool = HolderPool(EVERYBODY, nine.connect, 6)
    pool.exclude(seat)

    async def submit(transaction: bytes) -> None:
        await nine.chain.submit(transaction, ())

    completion = CompletionTask(
        seat=seat,
        admitted=EVERYBODY,
        columns=SEATS,
        ledger=LedgerOf(nine),
        shards=ShardsOf(holder),
        tip_height=lambda: nine.chain.height,
        signing_key=holder.signing_key,
        genesis_hash=nine.genesis_hash,
        submit=submit,
    )
    repair = RepairTask(
        seat=seat,
        admitted=EVERYBODY,
        columns=SEATS,
        ledger=LedgerOf(nine),
        shards=ShardsOf(holder, columns_max),
        reader=SegmentReader(pool, EVERYBODY, SEATS),
        completion=completion,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await pool.settle()
        assert set(pool.live()) <= set(others)
        nursery.start_soon(completion.run)
        nursery.start_soon(repair.run)
        yield repair
        nursery.cancel_scope.cancel()


async def test_a_burnt_seat_is_rebuilt_from_the_others(nine: Nine, clock: trio.testing.MockClock) -> None:
    seat = SeatIndex(4)
    async with nine.client() as client:
        for i in range(5):
            await client.put("bucket", f"{i}", bytes_source(random.Random(i).randbytes(300_000)))
    kept = dict(nine.holders[seat].shards)
    nine.holders[seat].burn()
    nine.holders[0].kill()
    nine.holders[8].kill()
    async with repairing(nine, seat) as repair:
        await until(clock, lambda: repair.status().rebuilt == 5)
    assert nine.holders[seat].shards == kept


async def test_what_is_announced_while_its_segment_is_under_way_is_looked_at_again(
    nine: Nine, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(_seconds: float, _asked: int) -> float:
        return 5.0

    monkeypatch.setattr(repair_task, "pause_after", pause)
    seat = SeatIndex(4)
    async with nine.client() as client:
        await client.put("bucket", "key", bytes_source(random.Random(1).randbytes(300_000)))
    kept = dict(nine.holders[seat].shards)
    nine.holders[seat].burn()
    async with repairing(nine, seat) as repair:
        await until(clock, lambda: repair.status().rebuilt == 1, jump_s=0.01)
        nine.holders[seat].burn()
        repair.announce([segment_id for segment_id, _ in kept])
        await until(clock, lambda: repair.status().rebuilt == 2, within_s=30.0)
    assert nine.holders[seat].shards == kept


async def test_a_repair_says_what_it_takes_and_takes_no_more(
    nine: Nine, clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seat = SeatIndex(4)
    await put_objects(nine, 6)
    needed = k_columns_bytes(nine)
    nine.holders[seat].burn()
    read_before = bytes_read(nine)
    with caplog.at_level(logging.INFO):
        async with repairing(nine, seat) as repair:
            await until(clock, lambda: repair.status().rebuilt == 6)
            assert repair.status().progress.done == RepairLoad(6, needed)
            await until(clock, lambda: any("6 of 6 columns" in line for line in caplog.messages))
    assert bytes_read(nine) - read_before <= 1.05 * needed
    plan = f"repair: 6 columns to rebuild, {needed / 2**20:.1f} MiB to read from others, about 0 s"
    assert caplog.messages[0] == plan


async def test_a_repair_that_ended_half_way_goes_on_where_it_was(nine: Nine, clock: trio.testing.MockClock) -> None:
    seat = SeatIndex(4)
    await put_objects(nine, 20)
    needed = k_columns_bytes(nine)
    nine.holders[seat].burn()
    async with repairing(nine, seat, columns_max=10) as repair:
        await until(clock, lambda: repair.status().rebuilt == 10)
    again = bytes_read(nine)
    async with repairing(nine, seat) as repair:
        await until(clock, lambda: repair.status().rebuilt == 10)
    assert bytes_read(nine) - again <= 0.55 * needed
    assert len(nine.holders[seat].shards) == 20


async def test_one_hopeless_segment_is_listed_and_the_others_are_rebuilt(
    nine: Nine, clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seat = SeatIndex(1)
    await put_objects(nine, 5)
    hopeless = nine.chain.live_segments()[2].segment_id
    nine.holders[seat].burn()
    for other in (2, 3, 4):
        for name in [name for name in nine.holders[other].shards if name[0] == hopeless]:
            del nine.holders[other].shards[name]
    async with repairing(nine, seat) as repair:
        await until(clock, lambda: repair.status().rebuilt == 4 and bool(repair.status().set_aside))
        assert repair.status().set_aside == {hopeless: "6 columns needed, 5 available"}
        expected = f"repair: segment {hopeless.hex()} is set aside: 6 columns needed, 5 available"
        await until(clock, lambda: expected in caplog.messages)


async def put_objects(nine: Nine, count: int) -> None:
    """Store as many segments."""
    async with nine.client() as client:
        for i in range(count):
            await client.put("bucket", f"{i}", bytes_source(random.Random(i).randbytes(300_000)))


def k_columns_bytes(nine: Nine) -> int:
    """What rebuilding one column of every segment reads."""
    shapes = [SegmentShape(found.segment_bytes, found.k, SEATS) for found in nine.chain.live_segments()]
    return sum(shape.k * shape.shard_bytes for shape in shapes)


def bytes_read(nine: Nine) -> int:
    return sum(holder.bytes_read for holder in nine.holders)


async def test_columns_written_while_a_seat_was_away_are_rebuilt_and_reported(
    nine: Nine, clock: trio.testing.MockClock
) -> None:
    seat = SeatIndex(7)
    nine.holders[seat].kill()
    async with nine.client() as client:
        for i in range(3):
            await client.put("bucket", f"{i}", bytes_source(random.Random(i).randbytes(100_000)))
    assert {len(segment.receipted) for segment in nine.chain.live_segments()} == {8}
    height = nine.chain.height
    async with repairing(nine, seat):
        await until(clock, lambda: {len(segment.receipted) for segment in nine.chain.live_segments()} == {9})
    assert nine.chain.height == height + 1, "one transaction for all of them"


async def test_what_cannot_be_rebuilt_is_set_aside_and_comes_back(nine: Nine, clock: trio.testing.MockClock) -> None:
    seat = SeatIndex(1)
    async with nine.client() as client:
        await client.put("bucket", "name", bytes_source(random.Random(1).randbytes(100_000)))
    nine.holders[seat].burn()
    for other in (2, 3, 4):
        nine.holders[other].kill()
    async with repairing(nine, seat) as repair:
        await until(clock, lambda: bool(repair.status().set_aside))
        assert list(repair.status().set_aside.values()) == ["6 columns needed, 5 available"]
        nine.holders[2].start()
        await until(clock, lambda: repair.status().rebuilt == 1)
        assert not repair.status().set_aside


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LevelShardStore]:
    opened = LevelShardStore(tmp_path / "shards")
    yield opened
    opened.close()


def store_columns(nine: Nine, store: LevelShardStore, seat: SeatIndex) -> list[ShardName]:
    """Give a real store what a holder in memory has, as its finished, uncommitted shards."""
    names: list[ShardName] = []
    for (segment_id, column), shard in nine.holders[seat].shards.items():
        state = LedgerOf(nine).segment(segment_id)
        assert state is not None, "committed"
        name = ShardName(segment_id, column)
        store.put_units(name, state.tenant, SegmentShape(state.segment_bytes, state.k, SEATS), 0, shard)
        names.append(name)
    store.finish(names, Height(100))
    return names


async def test_a_damaged_shard_counts_as_missing_until_it_is_replaced(nine: Nine, store: LevelShardStore) -> None:
    async with nine.client() as client:
        await client.put("bucket", "name", bytes_source(b"contents"))
    (name,) = store_columns(nine, store, SeatIndex(0))
    own = OwnColumns(store, LedgerOf(nine), SEATS)
    assert own.has_shard(name.segment_id, name.column)
    own.note_damaged(name.segment_id, name.column)
    assert not own.has_shard(name.segment_id, name.column)
    state = LedgerOf(nine).segment(name.segment_id)
    assert state is not None
    own.replace_shard(name.segment_id, state, name.column, nine.holders[0].shards[name.segment_id, name.column])
    assert own.has_shard(name.segment_id, name.column)


async def test_freed_segments_leave_the_disk_and_live_ones_stay(
    nine: Nine, store: LevelShardStore, clock: trio.testing.MockClock
) -> None:
    async with nine.client() as client:
        gone = await client.put("bucket", "gone", bytes_source(b"contents"))
        kept = await client.put("bucket", "kept", bytes_source(b"contents"))
        store_columns(nine, store, SeatIndex(0))
        await client.delete("bucket", ["gone"])
    purge = PurgeTask(OwnColumns(store, LedgerOf(nine), SEATS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(purge.run)
        purge.announce(nine.chain.height, kept.segment_ids, gone.segment_ids)
        await until(clock, lambda: not store.uncommitted())
        nursery.cancel_scope.cancel()
    assert {name.segment_id for name in store.names()} == set(kept.segment_ids)


async def test_what_was_never_committed_goes_once_its_receipts_expired(nine: Nine, store: LevelShardStore) -> None:
    async with nine.client() as client:
        await client.put("bucket", "gone", bytes_source(b"contents"))
        (name,) = store_columns(nine, store, SeatIndex(0))
        await client.delete("bucket", ["gone"])
    own = OwnColumns(store, LedgerOf(nine), SEATS)
    own.collect_expired(Height(100))
    assert list(store.names()) == [name], "a receipt may still be used at its expiry height"
    own.collect_expired(Height(101))
    assert list(store.names()) == []


async def test_what_was_freed_while_the_node_was_down_is_swept(nine: Nine, store: LevelShardStore) -> None:
    async with nine.client() as client:
        await client.put("bucket", "gone", bytes_source(b"contents"))
        kept = await client.put("bucket", "kept", bytes_source(b"contents"))
        store.settle(store_columns(nine, store, SeatIndex(0)))
        await client.delete("bucket", ["gone"])
    OwnColumns(store, LedgerOf(nine), SEATS).sweep_dead()
    assert {name.segment_id for name in store.names()} == set(kept.segment_ids)
