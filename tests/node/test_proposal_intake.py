"""Proposals are complete only with records of their own tenants, wherever the bytes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import pytest

from consensus.blocks import header_hash
from consensus.chain import make_block
from consensus.events import Validity
from consensus.identifiers import NO_ROUND, Height, MemberIndex, Milliseconds, Round, Signature
from consensus.messages import ProposalMessage
from consensus.proposals import Proposal, SignedProposal
from node.ledger_chain import LedgerChain
from node.mempool import Mempool
from node.proposal_intake import ProposalIntake
from node.proposal_pool import ProposalPool
from node.telemetry import NodeCounters
from storage.records import record_address
from storage.stores.blocks import open_chain
from storage.stores.records import RecordStore
from storage.transactions import BucketEntries, CommitObjects, EntryCommit
from tests.storage.ledger_world import BUCKET, OTHER_TENANT, TENANT, World, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from storage.identifiers import TenantId


SEALED = b"a sealed record"
ResultT = TypeVar("ResultT")
ArgumentsT = TypeVarTuple("ArgumentsT")


class Sent:
    """An outbox that keeps what it is given."""

    def __init__(self) -> None:
        self.frames = list[bytes]()

    def send(self, member: MemberIndex, frame: bytes) -> None:
        assert member >= 0
        self.frames.append(frame)

    def broadcast(self, frame: bytes) -> None:
        self.frames.append(frame)


async def at_once(function: Callable[[*ArgumentsT], ResultT], *arguments: *ArgumentsT) -> ResultT:
    return function(*arguments)


def claim(tenant: TenantId) -> CommitObjects:
    """Return a commit that names TENANT's record, whoever's it is."""
    named = entry("a")
    owned = EntryCommit(
        name_tag=named.name_tag,
        version_id=named.version_id,
        record_address=record_address(TENANT, named.version_id, SEALED),
        extents=(),
        condition=None,
    )
    buckets = (BucketEntries(bucket_tag=BUCKET, entries=(owned,)),)
    return CommitObjects(tenant=tenant, segments=(), buckets=buckets, receipts=())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def chain(tmp_path: Path, world: World) -> Iterator[LedgerChain]:
    with open_chain(tmp_path / "chain", world.genesis) as store:
        records = RecordStore(tmp_path / "records")
        yield LedgerChain(store=store, records=records, seat=MemberIndex(0))
        records.close()


async def validity(world: World, chain: LedgerChain, *transactions: bytes) -> Validity | None:
    """Return what a member thinks of a proposal without records beside it; None while it waits for them."""
    intake = ProposalIntake(
        chain=chain,
        mempool=Mempool(),
        outbox=Sent(),
        counters=NodeCounters(),
        pool=ProposalPool(),
        run_blocking=at_once,
        wall_ms=lambda: Milliseconds(world.tip.time_ms + 1_000),
    )
    proposer = world.tip.turns.proposer(Height(world.tip.height + 1), Round(0))
    block = make_block(
        world.tip,
        world.rules,
        proposer,
        transactions=transactions,
        evidence=(),
        now_ms=Milliseconds(world.tip.time_ms + 1_000),
    )
    proposal = Proposal(
        height=block.header.height,
        round=Round(0),
        block_hash=header_hash(block.header),
        valid_round=NO_ROUND,
        proposer=proposer,
    )
    signed = SignedProposal(proposal=proposal, signature=Signature(bytes(64)))
    known = await intake.take(ProposalMessage(signed=signed, block=block, records=(), polka=None))
    return None if known is None else known.validity


async def test_a_record_on_disk_completes_its_own_tenants_proposal_alone(world: World, chain: LedgerChain) -> None:
    address = claim(TENANT).buckets[0].entries[0].record_address
    chain.write_records({address: SEALED})
    assert await validity(world, chain, world.transaction(claim(TENANT))) is Validity.VALID
    assert await validity(world, chain, world.transaction(claim(OTHER_TENANT), sender="other tenant")) is None


async def test_two_tenants_claims_to_one_record_make_a_block_invalid(world: World, chain: LedgerChain) -> None:
    address = claim(TENANT).buckets[0].entries[0].record_address
    chain.write_records({address: SEALED})
    honest = world.transaction(claim(TENANT))
    lie = world.transaction(claim(OTHER_TENANT), sender="other tenant")
    for transactions in ((honest, lie), (lie, honest)):
        assert await validity(world, chain, *transactions) is Validity.INVALID
