"""What the API says of the operators' duties, before any and after a failure, a purge and an announcement."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec import structs

from consensus.identifiers import Height, Milliseconds
from node.api.audits import REMEDIES, AuditsAnswer
from storage.audits import (
    AnnounceMaintenance,
    AskedLeaf,
    Failed,
    FailureKind,
    Finding,
    ReportFindings,
    ReportPurge,
)
from storage.broken_codes import ShowBrokenCode, ShownLeaf
from storage.identifiers import LEAF_BYTES, ColumnIndex, SeatIndex
from storage.ledger_audits import appointed, running_epoch
from storage.merkle import leaf_hashes, prove, root_of
from storage.seat_changes import AddSeat
from storage.segments import code_segment
from storage.transactions import Extent
from tests.node.api.site import Site, open_site
from tests.storage.ledger_world import entry, segment_id, signing_key

SUBJECT = SeatIndex(2)
EPOCH_MS = 600_000


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site, None]:
    async with open_site(tmp_path) as opened:
        yield opened


def test_every_reason_has_a_remedy() -> None:
    assert set(REMEDIES) == set(FailureKind)


async def test_who_sits_now_is_shown(site: Site) -> None:
    world = site.world
    newcomer = AddSeat(offer=world.offer(world.seats, "new", "Newcomer SA"))
    voters = world.rules.members.indices[: world.rules.members.budget.quorum]
    site.append(world.propose(newcomer, by=voters[0]))
    site.append(*(world.approve(voters[0], by=member) for member in voters[1:]))
    site.append()
    last = (await site.get("/v1/audits", AuditsAnswer)).operators[-1]
    assert (last.seat, last.operator) == (world.seats, "Newcomer SA")


async def test_nothing_is_known_of_anybody_at_first(site: Site) -> None:
    answer = await site.get("/v1/audits", AuditsAnswer)
    assert [found.seat for found in answer.operators] == list(range(site.world.seats))
    assert {(found.score, found.proved, found.failed) for found in answer.operators} == {(1_000, 0, 0)}
    assert {(found.last_failure, found.maintenance, found.purged) for found in answer.operators} == {(None, None, None)}
    assert answer.epoch_ms == EPOCH_MS
    for found in answer.operators:
        assert len(found.verifiers) == site.world.context.members.budget.weak_quorum
        assert found.seat not in found.verifiers


async def test_who_committed_roots_that_are_no_codeword_is_named(site: Site) -> None:
    world = site.world
    coded = code_segment(random.Random(1).randbytes(50_000), 3, 4)
    shards = [bytearray(shard) for shard in coded.shards]
    shards[3][5] ^= 1
    segment = structs.replace(
        world.segment("odd", segment_bytes=50_000, k=3),
        roots=tuple(root_of(leaf_hashes(shard)) for shard in shards),
    )
    site.append(world.transaction(world.commit((segment,), entry("odd", Extent(segment=0, extent_bytes=9)))))
    assert (await site.get("/v1/audits", AuditsAnswer)).broken_codes == []
    leaves = tuple(
        ShownLeaf(column=ColumnIndex(column), leaf=bytes(shard[:LEAF_BYTES]), path=prove(leaf_hashes(shard), 0, 1))
        for column, shard in enumerate(shards)
    )
    shown = ShowBrokenCode(segment_id=segment.segment_id, position=0, leaves=leaves)
    site.append(world.transaction(shown, sender="seat 1"))
    (found,) = (await site.get("/v1/audits", AuditsAnswer)).broken_codes
    assert (found.segment_id, found.committed_height, found.proven_height) == (segment.segment_id.hex(), 1, 2)
    assert found.committed_by == signing_key("client").public.hex()


async def test_a_failure_a_purge_and_an_announcement_are_told(site: Site) -> None:
    world = site.world
    segment = world.segment("one")
    site.append(world.transaction(world.commit((segment,), entry("one", Extent(segment=0, extent_bytes=9)))))
    epoch = running_epoch(site.store)
    leaf = AskedLeaf(segment_id=segment_id("one"), leaf=0)
    failed = Failed(leaves=94, failures=2, reason=FailureKind.DAMAGED, leaf=leaf)
    body = ReportFindings(epoch=epoch.number, nonce=bytes(32), findings=(Finding(subject=SUBJECT, result=failed),))
    signers = appointed(epoch, SUBJECT, world.context)
    begin_ms = world.tip.time_ms + 5_000
    announced = AnnounceMaintenance(
        from_ms=Milliseconds(begin_ms + EPOCH_MS), until_ms=Milliseconds(begin_ms + EPOCH_MS + 1)
    )
    site.append(
        *(world.transaction(body, sender=f"seat {seat}") for seat in signers),
        world.transaction(ReportPurge(height=Height(1)), sender=f"seat {SUBJECT}"),
        world.transaction(announced, sender=f"seat {SUBJECT}"),
    )
    site.append(later_ms=EPOCH_MS)
    answer = await site.get("/v1/audits", AuditsAnswer)
    assert answer.epoch == epoch.number + 1
    found = answer.operators[SUBJECT]
    assert (found.failed, found.score, found.suspended) == (1, 750, 0)
    failure = found.last_failure
    assert failure is not None
    assert (failure.reason, failure.leaves, failure.failures) == ("damaged", 94, 2)
    assert (failure.signers, failure.leaf.segment_id) == (list(signers), segment_id("one").hex())
    assert failure.remedy == REMEDIES[FailureKind.DAMAGED]
    assert found.purged is not None
    assert found.purged.height == 1
    assert found.maintenance is not None
    assert found.maintenance.from_ms == announced.from_ms
    assert found.failing_since_ms is not None
