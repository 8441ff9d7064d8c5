"""What the chain says and keeps of the operators' duties: findings, verdicts, erasure reports, announced maintenance.

Bodies, each signed by a seat's own key:

    ReportFindings        what a verifier found in one epoch, and the 32 bytes that chose its leaves
    ReportPurge           up to which height this seat has taken off its disks what blocks erased
    AnnounceMaintenance   when this seat will not answer

State, beside that of state.py:

    "u"                            the epoch that runs                          EpochState
    "u" seat (1)                   announced maintenance                        MaintenanceState
    "w" subject (1) verifier (1)   a finding of the epoch that runs             FindingState
    "a" seat (1)                   what became of a seat's proofs               AuditState
    "p" seat (1)                   up to where a seat has purged                PurgeState

The rules stand in ledger_audits.py and possession.py.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record
from consensus.identifiers import HASH, HEIGHT, TIME, Height, Milliseconds
from storage.identifiers import LEAF_BYTES, SEAT, SEGMENT, SEGMENT_BYTES_MAX, SeatIndex, SegmentId

SEATS_MAX: Final = 64
LEAVES_ASKED_MAX: Final = 4_096
"""What one verifier asks of one seat in an epoch: 64 MiB of leaves."""
ACCUSED_LEAVES_MAX: Final = 8
"""Carried from one epoch to the next for one seat: at most r accusers fall short of a verdict, and r <= 21 of 64."""
SCORE_MAX: Final = 1_000
EPOCH_KEY: Final = b"u"
FINDING_PREFIX: Final = b"w"
AUDIT_PREFIX: Final = b"a"

Epoch = Annotated[int, TIME]
"""Number of an epoch: header time divided by the epoch's length."""
LeafCount = Annotated[int, Meta(ge=0, le=LEAVES_ASKED_MAX + ACCUSED_LEAVES_MAX)]
Tally = Annotated[int, TIME]


class FailureKind(StrEnum):
    """Why a leaf was not proven."""

    MISSING = "missing"
    """The holder says that it does not have it."""
    DAMAGED = "damaged"
    """The holder says that its own bytes are damaged."""
    WRONG_BYTES = "wrong_bytes"
    """What came is not under the root on chain."""
    LATE = "late"
    """No answer before the deadline."""
    UNREACHABLE = "unreachable"
    """No connection before the deadline."""
    REFUSED = "refused"
    """The holder answered and gave another reason."""


class AskedLeaf(Record):
    """One leaf of a seat's column of a segment."""

    segment_id: Annotated[SegmentId, SEGMENT]
    leaf: Annotated[int, Meta(ge=0, le=SEGMENT_BYTES_MAX // LEAF_BYTES - 1)]


class Passed(Record, tag=0):
    """All leaves asked were proven."""

    leaves: LeafCount


class Failed(Record, tag=1):
    """Some leaves were not proven before the deadline; the first of them, and why."""

    leaves: LeafCount
    failures: LeafCount
    reason: FailureKind
    leaf: AskedLeaf


class Finding(Record):
    """What a verifier found at one seat."""

    subject: Annotated[SeatIndex, SEAT]
    result: Passed | Failed


class ReportFindings(Record, tag=30):
    """A verifier's findings of one epoch; the nonce, drawn by itself alone, tells which leaves it asked for."""

    epoch: Epoch
    nonce: Annotated[bytes, HASH]
    findings: Annotated[tuple[Finding, ...], Meta(min_length=1, max_length=SEATS_MAX)]


class ReportPurge(Record, tag=31):
    """What blocks up to this height erased or freed is in none of this seat's files."""

    height: Annotated[Height, HEIGHT]


class AnnounceMaintenance(Record, tag=32):
    """The seat may fail to answer in this time without losing score."""

    from_ms: Annotated[Milliseconds, TIME]
    until_ms: Annotated[Milliseconds, TIME]


SeatDuty = ReportFindings | ReportPurge | AnnounceMaintenance
"""Bodies that only a seat's own key may send."""

PatientDuty = ReportFindings | ReportPurge
"""What nobody waits for: it shares the heartbeat's block (rule A68)."""


class Recheck(Record):
    """A seat about which verifiers disagreed: all others ask it, for the leaves in dispute too."""

    subject: Annotated[SeatIndex, SEAT]
    leaves: Annotated[tuple[AskedLeaf, ...], Meta(max_length=ACCUSED_LEAVES_MAX)]


class EpochState(Record, tag=30):
    """The epoch that runs."""

    number: Epoch
    seed: Annotated[bytes, HASH]
    opened_height: Annotated[Height, HEIGHT]
    opened_ms: Annotated[Milliseconds, TIME]
    rechecks: Annotated[tuple[Recheck, ...], Meta(max_length=SEATS_MAX)]
    silent: Annotated[tuple[Annotated[SeatIndex, SEAT], ...], Meta(max_length=SEATS_MAX)]
    """Seats that reported nothing in the epoch before; drawn last as verifiers."""


class FindingState(Record, tag=31):
    """A finding of the epoch that runs."""

    result: Passed | Failed


class FailureNote(Record):
    """The last time that a seat was found guilty."""

    epoch: Epoch
    height: Annotated[Height, HEIGHT]
    """Of the block whose time ended the epoch."""
    leaves: LeafCount
    failures: LeafCount
    reason: FailureKind
    leaf: AskedLeaf
    signers: Annotated[tuple[Annotated[SeatIndex, SEAT], ...], Meta(min_length=1, max_length=SEATS_MAX)]


class AuditState(Record, tag=32):
    """What became of a seat's proofs: epochs by verdict, the score, the last failure, and how long repairs took."""

    score: Annotated[int, Meta(ge=0, le=SCORE_MAX)]
    proved: Tally
    failed: Tally
    unproven: Tally
    """Epochs in which too few verifiers reported to say either."""
    suspended: Tally
    """Epochs failed during announced maintenance: the check ran, the score rested."""
    overruled: Tally
    """Accusations by this seat that all others, rechecking, did not find."""
    last_failure: FailureNote | None
    failing_since_ms: Annotated[Milliseconds, TIME]
    """Start of the first epoch failed since the last one proved; 0 while there is none."""
    repairs: Tally
    repair_ms: Tally
    """Times from failing to proving again, and their sum: the repair time that durability.py asks for."""


class PurgeState(Record, tag=33):
    """A seat's last erasure report."""

    height: Annotated[Height, HEIGHT]
    reported_height: Annotated[Height, HEIGHT]
    reported_ms: Annotated[Milliseconds, TIME]


class MaintenanceState(Record, tag=34):
    """A seat's last announced maintenance."""

    from_ms: Annotated[Milliseconds, TIME]
    until_ms: Annotated[Milliseconds, TIME]


NEVER_AUDITED: Final = AuditState(
    score=SCORE_MAX,
    proved=0,
    failed=0,
    unproven=0,
    suspended=0,
    overruled=0,
    last_failure=None,
    failing_since_ms=Milliseconds(0),
    repairs=0,
    repair_ms=0,
)


def finding_key(subject: SeatIndex, verifier: SeatIndex) -> bytes:
    """Return the state key of a finding."""
    return FINDING_PREFIX + bytes((subject, verifier))


def audit_key(seat: SeatIndex) -> bytes:
    """Return the state key of what became of a seat's proofs."""
    return AUDIT_PREFIX + bytes((seat,))


def purge_key(seat: SeatIndex) -> bytes:
    """Return the state key of a seat's erasure report."""
    return b"p" + bytes((seat,))


def maintenance_key(seat: SeatIndex) -> bytes:
    """Return the state key of a seat's announced maintenance."""
    return EPOCH_KEY + bytes((seat,))
