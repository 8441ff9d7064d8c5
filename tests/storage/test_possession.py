"""Who asks whom for which leaves: lots nobody steers, strata nobody escapes, verdicts no two liars can give."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.quorum import fault_budget
from storage.audits import LEAVES_ASKED_MAX, SCORE_MAX, AskedLeaf, Failed, FailureKind, Passed
from storage.identifiers import ColumnIndex, SeatIndex, SegmentId, ShardRoot, TenantId
from storage.possession import (
    LEAVES_OVERALL,
    LEAVES_PER_TENANT,
    TENANTS_AT_ONCE,
    Askers,
    Census,
    Draw,
    Holding,
    Picker,
    Question,
    Verdict,
    draw_leaves,
    judge,
    score_after,
    tenants_due,
    verifiers_of,
)

NINE = tuple(SeatIndex(seat) for seat in range(9))
SUBJECT = SeatIndex(4)
LEAF = AskedLeaf(segment_id=SegmentId(bytes(32)), leaf=0)
PASSED = Passed(leaves=90)
FAILED = Failed(leaves=90, failures=1, reason=FailureKind.MISSING, leaf=LEAF)


def digest(*words: object) -> bytes:
    return hashlib.sha256(repr(words).encode()).digest()


def tenant(number: int) -> TenantId:
    return TenantId(digest("tenant", number)[:16])


def holding(number: int, owner: int = 0, leaves: int = 100) -> Holding:
    return Holding(
        segment_id=SegmentId(digest("segment", number)),
        tenant=tenant(owner),
        column=ColumnIndex(0),
        root=ShardRoot(bytes(32)),
        shard_bytes=leaves * 16_384,
        leaves=leaves,
    )


def census_of(holdings: Sequence[Holding]) -> Census:
    census = Census()
    for each in holdings:
        census.add(each)
    return census


def picked(holdings: Sequence[Holding], draw: Draw) -> list[Question]:
    picker = Picker(draw)
    return [question for holding in holdings for question in picker.meet(holding)]


def asked(holdings: Sequence[Holding], *, epoch: int = 0, verifier: int = 0) -> list[Question]:
    """What one verifier asks; its 32 bytes are as fresh as the test's numbers."""
    draw = draw_leaves(
        census_of(holdings),
        seed=digest("seed", epoch),
        nonce=digest("nonce", epoch, verifier),
        subject=SUBJECT,
        epoch=epoch,
    )
    return picked(holdings, draw)


def test_a_lot_is_three_others_and_changes_with_the_seed() -> None:
    lots = [verifiers_of(SUBJECT, NINE, digest(epoch), 3, ()) for epoch in range(400)]
    assert all(len(set(lot)) == 3 and SUBJECT not in lot for lot in lots)
    drawn = Counter(seat for lot in lots for seat in lot)
    assert set(drawn) == set(NINE) - {SUBJECT}
    assert max(drawn.values()) < 1.4 * min(drawn.values()), "every seat equally often, within chance"


def test_the_silent_are_drawn_last() -> None:
    silent = (SeatIndex(0), SeatIndex(1), SeatIndex(2))
    lots = [verifiers_of(SUBJECT, NINE, digest(epoch), 3, silent) for epoch in range(50)]
    assert all(set(lot).isdisjoint(silent) for lot in lots)
    assert SeatIndex(3) in verifiers_of(SUBJECT, NINE[:5], digest(0), 3, silent), "the only one that speaks"


def test_leaves_follow_from_seed_nonce_and_subject_alone() -> None:
    census = census_of([holding(number) for number in range(50)])

    def drawn(seed: bytes, nonce: bytes, subject: int) -> Draw:
        return draw_leaves(census, seed=seed, nonce=nonce, subject=SeatIndex(subject), epoch=1)

    draws = [drawn(digest(s), digest("n", n), subject) for s, n, subject in product(range(3), range(3), range(3))]
    assert len({draw.overall for draw in draws}) == len(draws)
    assert drawn(digest(0), digest("n", 0), 0) == draws[0]


def test_the_walk_meets_just_the_drawn_places() -> None:
    choice = random.Random(1)
    holdings = [holding(number, choice.randrange(5), choice.randint(1, 9)) for number in range(200)]
    places = [(each, leaf) for each in holdings for leaf in range(each.leaves)]
    draw = draw_leaves(census_of(holdings), seed=digest(1), nonce=digest(2), subject=SUBJECT, epoch=3)
    wanted = {(places[place][0].segment_id, places[place][1]) for place in draw.overall}
    for owner, chosen in draw.by_tenant.items():
        own = [place for place in places if place[0].tenant == owner]
        wanted |= {(own[place][0].segment_id, own[place][1]) for place in chosen}
    found = [(question.segment_id, question.leaf) for question in picked(holdings, draw)]
    assert set(found) == wanted
    assert len(found) == len(wanted), "each once"


def test_every_leaf_is_as_likely_as_another() -> None:
    holdings = [holding(number, leaves=10) for number in range(20)]
    drawn = Counter(
        (question.segment_id, question.leaf) for epoch in range(600) for question in asked(holdings, epoch=epoch)
    )
    assert len(drawn) == 200
    mean = drawn.total() / 200
    spread = sum((count - mean) ** 2 for count in drawn.values()) / mean
    assert spread < 280, "chi-squared with 199 degrees of freedom passes 280 once in 10,000"


def test_nothing_held_is_nothing_asked() -> None:
    assert asked([]) == []


# --- what a loss cannot escape -------------------------------------------------------------------------------------


def found_out(holdings: Sequence[Holding], dropped: frozenset[tuple[SegmentId, int]], *, epoch: int) -> int:
    """Return how many of an epoch's three verifiers ask for a leaf that is gone."""
    return sum(
        any((question.segment_id, question.leaf) in dropped for question in asked(holdings, epoch=epoch, verifier=v))
        for v in range(3)
    )


def dropped_share(holdings: Sequence[Holding], share: float, seed: int) -> frozenset[tuple[SegmentId, int]]:
    places = [(each.segment_id, leaf) for each in holdings for leaf in range(each.leaves)]
    return frozenset(random.Random(seed).sample(places, round(share * len(places))))


def test_a_tenth_dropped_is_caught_in_one_epoch() -> None:
    """Each verifier alone misses it with probability 0.9^90 < 0.0001: measured where the same law is visible."""
    assert 0.9**LEAVES_OVERALL < 0.0001
    holdings = [holding(number) for number in range(40)]
    dropped = dropped_share(holdings, 0.1, seed=1)
    assert [found_out(holdings, dropped, epoch=epoch) for epoch in range(500)].count(3) == 500
    fortieth = dropped_share(holdings, 1 / 40, seed=2)
    missed = sum(3 - found_out(holdings, fortieth, epoch=epoch) for epoch in range(500))
    expected = 1_500 * (1 - 1 / 40) ** (LEAVES_OVERALL + LEAVES_PER_TENANT)
    assert 0.75 * expected < missed < 1.25 * expected, (missed, expected)


def test_a_hundredth_dropped_is_caught_within_a_day() -> None:
    assert 0.99 ** (LEAVES_OVERALL * 144) < 0.01
    holdings = [holding(number) for number in range(40)]
    for seed in range(20):
        dropped = dropped_share(holdings, 0.01, seed)
        epochs = (epoch for epoch in range(144) if found_out(holdings, dropped, epoch=144 * seed + epoch))
        assert next(epochs) < 20, "far below a day's 144"


def test_one_small_tenants_loss_is_caught_in_one_epoch_by_every_verifier() -> None:
    """Its leaf is a hundred-thousandth of what is held."""
    holdings = [holding(0, owner=1, leaves=1), *(holding(number, leaves=100) for number in range(1, 1_001))]
    dropped = frozenset({(holdings[0].segment_id, 0)})
    assert [found_out(holdings, dropped, epoch=epoch) for epoch in range(5)] == [3] * 5


def test_many_tenants_take_turns_and_none_waits_a_day() -> None:
    tenants = sorted(tenant(number) for number in range(8_000))
    seen = Counter[TenantId]()
    for epoch in range(1_000, 1_008):
        due, per_tenant = tenants_due(tenants, epoch)
        assert len(due) * per_tenant + LEAVES_OVERALL <= LEAVES_ASKED_MAX
        assert per_tenant >= 3, "turns are by hash, so some are a little fuller"
        seen.update(due)
    assert set(seen) == set(tenants)


@given(st.integers(0, 3_000), st.integers(0, 10**9))
def test_no_verifier_asks_beyond_the_ceiling(count: int, epoch: int) -> None:
    due, per_tenant = tenants_due([TenantId(number.to_bytes(16, "big")) for number in range(count)], epoch)
    assert LEAVES_OVERALL + len(due) * per_tenant <= LEAVES_ASKED_MAX
    assert count > TENANTS_AT_ONCE or len(due) == count


# --- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seats", [4, 7, 9, 10, 13])
def test_liars_neither_convict_nor_acquit(seats: int) -> None:
    """Whatever up to r of an epoch's verifiers say, in the lot and in the recheck."""
    budget = fault_budget(seats)
    weak = budget.weak_quorum
    for liars in range(budget.liars + 1):
        honest = weak - liars
        for lies in product((PASSED, FAILED, None), repeat=liars):
            said = [lie for lie in lies if lie is not None]
            assert judge([*said, *[PASSED] * honest], weak, Askers.LOT) is not Verdict.FAILED
            assert judge([*said, *[FAILED] * honest], weak, Askers.LOT) is not Verdict.PROVED
            everybody = seats - 1 - liars
            assert judge([*said, *[PASSED] * everybody], weak, Askers.ALL_OTHERS) is Verdict.PROVED
            assert judge([*said, *[FAILED] * everybody], weak, Askers.ALL_OTHERS) is Verdict.FAILED


def test_colluding_verifiers_alone_say_nothing() -> None:
    assert judge([PASSED, PASSED], 3, Askers.LOT) is Verdict.UNPROVEN
    assert judge([FAILED, FAILED], 3, Askers.LOT) is Verdict.DISPUTED
    assert judge([PASSED, PASSED], 3, Askers.ALL_OTHERS) is Verdict.UNPROVEN
    assert judge([FAILED, FAILED], 3, Askers.ALL_OTHERS) is Verdict.DISPUTED
    assert judge([], 3, Askers.LOT) is Verdict.UNPROVEN
    assert judge([PASSED, PASSED, PASSED, FAILED], 3, Askers.LOT) is Verdict.DISPUTED, "one honest word is enough"


@given(st.lists(st.sampled_from([Verdict.PROVED, Verdict.FAILED, Verdict.UNPROVEN]), max_size=60))
def test_a_score_stays_within_its_bounds(verdicts: list[Verdict]) -> None:
    score = SCORE_MAX
    for verdict in verdicts:
        after = score_after(score, verdict)
        assert 0 <= after <= SCORE_MAX
        assert {Verdict.PROVED: after >= score, Verdict.FAILED: after <= score}.get(verdict, after == score)
        score = after


def test_one_failure_costs_a_quarter_and_a_day_of_proofs_gives_most_of_it_back() -> None:
    score = score_after(SCORE_MAX, Verdict.FAILED)
    assert score == 750
    for _ in range(144):
        score = score_after(score, Verdict.PROVED)
    assert score > 980
