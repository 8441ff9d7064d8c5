"""The chain of states agrees with a Monte Carlo of sites that burn and rebuild, and with what is known exactly."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.durability import YEAR_HOURS, FailureModel, annual_loss, nines, transition_rates

RUNS = 12_000


def model(
    k: int = 6, *, failures: float, hours: float, common: float = 0.0, together: int = 0, sites: int = 9
) -> FailureModel:
    return FailureModel(
        sites=sites,
        data_columns=k,
        failures_per_year=failures,
        repair_hours=hours,
        common_per_year=common,
        common_sites=together,
    )


def is_lost(assumed: FailureModel, choice: random.Random) -> bool:
    """Live one year site by site: each with its own clock of burning and rebuilding, and events that hit several."""
    repair = assumed.repair_hours / YEAR_HOURS
    burns = [choice.expovariate(assumed.failures_per_year) for _ in range(assumed.sites)]
    mends = [math.inf] * assumed.sites
    event = choice.expovariate(assumed.common_per_year) if assumed.common_per_year else math.inf
    while True:
        now = min(*burns, *mends, event)
        if now > 1.0:
            return False
        if now == event:
            event = now + choice.expovariate(assumed.common_per_year)
            burnt = choice.sample(range(assumed.sites), assumed.common_sites)
        elif now in mends:
            site = mends.index(now)
            mends[site] = math.inf
            burns[site] = now + choice.expovariate(assumed.failures_per_year)
            continue
        else:
            burnt = [burns.index(now)]
        for site in burnt:
            if mends[site] == math.inf:
                burns[site] = math.inf
                mends[site] = now + choice.expovariate(1.0 / repair)
        if sum(mend != math.inf for mend in mends) > assumed.survived:
            return True


@pytest.mark.parametrize(
    ("assumed", "seed"),
    [
        (model(failures=2.0, hours=700.0), 1),
        (model(5, failures=3.0, hours=700.0), 2),
        (model(4, failures=6.0, hours=700.0), 3),
        (model(failures=0.8, hours=1_000.0, common=0.4, together=3), 4),
        (model(failures=0.5, hours=1_000.0, common=0.5, together=4), 5),
        (model(2, sites=4, failures=2.5, hours=500.0), 6),
    ],
)
def test_the_chain_agrees_with_a_monte_carlo_within_five_percent(assumed: FailureModel, seed: int) -> None:
    """Rates so high that 12,000 years hold thousands of losses: their own error is below 2 %."""
    choice = random.Random(seed)
    lost = sum(is_lost(assumed, choice) for _ in range(RUNS))
    assert lost > 2_500, "enough to compare"
    assert annual_loss(assumed) == pytest.approx(lost / RUNS, rel=0.05)


def test_without_parity_the_first_failure_loses() -> None:
    assumed = model(9, failures=0.1, hours=1.0)
    assert annual_loss(assumed) == pytest.approx(1 - math.exp(-0.9), rel=1e-12)


def test_small_probabilities_are_exact() -> None:
    """In the limit of rare failures and quick repairs: 9 8 7 6 l^4 / (1 2 3 m^3), with m repairs a year."""
    for hours in (0.1, 1.0, 24.0):
        repairs = YEAR_HOURS / hours
        expected = 9 * 8 * 7 * 6 * 0.001**4 / (6 * repairs**3)
        assert annual_loss(model(failures=0.001, hours=hours)) == pytest.approx(expected, rel=1e-3)


def test_a_common_event_beyond_the_parity_loses_at_once() -> None:
    assert annual_loss(model(failures=0.0, hours=1.0, common=0.01, together=4)) == pytest.approx(
        1 - math.exp(-0.01), rel=1e-12
    )
    assert annual_loss(model(failures=0.0, hours=1.0, common=0.01, together=3)) < 1e-7


def test_nothing_fails_and_nothing_is_lost() -> None:
    assert annual_loss(model(failures=0.0, hours=24.0)) == 0.0
    assert nines(0.0) == math.inf
    assert nines(0.001) == pytest.approx(3.0)


@given(
    st.integers(4, 6),
    st.floats(0.001, 5.0),
    st.floats(0.1, 2_000.0),
    st.floats(0.0, 1.0),
    st.integers(0, 9),
)
def test_more_failures_slower_repairs_and_less_parity_never_help(
    k: int, failures: float, hours: float, common: float, together: int
) -> None:
    base = annual_loss(model(k, failures=failures, hours=hours, common=common, together=together))
    assert 0.0 <= base <= 1.0 + 1e-12
    worse = (
        model(k, failures=failures * 1.5, hours=hours, common=common, together=together),
        model(k, failures=failures, hours=hours * 1.5, common=common, together=together),
        model(k + 1, failures=failures, hours=hours, common=common, together=together),
        model(k, failures=failures, hours=hours, common=common + 0.5, together=together),
    )
    for assumed in worse:
        assert annual_loss(assumed) >= base * (1 - 1e-9)


@given(st.integers(1, 9), st.floats(0.0, 3.0), st.floats(0.0, 3.0), st.integers(0, 9))
def test_every_failure_goes_somewhere(k: int, failures: float, common: float, together: int) -> None:
    """What leaves a state upwards is all failures of the sites that stand, and all events that hit one."""
    assumed = model(k, failures=failures, hours=1.0, common=common, together=together)
    for missing, row in enumerate(transition_rates(assumed)[:-1]):
        misses = math.comb(missing, together) / math.comb(9, together)
        expected = (9 - missing) * failures + common * (1 - misses)
        assert sum(row[missing + 1 :]) == pytest.approx(expected, abs=1e-12)
