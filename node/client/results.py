"""What a client answers: how safe a write is, what a listing finds, what holders have of an object now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consensus.identifiers import Height, TransactionId
    from node.client.chain import SegmentView
    from node.client.download import OpenObject
    from storage.identifiers import SeatIndex, SegmentId, VersionId
    from storage.records import ObjectRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What a committed write has: its place on chain, and how safe it is now."""

    version_id: VersionId
    transaction_id: TransactionId
    height: Height
    receipts: int
    """The lowest number of holders that signed for a segment of it; all columns when it has none."""
    columns: int
    segment_ids: tuple[SegmentId, ...]

    @property
    def state(self) -> str:
        """Return "sealed" when all columns are stored, "certified" before."""
        return "sealed" if self.receipts == self.columns else "certified"


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    bucket: str
    opened: OpenObject

    @property
    def object_record(self) -> ObjectRecord:
        """Return what its record says."""
        return self.opened.record.object_record

    @property
    def path(self) -> str:
        """Return BUCKET/KEY."""
        return f"{self.bucket}/{self.object_record.name}"


@dataclass(frozen=True, slots=True)
class ColumnStatus:
    """One column, asked for a random leaf just now."""

    seat: SeatIndex
    state: str
    """stored, or why not: down, missing."""


@dataclass(frozen=True, slots=True)
class SegmentStatus:
    """A segment on chain and as its holders have it now."""

    segment: SegmentView
    columns: tuple[ColumnStatus, ...]

    @property
    def columns_live(self) -> int:
        """Return the number of columns verified just now."""
        return sum(column.state == "stored" for column in self.columns)


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """An object version and the columns it rests on."""

    opened: OpenObject
    segments: tuple[SegmentStatus, ...]
    columns: int

    @property
    def columns_live(self) -> int:
        """Return the lowest number of columns verified just now, over its segments."""
        return min((segment.columns_live for segment in self.segments), default=self.columns)

    @property
    def k(self) -> int:
        """Return the highest k of its segments; 0 for an empty object."""
        return max((status.segment.k for status in self.segments), default=0)

    @property
    def state(self) -> str:
        """Return what the chain knows: sealed once all receipts are there, else certified."""
        is_sealed = all(len(status.segment.receipted) == self.columns for status in self.segments)
        return "sealed" if is_sealed else "certified"


@dataclass(frozen=True, slots=True)
class ProvenObject:
    """An object whose entry and segments were proven from the members' signatures."""

    height: Height
    """Of the header whose state root its entry stands under."""
    signers: int
    status: ObjectStatus
