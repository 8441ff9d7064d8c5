"""Headers that are kept with an object, tags, locks asked for, and what is refused among headers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from node.gateway.errors import S3Code, S3Error
from storage.buckets import Retention, RetentionMode, VersionLock

if TYPE_CHECKING:
    from node.gateway.signatures import RequestHead
    from node.gateway.store import Bucket

META: Final = "x-amz-meta-"
KEPT_HEADERS: Final = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
)
USER_METADATA_BYTES_MAX: Final = 2_048
OBJECT_TAGS_MAX: Final = 10
BUCKET_TAGS_MAX: Final = 50
TAG_KEY_LENGTH_MAX: Final = 128
TAG_VALUE_LENGTH_MAX: Final = 256
CANNED_ACLS: Final = frozenset({"private", "bucket-owner-read", "bucket-owner-full-control"})
"""What says nothing beyond the owner's own rights."""
PUBLIC_ACLS: Final = frozenset(
    {"public-read", "public-read-write", "authenticated-read", "aws-exec-read", "log-delivery-write"}
)
DEFAULT_CONTENT_TYPE: Final = "binary/octet-stream"
STORAGE_CLASSES: Final = frozenset({"STANDARD"})

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TAG: Final = re.compile(r"[\w\s+\-=.:/@]*\Z")


def read_user_metadata(head: RequestHead) -> tuple[tuple[str, str], ...]:
    """Return x-amz-meta-* headers, names without the prefix.

    Raises:
        S3Error: MetadataTooLarge.
    """
    found: dict[str, str] = {}
    for name, text in head.headers:
        if name.startswith(META) and len(name) > len(META):
            short = name[len(META) :]
            found[short] = f"{found[short]},{text}" if short in found else text
    if sum(len(name) + len(text.encode("utf-8")) for name, text in found.items()) > USER_METADATA_BYTES_MAX:
        raise S3Error(S3Code.METADATA_TOO_LARGE)
    return tuple(sorted(found.items()))


def read_kept_headers(head: RequestHead) -> tuple[tuple[str, str], ...]:
    """Return content headers that come back with the object; the coding of a chunked body is none of its own."""
    found = [(name, head.header(name)) for name in KEPT_HEADERS]
    kept: list[tuple[str, str]] = []
    for name, text in found:
        if text is None:
            continue
        shown = text
        if name == "content-encoding" and "aws-chunked" in text.lower():
            codings = [coding.strip() for coding in text.split(",") if coding.strip().lower() != "aws-chunked"]
            shown = ",".join(coding for coding in codings if coding)
        if shown:
            kept.append((name, shown))
    return tuple(kept)


def refuse_unsupported(head: RequestHead) -> None:
    """Refuse what would otherwise be ignored: encryption by others' keys, storage classes, rights for others.

    Raises:
        S3Error: NotImplemented, InvalidArgument.
    """
    for name, text in head.headers:
        if name.startswith(("x-amz-server-side-encryption-customer", "x-amz-copy-source-server-side-encryption")):
            detail = "SSE-C is not implemented: objects are encrypted with the tenant's own keys already"
            raise S3Error(S3Code.NOT_IMPLEMENTED, detail)
        if name.startswith("x-amz-server-side-encryption"):
            raise S3Error(S3Code.NOT_IMPLEMENTED, f"{name} is not implemented: every object is encrypted already")
        if name.startswith("x-amz-grant-"):
            raise S3Error(S3Code.NOT_IMPLEMENTED, "grants to others are not implemented: give them an access key")
        if name == "x-amz-storage-class" and text not in STORAGE_CLASSES:
            raise S3Error(S3Code.NOT_IMPLEMENTED, "there is one storage class, STANDARD")
        if name == "x-amz-acl":
            check_canned_acl(text)


def check_canned_acl(text: str) -> None:
    """Accept canned ACLs that give nobody anything; refuse others.

    Raises:
        S3Error: NotImplemented for public ones, InvalidArgument for unknown ones.
    """
    if text in PUBLIC_ACLS:
        raise S3Error(S3Code.NOT_IMPLEMENTED, f"the canned ACL {text} is not implemented: nothing here is public")
    if text not in CANNED_ACLS:
        raise S3Error(S3Code.INVALID_ARGUMENT, fields={"ArgumentName": "x-amz-acl", "ArgumentValue": text[:64]})


def read_tag_header(head: RequestHead) -> tuple[tuple[str, str], ...]:
    """Return the tags of x-amz-tagging.

    Raises:
        S3Error: InvalidTag, InvalidArgument.
    """
    text = head.header("x-amz-tagging")
    if text is None:
        return ()
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise S3Error(
            S3Code.INVALID_ARGUMENT, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded."
        ) from error
    return check_tags(tuple(pairs), OBJECT_TAGS_MAX)


def check_tags(tags: tuple[tuple[str, str], ...], tags_max: int) -> tuple[tuple[str, str], ...]:
    """Return tags that are within S3's limits.

    Raises:
        S3Error: InvalidTag, or BadRequest as S3 has it for too many.
    """
    if len(tags) > tags_max:
        raise S3Error(S3Code.INVALID_TAG, f"Object tags cannot be greater than {tags_max}")
    if len({name for name, _ in tags}) != len(tags):
        raise S3Error(S3Code.INVALID_TAG, "Cannot provide multiple Tags with the same key")
    for name, text in tags:
        if not 1 <= len(name) <= TAG_KEY_LENGTH_MAX or not _TAG.match(name) or name.startswith("aws:"):
            raise S3Error(S3Code.INVALID_TAG, "The TagKey you have provided is invalid")
        if len(text) > TAG_VALUE_LENGTH_MAX or not _TAG.match(text):
            raise S3Error(S3Code.INVALID_TAG, "The TagValue you have provided is invalid")
    return tags


def read_lock_headers(head: RequestHead, bucket: Bucket, now_ms: int) -> VersionLock | None:
    """Return the retention and legal hold that a new version is to have; None: the bucket's default.

    Raises:
        S3Error: InvalidRequest in a bucket without object lock, InvalidArgument for what is incomplete.
    """
    mode, until = head.header("x-amz-object-lock-mode"), head.header("x-amz-object-lock-retain-until-date")
    hold = head.header("x-amz-object-lock-legal-hold")
    if mode is None and until is None and hold is None:
        return None
    if bucket.lock is None:
        raise S3Error(S3Code.INVALID_REQUEST, "Bucket is missing Object Lock Configuration")
    if (mode is None) is not (until is None):
        detail = "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
        raise S3Error(S3Code.INVALID_ARGUMENT, detail)
    if hold not in {None, "ON", "OFF"}:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Legal Hold must be either of 'ON' or 'OFF'")
    retention = None if mode is None or until is None else read_retention(mode, until, now_ms)
    if retention is None and bucket.lock.default is not None:
        default = bucket.lock.default
        retention = Retention(mode=default.mode, until_ms=now_ms + default.days * 86_400_000)  # type: ignore[arg-type]
    return VersionLock(retention=retention, legal_hold=hold == "ON")


def read_retention(mode: str, until: str, now_ms: int) -> Retention:
    """Return a retention as it is asked for.

    Raises:
        S3Error: InvalidArgument for an unknown mode, an unreadable or past date.
    """
    try:
        wanted = RetentionMode(mode.lower()) if mode == mode.upper() else None
    except ValueError:
        wanted = None
    if wanted is None:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Unknown wormMode directive.")
    until_ms = read_time_ms(until)
    if until_ms <= now_ms:
        raise S3Error(S3Code.INVALID_ARGUMENT, "The retain until date must be in the future!")
    return Retention(mode=wanted, until_ms=until_ms)  # type: ignore[arg-type]


def read_time_ms(text: str) -> int:
    """Return a moment of ISO 8601 in milliseconds since 1970.

    Raises:
        S3Error: InvalidArgument.
    """
    try:
        moment = datetime.fromisoformat(text.strip() if _DATE.match(text.strip()) else "")
    except ValueError as error:
        raise S3Error(S3Code.INVALID_ARGUMENT, "The date must be of ISO 8601") from error
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
