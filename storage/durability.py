"""How likely a year is to lose data: a Markov chain over the number of sites whose columns are gone. Pure.

State i: i of n sites have lost their columns and not rebuilt them. Transitions, with rates a year:

    i -> i + 1        (n - i) * failures      one more site is destroyed
    i -> i - 1        i / repair time         each site rebuilds its own columns, all at the same time
    i -> i + j        common events           each destroys m sites, any m of the n alike; j of them still stood

More than n - k missing columns cannot be rebuilt: that state is never left. The chain counts sites, not segments: a
site that burns loses a column of every segment at once, so the first segment lost is one of very many.

Computed by uniformization of a short span, then squared until it is a year. All terms are positive, so that small
probabilities are as exact as large ones.

Source: Ross, "Introduction to Probability Models", section 6.8 (uniformization).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

YEAR_HOURS: Final = 8_766.0
TERMS: Final = 24
"""Of a Poisson law with mean 1 at most: what is left out is below 10^-24."""
SITES_MAX: Final = 64

_Matrix: TypeAlias = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureModel:
    """What is assumed of n sites that keep one column each.

    Attributes:
        sites: n.
        data_columns: k.
        failures_per_year: How often one site loses everything it stores, for good.
        repair_hours: Mean time from such a loss to all its columns rebuilt, with the time it takes to notice and to put
            a new machine there.
        common_per_year: How often one event (a flood, a fault of all disks of one make) destroys several sites.
        common_sites: How many such an event destroys.
    """

    sites: int
    data_columns: int
    failures_per_year: float
    repair_hours: float
    common_per_year: float = 0.0
    common_sites: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no model; whoever takes numbers from people checks them before."""
        assert 1 <= self.data_columns <= self.sites <= SITES_MAX, (self.data_columns, self.sites)
        assert self.failures_per_year >= 0 and self.common_per_year >= 0, "rates"  # noqa: PT018 one fact
        assert self.repair_hours > 0, "repairs take time"
        assert 0 <= self.common_sites <= self.sites, self.common_sites

    @property
    def survived(self) -> int:
        """Return how many sites may be gone at once."""
        return self.sites - self.data_columns


def annual_loss(model: FailureModel, years: float = 1.0) -> float:
    """Return the probability that data is lost within a time, beginning with all columns in place."""
    rates = transition_rates(model)
    fastest = max(sum(row) for row in rates)
    if fastest == 0.0:
        return 0.0
    squarings = max(0, math.ceil(math.log2(fastest * years)))
    step = _uniformized(rates, fastest, years / 2**squarings)
    for _ in range(squarings):
        step = _product(step, step)
    return step[0][model.survived + 1]


def transition_rates(model: FailureModel) -> _Matrix:
    """Return the rates between states 0 to n - k + 1, the last of which is loss; the diagonal is zero."""
    lost = model.survived + 1
    return tuple(tuple(_rate(model, i, j) if i < lost else 0.0 for j in range(lost + 1)) for i in range(lost + 1))


def nines(probability: float) -> float:
    """Return a loss probability as the number of nines of what is kept; infinity for none."""
    return math.inf if probability <= 0.0 else -math.log10(probability)


def _rate(model: FailureModel, missing: int, then: int) -> float:
    rate = 0.0
    if then == missing - 1:
        rate += missing * YEAR_HOURS / model.repair_hours
    if then == missing + 1:
        rate += (model.sites - missing) * model.failures_per_year
    if then > missing:
        rate += model.common_per_year * _common_share(model, missing, then - missing)
    return rate


def _common_share(model: FailureModel, missing: int, more: int) -> float:
    """Return how often a common event destroys so many sites that still stood; of the last state, so many or more."""
    standing, hit = model.sites - missing, model.common_sites
    most = min(hit, standing)
    is_loss = missing + more == model.survived + 1
    counts = range(more, most + 1) if is_loss else range(more, min(more, most) + 1)
    ways = sum(math.comb(standing, count) * math.comb(missing, hit - count) for count in counts if hit - count >= 0)
    return ways / math.comb(model.sites, hit)


def _uniformized(rates: _Matrix, fastest: float, span: float) -> _Matrix:
    """Return the transition probabilities over a span in which at most about one transition happens."""
    states = len(rates)
    jump = tuple(
        tuple(rates[i][j] / fastest + (1.0 - sum(rates[i]) / fastest if i == j else 0.0) for j in range(states))
        for i in range(states)
    )
    mean = fastest * span
    power: _Matrix = tuple(tuple(float(i == j) for j in range(states)) for i in range(states))
    total: _Matrix = tuple((0.0,) * states for _ in range(states))
    weight = math.exp(-mean)
    for term in range(TERMS):
        total = tuple(tuple(total[i][j] + weight * power[i][j] for j in range(states)) for i in range(states))
        power = _product(power, jump)
        weight *= mean / (term + 1)
    return total


def _product(one: _Matrix, other: _Matrix) -> _Matrix:
    columns = tuple(zip(*other, strict=True))
    return tuple(tuple(math.fsum(a * b for a, b in zip(row, column, strict=True)) for column in columns) for row in one)
