"""Replays conformance vectors through the product's driver; knows their format, no rule and no file name."""

import msgspec

from consensus import events
from consensus.certificates import commit_certificate, polka_certificate
from consensus.driver import FastNil, HeightContext, HeightState, start_state
from consensus.effects import BroadcastProposal, BroadcastVote, Decide, Effect
from consensus.events import Timeout, TimeoutElapsed, TimeoutKind, Validity
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, Round, Signature
from consensus.proposals import Proposal, SignedProposal
from consensus.quorum import custom_budget
from consensus.votes import Precommit, Prevote, SignedVote, Vote

UNSIGNED = Signature(bytes(64))
Seen = dict[str, int | str | None]


def name_of(block_hash: BlockHash | None) -> str | None:
    return None if block_hash is None else block_hash.lstrip(b"\0").decode()


def observed(effect: Effect) -> Seen:
    if isinstance(effect, BroadcastProposal):
        p = effect.proposal
        return {"out": "proposal", "round": p.round, "value": name_of(p.block_hash), "valid_round": p.valid_round}
    if isinstance(effect, BroadcastVote):
        kind = type(effect.vote).__name__.lower()
        return {"out": kind, "round": effect.vote.round, "value": name_of(effect.vote.block_hash)}
    return {"out": "decide", "value": name_of(effect.block_hash)} if isinstance(effect, Decide) else {}


class Input(msgspec.Struct, kw_only=True):
    kind: str = msgspec.field(name="in")
    height: Height | None = None
    round: Round = Round(0)
    value: str | None = None
    valid_round: Round = NO_ROUND
    sender: str | list[str] = msgspec.field(name="from", default="")
    then: Seen | None = None


class Run(msgspec.Struct, kw_only=True):
    member: str
    height: Height
    inputs: list[Input]
    expect: list[Seen]


class Vector(msgspec.Struct, kw_only=True):
    members: list[str]
    quorum: int
    skip: int
    proposers: dict[str, str]
    invalid_values: list[str]
    runs: list[Run]

    def index(self, name: str) -> MemberIndex:
        return MemberIndex([*self.members, "nobody"].index(name))

    def proposer(self, _height: Height, round_: Round, /) -> MemberIndex:
        return self.index(self.proposers.get(str(round_), "nobody"))

    def start(self, run: Run) -> HeightState:
        budget = custom_budget(members=len(self.members), quorum=self.quorum, weak_quorum=self.skip)
        me = self.index(run.member)
        voters = frozenset(self.index(name) for name in self.members)
        return start_state(
            HeightContext(height=run.height, budget=budget, voters=voters, turns=self, me=me, fast_nil=FastNil.OFF)
        )

    def event(self, run: Run, i: Input) -> events.Event:
        height = run.height if i.height is None else i.height
        v = None if i.value is None else BlockHash(i.value.encode().rjust(32, b"\0"))
        if i.kind == "start":
            return events.HeightStarted(height=height)
        if i.kind.startswith("timeout_"):
            return TimeoutElapsed(timeout=Timeout(kind=TimeoutKind(i.kind[8:]), height=height, round=i.round))
        if i.kind == "value" and v:
            return events.ValueReady(height=height, round=i.round, block_hash=v)
        senders = [self.index(name) for name in ([i.sender] if isinstance(i.sender, str) else i.sender)]
        if i.kind == "proposal" and v:
            validity = Validity.INVALID if i.value in self.invalid_values else Validity.VALID
            p = Proposal(height=height, round=i.round, block_hash=v, valid_round=i.valid_round, proposer=senders[0])
            return events.ProposalReceived(signed=SignedProposal(proposal=p, signature=UNSIGNED), validity=validity)
        proposed = {(p.round, p.value): p.valid_round for p in run.inputs if p.kind == "proposal"}
        vr = proposed.get((i.round, i.value), NO_ROUND)
        cast: list[Vote] = [Precommit(height=height, round=i.round, block_hash=v, member=m) for m in senders]
        if i.kind.startswith("prevote"):
            cast = [Prevote(height=height, round=i.round, block_hash=v, valid_round=vr, member=m) for m in senders]
        votes = [SignedVote(vote=vote, signature=UNSIGNED) for vote in cast]
        if i.kind == "prevote_certificate":
            return events.PolkaReceived(certificate=polka_certificate(votes))
        certified = i.kind == "precommit_certificate"
        return (
            events.CommitReceived(certificate=commit_certificate(votes))
            if certified
            else events.VoteReceived(signed=votes[0])
        )
