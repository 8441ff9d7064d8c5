"""GET /v1/audits: what the chain says of every operator's duties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from storage.audits import (
    AUDIT_PREFIX,
    NEVER_AUDITED,
    AuditState,
    FailureKind,
    MaintenanceState,
    PurgeState,
    audit_key,
    maintenance_key,
    purge_key,
)
from storage.broken_codes import BrokenCodeState, broken_code_key
from storage.identifiers import SegmentId
from storage.ledger_audits import appointed, recheck_of, running_epoch
from storage.state import decode_state, read_state
from storage.transactions import CommitObjects, decode_transaction

if TYPE_CHECKING:
    from consensus.identifiers import Height
    from storage.audits import EpochState, FailureNote
    from storage.genesis import Seat
    from storage.identifiers import SeatIndex
    from storage.ledger_audits import AuditRules
    from storage.state import StateReader
    from storage.stores.blocks import ChainStore

REMEDIES: Final = {
    FailureKind.MISSING: "look at `grandest node scrub` and the log for repair; replace a disk that loses more",
    FailureKind.DAMAGED: "run `grandest node scrub --now`; replace the disk if it damages more",
    FailureKind.WRONG_BYTES: "stop and upgrade: this node served bytes that it did not check",
    FailureKind.LATE: "look at disk and network: leaves took longer than the deadline",
    FailureKind.UNREACHABLE: "start the node, open its shard port; announce maintenance before the next stop",
    FailureKind.REFUSED: "look at the node's log: it answered verifiers with a refusal",
}


BROKEN_CODES_MAX: Final = 1_024
NO_SEGMENT: Final = SegmentId(bytes(32))


class LeafAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf of an operator's column of a segment."""

    segment_id: str
    leaf: int


class FailureAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The last verdict against an operator."""

    epoch: int
    height: int
    """Of the block that ended the epoch."""
    reason: str
    leaves: int
    failures: int
    leaf: LeafAnswer
    signers: list[int]
    remedy: str


class SpanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A time, from and until, in ms."""

    from_ms: int
    until_ms: int


class PurgedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure report: nothing that blocks up to `height` erased is in any of the operator's files."""

    height: int
    reported_height: int
    reported_ms: int


class OperatorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One operator's duties."""

    seat: int
    operator: str
    site: str
    score: int
    proved: int
    failed: int
    unproven: int
    suspended: int
    overruled: int
    last_failure: FailureAnswer | None
    failing_since_ms: int | None
    repairs: int
    mean_repair_ms: int | None
    verifiers: list[int]
    """Who asks it in this epoch."""
    disputed: bool
    """Verifiers disagreed: all others ask."""
    maintenance: SpanAnswer | None
    purged: PurgedAnswer | None


class BrokenCodeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A segment whose roots are, or were, no codeword, and who committed them."""

    segment_id: str
    committed_height: int
    committed_by: str | None
    """The public key that signed the commit; null where the block is pruned here."""
    proven_height: int
    replaced: list[int]
    """Columns whose roots members have replaced."""


class AuditsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/audits."""

    epoch: int
    epoch_ms: int
    opened_height: int
    opened_ms: int
    seed: str
    operators: list[OperatorAnswer]
    broken_codes: list[BrokenCodeAnswer]


def audits_answer(store: ChainStore) -> AuditsAnswer:
    """Return what the state says of every seat and of who sits there now (blocks)."""
    rules, epoch = store.context, running_epoch(store)
    return AuditsAnswer(
        epoch=epoch.number,
        epoch_ms=rules.parameters.epoch_ms,
        opened_height=epoch.opened_height,
        opened_ms=epoch.opened_ms,
        seed=epoch.seed.hex(),
        operators=[
            _operator(rules, store, epoch, number, occupant.seat) for number, occupant in rules.membership.occupied
        ],
        broken_codes=_broken_codes(store),
    )


def _operator(rules: AuditRules, state: StateReader, epoch: EpochState, index: SeatIndex, seat: Seat) -> OperatorAnswer:
    audit = read_state(state, audit_key(index), AuditState) or NEVER_AUDITED
    announced = read_state(state, maintenance_key(index), MaintenanceState)
    purged = read_state(state, purge_key(index), PurgeState)
    return OperatorAnswer(
        seat=index,
        operator=seat.operator,
        site=seat.site,
        score=audit.score,
        proved=audit.proved,
        failed=audit.failed,
        unproven=audit.unproven,
        suspended=audit.suspended,
        overruled=audit.overruled,
        last_failure=None if audit.last_failure is None else _failure(audit.last_failure),
        failing_since_ms=audit.failing_since_ms or None,
        repairs=audit.repairs,
        mean_repair_ms=audit.repair_ms // audit.repairs if audit.repairs else None,
        verifiers=list(appointed(epoch, index, rules)),
        disputed=recheck_of(epoch, index) is not None,
        maintenance=None if announced is None else SpanAnswer(from_ms=announced.from_ms, until_ms=announced.until_ms),
        purged=None
        if purged is None
        else PurgedAnswer(height=purged.height, reported_height=purged.reported_height, reported_ms=purged.reported_ms),
    )


def _failure(note: FailureNote) -> FailureAnswer:
    return FailureAnswer(
        epoch=note.epoch,
        height=note.height,
        reason=note.reason.value,
        leaves=note.leaves,
        failures=note.failures,
        leaf=LeafAnswer(segment_id=note.leaf.segment_id.hex(), leaf=note.leaf.leaf),
        signers=list(note.signers),
        remedy=REMEDIES[note.reason],
    )


def _broken_codes(store: ChainStore) -> list[BrokenCodeAnswer]:
    """Return the first segments with such roots; a seat's verdicts stand under the same prefix and a shorter key."""
    rows = store.rows(AUDIT_PREFIX, AUDIT_PREFIX, BROKEN_CODES_MAX)
    codes = ((SegmentId(row[1:]), encoded) for row, encoded in rows if len(row) == len(broken_code_key(NO_SEGMENT)))
    return [_broken_code(store, segment_id, decode_state(encoded, BrokenCodeState)) for segment_id, encoded in codes]


def _broken_code(store: ChainStore, segment_id: SegmentId, state: BrokenCodeState) -> BrokenCodeAnswer:
    return BrokenCodeAnswer(
        segment_id=segment_id.hex(),
        committed_height=state.committed_height,
        committed_by=_committer(store, segment_id, state.committed_height),
        proven_height=state.proven_height,
        replaced=list(state.replaced),
    )


def _committer(store: ChainStore, segment_id: SegmentId, height: Height) -> str | None:
    """Return who signed the transaction that committed a segment."""
    decided = store.decided_block(height)
    for encoded in () if decided is None else decided.block.transactions:
        envelope = decode_transaction(encoded).envelope
        body = envelope.body
        if isinstance(body, CommitObjects) and any(part.segment_id == segment_id for part in body.segments):
            return envelope.sender.hex()
    return None
