"""Records that this node lacks come from whoever has them; liars, gaps and late erasures change nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from consensus.identifiers import Height, MemberIndex
from consensus.messages import (
    RECORD_ADDRESSES_MAX,
    BlocksResponse,
    RecordsRequest,
    RecordsResponse,
    decode_request,
    encode_response,
)
from node.ledger_chain import LedgerChain
from node.node_chain import Appended
from node.records_task import RecordsTask
from storage.identifiers import RecordAddress, TenantId, VersionId
from storage.record_claims import RecordClaim
from storage.records import record_address
from tests.node.asked import Answering, Members
from tests.node.jumps import until
from tests.node.real_chain import open_ledger_chain

ONE, TWO = MemberIndex(1), MemberIndex(2)
VERSION = VersionId(b"v" * 16)
TENANT = TenantId(b"t" * 16)


def sealed(number: int) -> bytes:
    return b"record %d" % number


def claim(number: int) -> RecordClaim:
    return RecordClaim(tenant=TENANT, version_id=VERSION, address=record_address(TENANT, VERSION, sealed(number)))


def appended(added: tuple[int, ...] = (), erased: tuple[int, ...] = ()) -> Appended:
    return Appended(
        height=Height(1),
        transaction_ids=(),
        committed_segments=(),
        freed_segments=(),
        erased_records=tuple(claim(number).address for number in erased),
        added_records=tuple(claim(number) for number in added),
    )


def holding(*numbers: int) -> Answering:
    kept = {claim(number).address: sealed(number) for number in numbers}

    async def answer(payload: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        request = decode_request(payload)
        assert isinstance(request, RecordsRequest)
        wanted = [RecordAddress(address) for address in request.addresses]
        return encode_response(RecordsResponse(records=tuple(kept[address] for address in wanted if address in kept)))

    return answer


async def forging(payload: bytes) -> bytes:
    del payload
    await trio.lowlevel.checkpoint()
    return encode_response(RecordsResponse(records=(sealed(2), b"forged", sealed(99), sealed(1))))


async def confused(payload: bytes) -> bytes:
    del payload
    await trio.lowlevel.checkpoint()
    return encode_response(BlocksResponse(decided=()))


async def mad(payload: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return payload


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[LedgerChain]:
    with open_ledger_chain(tmp_path) as opened:
        yield opened


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Real time, and jumps."""
    return trio.testing.MockClock(rate=1.0)


def task_of(chain: LedgerChain, members: Members) -> RecordsTask:
    return RecordsTask(chain=chain, store=chain.store, asker=members, connected=lambda: sorted(members.answers))


def here(chain: LedgerChain, *numbers: int) -> set[int]:
    found = chain.read_records([claim(number).address for number in numbers])
    return {number for number in numbers if found.get(claim(number).address) == sealed(number)}


async def test_what_a_block_added_is_pulled_from_whoever_has_it(
    chain: LedgerChain, nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    chain.write_records({claim(3).address: sealed(3)})
    members = Members({ONE: holding(1), TWO: holding(2)})
    task = task_of(chain, members)
    nursery.start_soon(task.run)
    task.on_appended(appended((1, 2, 3)))
    assert task.missing_count == 3
    await until(clock, lambda: task.missing_count == 0)
    assert here(chain, 1, 2, 3) == {1, 2, 3}
    asked = {address for _, payload in members.asked for address in _addresses(payload)}
    assert claim(3).address not in asked, "it was here"


def _addresses(payload: bytes) -> tuple[bytes, ...]:
    request = decode_request(payload)
    assert isinstance(request, RecordsRequest)
    return request.addresses


async def test_liars_are_asked_in_vain(
    chain: LedgerChain, nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    members = Members({ONE: forging, TWO: confused, MemberIndex(3): mad})
    task = task_of(chain, members)
    nursery.start_soon(task.run)
    task.on_appended(appended((1, 2)))
    await until(clock, lambda: len(members.asked) > 9)
    assert here(chain, 1, 2) == {2}, "the forger gave one that fits"
    assert [sealed_record for _, sealed_record in chain.records.rows()] == [sealed(2)]
    members.answers[MemberIndex(4)] = holding(1)
    await until(clock, lambda: task.missing_count == 0)


async def test_what_nobody_has_does_not_stand_in_the_way(
    chain: LedgerChain, nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    lost = tuple(range(1_000, 1_000 + RECORD_ADDRESSES_MAX))
    members = Members({ONE: holding(1)})
    task = task_of(chain, members)
    nursery.start_soon(task.run)
    task.on_appended(appended((*lost, 1)))
    await until(clock, lambda: here(chain, 1) == {1})
    assert task.missing_count == len(lost)


async def test_what_the_chain_erases_is_not_wanted_any_more(
    chain: LedgerChain, nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    members = Members({ONE: holding()})
    task = task_of(chain, members)
    nursery.start_soon(task.run)
    task.on_appended(appended((1,)))
    await until(clock, lambda: bool(members.asked))
    task.on_appended(appended(erased=(1,)))
    members.answers[ONE] = holding(1)
    task.on_appended(appended((2,)))
    await until(clock, lambda: len(members.asked) > 5)
    assert here(chain, 1) == set()


async def test_a_record_erased_on_its_way_here_does_not_survive(
    chain: LedgerChain, nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    """The chain erases it while the answer is under way, and while it is being written."""
    task: RecordsTask

    async def slow(payload: bytes) -> bytes:
        task.on_appended(appended(erased=(1,)))
        return await holding(1, 2)(payload)

    members = Members({ONE: slow})
    task = task_of(chain, members)
    nursery.start_soon(task.run)
    task.on_appended(appended((1, 2)))
    await until(clock, lambda: task.missing_count == 0)
    assert here(chain, 1, 2) == {2}
    task.on_appended(appended(erased=(2,)))  # as if the chain had erased it before the write
    await until(clock, lambda: here(chain, 2) == set())
