"""Answers those who are far behind: which snapshot there is, its pieces, and the heads of the blocks below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, assert_never

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from consensus.messages import (
    RESPONSE_BYTES_MAX,
    HeadsRequest,
    HeadsResponse,
    PieceRequest,
    PieceResponse,
    SnapshotRequest,
    SnapshotResponse,
)

if TYPE_CHECKING:
    from consensus.heads import DecidedHead
    from storage.stores.blocks import ChainStore

HEADS_BYTES_MAX: Final = RESPONSE_BYTES_MAX - 64 * 1024
"""Heads of one answer; 64 KiB are left for what stands around them."""
SnapshotQuestion = SnapshotRequest | HeadsRequest | PieceRequest
SnapshotAnswer = SnapshotResponse | HeadsResponse | PieceResponse


class SnapshotSource(Protocol):
    """Where snapshots lie: stores/snapshots.py's MadeSnapshots in a node."""

    def heights(self) -> tuple[Height, ...]:
        """Return the heights of whole snapshots, newest first."""
        ...

    def manifest(self, height: Height) -> bytes | None:
        """Return an encoded manifest."""
        ...

    def piece(self, height: Height, number: int) -> bytes | None:
        """Return an encoded piece."""
        ...


class SnapshotServer:
    """Gives what this node has; every call may block on the disk."""

    def __init__(self, store: ChainStore, made: SnapshotSource) -> None:
        self._store = store
        self._made = made

    def answer(self, question: SnapshotQuestion) -> SnapshotAnswer:
        """Return the answer to one question.

        Raises:
            RejectionError: TOO_LATE when there is no such snapshot (any more); it blames nobody.
        """
        match question:
            case SnapshotRequest():
                return self._newest()
            case HeadsRequest(from_height=first, count=count):
                return HeadsResponse(heads=self._heads(first, count))
            case PieceRequest(height=height, number=number):
                piece = self._made.piece(height, number)
                if piece is None:
                    raise RejectionError(RejectionReason.TOO_LATE, f"no piece {number} of a snapshot of {height}")
                return PieceResponse(piece=piece)
            case _:
                assert_never(question)

    def _newest(self) -> SnapshotResponse:
        """Return the newest snapshot whose root a block certifies."""
        for height in self._made.heights():
            certifying = self._store.decided_head(Height(height + 1))
            manifest = self._made.manifest(height)
            if certifying is not None and manifest is not None:
                return SnapshotResponse(
                    certifying=certifying, manifest=manifest, member_changes=self._store.member_changes()
                )
        raise RejectionError(RejectionReason.TOO_LATE, "no snapshot yet")

    def _heads(self, first: Height, count: int) -> tuple[DecidedHead, ...]:
        found: list[DecidedHead] = []
        byte_count = 0
        for height in range(max(first, 1), first + count):
            head = self._store.decided_head(Height(height))
            if head is None:
                break
            byte_count += len(encode(head))
            if found and byte_count > HEADS_BYTES_MAX:
                break
            found.append(head)
        return tuple(found)
