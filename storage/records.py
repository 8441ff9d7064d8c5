"""Records: the sealed, erasable metadata of an object version, about 300 bytes, kept off chain on every node.

    sealed record  = salt, 32 bytes || key commitment, 32 bytes || one frame (storage/sealing.py, domain RECORD)
    its plaintext  = canonical [object record, wrapped object key]
    wrapped key    = one frame of the 32-byte object key (domain OBJECT_KEY, same bucket key, same salt), 48 bytes
    address        = SHA-256("grandest/1/record" || NUL || tenant, 16 || version id, 16 || sealed record)

The commitment names the bucket key, hence one plaintext, one object key and one opening of every frame below it. The
address binds a record to its tenant and version, so that no tenant can refer to another's; any member recomputes it.
Sealing a version's record again (other metadata, another bucket key) takes a fresh salt.

A sealed record has at most 16 KiB: 400 sealings (parts of one upload) and little else.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import TIME, Milliseconds
from consensus.signing import Domain, domain_hash
from storage.errors import UnsealError
from storage.identifiers import FRAME_TAG_BYTES, NameTag, RecordAddress, TenantId, VersionId
from storage.sealing import (
    COMMITMENT_BYTES,
    PLAIN_BYTES_MAX,
    SALT_BYTES,
    SECRET_BYTES,
    ObjectKey,
    RangeEnd,
    Sealing,
    SealingDomain,
    SealingKey,
    SealingSalt,
    SecretKey,
    plain_bytes_in,
    seal_range,
    sealed_bytes,
    unseal_range,
)
from storage.tags import NAME_BYTES_MAX, BucketKeys, name_bytes, name_tag

RECORD_BYTES_MAX: Final = 16 * 1024
"""A sealed record; thousands of them travel beside one block."""
RECORD_HEAD_BYTES: Final = SALT_BYTES + COMMITMENT_BYTES
RECORD_BYTES_MIN: Final = RECORD_HEAD_BYTES + FRAME_TAG_BYTES
WRAPPED_KEY_BYTES: Final = SECRET_BYTES + FRAME_TAG_BYTES
SEALINGS_MAX: Final = 400
USER_METADATA_MAX: Final = 64
"""Pairs; together at most USER_METADATA_BYTES_MAX, as in S3."""
USER_METADATA_BYTES_MAX: Final = 2048
ETAG_BYTES_MAX: Final = 128
CONTENT_TYPE_BYTES_MAX: Final = 256


class ObjectRecord(Record):
    """What a tenant wants to know of an object version; lengths in Unicode characters are checked in bytes as well."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
    plain_bytes: Annotated[int, Meta(ge=0, le=PLAIN_BYTES_MAX)]
    etag: Annotated[str, Meta(max_length=ETAG_BYTES_MAX)]
    content_type: Annotated[str, Meta(max_length=CONTENT_TYPE_BYTES_MAX)]
    user_metadata: Annotated[
        tuple[
            tuple[
                Annotated[str, Meta(min_length=1, max_length=USER_METADATA_BYTES_MAX)],
                Annotated[str, Meta(max_length=USER_METADATA_BYTES_MAX)],
            ],
            ...,
        ],
        Meta(max_length=USER_METADATA_MAX),
    ]
    modified_ms: Annotated[Milliseconds, TIME]
    sealings: Annotated[tuple[Sealing, ...], Meta(min_length=1, max_length=SEALINGS_MAX)]


class RecordContents(Record):
    """The plaintext of a sealed record."""

    object_record: ObjectRecord
    wrapped_object_key: Annotated[bytes, Meta(min_length=WRAPPED_KEY_BYTES, max_length=WRAPPED_KEY_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRecord:
    """An object version as its tenant sees it."""

    object_record: ObjectRecord
    object_key: ObjectKey


def seal_record(object_record: ObjectRecord, object_key: ObjectKey, keys: BucketKeys, salt: SealingSalt) -> bytes:
    """Return the sealed record: the one byte string that leaves the gateway.

    Args:
        object_record: Metadata, from a customer.
        object_key: The key of this object version alone.
        keys: The bucket's.
        salt: 32 fresh random bytes, never used before.

    Raises:
        RejectionError: BAD_RECORD or OVERSIZED for metadata beyond the limits.
    """
    check_object_record(object_record)
    wrapping_key = SealingKey(keys.bucket_key, SealingDomain.OBJECT_KEY, salt)
    wrapped_key = bytearray(WRAPPED_KEY_BYTES)
    seal_range(wrapping_key, object_key.reveal(), 0, RangeEnd.LAST, wrapped_key)
    contents = encode(RecordContents(object_record=object_record, wrapped_object_key=bytes(wrapped_key)))
    sealed_byte_count = RECORD_HEAD_BYTES + sealed_bytes(len(contents))
    if sealed_byte_count > RECORD_BYTES_MAX:
        raise RejectionError(
            RejectionReason.OVERSIZED, f"record of {sealed_byte_count} bytes, {RECORD_BYTES_MAX} allowed"
        )
    record_key = SealingKey(keys.bucket_key, SealingDomain.RECORD, salt)
    sealed = bytearray(sealed_byte_count)
    sealed[:RECORD_HEAD_BYTES] = salt + record_key.commitment
    with memoryview(sealed) as view:
        seal_range(record_key, contents, 0, RangeEnd.LAST, view[RECORD_HEAD_BYTES:])
    return bytes(sealed)


def unseal_record(sealed: bytes, keys: BucketKeys, expected: NameTag) -> OpenedRecord:
    """Open a record and check that it is about the name whose tag the chain shows.

    Raises:
        UnsealError: Another bucket key, changed bytes, or a record of another name.
        RejectionError: What the key holder sealed is not an object record within its limits.
    """
    if not RECORD_BYTES_MIN <= len(sealed) <= RECORD_BYTES_MAX:
        raise UnsealError(f"a record of {len(sealed)} bytes")
    salt = SealingSalt(sealed[:SALT_BYTES])
    record_key = SealingKey(keys.bucket_key, SealingDomain.RECORD, salt)
    if not hmac.compare_digest(record_key.commitment, sealed[SALT_BYTES:RECORD_HEAD_BYTES]):
        raise UnsealError("the record is sealed under another key")
    contents = decode(_open(record_key, sealed[RECORD_HEAD_BYTES:]), RecordContents, bytes_max=RECORD_BYTES_MAX)
    check_object_record(contents.object_record)
    if name_tag(keys.tag_key, contents.object_record.name) != expected:
        raise UnsealError("the record is about another name")
    wrapping_key = SealingKey(keys.bucket_key, SealingDomain.OBJECT_KEY, salt)
    object_key = ObjectKey(SecretKey(_open(wrapping_key, contents.wrapped_object_key)))
    return OpenedRecord(object_record=contents.object_record, object_key=object_key)


def record_address(tenant: TenantId, version_id: VersionId, sealed: bytes) -> RecordAddress:
    """Return the address (32 bytes) under which the chain knows a sealed record; both handles have 16 bytes."""
    assert len(tenant) == len(version_id) == 16, "fixed lengths keep the hashed bytes unambiguous"  # noqa: PLR2004
    return RecordAddress(domain_hash(Domain.RECORD, tenant + version_id + sealed))


def check_object_record(object_record: ObjectRecord) -> None:
    """Refuse metadata beyond the limits that its types cannot express.

    Raises:
        RejectionError: BAD_RECORD.
    """
    name_bytes(object_record.name, NAME_BYTES_MAX, "object")
    sealed_plain_bytes = sum(sealing.plain_bytes for sealing in object_record.sealings)
    if sealed_plain_bytes != object_record.plain_bytes:
        detail = f"sealings of {sealed_plain_bytes} bytes for an object of {object_record.plain_bytes}"
        raise RejectionError(RejectionReason.BAD_RECORD, detail)
    if not 1 <= len(object_record.sealings) <= SEALINGS_MAX:
        raise RejectionError(RejectionReason.BAD_RECORD, f"{len(object_record.sealings)} sealings")
    if len({sealing.salt for sealing in object_record.sealings}) != len(object_record.sealings):
        raise RejectionError(RejectionReason.BAD_RECORD, "one salt in two sealings")
    metadata_bytes = sum(_utf8_bytes(name) + _utf8_bytes(text) for name, text in object_record.user_metadata)
    if metadata_bytes > USER_METADATA_BYTES_MAX or len(object_record.user_metadata) > USER_METADATA_MAX:
        raise RejectionError(RejectionReason.BAD_RECORD, f"user metadata of {metadata_bytes} bytes")
    _utf8_bytes(object_record.etag + object_record.content_type)


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise RejectionError(RejectionReason.BAD_RECORD, "text that is not Unicode") from error


def _open(sealing_key: SealingKey, sealed: bytes) -> bytes:
    plain = bytearray(plain_bytes_in(len(sealed)))
    unseal_range(sealing_key, sealed, 0, RangeEnd.LAST, plain)
    return bytes(plain)
