"""A few members in memory, one seed: messages lost, late, doubled and out of order; liars who say two things at once.

Signatures are left out; the core never sees one. After every step the world checks that decisions agree, that nobody
correct is accused and that no correct member signs two values for one place; a failure names the seed.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random

from consensus.driver import HeightContext, HeightState, apply, own_messages, start_state
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
    Event,
    HeightStarted,
    PolkaReceived,
    ProposalReceived,
    TimeoutElapsed,
    Validity,
    ValueReady,
    VoteReceived,
)
from consensus.evidence import fault_place
from consensus.genesis import ConsensusParameters
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, Round, Signature
from consensus.proposals import Proposal, SignedProposal
from consensus.quorum import fault_budget
from consensus.timeouts import rebroadcast_ms, timeout_ms
from consensus.turns import Turns
from consensus.votes import Precommit, Prevote, SignedVote, Vote
from testnet.simulation.twins import event_of

HEIGHT = Height(1)
UNSIGNED = Signature(bytes(64))
PARAMETERS = ConsensusParameters()
Place = tuple[str, Round, MemberIndex]


def block_of(member: int, serial: int) -> BlockHash:
    return BlockHash(bytes([member, serial % 256]) * 16)


@dataclass
class World:
    """n members at one height; the last `silent` are dead from the start, the first `liars` say anything."""

    seed: int
    count: int
    liars: int = 0
    silent: int = 0
    rng: Random = field(init=False)
    states: dict[int, HeightState] = field(init=False)
    mail: list[tuple[int, Event]] = field(default_factory=list[tuple[int, Event]])
    alarms: list[tuple[int, int, int, Event]] = field(default_factory=list[tuple[int, int, int, Event]])
    signed: dict[tuple[str, Round, MemberIndex], Vote] = field(
        default_factory=dict[tuple[str, Round, MemberIndex], Vote]
    )
    decided: dict[int, Decide] = field(default_factory=dict[int, Decide])
    logs: dict[int, list[Event]] = field(default_factory=dict[int, list[Event]])
    blocks: set[BlockHash] = field(default_factory=set[BlockHash])
    now_ms: int = 0
    serial: int = 0

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        budget = fault_budget(self.count)
        turns = Turns(active=tuple(MemberIndex(i) for i in range(self.count)))
        voters = frozenset(turns.active)
        self.states = {
            i: start_state(HeightContext(height=HEIGHT, budget=budget, voters=voters, turns=turns, me=MemberIndex(i)))
            for i in range(self.liars, self.count - self.silent)
        }
        self.logs = {i: [] for i in self.states}
        self.mail = [(i, HeightStarted(height=HEIGHT)) for i in self.states]

    def give(self, member: int, event: Event) -> None:
        """Let one member take an event, and carry out what it asks for."""
        self.logs[member].append(event)
        try:
            self.states[member], effects = apply(self.states[member], event)
        except RejectionError as error:
            assert error.reason is RejectionReason.WRONG_ROUND, f"seed {self.seed}: {error}"  # noqa: PT017
            return
        for effect in effects:
            self.carry_out(member, effect)

    def carry_out(self, member: int, effect: Effect) -> None:
        match effect:
            case AskForValue(round=round_):
                self.serial += 1
                self.blocks.add(block_of(member, self.serial))
                self.give(member, ValueReady(height=HEIGHT, round=round_, block_hash=block_of(member, self.serial)))
            case BroadcastProposal(proposal=proposal, polka=polka):
                assert (polka is None) == (proposal.valid_round == NO_ROUND), f"seed {self.seed}: {proposal}"
                if polka is not None:
                    self.send(PolkaReceived(certificate=polka))
                signed = SignedProposal(proposal=proposal, signature=UNSIGNED)
                self.say(member, ProposalReceived(signed=signed, validity=Validity.VALID))
            case BroadcastVote(vote=vote):
                self.check_signs_once(vote)
                self.say(member, VoteReceived(signed=SignedVote(vote=vote, signature=UNSIGNED)))
            case BroadcastCertificate(certificate=certificate):
                self.send(event_of(certificate))
            case ScheduleTimeout(timeout=timeout):
                self.serial += 1
                due_ms = self.now_ms + timeout_ms(timeout.kind, timeout.round, PARAMETERS)
                heapq.heappush(self.alarms, (due_ms, self.serial, member, TimeoutElapsed(timeout=timeout)))
            case Decide():
                self.check_agrees(member, effect)
            case ReportEvidence(evidence=evidence):
                _, guilty, _, _ = fault_place(evidence)
                assert guilty < self.liars, f"seed {self.seed}: {guilty} accused"

    def check_signs_once(self, vote: Vote) -> None:
        place = (type(vote).__name__, vote.round, vote.member)
        assert self.signed.setdefault(place, vote) == vote, f"seed {self.seed}: two votes at {place}"

    def check_agrees(self, member: int, decide: Decide) -> None:
        assert member not in self.decided, f"seed {self.seed}: member {member} decides twice"
        self.decided[member] = decide
        chosen = {decision.block_hash for decision in self.decided.values()}
        assert len(chosen) == 1, f"seed {self.seed}: a fork"
        assert chosen <= self.blocks, f"seed {self.seed}: nobody proposed this"

    def say(self, member: int, event: Event) -> None:
        """One's own message comes back first, then travels."""
        self.give(member, event)
        self.send(event)

    def send(self, event: Event) -> None:
        self.mail += [(i, event) for i in self.states]

    def step(self, loss: float) -> None:
        """Do one thing at random: deliver, lose, double, fire a timeout early, or lie."""
        luck = self.rng.random()
        if self.mail and luck < 0.85:
            member, event = self.mail.pop(self.rng.randrange(len(self.mail)))
            if self.rng.random() < loss and not isinstance(event, HeightStarted):
                return
            if self.rng.random() < 0.02:
                self.mail.append((member, event))
            self.give(member, event)
        elif self.alarms and luck < 0.95:
            self.fire(self.rng.randrange(len(self.alarms)))
        elif self.liars:
            self.lie()

    def fire(self, position: int) -> None:
        due_ms, _, member, event = self.alarms.pop(position)
        heapq.heapify(self.alarms)
        self.now_ms = max(self.now_ms, due_ms)
        self.give(member, event)

    def lie(self) -> None:
        """Let a liar tell each member something of its own about a current round."""
        liar = MemberIndex(self.rng.randrange(self.liars))
        rounds = [state.machine.round for state in self.states.values()]
        round_ = Round(max(0, self.rng.choice(rounds) + self.rng.choice((0, 0, 0, 1, -1))))
        values = [*sorted(self.blocks), None]
        for member in self.states:
            self.mail.append((member, self.lie_about(liar, round_, self.rng.choice(values))))

    def lie_about(self, liar: MemberIndex, round_: Round, value: BlockHash | None) -> Event:
        turn = next(iter(self.states.values())).context.turns.proposer(HEIGHT, round_) == liar
        if turn and self.rng.random() < 0.5:
            made = block_of(liar, self.rng.randrange(2))
            self.blocks.add(made)
            proposal = Proposal(height=HEIGHT, round=round_, block_hash=made, valid_round=NO_ROUND, proposer=liar)
            signed = SignedProposal(proposal=proposal, signature=UNSIGNED)
            return ProposalReceived(signed=signed, validity=self.rng.choice(list(Validity)))
        vote: Vote = Precommit(height=HEIGHT, round=round_, block_hash=value, member=liar)
        if self.rng.random() < 0.5:
            vote = Prevote(height=HEIGHT, round=round_, block_hash=value, valid_round=NO_ROUND, member=liar)
        return VoteReceived(signed=SignedVote(vote=vote, signature=UNSIGNED))

    def heal(self, deadline_ms: int) -> None:
        """Deliver everything from now on; the stuck repeat themselves; liars fall silent. All must decide in time."""
        end_ms = self.now_ms + deadline_ms
        repeat_ms = self.now_ms
        while len(self.decided) < len(self.states):
            assert self.now_ms <= end_ms, f"seed {self.seed}: no decision within {deadline_ms} ms: {self.rounds()}"
            self.rng.shuffle(self.mail)
            while self.mail:
                self.give(*self.mail.pop())
            if self.alarms and self.alarms[0][0] <= repeat_ms:
                self.fire(0)
            else:
                self.now_ms = max(self.now_ms, repeat_ms)
                self.repeat()
                repeat_ms = self.now_ms + rebroadcast_ms(Round(max(self.rounds())), PARAMETERS)

    def repeat(self) -> None:
        """The shell's duty while stuck; who has decided answers with the proof."""
        for state in self.states.values():
            own = own_messages(state)
            if own.proposal is not None:
                self.send(ProposalReceived(signed=own.proposal, validity=Validity.VALID))
            for signed in own.votes:
                self.send(VoteReceived(signed=signed))
            for certificate in (*own.polkas, own.entry, own.commit):
                if certificate is not None:
                    self.send(event_of(certificate))

    def rounds(self) -> list[Round]:
        return [state.machine.round for state in self.states.values()]
