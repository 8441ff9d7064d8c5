"""Uploads in parts: begun at one gateway, continued at any, completed once, without moving a byte at the end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from node.gateway.call import empty_answer, xml_answer
from node.gateway.checksums import (
    Algorithm,
    Composition,
    algorithm_named,
    combined,
    composite,
    default_composition,
    read_digest,
    shown_digest,
)
from node.gateway.errors import S3Code, S3Error
from node.gateway.markup import document, flag, leaf, node, parse, shown_time
from node.gateway.metadata import (
    read_kept_headers,
    read_lock_headers,
    read_tag_header,
    read_user_metadata,
    refuse_unsupported,
)
from node.gateway.object_writes import (
    condition_of,
    copy_answer,
    copy_source,
    require_length,
    written_headers,
)
from node.gateway.ranges import read_copy_range
from node.gateway.store import Checksum, NewVersion, ObjectDetails, PartDetails, Upload
from node.gateway.transfers import checked_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.gateway.call import Call
    from node.gateway.http_server import HttpAnswer
    from node.gateway.markup import Element
    from node.gateway.store import Version

PART_BYTES_MIN: Final = 5 * 1024**2
"""Of every part but the last, as in S3."""
PARTS_MAX: Final = 10_000
PAGE_MAX: Final = 1_000
PART_CHECKSUMS_MAX: Final = 128
"""Parts whose own checksums are kept with the finished object: they share a record of 16 KiB with everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """A part as the client names it at the end."""

    number: int
    etag: str
    checksum: str | None


async def create_upload(call: Call) -> HttpAnswer:
    """Answer CreateMultipartUpload."""
    refuse_unsupported(call.head)
    bucket = await call.bucket()
    named = call.head.header("x-amz-checksum-algorithm")
    algorithm = None if named is None else algorithm_named(named)
    composition = _composition(call.head.header("x-amz-checksum-type"), algorithm)
    upload = Upload(
        name=call.target.name,
        upload_id="",
        begun_ms=call.now_ms,
        details=ObjectDetails(
            plain_bytes=0,
            etag="",
            modified_ms=call.now_ms,
            content_type=call.head.header("content-type") or "",
            headers=read_kept_headers(call.head),
            user_metadata=read_user_metadata(call.head),
            tags=read_tag_header(call.head),
        ),
        algorithm="" if algorithm is None else algorithm.shown,
        composition="" if composition is None else composition.value,
        lock=read_lock_headers(call.head, bucket, call.now_ms),
    )
    upload_id = await call.store.begin_upload(bucket.name, upload)
    headers = []
    if algorithm is not None and composition is not None:
        headers = [("x-amz-checksum-algorithm", algorithm.shown), ("x-amz-checksum-type", composition.value)]
    pieces = (leaf("Bucket", bucket.name), leaf("Key", call.target.name), leaf("UploadId", upload_id))
    return xml_answer(document("InitiateMultipartUploadResult", *pieces), *headers)


def _composition(text: str | None, algorithm: Algorithm | None) -> Composition | None:
    if algorithm is None:
        if text is not None:
            raise S3Error(S3Code.INVALID_REQUEST, "x-amz-checksum-type needs x-amz-checksum-algorithm")
        return None
    if text is None:
        return default_composition(algorithm)
    try:
        wanted = Composition(text.upper())
    except ValueError as error:
        raise S3Error(S3Code.INVALID_REQUEST, "Value for x-amz-checksum-type header is invalid.") from error
    if (wanted is Composition.FULL_OBJECT and not algorithm.combines) or (
        wanted is Composition.COMPOSITE and algorithm is Algorithm.CRC64NVME
    ):
        detail = (
            f"The {wanted.value} checksum type cannot be used with the {algorithm.shown.lower()} checksum algorithm."
        )
        raise S3Error(S3Code.INVALID_REQUEST, detail)
    return wanted


async def find_upload(call: Call) -> Upload:
    """Return the upload that a request names.

    Raises:
        S3Error: NoSuchUpload, NoSuchBucket.
    """
    bucket = await call.bucket()
    upload_id = call.head.parameter("uploadId") or ""
    found = await call.store.upload(bucket.name, call.target.name, upload_id)
    if found is None:
        raise S3Error(S3Code.NO_SUCH_UPLOAD, fields={"UploadId": upload_id[:128]})
    return found


def _part_number(call: Call) -> int:
    text = call.head.parameter("partNumber") or ""
    if not text.isascii() or not text.isdigit() or len(text) > len("10000") or not 1 <= int(text) <= PARTS_MAX:
        detail = "Part number must be an integer between 1 and 10000, inclusive"
        raise S3Error(S3Code.INVALID_ARGUMENT, detail, fields={"ArgumentName": "partNumber"})
    return int(text)


async def upload_part(call: Call) -> HttpAnswer:
    """Answer UploadPart."""
    number = _part_number(call)
    require_length(call)
    refuse_unsupported(call.head)
    upload = await find_upload(call)
    sent = call.rules.algorithm
    if sent is not None and upload.algorithm not in {"", sent.shown}:
        kinds = f"expected checksum Type: {upload.algorithm.lower()}, actual checksum Type: {sent.shown.lower()}"
        detail = f"Checksum Type mismatch occurred, {kinds}"
        raise S3Error(S3Code.INVALID_REQUEST, detail)

    def details() -> ObjectDetails:
        etag, checksum = call.body.finish()
        return ObjectDetails(plain_bytes=call.body.plain_bytes, etag=etag, modified_ms=call.now_ms, checksum=checksum)

    new = NewVersion(name=call.target.name, details=details)
    part = await call.store.put_part(call.target.bucket, upload, number, new, call.body)
    bucket = await call.bucket()
    headers = [header for header in written_headers(bucket, part) if not header[0].startswith("x-amz-version")]
    return empty_answer(*(header for header in headers if header[0] != "x-amz-checksum-type"))


async def upload_part_copy(call: Call) -> HttpAnswer:
    """Answer UploadPartCopy."""
    number = _part_number(call)
    upload = await find_upload(call)
    bucket = await call.bucket()
    source_bucket, source = await copy_source(call)
    text = call.head.header("x-amz-copy-source-range")
    wanted = None if text is None else read_copy_range(text, source.details.plain_bytes)
    algorithm = algorithm_named(upload.algorithm) if upload.algorithm else None
    async with checked_source(call.store, source, algorithm, wanted) as copied:
        byte_count = source.details.plain_bytes if wanted is None else wanted.byte_count

        def details() -> ObjectDetails:
            etag, checksum = copied.finish()
            return ObjectDetails(plain_bytes=byte_count, etag=etag, modified_ms=call.now_ms, checksum=checksum)

        new = NewVersion(name=call.target.name, details=details)
        part = await call.store.put_part(bucket.name, upload, number, new, copied)
    return copy_answer("CopyPartResult", replace(bucket), source_bucket, source, part)


async def complete_upload(call: Call) -> HttpAnswer:
    """Answer CompleteMultipartUpload: one transaction, in which the object appears whole or not at all."""
    bucket = await call.bucket()
    root = parse(await call.body.read_document(), "CompleteMultipartUpload")
    named = [_read_named(part) for part in root.all("Part")]
    if not named or len(named) > PARTS_MAX:
        raise S3Error(S3Code.MALFORMED_XML)
    if any(one.number > other.number for one, other in pairwise(named)):
        raise S3Error(S3Code.INVALID_PART_ORDER)
    upload_id = call.head.parameter("uploadId") or ""
    upload = await call.store.upload(bucket.name, call.target.name, upload_id)
    if upload is None:
        return await _completed_before(call, upload_id)
    named = list({one.number: one for one in named}.values())
    stored = dict(await call.store.parts(bucket.name, upload))
    parts = [(one.number, _checked_part(one, stored.get(one.number))) for one in named]
    if any(part.details.plain_bytes < PART_BYTES_MIN for _, part in parts[:-1]):
        raise S3Error(S3Code.ENTITY_TOO_SMALL)
    details = _finished_details(call, upload, parts)
    _check_announced(call, details)
    condition = await condition_of(call, bucket)
    new = NewVersion(name=upload.name, details=lambda: details, condition=condition, lock=upload.lock)
    object_version = await call.store.compose(bucket.name, new, [part for _, part in parts])
    await call.store.end_upload(bucket.name, upload)
    return _complete_answer(call, object_version)


async def _completed_before(call: Call, upload_id: str) -> HttpAnswer:
    """Answer a completion that is asked for again, as clients do whose first answer was lost."""
    current = await call.store.current(call.target.bucket, call.target.name)
    if current is None or current.is_marker or current.details.upload_id != upload_id:
        raise S3Error(S3Code.NO_SUCH_UPLOAD, fields={"UploadId": upload_id[:128]})
    return _complete_answer(call, current)


def _complete_answer(call: Call, object_version: Version) -> HttpAnswer:
    details = object_version.details
    pieces = [
        leaf("Location", f"/{call.target.bucket}/{call.target.name}"),
        leaf("Bucket", call.target.bucket),
        leaf("Key", call.target.name),
        leaf("ETag", f'"{details.etag}"'),
    ]
    if details.checksum is not None:
        pieces.append(leaf(f"Checksum{details.checksum.algorithm}", details.checksum.text))
        pieces.append(leaf("ChecksumType", "COMPOSITE" if details.checksum.is_composite else "FULL_OBJECT"))
    headers = () if object_version.is_null else (("x-amz-version-id", object_version.shown_id),)
    return xml_answer(document("CompleteMultipartUploadResult", *pieces), *headers, *object_version.proof_headers)


def _read_named(part: Element) -> _Named:
    number = part.number_of("PartNumber")
    if number is None:
        raise S3Error(S3Code.MALFORMED_XML)
    if not 1 <= number <= PARTS_MAX:
        raise S3Error(S3Code.INVALID_PART)
    sums = [child.text for child in part.children if child.name.startswith("Checksum")]
    return _Named(number=number, etag=part.require("ETag").strip().strip('"'), checksum=sums[0] if sums else None)


def _checked_part(named: _Named, stored: Version | None) -> Version:
    if stored is None or stored.details.etag != named.etag:
        raise S3Error(S3Code.INVALID_PART, fields={"PartNumber": str(named.number), "ETag": named.etag[:64]})
    kept = stored.details.checksum
    if named.checksum is not None and kept is not None and kept.text != named.checksum:
        raise S3Error(S3Code.INVALID_PART, fields={"PartNumber": str(named.number)})
    return stored


def _finished_details(call: Call, upload: Upload, parts: Sequence[tuple[int, Version]]) -> ObjectDetails:
    total = hashlib.md5(b"".join(bytes.fromhex(part.details.etag) for _, part in parts), usedforsecurity=False)
    checksum = _finished_checksum(upload, [part for _, part in parts])
    keeps_sums = checksum is not None and len(parts) <= PART_CHECKSUMS_MAX
    return replace(
        upload.details,
        plain_bytes=sum(part.details.plain_bytes for _, part in parts),
        etag=f"{total.hexdigest()}-{len(parts)}",
        modified_ms=call.now_ms,
        checksum=checksum,
        upload_id=upload.upload_id,
        parts=tuple(
            PartDetails(
                number=number,
                plain_bytes=part.details.plain_bytes,
                checksum=part.details.checksum.text if keeps_sums and part.details.checksum is not None else "",
            )
            for number, part in parts
        ),
    )


def _finished_checksum(upload: Upload, parts: Sequence[Version]) -> Checksum | None:
    if not upload.algorithm:
        return None
    algorithm = algorithm_named(upload.algorithm)
    digests: list[bytes] = []
    for part in parts:
        if part.details.checksum is None or part.details.checksum.algorithm != algorithm.shown:
            detail = f"The upload was created using a {algorithm.shown.lower()} checksum, which each part must have."
            raise S3Error(S3Code.INVALID_REQUEST, detail)
        digests.append(read_digest(algorithm, part.details.checksum.text))
    if upload.composition == Composition.COMPOSITE.value:
        return Checksum(algorithm=algorithm.shown, text=composite(algorithm, digests), is_composite=True)
    lengths = [part.details.plain_bytes for part in parts]
    total = combined(algorithm, tuple(zip(digests, lengths, strict=True)))
    return Checksum(algorithm=algorithm.shown, text=shown_digest(total))


def _check_announced(call: Call, details: ObjectDetails) -> None:
    """Compare what the client announces of the whole object."""
    announced_bytes = call.head.header("x-amz-mp-object-size")
    if announced_bytes is not None and announced_bytes.strip() != str(details.plain_bytes):
        raise S3Error(
            S3Code.INVALID_REQUEST,
            "The provided 'x-amz-mp-object-size' header does not match what was computed.",
        )
    checksum = details.checksum
    if checksum is None:
        return
    kind = call.head.header("x-amz-checksum-type")
    if kind is not None and kind.upper() != ("COMPOSITE" if checksum.is_composite else "FULL_OBJECT"):
        raise S3Error(S3Code.INVALID_REQUEST, "The upload was created using another checksum type.")
    announced = call.head.header(f"x-amz-checksum-{checksum.algorithm.lower()}")
    if announced is not None and announced.partition("-")[0] != checksum.text.partition("-")[0]:
        raise S3Error(
            S3Code.BAD_DIGEST, f"The {checksum.algorithm} you specified did not match the calculated checksum."
        )


async def abort_upload(call: Call) -> HttpAnswer:
    """Answer AbortMultipartUpload."""
    upload = await find_upload(call)
    await call.store.end_upload(call.target.bucket, upload)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def list_parts(call: Call) -> HttpAnswer:
    """Answer ListParts."""
    upload = await find_upload(call)
    marker, count = _number(call, "part-number-marker", 0), min(_number(call, "max-parts", PAGE_MAX), PAGE_MAX)
    behind = [(number, part) for number, part in await call.store.parts(call.target.bucket, upload) if number > marker]
    shown = behind[:count]
    owner = (leaf("ID", call.owner[0]), leaf("DisplayName", call.owner[1]))
    parts = [
        node(
            "Part",
            leaf("PartNumber", number),
            leaf("LastModified", shown_time(part.details.modified_ms)),
            leaf("ETag", f'"{part.details.etag}"'),
            leaf("Size", part.details.plain_bytes),
            ""
            if part.details.checksum is None
            else leaf(f"Checksum{part.details.checksum.algorithm}", part.details.checksum.text),
        )
        for number, part in shown
    ]
    pieces = [
        leaf("Bucket", call.target.bucket),
        leaf("Key", call.target.name),
        leaf("UploadId", upload.upload_id),
        node("Initiator", *owner),
        node("Owner", *owner),
        leaf("StorageClass", "STANDARD"),
        leaf("PartNumberMarker", marker),
        leaf("NextPartNumberMarker", shown[-1][0]) if shown else "",
        leaf("MaxParts", count),
        flag("IsTruncated", len(behind) > len(shown)),
        leaf("ChecksumAlgorithm", upload.algorithm) if upload.algorithm else "",
        leaf("ChecksumType", upload.composition) if upload.composition else "",
    ]
    return xml_answer(document("ListPartsResult", *pieces, *parts))


async def list_uploads(call: Call) -> HttpAnswer:
    """Answer ListMultipartUploads."""
    bucket = await call.bucket()
    prefix, delimiter = call.head.parameter("prefix") or "", call.head.parameter("delimiter") or ""
    key_marker, id_marker = call.head.parameter("key-marker") or "", call.head.parameter("upload-id-marker") or ""
    count = min(_number(call, "max-uploads", PAGE_MAX), PAGE_MAX)
    found = [upload for upload in await call.store.uploads(bucket.name) if upload.name.startswith(prefix)]
    if id_marker:
        places = [place for place, upload in enumerate(found) if upload.upload_id == id_marker]
        found = found[places[0] + 1 :] if places else [upload for upload in found if upload.name > key_marker]
    elif key_marker:
        found = [upload for upload in found if upload.name > key_marker]
    prefixes: dict[str, None] = {}
    plain: list[Upload] = []
    for upload in found:
        end = upload.name.find(delimiter, len(prefix)) if delimiter else -1
        if end >= 0:
            prefixes[upload.name[: end + len(delimiter)]] = None
        else:
            plain.append(upload)
    shown = plain[:count]
    owner = (leaf("ID", call.owner[0]), leaf("DisplayName", call.owner[1]))
    is_truncated = len(plain) > len(shown)
    pieces = [
        leaf("Bucket", bucket.name),
        leaf("KeyMarker", key_marker),
        leaf("UploadIdMarker", id_marker),
        leaf("NextKeyMarker", shown[-1].name) if shown and is_truncated else "",
        leaf("NextUploadIdMarker", shown[-1].upload_id) if shown and is_truncated else "",
        leaf("Prefix", prefix),
        leaf("Delimiter", delimiter) if delimiter else "",
        leaf("MaxUploads", count),
        flag("IsTruncated", is_truncated),
    ]
    uploads = [
        node(
            "Upload",
            leaf("Key", upload.name),
            leaf("UploadId", upload.upload_id),
            node("Initiator", *owner),
            node("Owner", *owner),
            leaf("StorageClass", "STANDARD"),
            leaf("Initiated", shown_time(upload.begun_ms)),
            leaf("ChecksumAlgorithm", upload.algorithm) if upload.algorithm else "",
            leaf("ChecksumType", upload.composition) if upload.composition else "",
        )
        for upload in shown
    ]
    rolled = [node("CommonPrefixes", leaf("Prefix", name)) for name in prefixes]
    return xml_answer(document("ListMultipartUploadsResult", *pieces, *uploads, *rolled))


def _number(call: Call, name: str, default: int) -> int:
    text = call.head.parameter(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > len("2147483647"):
        raise S3Error(S3Code.INVALID_ARGUMENT, f"{name} must be a whole number")
    return int(text)
