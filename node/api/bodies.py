"""What bodies of requests hold in memory while they are worked on: bounded over all connections, and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError, RejectionReason

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODIES_BYTES_MAX: Final = 64 * 1024 * 1024
"""Nineteen of the largest submissions, thousands of usual ones."""
BODY_S: Final = 60.0
"""From the head to the last byte: the largest submission over a line of half a megabit a second."""


class BodyGate:
    """An ASGI application in front of another one."""

    def __init__(self, application: ASGIApp) -> None:
        """Count what requests of this application bring."""
        self._application = application
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of all bodies at the moment."""
        return self._held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        body = _Body(self, receive)
        try:
            await self._application(scope, body.receive, send)
        finally:
            self._held -= body.byte_count

    def hold(self, byte_count: int) -> None:
        """Count bytes that have come; raises RejectionError(QUEUE_FULL) when all bodies are too large together."""
        self._held += byte_count
        if self._held > BODIES_BYTES_MAX:
            raise RejectionError(RejectionReason.QUEUE_FULL, f"{BODIES_BYTES_MAX} bytes of requests are under way")


class _Body:
    """The body of one request."""

    def __init__(self, gate: BodyGate, receive: Receive) -> None:
        self._gate = gate
        self._receive = receive
        self._until = trio.current_time() + BODY_S
        self.byte_count = 0

    async def receive(self) -> Message:
        """Return what comes next; a body that is not whole in time counts as a client that has left."""
        with trio.CancelScope(deadline=self._until) as scope:
            message = await self._receive()
            piece_bytes = len(message.get("body", b""))
            if not message.get("more_body"):
                self._until = float("inf")  # what is waited for now is the client's end
            self.byte_count += piece_bytes
            self._gate.hold(piece_bytes)
            return message
        assert scope.cancelled_caught, "either something came or the time is over"
        return {"type": "http.disconnect"}
