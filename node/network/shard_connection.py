"""What both ends of a shard connection share: what waits to be sent, and deadlines (rules in shard_channel.py)."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from node.errors import PeerUnreachableError
from node.network.tls_pipe import TlsPipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from consensus.identifiers import Buffer

WINDOW: Final = 8
"""Open requests of one connection: 8 MiB in flight fill a link of 1 Gbit/s with 60 ms of delay."""
SHORT_FRAME_BYTES: Final = 64 * 1024
HANDSHAKE_S: Final = 10.0
FRAME_S: Final = 30.0
"""From a frame's length to its last byte, and for sending one: 1.3 MiB at 44 kB/s."""


class Outbox:
    """Frames waiting to be sent, short ones first; bounded by the window of open requests."""

    def __init__(self) -> None:
        self._short: deque[_Departure] = deque()
        self._long: deque[_Departure] = deque()
        self._waiting = trio.Event()

    async def send(self, frame: tuple[Buffer, ...]) -> None:
        """Return once the frame has left; a cancelled caller takes it back unless it is leaving already."""
        queue = self._short if sum(memoryview(part).nbytes for part in frame) <= SHORT_FRAME_BYTES else self._long
        departure = _Departure(frame)
        queue.append(departure)
        self._waiting.set()
        try:
            await departure.left.wait()
        finally:
            if departure in queue:
                queue.remove(departure)

    async def send_all(self, pipe: TlsPipe) -> None:
        """Send for ever.

        Raises:
            PeerUnreachableError: Gone, or the peer takes nothing.
        """
        while True:
            await self._waiting.wait()
            queue = self._short or self._long
            if not queue:
                self._waiting = trio.Event()
                continue
            departure = queue.popleft()
            try:
                with deadline(FRAME_S, "room to send"):
                    await pipe.send_frame(departure.frame)
            finally:
                departure.left.set()

    def abandon(self) -> None:
        """Let everybody who waits go: nothing more will leave."""
        for departure in (*self._short, *self._long):
            departure.left.set()


@contextmanager
def deadline(seconds: float, waited_for: str) -> Generator[None]:
    """Give a wait for the peer its end: PeerUnreachableError names what was waited for."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise PeerUnreachableError(f"no {waited_for} within {seconds:g} s") from None


def first_of(
    errors: BaseExceptionGroup[RejectionError | PeerUnreachableError],
) -> RejectionError | PeerUnreachableError:
    """Return the most telling of the errors that ended a connection: a broken rule before a broken link."""
    flat = _flatten(errors)
    return next((error for error in flat if isinstance(error, RejectionError)), flat[0])


@dataclass(slots=True, eq=False)
class _Departure:
    """A frame on its way out."""

    frame: tuple[Buffer, ...]
    left: trio.Event = field(default_factory=trio.Event)


def _flatten(
    errors: BaseExceptionGroup[RejectionError | PeerUnreachableError],
) -> list[RejectionError | PeerUnreachableError]:
    flat: list[RejectionError | PeerUnreachableError] = []
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            flat.extend(_flatten(error))
        else:
            flat.append(error)
    return flat
