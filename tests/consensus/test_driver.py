"""One height by hand: nine members, seat 3 is us; the proposer of round r at height 1 is seat 1 + r."""

from __future__ import annotations

import pytest

from consensus.certificates import Certificate, RoundCertificate
from consensus.driver import (
    decided_commit,
    decided_polkas,
    own_messages,
    start_state,
)
from consensus.effects import (
    AskForValue,
    BroadcastProposal,
    BroadcastVote,
)
from consensus.errors import RejectionError, RejectionReason
from consensus.events import (
    CommitReceived,
    Event,
    HeightStarted,
    PolkaReceived,
    ProposalReceived,
    RoundReceived,
    TimeoutKind,
    Validity,
    ValueReady,
    VoteReceived,
)
from consensus.identifiers import BlockHash, Height, MemberIndex, Round
from consensus.round_machine import RoundValue, Step
from consensus.vote_keeper import ROUNDS_KEPT, vote_evidence
from consensus.votes import Precommit
from tests.consensus.messages_by_hand import BLUE, HEIGHT, RED, commit, polka, precommit, prevote, proposal
from tests.consensus.one_seat import ME, OTHERS, Seat, context, locked_on_red, right_to, started


def test_a_height_without_trouble_is_decided_in_one_round() -> None:
    seat = started().propose(RED)
    assert seat.votes == [("Prevote", 0, RED)]
    seat.hear(*[prevote(m, RED) for m in OTHERS[:4]])
    assert len(seat.votes) == 1  # five of nine are no quorum
    seat.hear(prevote(OTHERS[4], RED))
    assert seat.votes[1:] == [("Precommit", 0, RED)]
    assert seat.shown == [polka_of_first_five_and_me()]
    seat.hear(*[precommit(m, RED) for m in OTHERS[:5]])
    (decision,) = seat.decisions
    assert (decision.block_hash, decision.certificate.round, decision.polkas) == (RED, 0, ())
    assert decided_polkas(seat.state) == ()


def polka_of_first_five_and_me() -> Certificate:
    return polka(range(6), RED)


def test_every_order_of_arrival_gives_the_same_votes() -> None:
    seat = started().hear(*[prevote(m, RED) for m in OTHERS[:6]], *[precommit(m, RED) for m in OTHERS[:5]])
    assert seat.votes == []
    seat.propose(RED)
    assert seat.votes == [("Prevote", 0, RED), ("Precommit", 0, RED)]
    assert len(seat.decisions) == 1


def test_nothing_is_sent_before_the_height_starts_and_nothing_is_forgotten() -> None:
    seat = Seat().propose(RED).hear(*[prevote(m, RED) for m in OTHERS[:5]])
    assert seat.effects == []
    seat.take(HeightStarted(height=HEIGHT))
    assert seat.votes == [("Prevote", 0, RED), ("Precommit", 0, RED)]


def test_a_second_start_changes_nothing() -> None:
    seat = started()
    before = seat.state
    seat.take(HeightStarted(height=HEIGHT))
    assert seat.state == before


def test_an_invalid_block_gets_a_nil_vote() -> None:
    assert started().propose(RED, validity=Validity.INVALID).votes == [("Prevote", 0, None)]


def test_precommits_for_a_block_called_invalid_decide_nothing_but_a_certificate_does() -> None:
    seat = started().propose(RED, validity=Validity.INVALID).hear(*[precommit(m, RED) for m in OTHERS[:6]])
    assert seat.decisions == []
    seat.take(CommitReceived(certificate=commit(range(6), RED)))
    assert [decision.block_hash for decision in seat.decisions] == [RED]


def test_my_turn_asks_for_a_value_once_and_proposes_it() -> None:
    seat = Seat(state=start_state(context(me=MemberIndex(1)))).take(HeightStarted(height=HEIGHT))
    assert AskForValue(height=HEIGHT, round=Round(0)) in seat.effects
    ready = ValueReady(height=HEIGHT, round=Round(0), block_hash=RED)
    seat.take(ready, ready)
    sent = [effect for effect in seat.effects if isinstance(effect, BroadcastProposal)]
    assert sent == [BroadcastProposal(proposal=proposal(1, RED).proposal, polka=None)]


def test_a_value_that_is_ready_too_late_is_not_proposed() -> None:
    seat = Seat(state=start_state(context(me=MemberIndex(1)))).take(HeightStarted(height=HEIGHT))
    seat.expire(TimeoutKind.PROPOSE).take(ValueReady(height=HEIGHT, round=Round(0), block_hash=RED))
    assert not [effect for effect in seat.effects if isinstance(effect, BroadcastProposal)]


def test_the_valid_value_is_proposed_again_with_its_polka() -> None:
    seat = Seat(state=start_state(context(me=MemberIndex(2)))).take(HeightStarted(height=HEIGHT)).propose(RED)
    seat.hear(*[prevote(m, RED) for m in (0, 1, 3, 4, 5)], *[precommit(m, None) for m in (0, 1, 3, 4, 5)])
    seat.expire(TimeoutKind.PRECOMMIT)
    (sent,) = [effect for effect in seat.effects if isinstance(effect, BroadcastProposal)]
    assert sent == BroadcastProposal(proposal=proposal(2, RED, 1, 0).proposal, polka=polka(range(6), RED))
    assert not [effect for effect in seat.effects if isinstance(effect, AskForValue)]


def test_an_observer_watches_and_decides_but_never_votes() -> None:
    seat = Seat(state=start_state(context(me=None))).take(HeightStarted(height=HEIGHT)).propose(RED)
    seat.hear(*[prevote(m, RED) for m in range(6)], *[precommit(m, RED) for m in range(6)])
    assert seat.votes == []
    assert len(seat.decisions) == 1
    assert own_messages(seat.state).votes == ()


@pytest.mark.parametrize("block_hash", [RED, BLUE])
def test_a_fresh_proposal_is_refused_while_anything_is_locked(block_hash: BlockHash) -> None:
    seat = locked_on_red().propose(block_hash, 1)
    assert seat.votes[-1] == ("Prevote", 1, None)


def test_a_lock_yields_to_a_later_polka_once_it_is_here() -> None:
    seat = locked_on_red().expire(TimeoutKind.PROPOSE, 1).take(RoundReceived(certificate=right_to(3)))
    seat.propose(BLUE, 3, 1)
    assert [vote for vote in seat.votes if vote[1] == 3] == []
    seat.take(PolkaReceived(certificate=polka(range(6), BLUE, 1)))
    assert [vote for vote in seat.votes if vote[1] == 3] == [("Prevote", 3, BLUE)]


def test_a_polka_of_the_locked_round_for_the_locked_block_is_enough() -> None:
    assert locked_on_red().propose(RED, 1, 0).votes[-1] == ("Prevote", 1, RED)


def test_a_polka_before_the_lock_is_not_enough() -> None:
    seat = started().take(RoundReceived(certificate=right_to(1)))
    seat.propose(BLUE, 1).hear(*[prevote(m, BLUE, 1) for m in OTHERS[:5]])
    assert seat.state.machine.locked == RoundValue(round=Round(1), block_hash=BLUE)
    seat.take(RoundReceived(certificate=right_to(3)), PolkaReceived(certificate=polka(range(6), RED)))
    seat.propose(RED, 3, 0)
    assert seat.votes[-1] == ("Prevote", 3, None)


def test_the_same_block_with_another_valid_round_is_another_vote() -> None:
    seat = started().take(RoundReceived(certificate=right_to(2))).propose(RED, 2)
    seat.hear(*[prevote(m, RED, 2, 0) for m in (0, 1, 2, 4, 5)])
    assert seat.votes == [("Prevote", 2, RED)]  # ours says -1: no six prevotes agree


def test_a_polka_seen_after_the_precommit_makes_the_block_valid_but_never_locks_it() -> None:
    seat = started().expire(TimeoutKind.PROPOSE).hear(*[prevote(m, RED) for m in OTHERS[:6]])
    seat.expire(TimeoutKind.PREVOTE).propose(RED)
    assert seat.votes == [("Prevote", 0, None), ("Precommit", 0, None)]
    assert seat.state.machine.locked is None
    assert seat.state.machine.valid == RoundValue(round=Round(0), block_hash=RED)


def test_q_nil_prevotes_end_the_wait() -> None:
    seat = started().expire(TimeoutKind.PROPOSE).hear(*[prevote(m, None) for m in OTHERS[:5]])
    assert seat.votes == [("Prevote", 0, None), ("Precommit", 0, None)]


def test_each_timeout_is_scheduled_once_and_acts_in_its_own_step_alone() -> None:
    seat = started().expire(TimeoutKind.PROPOSE)
    seat.hear(*[prevote(m, RED if m % 2 else BLUE) for m in OTHERS], prevote(0, BLUE))
    assert seat.timers == [(TimeoutKind.PROPOSE, 0), (TimeoutKind.PREVOTE, 0)]
    seat.expire(TimeoutKind.PROPOSE).expire(TimeoutKind.PREVOTE).expire(TimeoutKind.PREVOTE)
    assert seat.votes == [("Prevote", 0, None), ("Precommit", 0, None)]
    seat.hear(*[precommit(m, RED if m % 2 else BLUE) for m in OTHERS])
    assert seat.timers[2:] == [(TimeoutKind.PRECOMMIT, 0)]
    seat.expire(TimeoutKind.PRECOMMIT, 1)
    assert seat.state.machine.round == 0
    seat.expire(TimeoutKind.PRECOMMIT).expire(TimeoutKind.PRECOMMIT)
    assert seat.state.machine.round == 1


def test_only_the_member_whose_turn_it_is_may_propose() -> None:
    seat = started()
    stranger = ProposalReceived(signed=proposal(2, RED), validity=Validity.VALID)
    with pytest.raises(RejectionError) as caught:
        seat.take(stranger)
    assert caught.value.reason is RejectionReason.WRONG_PROPOSER
    stolen = RoundCertificate(
        height=HEIGHT, round=Round(1), votes=(prevote(0, RED, 1), prevote(4, RED, 1)), proposal=proposal(5, RED, 1)
    )
    with pytest.raises(RejectionError) as caught:
        seat.take(RoundReceived(certificate=stolen))
    assert caught.value.reason is RejectionReason.WRONG_PROPOSER


def test_a_second_proposal_is_evidence_and_gets_no_vote() -> None:
    seat = started().propose(RED).propose(BLUE).propose(BLUE)
    assert seat.votes == [("Prevote", 0, RED)]
    assert len(seat.evidence) == 1


def test_a_second_proposal_counts_where_a_quorum_saw_it() -> None:
    seat = started().propose(RED).propose(BLUE)
    seat.take(PolkaReceived(certificate=polka(range(6), BLUE)))
    assert seat.votes[-1] == ("Precommit", 0, BLUE)


def test_a_conflicting_vote_is_evidence_once_and_does_not_count() -> None:
    seat = started().propose(RED).hear(*[prevote(m, RED) for m in OTHERS[:4]])
    seat.hear(prevote(8, None), prevote(8, RED), prevote(8, BLUE), prevote(8, None))
    assert seat.evidence == [vote_evidence(prevote(8, None), prevote(8, RED))]
    assert seat.votes == [("Prevote", 0, RED)]


def test_a_polka_certificate_overrides_what_a_liar_showed_first() -> None:
    seat = started().propose(RED).hear(prevote(0, None), prevote(1, None))
    seat.take(PolkaReceived(certificate=polka(range(6), RED)))
    assert seat.votes[-1] == ("Precommit", 0, RED)
    assert len(seat.evidence) == 2


def test_a_commit_certificate_of_any_round_decides_without_its_block() -> None:
    seat = started().hear(precommit(0, None)).take(CommitReceived(certificate=commit(range(6), RED, 40)))
    assert [decision.block_hash for decision in seat.decisions] == [RED]
    assert decided_polkas(seat.state) is None


def test_precommits_without_a_proposal_wait_for_it() -> None:
    seat = started().hear(*[precommit(m, RED) for m in OTHERS[:6]])
    assert seat.decisions == []
    assert own_messages(seat.state).commit is not None
    seat.propose(RED)
    assert len(seat.decisions) == 1


def test_a_decision_of_an_earlier_round_still_counts() -> None:
    seat = started().propose(RED).hear(*[precommit(m, RED) for m in OTHERS[:5]])
    seat.take(RoundReceived(certificate=right_to(3))).hear(precommit(OTHERS[5], RED))
    assert [decision.certificate.round for decision in seat.decisions] == [0]


def test_a_decision_above_round_0_carries_its_polkas_back_to_the_first() -> None:
    seat = locked_on_red().propose(RED, 1, 0).hear(*[prevote(m, RED, 1, 0) for m in OTHERS[:5]])
    seat.hear(*[precommit(m, RED, 1) for m in OTHERS[:5]])
    (decision,) = seat.decisions
    assert [(p.round, p.valid_round) for p in decision.polkas] == [(1, 0), (0, -1)]
    assert decided_polkas(seat.state) == decision.polkas


def test_missing_polkas_may_come_after_the_decision() -> None:
    seat = started().take(CommitReceived(certificate=commit(range(6), RED, 2)))
    assert decided_polkas(seat.state) is None
    seat.take(PolkaReceived(certificate=polka(range(6), RED, 2, 0)))
    assert decided_polkas(seat.state) is None
    seat.take(PolkaReceived(certificate=polka(range(6), RED, 0)))
    assert [p.round for p in decided_polkas(seat.state) or ()] == [2, 0]


def test_precommits_after_the_decision_make_its_certificate_fuller() -> None:
    seat = started().take(CommitReceived(certificate=commit(range(6), RED)))
    assert decided_commit(seat.state) == commit(range(6), RED)
    seat.hear(precommit(6, RED), precommit(7, None), precommit(8, RED))
    votes = len(decided_commit(seat.state).signatures)
    assert votes == 8
    assert seat.votes == []


def test_after_the_decision_nothing_is_sent() -> None:
    seat = started().take(CommitReceived(certificate=commit(range(6), RED)))
    before = len(seat.effects)
    seat.propose(BLUE).expire(TimeoutKind.PROPOSE).take(
        HeightStarted(height=HEIGHT), RoundReceived(certificate=right_to(2))
    )
    assert len(seat.effects) == before


def test_a_hidden_lock_is_heard_by_certificate_and_proposed() -> None:
    seat = Seat().take(HeightStarted(height=HEIGHT)).propose(RED).take(RoundReceived(certificate=right_to(1)))
    seat.take(PolkaReceived(certificate=polka(range(6), RED)))
    assert seat.state.machine.valid == RoundValue(round=Round(0), block_hash=RED)
    assert seat.state.machine.locked is None
    seat.take(RoundReceived(certificate=right_to(2)))  # our turn
    (sent,) = [effect for effect in seat.effects if isinstance(effect, BroadcastProposal)]
    assert (sent.proposal.block_hash, sent.proposal.valid_round) == (RED, 0)
    assert sent.polka == polka(range(6), RED)


def refused(seat: Seat, event: Event) -> RejectionReason:
    before = seat.state
    with pytest.raises(RejectionError) as caught:
        seat.take(event)
    assert seat.state is before
    return caught.value.reason


def test_other_heights_and_strangers_are_refused_and_change_nothing() -> None:
    seat = started()
    assert refused(seat, VoteReceived(signed=prevote(0, RED, height=2))) is RejectionReason.WRONG_HEIGHT
    assert refused(seat, HeightStarted(height=Height(2))) is RejectionReason.WRONG_HEIGHT
    assert refused(seat, CommitReceived(certificate=commit(range(6), RED, 0, 2))) is RejectionReason.WRONG_HEIGHT
    assert refused(seat, VoteReceived(signed=prevote(9, RED))) is RejectionReason.NOT_A_MEMBER


def test_votes_too_far_ahead_or_behind_are_refused() -> None:
    seat = started().hear(prevote(0, None, ROUNDS_KEPT))
    assert refused(seat, VoteReceived(signed=prevote(0, None, ROUNDS_KEPT + 1))) is RejectionReason.WRONG_ROUND
    seat.take(RoundReceived(certificate=right_to(50)))
    assert seat.state.machine.round == 50
    assert refused(seat, VoteReceived(signed=precommit(0, RED, 39))) is RejectionReason.WRONG_ROUND
    seat.hear(precommit(1, RED, 40))


def test_memory_stays_bounded_over_many_rounds() -> None:
    seat = started()
    for round_ in range(1, 60):
        seat.take(RoundReceived(certificate=right_to(round_, RED)))
        for ahead in range(ROUNDS_KEPT):
            seat.hear(prevote(0, BLUE, round_ + ahead))
        if (1 + round_) % 9 not in {0, ME}:
            made = BlockHash(bytes([round_]) * 32)
            signed = proposal((1 + round_) % 9, made, round_)
            seat.take(ProposalReceived(signed=signed, validity=Validity.VALID))
    assert len(seat.state.keeper.tallies) <= 2 * ROUNDS_KEPT + 1
    assert len(seat.state.proposals) <= ROUNDS_KEPT + 1
    assert len(seat.state.valid_blocks) <= ROUNDS_KEPT + 3


def test_the_stuck_repeat_their_last_votes_and_what_explains_them() -> None:
    seat = locked_on_red()
    own = own_messages(seat.state)
    assert [signed.vote for signed in own.votes] == [prevote(ME, RED).vote, precommit(ME, RED).vote]
    assert own.polkas == (polka(range(6), RED),)
    assert own.entry is not None
    assert own.entry.round == 1
    assert own.proposal is None


def test_a_proposer_repeats_its_proposal() -> None:
    seat = Seat(state=start_state(context(me=MemberIndex(1)))).take(HeightStarted(height=HEIGHT)).propose(RED)
    assert own_messages(seat.state).proposal == proposal(1, RED)


def test_steps_are_entered_in_order() -> None:
    seat = Seat()
    assert seat.state.machine.step is Step.NEW
    assert seat.take(HeightStarted(height=HEIGHT)).state.machine.step is Step.PROPOSE
    assert seat.propose(RED).state.machine.step is Step.PREVOTE
    assert seat.hear(*[prevote(m, RED) for m in OTHERS]).state.machine.step is Step.PRECOMMIT


def test_votes_say_what_they_are_about() -> None:
    seat = locked_on_red().propose(RED, 1, 0)
    cast = [effect.vote for effect in seat.effects if isinstance(effect, BroadcastVote)]
    assert cast == [
        prevote(ME, RED).vote,
        precommit(ME, RED).vote,
        prevote(ME, RED, 1, 0).vote,
    ]
    assert isinstance(cast[1], Precommit)
