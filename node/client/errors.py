"""What may go wrong for somebody who stores objects, one class per thing a caller does differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.errors import NodeError, NotFoundError, PeerUnreachableError, RefusedError
from storage.errors import ShardMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.identifiers import SeatIndex


class TooFewHoldersError(PeerUnreachableError):
    """Fewer live holders than any write may use: nothing was acknowledged; try again when sites are back."""

    def __init__(self, live: int, needed: int, reasons: Mapping[SeatIndex, str]) -> None:
        """Say how many take writes, how many must, and why each of the others does not."""
        why = "; ".join(f"seat {seat}: {reason}" for seat, reason in reasons.items())
        super().__init__(f"{live} holders answer and a write needs {needed}: try again when sites are back ({why})")
        self.live = live
        self.needed = needed


class ObjectMissingError(ShardMissingError):
    """There is no such object."""


class BucketMissingError(NotFoundError):
    """There is no such bucket."""


class ChangesForgottenError(NodeError):
    """The blocks that were asked for are pruned: whoever follows them lists everything, and goes on from the tip."""


class NotCommittedError(RefusedError):
    """The chain carried the transaction and refused this part of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused by the chain: {reason}")
        self.reason = reason
        """The text of a FailureReason."""
