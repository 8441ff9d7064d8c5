"""What a node's API answers, as a client reads it: unknown fields are ignored, the rest is typed or refused."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from consensus.identifiers import Height, Milliseconds, TransactionId
from node.client.chain import BucketView, Commit, EntryView, Reference, SegmentView
from node.errors import PeerUnreachableError
from storage.buckets import (
    DefaultRetention,
    EntryKind,
    ObjectLock,
    Retention,
    RetentionMode,
    Versioning,
    VersionLock,
)
from storage.identifiers import (
    BucketTag,
    ColumnIndex,
    NameTag,
    RecordAddress,
    SegmentId,
    ShardRoot,
    VersionId,
)


class StatusAnswer(msgspec.Struct):
    """Where a node stands."""

    height: int


class CommitAnswer(msgspec.Struct):
    """What became of a transaction."""

    transaction_id: str
    height: int
    refusal: str | None = None
    failed_entries: list[tuple[int, str]] = []


class ReferenceAnswer(msgspec.Struct):
    """Part of a version."""

    segment_id: str
    offset: int
    bytes: int


class RetentionAnswer(msgspec.Struct):
    """Until when a version stays as it is."""

    mode: RetentionMode
    until_ms: int


class EntryAnswer(msgspec.Struct):
    """A version or a marker."""

    bucket: str
    name: str
    version_id: str
    record_address: str
    references: list[ReferenceAnswer]
    height: int
    order: int
    kind: EntryKind
    is_null: bool
    retention: RetentionAnswer | None = None
    legal_hold: bool | None = None
    tags_address: str | None = None
    older: str | None = None


class EntriesAnswer(msgspec.Struct):
    """A page of entries."""

    entries: list[EntryAnswer]


class SegmentAnswer(msgspec.Struct):
    """A segment."""

    segment_id: str
    k: int
    bytes: int
    roots: list[str]
    receipted: list[int]
    height: int


class FoundEntriesAnswer(msgspec.Struct):
    """Entries in the order asked."""

    entries: list[EntryAnswer | None]


class FoundSegmentsAnswer(msgspec.Struct):
    """Segments in the order asked."""

    segments: list[SegmentAnswer | None]


class DefaultRetentionAnswer(msgspec.Struct):
    """What new versions of a bucket get."""

    mode: RetentionMode
    days: int


class BucketAnswer(msgspec.Struct):
    """A bucket."""

    bucket: str
    version_id: str
    record_address: str
    versioning: Versioning
    has_lock: bool
    default_retention: DefaultRetentionAnswer | None
    entry_count: int
    height: int


class BucketsAnswer(msgspec.Struct):
    """A page of buckets."""

    buckets: list[BucketAnswer]


class FoundBucketsAnswer(msgspec.Struct):
    """Buckets in the order asked."""

    buckets: list[BucketAnswer | None]


class ChangesAnswer(msgspec.Struct):
    """Objects named by blocks."""

    height: int
    objects: list[tuple[str, str]]


class ErrorAnswer(msgspec.Struct):
    """Why a node refused."""

    error: str
    detail: str = ""


class PostedAnswer(msgspec.Struct):
    """One of many that were posted: carried, refused, or waiting for a block."""

    carried: CommitAnswer | None
    refused: ErrorAnswer | None


class PostedManyAnswer(msgspec.Struct):
    """All that were posted together, in order."""

    posted: list[PostedAnswer]


AnswerT = TypeVar(
    "AnswerT",
    StatusAnswer,
    CommitAnswer,
    PostedManyAnswer,
    EntriesAnswer,
    FoundEntriesAnswer,
    FoundSegmentsAnswer,
    BucketsAnswer,
    FoundBucketsAnswer,
    ChangesAnswer,
)


def bytes_of(text: str) -> bytes:
    """Read hex or raise PeerUnreachableError: the node says something else than it should."""
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise PeerUnreachableError(f"a node answered {text[:40]!r} where hex belongs") from error


def commit_of(answer: CommitAnswer) -> Commit:
    """Return what became of a transaction."""
    return Commit(
        transaction_id=TransactionId(bytes_of(answer.transaction_id)),
        height=Height(answer.height),
        refusal=answer.refusal,
        failed_entries=tuple(answer.failed_entries),
    )


def entry_of(answer: EntryAnswer) -> EntryView:
    """Return a version or a marker."""
    return EntryView(
        bucket_tag=BucketTag(bytes_of(answer.bucket)),
        name_tag=NameTag(bytes_of(answer.name)),
        version_id=VersionId(bytes_of(answer.version_id)),
        record_address=RecordAddress(bytes_of(answer.record_address)),
        references=tuple(
            Reference(SegmentId(bytes_of(part.segment_id)), part.offset, part.bytes) for part in answer.references
        ),
        height=Height(answer.height),
        order=answer.order,
        kind=answer.kind,
        is_null=answer.is_null,
        lock=_lock_of(answer),
        tags_address=None if answer.tags_address is None else RecordAddress(bytes_of(answer.tags_address)),
        older=None if answer.older is None else VersionId(bytes_of(answer.older)),
    )


def segment_of(answer: SegmentAnswer) -> SegmentView:
    """Return a segment."""
    return SegmentView(
        segment_id=SegmentId(bytes_of(answer.segment_id)),
        k=answer.k,
        segment_bytes=answer.bytes,
        roots=tuple(ShardRoot(bytes_of(root)) for root in answer.roots),
        receipted=frozenset(ColumnIndex(column) for column in answer.receipted),
        height=Height(answer.height),
    )


def bucket_of(answer: BucketAnswer) -> BucketView:
    """Return a bucket."""
    default = answer.default_retention
    retention = None if default is None else DefaultRetention(mode=default.mode, days=default.days)
    return BucketView(
        bucket_tag=BucketTag(bytes_of(answer.bucket)),
        version_id=VersionId(bytes_of(answer.version_id)),
        record_address=RecordAddress(bytes_of(answer.record_address)),
        versioning=answer.versioning,
        lock=ObjectLock(default=retention) if answer.has_lock else None,
        entry_count=answer.entry_count,
        height=Height(answer.height),
    )


def _lock_of(answer: EntryAnswer) -> VersionLock | None:
    if answer.legal_hold is None:
        return None
    until = answer.retention
    retention = None if until is None else Retention(mode=until.mode, until_ms=Milliseconds(until.until_ms))
    return VersionLock(retention=retention, legal_hold=answer.legal_hold)
