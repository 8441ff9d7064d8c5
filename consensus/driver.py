"""One height: `apply(state, event) -> (state, effects)`; feeds the tally and the round machine, rules to a fixpoint.

Order after every event (rule A40): decide, then round skip, then step rules, until none applies.
What this file adds to the paper: fast nil, certificates as events, evidence, refusal of a proposal out of turn.

Contract with the shell:
- Signatures, certificates and blocks were verified before they enter. An event that is refused raises RejectionError
  and changes nothing; it may be logged before it is applied, replay refuses it again.
- A member's own messages come back as events; only they are counted, never what an effect asked to send.
- Before HeightStarted everything is counted; nothing is sent but a decision.
- A decision comes by q precommits and a valid proposal, or by a commit certificate alone. Then the block may be unknown
  here, or was called invalid here (a wrong clock): the shell pulls it and checks it as replay does before appending it.
- Decide carries the polkas known then. In a round above 0 they may be incomplete: keep feeding votes and polkas to the
  decided state and ask `decided_polkas`, or take them from a peer's DecidedBlock. `decided_commit` grows the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from msgspec.structs import replace

from consensus import round_machine
from consensus.blocks import POLKAS_MAX
from consensus.effects import (
    AskForValue,
    BroadcastCertificate,
    BroadcastProposal,
    BroadcastVote,
    Decide,
    Effect,
    ReportEvidence,
    ScheduleTimeout,
)
from consensus.errors import RejectionError, RejectionReason
from consensus.events import (
    CommitReceived,
    Event,
    HeightStarted,
    PolkaReceived,
    ProposalReceived,
    RoundReceived,
    Timeout,
    TimeoutElapsed,
    Validity,
    ValueReady,
    VoteReceived,
)
from consensus.height_state import (
    FastNil,
    HeightContext,
    HeightState,
    OwnMessages,
    decided_commit,
    decided_polkas,
    own_messages,
    start_state,
)
from consensus.identifiers import Round
from consensus.proposals import Proposal
from consensus.round_machine import (
    AskValue,
    CastPrecommit,
    CastPrevote,
    LeaveRound,
    Propose,
    Role,
    RoundInput,
    RoundStarted,
    ShowPolka,
    StartTimer,
    Step,
    TimedOut,
    ValueGiven,
)
from consensus.step_rules import commit_to_decide, nil_end, step_input
from consensus.vote_keeper import (
    add_commit,
    add_polka,
    add_proposal,
    add_round,
    add_vote,
    entry_by_messages,
    entry_by_precommits,
    is_kept,
    polka_chain,
    prune,
    skip_round,
)
from consensus.votes import Precommit, Prevote

if TYPE_CHECKING:
    from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate
    from consensus.evidence import Evidence
    from consensus.identifiers import Height, MemberIndex
    from consensus.votes import SignedVote, Vote

__all__ = [
    "FastNil",
    "HeightContext",
    "HeightState",
    "OwnMessages",
    "apply",
    "decided_commit",
    "decided_polkas",
    "own_messages",
    "start_state",
    "wants_proposal",
]

PROPOSALS_PER_ROUND: Final = 2
"""The first one, and one that conflicts with it: a quorum may have seen the second."""


Outcome = tuple[HeightState, tuple[Effect, ...]]


def apply(state: HeightState, event: Event) -> Outcome:
    """Take one event in and run the rules to their fixpoint.

    Raises:
        RejectionError: WRONG_HEIGHT, NOT_A_MEMBER, WRONG_PROPOSER, WRONG_ROUND (a vote too far from the current round).
    """
    if _height_of(event) != state.context.height:
        raise RejectionError(RejectionReason.WRONG_HEIGHT, f"not for height {state.context.height}")
    state, effects = _take(state, event)
    state, more = _settle(state)
    return state, (*effects, *more)


def wants_proposal(state: HeightState, proposal: Proposal) -> bool:
    """Say whether a proposal would be counted, before the work of completing and checking its block.

    Raises:
        RejectionError: WRONG_HEIGHT, WRONG_PROPOSER, WRONG_ROUND: apply() would refuse it.
    """
    if proposal.height != state.context.height:
        raise RejectionError(RejectionReason.WRONG_HEIGHT, f"not for height {state.context.height}")
    _check_turn(state, proposal)
    _check_near(state, proposal.round)
    known = state.proposals.get(proposal.round, ())
    return len(known) < PROPOSALS_PER_ROUND and all(p.signed.proposal != proposal for p in known)


def _height_of(event: Event) -> Height:
    match event:
        case HeightStarted() | ValueReady():
            return event.height
        case ProposalReceived(signed=signed):
            return signed.proposal.height
        case VoteReceived(signed=signed):
            return signed.vote.height
        case PolkaReceived() | CommitReceived() | RoundReceived():
            return event.certificate.height
        case TimeoutElapsed(timeout=timeout):
            return timeout.height
        case _:
            assert_never(event)


def _take(state: HeightState, event: Event) -> Outcome:
    match event:
        case HeightStarted():
            waits = state.machine.step is Step.NEW and state.decision is None
            return _enter(state, Round(0), None) if waits else (state, ())
        case ValueReady(round=round_, block_hash=block_hash):
            return _feed_in_round(state, round_, ValueGiven(block_hash=block_hash))
        case ProposalReceived():
            return _take_proposal(state, event)
        case VoteReceived(signed=signed):
            return _take_vote(state, signed)
        case PolkaReceived(certificate=certificate):
            return _take_polka(state, certificate)
        case CommitReceived(certificate=certificate):
            return _take_commit(state, certificate)
        case RoundReceived(certificate=certificate):
            return _take_round(state, certificate)
        case TimeoutElapsed(timeout=timeout):
            return _feed_in_round(state, timeout.round, TimedOut(kind=timeout.kind))
        case _:
            assert_never(event)


def _take_vote(state: HeightState, signed: SignedVote) -> Outcome:
    if signed.vote.member not in state.context.voters:
        raise RejectionError(RejectionReason.NOT_A_MEMBER, f"member {signed.vote.member}")
    _check_near(state, signed.vote.round)
    keeper, found = add_vote(state.keeper, signed)
    if keeper is state.keeper:
        return state, ()
    return replace(state, keeper=keeper), () if found is None else _reports(found)


def _take_proposal(state: HeightState, event: ProposalReceived) -> Outcome:
    proposal = event.signed.proposal
    if not wants_proposal(state, proposal):
        return state, ()
    known = state.proposals.get(proposal.round, ())
    keeper, found = add_proposal(state.keeper, event.signed)
    proposals = {**state.proposals, proposal.round: (*known, event)}
    valid_blocks = state.valid_blocks
    if event.validity is Validity.VALID:
        valid_blocks = valid_blocks | {proposal.block_hash}
    state = replace(state, keeper=keeper, proposals=proposals, valid_blocks=valid_blocks)
    return state, () if found is None else _reports(found)


def _take_polka(state: HeightState, certificate: PolkaCertificate) -> Outcome:
    keeper, found = add_polka(state.keeper, certificate)
    shown = state.shown_polka
    if shown is None or shown.round < certificate.round:
        shown = certificate
    if keeper is state.keeper and shown is state.shown_polka:
        return state, ()
    return replace(state, keeper=keeper, shown_polka=shown), _reports(*found)


def _take_commit(state: HeightState, certificate: CommitCertificate) -> Outcome:
    keeper, found = add_commit(state.keeper, certificate)
    proven = state.proven_commit or certificate
    if keeper is state.keeper and proven is state.proven_commit:
        return state, ()
    return replace(state, keeper=keeper, proven_commit=proven), _reports(*found)


def _take_round(state: HeightState, certificate: RoundCertificate) -> Outcome:
    if certificate.proposal is not None:
        _check_turn(state, certificate.proposal.proposal)
    keeper, found = add_round(state.keeper, certificate)
    return (state, ()) if keeper is state.keeper else (replace(state, keeper=keeper), _reports(*found))


def _check_turn(state: HeightState, proposal: Proposal) -> None:
    expected = state.context.turns.proposer(proposal.height, proposal.round)
    if proposal.proposer != expected:
        detail = f"member {proposal.proposer} in round {proposal.round}, turn of {expected}"
        raise RejectionError(RejectionReason.WRONG_PROPOSER, detail)


def _check_near(state: HeightState, round_: Round) -> None:
    if not is_kept(round_, state.machine.round):
        raise RejectionError(RejectionReason.WRONG_ROUND, f"round {round_}, current {state.machine.round}")


def _settle(state: HeightState) -> Outcome:
    """Run decide, skip and step rules until none applies; each step moves the state forward, so it ends."""
    effects: list[Effect] = []
    while state.decision is None:
        before = state
        state, more = _advance(state)
        if state is before:
            break
        effects += more
    return state, tuple(effects)


def _advance(state: HeightState) -> Outcome:
    """Apply the first rule that applies, or return the very state given."""
    commit = commit_to_decide(state)
    if commit is not None:
        return _decide(state, commit)
    if state.machine.step is Step.NEW:
        return state, ()
    later = skip_round(state.keeper, state.machine.round)
    if later is not None:  # L55-L56
        return _enter(state, later, entry_by_messages(state.keeper, later))
    given = step_input(state)
    if given is not None:
        machine_before = state.machine
        state, effects = _feed(state, given)
        assert state.machine != machine_before, "an enabled rule must move the state"
        return state, effects
    ended = nil_end(state)
    return (state, ()) if ended is None else _enter(state, ended.round, ended)


def _decide(state: HeightState, certificate: CommitCertificate) -> Outcome:
    chain = () if certificate.round == 0 else polka_chain(state.keeper, certificate.round, certificate.block_hash)
    decision = Decide(block_hash=certificate.block_hash, certificate=certificate, polkas=chain[:POLKAS_MAX])
    return replace(state, decision=decision), (decision,)


def _enter(state: HeightState, round_: Round, entry: RoundCertificate | None) -> Outcome:
    """Start a round (L11) and forget what is too old; whoever is behind gets the right to follow."""
    proposer = state.context.turns.proposer(state.context.height, round_)
    role = Role.PROPOSER if proposer == state.context.me else Role.VOTER
    state, effects = _feed(state, RoundStarted(round=round_, role=role))
    return replace(_pruned(state), entry=entry), (*_shown(entry), *effects)


def _shown(entry: RoundCertificate | None) -> tuple[Effect, ...]:
    return () if entry is None else (BroadcastCertificate(certificate=entry),)


def _pruned(state: HeightState) -> HeightState:
    current = state.machine.round
    proposals = {r: received for r, received in state.proposals.items() if is_kept(r, current)}
    kept = {received.signed.proposal.block_hash for known in proposals.values() for received in known}
    kept |= {held.block_hash for held in (state.machine.locked, state.machine.valid) if held is not None}
    return replace(
        state, keeper=prune(state.keeper, current), proposals=proposals, valid_blocks=state.valid_blocks & kept
    )


def _feed_in_round(state: HeightState, round_: Round, given: ValueGiven | TimedOut) -> Outcome:
    """Feed what concerns one round alone; it is void once that round or the height is over."""
    if state.decision is not None or round_ != state.machine.round:
        return state, ()
    return _feed(state, given)


def _feed(state: HeightState, given: RoundInput) -> Outcome:
    machine, outputs = round_machine.apply(state.machine, given)
    if machine is state.machine and not outputs:
        return state, ()
    state = replace(state, machine=machine)
    effects: list[Effect] = []
    for output in outputs:
        if isinstance(output, LeaveRound):  # L67
            following = Round(machine.round + 1)
            state, more = _enter(state, following, entry_by_precommits(state.keeper, following))
            effects += more
        else:
            effects += _effects(state, output)
    return state, tuple(effects)


def _effects(
    state: HeightState, output: AskValue | Propose | CastPrevote | CastPrecommit | ShowPolka | StartTimer
) -> tuple[Effect, ...]:
    height, round_, me = state.context.height, state.machine.round, state.context.me
    match output:
        case AskValue():
            return (AskForValue(height=height, round=round_),)
        case Propose():
            return (_proposal_effect(state, output),)
        case CastPrevote() | CastPrecommit():
            return () if me is None else (BroadcastVote(vote=_own_vote(state, output, me)),)
        case ShowPolka(block_hash=block_hash):
            return (BroadcastCertificate(certificate=state.keeper.polkas[round_, block_hash]),)
        case StartTimer(kind=kind):
            return (ScheduleTimeout(timeout=Timeout(kind=kind, height=height, round=round_)),)
        case _:
            assert_never(output)


def _proposal_effect(state: HeightState, output: Propose) -> BroadcastProposal:
    assert state.context.me is not None, "an observer has no turn"
    proposal = Proposal(
        height=state.context.height,
        round=state.machine.round,
        block_hash=output.block_hash,
        valid_round=output.valid_round,
        proposer=state.context.me,
    )
    polka = state.keeper.polkas.get((output.valid_round, output.block_hash))
    return BroadcastProposal(proposal=proposal, polka=polka)


def _own_vote(state: HeightState, output: CastPrevote | CastPrecommit, me: MemberIndex) -> Vote:
    height, round_, block_hash = state.context.height, state.machine.round, output.block_hash
    if isinstance(output, CastPrecommit):
        return Precommit(height=height, round=round_, block_hash=block_hash, member=me)
    return Prevote(height=height, round=round_, block_hash=block_hash, valid_round=output.valid_round, member=me)


def _reports(*found: Evidence) -> tuple[Effect, ...]:
    return tuple(ReportEvidence(evidence=evidence) for evidence in found)
