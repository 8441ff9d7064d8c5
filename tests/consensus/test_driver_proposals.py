"""Which proposal counts and what its valid round must show, by hand (rules A34, A35, A43, A46, A47, A61)."""

from __future__ import annotations

from consensus.driver import start_state
from consensus.effects import AskForValue
from consensus.events import HeightStarted, PolkaReceived, RoundReceived, TimeoutKind, Validity
from consensus.identifiers import MemberIndex
from tests.consensus.messages_by_hand import BLUE, HEIGHT, RED, polka, precommit, prevote
from tests.consensus.one_seat import OTHERS, Seat, context, locked_on_red, right_to, started


def test_a_valid_round_is_shown_by_the_polka_of_that_round_and_block_alone() -> None:
    seat = started().take(RoundReceived(certificate=right_to(3)), PolkaReceived(certificate=polka(range(6), RED)))
    seat.propose(RED, 3, 1)
    assert seat.votes == []  # a polka of round 0
    seat.take(PolkaReceived(certificate=polka(range(6), BLUE, 1)))
    assert seat.votes == []  # a polka of another block
    seat.take(PolkaReceived(certificate=polka(range(6), RED, 1)))
    assert seat.votes == [("Prevote", 3, RED)]


def test_a_block_called_invalid_is_not_locked_whoever_prevotes_it() -> None:
    seat = started().propose(RED, validity=Validity.INVALID).hear(*[prevote(m, RED) for m in OTHERS])
    assert seat.votes == [("Prevote", 0, None)]
    assert seat.state.machine.locked is None


def test_the_first_of_two_proposals_gets_the_prevote_whenever_the_height_starts() -> None:
    seat = Seat().propose(RED).propose(BLUE).take(HeightStarted(height=HEIGHT))
    assert seat.votes == [("Prevote", 0, RED)]


def test_a_block_locked_many_rounds_ago_still_decides() -> None:
    seat = locked_on_red().take(RoundReceived(certificate=right_to(30, RED)))
    seat.hear(*[precommit(m, RED, 30) for m in OTHERS])
    assert [decision.block_hash for decision in seat.decisions] == [RED]


def test_whoever_holds_a_valid_value_asks_for_no_other() -> None:
    seat = Seat(state=start_state(context(me=MemberIndex(2)))).take(HeightStarted(height=HEIGHT)).propose(RED)
    seat.hear(*[prevote(m, RED) for m in (0, 1, 3, 4, 5)], *[precommit(m, None) for m in (0, 1, 3, 4, 5)])
    seat.expire(TimeoutKind.PRECOMMIT)
    assert seat.state.machine.round == 1  # our turn
    assert not [effect for effect in seat.effects if isinstance(effect, AskForValue)]


def test_entering_a_later_round_shows_why() -> None:
    assert started().take(RoundReceived(certificate=right_to(2))).shown == [right_to(2)]
