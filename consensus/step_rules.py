"""Which rule is enabled: the questions that the driver asks of the state after every event, in order (rule A40).

Levels, not edges: a rule is enabled by what is known, whenever it became known, and stops being so once the round
machine has moved. So the order of arrival of a proposal and its votes does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from consensus.height_state import FastNil
from consensus.identifiers import NO_ROUND, Round
from consensus.round_machine import (
    EarlierPolkaShown,
    FreshProposal,
    NilPolkaSeen,
    Once,
    PolkaSeen,
    PrecommitQuorumSeen,
    PrevoteQuorumSeen,
    ProvenProposal,
    RoundInput,
    RoundValue,
    Step,
)
from consensus.vote_keeper import has_nil_polka, has_precommit_quorum, has_prevote_quorum

if TYPE_CHECKING:
    from consensus.certificates import CommitCertificate, RoundCertificate
    from consensus.height_state import HeightState

FAST_NIL_ROUNDS: Final = Round(4)
"""From this round on the full precommit timeout runs, so that the highest lock is heard."""


def commit_to_decide(state: HeightState) -> CommitCertificate | None:
    """Return what decides the height: q precommits and a valid proposal of any round, or a shown certificate (L49)."""
    if state.proven_commit is not None:
        return state.proven_commit
    commits = state.keeper.commits
    return next((commits[place] for place in sorted(commits) if place[1] in state.valid_blocks), None)


def nil_end(state: HeightState) -> RoundCertificate | None:
    """Return the q nil precommits that end the current round at once, if q prevoted nil too (rule A44).

    No block can have a polka beside q nil prevotes, so no lock of this round is left behind unheard.
    """
    if state.context.fast_nil is FastNil.OFF or state.machine.round >= FAST_NIL_ROUNDS:
        return None
    if not has_nil_polka(state.keeper, state.machine.round):
        return None
    return state.keeper.nil_ends.get(state.machine.round)


def step_input(state: HeightState) -> RoundInput | None:
    """Return the first step rule of the current round that is enabled; it always moves the machine."""
    match state.machine.step:
        case Step.NEW:
            return None
        case Step.PROPOSE:
            rule = _proposal_input(state)
        case Step.PREVOTE:
            rule = _polka_input(state) or _prevote_input(state)
        case Step.PRECOMMIT:
            rule = _polka_input(state)
        case _:
            assert_never(state.machine.step)
    return rule or _precommit_input(state) or _earlier_polka_input(state)


def _proposal_input(state: HeightState) -> RoundInput | None:
    # L22, L28: the first proposal of the round; a valid round counts only with its polka.
    known = state.proposals.get(state.machine.round, ())
    if not known:
        return None
    proposal, validity = known[0].signed.proposal, known[0].validity
    if proposal.valid_round == NO_ROUND:
        return FreshProposal(block_hash=proposal.block_hash, validity=validity)
    if (proposal.valid_round, proposal.block_hash) not in state.keeper.polkas:
        return None
    return ProvenProposal(block_hash=proposal.block_hash, valid_round=proposal.valid_round, validity=validity)


def _polka_input(state: HeightState) -> RoundInput | None:
    # L36: any proposal of this round that has its polka and is valid.
    if Once.POLKA in state.machine.done:
        return None
    round_ = state.machine.round
    for received in state.proposals.get(round_, ()):
        block_hash = received.signed.proposal.block_hash
        if (round_, block_hash) in state.keeper.polkas and block_hash in state.valid_blocks:
            return PolkaSeen(block_hash=block_hash)
    return None


def _prevote_input(state: HeightState) -> RoundInput | None:
    # L44, then L34.
    if has_nil_polka(state.keeper, state.machine.round):
        return NilPolkaSeen()
    if Once.PREVOTE_TIMEOUT in state.machine.done:
        return None
    return PrevoteQuorumSeen() if has_prevote_quorum(state.keeper, state.machine.round) else None


def _precommit_input(state: HeightState) -> RoundInput | None:
    # L47
    if Once.PRECOMMIT_TIMEOUT in state.machine.done:
        return None
    return PrecommitQuorumSeen() if has_precommit_quorum(state.keeper, state.machine.round) else None


def _earlier_polka_input(state: HeightState) -> RoundInput | None:
    shown, valid = state.shown_polka, state.machine.valid
    if shown is None or shown.round >= state.machine.round:
        return None
    if (valid is not None and valid.round >= shown.round) or shown.block_hash not in state.valid_blocks:
        return None
    return EarlierPolkaShown(value=RoundValue(round=shown.round, block_hash=shown.block_hash))
