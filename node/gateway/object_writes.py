"""PUT, copy and deletion of objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from node.gateway.bodies import OBJECT_BYTES_MAX
from node.gateway.call import empty_answer, xml_answer
from node.gateway.checksums import algorithm_named
from node.gateway.conditions import check_read, matches, needs_current, write_condition
from node.gateway.errors import S3Code, S3Error, failure_error
from node.gateway.markup import document, flag, http_time, leaf, node, parse, shown_time
from node.gateway.metadata import (
    read_kept_headers,
    read_lock_headers,
    read_tag_header,
    read_user_metadata,
    refuse_unsupported,
)
from node.gateway.object_reads import find_object, read_version_id, version_named
from node.gateway.operations import Operation
from node.gateway.permissions import check_copied, check_policy, read_governance
from node.gateway.store import Named, NewVersion, ObjectDetails
from node.gateway.transfers import checked_source
from node.nurseries import open_plain_nursery
from storage.buckets import Versioning

if TYPE_CHECKING:
    from node.gateway.call import Call
    from node.gateway.http_server import HttpAnswer
    from node.gateway.markup import Element
    from node.gateway.store import Bucket, Version
    from storage.identifiers import VersionId

DELETED_AT_ONCE_MAX: Final = 1_000


async def put_object(call: Call) -> HttpAnswer:
    """Answer PutObject."""
    require_length(call)
    bucket, object_version = await store_body(call, read_tag_header(call.head))
    return empty_answer(*written_headers(bucket, object_version))


async def store_body(call: Call, tags: tuple[tuple[str, str], ...]) -> tuple[Bucket, Version]:
    """Store a request's body as the object that its target names."""
    refuse_unsupported(call.head)
    bucket = await call.bucket()
    lock = read_lock_headers(call.head, bucket, call.now_ms)
    kept, metadata = read_kept_headers(call.head), read_user_metadata(call.head)

    def details() -> ObjectDetails:
        etag, checksum = call.body.finish()
        return ObjectDetails(
            plain_bytes=call.body.plain_bytes,
            etag=etag,
            modified_ms=call.now_ms,
            content_type=call.head.header("content-type") or "",
            headers=kept,
            user_metadata=metadata,
            checksum=checksum,
            tags=tags,
        )

    condition = await condition_of(call, bucket)
    new = NewVersion(name=call.target.name, details=details, condition=condition, lock=lock)
    return bucket, await call.store.put(bucket.name, new, call.body)


async def condition_of(call: Call, bucket: Bucket) -> bytes | None:
    """Return the condition of a write for the ledger, judged already against what is there now."""
    if not needs_current(call.head):
        return None
    return write_condition(call.head, await call.store.current(bucket.name, call.target.name))


def require_length(call: Call) -> None:
    """Refuse a body that announces no length.

    Raises:
        S3Error: MissingContentLength.
    """
    if call.rules.plain_bytes is None and call.head.header("transfer-encoding") is None:
        raise S3Error(S3Code.MISSING_CONTENT_LENGTH)


def written_headers(bucket: Bucket, object_version: Version) -> tuple[tuple[str, str], ...]:
    """Return the headers of an answer to a write."""
    headers = [("ETag", f'"{object_version.details.etag}"')]
    if bucket.versioning is Versioning.ENABLED:
        headers.append(("x-amz-version-id", object_version.shown_id))
    checksum = object_version.details.checksum
    if checksum is not None:
        headers.append((f"x-amz-checksum-{checksum.algorithm.lower()}", checksum.text))
        headers.append(("x-amz-checksum-type", "COMPOSITE" if checksum.is_composite else "FULL_OBJECT"))
    return (*headers, *object_version.proof_headers)


async def copy_source(call: Call) -> tuple[Bucket, Version]:
    """Return what x-amz-copy-source names, its conditions met.

    Raises:
        S3Error: Malformed, absent, or a condition that fails.
    """
    text = call.head.header("x-amz-copy-source") or ""
    path, _, query = text.removeprefix("/").partition("?")
    bucket_name, separator, name = unquote(path).partition("/")
    if not separator or not name:
        raise S3Error(
            S3Code.INVALID_ARGUMENT, "Copy Source must mention the source bucket and key: sourcebucket/sourcekey"
        )
    if query and not query.startswith("versionId="):
        raise S3Error(S3Code.INVALID_ARGUMENT, "a copy source has a versionId and nothing else")
    bucket = await call.bucket_named(bucket_name)
    check_copied(call, bucket, name)
    object_version = await find_object(call, bucket, name, version_named(query.partition("=")[2]) if query else None)
    check_read(call.head, object_version.details, prefix="x-amz-copy-source-")
    return bucket, object_version


async def copy_object(call: Call) -> HttpAnswer:
    """Answer CopyObject: the bytes stay where they are, unless another checksum of them is asked for."""
    refuse_unsupported(call.head)
    bucket = await call.bucket()
    source_bucket, source = await copy_source(call)
    if source.details.plain_bytes > OBJECT_BYTES_MAX:
        detail = f"The specified copy source is larger than the maximum allowable size: {OBJECT_BYTES_MAX}"
        raise S3Error(S3Code.INVALID_REQUEST, detail)
    is_same = (source_bucket.name, source.name) == (bucket.name, call.target.name) and source.is_latest
    if is_same and _directive(call, "x-amz-metadata-directive") == "COPY":
        detail = "This copy request is illegal because it is trying to copy an object to itself without changing it."
        raise S3Error(S3Code.INVALID_REQUEST, detail)
    described = _copied_details(call, source)
    lock = read_lock_headers(call.head, bucket, call.now_ms)
    condition = await condition_of(call, bucket)
    name, named = call.target.name, call.head.header("x-amz-checksum-algorithm")
    wanted = None if named is None else algorithm_named(named)
    known = source.details.checksum
    if wanted is None or (known is not None and known.algorithm == wanted.shown):
        new = NewVersion(name=name, details=lambda: described, condition=condition, lock=lock)
        object_version = await call.store.compose(bucket.name, new, (source,))
    else:
        async with checked_source(call.store, source, wanted) as copied:

            def details() -> ObjectDetails:
                etag, checksum = copied.finish()
                return replace(described, etag=etag, checksum=checksum, parts=())

            new = NewVersion(name=name, details=details, condition=condition, lock=lock)
            object_version = await call.store.put(bucket.name, new, copied)
    return copy_answer("CopyObjectResult", bucket, source_bucket, source, object_version)


def _copied_details(call: Call, source: Version) -> ObjectDetails:
    """Return what a copy's record says, its bytes being the source's."""
    kept = replace(source.details, modified_ms=call.now_ms, upload_id="")
    if _directive(call, "x-amz-metadata-directive") == "REPLACE":
        kept = replace(
            kept,
            content_type=call.head.header("content-type") or "",
            headers=read_kept_headers(call.head),
            user_metadata=read_user_metadata(call.head),
        )
    if _directive(call, "x-amz-tagging-directive") == "REPLACE":
        kept = replace(kept, tags=read_tag_header(call.head))
    return kept


def copy_answer(
    root: str, bucket: Bucket, source_bucket: Bucket, source: Version, object_version: Version
) -> HttpAnswer:
    """Return the answer to a copy of an object or a part."""
    checksum = object_version.details.checksum
    pieces = [
        leaf("LastModified", shown_time(object_version.details.modified_ms)),
        leaf("ETag", f'"{object_version.details.etag}"'),
    ]
    if checksum is not None:
        pieces.append(leaf(f"Checksum{checksum.algorithm}", checksum.text))
    headers = [] if bucket.versioning is Versioning.OFF else [("x-amz-version-id", object_version.shown_id)]
    if source_bucket.versioning is not Versioning.OFF:
        headers.append(("x-amz-copy-source-version-id", source.shown_id))
    return xml_answer(document(root, *pieces), *headers, *object_version.proof_headers)


def _directive(call: Call, name: str) -> str:
    text = call.head.header(name) or "COPY"
    if text not in {"COPY", "REPLACE"}:
        raise S3Error(S3Code.INVALID_ARGUMENT, f"Unknown directive in {name}")
    return text


async def delete_object(call: Call) -> HttpAnswer:
    """Answer DeleteObject."""
    bucket = await call.bucket()
    object_version = read_version_id(call)
    if not await _meets_delete_condition(call, bucket, object_version):
        return empty_answer(status=HTTPStatus.NO_CONTENT)
    governance = read_governance(call)
    if object_version is None and bucket.versioning is not Versioning.OFF:
        marker = await call.store.put_marker(bucket.name, call.target.name)
        return empty_answer(
            ("x-amz-delete-marker", "true"), ("x-amz-version-id", marker.shown_id), status=HTTPStatus.NO_CONTENT
        )
    headers: list[tuple[str, str]] = []
    if object_version is not None:
        found = await call.store.object_version(bucket.name, call.target.name, object_version)
        headers.append(("x-amz-version-id", call.head.parameter("versionId") or ""))
        if found is not None and found.is_marker:
            headers.append(("x-amz-delete-marker", "true"))
    (failure,) = await call.store.remove(
        bucket.name, [Named(name=call.target.name, object_version=object_version)], governance
    )
    if failure is not None:
        raise failure_error(failure)
    return empty_answer(*headers, status=HTTPStatus.NO_CONTENT)


async def _meets_delete_condition(call: Call, bucket: Bucket, object_version: VersionId | None) -> bool:
    """Judge If-Match, x-amz-if-match-size and x-amz-if-match-last-modified-time of a deletion.

    Returns:
        False when there is nothing that could meet a condition: then nothing is done, and nothing is wrong.

    Raises:
        S3Error: PreconditionFailed.
    """
    head = call.head
    conditions = (
        head.header("if-match"),
        head.header("x-amz-if-match-size"),
        head.header("x-amz-if-match-last-modified-time"),
    )
    if all(text is None for text in conditions):
        return True
    found = await _deletable(call, bucket, call.target.name, object_version)
    raise_unless_deletable(found, *conditions)
    return found is not None


async def _deletable(call: Call, bucket: Bucket, name: str, object_version: VersionId | None) -> Version | None:
    """Return what a deletion is about."""
    if object_version is None:
        return await call.store.current(bucket.name, name)
    return await call.store.object_version(bucket.name, name, object_version)


def raise_unless_deletable(
    found: Version | None, match: str | None, byte_count: str | None, modified: str | None
) -> None:
    """Judge the conditions of one deletion; nothing is wrong with deleting what is not there.

    Raises:
        S3Error: PreconditionFailed.
    """
    if found is None:
        return
    meets = match is None or (match.strip() == "*" if found.is_marker else matches(match, found.details.etag))
    if not meets:
        raise S3Error(S3Code.PRECONDITION_FAILED, fields={"Condition": "If-Match"})
    if byte_count is not None and byte_count.strip() != str(found.details.plain_bytes):
        raise S3Error(S3Code.PRECONDITION_FAILED, fields={"Condition": "x-amz-if-match-size"})
    if modified is not None and modified.strip() not in {
        http_time(found.details.modified_ms),
        shown_time(found.details.modified_ms),
        shown_time(found.details.modified_ms // 1000 * 1000),
        shown_time(found.details.modified_ms).partition(".")[0] + "Z",
    }:
        raise S3Error(S3Code.PRECONDITION_FAILED, fields={"Condition": "x-amz-if-match-last-modified-time"})


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One name of a DeleteObjects, and what is answered when it is gone."""

    named: Named
    version_text: str | None
    shown: str


async def delete_objects(call: Call) -> HttpAnswer:
    """Answer DeleteObjects: each name for itself."""
    bucket = await call.bucket()
    root = parse(await call.body.read_document(), "Delete")
    elements = root.all("Object")
    if not 1 <= len(elements) <= DELETED_AT_ONCE_MAX:
        raise S3Error(S3Code.MALFORMED_XML)
    is_quiet = (root.text_of("Quiet") or "").strip() == "true"
    governance = read_governance(call)
    answers: list[str] = [""] * len(elements)
    removals: dict[int, _Wanted] = {}
    markers: dict[int, str] = {}
    for position, element in enumerate(elements):
        name, version_text = element.require("Key"), element.text_of("VersionId") or None
        try:
            wanted = await _read_wanted(call, bucket, element)
        except S3Error as error:
            answers[position] = _failed(name, version_text, error)
            continue
        if wanted is None:
            markers[position] = name
        else:
            removals[position] = wanted
    for position, marker in (await _put_markers(call, bucket, markers)).items():
        shown = (
            leaf("Key", marker.name),
            flag("DeleteMarker", is_set=True),
            leaf("DeleteMarkerVersionId", marker.shown_id),
        )
        answers[position] = "" if is_quiet else node("Deleted", *shown)
    unique = tuple({(one.named.name, one.named.object_version): one.named for one in removals.values()}.values())
    failures = await call.store.remove(bucket.name, unique, governance) if unique else []
    outcomes = dict(zip(unique, failures, strict=True))
    for position, wanted in removals.items():
        failure = outcomes[wanted.named]
        if failure is not None:
            answers[position] = _failed(wanted.named.name, wanted.version_text, failure_error(failure))
        elif not is_quiet:
            answers[position] = wanted.shown
    return xml_answer(document("DeleteResult", *answers))


async def _read_wanted(call: Call, bucket: Bucket, element: Element) -> _Wanted | None:
    """Return what is to be removed for good; None when a marker is to be put."""
    name, version_text = element.require("Key"), element.text_of("VersionId") or None
    if not name:
        raise S3Error(S3Code.USER_KEY_MUST_BE_SPECIFIED)
    check_policy(bucket, Operation.DELETE_OBJECT, name)
    object_version = None if version_text is None else version_named(version_text)
    conditions = (element.text_of("ETag"), element.text_of("Size"), element.text_of("LastModifiedTime"))
    if any(text is not None for text in conditions):
        raise_unless_deletable(await _deletable(call, bucket, name, object_version), *conditions)
    if object_version is None and bucket.versioning is not Versioning.OFF:
        return None
    pieces = [leaf("Key", name), leaf("VersionId", version_text)]
    if object_version is not None:
        found = await call.store.object_version(bucket.name, name, object_version)
        if found is not None and found.is_marker:
            pieces += [flag("DeleteMarker", is_set=True), leaf("DeleteMarkerVersionId", version_text)]
    return _Wanted(Named(name=name, object_version=object_version), version_text, node("Deleted", *pieces))


async def _put_markers(call: Call, bucket: Bucket, names: dict[int, str]) -> dict[int, Version]:
    """Put markers above names, all at once: they share transactions."""
    markers: dict[int, Version] = {}

    async def put(position: int, name: str) -> None:
        markers[position] = await call.store.put_marker(bucket.name, name)

    async with open_plain_nursery() as nursery:
        for position, name in names.items():
            nursery.start_soon(put, position, name)
    return markers


def _failed(name: str, version_text: str | None, error: S3Error) -> str:
    return node(
        "Error",
        leaf("Key", name),
        leaf("VersionId", version_text),
        leaf("Code", error.code.code),
        leaf("Message", error.detail),
    )
