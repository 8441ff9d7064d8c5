"""What a member knows of one height, and pure questions about it. `consensus.driver` moves it on."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from msgspec import Struct

from consensus.blocks import POLKAS_MAX
from consensus.identifiers import NO_ROUND
from consensus.round_machine import RoundState
from consensus.vote_keeper import VoteKeeper, fullest_commit, new_keeper, polka_chain, tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate
    from consensus.effects import Decide
    from consensus.events import ProposalReceived
    from consensus.identifiers import BlockHash, Height, MemberIndex, Round
    from consensus.proposals import SignedProposal
    from consensus.quorum import FaultBudget
    from consensus.turns import ProposerOrder
    from consensus.votes import Prevote, SignedVote


class FastNil(Enum):
    """Whether q nil precommits of an early round end it at once; off for the conformance vectors."""

    ON = auto()
    OFF = auto()


class HeightContext(Struct, frozen=True, kw_only=True):
    """What stays the same for a height; `me` is None for an observer, who sends nothing.

    Attributes:
        voters: The members of this height.
    """

    height: Height
    budget: FaultBudget
    voters: frozenset[MemberIndex]
    turns: ProposerOrder
    me: MemberIndex | None
    fast_nil: FastNil = FastNil.ON


class HeightState(Struct, frozen=True, kw_only=True):
    """Everything the core knows of a height; equal inputs in equal order give equal states."""

    context: HeightContext
    keeper: VoteKeeper
    machine: RoundState
    proposals: Mapping[Round, tuple[ProposalReceived, ...]]
    valid_blocks: frozenset[BlockHash]
    """Blocks that a proposal brought here and that were found valid; recent ones, the locked and the valid one."""
    shown_polka: PolkaCertificate | None
    """The latest polka that came as a certificate."""
    proven_commit: CommitCertificate | None
    """The commit certificate that came as such."""
    entry: RoundCertificate | None
    """The right to be in the current round."""
    decision: Decide | None


class OwnMessages(Struct, frozen=True, kw_only=True):
    """What a stuck member repeats; the polka belongs to its lock or valid value."""

    proposal: SignedProposal | None
    votes: tuple[SignedVote, ...]
    polkas: tuple[PolkaCertificate, ...]
    entry: RoundCertificate | None
    commit: CommitCertificate | None


def start_state(context: HeightContext) -> HeightState:
    """Return the state of a height of which nothing was heard."""
    return HeightState(
        context=context,
        keeper=new_keeper(context.height, context.budget),
        machine=RoundState(),
        proposals={},
        valid_blocks=frozenset(),
        shown_polka=None,
        proven_commit=None,
        entry=None,
        decision=None,
    )


def own_messages(state: HeightState) -> OwnMessages:
    """Return what to send again while stuck: own last votes and proposal, certificates that explain them."""
    places = dict.fromkeys(
        (v.round, v.block_hash) for v in (state.machine.valid, state.machine.locked) if v is not None
    )
    me = state.context.me
    return OwnMessages(
        proposal=None if me is None else _own_proposal(state, me),
        votes=() if me is None else _last_votes(state.keeper, me),
        polkas=tuple(state.keeper.polkas[place] for place in places if place in state.keeper.polkas),
        entry=state.entry,
        commit=next(iter(state.keeper.commits.values()), None),
    )


def decided_commit(state: HeightState) -> CommitCertificate:
    """Return the decision's certificate with every precommit heard so far: what the next block embeds."""
    assert state.decision is not None, "nothing is decided"
    return fullest_commit(state.keeper, state.decision.certificate)


def decided_polkas(state: HeightState) -> tuple[PolkaCertificate, ...] | None:
    """Return the polkas that a decided block is kept with, latest first; None while one is missing (rule A26)."""
    assert state.decision is not None, "nothing is decided"
    certificate = state.decision.certificate
    if certificate.round == 0:
        return ()
    chain = polka_chain(state.keeper, certificate.round, certificate.block_hash)
    complete = chain and chain[-1].valid_round == NO_ROUND and len(chain) <= POLKAS_MAX
    return chain if complete else None


def block_hashes(state: HeightState) -> frozenset[BlockHash]:
    """Return the blocks that this height may still need: of the proposals kept, locked, valid and decided."""
    held = {received.signed.proposal.block_hash for known in state.proposals.values() for received in known}
    held |= {value.block_hash for value in (state.machine.locked, state.machine.valid) if value is not None}
    held |= {polka.block_hash for polka in state.keeper.polkas.values()}
    return frozenset(held if state.decision is None else held | {state.decision.block_hash})


def is_known_polka(state: HeightState, polka: PolkaCertificate) -> bool:
    """Say whether a polka would change nothing: it was counted here, and the valid value is of its round or a later."""
    valid = state.machine.valid
    is_counted = (polka.round, polka.block_hash) in state.keeper.polkas
    return is_counted and valid is not None and valid.round >= polka.round


def is_settled(state: HeightState, prevote: Prevote) -> bool:
    """Say whether a prevote says what a polka says that would change nothing: alone, it would change nothing either."""
    if prevote.block_hash is None:
        return False
    polka = state.keeper.polkas.get((prevote.round, prevote.block_hash))
    return polka is not None and polka.valid_round == prevote.valid_round and is_known_polka(state, polka)


def _own_proposal(state: HeightState, me: MemberIndex) -> SignedProposal | None:
    known = state.proposals.get(state.machine.round, ())
    return next((received.signed for received in known if received.signed.proposal.proposer == me), None)


def _last_votes(keeper: VoteKeeper, me: MemberIndex) -> tuple[SignedVote, ...]:
    heard = [tally(keeper, r) for r in sorted(keeper.tallies, reverse=True)]
    prevote = next((t.prevotes[me] for t in heard if me in t.prevotes), None)
    precommit = next((t.precommits[me] for t in heard if me in t.precommits), None)
    return tuple(signed for signed in (prevote, precommit) if signed is not None)
