"""ListObjects, its second version, and ListObjectVersions: pages in order of UTF-8 bytes, with prefixes rolled up.

The index gives names in order from any place on; a rolled-up prefix is skipped as one step, so that a page costs as
many steps as it has lines, however many objects lie under its prefixes.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from node.gateway.call import xml_answer
from node.gateway.errors import S3Code, S3Error
from node.gateway.markup import document, flag, leaf, node, shown_time
from node.gateway.object_reads import version_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from node.gateway.call import Call
    from node.gateway.http_server import HttpAnswer
    from node.gateway.store import Listed

    Page = Callable[[str, int], Awaitable[Sequence[Listed]]]
    """Names from a place on (inclusive), at most so many."""

PAGE_MAX: Final = 1_000
SAFE: Final = "/-_.~*!()'"
LAST: Final = "\U0010ffff"
"""Sorts behind every name with the same beginning, in UTF-8 as in code points."""


@dataclass(slots=True)
class Lines:
    """A page: objects and rolled-up prefixes in order, and where the next begins."""

    objects: list[Listed] = field(default_factory=list["Listed"])
    prefixes: list[str] = field(default_factory=list[str])
    last: str = ""
    """The name or prefix of the last line."""
    last_listed: Listed | None = None
    is_truncated: bool = False

    @property
    def count(self) -> int:
        """Return the number of lines."""
        return len(self.objects) + len(self.prefixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuestion:
    """What of a bucket is listed."""

    prefix: str
    delimiter: str
    lines_max: int
    is_encoded: bool

    def shown(self, text: str) -> str:
        """Return a name as the answer writes it."""
        return quote(text, safe=SAFE) if self.is_encoded else text


def read_question(call: Call, count_name: str = "max-keys") -> ListQuestion:
    """Read what all listings share.

    Raises:
        S3Error: InvalidArgument.
    """
    encoding = call.head.parameter("encoding-type")
    if encoding not in {None, "", "url"}:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Invalid Encoding Method specified in Request")
    text = call.head.parameter(count_name)
    count = PAGE_MAX
    if text:
        if not text.isascii() or not text.isdigit() or len(text) > len("2147483647"):
            raise S3Error(S3Code.INVALID_ARGUMENT, f"Provided {count_name} not an integer or within integer range")
        count = min(int(text), PAGE_MAX)
    return ListQuestion(
        prefix=call.head.parameter("prefix") or "",
        delimiter=call.head.parameter("delimiter") or "",
        lines_max=count,
        is_encoded=encoding == "url",
    )


async def gather(question: ListQuestion, page: Page, start: str, *, behind: str | None = None) -> Lines:
    """Return a page of lines.

    Args:
        question: What is listed.
        page: Gives names from a place on.
        start: Where to begin (inclusive).
        behind: A name or prefix that was shown already: nothing up to it, and nothing under it if it is a prefix.
    """
    lines = Lines()
    position = start
    if question.lines_max == 0:
        return lines
    while True:
        found = await page(position, question.lines_max + 1 - lines.count)
        if not found:
            return lines
        for listed in found:
            if behind is not None and _is_behind(question, behind, listed.name):
                position = _after_rolled(question, listed.name) or listed.name + "\0"
                continue
            rolled = _rolled(question, listed.name)
            if lines.count == question.lines_max:
                if rolled is not None and rolled == lines.last:
                    continue
                lines.is_truncated = True
                return lines
            if rolled is None:
                lines.objects.append(listed)
                lines.last, lines.last_listed = listed.name, listed
                position = listed.name + "\0"
                continue
            if rolled != lines.last:
                lines.prefixes.append(rolled)
            lines.last, lines.last_listed = rolled, None
            position = rolled + LAST
            break  # everything under the prefix is skipped at once


def _is_behind(question: ListQuestion, behind: str, name: str) -> bool:
    """Tell whether a name was shown on an earlier page."""
    if name.encode() <= behind.encode():
        return True
    is_prefix = bool(question.delimiter) and behind.endswith(question.delimiter)
    return is_prefix and _rolled(question, name) == behind


def _after_rolled(question: ListQuestion, name: str) -> str | None:
    rolled = _rolled(question, name)
    return None if rolled is None else rolled + LAST


def _rolled(question: ListQuestion, name: str) -> str | None:
    """Return the prefix that stands for a name, None when it stands for itself."""
    if not question.delimiter:
        return None
    end = name.find(question.delimiter, len(question.prefix))
    return None if end < 0 else name[: end + len(question.delimiter)]


async def list_objects(call: Call) -> HttpAnswer:
    """Answer ListObjects."""
    bucket = await call.bucket()
    question = read_question(call)
    marker = call.head.parameter("marker") or ""
    lines = await _current(call, bucket.name, question, marker)
    shared = _shared(question, lines, _owner(call), shown_prefix=question.prefix)
    next_marker = leaf("NextMarker", question.shown(lines.last)) if lines.is_truncated and question.delimiter else ""
    return xml_answer(
        document(
            "ListBucketResult", leaf("Name", bucket.name), leaf("Marker", question.shown(marker)), next_marker, *shared
        )
    )


async def list_objects_v2(call: Call) -> HttpAnswer:
    """Answer ListObjectsV2."""
    bucket = await call.bucket()
    question = read_question(call)
    token, after = call.head.parameter("continuation-token"), call.head.parameter("start-after") or ""
    behind = after if token is None else _read_token(token)
    lines = await _current(call, bucket.name, question, behind)
    shared = _shared(question, lines, _owner(call) if call.head.parameter("fetch-owner") == "true" else "")
    pieces = [leaf("Name", bucket.name), leaf("KeyCount", lines.count)]
    if token is not None:
        pieces.append(leaf("ContinuationToken", token))
    if lines.is_truncated:
        pieces.append(leaf("NextContinuationToken", _token(lines.last)))
    if call.head.parameter("start-after") is not None:
        pieces.append(leaf("StartAfter", question.shown(after)))
    return xml_answer(document("ListBucketResult", *pieces, *shared))


async def _current(call: Call, bucket: str, question: ListQuestion, behind: str) -> Lines:
    async def page(start: str, count: int) -> Sequence[Listed]:
        return await call.store.list_current(bucket, question.prefix, start, count)

    start = max(question.prefix, behind, key=str.encode)
    return await gather(question, page, start, behind=behind or None)


def _owner(call: Call) -> str:
    return node("Owner", leaf("ID", call.owner[0]), leaf("DisplayName", call.owner[1]))


def _shared(question: ListQuestion, lines: Lines, owner: str, shown_prefix: str | None = None) -> list[str]:
    """Return what both listings share; clients do not decode the prefix of the first."""
    return [
        leaf("Prefix", question.shown(question.prefix) if shown_prefix is None else shown_prefix),
        leaf("MaxKeys", question.lines_max),
        leaf("Delimiter", question.shown(question.delimiter)) if question.delimiter else "",
        leaf("EncodingType", "url") if question.is_encoded else "",
        flag("IsTruncated", lines.is_truncated),
        *(_shown_object(question, listed, owner) for listed in lines.objects),
        *(node("CommonPrefixes", leaf("Prefix", question.shown(prefix))) for prefix in lines.prefixes),
    ]


def _shown_object(question: ListQuestion, listed: Listed, owner: str) -> str:
    return node(
        "Contents",
        leaf("Key", question.shown(listed.name)),
        leaf("LastModified", shown_time(listed.modified_ms)),
        leaf("ETag", f'"{listed.etag}"'),
        _shown_checksum(listed),
        leaf("Size", listed.plain_bytes),
        owner,
        leaf("StorageClass", "STANDARD"),
    )


def _shown_checksum(listed: Listed) -> str:
    if not listed.checksum_algorithm:
        return ""
    kind = "COMPOSITE" if listed.is_composite else "FULL_OBJECT"
    return leaf("ChecksumAlgorithm", listed.checksum_algorithm) + leaf("ChecksumType", kind)


async def list_versions(call: Call) -> HttpAnswer:
    """Answer ListObjectVersions."""
    bucket = await call.bucket()
    question = read_question(call)
    key_marker = call.head.parameter("key-marker") or ""
    version_text = call.head.parameter("version-id-marker")
    if version_text and not key_marker:
        raise S3Error(S3Code.INVALID_ARGUMENT, "A version-id marker cannot be specified without a key marker.")
    lines = await _versions(call, bucket.name, question, key_marker, version_text or None)
    pieces = [
        leaf("Name", bucket.name),
        leaf("Prefix", question.shown(question.prefix)),
        leaf("KeyMarker", question.shown(key_marker)),
        leaf("VersionIdMarker", version_text or ""),
        leaf("MaxKeys", question.lines_max),
        leaf("Delimiter", question.shown(question.delimiter)) if question.delimiter else "",
        leaf("EncodingType", "url") if question.is_encoded else "",
        flag("IsTruncated", lines.is_truncated),
    ]
    if lines.is_truncated:
        pieces.append(leaf("NextKeyMarker", question.shown(lines.last)))
        if lines.last_listed is not None:
            pieces.append(leaf("NextVersionIdMarker", lines.last_listed.shown_id))
    pieces += [_shown_version(call, question, listed) for listed in lines.objects]
    pieces += [node("CommonPrefixes", leaf("Prefix", question.shown(prefix))) for prefix in lines.prefixes]
    return xml_answer(document("ListVersionsResult", *pieces))


async def _versions(
    call: Call, bucket: str, question: ListQuestion, key_marker: str, version_text: str | None
) -> Lines:
    lines = Lines()
    if version_text is not None and question.lines_max:
        # What is left of the name that the last page ended in.
        marker = version_named(version_text)
        is_seen = False
        for listed in await call.store.list_versions(bucket, key_marker, key_marker, question.lines_max + 1, marker):
            if listed.name != key_marker:
                break
            is_seen = True
            if lines.count == question.lines_max:
                lines.is_truncated = True
                return lines
            lines.objects.append(listed)
            lines.last, lines.last_listed = listed.name, listed
        del is_seen

    async def page(start: str, count: int) -> Sequence[Listed]:
        return await call.store.list_versions(bucket, question.prefix, start, count, None)

    start = max(question.prefix, key_marker, key=str.encode)
    return await _gather_versions(question, page, start, key_marker or None, lines)


async def _gather_versions(question: ListQuestion, page: Page, start: str, behind: str | None, lines: Lines) -> Lines:
    """Continue a page with further names, each with all of its versions."""
    position, skip = start, 0
    while question.lines_max:
        found = await page(position, question.lines_max + 1 - lines.count + skip)
        fresh = found[skip:]
        if not fresh:
            return lines
        rolled_to: str | None = None
        for listed in fresh:
            if behind is not None and _is_behind(question, behind, listed.name):
                rolled_to = _after_rolled(question, listed.name) or listed.name + "\0"
                break
            rolled = _rolled(question, listed.name)
            if lines.count >= question.lines_max and rolled != lines.last:
                lines.is_truncated = True
                return lines
            if rolled is None:
                lines.objects.append(listed)
                lines.last, lines.last_listed = listed.name, listed
                continue
            if rolled != lines.last:
                lines.prefixes.append(rolled)
            lines.last, lines.last_listed = rolled, None
            rolled_to = rolled + LAST
            break
        if rolled_to is not None:
            position, skip = rolled_to, 0
        else:
            position = fresh[-1].name
            skip = sum(listed.name == position for listed in found)
    return lines


def _shown_version(call: Call, question: ListQuestion, listed: Listed) -> str:
    shared = (
        leaf("Key", question.shown(listed.name)),
        leaf("VersionId", listed.shown_id),
        flag("IsLatest", listed.is_latest),
        leaf("LastModified", shown_time(listed.modified_ms)),
        node("Owner", leaf("ID", call.owner[0]), leaf("DisplayName", call.owner[1])),
    )
    if listed.is_marker:
        return node("DeleteMarker", *shared)
    return node(
        "Version",
        leaf("ETag", f'"{listed.etag}"'),
        _shown_checksum(listed),
        leaf("Size", listed.plain_bytes),
        leaf("StorageClass", "STANDARD"),
        *shared,
    )


def _token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode()


def _read_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise S3Error(S3Code.INVALID_ARGUMENT, "The continuation token provided is incorrect") from error
