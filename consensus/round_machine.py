"""One round after another at one height: Algorithm 1 of "The latest gossip on BFT consensus" (arXiv 1807.04938).

`apply(state, input) -> (state, outputs)`. The driver says what is true (a proposal is here, a quorum is here); this
file says what follows. Each branch cites the paper's line. Two branches are stricter than the paper: L22 prevotes only
when nothing is locked, L28 only when the lock is earlier than the valid round, or is the valid round's own
(docs/decisions/0002-stricter-prevotes.md). An input that no rule expects in this state changes nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct
from msgspec.structs import replace

from consensus.events import TimeoutKind, Validity
from consensus.identifiers import NO_ROUND, Round

if TYPE_CHECKING:
    from consensus.identifiers import BlockHash


class Step(Enum):
    """Where in a round a member stands."""

    NEW = auto()
    """Before round 0: messages are counted, nothing is sent."""
    PROPOSE = auto()
    PREVOTE = auto()
    PRECOMMIT = auto()


class Once(Enum):
    """What happens at most once in a round."""

    PROPOSED = auto()
    PREVOTE_TIMEOUT = auto()
    PRECOMMIT_TIMEOUT = auto()
    POLKA = auto()


class Role(Enum):
    """Whether it is this member's turn."""

    PROPOSER = auto()
    VOTER = auto()


class RoundValue(Struct, frozen=True, kw_only=True):
    """A block and the round in which it was locked or seen valid."""

    round: Round
    block_hash: BlockHash


class RoundState(Struct, frozen=True, kw_only=True):
    """The paper's variables: round_p, step_p, lockedValue and lockedRound, validValue and validRound."""

    round: Round = NO_ROUND
    step: Step = Step.NEW
    locked: RoundValue | None = None
    valid: RoundValue | None = None
    done: frozenset[Once] = frozenset()


class RoundStarted(Struct, frozen=True, kw_only=True):
    """Enter a round later than the current one."""

    round: Round
    role: Role


class ValueGiven(Struct, frozen=True, kw_only=True):
    """The application has built a block for the current round."""

    block_hash: BlockHash


class FreshProposal(Struct, frozen=True, kw_only=True):
    """The current round's proposal, without a valid round."""

    block_hash: BlockHash
    validity: Validity


class ProvenProposal(Struct, frozen=True, kw_only=True):
    """The current round's proposal with a valid round, and the polka of that round is here."""

    block_hash: BlockHash
    valid_round: Round
    validity: Validity


class PolkaSeen(Struct, frozen=True, kw_only=True):
    """The current round's proposal is here and valid, and so are q prevotes for it."""

    block_hash: BlockHash


class EarlierPolkaShown(Struct, frozen=True, kw_only=True):
    """A certificate shows the polka of an earlier round for a valid block that is here."""

    value: RoundValue


class NilPolkaSeen(Struct, frozen=True, kw_only=True):
    """q prevotes for nil in the current round."""


class PrevoteQuorumSeen(Struct, frozen=True, kw_only=True):
    """q prevotes of any kind in the current round."""


class PrecommitQuorumSeen(Struct, frozen=True, kw_only=True):
    """q precommits of any kind in the current round."""


class TimedOut(Struct, frozen=True, kw_only=True):
    """A timeout of the current round."""

    kind: TimeoutKind


RoundInput = (
    RoundStarted
    | ValueGiven
    | FreshProposal
    | ProvenProposal
    | PolkaSeen
    | EarlierPolkaShown
    | NilPolkaSeen
    | PrevoteQuorumSeen
    | PrecommitQuorumSeen
    | TimedOut
)


class AskValue(Struct, frozen=True, kw_only=True):
    """Ask the application for a block."""


class Propose(Struct, frozen=True, kw_only=True):
    """Propose this block, with its valid round."""

    block_hash: BlockHash
    valid_round: Round


class CastPrevote(Struct, frozen=True, kw_only=True):
    """Prevote a block with its proposal's valid round, or nil."""

    block_hash: BlockHash | None
    valid_round: Round


class CastPrecommit(Struct, frozen=True, kw_only=True):
    """Precommit a block or nil."""

    block_hash: BlockHash | None


class ShowPolka(Struct, frozen=True, kw_only=True):
    """Send the polka by which this block was locked just now."""

    block_hash: BlockHash


class StartTimer(Struct, frozen=True, kw_only=True):
    """Start a timeout of the current round."""

    kind: TimeoutKind


class LeaveRound(Struct, frozen=True, kw_only=True):
    """The round has ended without a decision: enter the next."""


RoundOutput = AskValue | Propose | CastPrevote | CastPrecommit | ShowPolka | StartTimer | LeaveRound
Transition = tuple[RoundState, tuple[RoundOutput, ...]]


def apply(state: RoundState, given: RoundInput) -> Transition:
    """Return what the paper's rule for this input makes of the state, and what it sends or schedules."""
    match given:
        case RoundStarted():
            return _start_round(state, given)
        case ValueGiven(block_hash=block_hash):
            return _propose_value(state, block_hash)
        case FreshProposal() | ProvenProposal():
            return _prevote(state, given)
        case PolkaSeen(block_hash=block_hash):
            return _lock(state, block_hash)
        case EarlierPolkaShown(value=value):
            return _learn_valid(state, value)
        case NilPolkaSeen():
            return _precommit_nil(state)
        case PrevoteQuorumSeen():
            return _schedule_prevote_timeout(state)
        case PrecommitQuorumSeen():
            return _schedule_precommit_timeout(state)
        case TimedOut(kind=kind):
            return _time_out(state, kind)
        case _:
            assert_never(given)


def may_prevote(state: RoundState, given: FreshProposal | ProvenProposal) -> bool:
    """Tell whether the lock allows a prevote for the proposal; the stricter form of L23 and L29."""
    if given.validity is not Validity.VALID:
        return False
    if isinstance(given, FreshProposal):
        return state.locked is None
    earliest = RoundValue(round=given.valid_round, block_hash=given.block_hash)
    return state.locked is None or state.locked.round < given.valid_round or state.locked == earliest


def _start_round(state: RoundState, given: RoundStarted) -> Transition:
    # L11-L13: StartRound.
    assert given.round > state.round, "rounds only grow"
    state = replace(state, round=given.round, step=Step.PROPOSE, done=frozenset())
    timer = StartTimer(kind=TimeoutKind.PROPOSE)  # L21, for the proposer too: its application may be slow.
    if given.role is Role.VOTER:
        return state, (timer,)
    if state.valid is None:
        return state, (AskValue(), timer)  # L18
    # L15-L16 and L19: the valid value again, with its valid round.
    proposal = Propose(block_hash=state.valid.block_hash, valid_round=state.valid.round)
    return _once(state, Once.PROPOSED), (proposal, timer)


def _propose_value(state: RoundState, block_hash: BlockHash) -> Transition:
    # L18-L19. Too late (prevoted nil already) or twice: silence.
    if state.step is not Step.PROPOSE or Once.PROPOSED in state.done:
        return state, ()
    return _once(state, Once.PROPOSED), (Propose(block_hash=block_hash, valid_round=NO_ROUND),)


def _prevote(state: RoundState, given: FreshProposal | ProvenProposal) -> Transition:
    # L22-L27 and L28-L33.
    if state.step is not Step.PROPOSE:
        return state, ()
    state_after = replace(state, step=Step.PREVOTE)
    if not may_prevote(state, given):
        return state_after, (CastPrevote(block_hash=None, valid_round=NO_ROUND),)
    valid_round = given.valid_round if isinstance(given, ProvenProposal) else NO_ROUND
    return state_after, (CastPrevote(block_hash=given.block_hash, valid_round=valid_round),)


def _lock(state: RoundState, block_hash: BlockHash) -> Transition:
    # L36-L43, for the first time in this round.
    if state.step not in {Step.PREVOTE, Step.PRECOMMIT} or Once.POLKA in state.done:
        return state, ()
    value = RoundValue(round=state.round, block_hash=block_hash)
    state_after = _once(replace(state, valid=value), Once.POLKA)  # L42-L43
    if state.step is Step.PRECOMMIT:
        return state_after, ()
    # L38-L41
    locked = replace(state_after, locked=value, step=Step.PRECOMMIT)
    return locked, (ShowPolka(block_hash=block_hash), CastPrecommit(block_hash=block_hash))


def _learn_valid(state: RoundState, value: RoundValue) -> Transition:
    # L42-L43 for an earlier round, by certificate: the next proposer must hear of a hidden lock. The lock stays.
    assert value.round < state.round, "the current round's polka is L36's"
    if state.valid is not None and state.valid.round >= value.round:
        return state, ()
    return replace(state, valid=value), ()


def _precommit_nil(state: RoundState) -> Transition:
    # L44-L46
    if state.step is not Step.PREVOTE:
        return state, ()
    return replace(state, step=Step.PRECOMMIT), (CastPrecommit(block_hash=None),)


def _schedule_prevote_timeout(state: RoundState) -> Transition:
    # L34-L35, for the first time in this round.
    if state.step is not Step.PREVOTE or Once.PREVOTE_TIMEOUT in state.done:
        return state, ()
    return _once(state, Once.PREVOTE_TIMEOUT), (StartTimer(kind=TimeoutKind.PREVOTE),)


def _schedule_precommit_timeout(state: RoundState) -> Transition:
    # L47-L48, for the first time in this round, in any step.
    if state.step is Step.NEW or Once.PRECOMMIT_TIMEOUT in state.done:
        return state, ()
    return _once(state, Once.PRECOMMIT_TIMEOUT), (StartTimer(kind=TimeoutKind.PRECOMMIT),)


def _time_out(state: RoundState, kind: TimeoutKind) -> Transition:
    match kind, state.step:
        case TimeoutKind.PROPOSE, Step.PROPOSE:  # L57-L60
            return replace(state, step=Step.PREVOTE), (CastPrevote(block_hash=None, valid_round=NO_ROUND),)
        case TimeoutKind.PREVOTE, Step.PREVOTE:  # L61-L64
            return replace(state, step=Step.PRECOMMIT), (CastPrecommit(block_hash=None),)
        case TimeoutKind.PRECOMMIT, Step.PROPOSE | Step.PREVOTE | Step.PRECOMMIT:  # L65-L67
            return state, (LeaveRound(),)
        case _:
            return state, ()


def _once(state: RoundState, what: Once) -> RoundState:
    return replace(state, done=state.done | {what})
