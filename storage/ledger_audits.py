"""Epochs in the ledger: findings gathered, verdicts given, erasure reports and maintenance noted.

Rules
- T60. Epochs follow the headers' time: number = time // epoch_ms. The first block of a later epoch ends the one before:
  verdicts are given from its findings, which then leave the state; and the next begins, its seed the hash of the
  certificate that the block embeds. An epoch without a block is none.
- T61. A finding counts for the epoch that runs, from a seat that the lot (S60) or a recheck (S63) appoints, once a
  subject, about a column that the subject has vouched for. Others are passed over; without any that counts the
  transaction fails. What is reported late is refused (EPOCH_OVER).
- T62. Announced maintenance begins no earlier than its block, lasts at most 24 hours, and begins six days or more after
  the last one's end. An epoch that it touches is checked and counted; a failure in it moves no score.
- T63. A purge report names a height below its block's and above the seat's last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import structs

from consensus.identifiers import Height, MemberIndex, Milliseconds
from consensus.signing import Domain, domain_hash
from storage.audits import (
    ACCUSED_LEAVES_MAX,
    EPOCH_KEY,
    NEVER_AUDITED,
    SEATS_MAX,
    AskedLeaf,
    AuditState,
    EpochState,
    Failed,
    FailureNote,
    FindingState,
    MaintenanceState,
    Passed,
    PurgeState,
    Recheck,
    audit_key,
    finding_key,
    maintenance_key,
    purge_key,
)
from storage.identifiers import SeatIndex
from storage.outcomes import FailedTransactionError, FailureReason
from storage.possession import Askers, Verdict, holding_of, judge, score_after, verifiers_of
from storage.state import SegmentState, StateOverlay, StateReader, read_state, segment_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consensus.identifiers import GenesisHash, PublicKey
    from consensus.members import MemberSet
    from storage.audits import AnnounceMaintenance, Finding, ReportFindings, ReportPurge
    from storage.genesis import StorageParameters
    from storage.moments import Moment
    from storage.placement import Placement

DAY_MS: Final = 24 * 3_600_000
MAINTENANCE_MS_MAX: Final = DAY_MS
MAINTENANCE_PAUSE_MS: Final = 6 * DAY_MS


class AuditRules(Protocol):
    """What of a ledger's context the rules of audits need."""

    @property
    def members(self) -> MemberSet:
        """Return who signs reports."""
        ...

    @property
    def seats(self) -> tuple[SeatIndex, ...]:
        """Return all seats."""
        ...

    @property
    def placement(self) -> Placement:
        """Return which seats exist when."""
        ...

    @property
    def parameters(self) -> StorageParameters:
        """Return the shared limits."""
        ...


def first_epoch(genesis_hash: GenesisHash, time_ms: Milliseconds, epoch_ms: int) -> EpochState:
    """Return the epoch that genesis begins; its seed is known to everybody, so it proves less than later ones."""
    return EpochState(
        number=time_ms // epoch_ms,
        seed=domain_hash(Domain.VERIFIER_LOT, genesis_hash),
        opened_height=Height(0),
        opened_ms=time_ms,
        rechecks=(),
        silent=(),
    )


def running_epoch(reader: StateReader) -> EpochState:
    """Return the epoch that runs."""
    state = read_state(reader, EPOCH_KEY, EpochState)
    assert state is not None, "genesis begins the first epoch"
    return state


def appointed(epoch: EpochState, subject: SeatIndex, rules: AuditRules) -> tuple[SeatIndex, ...]:
    """Return who asks a seat in an epoch: the lot, or all others where verifiers had disagreed."""
    if recheck_of(epoch, subject) is not None:
        return tuple(seat for seat in rules.seats if seat != subject)
    return verifiers_of(subject, rules.seats, epoch.seed, rules.members.budget.weak_quorum, epoch.silent)


def recheck_of(epoch: EpochState, subject: SeatIndex) -> Recheck | None:
    """Return the dispute about a seat that this epoch is to decide."""
    return next((recheck for recheck in epoch.rechecks if recheck.subject == subject), None)


def turn_epoch(rules: AuditRules, overlay: StateOverlay, moment: Moment) -> None:
    """End the epoch that ran and begin the next, if the block's time says so (T60)."""
    epoch = running_epoch(overlay)
    number = moment.time_ms // rules.parameters.epoch_ms
    if number <= epoch.number:
        return
    ending = _Ending(rules=rules, overlay=overlay, epoch=epoch, moment=moment)
    reporters = set[SeatIndex]()
    rechecks = list[Recheck]()
    for subject in rules.seats:
        findings = _take_findings(rules, overlay, subject)
        reporters.update(findings)
        recheck = _end_for(ending, subject, findings)
        if recheck is not None:
            rechecks.append(recheck)
    silent = [seat for seat in rules.seats if seat not in reporters and not _has_purged(overlay, seat, epoch)]
    overlay.put(
        EPOCH_KEY,
        EpochState(
            number=number,
            seed=moment.certificate,
            opened_height=moment.height,
            opened_ms=moment.time_ms,
            rechecks=tuple(rechecks),
            silent=tuple(silent),
        ),
    )


def report_findings(
    rules: AuditRules, overlay: StateOverlay, moment: Moment, sender: PublicKey, body: ReportFindings
) -> None:
    """Note what a verifier found (T61) or raise FailedTransactionError."""
    epoch = running_epoch(overlay)
    if body.epoch != epoch.number:
        raise FailedTransactionError(FailureReason.EPOCH_OVER)
    verifier = _seat_of(rules, sender)
    taken = 0
    for finding in body.findings:
        place = finding_key(finding.subject, verifier)
        is_new = overlay.value(place) is None
        if is_new and _is_asked(rules, epoch, verifier, finding) and _is_sound(rules, overlay, moment, finding):
            overlay.put(place, FindingState(result=finding.result))
            taken += 1
    if taken == 0:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)


def report_purge(
    rules: AuditRules, overlay: StateOverlay, moment: Moment, sender: PublicKey, body: ReportPurge
) -> None:
    """Note up to where a seat has purged (T63) or raise FailedTransactionError."""
    place = purge_key(_seat_of(rules, sender))
    before = read_state(overlay, place, PurgeState)
    if body.height >= moment.height or (before is not None and body.height <= before.height):
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    overlay.put(place, PurgeState(height=body.height, reported_height=moment.height, reported_ms=moment.time_ms))


def announce_maintenance(
    rules: AuditRules, overlay: StateOverlay, moment: Moment, sender: PublicKey, body: AnnounceMaintenance
) -> None:
    """Note when a seat will not answer (T62) or raise FailedTransactionError."""
    place = maintenance_key(_seat_of(rules, sender))
    before = read_state(overlay, place, MaintenanceState)
    is_rested = before is None or body.from_ms >= before.until_ms + MAINTENANCE_PAUSE_MS
    if not is_rested or not moment.time_ms <= body.from_ms < body.until_ms <= body.from_ms + MAINTENANCE_MS_MAX:
        raise FailedTransactionError(FailureReason.BAD_MAINTENANCE)
    overlay.put(place, MaintenanceState(from_ms=body.from_ms, until_ms=body.until_ms))


def number_epochs_by(overlay: StateOverlay, epoch_ms: int) -> None:
    """Let epochs have another length from the next on; the one that runs gets the number that it has by that length."""
    epoch = running_epoch(overlay)
    overlay.put(EPOCH_KEY, structs.replace(epoch, number=epoch.opened_ms // epoch_ms))


def forget_audits(overlay: StateOverlay, seat: SeatIndex) -> None:
    """Let a seat's new occupant begin anew: nothing of its predecessor's proofs is its own."""
    findings = (
        place
        for number in range(SEATS_MAX)
        for place in (finding_key(seat, SeatIndex(number)), finding_key(SeatIndex(number), seat))
    )
    for place in (audit_key(seat), purge_key(seat), maintenance_key(seat), *findings):
        if overlay.value(place) is not None:
            overlay.delete(place)


def _is_asked(rules: AuditRules, epoch: EpochState, verifier: SeatIndex, finding: Finding) -> bool:
    return finding.subject in rules.seats and verifier in appointed(epoch, finding.subject, rules)


def _is_sound(rules: AuditRules, reader: StateReader, moment: Moment, finding: Finding) -> bool:
    """Say whether a failure is of a live segment's column that the subject has vouched for."""
    match finding.result:
        case Passed():
            return True
        case Failed(leaves=leaves, failures=failures, leaf=leaf):
            state = read_state(reader, segment_key(leaf.segment_id), SegmentState)
            if state is None or not 1 <= failures <= leaves:
                return False
            holding = holding_of(leaf.segment_id, state, finding.subject, rules.placement, moment.height)
            return holding is not None and leaf.leaf < holding.leaves


def _take_findings(rules: AuditRules, overlay: StateOverlay, subject: SeatIndex) -> dict[SeatIndex, Passed | Failed]:
    """Return the findings about a seat by verifier; they leave the state."""
    found = dict[SeatIndex, Passed | Failed]()
    for verifier in rules.seats:
        state = read_state(overlay, finding_key(subject, verifier), FindingState)
        if state is not None:
            found[verifier] = state.result
            overlay.delete(finding_key(subject, verifier))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """An epoch that a block ends."""

    rules: AuditRules
    overlay: StateOverlay
    epoch: EpochState
    moment: Moment

    def is_excused(self, subject: SeatIndex) -> bool:
        """Say whether announced maintenance touches the epoch (T62)."""
        announced = read_state(self.overlay, maintenance_key(subject), MaintenanceState)
        return (
            announced is not None
            and announced.from_ms < self.moment.time_ms
            and self.epoch.opened_ms < announced.until_ms
        )


def _end_for(ending: _Ending, subject: SeatIndex, findings: Mapping[SeatIndex, Passed | Failed]) -> Recheck | None:
    """Give one seat's verdict; return the dispute that the next epoch is to decide, if there is one."""
    epoch, overlay = ending.epoch, ending.overlay
    open_dispute = recheck_of(epoch, subject)
    askers = Askers.LOT if open_dispute is None else Askers.ALL_OTHERS
    verdict = judge(tuple(findings.values()), ending.rules.members.budget.weak_quorum, askers)
    accusers = {seat: result for seat, result in findings.items() if isinstance(result, Failed)}
    if verdict is Verdict.DISPUTED:
        return Recheck(subject=subject, leaves=_disputed(open_dispute, accusers))
    state = read_state(overlay, audit_key(subject), AuditState) or NEVER_AUDITED
    match verdict:
        case Verdict.FAILED:
            state = _excused(state) if ending.is_excused(subject) else _failed(state)
            state = _with_note(state, _note(epoch, ending.moment, accusers), epoch)
        case Verdict.PROVED:
            state = _proved(state, epoch)
            _count_overruled(overlay, accusers)
        case Verdict.UNPROVEN:
            state = structs.replace(state, unproven=state.unproven + 1)
    overlay.put(audit_key(subject), state)
    is_undecided = verdict is Verdict.UNPROVEN and open_dispute is not None
    return open_dispute if is_undecided else None


def _disputed(before: Recheck | None, accusers: Mapping[SeatIndex, Failed]) -> tuple[AskedLeaf, ...]:
    earlier = () if before is None else before.leaves
    leaves = dict.fromkeys((*earlier, *(failed.leaf for failed in accusers.values())))
    return tuple(leaves)[:ACCUSED_LEAVES_MAX]


def _note(epoch: EpochState, moment: Moment, accusers: Mapping[SeatIndex, Failed]) -> FailureNote:
    """Describe a failure by what the lowest of its signers found."""
    first = accusers[min(accusers)]
    return FailureNote(
        epoch=epoch.number,
        height=moment.height,
        leaves=first.leaves,
        failures=first.failures,
        reason=first.reason,
        leaf=first.leaf,
        signers=tuple(sorted(accusers)),
    )


def _failed(state: AuditState) -> AuditState:
    return structs.replace(state, score=score_after(state.score, Verdict.FAILED), failed=state.failed + 1)


def _excused(state: AuditState) -> AuditState:
    """Count a failure that announced maintenance keeps from the score (T62)."""
    return structs.replace(state, suspended=state.suspended + 1)


def _with_note(state: AuditState, note: FailureNote, epoch: EpochState) -> AuditState:
    return structs.replace(state, last_failure=note, failing_since_ms=state.failing_since_ms or epoch.opened_ms)


def _proved(state: AuditState, epoch: EpochState) -> AuditState:
    score, proved = score_after(state.score, Verdict.PROVED), state.proved + 1
    if not state.failing_since_ms:
        return structs.replace(state, score=score, proved=proved)
    return structs.replace(
        state,
        score=score,
        proved=proved,
        failing_since_ms=Milliseconds(0),
        repairs=state.repairs + 1,
        repair_ms=state.repair_ms + max(epoch.opened_ms - state.failing_since_ms, 0),
    )


def _count_overruled(overlay: StateOverlay, accusers: Mapping[SeatIndex, Failed]) -> None:
    for seat in accusers:
        state = read_state(overlay, audit_key(seat), AuditState) or NEVER_AUDITED
        overlay.put(audit_key(seat), structs.replace(state, overruled=state.overruled + 1))


def _has_purged(reader: StateReader, seat: SeatIndex, epoch: EpochState) -> bool:
    """Say whether a seat's last erasure report is of an epoch."""
    report = read_state(reader, purge_key(seat), PurgeState)
    return report is not None and report.reported_ms >= epoch.opened_ms


def _seat_of(rules: AuditRules, sender: PublicKey) -> SeatIndex:
    member: MemberIndex | None = rules.members.index_of(sender)
    assert member is not None, "check_sender() admits members only"
    return SeatIndex(member)
