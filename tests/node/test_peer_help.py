"""Who is ahead is asked, who is behind is answered, neither too often."""

from __future__ import annotations

import pytest

from consensus.identifiers import Height, MemberIndex
from node.peer_help import ANSWER_INTERVAL_S, AVOID_S_MAX, AVOID_S_MIN, RECORDS_INTERVAL_S, PeerHeights

ONE, TWO, THREE = MemberIndex(1), MemberIndex(2), MemberIndex(3)


def heights() -> PeerHeights:
    known = PeerHeights()
    for member, height in ((ONE, 5), (TWO, 9), (THREE, 7)):
        known.note(member, Height(height))
    return known


NOW = 1_000.3


def test_those_ahead_are_named_furthest_first() -> None:
    known = heights()
    assert known.ahead_of(Height(5), NOW) == (TWO, THREE)
    assert known.ahead_of(Height(9), NOW) == ()
    assert known.ahead_of(Height(0), NOW) == (TWO, THREE, ONE)


def test_an_old_message_makes_nobody_younger() -> None:
    known = heights()
    known.note(TWO, Height(3))
    assert known.height_of(TWO) == 9


def test_who_was_asked_in_vain_is_left_alone_for_longer_each_time() -> None:
    known = heights()
    now, spans = NOW, list[float]()
    for _ in range(9):
        known.avoid(TWO, now)
        assert known.height_of(TWO) is None
        known.note(TWO, Height(9))
        assert known.is_any_ahead(Height(8))
        waited = 0.0
        while known.ahead_of(Height(8), now + waited) == ():
            waited += 0.25
        spans.append(waited)
        now += waited
    assert spans == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, AVOID_S_MAX, AVOID_S_MAX, AVOID_S_MAX]
    known.trust(TWO)
    known.avoid(TWO, now)
    known.note(TWO, Height(9))
    assert known.ahead_of(Height(8), now + AVOID_S_MIN) == (TWO,)


def test_one_height_is_answered_once_in_an_interval() -> None:
    known = PeerHeights()
    assert known.may_answer(ONE, Height(5), NOW)
    assert not known.may_answer(ONE, Height(5), NOW + ANSWER_INTERVAL_S / 2)
    assert known.may_answer(TWO, Height(5), NOW + ANSWER_INTERVAL_S / 2), "each member for itself"
    assert known.may_answer(ONE, Height(6), NOW + ANSWER_INTERVAL_S / 2), "it has moved on"
    assert known.may_answer(ONE, Height(6), NOW + 2 * ANSWER_INTERVAL_S)


@pytest.mark.parametrize("now", [0.0, 0.05, 0.3, 1_000.3, 123_456.7])
def test_a_first_question_for_records_is_answered_and_the_next_after_a_while(now: float) -> None:
    known = PeerHeights()
    assert known.may_answer_records(ONE, now)
    assert not known.may_answer_records(ONE, now + RECORDS_INTERVAL_S / 2)
    assert known.may_answer_records(TWO, now)
    assert known.may_answer_records(ONE, now + 2 * RECORDS_INTERVAL_S)
