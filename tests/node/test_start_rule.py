"""A height starts when there is something to say, and not before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.genesis import ConsensusParameters
from consensus.identifiers import Milliseconds
from node.start_rule import (
    CERTIFY_S,
    GATHER_BYTES_MAX,
    GATHER_MAX,
    GATHER_MIN,
    GATHER_S,
    GOSSIP_S,
    StartFacts,
    StartWatch,
    start_moment,
)

PARAMETERS = ConsensusParameters(block_interval_min_ms=Milliseconds(0))
QUIET = StartFacts(
    begun_at=100.0,
    pending_since=math.inf,
    is_proposer=False,
    root_changed=False,
    others_started=False,
    is_gathering=False,
)


@pytest.mark.parametrize(
    ("facts", "moment"),
    [
        (QUIET, 160.0),  # the heartbeat
        (replace(QUIET, is_proposer=True), 160.0),
        (replace(QUIET, root_changed=True), 100.0 + CERTIFY_S),
        (replace(QUIET, root_changed=True, is_proposer=True), 100.0 + CERTIFY_S),
        (replace(QUIET, root_changed=True, is_proposer=True, pending_since=100.0), 100.0),
        (replace(QUIET, pending_since=103.0), 103.0 + GOSSIP_S),
        (replace(QUIET, pending_since=103.0, is_proposer=True), 103.0),
        (replace(QUIET, pending_since=100.0, root_changed=True), 100.0 + min(CERTIFY_S, GOSSIP_S)),
        (replace(QUIET, pending_since=170.0), 160.0),
        (replace(QUIET, others_started=True), -math.inf),
        (replace(QUIET, pending_since=103.0, is_proposer=True, is_gathering=True), 103.0 + GATHER_S),
        (replace(QUIET, pending_since=103.0, is_gathering=True), 103.0 + GOSSIP_S + GATHER_S),
        (replace(QUIET, others_started=True, is_gathering=True), -math.inf),
    ],
)
def test_the_first_reason_counts(facts: StartFacts, moment: float) -> None:
    assert start_moment(facts, PARAMETERS) == moment


def test_blocks_keep_their_least_distance_unless_others_have_started() -> None:
    slow = ConsensusParameters(block_interval_min_ms=Milliseconds(2_000))
    pending = replace(QUIET, pending_since=100.5, is_proposer=True)
    assert start_moment(pending, slow) == 102.0
    assert start_moment(replace(pending, pending_since=103.0), slow) == 103.0
    assert start_moment(replace(pending, others_started=True), slow) == -math.inf


@given(
    st.builds(
        StartFacts,
        begun_at=st.floats(0, 1e6),
        pending_since=st.floats(0, 2e6) | st.just(math.inf),
        is_proposer=st.booleans(),
        root_changed=st.booleans(),
        others_started=st.booleans(),
        is_gathering=st.booleans(),
    )
)
def test_every_height_starts_by_its_heartbeat_at_last(facts: StartFacts) -> None:
    assert start_moment(facts, PARAMETERS) <= facts.begun_at + PARAMETERS.heartbeat_ms / 1000


def gathers(expected: int, waiting: int, waiting_bytes: int = 0) -> bool:
    watch = StartWatch(begun_at=100.0, expected=expected)
    waits = (waiting, waiting_bytes)
    facts = watch.facts(is_proposer=True, root_changed=True, weak_quorum=3, waiting=waits)
    return facts.is_gathering


def test_a_height_waits_for_the_senders_of_a_large_block_until_they_are_back() -> None:
    assert gathers(64, 63)
    assert not gathers(64, 64)
    assert not gathers(64, 65)


def test_nobody_waits_for_a_few() -> None:
    assert gathers(GATHER_MIN, 1)
    assert not gathers(GATHER_MIN - 1, 1)
    assert not gathers(0, 1)


def test_nobody_waits_for_more_than_a_large_block() -> None:
    assert gathers(10_000, GATHER_MAX - 1)
    assert not gathers(10_000, GATHER_MAX)
    assert gathers(64, 10, GATHER_BYTES_MAX - 1)
    assert not gathers(64, 10, GATHER_BYTES_MAX)
