"""Roots that are no codeword are proven by leaves or mended by r + 1 members; two liars replace none."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from consensus.identifiers import Height
from storage.broken_codes import (
    VOTE_HEIGHTS,
    BrokenCodeState,
    ShowBrokenCode,
    ShownLeaf,
    VouchRoot,
    broken_code_key,
    column_set,
)
from storage.identifiers import LEAF_BYTES, ColumnIndex, SeatIndex, ShardRoot
from storage.ledger_codes import pending_roots
from storage.merkle import leaf_hashes, prove, root_of
from storage.outcomes import FailureReason
from storage.placement import column_seats
from storage.segments import code_segment
from storage.state import SegmentState, read_state, segment_key
from storage.transactions import CompleteColumns, DeleteEntries, EntryName, Extent, SegmentCommit
from tests.storage.ledger_world import BUCKET, TENANT, World, entry, name_tag, segment_id

SEGMENT_BYTES = 200_000
"""Three leaves a column."""
ODD = ColumnIndex(7)


@dataclass
class Site:
    """A segment whose column 7 does not belong to the others: its second leaf is other bytes."""

    world: World = field(default_factory=lambda: World(seats=9))

    def __post_init__(self) -> None:
        coded = code_segment(random.Random(1).randbytes(SEGMENT_BYTES), 6)
        self.right = ShardRoot(coded.roots[ODD])
        self.shards = [bytearray(shard) for shard in coded.shards]
        self.shards[ODD][LEAF_BYTES + 5] ^= 1
        roots = tuple(root_of(leaf_hashes(shard)) for shard in self.shards)
        self.segment = SegmentCommit(segment_id=segment_id("broken"), k=6, segment_bytes=SEGMENT_BYTES, roots=roots)
        self.holder = column_seats(self.segment.segment_id, self.world.context.seats)[ODD]

    def commit(self, *, without_holder: bool) -> None:
        seats = [seat for seat in range(9) if seat != self.holder or not without_holder]
        receipts = tuple(self.world.receipt(seat, (self.segment,)) for seat in seats)
        named = entry("name", Extent(segment=0, extent_bytes=9))
        assert self.world.run(self.world.commit((self.segment,), named, receipts=receipts)).reason is None

    def shown(self, position: int, columns: tuple[int, ...] = (0, 1, 2, 3, 4, 5, ODD)) -> ShowBrokenCode:
        leaves: list[ShownLeaf] = []
        for column in columns:
            shard = self.shards[column]
            leaf = bytes(shard[position * LEAF_BYTES : (position + 1) * LEAF_BYTES])
            path = prove(leaf_hashes(shard), position, 1)
            leaves.append(ShownLeaf(column=ColumnIndex(column), leaf=leaf, path=path))
        return ShowBrokenCode(segment_id=self.segment.segment_id, position=position, leaves=tuple(leaves))

    def show(self, body: ShowBrokenCode) -> FailureReason | None:
        return self.world.run(body, sender="seat 1").reason

    def vouch(
        self,
        seat: int,
        root: ShardRoot | None = None,
        *,
        column: int = ODD,
        from_columns: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    ) -> FailureReason | None:
        body = VouchRoot(
            segment_id=self.segment.segment_id,
            column=ColumnIndex(column),
            root=root or self.right,
            from_columns=column_set([ColumnIndex(each) for each in from_columns]),
        )
        return self.world.run(body, sender=f"seat {seat}").reason

    @property
    def state(self) -> SegmentState:
        state = read_state(self.world.state, segment_key(self.segment.segment_id), SegmentState)
        assert state is not None
        return state

    @property
    def blame(self) -> BrokenCodeState | None:
        return read_state(self.world.state, broken_code_key(self.segment.segment_id), BrokenCodeState)


@pytest.fixture
def site() -> Site:
    return Site()


def test_leaves_of_one_position_prove_that_receipted_roots_are_no_codeword(site: Site) -> None:
    site.commit(without_holder=False)
    committed = site.world.tip.height
    assert site.show(site.shown(0)) is FailureReason.CODE_IS_WHOLE, "there the columns agree"
    assert site.show(site.shown(1)) is None
    assert site.blame == BrokenCodeState(committed_height=committed, proven_height=site.world.tip.height, replaced=())
    assert site.state.columns == tuple(range(9)), "no holder is blamed"
    assert site.show(site.shown(1)) is FailureReason.NOTHING_TO_DO


def test_any_k_columns_and_one_more_do(site: Site) -> None:
    site.commit(without_holder=False)
    assert site.show(site.shown(1, (0, 1, 2, 3, 4, 5, 6))) is FailureReason.CODE_IS_WHOLE, "without the odd one"
    assert site.show(site.shown(1, (0, 2, 4, 5, 6, ODD, 8))) is None


def test_leaves_that_prove_nothing_are_refused(site: Site) -> None:
    site.commit(without_holder=False)
    good = site.shown(1)
    forged = ShownLeaf(column=good.leaves[0].column, leaf=bytes(LEAF_BYTES), path=good.leaves[0].path)
    cases = {
        ShowBrokenCode(
            segment_id=good.segment_id, position=1, leaves=(forged, *good.leaves[1:])
        ): FailureReason.BAD_LEAF,
        ShowBrokenCode(segment_id=good.segment_id, position=2, leaves=good.leaves): FailureReason.BAD_LEAF,
        ShowBrokenCode(segment_id=good.segment_id, position=1, leaves=good.leaves[1:]): FailureReason.CODE_IS_WHOLE,
        ShowBrokenCode(segment_id=good.segment_id, position=9, leaves=good.leaves): FailureReason.CODE_IS_WHOLE,
        ShowBrokenCode(segment_id=good.segment_id, position=1, leaves=good.leaves[::-1]): FailureReason.CODE_IS_WHOLE,
        ShowBrokenCode(segment_id=segment_id("none"), position=1, leaves=good.leaves): FailureReason.SEGMENT_UNKNOWN,
    }
    for body, reason in cases.items():
        assert site.show(body) is reason
    assert site.world.run(good, sender="client").reason is FailureReason.NOT_GRANTED
    assert site.blame is None


def test_three_members_replace_the_root_of_a_column_that_nobody_receipted(site: Site) -> None:
    site.commit(without_holder=True)
    committed = site.world.tip.height
    assert [site.vouch(seat) for seat in (0, 1)] == [None, None]
    assert site.state.roots[ODD] != site.right, "two are not enough"
    assert site.vouch(1) is None, "once more is once"
    assert site.state.roots[ODD] != site.right
    assert site.vouch(2) is None
    assert site.state.roots[ODD] == site.right
    assert site.blame == BrokenCodeState(
        committed_height=committed, proven_height=site.world.tip.height, replaced=(ODD,)
    )
    assert pending_roots(site.world.state) == ()
    mended = SegmentCommit(segment_id=site.segment.segment_id, k=6, segment_bytes=SEGMENT_BYTES, roots=site.state.roots)
    receipt = site.world.receipt(site.holder, (mended,))
    body = CompleteColumns(tenant=TENANT, segment_ids=(mended.segment_id,), receipts=(receipt,))
    assert site.world.run(body, sender=f"seat {site.holder}").reason is None
    assert ODD in site.state.columns


def test_two_liars_replace_no_root(site: Site) -> None:
    site.commit(without_holder=True)
    lie = ShardRoot(bytes(32))
    assert [site.vouch(seat, lie) for seat in (3, 4)] == [None, None]
    assert [site.vouch(seat) for seat in (0, 1)] == [None, None]
    assert site.state.roots[ODD] not in {lie, site.right}
    assert site.vouch(2) is None
    assert site.state.roots[ODD] == site.right


def test_only_an_open_column_recomputed_from_the_lowest_is_voted_on(site: Site) -> None:
    site.commit(without_holder=True)
    other = ShardRoot(bytes(32))
    assert site.vouch(0, other, column=0) is FailureReason.NOTHING_TO_DO, "it has a receipt"
    assert site.vouch(0, site.state.roots[ODD]) is FailureReason.NOTHING_TO_DO, "it is the committed one"
    assert site.vouch(0, from_columns=(0, 1, 2, 3, 4, 6)) is FailureReason.NOTHING_TO_DO
    body = VouchRoot(segment_id=site.segment.segment_id, column=ODD, root=site.right, from_columns=0b111111)
    assert site.world.run(body, sender="client").reason is FailureReason.NOT_GRANTED


def test_votes_leave_with_their_segment_or_their_time(site: Site) -> None:
    site.commit(without_holder=True)
    assert site.vouch(0) is None
    (pending,) = pending_roots(site.world.state)
    assert (pending.column, [vote.seat for vote in pending.votes]) == (ODD, [SeatIndex(0)])
    name = EntryName(bucket_tag=BUCKET, name_tag=name_tag("name"), version_id=None)
    assert site.world.run(DeleteEntries(tenant=TENANT, entries=(name,))).reason is None
    assert site.vouch(1) is FailureReason.SEGMENT_UNKNOWN
    late = Site()
    late.commit(without_holder=True)
    assert late.vouch(0) is None
    assert late.vouch(1) is None
    for _ in range(3):
        late.world.apply()
    late.world.tip = late.world.tip.__class__(
        height=Height(late.world.tip.height + VOTE_HEIGHTS),
        block_hash=late.world.tip.block_hash,
        time_ms=late.world.tip.time_ms,
        state_root=late.world.tip.state_root,
        last=None,
        turns=late.world.tip.turns,
    )
    assert late.world.apply(late.world.transaction(_vote(late), sender="seat 2", valid_until=10**6 // 400)).outcomes
    assert late.state.roots[ODD] != late.right, "the first two were forgotten"


def _vote(site: Site) -> VouchRoot:
    return VouchRoot(segment_id=site.segment.segment_id, column=ODD, root=site.right, from_columns=0b111111)
