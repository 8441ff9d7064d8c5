"""Moves in the ledger: references change to a new segment, and nothing else does.

Rules
- T70. Only a seat moves bytes. The new segment's id is not live and never was; its k is n - u, and every one of its
  columns has a receipt (T9): the old columns go only once the new segment is sealed.
- T71. Its bytes are ranges of live segments of one tenant, none twice. r + 1 members vouch that they recomputed all its
  roots from those bytes, so one of them is honest: nobody else can tell, and no gateway need be believed. One bad
  voucher fails the transaction.
- T72. An entry moves if its version still has the record that the move names and all its bytes in the old segments lie
  within the ranges; else it fails alone. Version, record, retention and order stay: retained versions move too. A move
  that no entry follows fails.
- T73. Old segments are freed when nothing refers to them any more (T12).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from msgspec.structs import replace

from consensus.errors import RejectionError
from consensus.identifiers import MemberIndex
from storage.ledger_batch import Batch
from storage.ledger_segments import Brought, check_extent, new_segments
from storage.ledger_versions import change_version, find_version
from storage.moves import check_ranges, check_voucher, old_segments
from storage.outcomes import FailedEntry, FailedTransactionError, FailureReason
from storage.state import ObjectName, segment_key
from storage.transactions import StoredExtent

if TYPE_CHECKING:
    from storage.identifiers import SegmentId
    from storage.ledger_batch import SegmentEvents
    from storage.ledger_segments import CodingRules
    from storage.moments import Moment
    from storage.moves import Move, MovedEntry, ReplaceSegment
    from storage.state import StateOverlay


def replace_segment(
    rules: CodingRules, overlay: StateOverlay, moment: Moment, body: ReplaceSegment, events: SegmentEvents
) -> tuple[FailedEntry, ...]:
    """Move references; returns the entries that failed alone, raises FailedTransactionError when nothing moves."""
    move = body.move
    _check_move(rules, overlay, body)
    brought = Brought(tenant=move.tenant, segments=(move,), receipts=body.receipts)
    (state,) = new_segments(rules, overlay, moment.height, brought)
    if move.k != rules.coding.quorum:
        raise FailedTransactionError(FailureReason.WRONG_K)
    if len(state.columns) < rules.coding.members:
        raise FailedTransactionError(FailureReason.TOO_FEW_RECEIPTS)
    batch = Batch(overlay=overlay, tenant=move.tenant, moment=moment, events=events)
    batch.segment_count, batch.segment_bytes = 1, move.segment_bytes
    overlay.put(segment_key(move.segment_id), state)
    events.segments.append(move.segment_id)
    places = MovedPlaces(move)
    failed = list[FailedEntry]()
    for index, entry in enumerate(body.entries):
        try:
            _move_entry(batch, places, entry)
        except FailedTransactionError as error:
            failed.append(FailedEntry(index=index, reason=error.reason))
    if len(failed) == len(body.entries):
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    batch.settle(also=(move.segment_id,))
    return tuple(failed)


class MovedPlaces:
    """Where the bytes of the old segments stand in the new one."""

    def __init__(self, move: Move) -> None:
        """Look at a move whose ranges were checked."""
        self._segment_id = move.segment_id
        self._starts: dict[SegmentId, list[tuple[int, int, int]]] = {name: [] for name in old_segments(move.ranges)}
        start = 0
        for part in move.ranges:
            self._starts[part.segment_id].append((part.offset, part.offset + part.range_bytes, start))
            start += part.range_bytes
        for ranges in self._starts.values():
            ranges.sort()

    def moved(self, extent: StoredExtent) -> StoredExtent:
        """Return where an extent lies now; itself when its segment is none of the old ones.

        Raises:
            FailedTransactionError: EXTENT_OUTSIDE; part of it stays behind.
        """
        ranges = self._starts.get(extent.segment_id)
        if ranges is None:
            return extent
        position = bisect_right(ranges, extent.offset, key=lambda part: part[0]) - 1
        if position < 0 or extent.offset + extent.extent_bytes > ranges[position][1]:
            raise FailedTransactionError(FailureReason.EXTENT_OUTSIDE)
        first, _, start = ranges[position]
        return StoredExtent(
            segment_id=self._segment_id, offset=start + extent.offset - first, extent_bytes=extent.extent_bytes
        )


def _check_move(rules: CodingRules, overlay: StateOverlay, body: ReplaceSegment) -> None:
    """Refuse ranges that are not there, and words that members did not give (T71)."""
    move = body.move
    try:
        check_ranges(move)
    except RejectionError as error:
        raise FailedTransactionError(FailureReason.EXTENT_OUTSIDE) from error
    for part in move.ranges:
        extent = StoredExtent(segment_id=part.segment_id, offset=part.offset, extent_bytes=part.range_bytes)
        check_extent(overlay, move.tenant, extent)
    if len({voucher.seat for voucher in body.vouchers}) != len(body.vouchers):
        raise FailedTransactionError(FailureReason.BAD_VOUCHER)
    for place, voucher in enumerate(body.vouchers):
        try:
            public_key = rules.members.public_key(MemberIndex(voucher.seat))
            check_voucher(voucher, rules.members.genesis_hash, move, public_key)
        except RejectionError as error:
            raise FailedTransactionError(FailureReason.BAD_VOUCHER, place) from error
    if len(body.vouchers) < rules.members.budget.weak_quorum:
        raise FailedTransactionError(FailureReason.TOO_FEW_VOUCHERS)


def _move_entry(batch: Batch, places: MovedPlaces, entry: MovedEntry) -> None:
    """Move one version's references or raise FailedTransactionError, which fails this entry alone (T72)."""
    place = ObjectName(batch.tenant, entry.bucket_tag, entry.name_tag)
    found = find_version(batch.overlay, place, entry.version_id)
    if found is None:
        raise FailedTransactionError(FailureReason.ENTRY_UNKNOWN)
    if (found.version_id, found.record_address) != (entry.version_id, entry.record_address):
        raise FailedTransactionError(FailureReason.VERSION_CHANGED)
    extents = tuple(places.moved(extent) for extent in found.extents)
    if extents == found.extents:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    for old, new in zip(found.extents, extents, strict=True):
        batch.references[old.segment_id] -= 1
        batch.references[new.segment_id] += 1
    change_version(batch.overlay, place, replace(found, extents=extents))
