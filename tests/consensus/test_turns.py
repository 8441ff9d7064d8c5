"""The absent lose their turns and get them back, from committed blocks alone, whoever derives it from wherever."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.identifiers import NO_ROUND, Height, MemberIndex, Round
from consensus.members import MemberSet
from consensus.quorum import fault_budget
from consensus.turns import (
    FRESH_START_TURNS,
    NOBODY,
    SILENT_TURNS_MAX,
    TURNS_ABSENT,
    Suspension,
    TurnFacts,
    TurnState,
    active_turns,
    first_needed,
    first_turns,
    next_turns,
    suspensions,
)
from tests.strategies import example_members

SIZES = (4, 7, 9)
SEEDS = st.integers(0, 2**32)


@dataclass
class Chain:
    """Blocks reduced to what they say of turns; `dead` neither propose nor sign, `mute` sign but never propose."""

    count: int = 9
    dead: set[int] = field(default_factory=set[int])
    mute: set[int] = field(default_factory=set[int])
    facts: list[TurnFacts] = field(default_factory=list[TurnFacts])
    rounds: list[int] = field(default_factory=list[int])
    states: list[TurnState] = field(init=False)

    def __post_init__(self) -> None:
        self.states = [first_turns(self.members)]

    @property
    def members(self) -> MemberSet:
        return example_members(self.count)

    @property
    def state(self) -> TurnState:
        return self.states[-1]

    @property
    def suspended(self) -> dict[int, Suspension]:
        return {int(member): why for member, why in suspensions(self.state).items()}

    def grow(self, heights: int = 1, guilty: tuple[int, ...] = ()) -> None:
        """Add blocks, each decided in the first round whose proposer proposes."""
        for _ in range(heights):
            height = Height(self.state.height + 1)
            idle = self.dead | self.mute
            round_ = next(r for r in range(99) if self.state.proposer(height, Round(r)) not in idle)
            self.add(self.state.proposer(height, Round(round_)), round_, guilty)

    def add(self, proposer: int, round_: int, guilty: tuple[int, ...] = ()) -> None:
        """Add a block that was decided in this round; the next one says so."""
        first = not self.facts
        signers = () if first else [MemberIndex(i) for i in range(self.count) if i not in self.dead]
        self.facts.append(
            TurnFacts(
                height=Height(self.state.height + 1),
                proposer=MemberIndex(proposer),
                parent_round=NO_ROUND if first else Round(self.rounds[-1]),
                parent_signers=frozenset(signers),
                guilty=frozenset(MemberIndex(member) for member in guilty),
            )
        )
        self.rounds.append(round_)
        self.states.append(next_turns(self.state, self.facts[-1]))


def arbitrary_facts(seed: int, count: int, heights: int) -> list[TurnFacts]:
    """Draw blocks of any kind, with spells in which somebody is away, dumb or everything needs a later round."""
    choice = Random(seed)
    found: list[TurnFacts] = []
    away: set[int] = set()
    stormy = False
    for height in range(1, heights + 1):
        if choice.random() < 0.02:
            away = set(choice.sample(range(count), choice.randrange(count)))
        if choice.random() < 0.02:
            stormy = not stormy
        signers = [MemberIndex(i) for i in range(count) if i not in away and choice.random() < 0.97]
        found.append(
            TurnFacts(
                height=Height(height),
                proposer=MemberIndex(choice.randrange(count)),
                parent_round=NO_ROUND if height == 1 else Round(choice.randrange(5) * stormy),
                parent_signers=frozenset(signers),
                guilty=frozenset([MemberIndex(choice.randrange(count))] if choice.random() < 0.001 else []),
            )
        )
    return found


@pytest.mark.parametrize("count", SIZES)
def test_while_all_keep_their_turns_nobody_is_suspended(count: int) -> None:
    chain = Chain(count=count)
    chain.grow(20 * count)
    assert not chain.suspended
    assert set(chain.rounds) == {0}


@pytest.mark.parametrize("count", SIZES)
@settings(max_examples=20)
@given(death=st.integers(1, 40), dead=st.integers(0, 8))
def test_a_dead_member_is_skipped_after_three_of_its_turns(count: int, death: int, dead: int) -> None:
    chain = Chain(count=count)
    chain.grow(death)
    chain.dead = {dead % count}
    chain.grow(5 * count)
    assert chain.suspended == {dead % count: Suspension.ABSENT}
    assert 3 <= sum(round_ > 0 for round_ in chain.rounds) <= 4  # the fourth comes before a multiple of n does
    chain.grow(100 * count)
    assert sum(round_ > 0 for round_ in chain.rounds) <= 4


@settings(max_examples=12)
@given(dead=st.sets(st.integers(0, 8), min_size=1, max_size=3), death=st.integers(1, 40))
def test_up_to_three_dead_of_nine_cost_nothing_once_they_are_suspended(dead: set[int], death: int) -> None:
    chain = Chain()
    chain.grow(death)
    chain.dead = dead
    chain.grow(5 * 9)
    assert chain.suspended == dict.fromkeys(dead, Suspension.ABSENT)
    assert sum(chain.rounds) <= 3 * (3 + 2 + 1) + 6
    before = len(chain.rounds)
    chain.grow((FRESH_START_TURNS + 1) * 9)
    assert sum(chain.rounds[before:]) == 0


def test_whoever_returns_has_turns_again_after_three_certificates() -> None:
    chain = Chain()
    chain.grow(9)
    chain.dead = {4}
    chain.grow(45)
    chain.dead = set()
    signed = 0
    while chain.suspended:
        chain.grow()
        signed += 1
        assert signed <= 3 + 1 + 9
    chain.grow(100)
    assert not chain.suspended
    assert set(chain.rounds[-100:]) == {0}


def test_two_certificates_in_a_row_are_not_enough_to_return() -> None:
    chain = Chain()
    chain.dead = {4}
    chain.grow(45)
    for _ in range(30):
        chain.dead = set()
        chain.grow(2)
        chain.dead = {4}
        chain.grow()
    assert chain.suspended == {4: Suspension.ABSENT}


def spells(chain: Chain, member: int) -> list[int]:
    """Return for how many heights a member was out, spell after spell."""
    found = [0]
    for state in chain.states:
        if member in suspensions(state):
            found[-1] += 1
        elif found[-1]:
            found.append(0)
    return found[:-1]


def test_a_member_that_signs_but_never_proposes_is_out_for_longer_and_longer() -> None:
    chain = Chain(mute={4})
    chain.grow(FRESH_START_TURNS * 9 - 1)
    turns = [heights // 9 for heights in spells(chain, 4)]
    assert turns[:7] == [2, 4, 8, 16, 32, SILENT_TURNS_MAX, SILENT_TURNS_MAX]
    assert sum(round_ > 0 for round_ in chain.rounds) <= 3 + 1 + 2 * len(turns)


def test_the_silent_do_not_come_back_dead() -> None:
    chain = Chain(mute={4})
    while chain.suspended != {4: Suspension.SILENT}:
        chain.grow()
    chain.grow(2 * 9 - 5)
    chain.dead = {4}
    before = len(chain.rounds)
    chain.grow(9 * 9)
    assert chain.suspended == {4: Suspension.ABSENT}
    assert set(chain.rounds[before:]) == {0}


def test_one_kept_turn_makes_the_silent_as_good_as_new() -> None:
    chain = Chain(mute={4})
    while len(spells(chain, 4)) < 3:
        chain.grow()
    chain.mute = set()
    chain.grow(2 * 9)
    chain.mute = {4}
    chain.grow(20 * 9)
    assert [heights // 9 for heights in spells(chain, 4)][3:5] == [2, 4]


def test_evidence_ends_a_members_turns_at_the_next_multiple_of_n_for_good() -> None:
    chain = Chain()
    chain.grow(10)
    chain.grow(guilty=(6,))
    chain.grow(5)
    assert not chain.suspended
    chain.grow(1)
    assert chain.state.height + 1 == 18
    assert chain.suspended == {6: Suspension.GUILTY}
    chain.grow((FRESH_START_TURNS + 1) * 9)
    assert chain.suspended == {6: Suspension.GUILTY}
    assert set(chain.rounds) == {0}


def test_places_among_the_suspended_go_to_the_guilty_first() -> None:
    chain = Chain()
    chain.dead = {0, 1, 2}
    chain.grow(45)
    chain.grow(9, guilty=(8,))
    assert chain.suspended == {8: Suspension.GUILTY, 0: Suspension.ABSENT, 1: Suspension.ABSENT}


def test_a_turn_is_missed_by_the_proposers_of_the_rounds_before_unless_their_block_was_decided() -> None:
    chain = Chain()
    chain.grow(4)
    chain.add(proposer=7, round_=2)  # of height 5: missed by 5 and 6
    chain.grow(4)  # height 10 is next: member 1's turn in round 0
    assert {i for i, one in enumerate(chain.state.attendance) if one.missed} == {5}  # 6 kept its turn of height 6
    chain.add(proposer=2, round_=4)  # made in round 1, decided in round 4
    chain.grow()
    missed = {i for i, one in enumerate(chain.state.attendance) if one.missed}
    assert missed == {1, 3, 4}


@settings(max_examples=60)
@given(seed=SEEDS, count=st.integers(1, 13))
def test_never_more_than_u_are_suspended_and_all_others_have_turns(seed: int, count: int) -> None:
    state = first_turns(example_members(count))
    for facts in arbitrary_facts(seed, count, 40 * count):
        before, state = state, next_turns(state, facts)
        out = suspensions(state)
        assert len(out) <= fault_budget(count).failures
        assert {*active_turns(state).active, *out} == set(range(count))
        if (facts.height + 1) % count:
            assert state.suspended == before.suspended


@settings(max_examples=25)
@given(seed=SEEDS, count=st.sampled_from((1, 2, 4, 5)))
def test_whoever_joins_derives_the_same_from_the_last_blocks(seed: int, count: int) -> None:
    choice, span = Random(seed), FRESH_START_TURNS * count
    heights = choice.choice((choice.randrange(1, 2 * span + 100), span + choice.randrange(3)))
    facts = arbitrary_facts(seed, count, heights)
    members = example_members(count)
    whole = first_turns(members)
    for one in facts:
        whole = next_turns(whole, one)
    first = first_needed(Height(heights + 1), members)
    assert heights - first <= (FRESH_START_TURNS + TURNS_ABSENT) * count
    guilty = {member for one in facts[: first - 1] for member in one.guilty}
    joined = first_turns(members, Height(first - 1), guilty)
    for one in facts[first - 1 :]:
        joined = next_turns(joined, one)
    if joined.height >= first + TURNS_ABSENT * count or first == 1:
        assert joined == whole
    assert active_turns(joined) == active_turns(whole)


def test_a_fresh_start_counts_no_turn_of_the_height_before() -> None:
    chain, start = Chain(count=4, mute={1}), FRESH_START_TURNS * 4
    chain.grow(start - 2)
    assert chain.suspended == {1: Suspension.SILENT}
    chain.add(proposer=0, round_=3)  # whose turns were missed hangs on who was suspended, which a joiner cannot know
    chain.grow()
    first = first_needed(Height(start), chain.members)
    joined = first_turns(chain.members, Height(first - 1))
    for one in chain.facts[first - 1 :]:
        joined = next_turns(joined, one)
    assert joined == chain.state


@settings(max_examples=40)
@given(seed=SEEDS, count=st.sampled_from((4, 9)))
def test_whoever_signs_and_proposes_is_soon_back_whatever_came_before(seed: int, count: int) -> None:
    chain = Chain(count=count)
    for facts in arbitrary_facts(seed, count, Random(seed).randrange(60 * count)):
        innocent = replace(facts, guilty=frozenset())
        chain.facts.append(innocent)
        chain.states.append(next_turns(chain.state, innocent))
        chain.rounds.append(0)
    chain.grow((SILENT_TURNS_MAX + 2) * count)
    assert not chain.suspended
    chain.grow(10 * count)
    assert not chain.suspended


def test_genesis_counts_no_turn() -> None:
    assert first_turns(example_members(9)).proposer_before == NOBODY
