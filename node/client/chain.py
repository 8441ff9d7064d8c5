"""What a client asks of the chain, whatever node answers; `http_chain.py` asks over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from storage.identifiers import ColumnIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.identifiers import Height, TransactionId
    from storage.identifiers import (
        BucketTag,
        NameTag,
        RecordAddress,
        SegmentId,
        ShardRoot,
        VersionId,
    )
    from storage.state import SegmentState


FOUND_MAX: Final = 256
"""Of one question: 256 segments of a kilobyte of JSON each."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Part of an object: a range of a segment."""

    segment_id: SegmentId
    offset: int
    extent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """An object version as the chain shows it."""

    bucket_tag: BucketTag
    name_tag: NameTag
    version_id: VersionId
    record_address: RecordAddress
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentView:
    """A segment as the chain shows it."""

    segment_id: SegmentId
    k: int
    segment_bytes: int
    roots: tuple[ShardRoot, ...]
    receipted: frozenset[ColumnIndex]
    """Columns whose holders' receipts are on chain."""


def segment_view(segment_id: SegmentId, state: SegmentState) -> SegmentView:
    """Return the view of a segment of the ledger's state."""
    return SegmentView(
        segment_id=segment_id,
        k=state.k,
        segment_bytes=state.segment_bytes,
        roots=state.roots,
        receipted=frozenset(ColumnIndex(column) for column in state.columns),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A transaction that the chain carries, with what became of its parts."""

    transaction_id: TransactionId
    height: Height
    refusal: str | None
    """Why nothing of it was done; None when it was."""
    failed_entries: tuple[tuple[int, str], ...]
    """Entries that failed alone: position in the transaction, reason."""


@dataclass(frozen=True, slots=True)
class ListingPlace:
    """Where an entry stands among its tenant's."""

    bucket_tag: BucketTag
    name_tag: NameTag


class Chain(Protocol):
    """The chain as a client uses it; raises PeerUnreachableError when no node answers in time."""

    async def tip_height(self) -> Height:
        """Return the height of a live node's chain."""
        ...

    async def submit(self, transaction: bytes, records: Sequence[bytes]) -> TransactionId:
        """Hand a signed transaction with its records to a node; raises RejectionError when refused at the door."""
        ...

    async def wait(self, transaction_id: TransactionId) -> Commit:
        """Wait until the chain carries the transaction."""
        ...

    async def find_entries(self, places: Sequence[ListingPlace]) -> tuple[EntryView | None, ...]:
        """Return entries of the client's tenant, at most FOUND_MAX, in the order asked; None where there is none."""
        ...

    async def entries(
        self, bucket_tag: BucketTag | None, after: ListingPlace | None, entries_max: int
    ) -> tuple[EntryView, ...]:
        """Return entries of the client's tenant in order of tags, of one bucket or of all."""
        ...

    async def find_segments(self, segment_ids: Sequence[SegmentId]) -> tuple[SegmentView | None, ...]:
        """Return segments, at most FOUND_MAX, in the order asked; None where there is none."""
        ...

    async def proof(self, state_key: bytes) -> bytes:
        """Return an encoded StateProof of a state key; unchecked."""
        ...
