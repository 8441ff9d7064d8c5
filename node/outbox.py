"""How the consensus shell reaches other members: by seat, without waiting; queues and links belong to the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from consensus.identifiers import MemberIndex


class Outbox(Protocol):
    """Frames leave at once or wait in a bounded queue."""

    def send(self, member: MemberIndex, frame: bytes) -> None:
        """Queue a frame for one member; one's own seat is ignored."""
        ...

    def broadcast(self, frame: bytes) -> None:
        """Queue a frame for every other member."""
        ...
