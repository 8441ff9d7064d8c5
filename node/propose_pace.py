"""How long this member waits for a proposal: its own experience in place of the genesis parameter (rule A65).

The base is 4 x the 95th percentile of how long the last proposals took, within [200 ms, 2 s]; genesis' own until enough
were seen. For a proposer of whom nothing was heard for 10 s the wait is cut to twice the usual delay, in rounds below 4
alone: from there on the full timeout runs, so that a wrong guess about one's own network costs rounds, never progress.

Local: other members wait by their own experience. No clock of its own; moments are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from consensus.events import TimeoutKind
from consensus.identifiers import Milliseconds
from consensus.timeouts import timeout_ms
from node.start_rule import GOSSIP_S

if TYPE_CHECKING:
    from consensus.events import Timeout
    from consensus.genesis import ConsensusParameters
    from consensus.identifiers import MemberIndex, Round

SAMPLES_MAX: Final = 64
"""Proposals remembered: seven turns of nine members."""
SAMPLES_MIN: Final = 16
"""Fewer have no 95th percentile worth the name."""
BASE_FACTOR: Final = 4
BASE_S_MIN: Final = 0.2
BASE_S_MAX: Final = 2.0
SILENT_S: Final = 10.0
"""Two status messages of a member with nothing to do."""
SHORT_ROUNDS: Final = 4


class ProposePace:
    """What one member knows of how fast proposals come and who speaks."""

    __slots__ = ("_awaited", "_delays", "_heard", "_opened_at")

    def __init__(self, now: float) -> None:
        self._opened_at = now
        self._delays: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._heard: dict[MemberIndex, float] = {}
        self._awaited: dict[Round, float] = {}

    def begin_height(self) -> None:
        """No proposal of the height before is awaited any more."""
        self._awaited.clear()

    def hear(self, member: MemberIndex, now: float) -> None:
        """A member said something."""
        self._heard[member] = now

    def is_silent(self, member: MemberIndex, now: float) -> bool:
        """Say whether nothing was heard of a member for SILENT_S."""
        return now - self._heard.get(member, self._opened_at) >= SILENT_S

    def note_proposal(self, round_: Round, now: float) -> None:
        """The proposal of a round came, perhaps after its timeout; one that came before it was awaited took no time."""
        self._delays.append(max(0.0, now - self._awaited.pop(round_, now)))

    def wait_s(self, timeout: Timeout, proposer: MemberIndex, parameters: ConsensusParameters, now: float) -> float:
        """Return how long a timeout runs from now; that of propose by what was seen, the others by genesis."""
        if timeout.kind is not TimeoutKind.PROPOSE:
            return timeout_ms(timeout.kind, timeout.round, parameters) / 1000
        self._awaited.setdefault(timeout.round, now)
        base_ms = Milliseconds(round(self._base_s(parameters) * 1000))
        full_s = timeout_ms(timeout.kind, timeout.round, replace(parameters, propose_timeout_ms=base_ms)) / 1000
        if timeout.round < SHORT_ROUNDS and self.is_silent(proposer, now):
            return min(full_s, max(GOSSIP_S, 2 * self._usual_s()))
        return full_s

    def _base_s(self, parameters: ConsensusParameters) -> float:
        if len(self._delays) < SAMPLES_MIN:
            return parameters.propose_timeout_ms / 1000
        return min(max(BASE_FACTOR * self._usual_s(), BASE_S_MIN), BASE_S_MAX)

    def _usual_s(self) -> float:
        """Return the 95th percentile of the delays, 0 when there are none."""
        if not self._delays:
            return 0.0
        return sorted(self._delays)[math.ceil(0.95 * len(self._delays)) - 1]
