"""What members report of their duties makes no block of its own: an idle chain has its heartbeat and nothing else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from consensus.genesis import genesis_hash
from consensus.identifiers import Height, MemberIndex, Milliseconds
from node.ledger_chain import LedgerChain
from node.mempool import Mempool, pending_of
from node.submission import Submission
from storage.audits import AnnounceMaintenance, Finding, Passed, ReportFindings, ReportPurge
from storage.identifiers import SeatIndex
from storage.ledger_audits import appointed, running_epoch
from storage.stores.blocks import open_chain
from storage.stores.records import RecordStore
from storage.transactions import Body, Envelope, Extent, sign_transaction
from tests.node.one_member import OneMember, open_member
from tests.node.small_chain import KEYS, grant, small_genesis
from tests.node.test_admission import open_door
from tests.storage.ledger_world import World, entry

GENESIS = small_genesis()
EPOCH_MS = 600_000
HEARTBEAT_S = 60.0
PATIENCE_S = EPOCH_MS / 4_000
PURGED = ReportPurge(height=Height(0))


def from_seat(body: Body, seat: int = 0, sequence: int = 1) -> bytes:
    envelope = Envelope(
        transaction_version=1,
        sender=KEYS[seat].public,
        sequence=sequence,
        valid_until_height=Height(100),
        body=body,
    )
    return sign_transaction(envelope, KEYS[seat], genesis_hash(GENESIS))


@contextmanager
def chain_of(world: World, folder: Path) -> Generator[LedgerChain]:
    records = RecordStore(folder / "records")
    with open_chain(folder / "chain", world.genesis) as store:
        yield LedgerChain(store=store, records=records, seat=MemberIndex(0))
    records.close()


def findings(world: World, chain: LedgerChain) -> bytes:
    """A finding of a seat that the lot appoints."""
    epoch, subject = running_epoch(chain.store), SeatIndex(2)
    verifier = appointed(epoch, subject, world.context)[0]
    found = Finding(subject=subject, result=Passed(leaves=0))
    body = ReportFindings(epoch=epoch.number, nonce=bytes(32), findings=(found,))
    return world.transaction(body, sender=f"seat {verifier}")


def test_no_root_of_duties_and_epochs_is_certified_before_the_next_block(tmp_path: Path) -> None:
    world = World()
    with chain_of(world, tmp_path) as chain:
        segment = world.segment("one")
        committed = world.commit((segment,), entry("one", Extent(segment=0, extent_bytes=9)))
        chain.append(world.decide(world.transaction(committed)))
        assert chain.wants_certificate(), "somebody may want his object proven"
        chain.append(world.decide(later_ms=EPOCH_MS))
        assert chain.tip.last is not None
        assert chain.tip.last.block.header.state_root != chain.tip.state_root, "an epoch has begun"
        assert not chain.wants_certificate()
        purged = world.transaction(ReportPurge(height=Height(1)), sender="seat 1")
        chain.append(world.decide(findings(world, chain), purged))
        assert chain.tip.last.block.header.state_root != chain.tip.state_root
        assert not chain.wants_certificate()
        begin, end = (Milliseconds(world.tip.time_ms + later) for later in (5_000, 9_000))
        maintained = AnnounceMaintenance(from_ms=begin, until_ms=end)
        chain.append(world.decide(world.transaction(maintained, sender="seat 1"), findings(world, chain)))
        assert chain.wants_certificate(), "an operator waits for his announcement"


def test_a_mempool_knows_what_is_a_reason_for_a_block() -> None:
    pool = Mempool()
    reports, wanted = pending_of(from_seat(PURGED), ()), pending_of(grant(GENESIS, 3), ())
    pool.add(reports, Height(0))
    found = [pool.has_urgent]
    pool.add(wanted, Height(0))
    found.append(pool.has_urgent)
    assert pool.take() == (reports, wanted), "a block takes all that waits"
    pool.committed([wanted.transaction_id], Height(1))
    found.append(pool.has_urgent)
    pool.drop([reports.transaction_id])
    assert (len(pool), pool.has_urgent) == (0, False)
    assert found == [False, True, False]


def starts_in(member: OneMember) -> float:
    """Return in how many seconds the height starts if nothing else comes."""
    inner = member.consensus._member
    return inner._start_moment() - inner._parts.monotonic_s()


async def test_a_height_starts_for_a_transaction_and_not_for_a_report(tmp_path: Path) -> None:
    with open_member(tmp_path) as member:
        member.admission.submit(Submission(transaction=from_seat(PURGED), records=()))
        assert starts_in(member) == pytest.approx(HEARTBEAT_S, abs=5.0)
        member.admission.submit(Submission(transaction=grant(GENESIS, 3), records=()))
        assert starts_in(member) <= 0.1


async def test_a_report_waits_a_quarter_of_an_epoch_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_member(tmp_path) as member:
        assert member.chain.patience_s() == PATIENCE_S

        def patience_s(_chain: LedgerChain) -> float:
            return 7.5

        monkeypatch.setattr(LedgerChain, "patience_s", patience_s)
        member.admission.submit(Submission(transaction=from_seat(PURGED), records=()))
        assert starts_in(member) == pytest.approx(7.5, abs=2.0)


async def test_a_report_is_told_to_the_next_proposers_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    del autojump_clock
    records = RecordStore(tmp_path / "records")
    with open_chain(tmp_path / "chain", GENESIS) as store:
        chain = LedgerChain(store=store, records=records, seat=MemberIndex(8))
        async with open_door(chain) as door:
            door.admission.submit(Submission(transaction=from_seat(PURGED), records=()))
            with trio.move_on_after(30.0):
                await trio.sleep_forever()
            assert set(door.letters.sent) == door.proposers()
            assert (door.letters.to_all, door.letters.gossiped) == ([], [])
    records.close()
