"""What is kept with an object version and may change: tags, retention, legal hold."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from node.gateway.bucket_settings import read_tags, shown_tags
from node.gateway.call import empty_answer, xml_answer
from node.gateway.errors import S3Code, S3Error
from node.gateway.markup import document, leaf, parse, shown_time
from node.gateway.metadata import OBJECT_TAGS_MAX, read_retention
from node.gateway.object_reads import find_object, read_version_id
from node.gateway.permissions import read_governance
from node.gateway.store import LegalHold
from storage.buckets import Versioning

if TYPE_CHECKING:
    from node.gateway.call import Call
    from node.gateway.http_server import HttpAnswer
    from node.gateway.store import Bucket, Version
    from storage.buckets import Retention


async def _named(call: Call) -> tuple[Bucket, Version]:
    bucket = await call.bucket()
    return bucket, await find_object(call, bucket, call.target.name, read_version_id(call))


def _version_header(bucket: Bucket, object_version: Version) -> tuple[tuple[str, str], ...]:
    return () if bucket.versioning is Versioning.OFF else (("x-amz-version-id", object_version.shown_id),)


async def get_tags(call: Call) -> HttpAnswer:
    """Answer GetObjectTagging."""
    bucket, object_version = await _named(call)
    return xml_answer(
        document("Tagging", shown_tags(object_version.details.tags)), *_version_header(bucket, object_version)
    )


async def put_tags(call: Call) -> HttpAnswer:
    """Answer PutObjectTagging; allowed whatever retains the version."""
    bucket, object_version = await _named(call)
    tags = read_tags(await call.body.read_document(), OBJECT_TAGS_MAX)
    await call.store.set_tags(bucket.name, object_version, tags)
    return empty_answer(*_version_header(bucket, object_version))


async def delete_tags(call: Call) -> HttpAnswer:
    """Answer DeleteObjectTagging."""
    bucket, object_version = await _named(call)
    await call.store.set_tags(bucket.name, object_version, ())
    return empty_answer(*_version_header(bucket, object_version), status=HTTPStatus.NO_CONTENT)


def _require_lock(bucket: Bucket) -> None:
    if bucket.lock is None:
        raise S3Error(S3Code.INVALID_REQUEST, "Bucket is missing Object Lock Configuration")


async def get_retention(call: Call) -> HttpAnswer:
    """Answer GetObjectRetention."""
    _require_lock(await call.bucket())
    _, object_version = await _named(call)
    retention = None if object_version.lock is None else object_version.lock.retention
    if retention is None:
        raise S3Error(S3Code.NO_SUCH_OBJECT_LOCK)
    shown = (leaf("Mode", retention.mode.value.upper()), leaf("RetainUntilDate", shown_time(retention.until_ms)))
    return xml_answer(document("Retention", *shown))


async def put_retention(call: Call) -> HttpAnswer:
    """Answer PutObjectRetention; the ledger judges whether it may be shortened."""
    bucket = await call.bucket()
    _require_lock(bucket)
    root = parse(await call.body.read_document(), "Retention")
    mode, until = root.text_of("Mode"), root.text_of("RetainUntilDate")
    retention: Retention | None = None
    if mode is not None or until is not None:
        if mode not in {"GOVERNANCE", "COMPLIANCE"} or until is None:
            raise S3Error(S3Code.MALFORMED_XML)
        retention = read_retention(mode, until, call.now_ms)
    _, object_version = await _named(call)
    await call.store.set_retention(bucket.name, object_version, retention, read_governance(call))
    return empty_answer(*_version_header(bucket, object_version))


async def get_hold(call: Call) -> HttpAnswer:
    """Answer GetObjectLegalHold."""
    _require_lock(await call.bucket())
    _, object_version = await _named(call)
    if object_version.lock is None:
        raise S3Error(S3Code.NO_SUCH_OBJECT_LOCK)
    return xml_answer(document("LegalHold", leaf("Status", "ON" if object_version.lock.legal_hold else "OFF")))


async def put_hold(call: Call) -> HttpAnswer:
    """Answer PutObjectLegalHold."""
    bucket = await call.bucket()
    _require_lock(bucket)
    status = parse(await call.body.read_document(), "LegalHold").text_of("Status")
    if status not in {"ON", "OFF"}:
        raise S3Error(S3Code.MALFORMED_XML)
    _, object_version = await _named(call)
    await call.store.set_hold(bucket.name, object_version, LegalHold(status))
    return empty_answer(*_version_header(bucket, object_version))
