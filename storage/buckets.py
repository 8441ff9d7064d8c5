"""Buckets and object versions as transactions speak of them: settings, retention, tags, records sealed again.

A bucket's real name, its owner, policy, tags and the like stand in a sealed record (bucket_records.py); the chain knows
what it must enforce: versioning, object lock, and how many entries there are.

A *version* is named by its 16 random bytes; NULL_VERSION names the one that was written while versioning was off or
suspended, of which a name has at most one.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record
from consensus.identifiers import HASH, TIME, Milliseconds
from storage.identifiers import TAG, TENANT, VERSION, BucketTag, NameTag, RecordAddress, TenantId, VersionId

NULL_VERSION: Final = VersionId(bytes(16))
"""The name of the version without a name of its own; no upload may draw it."""
CHANGES_MAX: Final = 4_096
"""Of one transaction: 4,096 x at most 150 bytes."""
RETENTION_DAYS_MAX: Final = 36_500
"""A century, as in S3."""
DAY_MS: Final = 24 * 60 * 60 * 1_000


class EntryKind(StrEnum):
    """What an entry says of its name."""

    OBJECT = "object"
    MARKER = "marker"
    """Deleted: what lies below it is kept."""


class Versioning(StrEnum):
    """What becomes of a version that is replaced; once on, it can be suspended but not be turned off."""

    OFF = "off"
    ENABLED = "enabled"
    SUSPENDED = "suspended"


class RetentionMode(StrEnum):
    """Who may shorten a retention: nobody, or whoever asks to bypass it."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


class Retention(Record):
    """Until when a version stays as it is; by the time of the block that asks."""

    mode: RetentionMode
    until_ms: Annotated[Milliseconds, TIME]


class DefaultRetention(Record):
    """What new versions of a bucket get when they bring no retention of their own."""

    mode: RetentionMode
    days: Annotated[int, Meta(ge=1, le=RETENTION_DAYS_MAX)]


class ObjectLock(Record):
    """A bucket whose versions may be retained: its versioning stays enabled for ever."""

    default: DefaultRetention | None


class VersionLock(Record):
    """What keeps a version from being deleted or changed."""

    retention: Retention | None
    legal_hold: bool


class EntryDetails(Record):
    """What an entry has beyond the usual: a marker's kind, or a retention of its own."""

    kind: EntryKind
    lock: VersionLock | None


class NewBucket(Record):
    """A bucket that a commit makes when there is none: versioning off, no lock."""

    bucket_tag: Annotated[BucketTag, TAG]
    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH]


class SetBucket(Record, tag=6):
    """A bucket is made, or its settings are replaced.

    Condition as of entries, of the version of its settings record: None any, empty absent, 16 bytes that one.
    """

    tenant: Annotated[TenantId, TENANT]
    bucket_tag: Annotated[BucketTag, TAG]
    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH]
    versioning: Versioning
    lock: ObjectLock | None
    condition: Annotated[bytes, Meta(max_length=16)] | None


class DeleteBucket(Record, tag=7):
    """A bucket without entries leaves the state."""

    tenant: Annotated[TenantId, TENANT]
    bucket_tag: Annotated[BucketTag, TAG]


class Governance(Enum):
    """Whether retentions in governance mode are obeyed, or bypassed as who administers a bucket may."""

    OBEYED = False
    BYPASSED = True


class NewRetention(Record, tag=0):
    """The retention of a version; None: none any more."""

    retention: Retention | None
    bypass_governance: bool


class NewHold(Record, tag=1):
    """The legal hold of a version."""

    legal_hold: bool


class LockChange(Record):
    """One version and what is to keep it."""

    bucket_tag: Annotated[BucketTag, TAG]
    name_tag: Annotated[NameTag, TAG]
    version_id: Annotated[VersionId, VERSION]
    change: NewRetention | NewHold


class SetRetention(Record, tag=8):
    """Retentions and legal holds of versions in buckets with object lock."""

    tenant: Annotated[TenantId, TENANT]
    changes: Annotated[tuple[LockChange, ...], Meta(min_length=1, max_length=CHANGES_MAX)]


class TagsChange(Record):
    """One version and the record of its tags; None: no record, the tags are those of its first record."""

    bucket_tag: Annotated[BucketTag, TAG]
    name_tag: Annotated[NameTag, TAG]
    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH] | None


class ChangeTags(Record, tag=9):
    """Tags of versions, in a second record each: allowed whatever retains the version."""

    tenant: Annotated[TenantId, TENANT]
    changes: Annotated[tuple[TagsChange, ...], Meta(min_length=1, max_length=CHANGES_MAX)]


class RecordChange(Record):
    """One version, one of its two records, and what takes that record's place."""

    bucket_tag: Annotated[BucketTag, TAG]
    name_tag: Annotated[NameTag, TAG]
    version_id: Annotated[VersionId, VERSION]
    old_address: Annotated[RecordAddress, HASH]
    new_address: Annotated[RecordAddress, HASH]


class ChangeRecords(Record, tag=10):
    """Records sealed again, under another master key: the version stays the same."""

    tenant: Annotated[TenantId, TENANT]
    changes: Annotated[tuple[RecordChange, ...], Meta(min_length=1, max_length=CHANGES_MAX)]


BucketChange = SetBucket | DeleteBucket | SetRetention | ChangeTags | ChangeRecords
