"""Buckets: made, found, listed, configured and deleted."""

from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from node.gateway.call import empty_answer, xml_answer
from node.gateway.errors import S3Code, S3Error
from node.gateway.markup import document, leaf, node, parse, shown_time
from node.gateway.metadata import check_canned_acl, refuse_unsupported
from node.gateway.refusals import WriteFailure, WriteRefusedError
from node.gateway.settings import OWNERSHIP, Ownership, encode_setting
from node.gateway.signatures import REGION
from node.gateway.store import Bucket
from storage.buckets import DefaultRetention, ObjectLock, RetentionMode, Versioning

if TYPE_CHECKING:
    from node.gateway.call import Call
    from node.gateway.http_server import HttpAnswer
    from node.gateway.markup import Element

BUCKETS_SHOWN_MAX: Final = 10_000
RETENTION_DAYS_MAX: Final = 36_500
DAYS_IN_YEAR: Final = 365

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_ADDRESS: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}\Z")


def check_bucket_name(name: str) -> None:
    """Refuse what S3 refuses as a new bucket's name.

    Raises:
        S3Error: InvalidBucketName.
    """
    if not _NAME.match(name) or _ADDRESS.match(name) or ".." in name or ".-" in name or "-." in name:
        raise S3Error(S3Code.INVALID_BUCKET_NAME, fields={"BucketName": name[:64]})


async def list_buckets(call: Call) -> HttpAnswer:
    """Answer ListBuckets."""
    prefix = call.head.parameter("prefix") or ""
    start = call.head.parameter("continuation-token") or ""
    text = call.head.parameter("max-buckets")
    count = BUCKETS_SHOWN_MAX if text is None else _count(text)
    found = [
        bucket
        for bucket in await call.store.buckets()
        if bucket.name.startswith(prefix) and bucket.name > start and _is_admitted(call, bucket.name)
    ]
    shown = found[:count]
    owner = node("Owner", leaf("ID", call.owner[0]), leaf("DisplayName", call.owner[1]))
    buckets = [
        node(
            "Bucket",
            leaf("Name", bucket.name),
            leaf("CreationDate", shown_time(bucket.created_ms)),
            leaf("BucketRegion", REGION),
        )
        for bucket in shown
    ]
    token = leaf("ContinuationToken", shown[-1].name) if len(found) > len(shown) else ""
    shown_prefix = leaf("Prefix", prefix) if prefix else ""
    return xml_answer(document("ListAllMyBucketsResult", owner, node("Buckets", *buckets), token, shown_prefix))


def _is_admitted(call: Call, name: str) -> bool:
    return call.access_key.buckets is None or name in call.access_key.buckets


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > len("10000") or not 1 <= int(text) <= BUCKETS_SHOWN_MAX:
        raise S3Error(S3Code.INVALID_ARGUMENT, "max-buckets must be between 1 and 10000")
    return int(text)


async def create_bucket(call: Call) -> HttpAnswer:
    """Answer CreateBucket."""
    refuse_unsupported(call.head)
    check_bucket_name(call.target.bucket)
    acl = call.head.header("x-amz-acl")
    if acl is not None:
        check_canned_acl(acl)
    ownership = _read_ownership(call)
    body = await call.body.read_document()
    if body:
        location = parse(body, "CreateBucketConfiguration").text_of("LocationConstraint")
        if location not in {None, "", REGION, "us-east-1"}:
            raise S3Error(S3Code.INVALID_LOCATION)
    is_locked = (call.head.header("x-amz-bucket-object-lock-enabled") or "").lower() == "true"
    bucket = Bucket(
        name=call.target.bucket,
        created_ms=call.now_ms,
        versioning=Versioning.ENABLED if is_locked else Versioning.OFF,
        lock=ObjectLock(default=None) if is_locked else None,
        settings=ownership,
    )
    try:
        await call.store.create_bucket(bucket)
    except WriteRefusedError as error:
        # Making one's own bucket again is no error in S3's first region, which clients take for granted.
        found = await call.store.bucket(bucket.name) if error.failure is WriteFailure.BUCKET_EXISTS else None
        if found is None or is_locked is not (found.lock is not None):
            raise
    return empty_answer(("Location", f"/{bucket.name}"))


def _read_ownership(call: Call) -> dict[str, bytes]:
    wanted = call.head.header("x-amz-object-ownership")
    if wanted not in {None, "BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"}:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Invalid x-amz-object-ownership header")
    return {} if wanted is None else {OWNERSHIP: encode_setting(Ownership(rule=wanted))}


async def head_bucket(call: Call) -> HttpAnswer:
    """Answer HeadBucket."""
    await call.bucket()
    return empty_answer(("x-amz-bucket-region", REGION))


async def delete_bucket(call: Call) -> HttpAnswer:
    """Answer DeleteBucket."""
    bucket = await call.bucket()
    await call.store.delete_bucket(bucket.name)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def get_location(call: Call) -> HttpAnswer:
    """Answer GetBucketLocation."""
    await call.bucket()
    return xml_answer(document("LocationConstraint", REGION))


async def get_versioning(call: Call) -> HttpAnswer:
    """Answer GetBucketVersioning."""
    bucket = await call.bucket()
    shown = {Versioning.OFF: "", Versioning.ENABLED: "Enabled", Versioning.SUSPENDED: "Suspended"}[bucket.versioning]
    return xml_answer(document("VersioningConfiguration", leaf("Status", shown) if shown else ""))


async def put_versioning(call: Call) -> HttpAnswer:
    """Answer PutBucketVersioning."""
    bucket = await call.bucket()
    root = parse(await call.body.read_document(), "VersioningConfiguration")
    status = root.text_of("Status")
    if status not in {"Enabled", "Suspended"}:
        raise S3Error(S3Code.MALFORMED_XML)
    if root.text_of("MfaDelete") == "Enabled":
        raise S3Error(S3Code.NOT_IMPLEMENTED, "MFA delete is not implemented")
    if status == "Suspended" and bucket.lock is not None:
        detail = "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed."
        raise S3Error(S3Code.ILLEGAL_VERSIONING, detail)
    wanted = Versioning.ENABLED if status == "Enabled" else Versioning.SUSPENDED
    if bucket.versioning is not wanted:
        await call.store.change_bucket(replace(bucket, versioning=wanted))
    return empty_answer()


async def get_lock(call: Call) -> HttpAnswer:
    """Answer GetObjectLockConfiguration."""
    bucket = await call.bucket()
    if bucket.lock is None:
        raise S3Error(S3Code.OBJECT_LOCK_MISSING)
    default = bucket.lock.default
    rule = (
        ""
        if default is None
        else node(
            "Rule", node("DefaultRetention", leaf("Mode", default.mode.value.upper()), leaf("Days", default.days))
        )
    )
    return xml_answer(document("ObjectLockConfiguration", leaf("ObjectLockEnabled", "Enabled"), rule))


async def put_lock(call: Call) -> HttpAnswer:
    """Answer PutObjectLockConfiguration: a bucket that is versioned may be given a lock, which it keeps."""
    bucket = await call.bucket()
    root = parse(await call.body.read_document(), "ObjectLockConfiguration")
    if root.text_of("ObjectLockEnabled") != "Enabled":
        raise S3Error(S3Code.MALFORMED_XML)
    if bucket.lock is None and bucket.versioning is not Versioning.ENABLED:
        raise S3Error(
            S3Code.ILLEGAL_VERSIONING,
            "Object Lock configuration cannot be enabled on existing buckets without versioning",
        )
    rule = root.find("Rule")
    await call.store.change_bucket(
        replace(bucket, lock=ObjectLock(default=None if rule is None else _default_of(rule)))
    )
    return empty_answer()


def _default_of(rule: Element) -> DefaultRetention:
    default = rule.find("DefaultRetention")
    if default is None:
        raise S3Error(S3Code.MALFORMED_XML)
    days, years = default.number_of("Days", least=-(2**31)), default.number_of("Years", least=-(2**31))
    if (days is None) is (years is None):
        raise S3Error(S3Code.MALFORMED_XML)
    mode = default.require("Mode")
    if mode not in {"GOVERNANCE", "COMPLIANCE"}:
        raise S3Error(S3Code.MALFORMED_XML)
    total = days if days is not None else (years or 0) * DAYS_IN_YEAR
    if not 1 <= total <= RETENTION_DAYS_MAX:
        raise S3Error(S3Code.INVALID_RETENTION_PERIOD)
    return DefaultRetention(mode=RetentionMode(mode.lower()), days=total)
