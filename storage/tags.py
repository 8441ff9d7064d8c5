"""Keys and handles that hang from a tenant's master key; the chain sees the handles alone.

    tenant tag key   = HKDF-SHA256(first master key, no salt, "grandest/1/tenant-tag")
    bucket tag       = HMAC-SHA256(tenant tag key, bucket name)[:16]
    uploads tag      = HMAC-SHA256(tenant tag key, bucket name || NUL || "uploads")[:16]
    bucket tag key   = HKDF-SHA256(tenant tag key, no salt, "grandest/1/bucket-tag" || NUL || bucket tag)
    name tag         = HMAC-SHA256(bucket tag key, object name)[:16]
    bucket key       = HKDF-SHA256(current master key, no salt, "grandest/1/bucket" || NUL || bucket tag)

Names are UTF-8 exactly as given, not normalised. Revoking a gateway starts a new master key; the tenant tag key stays,
so that names keep their tags, and bucket keys change. A tag reveals to a holder of the tag key alone that a guessed
name exists.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final, NewType

from consensus.errors import RejectionError, RejectionReason
from storage.identifiers import BucketTag, NameTag
from storage.sealing import SECRET_BYTES, SecretKey, derive

MasterKey = NewType("MasterKey", SecretKey)
"""Random; everything a tenant sealed since the last revocation opens under it. MasterKey(SecretKey(32 bytes))."""
TenantTagKey = NewType("TenantTagKey", SecretKey)
"""Makes bucket tags; outlives master keys."""
BucketTagKey = NewType("BucketTagKey", SecretKey)
"""Makes the name tags of one bucket."""
BucketKey = NewType("BucketKey", SecretKey)
"""Seals the records of one bucket, and wraps its objects' keys."""

TAG_BYTES: Final = 16
NAME_BYTES_MAX: Final = 1024
"""An object's name in UTF-8, as in S3."""
BUCKET_NAME_BYTES_MAX: Final = 63
"""As in S3."""

_UPLOADS: Final = b"\0uploads"
_TENANT_TAG: Final = b"grandest/1/tenant-tag"
_BUCKET_TAG: Final = b"grandest/1/bucket-tag\0"
_BUCKET: Final = b"grandest/1/bucket\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketKeys:
    """What is needed to write and read one bucket; its fields redact themselves."""

    tag: BucketTag
    bucket_key: BucketKey
    tag_key: BucketTagKey


def tenant_tag_key(first_master_key: MasterKey) -> TenantTagKey:
    """Derive the tenant's tag key from its first master key."""
    return TenantTagKey(SecretKey(derive(first_master_key, b"", _TENANT_TAG, SECRET_BYTES)))


def bucket_tag(tag_key: TenantTagKey, bucket_name: str) -> BucketTag:
    """Return the handle of a bucket on chain.

    Raises:
        RejectionError: BAD_RECORD for an empty, overlong or unencodable name.
    """
    encoded = name_bytes(bucket_name, BUCKET_NAME_BYTES_MAX, "bucket")
    if b"\0" in encoded:
        raise RejectionError(RejectionReason.BAD_RECORD, "a bucket's name with a NUL")
    return BucketTag(_tag(tag_key, encoded))


def uploads_tag(tag_key: TenantTagKey, bucket_name: str) -> BucketTag:
    """Return the handle of the bucket that holds the parts of uploads into a bucket; no bucket has such a name."""
    return BucketTag(_tag(tag_key, name_bytes(bucket_name, BUCKET_NAME_BYTES_MAX, "bucket") + _UPLOADS))


def bucket_tag_key(tag_key: TenantTagKey, tag: BucketTag) -> BucketTagKey:
    """Derive the key that makes the name tags of a bucket."""
    return BucketTagKey(SecretKey(derive(tag_key, b"", _BUCKET_TAG + tag, SECRET_BYTES)))


def bucket_key(master_key: MasterKey, tag: BucketTag) -> BucketKey:
    """Derive the key that seals a bucket's records under this master key."""
    return BucketKey(SecretKey(derive(master_key, b"", _BUCKET + tag, SECRET_BYTES)))


def bucket_keys(master_key: MasterKey, tag_key: TenantTagKey, bucket_name: str) -> BucketKeys:
    """Derive all that one bucket needs from the current master key and the tenant's tag key.

    Raises:
        RejectionError: BAD_RECORD for a name that no bucket has.
    """
    tag = bucket_tag(tag_key, bucket_name)
    return BucketKeys(tag=tag, bucket_key=bucket_key(master_key, tag), tag_key=bucket_tag_key(tag_key, tag))


def name_tag(tag_key: BucketTagKey, name: str) -> NameTag:
    """Return the handle of an object's name on chain.

    Raises:
        RejectionError: BAD_RECORD for an empty, overlong or unencodable name.
    """
    return NameTag(_tag(tag_key, name_bytes(name, NAME_BYTES_MAX, "object")))


def name_bytes(name: str, bytes_max: int, named: str) -> bytes:
    """Return the name of a bucket or an object in UTF-8, or refuse it with what it was to name.

    Raises:
        RejectionError: BAD_RECORD.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise RejectionError(RejectionReason.BAD_RECORD, f"the {named}'s name is not Unicode text") from error
    if not 1 <= len(encoded) <= bytes_max:
        raise RejectionError(
            RejectionReason.BAD_RECORD, f"the {named}'s name has {len(encoded)} bytes, 1 to {bytes_max} allowed"
        )
    return encoded


def _tag(secret_key: SecretKey, name: bytes) -> bytes:
    return hmac.digest(secret_key.reveal(), name, "sha256")[:TAG_BYTES]
