"""Members move bytes: segments of smaller k come back to the full one, packs lose what is dead, readers go on."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from consensus.errors import RejectionError
from consensus.genesis import genesis_hash
from consensus.identifiers import Buffer, Height, Milliseconds, TransactionId
from node.client.holders import HolderPool
from node.client.reading import SegmentReader
from node.client.sources import bytes_source
from node.recode_task import TURN_SECONDS, RecodeParts, RecodeTask
from node.vouching import Vouching
from storage import move_plans
from storage.identifiers import SeatIndex, SegmentId, ShardRoot, TenantId
from storage.moves import Move, MovedRange
from storage.receipts import Receipt, ReceiptItem, held_bitmap, sign_receipt
from storage.state import TENANT_PREFIX, TenantState, decode_state
from storage.transactions import TRANSACTION_VERSION, Body, Envelope, sign_transaction
from tests.node.client.nine import SEATS, Nine
from tests.node.test_repair_task import EVERYBODY, LedgerOf

MOVER = SeatIndex(2)


@dataclass
class Rows:
    """Implements MoveLedger."""

    nine: Nine

    def rows(self, prefix: bytes, after: bytes, limit: int) -> Sequence[tuple[bytes, bytes]]:
        values = self.nine.chain.state.values
        return [(key, values[key]) for key in sorted(values) if key.startswith(prefix) and key > after][:limit]

    def tenants(self) -> Sequence[tuple[TenantId, TenantState]]:
        rows = self.rows(TENANT_PREFIX, TENANT_PREFIX, 100)
        return [(TenantId(key[1:]), decode_state(encoded, TenantState)) for key, encoded in rows]


@dataclass
class Sender:
    """Implements Sender: what is sent waits for commit()."""

    nine: Nine
    sent: list[bytes]

    def send(self, body: Body) -> TransactionId:
        key = self.nine.holders[MOVER].signing_key
        envelope = Envelope(
            transaction_version=TRANSACTION_VERSION,
            sender=key.public,
            sequence=len(self.sent) + 1,
            valid_until_height=Height(self.nine.chain.height + 100),
            body=body,
        )
        self.sent.append(sign_transaction(envelope, key, genesis_hash(self.nine.genesis)))
        return TransactionId(bytes(32))


class Site:
    """One member that moves, eight that vouch."""

    def __init__(self, nine: Nine, pool: HolderPool) -> None:
        self.nine = nine
        self.pool = pool
        self.now_ms = Milliseconds(0)
        self.sender = Sender(nine, [])
        self.vouching = [self._vouching(seat, pool) for seat in EVERYBODY]
        for seat in EVERYBODY:
            nine.holders[seat].vouch = self.vouching[seat].vouch
        self.task = RecodeTask(
            RecodeParts(
                seat=MOVER,
                ledger=Rows(nine),
                segments=LedgerOf(nine),
                pool=pool,
                vouching=self.vouching[MOVER],
                context=lambda: nine.context,
                height=lambda: nine.chain.height,
                own_column=self.keep_own,
                sender=self.sender,
                now_ms=lambda: self.now_ms,
            )
        )

    def _vouching(self, seat: SeatIndex, pool: HolderPool) -> Vouching:
        return Vouching(
            seat=seat,
            signing_key=self.nine.holders[seat].signing_key,
            genesis_hash=self.nine.genesis_hash,
            ledger=LedgerOf(self.nine),
            reader=SegmentReader(pool, EVERYBODY, SEATS),
            coding=lambda: self.nine.context.coding,
        )

    def keep_own(self, move: Move, item: ReceiptItem, shard: Buffer, expiry_height: Height) -> Receipt:
        self.nine.holders[MOVER].shards[move.segment_id, item.column] = bytearray(shard)
        return sign_receipt(
            self.nine.holders[MOVER].signing_key,
            self.nine.genesis_hash,
            tenant=move.tenant,
            seat=MOVER,
            held=held_bitmap([0], 1),
            items=[item],
            expiry_height=expiry_height,
        )

    async def all_turns(self) -> None:
        """Let every segment have its turn once."""
        for _ in range(SEATS):
            await self.task.round()
            self.now_ms = Milliseconds(self.now_ms + int(TURN_SECONDS * 1000))

    async def commit(self) -> None:
        """Have the chain carry what was sent, and the holders drop what it freed."""
        for transaction in self.sender.sent:
            commit = self.nine.chain.commits[await self.nine.chain.submit(transaction, ())]
            assert (commit.refusal, commit.failed_entries) == (None, ())
        self.sender.sent.clear()
        live = {segment.segment_id for segment in self.nine.chain.live_segments()}
        for holder in self.nine.holders:
            for name in [name for name in holder.shards if name[0] not in live]:
                del holder.shards[name]


@pytest.fixture
def nine(tmp_path: Path) -> Nine:
    return Nine(tmp_path)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Pauses pass at once; worker threads are no reason to jump."""
    return trio.testing.MockClock(autojump_threshold=0.05)


@asynccontextmanager
async def moving(nine: Nine) -> AsyncGenerator[Site, None]:
    pool = HolderPool(EVERYBODY, nine.connect, 6)
    pool.exclude(MOVER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await pool.settle()
        yield Site(nine, pool)
        nursery.cancel_scope.cancel()


def contents(byte_count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(byte_count)


async def test_what_was_written_with_three_sites_down_comes_back_to_six_and_three(
    nine: Nine, clock: trio.testing.MockClock
) -> None:
    for seat in (0, 4, 8):
        nine.holders[seat].kill()
    async with nine.client() as client:
        acknowledged = await client.put("bucket", "name", bytes_source(contents(300_000, 1)))
        for seat in (0, 4, 8):
            nine.holders[seat].start()
        assert await client.wait_sealed(acknowledged.segment_ids, 100)
        assert [segment.k for segment in nine.chain.live_segments()] == [4]
        opened = await client.open("bucket", "name")
        assert await client.get("bucket", "name") == contents(300_000, 1), "read before: its segment is remembered"
        async with moving(nine) as site:
            await site.all_turns()
            assert site.task.moved == 1
            await site.commit()
        assert [(found.k, len(found.receipted)) for found in nine.chain.live_segments()] == [(6, SEATS)]
        assert nine.chain.live_segments()[0].segment_id not in acknowledged.segment_ids
        kept = bytearray()

        async def keep(piece: memoryview) -> None:
            kept.extend(piece)

        began = trio.current_time()
        await client.read(opened, keep)  # opened before the move: the old columns are gone
        assert trio.current_time() - began < 1.0, "nobody is waited for"
        assert kept == contents(300_000, 1)
        assert await client.get("bucket", "name", 70_000, 100) == contents(300_000, 1)[70_000:70_100]


async def test_a_pack_of_which_much_is_dead_is_gathered_anew(nine: Nine, clock: trio.testing.MockClock) -> None:
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client.put, "bucket", f"{number}", bytes_source(contents(10_000, number)))
        (pack,) = nine.chain.live_segments()
        async with moving(nine) as site:
            await client.delete("bucket", [f"{number}" for number in range(5)])
            await site.all_turns()
            assert site.task.moved == 0, "a quarter is not more than a quarter"
            await client.delete("bucket", ["5"])
            await site.all_turns()
            assert site.task.moved == 1
            await site.commit()
        (gathered,) = nine.chain.live_segments()
        assert gathered.segment_bytes == 14 * 10_016
        freed = pack.segment_bytes - gathered.segment_bytes
        assert gathered.segment_bytes <= 3 * freed
        for number in range(6, 20):
            assert await client.get("bucket", f"{number}") == contents(10_000, number)


async def test_a_pack_of_more_objects_than_a_move_may_name_is_gathered_in_several(
    nine: Nine, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_plans, "MOVED_ENTRIES_MAX", 6)
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client.put, "bucket", f"{number}", bytes_source(contents(10_000, number)))
        (pack,) = nine.chain.live_segments()
        await client.delete("bucket", [f"{number}" for number in range(6)])
        async with moving(nine) as site:
            await site.all_turns()
            assert site.task.moved == 3
            await site.commit()
        gathered = nine.chain.live_segments()
        assert pack.segment_id not in {segment.segment_id for segment in gathered}, "freed with its last part"
        assert sum(segment.segment_bytes for segment in gathered) == 14 * 10_016
        for number in range(6, 20):
            assert await client.get("bucket", f"{number}") == contents(10_000, number)


async def test_nothing_moves_while_a_site_is_down(nine: Nine, clock: trio.testing.MockClock) -> None:
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(client.put, "bucket", name, bytes_source(contents(10_000, 1)))
        await client.delete("bucket", ["a"])
        nine.holders[7].kill()
        async with moving(nine) as site:
            await site.all_turns()
            assert site.task.moved == 0
            nine.holders[7].start()
            while 7 not in site.pool.live():
                await site.pool.changed()
            await site.all_turns()
            assert site.task.moved == 1


async def test_a_member_vouches_only_for_what_it_has_recomputed(nine: Nine) -> None:
    async with nine.client() as client:
        await client.put("bucket", "name", bytes_source(contents(100_000, 1)))
    async with moving(nine) as site:
        (segment,) = nine.chain.live_segments()
        moved = await site.vouching[1].moved_bytes(nine.home.tenant, _whole(segment.segment_id, segment.segment_bytes))
        roots = await site.vouching[1].roots(moved, 6)
        move = Move(
            tenant=nine.home.tenant,
            segment_id=segment.segment_id,
            k=6,
            segment_bytes=len(moved),
            roots=roots,
            ranges=_whole(segment.segment_id, segment.segment_bytes),
        )
        assert (await site.vouching[1].vouch(move)).seat == 1
        for field, wrong, reason in (
            ("roots", (ShardRoot(bytes(32)), *roots[1:]), "these bytes have other roots"),
            ("k", 5, "moved with k 5, not 6"),
            ("segment_bytes", len(moved) + 1, "these bytes have other roots"),
            ("tenant", TenantId(b"other tenant's!!"), "is not live, or another tenant's"),
            ("ranges", _whole(segment.segment_id, segment.segment_bytes + 1), "a range beyond its segment"),
        ):
            with pytest.raises(RejectionError, match=reason):
                await site.vouching[1].vouch(msgspec.structs.replace(move, **{field: wrong}))


def _whole(segment_id: SegmentId, segment_bytes: int) -> tuple[MovedRange, ...]:
    return (MovedRange(segment_id=segment_id, offset=0, range_bytes=segment_bytes),)
