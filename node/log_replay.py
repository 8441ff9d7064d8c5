"""From a log back to where the member was: the state, the blocks it held, and what it had not done yet.

Pure. Replaying the inputs of a height gives the state before the crash (rule D13). An effect
whose own event stands in the log was carried out; the others are done again, and the signer record sees to it that the
same statement gets the same signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from consensus.blocks import Block
from consensus.driver import apply
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
from consensus.errors import RejectionError
from consensus.events import ProposalReceived, TimeoutElapsed, ValueReady, VoteReceived

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.events import Event
    from consensus.height_state import HeightState
    from node.write_ahead_log import LogContents


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a log gave."""

    state: HeightState
    blocks: tuple[Block, ...]
    """Proposed at this height and found valid."""
    asked: tuple[Effect, ...]
    """What the core asked for, in order."""
    unfinished: tuple[Effect, ...]
    """Asked for before the crash and not known to be done, in order."""


def replay_log(state: HeightState, contents: LogContents) -> Replayed:
    """Apply a log's inputs to the start of its height; what the core refused then it refuses again."""
    blocks = tuple(entry for entry in contents.entries if isinstance(entry, Block))
    events = tuple(entry for entry in contents.entries if not isinstance(entry, Block))
    asked: list[Effect] = []
    for event in events:
        try:
            state, effects = apply(state, event)
        except RejectionError:
            continue
        asked += effects
    unfinished = tuple(effect for effect in asked if not _is_done(effect, events))
    return Replayed(state=state, blocks=blocks, asked=tuple(asked), unfinished=unfinished)


def _is_done(effect: Effect, events: Sequence[Event]) -> bool:
    """Say whether the log holds the event that follows from an effect."""
    match effect:
        case AskForValue(round=round_):
            return any(isinstance(event, ValueReady) and event.round == round_ for event in events)
        case BroadcastProposal(proposal=proposal):
            return any(isinstance(event, ProposalReceived) and event.signed.proposal == proposal for event in events)
        case BroadcastVote(vote=vote):
            return any(isinstance(event, VoteReceived) and event.signed.vote == vote for event in events)
        case ScheduleTimeout(timeout=timeout):
            return any(isinstance(event, TimeoutElapsed) and event.timeout == timeout for event in events)
        case BroadcastCertificate() | Decide():
            return True  # certificates are repeated while stuck; a decision is appended after the replay
        case ReportEvidence():
            return False
        case _:
            assert_never(effect)
