"""What a client asks of the chain, whatever node answers; `http_chain.py` asks over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from storage.buckets import NULL_VERSION
from storage.identifiers import ColumnIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.identifiers import Height, TransactionId
    from storage.buckets import EntryKind, ObjectLock, Versioning, VersionLock
    from storage.identifiers import (
        BucketTag,
        NameTag,
        RecordAddress,
        SegmentId,
        ShardRoot,
        VersionId,
    )
    from storage.state import EntryState, SegmentState


FOUND_MAX: Final = 256
"""Of one question: 256 segments of a kilobyte of JSON each."""


AT_LEAST: Final = "x-grandest-at-least"
NEWS_ABOVE: Final = "x-grandest-news-above"
"""Headers of a question that name a height (node/api/heights.py)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Part of an object: a range of a segment."""

    segment_id: SegmentId
    offset: int
    extent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """An object version, or a marker, as the chain shows it."""

    bucket_tag: BucketTag
    name_tag: NameTag
    version_id: VersionId
    record_address: RecordAddress
    references: tuple[Reference, ...]
    height: Height
    order: int
    """Among those of its block; with the height, versions of a name in order of time."""
    kind: EntryKind
    is_null: bool
    lock: VersionLock | None
    tags_address: RecordAddress | None
    older: VersionId | None
    """The next older version of the name."""

    @property
    def version_name(self) -> VersionId:
        """Return what names this version among those of its object: NULL_VERSION for the null one."""
        return NULL_VERSION if self.is_null else self.version_id


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketView:
    """A bucket as the chain shows it."""

    bucket_tag: BucketTag
    version_id: VersionId
    """Of its settings record; a change of settings may ask that it is still this one."""
    record_address: RecordAddress
    versioning: Versioning
    lock: ObjectLock | None
    entry_count: int
    """Versions and markers."""
    height: Height
    """At which it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentView:
    """A segment as the chain shows it."""

    segment_id: SegmentId
    k: int
    segment_bytes: int
    roots: tuple[ShardRoot, ...]
    receipted: frozenset[ColumnIndex]
    """Columns whose holders' receipts are on chain."""
    height: Height | None = None
    """Of the block that committed it; None before."""


def entry_view(bucket_tag: BucketTag, name_tag: NameTag, state: EntryState) -> EntryView:
    """Return the view of a version of the ledger's state."""
    return EntryView(
        bucket_tag=bucket_tag,
        name_tag=name_tag,
        version_id=state.version_id,
        record_address=state.record_address,
        references=tuple(Reference(part.segment_id, part.offset, part.extent_bytes) for part in state.extents),
        height=state.height,
        order=state.order,
        kind=state.kind,
        is_null=state.is_null,
        lock=state.lock,
        tags_address=state.tags_address,
        older=state.older,
    )


def segment_view(segment_id: SegmentId, state: SegmentState) -> SegmentView:
    """Return the view of a segment of the ledger's state."""
    return SegmentView(
        segment_id=segment_id,
        k=state.k,
        segment_bytes=state.segment_bytes,
        roots=state.roots,
        receipted=frozenset(ColumnIndex(column) for column in state.columns),
        height=state.height,
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


@dataclass(frozen=True, slots=True)
class VersionPlace:
    """Where a version stands among its tenant's; NULL_VERSION names the null one."""

    bucket_tag: BucketTag
    name_tag: NameTag
    version_name: VersionId


@dataclass(frozen=True, slots=True)
class Changes:
    """The objects that blocks up to a height have named; whoever keeps an index looks at each of them again."""

    height: Height
    objects: tuple[ListingPlace, ...]


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

    async def find_versions(self, places: Sequence[VersionPlace]) -> tuple[EntryView | None, ...]:
        """Return versions, current ones or older, at most FOUND_MAX, in the order asked; None where there is none."""
        ...

    async def versions(
        self, bucket_tag: BucketTag | None, after: VersionPlace | None, versions_max: int
    ) -> tuple[EntryView, ...]:
        """Return versions that are not current, in order of bucket, name and version."""
        ...

    async def find_buckets(self, bucket_tags: Sequence[BucketTag]) -> tuple[BucketView | None, ...]:
        """Return buckets of the client's tenant, at most FOUND_MAX, in the order asked; None where there is none."""
        ...

    async def buckets(self, after: BucketTag | None, buckets_max: int) -> tuple[BucketView, ...]:
        """Return buckets of the client's tenant in order of tags."""
        ...

    async def changes(self, above: Height, held_seconds: float = 0.0) -> Changes:
        """Return which objects of the client's tenant the blocks above a height have named, as far as one answer goes.

        Its height is that of the last block that was looked at: go on above it until it is the chain's. With seconds,
        the node holds the question until there is a block above.
        """
        ...

    async def find_segments(self, segment_ids: Sequence[SegmentId]) -> tuple[SegmentView | None, ...]:
        """Return segments, at most FOUND_MAX, in the order asked; None where there is none."""
        ...

    async def member_changes(self) -> tuple[bytes, ...]:
        """Return the encoded proof of each change of members since genesis, oldest first; unchecked."""
        ...

    async def proof(self, state_key: bytes) -> bytes:
        """Return an encoded StateProof of a state key; unchecked."""
        ...
