"""Proof of possession: who asks whom for which leaves, and what follows from the answers. Pure.

Rules
- S60 Lot. In each epoch r + 1 verifiers ask each seat: the others in order of H(seed, subject, seat), those that were
  silent in the epoch before last. The seed is the hash of the certificate that the epoch's first block embeds.
- S61 Leaves. A verifier draws 32 fresh bytes when the epoch has begun and tells them only with its findings. Leaf i is
  H(seed, those bytes, subject, i) mod all leaves that the subject has vouched for: neither the subject, nor a signer
  of the certificate, nor a proposer can know or choose it.
- S62 Strata. 90 leaves over everything, and 4 of each tenant's besides: 90 miss a loss of a tenth with probability
  0.9^90 = 0.00008, and a tenant whose data is gone is found at once, however small it is. At most 4,096: with more than
  1,001 tenants they take turns, by a hash of their handles, each at least once a day.
- S63 Verdict. Failed with r + 1 signers, so with one honest; proved with r + 1 and none against. Anything between is a
  disagreement: in the next epoch all other seats ask, new leaves and those in dispute, and again r + 1 decide either
  way. With fewer reports nothing is said. So r colluding verifiers neither convict nor acquit.
- S64 Score. Of 1,000: an epoch proved takes back a 64th of what is missing, one failed a fourth of what is there.

Limits: it proves that the bytes can be had in time, not where they lie. A seat that fetches leaves from others' columns
when asked passes, at the price of k leaves of traffic for each, which the others serve.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

from consensus.signing import Domain, domain_hash
from storage.audits import LEAVES_ASKED_MAX, SCORE_MAX, Failed, Passed
from storage.identifiers import ColumnIndex, SeatIndex, SegmentId, ShardRoot, TenantId
from storage.segments import SegmentShape

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from consensus.identifiers import Height
    from storage.placement import Placement
    from storage.state import SegmentState

LEAVES_OVERALL: Final = 90
LEAVES_PER_TENANT: Final = 4
TENANTS_AT_ONCE: Final = (LEAVES_ASKED_MAX - LEAVES_OVERALL) // LEAVES_PER_TENANT
"""1,001."""
TURNS_MAX: Final = 144
"""Epochs of ten minutes in a day: with more tenants than this allows, each gets fewer leaves instead."""
RECOVERY_SHARE: Final = 64
FAILURE_SHARE: Final = 4


class Verdict(StrEnum):
    """What an epoch says of a seat."""

    PROVED = "proved"
    FAILED = "failed"
    DISPUTED = "disputed"
    UNPROVEN = "unproven"


class Askers(Enum):
    """Who asks a seat in an epoch (S60, S63)."""

    LOT = "those whom the lot names"
    ALL_OTHERS = "all other seats, since the lot's had disagreed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A column that a seat has vouched for on chain."""

    segment_id: SegmentId
    tenant: TenantId
    column: ColumnIndex
    root: ShardRoot
    shard_bytes: int
    leaves: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One leaf to ask for, and what its proof must lead to."""

    segment_id: SegmentId
    column: ColumnIndex
    leaf: int
    root: ShardRoot
    shard_bytes: int


@dataclass(slots=True)
class Census:
    """How many leaves a seat has vouched for, by tenant."""

    leaves: Counter[TenantId] = field(default_factory=Counter["TenantId"])

    def add(self, holding: Holding) -> None:
        """Count a column."""
        self.leaves[holding.tenant] += holding.leaves

    @property
    def total(self) -> int:
        """Return all leaves."""
        return self.leaves.total()


@dataclass(frozen=True, slots=True)
class Draw:
    """The places of the leaves to ask for, ascending: among all leaves, and among each tenant's."""

    overall: tuple[int, ...]
    by_tenant: Mapping[TenantId, tuple[int, ...]]


def verifiers_of(
    subject: SeatIndex, seats: Collection[SeatIndex], seed: bytes, count: int, silent: Collection[SeatIndex]
) -> tuple[SeatIndex, ...]:
    """Return who asks a seat in an epoch (S60), in order of seat."""
    others = [seat for seat in seats if seat != subject]
    ranked = sorted(others, key=lambda seat: (seat in silent, _lot(seed, subject, seat)))
    return tuple(sorted(ranked[:count]))


def holding_of(
    segment_id: SegmentId, state: SegmentState, subject: SeatIndex, placement: Placement, at: Height
) -> Holding | None:
    """Return the column of a segment that a seat's occupant of this height has vouched for, None when it has not."""
    column = placement.seat_column(segment_id, subject, state.height, at)
    if column is None or column not in placement.counted_columns(segment_id, state, at):
        return None
    shape = SegmentShape(state.segment_bytes, state.k, len(state.roots))
    return Holding(
        segment_id=segment_id,
        tenant=state.tenant,
        column=column,
        root=state.roots[column],
        shard_bytes=shape.shard_bytes,
        leaves=shape.leaves,
    )


def draw_leaves(census: Census, *, seed: bytes, nonce: bytes, subject: SeatIndex, epoch: int) -> Draw:
    """Return which leaves to ask for (S61, S62)."""
    prefix = seed + nonce + bytes((subject,))
    overall = _places(prefix, LEAVES_OVERALL, census.total)
    due, per_tenant = tenants_due(sorted(census.leaves), epoch)
    by_tenant = {tenant: _places(prefix + tenant, per_tenant, census.leaves[tenant]) for tenant in due}
    return Draw(overall, by_tenant)


def tenants_due(tenants: Sequence[TenantId], epoch: int) -> tuple[tuple[TenantId, ...], int]:
    """Return the tenants whose turn it is in an epoch, and how many leaves each gets (S62)."""
    turns = min(-(-len(tenants) // TENANTS_AT_ONCE), TURNS_MAX)
    if turns <= 1:
        return tuple(tenants), LEAVES_PER_TENANT
    due = tuple(tenant for tenant in tenants if _turn(tenant) % turns == epoch % turns)
    stratified_max = LEAVES_ASKED_MAX - LEAVES_OVERALL
    return due[:stratified_max], max(1, min(LEAVES_PER_TENANT, stratified_max // max(len(due), 1)))


class Picker:
    """A walk over a seat's holdings, in the census's order, that meets the drawn leaves."""

    def __init__(self, draw: Draw) -> None:
        self._overall = _Walk(draw.overall)
        self._by_tenant = {tenant: _Walk(places) for tenant, places in draw.by_tenant.items()}

    def meet(self, holding: Holding) -> Iterator[Question]:
        """Yield the drawn leaves of the next column."""
        leaves = set(self._overall.step(holding.leaves))
        if holding.tenant in self._by_tenant:
            leaves.update(self._by_tenant[holding.tenant].step(holding.leaves))
        return (question_of(holding, leaf) for leaf in sorted(leaves))


def question_of(holding: Holding, leaf: int) -> Question:
    """Return the question for one leaf of a column."""
    assert 0 <= leaf < holding.leaves, f"leaf {leaf} of {holding.leaves}"
    return Question(
        segment_id=holding.segment_id,
        column=holding.column,
        leaf=leaf,
        root=holding.root,
        shard_bytes=holding.shard_bytes,
    )


def judge(findings: Collection[Passed | Failed], weak_quorum: int, askers: Askers) -> Verdict:
    """Return what findings say of a seat (S63).

    Args:
        findings: One a verifier.
        weak_quorum: r + 1.
        askers: Who was to ask.
    """
    failed = sum(isinstance(finding, Failed) for finding in findings)
    passed = len(findings) - failed
    if failed >= weak_quorum:
        return Verdict.FAILED
    if failed == 0 or (askers is Askers.ALL_OTHERS and passed >= weak_quorum):
        return Verdict.PROVED if passed >= weak_quorum else Verdict.UNPROVEN
    return Verdict.DISPUTED


def score_after(score: int, verdict: Verdict) -> int:
    """Return a score after an epoch (S64)."""
    match verdict:
        case Verdict.PROVED:
            return score + -(-(SCORE_MAX - score) // RECOVERY_SHARE)
        case Verdict.FAILED:
            return score - -(-score // FAILURE_SHARE)
        case Verdict.DISPUTED | Verdict.UNPROVEN:
            return score


@dataclass(slots=True)
class _Walk:
    """Drawn places met while leaves are counted, column by column."""

    places: tuple[int, ...]
    met: int = 0
    before: int = 0

    def step(self, leaves: int) -> list[int]:
        """Return which leaves of the next column were drawn."""
        first = self.met
        while self.met < len(self.places) and self.places[self.met] < self.before + leaves:
            self.met += 1
        found = [place - self.before for place in self.places[first : self.met]]
        self.before += leaves
        return found


def _places(prefix: bytes, count: int, total: int) -> tuple[int, ...]:
    """Return up to `count` places below total, ascending; 256 bits mod total are even to within 2^-190."""
    if total == 0:
        return ()
    draws = (domain_hash(Domain.LEAF_LOT, prefix + i.to_bytes(4, "big")) for i in range(count))
    return tuple(sorted({int.from_bytes(drawn, "big") % total for drawn in draws}))


def _turn(tenant: TenantId) -> int:
    return int.from_bytes(domain_hash(Domain.LEAF_LOT, tenant)[:8], "big")


def _lot(seed: bytes, subject: SeatIndex, seat: SeatIndex) -> bytes:
    return domain_hash(Domain.VERIFIER_LOT, seed + bytes((subject, seat)))
