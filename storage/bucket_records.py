"""The sealed records beside those of objects: a bucket's settings, and the tags that a version was given later.

Both are sealed as records are (records.py), under the bucket key, each in a domain of its own; addresses bind tenant
and version as theirs do, a settings record having a version id of its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import TIME, Milliseconds
from storage.errors import UnsealError
from storage.identifiers import NameTag
from storage.records import PAIRS_BYTES_MAX, RECORD_BYTES_MAX, Pairs, check_record_bytes
from storage.sealing import SealingDomain, SealingSalt, seal_committed, unseal_committed
from storage.tags import BUCKET_NAME_BYTES_MAX, NAME_BYTES_MAX, BucketKeys, name_bytes, name_tag

DOCUMENTS_MAX: Final = 16


class BucketPurpose(StrEnum):
    """What a bucket is for: the objects of its tenant, or the parts of uploads into the bucket of the same name."""

    OBJECTS = "objects"
    UPLOADS = "uploads"


class SettingsDocument(Record):
    """One configuration of a bucket, in the words of who keeps it: policy, CORS, lifecycle, tags, notifications."""

    kind: Annotated[str, Meta(min_length=1, max_length=64)]
    contents: Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]


class BucketSettings(Record):
    """What a tenant knows of its bucket; all documents together stay below the limit of a record."""

    name: Annotated[str, Meta(min_length=1, max_length=BUCKET_NAME_BYTES_MAX)]
    purpose: BucketPurpose
    created_ms: Annotated[Milliseconds, TIME]
    owner: Annotated[str, Meta(max_length=128)]
    documents: Annotated[tuple[SettingsDocument, ...], Meta(max_length=DOCUMENTS_MAX)]


class VersionTags(Record):
    """The tags of one version, which replace those of its first record."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
    tags: Pairs


def seal_settings(settings: BucketSettings, keys: BucketKeys, salt: SealingSalt) -> bytes:
    """Return a sealed settings record; the salt is 32 fresh random bytes.

    Raises:
        RejectionError: BAD_RECORD or OVERSIZED.
    """
    name_bytes(settings.name, BUCKET_NAME_BYTES_MAX, "bucket")
    return _seal(settings, keys, SealingDomain.SETTINGS, salt)


def unseal_settings(sealed: bytes, keys: BucketKeys) -> BucketSettings:
    """Open a settings record.

    Raises:
        UnsealError: Another bucket key, or changed bytes.
        RejectionError: Not settings within their limits.
    """
    plain = unseal_committed(keys.bucket_key, SealingDomain.SETTINGS, sealed)
    return decode(plain, BucketSettings, bytes_max=RECORD_BYTES_MAX)


def seal_tags(tags: VersionTags, keys: BucketKeys, salt: SealingSalt) -> bytes:
    """Return a sealed record of tags; the salt is 32 fresh random bytes.

    Raises:
        RejectionError: BAD_RECORD or OVERSIZED.
    """
    name_bytes(tags.name, NAME_BYTES_MAX, "object")
    if sum(len(name.encode()) + len(text.encode()) for name, text in tags.tags) > PAIRS_BYTES_MAX:
        raise RejectionError(RejectionReason.BAD_RECORD, f"tags of more than {PAIRS_BYTES_MAX} bytes")
    return _seal(tags, keys, SealingDomain.TAGS, salt)


def unseal_tags(sealed: bytes, keys: BucketKeys, expected: NameTag) -> VersionTags:
    """Open a record of tags and check that it is about the name whose tag the chain shows.

    Raises:
        UnsealError: Another bucket key, changed bytes, or tags of another name.
        RejectionError: Not tags within their limits.
    """
    plain = unseal_committed(keys.bucket_key, SealingDomain.TAGS, sealed)
    tags = decode(plain, VersionTags, bytes_max=RECORD_BYTES_MAX)
    if name_tag(keys.tag_key, tags.name) != expected:
        raise UnsealError("the tags are about another name")
    return tags


def _seal(record: Record, keys: BucketKeys, domain: SealingDomain, salt: SealingSalt) -> bytes:
    sealed = seal_committed(keys.bucket_key, domain, encode(record), salt)
    check_record_bytes(len(sealed))
    return sealed
