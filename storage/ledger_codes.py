"""Roots that are no codeword, in the ledger.

Rules
- T64. Leaves of k + 1 columns of a live segment at one position, each under its root, of which k do not give the other,
  prove that the roots are no codeword; the fact stays in the state, with the height of the commit that is to blame.
- T65. r + 1 members who have recomputed a column without a receipt from the k lowest receipted columns, and found the
  same root, replace it. A vote counts while those are the k lowest; a seat's later vote replaces its earlier one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from storage.broken_codes import (
    PENDING_ROOTS_MAX,
    ROOT_VOTES_KEY,
    VOTE_HEIGHTS,
    BrokenCodeState,
    PendingRoot,
    RootVote,
    RootVotesState,
    broken_code_key,
    column_set,
    is_broken,
    lowest_columns,
)
from storage.errors import ShardCorruptError
from storage.identifiers import ColumnIndex, SeatIndex
from storage.outcomes import FailedTransactionError, FailureReason
from storage.state import SegmentState, StateOverlay, StateReader, read_state, segment_key

if TYPE_CHECKING:
    from consensus.identifiers import Height, PublicKey
    from consensus.members import MemberSet
    from storage.broken_codes import ShowBrokenCode, VouchRoot
    from storage.moments import Moment
    from storage.placement import Placement


class CodeRules(Protocol):
    """What of a ledger's context the rules of broken codes need."""

    @property
    def members(self) -> MemberSet:
        """Return who vouches."""
        ...

    @property
    def placement(self) -> Placement:
        """Return which seats exist when."""
        ...


def show_broken_code(overlay: StateOverlay, moment: Moment, body: ShowBrokenCode) -> None:
    """Note that a segment's roots are no codeword (T64) or raise FailedTransactionError."""
    state = _live_segment(overlay, body)
    if overlay.value(broken_code_key(body.segment_id)) is not None:
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    try:
        is_proven = is_broken(state, body)
    except ShardCorruptError as error:
        raise FailedTransactionError(FailureReason.BAD_LEAF) from error
    if not is_proven:
        raise FailedTransactionError(FailureReason.CODE_IS_WHOLE)
    _remember(overlay, moment, body, state, replaced=())


def vouch_root(rules: CodeRules, overlay: StateOverlay, moment: Moment, sender: PublicKey, body: VouchRoot) -> None:
    """Count a member's vote for a column's root, and replace it with r + 1 (T65), or raise FailedTransactionError."""
    state = _live_segment(overlay, body)
    counted = rules.placement.counted_columns(body.segment_id, state, moment.height)
    lowest = lowest_columns(state, counted)
    is_open = body.column < len(state.roots) and body.column not in counted and body.root != state.roots[body.column]
    if not is_open or len(lowest) < state.k or body.from_columns != column_set(lowest):
        raise FailedTransactionError(FailureReason.NOTHING_TO_DO)
    member = rules.members.index_of(sender)
    assert member is not None, "check_sender() admits members only"
    place = body.segment_id, body.column
    pending = [root for root in _pending(overlay, moment.height) if (root.segment_id, root.column) != place]
    known = [root for root in _pending(overlay, moment.height) if (root.segment_id, root.column) == place]
    votes = _votes_with(known, body, SeatIndex(member))
    if sum(vote.root == body.root for vote in votes) >= rules.members.budget.weak_quorum:
        roots = (*state.roots[: body.column], body.root, *state.roots[body.column + 1 :])
        overlay.put(segment_key(body.segment_id), structs.replace(state, roots=roots))
        _remember(overlay, moment, body, state, replaced=(body.column,))
    elif len(pending) >= PENDING_ROOTS_MAX:
        raise FailedTransactionError(FailureReason.TOO_MANY_ROOTS)
    else:
        since = known[0].since if known else moment.height
        pending.append(
            PendingRoot(
                segment_id=body.segment_id,
                column=body.column,
                from_columns=body.from_columns,
                since=since,
                votes=votes,
            )
        )
    overlay.put(ROOT_VOTES_KEY, RootVotesState(pending=tuple(pending)))


def pending_roots(reader: StateReader) -> tuple[PendingRoot, ...]:
    """Return what members have vouched for and too few so far."""
    state = read_state(reader, ROOT_VOTES_KEY, RootVotesState)
    return () if state is None else state.pending


def _pending(overlay: StateOverlay, height: Height) -> list[PendingRoot]:
    """Return the votes that are neither too old nor about a freed segment."""
    return [
        root
        for root in pending_roots(overlay)
        if height - root.since <= VOTE_HEIGHTS and overlay.value(segment_key(root.segment_id)) is not None
    ]


def _votes_with(known: list[PendingRoot], body: VouchRoot, seat: SeatIndex) -> tuple[RootVote, ...]:
    """Return the votes with a new one; those from other columns count no more."""
    before = [vote for root in known if root.from_columns == body.from_columns for vote in root.votes]
    others = [vote for vote in before if vote.seat != seat]
    return tuple(sorted((*others, RootVote(seat=seat, root=body.root)), key=lambda vote: vote.seat))


def _live_segment(reader: StateReader, body: ShowBrokenCode | VouchRoot) -> SegmentState:
    state = read_state(reader, segment_key(body.segment_id), SegmentState)
    if state is None:
        raise FailedTransactionError(FailureReason.SEGMENT_UNKNOWN)
    return state


def _remember(
    overlay: StateOverlay,
    moment: Moment,
    body: ShowBrokenCode | VouchRoot,
    state: SegmentState,
    *,
    replaced: tuple[ColumnIndex, ...],
) -> None:
    known = read_state(overlay, broken_code_key(body.segment_id), BrokenCodeState)
    before = () if known is None else known.replaced
    overlay.put(
        broken_code_key(body.segment_id),
        BrokenCodeState(
            committed_height=state.height,
            proven_height=moment.height if known is None else known.proven_height,
            replaced=tuple(sorted({*before, *replaced})),
        ),
    )
