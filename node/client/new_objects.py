"""What is to be stored, and what is ready to be committed: records made, sealed and addressed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from node.clock import now_ms
from storage.buckets import EntryDetails, EntryKind, NewBucket
from storage.identifiers import VersionId
from storage.records import ObjectRecord, record_address, seal_record
from storage.sealing import ObjectKey, Sealing, SealingSalt, SecretKey
from storage.tags import BucketKeys, name_tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.errors import GrandestError
    from consensus.identifiers import Milliseconds
    from node.client.chain import Commit
    from node.client.shares import StoredSegment
    from storage.buckets import VersionLock
    from storage.identifiers import BucketTag, NameTag, RecordAddress, TenantId
    from storage.records import ObjectChecksum, ObjectPart
    from storage.transactions import StoredExtent

    Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the record of a version says beside its name and bytes."""

    content_type: str = ""
    user_metadata: Pairs = ()
    headers: Pairs = ()
    tags: Pairs = ()
    checksums: tuple[ObjectChecksum, ...] = ()
    etag: str | None = None
    """None: the version id in hex."""
    modified_ms: Milliseconds | None = None
    """None: now."""


@dataclass(frozen=True, slots=True)
class ReadyBucket:
    """A bucket that a commit makes when there is none."""

    new_bucket: NewBucket
    sealed_record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewObject:
    """What is to be stored under a name of a bucket."""

    name: str
    keys: BucketKeys
    describe: Callable[[], Description] = Description
    """Asked once the last byte has been read; what it raises fails the write, and nothing is committed."""
    condition: bytes | None = None
    """None: whatever is there is replaced. Empty: only if nothing is. 16 bytes: only this version."""
    lock: VersionLock | None = None
    object_key: ObjectKey | None = None
    """None: a fresh one. Parts of one upload share theirs, each with a salt of its own."""
    bucket: ReadyBucket | None = None


@dataclass(slots=True)
class ReadyObject:
    """A version whose segments are at their holders; `done` is set once `commit` or `error` is."""

    bucket_tag: BucketTag
    name_tag: NameTag
    version_id: VersionId
    condition: bytes | None
    sealed_record: bytes
    record_address: RecordAddress
    extents: tuple[tuple[StoredSegment, int], ...] = ()
    earlier: tuple[StoredExtent, ...] = ()
    """Behind the extents: what earlier versions hold already."""
    details: EntryDetails | None = None
    bucket: ReadyBucket | None = None
    commit: Commit | None = None
    error: GrandestError | None = None
    done: trio.Event = field(default_factory=trio.Event)

    def finish(self, commit: Commit | None, error: GrandestError | None) -> None:
        """Give the answer to who waits."""
        self.commit, self.error = commit, error
        self.done.set()


def fresh_object_key() -> ObjectKey:
    """Draw the key of one object version."""
    return ObjectKey(SecretKey(secrets.token_bytes(32)))


def fresh_salt() -> SealingSalt:
    """Draw the salt of one sealing."""
    return SealingSalt(secrets.token_bytes(32))


def ready_object(new: NewObject, object_key: ObjectKey, sealing: Sealing, tenant: TenantId) -> ReadyObject:
    """Return a version of one sealing with its record, without extents yet.

    Raises:
        RejectionError: Metadata beyond the limits, and what `describe` raises.
    """
    return ready_version(new, object_key, tenant, sealings=(sealing,), plain_bytes=sealing.plain_bytes)


def ready_version(
    new: NewObject,
    object_key: ObjectKey,
    tenant: TenantId,
    *,
    sealings: tuple[Sealing, ...],
    plain_bytes: int,
    parts: tuple[ObjectPart, ...] = (),
    part_list: Sealing | None = None,
    kind: EntryKind = EntryKind.OBJECT,
) -> ReadyObject:
    """Return a version with its record, without extents yet; raises as ready_object() does."""
    version_id = VersionId(secrets.token_bytes(16))
    description = new.describe()
    object_record = ObjectRecord(
        name=new.name,
        plain_bytes=plain_bytes,
        etag=version_id.hex() if description.etag is None else description.etag,
        content_type=description.content_type,
        user_metadata=description.user_metadata,
        modified_ms=now_ms() if description.modified_ms is None else description.modified_ms,
        sealings=sealings,
        headers=description.headers,
        checksums=description.checksums,
        tags=description.tags,
        parts=parts,
        part_list=part_list,
    )
    sealed = seal_record(object_record, object_key, new.keys, fresh_salt())
    is_plain = kind is EntryKind.OBJECT and new.lock is None
    return ReadyObject(
        bucket_tag=new.keys.tag,
        name_tag=name_tag(new.keys.tag_key, new.name),
        version_id=version_id,
        condition=new.condition,
        sealed_record=sealed,
        record_address=record_address(tenant, version_id, sealed),
        details=None if is_plain else EntryDetails(kind=kind, lock=new.lock),
        bucket=new.bucket,
    )


def ready_marker(new: NewObject, tenant: TenantId) -> ReadyObject:
    """Return a marker with its record, which keeps the name and the time."""
    sealing = Sealing(salt=fresh_salt(), plain_bytes=0)
    return ready_version(new, fresh_object_key(), tenant, sealings=(sealing,), plain_bytes=0, kind=EntryKind.MARKER)
