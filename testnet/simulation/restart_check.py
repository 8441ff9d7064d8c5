"""What a correct node knew when it last spoke, compared with what it knows once its process is back.

- No signature that left is missing in the record.
- No input that led to a statement is forgotten: the log still holds it, and gives the state of that moment again.
- No lock is forgotten: whoever precommitted a block is locked on it, or on a later one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from consensus.height_state import start_state
from consensus.round_machine import RoundValue
from consensus.votes import Precommit
from node.log_replay import replay_log
from node.signer import position_of
from testnet.simulation.checkers import Invariant, InvariantError

if TYPE_CHECKING:
    from consensus.height_state import HeightState
    from consensus.identifiers import Height
    from consensus.votes import Vote
    from node.signer import Position
    from node.write_ahead_log import LogContents


@dataclass(frozen=True, slots=True)
class _Spoken:
    """What a node said last, in which state, and how many entries of its log led there."""

    position: Position
    state: HeightState
    entry_count: int


class RestartCheck:
    """Watches one node across its restarts."""

    def __init__(self) -> None:
        self._spoken: _Spoken | None = None
        self._lock: tuple[Height, RoundValue] | None = None

    def on_vote(self, vote: Vote, state: HeightState, entry_count: int) -> None:
        """A vote has just left."""
        self._spoken = _Spoken(position_of(vote), state, entry_count)
        if isinstance(vote, Precommit) and vote.block_hash is not None:
            self._lock = vote.height, RoundValue(round=vote.round, block_hash=vote.block_hash)

    def on_start(self, signed: Position | None, contents: LogContents | None, here: Height) -> None:
        """A process begins with a record up to this position and this log, at a height; raises InvariantError."""
        spoken = self._spoken
        if spoken is None:
            return
        if signed is None or signed < spoken.position:
            raise InvariantError(Invariant.SIGNED_ONCE, f"{spoken.position} has left, the record ends at {signed}")
        if spoken.state.context.height < here:
            return  # decided since: what led to it is history
        height = spoken.state.context.height
        if contents is None or contents.height != height:
            raise InvariantError(Invariant.REPLAY_IS_STATE, f"the log of height {height} is gone")
        entries = contents.entries[: spoken.entry_count]
        replayed = replay_log(start_state(spoken.state.context), replace(contents, entries=entries))
        if len(entries) < spoken.entry_count or replayed.state != spoken.state:
            detail = f"height {height}: {len(contents.entries)} entries of at least {spoken.entry_count}"
            raise InvariantError(Invariant.REPLAY_IS_STATE, detail)

    def on_recovered(self, state: HeightState) -> None:
        """The process has read its log; raises InvariantError."""
        if self._lock is None or self._lock[0] != state.context.height:
            return
        known, found = self._lock[1], state.machine.locked
        if found is None or found.round < known.round or (found.round == known.round and found != known):
            raise InvariantError(Invariant.LOCK_SAFETY, f"height {self._lock[0]}: locked {known} before, {found} after")
