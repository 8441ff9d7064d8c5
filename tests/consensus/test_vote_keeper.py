"""The tally against a model that keeps every vote and counts anew each time."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from consensus.certificates import commit_certificate, polka_certificate, signers
from consensus.evidence import VoteEvidence
from consensus.identifiers import BlockHash, MemberIndex, Round, Signature
from consensus.quorum import fault_budget
from consensus.vote_keeper import (
    add_commit,
    add_polka,
    add_vote,
    entry_by_messages,
    entry_by_precommits,
    has_nil_polka,
    has_precommit_quorum,
    has_prevote_quorum,
    new_keeper,
    prune,
    skip_round,
)
from consensus.votes import Precommit, Prevote, SignedVote, Vote
from tests.consensus.messages_by_hand import BLUE, HEIGHT, RED

SIZE = 7
BUDGET = fault_budget(SIZE)
members = st.integers(0, SIZE - 1).map(MemberIndex)
rounds = st.integers(0, 2).map(Round)
values = st.sampled_from([RED, BLUE, None])
Place = tuple[str, Round, MemberIndex]


def unsigned(vote: Vote) -> SignedVote:
    return SignedVote(vote=vote, signature=Signature(bytes(64)))


class KeeperMachine(RuleBasedStateMachine):
    """Votes and certificates in any order; every threshold is compared with a plain count."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper = new_keeper(HEIGHT, BUDGET)
        self.first: dict[Place, Vote] = {}
        self.accused: Counter[Place] = Counter()
        self.shown: set[tuple[str, Round, BlockHash]] = set()

    def heard(self, vote: Vote) -> None:
        place = (type(vote).__name__, vote.round, vote.member)
        first = self.first.setdefault(place, vote)
        self.keeper, evidence = add_vote(self.keeper, unsigned(vote))
        if evidence is not None:
            assert isinstance(evidence, VoteEvidence)
            assert first != vote
            assert {evidence.first.vote, evidence.second.vote} == {first, vote}
            self.accused[place] += 1
        elif first != vote:
            assert self.accused[place] == 1

    @rule(member=members, round_=rounds, value=values, proven=st.booleans())
    def prevote(self, member: MemberIndex, round_: Round, value: BlockHash | None, *, proven: bool) -> None:
        valid_round = Round(round_ - 1 if proven and value else -1)
        self.heard(Prevote(height=HEIGHT, round=round_, block_hash=value, valid_round=valid_round, member=member))

    @rule(member=members, round_=rounds, value=values)
    def precommit(self, member: MemberIndex, round_: Round, value: BlockHash | None) -> None:
        self.heard(Precommit(height=HEIGHT, round=round_, block_hash=value, member=member))

    @rule(round_=rounds, value=st.sampled_from([RED, BLUE]), signed_by=st.sets(members, min_size=BUDGET.quorum))
    def polka(self, round_: Round, value: BlockHash, signed_by: set[MemberIndex]) -> None:
        votes = [
            Prevote(height=HEIGHT, round=round_, block_hash=value, valid_round=Round(-1), member=member)
            for member in sorted(signed_by)
        ]
        known = (round_, value) in self.keeper.polkas
        self.keeper, found = add_polka(self.keeper, polka_certificate([unsigned(vote) for vote in votes]))
        if not known:
            self.shown.add(("Prevote", round_, value))
            self.expect(votes, len(found))

    @rule(round_=rounds, value=st.sampled_from([RED, BLUE]), signed_by=st.sets(members, min_size=BUDGET.quorum))
    def commit(self, round_: Round, value: BlockHash, signed_by: set[MemberIndex]) -> None:
        votes = [
            Precommit(height=HEIGHT, round=round_, block_hash=value, member=member) for member in sorted(signed_by)
        ]
        self.keeper, found = add_commit(self.keeper, commit_certificate([unsigned(vote) for vote in votes]))
        self.shown.add(("Precommit", round_, value))
        self.expect(votes, len(found))

    def expect(self, votes: list[Prevote] | list[Precommit], found: int) -> None:
        """The votes of a certificate count and accuse like any other."""
        accused = 0
        for vote in votes:
            place = (type(vote).__name__, vote.round, vote.member)
            if self.first.setdefault(place, vote) != vote and not self.accused[place]:
                self.accused[place] += 1
                accused += 1
        assert accused == found

    def count(self, kind: str, round_: Round, *, nil_only: bool) -> int:
        votes = [vote for (k, r, _), vote in self.first.items() if (k, r) == (kind, round_)]
        return len([vote for vote in votes if not (nil_only and vote.block_hash)])

    @invariant()
    def thresholds_are_those_of_a_plain_count(self) -> None:
        for round_ in (Round(0), Round(1), Round(2)):
            prevotes = self.count("Prevote", round_, nil_only=False)
            precommits = self.count("Precommit", round_, nil_only=False)
            assert has_prevote_quorum(self.keeper, round_) == (prevotes >= BUDGET.quorum)
            assert has_precommit_quorum(self.keeper, round_) == (precommits >= BUDGET.quorum)
            nils = self.count("Prevote", round_, nil_only=True)
            assert has_nil_polka(self.keeper, round_) == (nils >= BUDGET.quorum)
            ended = self.count("Precommit", round_, nil_only=True) >= BUDGET.quorum
            assert (round_ in self.keeper.nil_ends) == ended
            entry = entry_by_precommits(self.keeper, Round(round_ + 1))
            assert (entry is not None) == (precommits >= BUDGET.quorum)

    @invariant()
    def certificates_exist_where_a_quorum_agreed_or_one_was_shown(self) -> None:
        agreed = Counter(
            (kind, round_, vote.block_hash, vote.valid_round if isinstance(vote, Prevote) else -1)
            for (kind, round_, _), vote in self.first.items()
            if vote.block_hash is not None
        )
        formed = {(kind, r, value) for (kind, r, value, _), votes in agreed.items() if votes >= BUDGET.quorum and value}
        held = {("Prevote", *place) for place in self.keeper.polkas}
        held |= {("Precommit", *place) for place in self.keeper.commits}
        assert held == formed | self.shown
        assert all(len(signers(polka)) >= BUDGET.quorum for polka in self.keeper.polkas.values())
        assert all(len(signers(commit)) >= BUDGET.quorum for commit in self.keeper.commits.values())

    @invariant()
    def later_rounds_need_distinct_senders(self) -> None:
        senders = {r: {member for (_, at, member) in self.first if at == r} for r in (0, 1, 2)}
        later = [r for r in (1, 2) if len(senders[r]) >= BUDGET.weak_quorum]
        assert skip_round(self.keeper, Round(0)) == max(later, default=None)
        for r in later:
            assert len(entry_by_messages(self.keeper, Round(r)).votes) == BUDGET.weak_quorum

    @invariant()
    def pruning_forgets_nothing_near(self) -> None:
        assert prune(self.keeper, Round(2)) == self.keeper


KeeperMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
test_the_tally_is_a_plain_count = KeeperMachine.TestCase
