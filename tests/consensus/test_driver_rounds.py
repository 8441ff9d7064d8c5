"""Which round a member is in, by hand: certificates, skips and fast nil (rules A24, A42, A44, A49)."""

from __future__ import annotations

import pytest

from consensus.certificates import RoundCertificate
from consensus.driver import (
    FastNil,
    apply,
    own_messages,
    start_state,
)
from consensus.events import (
    HeightStarted,
    RoundReceived,
    TimeoutKind,
    VoteReceived,
)
from consensus.identifiers import Round
from consensus.quorum import fault_budget
from consensus.vote_keeper import add_votes, new_keeper, skip_round, vote_evidence
from tests.consensus.messages_by_hand import HEIGHT, RED, precommit, prevote, proposal
from tests.consensus.one_seat import OTHERS, Seat, context, started


def test_leaving_a_round_shows_the_right_to_the_next() -> None:
    seat = started().hear(*[precommit(m, RED if m % 2 else None) for m in OTHERS[:6]]).expire(TimeoutKind.PRECOMMIT)
    (certificate,) = seat.shown
    assert isinstance(certificate, RoundCertificate)
    assert (certificate.round, len(certificate.votes)) == (1, 6)
    assert own_messages(seat.state).entry == certificate


def test_w_members_of_a_later_round_take_us_there_and_two_do_not() -> None:
    seat = started().hear(prevote(0, RED, 4), precommit(0, RED, 4), prevote(4, None, 4))
    assert seat.state.machine.round == 0  # three messages of two senders
    seat.propose(RED, 4)
    assert seat.state.machine.round == 4
    (certificate,) = seat.shown
    assert isinstance(certificate, RoundCertificate)
    assert certificate.proposal == proposal(5, RED, 4)
    assert [signed.vote for signed in certificate.votes] == [precommit(0, RED, 4).vote, prevote(4, None, 4).vote]


def test_a_round_is_skipped_for_senders_not_for_messages() -> None:
    said = [vote(member, None, 4) for vote in (prevote, precommit) for member in (0, 4)]
    keeper, _ = add_votes(new_keeper(HEIGHT, fault_budget(9)), said)
    assert skip_round(keeper, Round(0)) is None
    keeper, _ = add_votes(keeper, [prevote(8, RED, 4)])
    assert skip_round(keeper, Round(0)) == 4


def test_the_latest_of_several_later_rounds_is_entered() -> None:
    state = start_state(context())
    for round_ in (1, 2):
        for member in (0, 4, 8):
            state, _ = apply(state, VoteReceived(signed=prevote(member, None, round_)))
    state, _ = apply(state, HeightStarted(height=HEIGHT))
    assert state.machine.round == 2


def test_q_nil_prevotes_and_precommits_end_an_early_round_at_once() -> None:
    seat = started().hear(*[prevote(m, None) for m in OTHERS[:6]], *[precommit(m, None) for m in OTHERS[:6]])
    assert seat.state.machine.round == 1
    (certificate,) = seat.shown
    assert isinstance(certificate, RoundCertificate)
    assert [signed.vote.block_hash for signed in certificate.votes] == [None] * 6


def test_nil_precommits_alone_end_no_round_before_a_hidden_polka_is_heard() -> None:
    """Two liars prevote a block for one member alone, and nil for the rest, which precommits nil at its timeout."""
    voters = OTHERS[:6]
    seat = started().hear(*[prevote(m, RED if m in voters[:4] else None) for m in voters])
    assert seat.hear(*[precommit(m, None) for m in voters]).state.machine.round == 0
    assert seat.hear(*[prevote(m, None) for m in OTHERS[6:]]).state.machine.round == 0


@pytest.mark.parametrize("round_", [3, 4])
def test_from_round_4_on_the_full_timeout_runs(round_: int) -> None:
    seat = started().hear(*[prevote(m, None, round_) for m in OTHERS[:3]])
    seat.hear(*[prevote(m, None, round_) for m in OTHERS[3:6]], *[precommit(m, None, round_) for m in OTHERS[:6]])
    assert seat.state.machine.round == (4 if round_ == 3 else round_)


def test_fast_nil_may_be_switched_off() -> None:
    seat = Seat(state=start_state(context(fast_nil=FastNil.OFF))).take(HeightStarted(height=HEIGHT))
    nils = [vote(m, None) for vote in (prevote, precommit) for m in OTHERS]
    assert seat.hear(*nils).state.machine.round == 0


def test_a_round_certificate_of_nil_precommits_overrides_what_a_liar_showed_first() -> None:
    nils = tuple(precommit(m, None) for m in (0, 4, 5, 6, 7, 8))
    seat = started().hear(*[prevote(m, None) for m in (0, 4, 5, 6, 7, 8)], precommit(0, RED))
    seat.take(RoundReceived(certificate=RoundCertificate(height=HEIGHT, round=Round(1), votes=nils, proposal=None)))
    assert seat.state.machine.round == 1
    assert seat.evidence == [vote_evidence(precommit(0, RED), precommit(0, None))]
