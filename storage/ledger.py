"""The ledger: what a block's transactions do to the state. Deterministic and pure.

Rules
- T6. A block is valid only if each transaction decodes canonically, is signed by its sender for this chain, has
  conditions of 0 or 16 bytes, and stands in it once. All else is judged when it is applied, and recorded (outcomes.py).
- T7. Transactions run in order. One that breaks a rule changes nothing but its sender's sequence numbers (tenants.py).
- T8. A new segment's id is not live and never was. It has c = min(n, 9) roots; its k lies within the fault budget's
  least and n - u; at least k + r seats vouch for their column of it. A segment is freed at zero references, and its id
  is used up: receipts that its holders gave once would vouch for what they have deleted.
- T9. A receipt counts only for the columns that placement gives its seat, once a seat, up to its expiry height, which
  is at most `receipt_heights` ahead. One bad receipt fails the transaction: its signer or its sender is at fault.
- T10. An entry's extents lie inside their segments, which are the same tenant's. Positions within a transaction's own
  segments count all its entries, those that fail too.
- T11. Conditions are judged entry by entry, in order; a failing entry fails alone and its references do not count.
- T12. Overwriting or deleting an entry gives up its references and its record. Segments are freed when the transaction
  ends, new ones without a surviving entry at once.
- T13. A record goes when the last entry that refers to it goes; what fails gives nothing up.
- T16. A block without transactions and evidence changes nothing, unless it begins an epoch (T60) or carries a change of
  the seats out (M8); one with transactions writes the root of their outcomes, one with evidence the faults that it
  proves (faults.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, assert_never

from consensus.errors import RejectionError, RejectionReason
from consensus.genesis import genesis_members
from consensus.identifiers import Height, StateRoot
from consensus.quorum import fault_budget
from consensus.signing import check_signature
from storage.audits import EPOCH_KEY, AnnounceMaintenance, ReportFindings, ReportPurge, SeatDuty
from storage.broken_codes import CodeDuty, ShowBrokenCode, VouchRoot
from storage.buckets import ChangeRecords, ChangeTags, DeleteBucket, EntryKind, SetBucket, SetRetention
from storage.faults import remember_faults
from storage.genesis import storage_genesis
from storage.identifiers import COLUMNS_MAX, VERSION, RecordAddress, SeatIndex, SegmentId
from storage.ledger_audits import (
    announce_maintenance,
    first_epoch,
    report_findings,
    report_purge,
    turn_epoch,
)
from storage.ledger_batch import SegmentEvents
from storage.ledger_buckets import change_bucket
from storage.ledger_codes import show_broken_code, vouch_root
from storage.ledger_moves import replace_segment
from storage.ledger_objects import commit_objects, delete_entries
from storage.ledger_seats import approve_change, carry_out, is_due, propose_change
from storage.ledger_segments import complete_columns
from storage.ledger_tenants import TenantRun, change_tenant
from storage.membership import Membership, concerns_seats, placement_of, read_membership, schedule_of
from storage.moments import Moment, moment_of
from storage.moves import ReplaceSegment
from storage.outcomes import FailedEntry, FailedTransactionError, Outcome, outcomes_root
from storage.seat_changes import ApproveChange, ProposeChange, check_offer, offer_of
from storage.state import (
    CHAIN_KEY,
    OUTCOMES_KEY,
    ChainState,
    GrantState,
    MemoryState,
    ObjectName,
    OutcomesState,
    SeatState,
    StateOverlay,
    StateReader,
    TenantState,
    changed_objects,
    grant_key,
    seat_key,
    segment_key,
    tenant_key,
)
from storage.state_tree import TreeChange, root_of_tree, update
from storage.tenant_changes import OwnChange, SeatsChange
from storage.tenants import change_grant, check_sender, check_window, use_sequence
from storage.transactions import (
    Body,
    CommitObjects,
    CompleteColumns,
    DeleteEntries,
    Envelope,
    GrantClient,
    RevokeClient,
    SignedTransaction,
    decode_transaction,
    entries_of,
    transaction_id,
    transaction_sign_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consensus.blocks import Block
    from consensus.evidence import Evidence
    from consensus.genesis import Genesis
    from consensus.identifiers import PublicKey
    from consensus.members import MemberSet
    from consensus.quorum import FaultBudget
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from storage.genesis import StorageGenesis, StorageParameters
    from storage.placement import Placement

_CONDITION_BYTES: Final = frozenset({0, VERSION.max_length})


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerContext:
    """What the next block is run by: it follows from the state, and changes with the seats alone.

    Attributes:
        members: Of the next height.
        coding: The budget of the min(n, 9) holders of a segment; the members' own for up to nine seats.
        seats: Those of the next height, in order.
        placement: Which seats exist when.
        schedule: Who agrees on the heights up to two above the last block.
        membership: What the state says of the seats.
    """

    members: MemberSet
    coding: FaultBudget
    seats: tuple[SeatIndex, ...]
    parameters: StorageParameters
    placement: Placement
    schedule: MemberSchedule
    membership: Membership


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """All that a block changes, and what follows for shards and records.

    Attributes:
        values: State keys to put, None to delete.
        pages: Pages of the state tree to put, None to delete.
        committed_segments: Live since this block.
        freed_segments: Live no more, or never: holders delete their shards.
        added_records: Referenced since this block; whoever lacks one pulls it.
        erased_records: Given up by an entry: erased everywhere unless another entry refers to them.
        changed_objects: Of which some version was written, changed or deleted; whoever keeps an index looks at them.
    """

    height: Height
    values: Mapping[bytes, bytes | None]
    pages: Mapping[bytes, bytes | None]
    state_root: StateRoot
    outcomes: tuple[Outcome, ...] = ()
    committed_segments: tuple[SegmentId, ...] = ()
    freed_segments: tuple[SegmentId, ...] = ()
    added_records: tuple[RecordAddress, ...] = ()
    erased_records: tuple[RecordAddress, ...] = ()
    changed_objects: tuple[ObjectName, ...] = ()


def ledger_context(genesis: Genesis) -> LedgerContext:
    """Return the context of a chain's first block.

    Raises:
        RejectionError: BAD_GENESIS, or the reason why its application part cannot be read.
    """
    return context_at(_genesis_overlay(genesis), Height(0))


def context_at(reader: StateReader, height: Height) -> LedgerContext:
    """Return the context that follows from the state after the block of this height."""
    membership = read_membership(reader)
    schedule, placement = schedule_of(membership), placement_of(membership.seats)
    following = Height(height + 1)
    seats = placement.seats_at(following)
    return LedgerContext(
        members=schedule.members_at(following),
        coding=fault_budget(min(len(seats), COLUMNS_MAX)),
        seats=seats,
        parameters=membership.chain.parameters,
        placement=placement,
        schedule=schedule,
        membership=membership,
    )


def context_after(context: LedgerContext, reader: StateReader, change: StateChange) -> LedgerContext:
    """Return the context after a block, of which `reader` shows the state already."""
    return context_at(reader, change.height) if concerns_seats(change.values) else context


def genesis_state(genesis: Genesis) -> StateChange:
    """Return the state that a chain starts with, as a change of the empty state.

    Raises:
        RejectionError: BAD_GENESIS, or the reason why its application part cannot be read.
    """
    overlay = _genesis_overlay(genesis)
    tree = update(MemoryState(), overlay.changes)
    return StateChange(height=Height(0), values=overlay.changes, pages=tree.pages, state_root=tree.root)


def _genesis_overlay(genesis: Genesis) -> StateOverlay:
    part = storage_genesis(genesis)
    _check_genesis(genesis, part)
    overlay = StateOverlay(MemoryState())
    chain = ChainState(
        genesis_hash=genesis_members(genesis).genesis_hash, parameters=part.parameters, agreement=genesis.parameters
    )
    overlay.put(CHAIN_KEY, chain)
    overlay.put(EPOCH_KEY, first_epoch(chain.genesis_hash, genesis.time_ms, part.parameters.epoch_ms))
    for index, seat in enumerate(part.seats):
        occupied = SeatState(
            signing_key=genesis.members[index], seat=seat, opened=Height(0), joined=Height(0), closed=None
        )
        overlay.put(seat_key(SeatIndex(index)), occupied)
    for tenant in part.tenants:
        overlay.put(
            tenant_key(tenant.tenant),
            TenantState(
                public_key=tenant.public_key,
                home=tenant.home,
                quota_bytes=tenant.quota_bytes,
                grant_count=len(tenant.grants),
                bucket_count=0,
                entry_count=0,
                entry_bytes=0,
                segment_count=0,
                segment_bytes=0,
            ),
        )
        for grant in tenant.grants:
            overlay.put(grant_key(tenant.tenant, grant.public_key), GrantState(certificate=grant.certificate))
    return overlay


def check_transactions(
    context: LedgerContext, transactions: Sequence[bytes], check: SignatureCheck = check_signature
) -> None:
    """Refuse transactions that no block may hold (T6).

    Raises:
        RejectionError: OVERSIZED, MALFORMED, NOT_CANONICAL, BAD_SIGNATURE, BAD_TRANSACTION, DUPLICATE_TRANSACTION.
    """
    seen = {transaction_id(encoded) for encoded in transactions}
    if len(seen) != len(transactions):
        raise RejectionError(RejectionReason.DUPLICATE_TRANSACTION, "a block holds a transaction once")
    for encoded in transactions:
        check_transaction(context, encoded, check)


def check_transaction(
    context: LedgerContext, encoded: bytes, check: SignatureCheck = check_signature
) -> SignedTransaction:
    """Return a transaction that a block may hold, or raise RejectionError (T6)."""
    signed = decode_transaction(encoded)
    body = signed.envelope.body
    _check_form(body)
    offer = offer_of(body.change) if isinstance(body, ProposeChange) else None
    if offer is not None:
        check_offer(offer, context.members.genesis_hash, check)  # M5
    message = transaction_sign_bytes(signed.envelope, context.members.genesis_hash)
    check(signed.envelope.sender, message, signed.signature)
    return signed


def _check_form(body: Body) -> None:
    """Refuse what the types of a body cannot express (T6)."""
    conditions = list[bytes | None]()
    if isinstance(body, SetBucket):
        conditions.append(body.condition)
    if isinstance(body, CommitObjects):
        for _, entry in entries_of(body):
            conditions.append(entry.condition)
            is_marker = entry.details is not None and entry.details.kind is EntryKind.MARKER
            if is_marker and (entry.extents or (entry.details is not None and entry.details.lock is not None)):
                raise RejectionError(RejectionReason.BAD_TRANSACTION, "a marker has neither bytes nor a lock")
    if not all(condition is None or len(condition) in _CONDITION_BYTES for condition in conditions):
        raise RejectionError(RejectionReason.BAD_TRANSACTION, "a condition has 0 or 16 bytes")


def apply_block(context: LedgerContext, reader: StateReader, block: Block) -> StateChange:
    """Return what a valid block changes in the state that `reader` shows.

    Raises:
        RejectionError: A transaction cannot be read; check_transactions() would have refused it.
    """
    return apply_transactions(context, reader, moment_of(block), block.transactions, block.evidence)


def apply_transactions(
    context: LedgerContext,
    reader: StateReader,
    moment: Moment,
    transactions: Sequence[bytes],
    evidence: Sequence[Evidence] = (),
) -> StateChange:
    """Return what these transactions and this evidence change in a block of this moment."""
    height = moment.height
    overlay = StateOverlay(reader)
    turn_epoch(context, overlay, moment)
    is_carried_out = is_due(context.membership, height)
    if not transactions and not evidence and not overlay.changes and not is_carried_out:  # T16
        return StateChange(height=height, values={}, pages={}, state_root=root_of_tree(reader))
    remember_faults(overlay, height, evidence)
    events = _Events()
    outcomes = tuple(
        _run(context, overlay, replace(moment, index=index), encoded, events)
        for index, encoded in enumerate(transactions)
    )
    if transactions:
        overlay.put(OUTCOMES_KEY, OutcomesState(height=height, root=outcomes_root(outcomes)))
    if is_carried_out:
        carry_out(context.membership, overlay)
    tree = update(reader, overlay.changes)
    return _state_change(height, overlay, tree, outcomes, events)


@dataclass(slots=True)
class _Events:
    """What happened to segments and records in a block, in order of first mention; the last event counts."""

    segments: dict[SegmentId, None] = field(default_factory=dict[SegmentId, None])
    is_record_live: dict[RecordAddress, bool] = field(default_factory=dict[RecordAddress, bool])

    def extend(self, events: SegmentEvents) -> None:
        self.segments.update(dict.fromkeys(events.segments))
        self.is_record_live.update(events.is_record_live)


def _state_change(
    height: Height, overlay: StateOverlay, tree: TreeChange, outcomes: tuple[Outcome, ...], events: _Events
) -> StateChange:
    live = [s for s in events.segments if overlay.value(segment_key(s)) is not None]
    freed = [s for s in events.segments if overlay.value(segment_key(s)) is None]
    records = events.is_record_live.items()
    return StateChange(
        height=height,
        values=overlay.changes,
        pages=tree.pages,
        state_root=tree.root,
        outcomes=outcomes,
        committed_segments=tuple(s for s in live if overlay.below.value(segment_key(s)) is None),
        freed_segments=tuple(freed),
        added_records=tuple(address for address, is_live in records if is_live),
        erased_records=tuple(address for address, is_live in records if not is_live),
        changed_objects=changed_objects(overlay.changes),
    )


def _run(context: LedgerContext, overlay: StateOverlay, moment: Moment, encoded: bytes, events: _Events) -> Outcome:
    """Run one transaction and return what became of it."""
    envelope = decode_transaction(encoded).envelope
    name = transaction_id(encoded)
    try:
        check_sender(overlay, envelope, context.members)
        check_window(envelope, moment.height, context.parameters)
        use_sequence(overlay, envelope)
        attempt = StateOverlay(overlay)
        happened = SegmentEvents()
        failed = _execute(context, attempt, moment, envelope, happened)
    except FailedTransactionError as error:
        return Outcome(transaction=name, reason=error.reason, place=error.place, failed_entries=())
    overlay.changes.update(attempt.changes)
    events.extend(happened)
    return Outcome(transaction=name, reason=None, place=-1, failed_entries=failed)


def _execute(
    context: LedgerContext, overlay: StateOverlay, moment: Moment, envelope: Envelope, events: SegmentEvents
) -> tuple[FailedEntry, ...]:
    body = envelope.body
    if isinstance(body, OwnChange | SeatsChange):
        change_tenant(TenantRun(context, overlay, moment, envelope.sender, events), body)
        return ()
    match body:
        case CommitObjects():
            return commit_objects(context, overlay, moment, body, events)
        case DeleteEntries():
            return delete_entries(overlay, moment, body, events)
        case SetBucket() | DeleteBucket() | SetRetention() | ChangeTags() | ChangeRecords():
            return change_bucket(overlay, moment, body, events)
        case ReplaceSegment():
            return replace_segment(context, overlay, moment, body, events)
        case CompleteColumns():
            complete_columns(context, overlay, moment.height, body)
        case GrantClient() | RevokeClient():
            change_grant(overlay, body, events)
        case ReportFindings() | ReportPurge() | AnnounceMaintenance() | ShowBrokenCode() | VouchRoot():
            _note_duty(context, overlay, moment, envelope.sender, body)
        case ProposeChange():
            propose_change(context, overlay, moment.height, envelope.sender, body)
        case ApproveChange():
            approve_change(context, overlay, moment.height, envelope.sender, body)
        case _:
            assert_never(body)
    return ()


def _note_duty(
    context: LedgerContext, overlay: StateOverlay, moment: Moment, sender: PublicKey, body: SeatDuty | CodeDuty
) -> None:
    match body:
        case ShowBrokenCode():
            show_broken_code(overlay, moment, body)
        case VouchRoot():
            vouch_root(context, overlay, moment, sender, body)
        case ReportFindings():
            report_findings(context, overlay, moment, sender, body)
        case ReportPurge():
            report_purge(context, overlay, moment, sender, body)
        case AnnounceMaintenance():
            announce_maintenance(context, overlay, moment, sender, body)
        case _:
            assert_never(body)


def _check_genesis(genesis: Genesis, part: StorageGenesis) -> None:
    if len(part.seats) != len(genesis.members):
        detail = f"{len(part.seats)} seats, {len(genesis.members)} members"
        raise RejectionError(RejectionReason.BAD_GENESIS, detail)
    if len({tenant.tenant for tenant in part.tenants}) != len(part.tenants):
        raise RejectionError(RejectionReason.BAD_GENESIS, "a tenant stands in it twice")
    if any(len({grant.public_key for grant in tenant.grants}) != len(tenant.grants) for tenant in part.tenants):
        raise RejectionError(RejectionReason.BAD_GENESIS, "a client is granted twice")
