"""Records: the sealed, erasable metadata of an object version, about 300 bytes, kept off chain on every node.

    sealed record  = salt, 32 bytes || key commitment, 32 bytes || one frame (storage/sealing.py, domain RECORD)
    its plaintext  = canonical [object record, wrapped object key]
    wrapped key    = one frame of the 32-byte object key (domain OBJECT_KEY, same bucket key, same salt), 48 bytes
    address        = SHA-256("grandest/1/record" || NUL || tenant, 16 || version id, 16 || sealed record)

The commitment names the bucket key, hence one plaintext, one object key and one opening of every frame below it. The
address binds a record to its tenant and version, so that no tenant can refer to another's; any member recomputes it.
Sealing a version's record again (other metadata, another bucket key) takes a fresh salt.

A sealed record has at most 16 KiB. An object of many sealings (parts of one upload) keeps their list as a sealing of
its own, before its first frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

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
    seal_committed,
    seal_range,
    sealed_bytes,
    unseal_committed,
    unseal_range,
)
from storage.tags import NAME_BYTES_MAX, BucketKeys, name_bytes, name_tag

RECORD_BYTES_MAX: Final = 16 * 1024
"""A sealed record; thousands of them travel beside one block."""
RECORD_HEAD_BYTES: Final = SALT_BYTES + COMMITMENT_BYTES
RECORD_BYTES_MIN: Final = RECORD_HEAD_BYTES + FRAME_TAG_BYTES
WRAPPED_KEY_BYTES: Final = SECRET_BYTES + FRAME_TAG_BYTES
SEALINGS_MAX: Final = 400
SEALINGS_INLINE_MAX: Final = 64
"""More of them are kept in a part list: about 160 bytes each with their part, 10 KiB of the 16."""
PARTS_MAX: Final = 10_000
"""As in S3."""
PART_LIST_BYTES_MAX: Final = 4 * 1024 * 1024
"""PARTS_MAX times at most 300 bytes."""
PAIRS_MAX: Final = 64
PAIR_BYTES_MAX: Final = 8_192
USER_METADATA_BYTES_MAX: Final = 2048
"""Of all pairs, as in S3."""
PAIRS_BYTES_MAX: Final = 12 * 1024
"""Of headers and of tags, together."""
ETAG_BYTES_MAX: Final = 128
CHECKSUM_BYTES_MAX: Final = 128
CHECKSUMS_MAX: Final = 8
CONTENT_TYPE_BYTES_MAX: Final = 256

Pairs = Annotated[
    tuple[
        tuple[
            Annotated[str, Meta(min_length=1, max_length=PAIR_BYTES_MAX)],
            Annotated[str, Meta(max_length=PAIR_BYTES_MAX)],
        ],
        ...,
    ],
    Meta(max_length=PAIRS_MAX),
]
"""Names and texts."""


class ChecksumKind(StrEnum):
    """Whether a checksum is of the object's bytes, or of the checksums of its parts."""

    FULL_OBJECT = "full_object"
    COMPOSITE = "composite"


class ObjectChecksum(Record):
    """A checksum that a tenant's tool asked to keep, in the text that it is told again."""

    algorithm: Annotated[str, Meta(min_length=1, max_length=16)]
    text: Annotated[str, Meta(min_length=1, max_length=CHECKSUM_BYTES_MAX)]
    kind: ChecksumKind


class ObjectPart(Record):
    """One part of an upload in parts, beside its sealing: its number, and what a tool may ask of it later."""

    number: Annotated[int, Meta(ge=1, le=PARTS_MAX)]
    etag: Annotated[str, Meta(max_length=ETAG_BYTES_MAX)]
    checksum: Annotated[str, Meta(max_length=CHECKSUM_BYTES_MAX)]


class PartList(Record):
    """The sealings and parts of an object that has too many for its record; sealed before the object's first frame."""

    sealings: Annotated[tuple[Sealing, ...], Meta(min_length=1, max_length=PARTS_MAX)]
    parts: Annotated[tuple[ObjectPart, ...], Meta(max_length=PARTS_MAX)]


class ObjectRecord(Record):
    """What a tenant wants to know of an object version; lengths in Unicode characters are checked in bytes as well.

    Attributes:
        headers: What a gateway tells again as it was told (Cache-Control, Content-Encoding and the like), and keeps.
        tags: As they were written with the object; a second record replaces them.
        sealings: In order; none when `part_list` tells where they are.
        parts: One for each sealing, or none.
        part_list: The sealing of a PartList that the object's first extents hold; its domain is PART_LIST.
    """

    name: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
    plain_bytes: Annotated[int, Meta(ge=0, le=PLAIN_BYTES_MAX)]
    etag: Annotated[str, Meta(max_length=ETAG_BYTES_MAX)]
    content_type: Annotated[str, Meta(max_length=CONTENT_TYPE_BYTES_MAX)]
    user_metadata: Pairs
    modified_ms: Annotated[Milliseconds, TIME]
    sealings: Annotated[tuple[Sealing, ...], Meta(max_length=SEALINGS_MAX)]
    headers: Pairs = ()
    checksums: Annotated[tuple[ObjectChecksum, ...], Meta(max_length=CHECKSUMS_MAX)] = ()
    tags: Pairs = ()
    parts: Annotated[tuple[ObjectPart, ...], Meta(max_length=SEALINGS_MAX)] = ()
    part_list: Sealing | None = None


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
    check_record_bytes(sealed_byte_count)
    return seal_committed(keys.bucket_key, SealingDomain.RECORD, contents, salt)


def check_record_bytes(sealed_byte_count: int) -> None:
    """Refuse a sealed record that is longer than records are; raises RejectionError(OVERSIZED)."""
    if sealed_byte_count > RECORD_BYTES_MAX:
        raise RejectionError(
            RejectionReason.OVERSIZED, f"record of {sealed_byte_count} bytes, {RECORD_BYTES_MAX} allowed"
        )


def unseal_record(sealed: bytes, keys: BucketKeys, expected: NameTag) -> OpenedRecord:
    """Open a record and check that it is about the name whose tag the chain shows.

    Raises:
        UnsealError: Another bucket key, changed bytes, or a record of another name.
        RejectionError: What the key holder sealed is not an object record within its limits.
    """
    if not RECORD_BYTES_MIN <= len(sealed) <= RECORD_BYTES_MAX:
        raise UnsealError(f"a record of {len(sealed)} bytes")
    plain = unseal_committed(keys.bucket_key, SealingDomain.RECORD, sealed)
    contents = decode(plain, RecordContents, bytes_max=RECORD_BYTES_MAX)
    check_object_record(contents.object_record)
    if name_tag(keys.tag_key, contents.object_record.name) != expected:
        raise UnsealError("the record is about another name")
    wrapping_key = SealingKey(keys.bucket_key, SealingDomain.OBJECT_KEY, SealingSalt(sealed[:SALT_BYTES]))
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
    if object_record.part_list is None:
        _check_sealings(object_record, SEALINGS_MAX)
    elif object_record.sealings or object_record.parts:
        raise RejectionError(RejectionReason.BAD_RECORD, "sealings both in the record and in a part list")
    _check_pairs("user metadata", (object_record.user_metadata,), USER_METADATA_BYTES_MAX)
    _check_pairs("headers and tags", (object_record.headers, object_record.tags), PAIRS_BYTES_MAX)
    _utf8_bytes(object_record.etag + object_record.content_type)


def with_parts(object_record: ObjectRecord, part_list: PartList) -> ObjectRecord:
    """Return a record with the sealings and parts that its part list holds.

    Raises:
        RejectionError: BAD_RECORD; the list is not this object's.
    """
    whole = replace(object_record, sealings=part_list.sealings, parts=part_list.parts, part_list=None)
    _check_sealings(whole, PARTS_MAX)
    return whole


def decode_part_list(encoded: bytes) -> PartList:
    """Read an opened part list or raise RejectionError."""
    return decode(encoded, PartList, bytes_max=PART_LIST_BYTES_MAX)


def _check_sealings(object_record: ObjectRecord, sealings_max: int) -> None:
    sealings, parts = object_record.sealings, object_record.parts
    sealed_plain_bytes = sum(sealing.plain_bytes for sealing in sealings)
    if sealed_plain_bytes != object_record.plain_bytes:
        detail = f"sealings of {sealed_plain_bytes} bytes for an object of {object_record.plain_bytes}"
        raise RejectionError(RejectionReason.BAD_RECORD, detail)
    if not 1 <= len(sealings) <= sealings_max:
        raise RejectionError(RejectionReason.BAD_RECORD, f"{len(sealings)} sealings")
    if parts and len(parts) != len(sealings):
        raise RejectionError(RejectionReason.BAD_RECORD, f"{len(parts)} parts in {len(sealings)} sealings")
    if len({sealing.salt for sealing in sealings}) != len(sealings):
        raise RejectionError(RejectionReason.BAD_RECORD, "one salt in two sealings")


def _check_pairs(what: str, lists: tuple[tuple[tuple[str, str], ...], ...], bytes_max: int) -> None:
    pair_bytes = sum(_utf8_bytes(name) + _utf8_bytes(text) for pairs in lists for name, text in pairs)
    if pair_bytes > bytes_max or any(len(pairs) > PAIRS_MAX for pairs in lists):
        raise RejectionError(RejectionReason.BAD_RECORD, f"{what} of {pair_bytes} bytes")


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise RejectionError(RejectionReason.BAD_RECORD, "text that is not Unicode") from error


def _open(sealing_key: SealingKey, sealed: bytes) -> bytes:
    plain = bytearray(plain_bytes_in(len(sealed)))
    unseal_range(sealing_key, sealed, 0, RangeEnd.LAST, plain)
    return bytes(plain)
