"""Links between the nodes: every frame is lost, doubled, late or cut off as the hour has it; none is changed.

Harsher than what stands below a real node (streams keep their order and lose nothing while they last), so that nothing
depends on it. In calm weather a frame takes CALM_US and none is lost.
"""

from __future__ import annotations

import struct
from collections import Counter
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from testnet.simulation.timeline import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from testnet.simulation.timeline import Timeline

CALM_US: Final = (1_000, 20_000)
LATE_US: Final = 10 * SECOND_US
TRACE: Final = struct.Struct(">QBBI")


class Trace:
    """A hash over everything that happens: equal for equal seeds, on any machine and under any hash seed."""

    __slots__ = ("_hash", "_timeline")

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._hash = blake2b(digest_size=16)

    def add(self, sender: int, receiver: int, frame: bytes) -> None:
        """Note that something passes between two seats."""
        self._hash.update(TRACE.pack(self._timeline.now_us, sender, receiver, len(frame)) + frame)

    def hexdigest(self) -> str:
        """Return the hash so far."""
        return self._hash.hexdigest()


class Network:
    """All links of a world."""

    def __init__(self, timeline: Timeline, rng: Random, trace: Trace) -> None:
        self._timeline = timeline
        self._rng = rng
        self._trace = trace
        self._cuts: Counter[tuple[int, int]] = Counter()
        self.loss = 0.0
        self.duplicates = 0.0
        self.late = 0.0
        """Shares of frames that are lost, doubled, and up to LATE_US late."""
        self.lost = 0

    def send(self, sender: int, receiver: int, frame: bytes, deliver: Callable[[int, int, bytes], None]) -> None:
        """Have a frame delivered some time, perhaps."""
        self._trace.add(sender, receiver, frame)
        rng = self._rng
        if (sender, receiver) in self._cuts or (self.loss and rng.random() < self.loss):
            self.lost += 1
            return
        self._schedule(sender, receiver, frame, deliver)
        if self.duplicates and rng.random() < self.duplicates:
            self._schedule(sender, receiver, frame, deliver)

    def cut(self, sender: int, receiver: int) -> None:
        """Let nothing pass in one direction, what is under way included."""
        self._cuts[sender, receiver] += 1

    def mend(self, sender: int, receiver: int) -> None:
        """Undo one cut."""
        self._cuts[sender, receiver] -= 1
        if self._cuts[sender, receiver] <= 0:
            del self._cuts[sender, receiver]

    def heal(self) -> None:
        """Calm weather."""
        self._cuts.clear()
        self.loss = self.duplicates = self.late = 0.0

    def _schedule(self, sender: int, receiver: int, frame: bytes, deliver: Callable[[int, int, bytes], None]) -> None:
        rng = self._rng
        span_us = int(CALM_US[0] + rng.random() * (CALM_US[1] - CALM_US[0]))
        if self.late and rng.random() < self.late:
            span_us = int(rng.random() * LATE_US)
        self._timeline.after(span_us, partial(self._arrive, sender, receiver, frame, deliver))

    def _arrive(self, sender: int, receiver: int, frame: bytes, deliver: Callable[[int, int, bytes], None]) -> None:
        if (sender, receiver) in self._cuts:
            self.lost += 1
        else:
            deliver(sender, receiver, frame)
