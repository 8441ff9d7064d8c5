"""A member at one height, driven by hand: its own votes come back to it, as the shell's do."""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.certificates import Certificate, RoundCertificate
from consensus.driver import (
    FastNil,
    HeightContext,
    HeightState,
    apply,
    start_state,
)
from consensus.effects import (
    BroadcastCertificate,
    BroadcastVote,
    Decide,
    Effect,
    ReportEvidence,
    ScheduleTimeout,
)
from consensus.events import (
    Event,
    HeightStarted,
    ProposalReceived,
    Timeout,
    TimeoutElapsed,
    TimeoutKind,
    Validity,
    VoteReceived,
)
from consensus.identifiers import BlockHash, MemberIndex, Round
from consensus.quorum import fault_budget
from consensus.round_machine import RoundValue
from consensus.turns import Turns
from consensus.votes import Prevote, SignedVote
from tests.consensus.messages_by_hand import HEIGHT, RED, precommit, prevote, proposal

ME = MemberIndex(3)
OTHERS = (0, 1, 2, 4, 5, 6, 7, 8)


def context(me: MemberIndex | None = ME, fast_nil: FastNil = FastNil.ON) -> HeightContext:
    turns = Turns(active=tuple(MemberIndex(i) for i in range(9)))
    return HeightContext(
        height=HEIGHT,
        budget=fault_budget(9),
        voters=frozenset(MemberIndex(i) for i in range(9)),
        turns=turns,
        me=me,
        fast_nil=fast_nil,
    )


@dataclass
class Seat:
    """A member whose own messages come back to it, as the shell's do."""

    state: HeightState = field(default_factory=lambda: start_state(context()))
    effects: list[Effect] = field(default_factory=list[Effect])

    def take(self, *given: Event) -> Seat:
        for event in given:
            self.state, effects = apply(self.state, event)
            self.effects += effects
            for effect in effects:
                if isinstance(effect, BroadcastVote):
                    own = effect.vote
                    rebuild = (
                        prevote(own.member, own.block_hash, own.round, own.valid_round)
                        if isinstance(own, Prevote)
                        else precommit(own.member, own.block_hash, own.round)
                    )
                    self.take(VoteReceived(signed=rebuild))
        return self

    def hear(self, *votes: SignedVote) -> Seat:
        return self.take(*(VoteReceived(signed=signed) for signed in votes))

    def propose(
        self, block_hash: BlockHash, round_: int = 0, valid_round: int = -1, validity: Validity = Validity.VALID
    ) -> Seat:
        signed = proposal(1 + round_, block_hash, round_, valid_round)
        return self.take(ProposalReceived(signed=signed, validity=validity))

    def expire(self, kind: TimeoutKind, round_: int = 0) -> Seat:
        return self.take(TimeoutElapsed(timeout=Timeout(kind=kind, height=HEIGHT, round=Round(round_))))

    @property
    def votes(self) -> list[tuple[str, int, BlockHash | None]]:
        cast = [effect.vote for effect in self.effects if isinstance(effect, BroadcastVote)]
        return [(type(vote).__name__, vote.round, vote.block_hash) for vote in cast]

    @property
    def timers(self) -> list[tuple[TimeoutKind, int]]:
        started = [effect.timeout for effect in self.effects if isinstance(effect, ScheduleTimeout)]
        return [(timeout.kind, timeout.round) for timeout in started]

    @property
    def shown(self) -> list[Certificate]:
        return [effect.certificate for effect in self.effects if isinstance(effect, BroadcastCertificate)]

    @property
    def decisions(self) -> list[Decide]:
        return [effect for effect in self.effects if isinstance(effect, Decide)]

    @property
    def evidence(self) -> list[object]:
        return [effect.evidence for effect in self.effects if isinstance(effect, ReportEvidence)]


def started() -> Seat:
    return Seat().take(HeightStarted(height=HEIGHT))


def locked_on_red() -> Seat:
    """Locked in round 0, then in round 1 by timeout, nothing decided."""
    seat = started().propose(RED).hear(*[prevote(m, RED) for m in OTHERS[:5]])
    seat.hear(*[precommit(m, None) for m in OTHERS[:5]]).expire(TimeoutKind.PRECOMMIT)
    assert seat.state.machine.locked == RoundValue(round=Round(0), block_hash=RED)
    assert seat.state.machine.round == 1
    return seat


def right_to(round_: int, block_hash: BlockHash | None = None) -> RoundCertificate:
    votes = tuple(precommit(m, block_hash, round_) for m in (0, 4, 8))
    return RoundCertificate(height=HEIGHT, round=Round(round_), votes=votes, proposal=None)
