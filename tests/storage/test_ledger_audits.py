"""Epochs on chain: who may find what, which verdict follows, what a score does, and that r liars change none of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from consensus.identifiers import Height, Milliseconds
from storage.audits import (
    SCORE_MAX,
    AnnounceMaintenance,
    AskedLeaf,
    AuditState,
    EpochState,
    Failed,
    FailureKind,
    Finding,
    FindingState,
    MaintenanceState,
    Passed,
    PurgeState,
    ReportFindings,
    ReportPurge,
    audit_key,
    finding_key,
    maintenance_key,
    purge_key,
)
from storage.identifiers import SeatIndex
from storage.ledger_audits import (
    DAY_MS,
    MAINTENANCE_PAUSE_MS,
    appointed,
    forget_audits,
    recheck_of,
    running_epoch,
)
from storage.outcomes import FailureReason
from storage.state import StateOverlay, read_state
from storage.transactions import DeleteEntries, EntryName, Extent
from tests.storage.ledger_world import BUCKET, TENANT, World, entry, name_tag, segment_id

SUBJECT = SeatIndex(4)
EPOCH_MS = 600_000
PASSED = Passed(leaves=90)


@dataclass
class Consortium:
    """Nine seats, one object, epochs as fast as a test wants them; nobody reported in the first."""

    world: World = field(default_factory=lambda: World(seats=9))

    def __post_init__(self) -> None:
        segment = self.world.segment("one")
        named = entry("name", Extent(segment=0, extent_bytes=9))
        assert self.world.run(self.world.commit((segment,), named)).reason is None
        self.turn()

    @property
    def epoch(self) -> EpochState:
        return running_epoch(self.world.state)

    def lot(self, subject: SeatIndex = SUBJECT) -> tuple[SeatIndex, ...]:
        return appointed(self.epoch, subject, self.world.context)

    def failed(self, reason: FailureKind = FailureKind.MISSING, leaf: int = 0, name: str = "one") -> Failed:
        asked = AskedLeaf(segment_id=segment_id(name), leaf=leaf)
        return Failed(leaves=94, failures=3, reason=reason, leaf=asked)

    def findings(self, *findings: Finding, epoch: int | None = None) -> ReportFindings:
        number = self.epoch.number if epoch is None else epoch
        return ReportFindings(epoch=number, nonce=bytes(32), findings=findings)

    def report(
        self, verifier: SeatIndex, result: Passed | Failed, subject: SeatIndex = SUBJECT, *, epoch: int | None = None
    ) -> FailureReason | None:
        body = self.findings(Finding(subject=subject, result=result), epoch=epoch)
        return self.world.run(body, sender=f"seat {verifier}").reason

    def report_all(self, *results: Passed | Failed | None) -> None:
        """One result a verifier, in order of the lot; None for silence."""
        for verifier, result in zip(self.lot(), results, strict=True):
            if result is not None:
                assert self.report(verifier, result) is None

    def turn(self, later_ms: int = EPOCH_MS) -> None:
        """An empty block of the next epoch."""
        self.world.apply(later_ms=later_ms)

    def told(self, seat: SeatIndex = SUBJECT) -> AuditState:
        state = read_state(self.world.state, audit_key(seat), AuditState)
        assert state is not None, "a verdict was given"
        return state


@pytest.fixture
def nine() -> Consortium:
    return Consortium()


def test_an_epoch_begins_with_the_first_block_of_its_time_even_an_empty_one(nine: Consortium) -> None:
    before = nine.epoch
    root = nine.world.tip.state_root
    nine.world.apply(later_ms=1_000)
    assert (nine.epoch, nine.world.tip.state_root) == (before, root), "an empty block within an epoch changes nothing"
    nine.turn()
    assert nine.epoch.number == before.number + 1
    assert nine.epoch.opened_height == nine.world.tip.height
    assert nine.world.tip.state_root != root
    nine.turn(5 * EPOCH_MS)
    assert nine.epoch.number == before.number + 6, "epochs without a block are none"


def test_its_seed_is_the_certificate_that_its_first_block_embeds() -> None:
    world = World(seats=9)
    world.decide()
    decided = world.decide(later_ms=EPOCH_MS)
    assert running_epoch(world.state).seed == decided.block.header.parent_commit_hash


def test_three_verifiers_prove_and_each_epoch_counts_once(nine: Consortium) -> None:
    for epoch in range(1, 4):
        nine.report_all(PASSED, PASSED, PASSED)
        nine.turn()
        assert nine.told().proved == epoch
    assert nine.told().score == SCORE_MAX
    assert nine.epoch.rechecks == ()


def test_three_verifiers_convict_with_the_failed_leaf(nine: Consortium) -> None:
    signers = nine.lot()
    number = nine.epoch.number
    nine.report_all(nine.failed(FailureKind.WRONG_BYTES), nine.failed(), nine.failed(FailureKind.LATE))
    nine.turn()
    told = nine.told()
    assert (told.failed, told.score) == (1, 750)
    note = told.last_failure
    assert note is not None
    assert (note.epoch, note.reason, note.signers) == (number, FailureKind.WRONG_BYTES, signers)
    assert note.leaf == AskedLeaf(segment_id=segment_id("one"), leaf=0)
    assert (note.failures, note.leaves, note.height) == (3, 94, nine.world.tip.height)


@pytest.mark.parametrize("accusers", [1, 2])
def test_a_false_accusation_ends_in_a_recheck_by_all_and_names_the_accusers(nine: Consortium, accusers: int) -> None:
    liars = nine.lot()[:accusers]
    nine.report_all(*[nine.failed()] * accusers, *[PASSED] * (3 - accusers))
    nine.turn()
    assert (nine.told().proved, nine.told().failed, nine.told().unproven) == (0, 0, 1), "no verdict yet"
    recheck = recheck_of(nine.epoch, SUBJECT)
    assert recheck is not None
    assert recheck.leaves == (AskedLeaf(segment_id=segment_id("one"), leaf=0),)
    assert nine.lot() == tuple(seat for seat in nine.world.context.seats if seat != SUBJECT)
    for verifier in nine.lot():
        assert nine.report(verifier, nine.failed() if verifier in liars else PASSED) is None
    nine.turn()
    assert (nine.told().proved, nine.told().failed) == (1, 0)
    assert [nine.told(liar).overruled for liar in liars] == [1] * accusers
    assert nine.epoch.rechecks == ()


@pytest.mark.parametrize("protectors", [1, 2])
def test_a_false_acquittal_ends_in_a_recheck_that_convicts(nine: Consortium, protectors: int) -> None:
    liars = nine.lot()[:protectors]
    nine.report_all(*[PASSED] * protectors, *[nine.failed()] * (3 - protectors))
    nine.turn()
    assert (nine.told().proved, nine.told().failed) == (0, 0)
    for verifier in nine.lot():
        assert nine.report(verifier, PASSED if verifier in liars else nine.failed()) is None
    nine.turn()
    assert (nine.told().proved, nine.told().failed) == (0, 1)


def test_two_alone_say_nothing_and_an_undecided_recheck_goes_on(nine: Consortium) -> None:
    nine.report_all(PASSED, PASSED, None)
    nine.turn()
    assert (nine.told().unproven, nine.told().proved, nine.told().score) == (2, 0, SCORE_MAX)
    nine.report_all(nine.failed(), nine.failed(), None)
    nine.turn()
    nine.report(nine.lot()[0], nine.failed(leaf=0))
    nine.report(nine.lot()[1], PASSED)
    nine.turn()
    assert recheck_of(nine.epoch, SUBJECT) is not None
    nine.turn()
    assert recheck_of(nine.epoch, SUBJECT) is not None, "silence decides nothing"
    assert nine.told().failed == 0


def test_findings_of_strangers_others_and_other_times_count_for_nothing(nine: Consortium) -> None:
    lot = nine.lot()
    outside = next(seat for seat in nine.world.context.seats if seat not in {*lot, SUBJECT})
    assert nine.report(outside, PASSED) is FailureReason.NOTHING_TO_DO
    assert nine.report(SUBJECT, PASSED) is FailureReason.NOTHING_TO_DO, "nobody vouches for itself"
    assert nine.report(lot[0], PASSED, SeatIndex(63)) is FailureReason.NOTHING_TO_DO
    assert nine.report(lot[0], PASSED, epoch=nine.epoch.number - 1) is FailureReason.EPOCH_OVER
    assert nine.report(lot[0], PASSED, epoch=nine.epoch.number + 1) is FailureReason.EPOCH_OVER
    body = nine.findings(Finding(subject=SUBJECT, result=PASSED))
    assert nine.world.run(body, sender="client").reason is FailureReason.NOT_GRANTED
    assert nine.world.run(body, sender="tenant").reason is FailureReason.NOT_GRANTED
    assert nine.report(lot[0], PASSED) is None
    assert nine.report(lot[0], nine.failed()) is FailureReason.NOTHING_TO_DO, "the first counts"
    nine.report(lot[1], PASSED)
    nine.report(lot[2], PASSED)
    nine.turn()
    assert nine.told().proved == 1


def test_an_accusation_names_a_leaf_that_the_subject_vouched_for(nine: Consortium) -> None:
    (verifier, *_) = nine.lot()
    assert nine.report(verifier, nine.failed(name="none")) is FailureReason.NOTHING_TO_DO
    assert nine.report(verifier, nine.failed(leaf=1)) is FailureReason.NOTHING_TO_DO, "this shard has one leaf"
    segment = nine.world.segment("eight")
    receipts = tuple(nine.world.receipt(seat, (segment,)) for seat in range(9) if seat != SUBJECT)
    named = entry("eight", Extent(segment=0, extent_bytes=9))
    assert nine.world.run(nine.world.commit((segment,), named, receipts=receipts)).reason is None
    assert nine.report(verifier, nine.failed(name="eight")) is FailureReason.NOTHING_TO_DO, "it gave no receipt"
    name = EntryName(bucket_tag=BUCKET, name_tag=name_tag("name"), version_id=None)
    assert nine.world.run(DeleteEntries(tenant=TENANT, entries=(name,))).reason is None
    assert nine.report(verifier, nine.failed()) is FailureReason.NOTHING_TO_DO, "it may have purged it"


def test_findings_leave_the_state_with_their_epoch(nine: Consortium) -> None:
    lot = nine.lot()
    nine.report_all(PASSED, PASSED, PASSED)
    assert read_state(nine.world.state, finding_key(SUBJECT, lot[0]), FindingState) is not None
    nine.turn()
    assert [row for row in nine.world.state.values if row[:1] == b"w"] == []


def test_who_reports_nothing_is_drawn_last(nine: Consortium) -> None:
    reporting = nine.lot()
    nine.report_all(PASSED, PASSED, PASSED)
    purging = next(seat for seat in nine.world.context.seats if seat not in {*reporting, SUBJECT})
    assert nine.world.run(ReportPurge(height=Height(1)), sender=f"seat {purging}").reason is None
    nine.turn()
    assert set(nine.epoch.silent) == set(nine.world.context.seats) - {*reporting, purging}
    assert set(nine.lot()) <= {*reporting, purging}


def test_how_long_a_repair_took_stands_on_chain(nine: Consortium) -> None:
    nine.turn()
    nine.report_all(nine.failed(), nine.failed(), nine.failed())
    nine.turn()
    nine.report_all(nine.failed(), nine.failed(), nine.failed())
    nine.turn()
    assert nine.told().repairs == 0
    nine.report_all(PASSED, PASSED, PASSED)
    nine.turn()
    told = nine.told()
    assert (told.repairs, told.failing_since_ms) == (1, 0)
    assert 2 * EPOCH_MS <= told.repair_ms < 2 * EPOCH_MS + 60_000
    assert told.last_failure is not None, "the last failure stays named"


# --- maintenance ---------------------------------------------------------------------------------------------------


def announce(nine: Consortium, from_ms: int, length_ms: int, seat: SeatIndex = SUBJECT) -> FailureReason | None:
    """In a block a second after the last."""
    begin = nine.world.tip.time_ms + 1_000 + from_ms
    body = AnnounceMaintenance(from_ms=Milliseconds(begin), until_ms=Milliseconds(begin + length_ms))
    return nine.world.run(body, sender=f"seat {seat}").reason


def test_maintenance_suspends_the_score_and_not_the_check(nine: Consortium) -> None:
    assert announce(nine, 0, EPOCH_MS) is None
    nine.report_all(*[nine.failed(FailureKind.UNREACHABLE)] * 3)
    nine.turn()
    assert (nine.told().suspended, nine.told().failed, nine.told().score) == (1, 0, SCORE_MAX)
    assert nine.told().last_failure is not None
    nine.turn()
    nine.report_all(*[nine.failed(FailureKind.UNREACHABLE)] * 3)
    nine.turn()
    assert (nine.told().suspended, nine.told().failed) == (1, 1), "it was over"


def test_maintenance_to_come_excuses_nothing_before_it(nine: Consortium) -> None:
    assert announce(nine, 3 * EPOCH_MS, EPOCH_MS) is None
    nine.report_all(*[nine.failed(FailureKind.UNREACHABLE)] * 3)
    nine.turn()
    assert (nine.told().suspended, nine.told().failed) == (0, 1)


def test_maintenance_is_announced_before_it_is_at_most_a_day_and_seldom(nine: Consortium) -> None:
    assert announce(nine, -1, EPOCH_MS) is FailureReason.BAD_MAINTENANCE
    assert announce(nine, 0, 0) is FailureReason.BAD_MAINTENANCE
    assert announce(nine, 0, DAY_MS + 1) is FailureReason.BAD_MAINTENANCE
    assert announce(nine, 0, DAY_MS) is None
    state = read_state(nine.world.state, maintenance_key(SUBJECT), MaintenanceState)
    assert state is not None
    rest_ms = state.until_ms + MAINTENANCE_PAUSE_MS - nine.world.tip.time_ms - 1_000
    assert announce(nine, rest_ms - 1, 1) is FailureReason.BAD_MAINTENANCE
    rest_ms -= 1_000
    assert announce(nine, rest_ms, 1) is None
    assert announce(nine, 0, 1, SeatIndex(5)) is None, "each seat has its own"


# --- erasure reports -----------------------------------------------------------------------------------------------


def purged(nine: Consortium, height: int) -> FailureReason | None:
    return nine.world.run(ReportPurge(height=Height(height)), sender=f"seat {SUBJECT}").reason


def test_a_purge_report_goes_forward_and_never_beyond_the_chain(nine: Consortium) -> None:
    assert purged(nine, 1) is None
    assert purged(nine, 1) is FailureReason.NOTHING_TO_DO
    assert purged(nine, nine.world.tip.height + 1) is FailureReason.NOTHING_TO_DO
    assert purged(nine, nine.world.tip.height) is None
    report = read_state(nine.world.state, purge_key(SUBJECT), PurgeState)
    assert report is not None
    assert (report.height, report.reported_height) == (nine.world.tip.height - 1, nine.world.tip.height)


def test_a_new_occupant_begins_anew(nine: Consortium) -> None:
    assert purged(nine, 1) is None
    assert announce(nine, 0, 1) is None
    nine.report_all(nine.failed(), nine.failed(), nine.failed())
    nine.turn()
    overlay = StateOverlay(nine.world.state)
    forget_audits(overlay, SUBJECT)
    keys = (audit_key(SUBJECT), purge_key(SUBJECT), maintenance_key(SUBJECT))
    assert [overlay.value(state_key) for state_key in keys] == [None] * 3


# --- cost ----------------------------------------------------------------------------------------------------------


def test_an_epoch_costs_at_most_600_bytes_an_operator_on_chain() -> None:
    """Every seat reports on three others and its purge; even when each of them fails."""
    world = World(seats=9)
    leaf = AskedLeaf(segment_id=segment_id("one"), leaf=1_000)
    worst = Failed(leaves=4_096, failures=4_096, reason=FailureKind.WRONG_BYTES, leaf=leaf)
    cost = dict[str, int]()
    for name, result in (("quiet", PASSED), ("worst", worst)):
        findings = tuple(Finding(subject=SeatIndex(subject), result=result) for subject in range(3))
        body = ReportFindings(epoch=2_900_000, nonce=bytes(32), findings=findings)
        encoded = [world.transaction(body, sender="seat 8", sequence=2**50, valid_until=10**7)]
        encoded.append(world.transaction(ReportPurge(height=Height(10**7)), sender="seat 8", sequence=2**50))
        cost[name] = sum(len(transaction) for transaction in encoded)
    assert cost["quiet"] <= 400
    assert cost["worst"] <= 600
