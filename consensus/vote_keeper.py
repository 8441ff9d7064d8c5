"""The tally: who said what in which round of one height, and which certificates follow.

Promises (rules A30 to A35):
- One vote per (kind, round, member) counts, the first; one that conflicts with it is kept as evidence, more are not.
- Prevotes form a polka only when block and valid round agree, since a certificate states both.
- A verified certificate overrides the first vote: it counts whatever was heard before.
- Votes are kept for rounds within ROUNDS_KEPT of the current one; those of certificates always: they move the round.
- Nothing here depends on the order of a hash table: members are visited in seat order.

Values are frozen; every change copies the small dictionaries it touches (nine members, a score of rounds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from consensus.certificates import (
    CommitCertificate,
    PolkaCertificate,
    RoundCertificate,
    commit_certificate,
    commit_votes,
    polka_certificate,
    polka_votes,
)
from consensus.encoding import encode
from consensus.evidence import Evidence, ProposalEvidence, VoteEvidence
from consensus.identifiers import NO_ROUND, BlockHash, MemberIndex, Round
from consensus.votes import Precommit, Prevote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from consensus.identifiers import Height
    from consensus.proposals import SignedProposal
    from consensus.quorum import FaultBudget
    from consensus.votes import SignedVote

ROUNDS_KEPT: Final = 10
"""Rounds ahead of and behind the current one whose votes are kept: 21 rounds x 9 members x 2 kinds x 2 votes."""
POLKAS_KEPT: Final = 256
"""Certificates of old rounds, below 128 KiB for nine members: the chain back to valid round -1 is among them."""


class RoundTally(Struct, frozen=True, kw_only=True):
    """What was heard of one round; each dictionary holds a member's first message."""

    prevotes: Mapping[MemberIndex, SignedVote]
    precommits: Mapping[MemberIndex, SignedVote]
    proposal: SignedProposal | None
    caught: frozenset[tuple[type, MemberIndex]]
    """(kind of message, member) whose conflict was reported."""
    senders: frozenset[MemberIndex]
    nil_prevotes: int
    nil_precommits: int


class VoteKeeper(Struct, frozen=True, kw_only=True):
    """All tallies of a height, and the certificates that were formed or received."""

    height: Height
    budget: FaultBudget
    tallies: Mapping[Round, RoundTally]
    polkas: Mapping[tuple[Round, BlockHash], PolkaCertificate]
    commits: Mapping[tuple[Round, BlockHash], CommitCertificate]
    nil_ends: Mapping[Round, RoundCertificate]
    """Round -> q nil precommits of it, as the right to be in the next."""


_EMPTY: Final = RoundTally(
    prevotes={},
    precommits={},
    proposal=None,
    caught=frozenset(),
    senders=frozenset(),
    nil_prevotes=0,
    nil_precommits=0,
)


def new_keeper(height: Height, budget: FaultBudget) -> VoteKeeper:
    """Return the tally of a height of which nothing was heard."""
    return VoteKeeper(height=height, budget=budget, tallies={}, polkas={}, commits={}, nil_ends={})


def tally(keeper: VoteKeeper, round_: Round) -> RoundTally:
    """Return what was heard of a round."""
    return keeper.tallies.get(round_, _EMPTY)


def has_prevote_quorum(keeper: VoteKeeper, round_: Round) -> bool:
    """Tell whether q members prevoted, whatever for."""
    return len(tally(keeper, round_).prevotes) >= keeper.budget.quorum


def has_nil_polka(keeper: VoteKeeper, round_: Round) -> bool:
    """Tell whether q members prevoted nil."""
    return tally(keeper, round_).nil_prevotes >= keeper.budget.quorum


def has_precommit_quorum(keeper: VoteKeeper, round_: Round) -> bool:
    """Tell whether q members precommitted, whatever for."""
    return len(tally(keeper, round_).precommits) >= keeper.budget.quorum


def skip_round(keeper: VoteKeeper, current: Round) -> Round | None:
    """Return the latest later round of which w distinct members sent a message (L55)."""
    weak_quorum = keeper.budget.weak_quorum
    heard = keeper.tallies.items()
    return max((r for r, of_round in heard if r > current and len(of_round.senders) >= weak_quorum), default=None)


def add_vote(keeper: VoteKeeper, signed: SignedVote) -> tuple[VoteKeeper, Evidence | None]:
    """Count a member's first vote of its kind and round; a different one is evidence, once."""
    heard = tally(keeper, signed.vote.round)
    first = _votes_like(heard, signed).get(signed.vote.member)
    if first is None:
        keeper = _with_tally(keeper, signed.vote.round, _counted(heard, signed))
        return _with_formed(keeper, signed), None
    mark = (type(signed.vote), signed.vote.member)
    if first.vote == signed.vote or mark in heard.caught:
        return keeper, None
    keeper = _with_tally(keeper, signed.vote.round, replace(heard, caught=heard.caught | {mark}))
    return keeper, vote_evidence(first, signed)


def add_votes(keeper: VoteKeeper, votes: Iterable[SignedVote]) -> tuple[VoteKeeper, tuple[Evidence, ...]]:
    """Count several votes; return whatever they prove."""
    found: list[Evidence] = []
    for signed in votes:
        keeper, evidence = add_vote(keeper, signed)
        if evidence is not None:
            found.append(evidence)
    return keeper, tuple(found)


def add_proposal(keeper: VoteKeeper, signed: SignedProposal) -> tuple[VoteKeeper, Evidence | None]:
    """Note that the proposer spoke in its round; a different second proposal is evidence, once."""
    proposal = signed.proposal
    heard = tally(keeper, proposal.round)
    if heard.proposal is None:
        noted = replace(heard, proposal=signed, senders=heard.senders | {proposal.proposer})
        return _with_tally(keeper, proposal.round, noted), None
    mark = (type(proposal), proposal.proposer)
    if heard.proposal.proposal == proposal or mark in heard.caught:
        return keeper, None
    keeper = _with_tally(keeper, proposal.round, replace(heard, caught=heard.caught | {mark}))
    return keeper, proposal_evidence(heard.proposal, signed)


def add_polka(keeper: VoteKeeper, certificate: PolkaCertificate) -> tuple[VoteKeeper, tuple[Evidence, ...]]:
    """Take a verified polka: it counts for its block, its votes count where nothing else was heard."""
    place = (certificate.round, certificate.block_hash)
    if place in keeper.polkas:
        return keeper, ()
    keeper, found = add_votes(keeper, polka_votes(certificate))
    return replace(keeper, polkas={**keeper.polkas, place: certificate}), found


def add_commit(keeper: VoteKeeper, certificate: CommitCertificate) -> tuple[VoteKeeper, tuple[Evidence, ...]]:
    """Take a verified commit certificate."""
    place = (certificate.round, certificate.block_hash)
    before = keeper
    keeper, found = add_votes(keeper, commit_votes(certificate))
    if keeper is before and place in keeper.commits:
        return keeper, ()
    return replace(keeper, commits={place: certificate, **keeper.commits}), found


def add_round(keeper: VoteKeeper, certificate: RoundCertificate) -> tuple[VoteKeeper, tuple[Evidence, ...]]:
    """Take a verified round certificate: its messages count, and q nil precommits end their round."""
    keeper, found = add_votes(keeper, certificate.votes)
    if certificate.proposal is not None:
        keeper, evidence = add_proposal(keeper, certificate.proposal)
        found = found if evidence is None else (*found, evidence)
    ended = Round(certificate.round - 1)
    nils = [signed for signed in certificate.votes if _is_nil_precommit(signed, ended)]
    if len(nils) >= keeper.budget.quorum and ended not in keeper.nil_ends:
        keeper = replace(keeper, nil_ends={**keeper.nil_ends, ended: certificate})
    return keeper, found


def entry_by_precommits(keeper: VoteKeeper, round_: Round) -> RoundCertificate | None:
    """Return the right to be in a round by q precommits of the one before."""
    precommits = tally(keeper, Round(round_ - 1)).precommits
    if len(precommits) < keeper.budget.quorum:
        return None
    chosen = sorted(precommits)[: keeper.budget.quorum]
    votes = tuple(precommits[member] for member in chosen)
    return RoundCertificate(height=keeper.height, round=round_, votes=votes, proposal=None)


def entry_by_messages(keeper: VoteKeeper, round_: Round) -> RoundCertificate:
    """Return the right to be in a round by messages of w distinct members in it."""
    heard = tally(keeper, round_)
    assert len(heard.senders) >= keeper.budget.weak_quorum, "too few senders for a round"
    voters = {**heard.prevotes, **heard.precommits}
    chosen = sorted(voters)[: keeper.budget.weak_quorum]
    enough = len(chosen) == keeper.budget.weak_quorum
    return RoundCertificate(
        height=keeper.height,
        round=round_,
        votes=tuple(voters[member] for member in chosen),
        proposal=None if enough else heard.proposal,
    )


def polka_chain(keeper: VoteKeeper, round_: Round, block_hash: BlockHash) -> tuple[PolkaCertificate, ...]:
    """Return the polkas known for a block from a round back towards valid round -1, latest first."""
    chain: list[PolkaCertificate] = []
    while (polka := keeper.polkas.get((round_, block_hash))) is not None:
        chain.append(polka)
        round_ = polka.valid_round
    return tuple(chain)


def fullest_commit(keeper: VoteKeeper, certificate: CommitCertificate) -> CommitCertificate:
    """Return a decision's certificate with every precommit heard for it since."""
    votes = {signed.vote.member: signed for signed in commit_votes(certificate)}
    heard = tally(keeper, certificate.round).precommits.values()
    votes |= {signed.vote.member: signed for signed in heard if signed.vote.block_hash == certificate.block_hash}
    return commit_certificate([votes[member] for member in sorted(votes)])


def is_kept(round_: Round, current: Round) -> bool:
    """Tell whether single votes of a round are kept; NO_ROUND counts as round 0."""
    return abs(round_ - max(current, 0)) <= ROUNDS_KEPT


def prune(keeper: VoteKeeper, current: Round) -> VoteKeeper:
    """Forget what lies too far behind the current round; certificates stay, the latest POLKAS_KEPT of them."""
    oldest = current - ROUNDS_KEPT
    polkas = keeper.polkas
    if len(polkas) > POLKAS_KEPT:
        polkas = {place: polkas[place] for place in sorted(polkas)[-POLKAS_KEPT:]}
    return replace(
        keeper,
        tallies={r: heard for r, heard in keeper.tallies.items() if r >= oldest},
        nil_ends={r: ended for r, ended in keeper.nil_ends.items() if r >= oldest},
        polkas=polkas,
    )


def vote_evidence(one: SignedVote, other: SignedVote) -> VoteEvidence:
    """Return the one proof of a fault: the lower encoding first."""
    first, second = sorted((one, other), key=encode)
    return VoteEvidence(first=first, second=second)


def proposal_evidence(one: SignedProposal, other: SignedProposal) -> ProposalEvidence:
    """Return the one proof of a fault: the lower encoding first."""
    first, second = sorted((one, other), key=encode)
    return ProposalEvidence(first=first, second=second)


def _votes_like(heard: RoundTally, signed: SignedVote) -> Mapping[MemberIndex, SignedVote]:
    return heard.prevotes if isinstance(signed.vote, Prevote) else heard.precommits


def _counted(heard: RoundTally, signed: SignedVote) -> RoundTally:
    vote = signed.vote
    nil = int(vote.block_hash is None)
    senders = heard.senders | {vote.member}
    if isinstance(vote, Prevote):
        prevotes = {**heard.prevotes, vote.member: signed}
        return replace(heard, prevotes=prevotes, senders=senders, nil_prevotes=heard.nil_prevotes + nil)
    precommits = {**heard.precommits, vote.member: signed}
    return replace(heard, precommits=precommits, senders=senders, nil_precommits=heard.nil_precommits + nil)


def _with_tally(keeper: VoteKeeper, round_: Round, heard: RoundTally) -> VoteKeeper:
    return replace(keeper, tallies={**keeper.tallies, round_: heard})


def _with_formed(keeper: VoteKeeper, signed: SignedVote) -> VoteKeeper:
    """Form the certificate that this vote completes, if any; each is formed once."""
    vote = signed.vote
    if vote.block_hash is None:
        return _with_nil_end(keeper, vote.round) if isinstance(vote, Precommit) else keeper
    place = (vote.round, vote.block_hash)
    if place in (keeper.polkas if isinstance(vote, Prevote) else keeper.commits):
        return keeper
    alike = _alike(_votes_like(tally(keeper, vote.round), signed), signed)
    if len(alike) < keeper.budget.quorum:
        return keeper
    if isinstance(vote, Prevote):
        return replace(keeper, polkas={**keeper.polkas, place: polka_certificate(alike)})
    return replace(keeper, commits={**keeper.commits, place: commit_certificate(alike)})


def _alike(votes: Mapping[MemberIndex, SignedVote], signed: SignedVote) -> list[SignedVote]:
    wanted = _substance(signed)
    return [other for other in votes.values() if _substance(other) == wanted]


def _substance(signed: SignedVote) -> tuple[BlockHash | None, Round]:
    vote = signed.vote
    return vote.block_hash, vote.valid_round if isinstance(vote, Prevote) else NO_ROUND


def _with_nil_end(keeper: VoteKeeper, ended: Round) -> VoteKeeper:
    heard = tally(keeper, ended)
    if heard.nil_precommits < keeper.budget.quorum or ended in keeper.nil_ends:
        return keeper
    nils = {member: signed for member, signed in heard.precommits.items() if signed.vote.block_hash is None}
    certificate = RoundCertificate(
        height=keeper.height,
        round=Round(ended + 1),
        votes=tuple(nils[member] for member in sorted(nils)),
        proposal=None,
    )
    return replace(keeper, nil_ends={**keeper.nil_ends, ended: certificate})


def _is_nil_precommit(signed: SignedVote, ended: Round) -> bool:
    vote = signed.vote
    return isinstance(vote, Precommit) and vote.round == ended and vote.block_hash is None
