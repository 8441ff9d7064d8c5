"""Whoever's turn comes next has heard of what was posted here; gossip is for when no blocks come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from consensus.identifiers import Height, MemberIndex, Round
from consensus.messages import TransactionsMessage, decode_message
from node.admission import LOST_S, PROPOSERS, STALLED_S, Admission
from node.ledger_chain import LedgerChain
from node.mempool import Mempool
from node.submission import Submission
from node.telemetry import NodeCounters
from storage.stores.blocks import open_chain
from storage.stores.records import RecordStore
from tests.node.small_chain import grant, small_chain, small_genesis

GENESIS = small_genesis()


@dataclass(slots=True)
class Letters:
    """An Outbox that keeps what leaves: the transactions of each frame."""

    sent: dict[MemberIndex, list[list[bytes]]] = field(default_factory=lambda: defaultdict(list))
    to_all: list[list[bytes]] = field(default_factory=list[list[bytes]])
    gossiped: list[list[bytes]] = field(default_factory=list[list[bytes]])

    def send(self, member: MemberIndex, frame: bytes) -> None:
        self.sent[member].append(transactions_of(frame))

    def broadcast(self, frame: bytes) -> None:
        self.to_all.append(transactions_of(frame))

    def publish(self, frame: bytes) -> None:
        self.gossiped.append(transactions_of(frame))


def transactions_of(frame: bytes) -> list[bytes]:
    message = decode_message(frame)
    assert isinstance(message, TransactionsMessage)
    return [item.transaction for item in message.items]


@dataclass(slots=True)
class Door:
    chain: LedgerChain
    mempool: Mempool
    admission: Admission
    letters: Letters

    def proposers(self) -> set[MemberIndex]:
        height = Height(self.chain.tip.height + 1)
        return {self.chain.turns.proposer(height, Round(r)) for r in range(PROPOSERS)}

    def append_empty_block(self) -> None:
        decided = small_chain(GENESIS, self.chain.tip.height + 1)[-1]
        self.chain.append(decided)
        self.admission.on_appended()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[LedgerChain]:
    records = RecordStore(tmp_path / "records")
    with open_chain(tmp_path / "chain", GENESIS) as store:
        yield LedgerChain(store=store, records=records, seat=MemberIndex(8))
    records.close()


@asynccontextmanager
async def open_door(chain: LedgerChain) -> AsyncGenerator[Door]:
    letters, mempool = Letters(), Mempool()
    admission = Admission(chain=chain, mempool=mempool, outbox=letters, counters=NodeCounters())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.run, letters.publish)
        yield Door(chain, mempool, admission, letters)
        nursery.cancel_scope.cancel()


def posted(number: int) -> Submission:
    return Submission(transaction=grant(GENESIS, number), records=())


async def test_what_is_posted_in_one_moment_shares_a_frame(chain: LedgerChain) -> None:
    async with open_door(chain) as door:
        for number in (11, 12, 13):
            door.admission.submit(posted(number))
        await wait_all_tasks_blocked()
        wanted = [grant(GENESIS, number) for number in (11, 12, 13)]
        assert dict(door.letters.sent) == {member: [wanted] for member in door.proposers()}


async def test_a_block_brings_what_still_waits_to_the_next_proposer_and_nobody_hears_twice(chain: LedgerChain) -> None:
    async with open_door(chain) as door:
        door.admission.submit(posted(11))
        await wait_all_tasks_blocked()
        before = door.proposers()
        door.append_empty_block()
        await wait_all_tasks_blocked()
        assert door.proposers() - before
        assert dict(door.letters.sent) == {member: [[grant(GENESIS, 11)]] for member in before | door.proposers()}


async def test_what_a_block_carried_is_passed_on_no_more(chain: LedgerChain) -> None:
    async with open_door(chain) as door:
        named = door.admission.submit(posted(11))
        await wait_all_tasks_blocked()
        before = dict(door.letters.sent)
        door.mempool.committed((named,), Height(1))
        door.append_empty_block()
        await wait_all_tasks_blocked()
        assert dict(door.letters.sent) == before


async def test_without_a_block_all_members_are_told_once_and_later_it_is_gossiped_once(
    chain: LedgerChain, autojump_clock: MockClock
) -> None:
    del autojump_clock
    async with open_door(chain) as door:
        door.admission.submit(posted(11))
        await wait_all_tasks_blocked()
        assert door.letters.to_all == []
        await trio.sleep_until(trio.current_time() + 2 * STALLED_S)
        assert door.letters.to_all == [[grant(GENESIS, 11)]]
        assert door.letters.gossiped == []
        await trio.sleep_until(trio.current_time() + 10 * LOST_S)
        assert door.letters.to_all == [[grant(GENESIS, 11)]]
        assert door.letters.gossiped == [[grant(GENESIS, 11)]]


async def test_while_blocks_come_slower_than_they_stall_all_are_told_but_nothing_is_gossiped(
    chain: LedgerChain, autojump_clock: MockClock
) -> None:
    del autojump_clock
    async with open_door(chain) as door:
        door.admission.submit(posted(11))
        for _ in range(10):
            await trio.sleep_until(trio.current_time() + 3 * STALLED_S)
            door.admission.on_appended()
        assert door.letters.to_all == [[grant(GENESIS, 11)]]
        assert door.letters.gossiped == []


async def test_while_blocks_come_nothing_is_gossiped(chain: LedgerChain, autojump_clock: MockClock) -> None:
    del autojump_clock
    async with open_door(chain) as door:
        door.admission.submit(posted(11))
        for _ in range(10):
            await trio.sleep_until(trio.current_time() + STALLED_S / 2)
            door.admission.on_appended()
        assert door.letters.to_all == []
        assert door.letters.gossiped == []
