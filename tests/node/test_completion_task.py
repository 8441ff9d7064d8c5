"""The chain hears of a column once it is here, in one transaction a tenant, until it shows the column, and no other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from consensus.signing import check_signature
from node.completion_task import EXPIRY_HEIGHTS, RETRY_SECONDS, CompletionTask
from node.own_shards import OwnColumns
from storage.identifiers import ColumnIndex, SeatIndex, SegmentId, TenantId
from storage.placement import seat_column
from storage.receipts import ReceiptItem, check_receipt
from storage.state import SegmentState
from storage.stores.memory import MemoryShardStore
from storage.stores.protocols import ShardName
from storage.transactions import CompleteColumns, SignedTransaction, decode_transaction, transaction_sign_bytes
from tests.node.jumps import until
from tests.node.some_shards import COLUMNS, ROOT, SHARD, TENANT, Ledger, keep, segment
from tests.strategies import CHAIN, signing_keys

SEAT = SeatIndex(4)
KEY = signing_keys(9)[SEAT]
ADMITTED = tuple(SeatIndex(seat) for seat in range(9))
OTHER = TenantId(b"o" * 16)


def own_column(number: int) -> ColumnIndex:
    column = seat_column(segment(number), SEAT, ADMITTED)
    assert column is not None
    return column


@dataclass
class Chain(Ledger):
    """A ledger whose segments show columns, and a mempool that may be full."""

    shown: dict[SegmentId, tuple[int, ...]] = field(default_factory=dict[SegmentId, tuple[int, ...]])
    tenants: dict[SegmentId, TenantId] = field(default_factory=dict[SegmentId, TenantId])
    taken: list[SignedTransaction] = field(default_factory=list[SignedTransaction])
    refusals: int = 0
    tries: int = 0

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        state = super().segment(segment_id)
        if state is None:
            return None
        return replace(state, columns=self.shown.get(segment_id, ()), tenant=self.tenants.get(segment_id, TENANT))

    async def submit(self, transaction: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.tries <= self.refusals:
            raise RejectionError(RejectionReason.QUEUE_FULL, "full")
        self.taken.append(decode_transaction(transaction))

    @property
    def bodies(self) -> list[CompleteColumns]:
        found = [signed.envelope.body for signed in self.taken]
        return [body for body in found if isinstance(body, CompleteColumns)]


@dataclass
class Place:
    chain: Chain
    store: MemoryShardStore
    task: CompletionTask
    clock: trio.testing.MockClock

    async def until(self, is_done: Callable[[], bool], *, within_s: float = 60.0) -> None:
        await until(self.clock, is_done, within_s=within_s)

    def hold(self, *numbers: int, tenant: TenantId = TENANT) -> None:
        keep(self.store, *(ShardName(segment(number), own_column(number)) for number in numbers), tenant=tenant)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Real time, and jumps."""
    return trio.testing.MockClock(rate=1.0)


@asynccontextmanager
async def completing(clock: trio.testing.MockClock, *live: int, refusals: int = 0) -> AsyncGenerator[Place, None]:
    chain = Chain({segment(number) for number in live}, refusals=refusals)
    store = MemoryShardStore()
    task = CompletionTask(
        seat=SEAT,
        admitted=ADMITTED,
        columns=COLUMNS,
        ledger=chain,
        shards=OwnColumns(store, chain, COLUMNS),
        tip_height=lambda: Height(100),
        signing_key=KEY,
        genesis_hash=CHAIN,
        submit=chain.submit,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.run)
        yield Place(chain, store, task, clock)
        nursery.cancel_scope.cancel()


async def test_what_is_reported_together_is_one_signed_transaction(clock: trio.testing.MockClock) -> None:
    async with completing(clock, 1, 2, 3) as place:
        place.hold(1, 2, 3)
        for number in (1, 2, 3):
            place.task.report(segment(number))
        await place.until(lambda: bool(place.chain.taken))
        (signed,) = place.chain.taken
    envelope = signed.envelope
    check_signature(KEY.public, transaction_sign_bytes(envelope, CHAIN), signed.signature)
    assert envelope.valid_until_height == 100 + EXPIRY_HEIGHTS
    (body,) = place.chain.bodies
    assert (body.tenant, body.segment_ids) == (TENANT, (segment(1), segment(2), segment(3)))
    (receipt,) = body.receipts
    items = [
        ReceiptItem(segment_id=segment(number), column=own_column(number), shard_root=ROOT, shard_bytes=len(SHARD))
        for number in (1, 2, 3)
    ]
    assert check_receipt(receipt, CHAIN, tenant=TENANT, batch=items, public_key=KEY.public) == (0, 1, 2)


async def test_each_tenant_has_a_transaction_of_its_own(clock: trio.testing.MockClock) -> None:
    async with completing(clock, 1, 2) as place:
        place.chain.tenants[segment(2)] = OTHER
        place.hold(1)
        place.hold(2, tenant=OTHER)
        place.task.report(segment(1))
        place.task.report(segment(2))
        await place.until(lambda: len(place.chain.taken) == 2)
    assert {body.tenant: body.segment_ids for body in place.chain.bodies} == {
        TENANT: (segment(1),),
        OTHER: (segment(2),),
    }
    first, second = (signed.envelope.sequence for signed in place.chain.taken)
    assert first < second


async def test_what_is_not_here_or_not_on_chain_is_never_vouched_for(clock: trio.testing.MockClock) -> None:
    async with completing(clock, 1, 2, 3) as place:
        place.hold(2, 3, 4)
        place.chain.shown[segment(3)] = (own_column(3),)
        for number in (1, 2, 3, 4):
            place.task.report(segment(number))
        await place.until(lambda: bool(place.chain.taken))
    (body,) = place.chain.bodies
    assert body.segment_ids == (segment(2),)


async def test_it_is_reported_until_the_chain_shows_it(clock: trio.testing.MockClock) -> None:
    async with completing(clock, 1) as place:
        place.hold(1)
        place.task.report(segment(1))
        await place.until(lambda: len(place.chain.taken) == 3, within_s=4 * RETRY_SECONDS)
        place.chain.shown[segment(1)] = (own_column(1),)
        began = clock.current_time()
        while clock.current_time() < began + 3 * RETRY_SECONDS:
            await trio.testing.wait_all_tasks_blocked(0.002)
            clock.jump(1.0)
    assert len(place.chain.taken) <= 4
    sequences = [signed.envelope.sequence for signed in place.chain.taken]
    assert sequences == sorted(set(sequences))


async def test_a_full_mempool_costs_a_retry_and_not_the_task(clock: trio.testing.MockClock) -> None:
    async with completing(clock, 1, refusals=2) as place:
        place.hold(1)
        place.task.report(segment(1))
        await place.until(lambda: bool(place.chain.taken), within_s=4 * RETRY_SECONDS)
    assert place.chain.tries == 3
