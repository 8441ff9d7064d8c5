"""A client commits roots that do not belong together: members mend or show them, and no holder is blamed."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from msgspec import structs

from consensus.encoding import encode
from node.client.holders import HolderPool
from node.client.reading import SegmentReader
from node.client.sources import bytes_source
from node.code_task import CodeParts, CodeTask
from node.seat_sender import SeatSender
from storage.broken_codes import BrokenCodeState, broken_code_key
from storage.identifiers import ColumnIndex, SeatIndex, SegmentId, ShardRoot
from storage.merkle import leaf_hashes, root_of
from storage.placement import column_seats
from storage.state import SegmentState, read_state, segment_key
from storage.stores.memory import MemoryShardStore
from tests.node.client.nine import SEATS, Nine
from tests.node.jumps import until
from tests.node.test_challenge_task import Blocks
from tests.node.test_repair_task import EVERYBODY, LedgerOf

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

ODD = ColumnIndex(7)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(rate=1.0)


@pytest.fixture
async def nine(tmp_path: Path) -> Nine:
    made = Nine(tmp_path)
    async with made.client() as client:
        await client.put("bucket", "name", bytes_source(random.Random(1).randbytes(300_000)))
    return made


def the_segment(nine: Nine) -> tuple[SegmentId, SegmentState]:
    ((segment_id, state),) = LedgerOf(nine).segments()
    return segment_id, state


def change(nine: Nine, state: SegmentState) -> None:
    segment_id, _ = the_segment(nine)
    nine.chain.state.values[segment_key(segment_id)] = encode(state)


@asynccontextmanager
async def comparing(nine: Nine, doubting: SeatIndex) -> AsyncGenerator[None, None]:
    """Nine members; one has reason to doubt."""
    blocks = Blocks(nine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocks.run)
        for seat in EVERYBODY:
            pool = HolderPool(EVERYBODY, nine.connect, 6)
            nursery.start_soon(pool.run)
            await pool.settle()
            sender = SeatSender(
                signing_key=nine.holders[seat].signing_key,
                genesis_hash=nine.genesis_hash,
                tip_height=lambda: nine.chain.height,
                submit=blocks.submit,
            )
            task = CodeTask(
                CodeParts(
                    seat=seat,
                    state=nine.chain.state,
                    ledger=LedgerOf(nine),
                    store=MemoryShardStore(),
                    reader=SegmentReader(pool, EVERYBODY, SEATS),
                    sender=sender,
                )
            )
            if seat == doubting:
                task.doubt(the_segment(nine)[0])
            nursery.start_soon(task.run)
        yield
        nursery.cancel_scope.cancel()


async def test_a_root_that_nobody_receipted_is_replaced_by_what_the_others_give(
    nine: Nine, clock: trio.testing.MockClock
) -> None:
    segment_id, state = the_segment(nine)
    right = state.roots[ODD]
    roots = (*state.roots[:ODD], ShardRoot(bytes(32)), *state.roots[ODD + 1 :])
    columns = tuple(column for column in state.columns if column != ODD)
    change(nine, structs.replace(state, roots=roots, columns=columns))
    holder = column_seats(segment_id, EVERYBODY)[ODD]
    nine.holders[holder].shards.clear()
    async with comparing(nine, holder):
        await until(clock, lambda: the_segment(nine)[1].roots[ODD] == right, jump_s=1.0)
    blame = read_state(nine.chain.state, broken_code_key(segment_id), BrokenCodeState)
    assert blame is not None
    assert (blame.replaced, blame.committed_height) == ((ODD,), state.height)
    assert the_segment(nine)[1].columns == columns, "nobody's receipt is touched"


async def test_receipted_columns_that_contradict_each_other_are_shown_once(
    nine: Nine, clock: trio.testing.MockClock
) -> None:
    segment_id, state = the_segment(nine)
    holder = nine.holders[column_seats(segment_id, EVERYBODY)[ODD]]
    shard = holder.shards[segment_id, ODD]
    shard[20_000] ^= 1
    roots = (*state.roots[:ODD], root_of(leaf_hashes(shard)), *state.roots[ODD + 1 :])
    change(nine, structs.replace(state, roots=roots))
    async with comparing(nine, SeatIndex(0)):
        await until(clock, lambda: nine.chain.state.value(broken_code_key(segment_id)) is not None, jump_s=1.0)
        before = nine.chain.height
        await until(clock, lambda: nine.chain.height > before + 10, jump_s=1.0)
    blame = read_state(nine.chain.state, broken_code_key(segment_id), BrokenCodeState)
    assert blame == BrokenCodeState(
        committed_height=state.height, proven_height=blame.proven_height if blame else state.height, replaced=()
    )
    assert the_segment(nine)[1].roots == roots


async def test_whole_codes_move_nobody(nine: Nine, clock: trio.testing.MockClock) -> None:
    segment_id, state = the_segment(nine)
    async with comparing(nine, SeatIndex(3)):
        before = nine.chain.height
        await until(clock, lambda: nine.chain.height > before + 10, jump_s=1.0)
    assert the_segment(nine) == (segment_id, state)
    assert nine.chain.state.value(broken_code_key(segment_id)) is None
