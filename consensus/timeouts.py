"""How long to wait: T(round) = min(base + delta x round, max), reset at each height (rule A60).

Linear and capped, never doubling. Monotonic clocks and timers live in the shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from consensus.events import TimeoutKind
from consensus.identifiers import Milliseconds

if TYPE_CHECKING:
    from consensus.genesis import ConsensusParameters
    from consensus.identifiers import Round


def timeout_ms(kind: TimeoutKind, round_: Round, parameters: ConsensusParameters) -> Milliseconds:
    """Return T(round) for one kind of timeout."""
    grown_ms = _base_ms(kind, parameters) + parameters.timeout_delta_ms * round_
    return Milliseconds(min(grown_ms, parameters.timeout_max_ms))


def rebroadcast_ms(round_: Round, parameters: ConsensusParameters) -> Milliseconds:
    """Return how often a stuck member repeats itself: one timeout of each kind."""
    return Milliseconds(sum(timeout_ms(kind, round_, parameters) for kind in TimeoutKind))


def clock_drift_ms(round_: Round, parameters: ConsensusParameters) -> Milliseconds:
    """Return how far a fresh block's time may stand from the member's clock: drift + T(round) (rule A52)."""
    return Milliseconds(parameters.clock_drift_ms + timeout_ms(TimeoutKind.PROPOSE, round_, parameters))


def _base_ms(kind: TimeoutKind, parameters: ConsensusParameters) -> Milliseconds:
    match kind:
        case TimeoutKind.PROPOSE:
            return parameters.propose_timeout_ms
        case TimeoutKind.PREVOTE:
            return parameters.prevote_timeout_ms
        case TimeoutKind.PRECOMMIT:
            return parameters.precommit_timeout_ms
        case _:
            assert_never(kind)
