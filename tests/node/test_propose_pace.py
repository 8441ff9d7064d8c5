"""A member waits for proposals as long as they usually take, and hardly at all for whoever is silent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.events import Timeout, TimeoutKind
from consensus.genesis import ConsensusParameters
from consensus.identifiers import Height, MemberIndex, Round
from node.propose_pace import BASE_S_MAX, BASE_S_MIN, SAMPLES_MAX, SAMPLES_MIN, SHORT_ROUNDS, SILENT_S, ProposePace
from node.start_rule import GOSSIP_S

PARAMETERS = ConsensusParameters()
ONE = MemberIndex(1)


def timeout(round_: int = 0, kind: TimeoutKind = TimeoutKind.PROPOSE) -> Timeout:
    return Timeout(kind=kind, height=Height(1), round=Round(round_))


def paced(*delays_s: float, now: float = 0.0) -> ProposePace:
    """Return the pace after proposals that took so long; member 1 speaks at `now`."""
    pace = ProposePace(now)
    for delay_s in delays_s:
        pace.begin_height()
        pace.wait_s(timeout(), ONE, PARAMETERS, now)
        pace.note_proposal(Round(0), now + delay_s)
    pace.hear(ONE, now)
    return pace


def waits(pace: ProposePace, round_: int = 0, now: float = 1.0) -> float:
    return pace.wait_s(timeout(round_), ONE, PARAMETERS, now)


def test_until_enough_was_seen_genesis_says_how_long() -> None:
    assert waits(paced(*[0.001] * (SAMPLES_MIN - 1))) == 0.5
    assert waits(paced(*[0.001] * SAMPLES_MIN)) == BASE_S_MIN


@pytest.mark.parametrize(
    ("delay_s", "wait_s"), [(0.0, 0.2), (0.04, 0.2), (0.1, 0.4), (0.3, 1.2), (0.9, 2.0), (30.0, 2.0)]
)
def test_the_base_is_four_times_the_usual_delay_within_bounds(delay_s: float, wait_s: float) -> None:
    pace = paced(*[delay_s] * SAMPLES_MIN)
    assert waits(pace) == pytest.approx(wait_s)
    assert waits(pace, 2) == pytest.approx(wait_s + 0.5)


def test_one_proposal_in_twenty_may_be_late_without_changing_it() -> None:
    assert waits(paced(*[0.1] * 19, 1.0)) == pytest.approx(0.4)
    assert waits(paced(*[0.1] * 18, 1.0, 1.0)) == BASE_S_MAX


def test_what_is_long_ago_is_forgotten() -> None:
    assert waits(paced(*[1.0] * SAMPLES_MAX, *[0.1] * SAMPLES_MAX)) == pytest.approx(0.4)


def test_a_proposal_after_its_timeout_counts_with_all_it_took() -> None:
    pace = paced(*[0.01] * SAMPLES_MIN)
    for _ in range(4):
        pace.begin_height()
        waits(pace, 0, 1.0)
        waits(pace, 1, 1.5)
        pace.note_proposal(Round(0), 1.9)
    assert waits(pace) == BASE_S_MAX


def test_a_proposal_that_started_the_height_took_no_time() -> None:
    pace = ProposePace(0.0)
    for _ in range(SAMPLES_MIN):
        pace.note_proposal(Round(0), 5.0)
    pace.hear(ONE, 5.0)
    assert waits(pace, now=5.0) == BASE_S_MIN


@pytest.mark.parametrize("round_", range(SHORT_ROUNDS + 2))
def test_nobody_waits_long_for_the_silent_in_early_rounds(round_: int) -> None:
    pace = paced(*[0.08] * SAMPLES_MIN)
    full_s = 0.32 + 0.25 * round_
    assert waits(pace, round_, SILENT_S - 0.001) == pytest.approx(full_s)
    assert waits(pace, round_, SILENT_S) == pytest.approx(0.16 if round_ < SHORT_ROUNDS else full_s)
    pace.hear(ONE, SILENT_S)
    assert waits(pace, round_, SILENT_S) == pytest.approx(full_s)


def test_a_member_that_never_spoke_is_silent_ten_seconds_after_the_start() -> None:
    pace = ProposePace(100.0)
    assert not pace.is_silent(ONE, 109.9)
    assert pace.is_silent(ONE, 110.0)
    assert waits(pace, now=110.0) == GOSSIP_S


@pytest.mark.parametrize("kind", [TimeoutKind.PREVOTE, TimeoutKind.PRECOMMIT])
def test_other_timeouts_are_those_of_genesis(kind: TimeoutKind) -> None:
    pace = paced(*[0.0] * SAMPLES_MIN)
    assert pace.wait_s(timeout(1, kind), ONE, PARAMETERS, 99.0) == 0.55


@given(st.lists(st.floats(0, 100), max_size=80), st.integers(0, 2**31 - 1), st.floats(0, 1e6))
def test_every_wait_ends(delays_s: list[float], round_: int, now: float) -> None:
    assert GOSSIP_S <= waits(paced(*delays_s), round_, now) <= PARAMETERS.timeout_max_ms / 1000
