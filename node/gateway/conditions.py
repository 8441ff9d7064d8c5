"""Conditions of requests: If-Match and its like, on reads and on writes (RFC 9110, section 13, as S3 applies it)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from node.gateway.errors import S3Code, S3Error

if TYPE_CHECKING:
    from node.gateway.signatures import RequestHead
    from node.gateway.store import ObjectDetails, Version


def check_read(head: RequestHead, details: ObjectDetails, *, prefix: str = "") -> None:
    """Judge the conditions of a read, or of the source of a copy.

    Args:
        head: Of the request.
        details: Of the version that would be read.
        prefix: "x-amz-copy-source-" for a copy, which fails where a read would answer 304.

    Raises:
        S3Error: PreconditionFailed, or NotModified.
    """
    unmet = S3Code.PRECONDITION_FAILED
    known = unmet if prefix else S3Code.NOT_MODIFIED
    match, none_match = head.header(f"{prefix}if-match"), head.header(f"{prefix}if-none-match")
    if match is not None:
        if not matches(match, details.etag):
            raise S3Error(unmet, fields={"Condition": "If-Match"})
    else:
        unmodified_since = _moment(head.header(f"{prefix}if-unmodified-since"))
        if unmodified_since is not None and _is_after(details, unmodified_since):
            raise S3Error(unmet, fields={"Condition": "If-Unmodified-Since"})
    if none_match is not None:
        if matches(none_match, details.etag):
            raise S3Error(known, fields={"Condition": "If-None-Match"})
    else:
        modified_since = _moment(head.header(f"{prefix}if-modified-since"))
        if modified_since is not None and not _is_after(details, modified_since):
            raise S3Error(known, fields={"Condition": "If-Modified-Since"})


def write_condition(head: RequestHead, current: Version | None) -> bytes | None:
    """Return what the ledger is to check of a write: None for nothing, empty for absence, or a version id.

    Args:
        head: Of the request.
        current: The version that would be replaced; None or a marker is absence.

    Raises:
        S3Error: The condition fails already, or is one that S3 does not have for writes.
    """
    match, none_match = head.header("if-match"), head.header("if-none-match")
    if match is None and none_match is None:
        return None
    if match is not None and none_match is not None:
        raise S3Error(S3Code.NOT_IMPLEMENTED, "If-Match and If-None-Match together are not implemented")
    is_there = current is not None and not current.is_marker
    if none_match is not None:
        if none_match.strip() != "*" and not (
            is_there and current is not None and matches(none_match, current.details.etag)
        ):
            return None if not is_there or current is None else current.version_id
        if is_there:
            raise S3Error(S3Code.PRECONDITION_FAILED, fields={"Condition": "If-None-Match"})
        return b""
    if not is_there or current is None:
        raise S3Error(S3Code.NO_SUCH_KEY)
    if not matches(match or "", current.details.etag):
        raise S3Error(S3Code.PRECONDITION_FAILED, fields={"Condition": "If-Match"})
    return current.version_id


def needs_current(head: RequestHead) -> bool:
    """Tell whether a write's condition is about what is there."""
    return head.header("if-match") is not None or head.header("if-none-match") is not None


def matches(condition: str, etag: str) -> bool:
    """Tell whether a list of ETags, or `*`, names this one; quotes and weakness do not matter to S3."""
    named = {text.strip().removeprefix("W/").strip('"') for text in condition.split(",")}
    return "*" in named or etag in named


def _is_after(details: ObjectDetails, moment_s: float) -> bool:
    """Tell whether the object changed after a moment, in whole seconds."""
    return details.modified_ms // 1000 > moment_s


def _moment(text: str | None) -> float | None:
    """Return seconds since 1970; None without a date, or for one that is none of HTTP's: it is ignored."""
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):  # a year of twenty digits
        return None
