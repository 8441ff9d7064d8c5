"""How S3's view of an object version is kept in its sealed record, and read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.identifiers import Milliseconds
from node.client.new_objects import Description
from node.gateway.store import Checksum, ObjectDetails, PartDetails
from storage.records import ChecksumKind, ObjectChecksum, ObjectPart

if TYPE_CHECKING:
    from storage.records import ObjectRecord

UPLOAD: Final = "x-grandest-upload"
"""Kept among the headers: the upload in parts that made the version."""


def description_of(details: ObjectDetails) -> Description:
    """Return what the record is to say beside name and bytes."""
    checksum = details.checksum
    headers = details.headers
    if details.upload_id:
        headers = (*headers, (UPLOAD, details.upload_id))
    return Description(
        content_type=details.content_type,
        user_metadata=details.user_metadata,
        headers=headers,
        tags=details.tags,
        checksums=() if checksum is None else (_kept_checksum(checksum),),
        etag=details.etag,
        modified_ms=Milliseconds(details.modified_ms),
    )


def parts_of(details: ObjectDetails) -> tuple[ObjectPart, ...]:
    """Return an object's parts as its record keeps them; their lengths are those of its sealings."""
    return tuple(ObjectPart(number=part.number, etag="", checksum=part.checksum) for part in details.parts)


def details_of(record: ObjectRecord) -> ObjectDetails:
    """Return what a record says."""
    checksum = record.checksums[0] if record.checksums else None
    kept = dict(record.headers)
    return ObjectDetails(
        plain_bytes=record.plain_bytes,
        etag=record.etag,
        modified_ms=record.modified_ms,
        content_type=record.content_type,
        headers=tuple((name, text) for name, text in record.headers if name != UPLOAD),
        user_metadata=record.user_metadata,
        checksum=None
        if checksum is None
        else Checksum(
            algorithm=checksum.algorithm,
            text=checksum.text,
            is_composite=checksum.kind is ChecksumKind.COMPOSITE,
        ),
        parts=tuple(
            PartDetails(number=part.number, plain_bytes=sealing.plain_bytes, checksum=part.checksum)
            for part, sealing in zip(record.parts, record.sealings, strict=False)
        ),
        tags=record.tags,
        upload_id=kept.get(UPLOAD, ""),
    )


def _kept_checksum(checksum: Checksum) -> ObjectChecksum:
    kind = ChecksumKind.COMPOSITE if checksum.is_composite else ChecksumKind.FULL_OBJECT
    return ObjectChecksum(algorithm=checksum.algorithm, text=checksum.text, kind=kind)
