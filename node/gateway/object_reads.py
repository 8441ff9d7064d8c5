"""GET and HEAD of objects, their attributes, and the bytes of ranges and parts."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from node.gateway.call import xml_answer
from node.gateway.conditions import check_read
from node.gateway.errors import S3Code, S3Error
from node.gateway.http_server import HttpAnswer
from node.gateway.markup import document, flag, http_time, leaf, node, shown_time
from node.gateway.metadata import DEFAULT_CONTENT_TYPE, META
from node.gateway.ranges import ByteRange, read_range
from storage.buckets import NULL_VERSION, Versioning
from storage.identifiers import VersionId

if TYPE_CHECKING:
    from node.gateway.call import Call
    from node.gateway.http_server import Send
    from node.gateway.store import Bucket, ObjectDetails, PartDetails, Version

VERSION_DIGITS: Final = 32
OVERRIDES: Final = {
    "response-content-type": "Content-Type",
    "response-content-language": "Content-Language",
    "response-expires": "Expires",
    "response-cache-control": "Cache-Control",
    "response-content-disposition": "Content-Disposition",
    "response-content-encoding": "Content-Encoding",
}
ATTRIBUTES: Final = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")
PARTS_SHOWN_MAX: Final = 1_000
PARTS_MAX: Final = 10_000
FRAME_DIGITS_MAX: Final = 9
"""The longest object has 84 million frames."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """What of an object is answered."""

    wanted: ByteRange | None
    part: PartDetails | None = None


def read_version_id(call: Call) -> VersionId | None:
    """Return the version that a request names; None: the current one.

    Raises:
        S3Error: InvalidArgument for what is no id of ours.
    """
    text = call.head.parameter("versionId")
    return None if text is None else version_named(text)


def version_named(text: str) -> VersionId:
    """Return a version's id from how S3 writes it.

    Raises:
        S3Error: InvalidArgument.
    """
    if text == "null":
        return NULL_VERSION
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(text) != VERSION_DIGITS or len(found) != VERSION_DIGITS // 2:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Invalid version id specified")
    return VersionId(found)


async def find_object(call: Call, bucket: Bucket, name: str, object_version: VersionId | None) -> Version:
    """Return an object version that can be read.

    Raises:
        S3Error: NoSuchKey, NoSuchVersion, MethodNotAllowed for a marker named by its version.
    """
    if object_version is None:
        current = await call.store.current(bucket.name, name)
        if current is None or current.is_marker:
            raise S3Error(S3Code.NO_SUCH_KEY, fields={"Key": name}, headers=_absence_headers(current))
        return current
    found = await call.store.object_version(bucket.name, name, object_version)
    if found is None:
        raise S3Error(S3Code.NO_SUCH_VERSION, fields={"Key": name})
    if found.is_marker:
        headers = (("x-amz-delete-marker", "true"), ("x-amz-version-id", found.shown_id), ("Allow", "DELETE"))
        raise S3Error(S3Code.METHOD_NOT_ALLOWED, headers=headers)
    return found


def _absence_headers(current: Version | None) -> tuple[tuple[str, str], ...]:
    if current is None:
        return (("x-amz-delete-marker", "false"),)
    return (("x-amz-delete-marker", "true"), ("x-amz-version-id", current.shown_id))


async def get_object(call: Call) -> HttpAnswer:
    """Answer GET and HEAD of an object."""
    bucket = await call.bucket()
    object_version = await find_object(call, bucket, call.target.name, read_version_id(call))
    details = object_version.details
    shared = object_headers(bucket, object_version)
    try:
        check_read(call.head, details)
    except S3Error as error:
        if error.code is S3Code.NOT_MODIFIED:
            return HttpAnswer(status=HTTPStatus.NOT_MODIFIED, headers=shared)
        raise
    selection = _select(call, details)
    headers = [*shared, *_content_headers(call, details), ("Accept-Ranges", "bytes")]
    headers += _checksum_headers(call, details, selection)
    if selection.part is not None:
        headers.append(("x-amz-mp-parts-count", str(len(details.parts))))
    wanted = selection.wanted
    first, byte_count = (0, details.plain_bytes) if wanted is None else (wanted.first, wanted.byte_count)
    if wanted is not None:
        headers.append(("Content-Range", f"bytes {wanted.first}-{wanted.last}/{details.plain_bytes}"))

    async def write(send: Send) -> None:
        await call.store.read(object_version, send, first, byte_count)

    return HttpAnswer(
        status=HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT,
        headers=tuple(headers),
        write=write if byte_count and call.head.method == "GET" else None,
        content_length=byte_count,
    )


def object_headers(bucket: Bucket, object_version: Version) -> tuple[tuple[str, str], ...]:
    """Return what identifies a version, in answers with and without its bytes."""
    details = object_version.details
    headers = [("ETag", f'"{details.etag}"'), ("Last-Modified", http_time(details.modified_ms))]
    if bucket.versioning is not Versioning.OFF:
        headers.append(("x-amz-version-id", object_version.shown_id))
    headers += [(f"{META}{name}", text) for name, text in details.user_metadata]
    if object_version.lock is not None:
        headers += _lock_headers(object_version)
    if details.tags:
        headers.append(("x-amz-tagging-count", str(len(details.tags))))
    headers += object_version.proof_headers
    return tuple(headers)


def _lock_headers(object_version: Version) -> list[tuple[str, str]]:
    lock = object_version.lock
    assert lock is not None, "asked only with a lock"
    headers = [("x-amz-object-lock-legal-hold", "ON")] if lock.legal_hold else []
    if lock.retention is not None:
        headers.append(("x-amz-object-lock-mode", lock.retention.mode.value.upper()))
        headers.append(("x-amz-object-lock-retain-until-date", shown_time(lock.retention.until_ms)))
    return headers


def _content_headers(call: Call, details: ObjectDetails) -> list[tuple[str, str]]:
    kept = {"Content-Type": details.content_type or DEFAULT_CONTENT_TYPE}
    for name, text in details.headers:
        kept["-".join(word.capitalize() for word in name.split("-")) if not name.startswith("x-") else name] = text
    for parameter, name in OVERRIDES.items():
        override = call.head.parameter(parameter)
        if override is not None:
            if not override.isprintable():
                raise S3Error(S3Code.INVALID_ARGUMENT)
            kept[name] = override
    return list(kept.items())


def _checksum_headers(call: Call, details: ObjectDetails, selection: _Selection) -> list[tuple[str, str]]:
    checksum = details.checksum
    if checksum is None or (call.head.header("x-amz-checksum-mode") or "").upper() != "ENABLED":
        return []
    text = checksum.text if selection.wanted is None else ""
    if selection.part is not None:
        text = selection.part.checksum
    if not text:
        return []
    kind = "COMPOSITE" if checksum.is_composite else "FULL_OBJECT"
    return [(f"x-amz-checksum-{checksum.algorithm.lower()}", text), ("x-amz-checksum-type", kind)]


def _select(call: Call, details: ObjectDetails) -> _Selection:
    """Return the range or part that is asked for."""
    text = call.head.parameter("partNumber")
    if text is None:
        return _Selection(read_range(call.head.header("range"), details.plain_bytes))
    if call.head.header("range") is not None:
        raise S3Error(S3Code.INVALID_REQUEST, "Cannot specify both Range header and partNumber query parameter")
    if not text.isascii() or not text.isdigit() or len(text) > len("10000") or not 1 <= int(text) <= PARTS_MAX:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Part number must be an integer between 1 and 10000, inclusive")
    number = int(text)
    if not details.parts:
        if number != 1:
            raise S3Error(S3Code.INVALID_PART)
        return _Selection(ByteRange(0, details.plain_bytes - 1) if details.plain_bytes else None)
    first = 0
    for position, part in enumerate(details.parts, 1):
        # Parts are counted in the order of the finished object, whatever numbers they were uploaded with.
        if position == number:
            return _Selection(ByteRange(first, first + part.plain_bytes - 1), part)
        first += part.plain_bytes
    raise S3Error(S3Code.INVALID_PART)


async def get_proof(call: Call) -> HttpAnswer:
    """Answer GetObjectProof, which is ours alone: one frame with its way to six signatures."""
    text = call.head.parameter("frame") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > FRAME_DIGITS_MAX:
        raise S3Error(S3Code.INVALID_ARGUMENT, "frame must be a whole number")
    bucket = await call.bucket()
    object_version = await find_object(call, bucket, call.target.name, read_version_id(call))
    proven = await call.store.prove(object_version, int(text))
    if proven is None:
        raise S3Error(S3Code.INVALID_RANGE, f"the object has no frame {text}")
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("x-grandest-frames", str(proven.frames)),
        *object_headers(bucket, object_version),
    )
    return HttpAnswer(status=HTTPStatus.OK, headers=headers, body=proven.encoded)


async def get_attributes(call: Call) -> HttpAnswer:
    """Answer GetObjectAttributes."""
    bucket = await call.bucket()
    asked = [
        text.strip()
        for name, value in call.head.headers
        if name == "x-amz-object-attributes"
        for text in value.split(",")
    ]
    if not asked or any(name not in ATTRIBUTES for name in asked):
        raise S3Error(S3Code.INVALID_ARGUMENT, "Invalid attribute name specified.")
    object_version = await find_object(call, bucket, call.target.name, read_version_id(call))
    details = object_version.details
    pieces: list[str] = []
    if "ETag" in asked:
        pieces.append(leaf("ETag", details.etag))
    if "Checksum" in asked and details.checksum is not None:
        kind = "COMPOSITE" if details.checksum.is_composite else "FULL_OBJECT"
        shown = details.checksum.text
        pieces.append(
            node("Checksum", leaf(f"Checksum{details.checksum.algorithm}", shown), leaf("ChecksumType", kind))
        )
    if "ObjectParts" in asked and details.parts:
        pieces.append(_shown_parts(call, details))
    if "StorageClass" in asked:
        pieces.append(leaf("StorageClass", "STANDARD"))
    if "ObjectSize" in asked:
        pieces.append(leaf("ObjectSize", details.plain_bytes))
    headers = [("Last-Modified", http_time(details.modified_ms))]
    if bucket.versioning is not Versioning.OFF:
        headers.append(("x-amz-version-id", object_version.shown_id))
    return xml_answer(document("GetObjectAttributesResponse", *pieces), *headers)


def _shown_parts(call: Call, details: ObjectDetails) -> str:
    marker = _header_number(call, "x-amz-part-number-marker", 0)
    count = min(_header_number(call, "x-amz-max-parts", PARTS_SHOWN_MAX), PARTS_SHOWN_MAX)
    behind = [part for part in details.parts if part.number > marker]
    shown = behind[:count]
    parts = [
        node(
            "Part",
            leaf("PartNumber", part.number),
            leaf("Size", part.plain_bytes),
            leaf(f"Checksum{details.checksum.algorithm}", part.checksum or None)
            if details.checksum is not None
            else "",
        )
        for part in shown
    ]
    return node(
        "ObjectParts",
        leaf("PartsCount", len(details.parts)),
        leaf("PartNumberMarker", marker),
        leaf("NextPartNumberMarker", shown[-1].number if shown else 0),
        leaf("MaxParts", count),
        flag("IsTruncated", len(behind) > len(shown)),
        *parts,
    )


def _header_number(call: Call, name: str, default: int) -> int:
    text = call.head.header(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > len("10000"):
        raise S3Error(S3Code.INVALID_ARGUMENT, f"{name} must be a whole number")
    return int(text)
