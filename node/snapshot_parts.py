"""What of a snapshot is still to be asked for, and what an answer is worth.

Each part is verified by itself: heads by the certificate of the last of them, a piece by its cell's hash. So parts come
in any order, from anybody. What was kept is on disk (storage/stores/snapshots.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias, assert_never

from consensus.errors import RejectionError, RejectionReason
from consensus.heads import check_heads
from consensus.identifiers import Height
from consensus.messages import (
    HEADS_PER_REQUEST_MAX,
    HeadsRequest,
    HeadsResponse,
    PieceRequest,
    PieceResponse,
)
from storage.snapshots import cell_starts, check_piece, decode_piece

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.messages import CatchUpResponse
    from consensus.schedule import MemberSchedule
    from storage.snapshots import SnapshotManifest
    from storage.stores.snapshots import IncomingSnapshot


@dataclass(frozen=True, slots=True)
class HeadsPart:
    """Heads from a height on, at least the first of them."""

    first: Height
    count: int


@dataclass(frozen=True, slots=True)
class PiecePart:
    """The piece of one cell."""

    number: int


Part: TypeAlias = HeadsPart | PiecePart


class SnapshotParts:
    """The parts that are not here yet. The queue is one task's; keep() may run in a worker thread."""

    def __init__(
        self, manifest: SnapshotManifest, incoming: IncomingSnapshot, schedule: MemberSchedule, first_head: Height
    ) -> None:
        """Count what is missing (blocks).

        Args:
            manifest: Found true.
            incoming: Where parts are kept, and some may be.
            schedule: Whose quorums certify heads.
            first_head: The first height that the chain does not have.
        """
        self._manifest = manifest
        self._starts = cell_starts(manifest)
        self._incoming = incoming
        self._schedule = schedule
        here = {height for heights in incoming.heights_of_heads() for height in heights}
        absent = [height for height in range(first_head, manifest.height) if height not in here]
        self._waiting: deque[Part] = deque(_heads_parts(absent))
        numbers = range(len(manifest.cells))
        self._waiting += [PiecePart(number) for number in numbers if not incoming.has_piece(number)]

    def __len__(self) -> int:
        """Return how many are to be asked for; those that were taken do not count."""
        return len(self._waiting)

    def take(self) -> Part:
        """Return the next part to ask for."""
        return self._waiting.popleft()

    def give_back(self, part: Part) -> None:
        """Ask another for it."""
        self._waiting.append(part)

    def question(self, part: Part) -> HeadsRequest | PieceRequest:
        """Return how a part is asked for."""
        match part:
            case HeadsPart(first=first, count=count):
                return HeadsRequest(from_height=first, count=count)
            case PiecePart(number=number):
                return PieceRequest(height=self._manifest.height, number=number)
            case _:
                assert_never(part)

    def keep(self, part: Part, response: CatchUpResponse) -> Part | None:
        """Verify an answer and keep it (blocks); return what of the part it left out.

        Raises:
            RejectionError: It is no true answer to the question.
        """
        match part, response:
            case HeadsPart(), HeadsResponse(heads=(first, *_) as heads) if len(heads) <= part.count:
                parent = (Height(part.first - 1), first.block.header.parent_hash)
                last, _ = check_heads(heads, parent, self._schedule)
                self._incoming.put_heads(tuple(heads))
                left = part.first + part.count - 1 - last
                return HeadsPart(Height(last + 1), left) if left else None
            case PiecePart(number=number), PieceResponse(piece=encoded):
                check_piece(self._manifest.cells[number], self._starts[number], decode_piece(encoded))
                self._incoming.put_piece(number, encoded)
                return None
            case _:
                raise RejectionError(RejectionReason.MALFORMED, "answered something else")


def _heads_parts(absent: list[int]) -> Iterator[HeadsPart]:
    """Give questions that together ask for these heights, ascending."""
    for _, run in groupby(enumerate(absent), key=lambda place: place[1] - place[0]):
        heights = [height for _, height in run]
        for at in range(0, len(heights), HEADS_PER_REQUEST_MAX):
            some = heights[at : at + HEADS_PER_REQUEST_MAX]
            yield HeadsPart(Height(some[0]), len(some))
