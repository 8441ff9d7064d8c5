"""Who is ahead is asked, who is behind is answered, neither too often."""

from __future__ import annotations

from consensus.identifiers import Height, MemberIndex
from node.peer_help import ANSWER_INTERVAL_S, PeerHeights

ONE, TWO, THREE = MemberIndex(1), MemberIndex(2), MemberIndex(3)


def heights() -> PeerHeights:
    known = PeerHeights()
    for member, height in ((ONE, 5), (TWO, 9), (THREE, 7)):
        known.note(member, Height(height))
    return known


def test_those_ahead_are_named_furthest_first() -> None:
    known = heights()
    assert known.ahead_of(Height(5)) == (TWO, THREE)
    assert known.ahead_of(Height(9)) == ()
    assert known.ahead_of(Height(0)) == (TWO, THREE, ONE)


def test_an_old_message_makes_nobody_younger() -> None:
    known = heights()
    known.note(TWO, Height(3))
    assert known.height_of(TWO) == 9


def test_a_forgotten_member_counts_again_once_it_says_something() -> None:
    known = heights()
    known.forget(TWO)
    known.forget(MemberIndex(8))
    assert (known.height_of(TWO), known.ahead_of(Height(8))) == (None, ())
    known.note(TWO, Height(8))
    assert known.ahead_of(Height(7)) == (TWO,)


def test_one_height_is_answered_once_in_an_interval() -> None:
    known = PeerHeights()
    assert known.may_answer(ONE, Height(5), 10.0)
    assert not known.may_answer(ONE, Height(5), 10.0 + ANSWER_INTERVAL_S / 2)
    assert known.may_answer(TWO, Height(5), 10.0 + ANSWER_INTERVAL_S / 2), "each member for itself"
    assert known.may_answer(ONE, Height(6), 10.0 + ANSWER_INTERVAL_S / 2), "it has moved on"
    assert known.may_answer(ONE, Height(6), 10.0 + 2 * ANSWER_INTERVAL_S)
