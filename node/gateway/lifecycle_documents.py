"""A bucket's lifecycle rules as they are put and told again; `lifecycle.py` carries them out."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from node.gateway import settings as kept
from node.gateway.bucket_settings import change_setting
from node.gateway.call import empty_answer, xml_answer
from node.gateway.errors import S3Code, S3Error
from node.gateway.markup import Element, document, flag, leaf, node, parse, shown_time
from node.gateway.metadata import read_time_ms
from node.gateway.settings import Lifecycle, LifecycleFilter, LifecycleRule, read_setting
from storage.buckets import DAY_MS

if TYPE_CHECKING:
    from node.gateway.call import Call
    from node.gateway.http_server import HttpAnswer

RULES_MAX: Final = 100
"""They share a record of 16 KiB with the bucket's other settings."""
NAME_LENGTH_MAX: Final = 255


async def get_lifecycle(call: Call) -> HttpAnswer:
    """Answer GetBucketLifecycleConfiguration."""
    bucket = await call.bucket()
    found = read_setting(bucket.settings, kept.LIFECYCLE, Lifecycle)
    if found is None:
        raise S3Error(S3Code.NO_SUCH_LIFECYCLE)
    return xml_answer(document("LifecycleConfiguration", *(_shown(rule) for rule in found.rules)))


async def put_lifecycle(call: Call) -> HttpAnswer:
    """Answer PutBucketLifecycleConfiguration."""
    root = parse(await call.body.read_document(), "LifecycleConfiguration")
    rules = tuple(_rule(element) for element in root.all("Rule"))
    if not 1 <= len(rules) <= RULES_MAX:
        raise S3Error(S3Code.MALFORMED_XML)
    if len({rule.rule_name for rule in rules}) != len(rules):
        raise S3Error(S3Code.INVALID_ARGUMENT, "Rule ID must be unique. Found same ID for more than one rule")
    await change_setting(call, kept.LIFECYCLE, Lifecycle(rules=rules))
    return empty_answer()


async def delete_lifecycle(call: Call) -> HttpAnswer:
    """Answer DeleteBucketLifecycle."""
    await change_setting(call, kept.LIFECYCLE, None)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


def _rule(element: Element) -> LifecycleRule:
    name = element.text_of("ID")
    if name is not None and len(name) > NAME_LENGTH_MAX:
        raise S3Error(S3Code.INVALID_ARGUMENT, "ID length should not exceed allowed limit of 255")
    status = element.text_of("Status")
    if status not in {"Enabled", "Disabled"}:
        raise S3Error(S3Code.MALFORMED_XML)
    if element.all("Transition") or element.all("NoncurrentVersionTransition"):
        raise S3Error(S3Code.NOT_IMPLEMENTED, "there is one storage class: transitions are not implemented")
    days, date_ms, lone = _expiration(element.find("Expiration"))
    noncurrent = element.find("NoncurrentVersionExpiration")
    abort = element.find("AbortIncompleteMultipartUpload")
    rule = LifecycleRule(
        rule_name=name or secrets.token_hex(12),
        is_enabled=status == "Enabled",
        chosen=_filter(element),
        days=days,
        date_ms=date_ms,
        removes_lone_markers=lone,
        noncurrent_days=None if noncurrent is None else noncurrent.number_of("NoncurrentDays", least=1),
        noncurrent_kept=None if noncurrent is None else noncurrent.number_of("NewerNoncurrentVersions", least=1),
        abort_days=None if abort is None else abort.number_of("DaysAfterInitiation", least=1),
    )
    if all(part is None for part in (days, date_ms, lone, noncurrent, abort)):
        raise S3Error(S3Code.INVALID_REQUEST, "At least one action needs to be specified in a rule")
    return rule


def _expiration(element: Element | None) -> tuple[int | None, int | None, bool | None]:
    if element is None:
        return None, None, None
    days, date, lone = (
        element.number_of("Days", least=1),
        element.text_of("Date"),
        element.text_of("ExpiredObjectDeleteMarker"),
    )
    if sum(part is not None for part in (days, date, lone)) != 1:
        raise S3Error(S3Code.MALFORMED_XML)
    date_ms = None
    if date is not None:
        try:
            date_ms = read_time_ms(date)
        except S3Error as error:
            raise S3Error(S3Code.MALFORMED_XML) from error
        if date_ms % DAY_MS:
            raise S3Error(S3Code.INVALID_ARGUMENT, "'Date' must be at midnight GMT")
    return days, date_ms, None if lone is None else lone.strip().lower() == "true"


def _filter(element: Element) -> LifecycleFilter:
    chosen, old_prefix = element.find("Filter"), element.text_of("Prefix")
    if chosen is None:
        if old_prefix is None:
            raise S3Error(S3Code.MALFORMED_XML)
        return LifecycleFilter(prefix=old_prefix, shape="prefix")
    conjunction = chosen.find("And")
    holder = chosen if conjunction is None else conjunction
    return LifecycleFilter(
        prefix=holder.text_of("Prefix") or "",
        tags=tuple((tag.require("Key"), tag.require("Value")) for tag in holder.all("Tag")),
        larger_than=holder.number_of("ObjectSizeGreaterThan"),
        smaller_than=holder.number_of("ObjectSizeLessThan"),
        shape="filter" if conjunction is None else "and",
    )


def _shown(rule: LifecycleRule) -> str:
    expiration = (
        leaf("Days", rule.days),
        None if rule.date_ms is None else leaf("Date", shown_time(rule.date_ms)),
        None if rule.removes_lone_markers is None else flag("ExpiredObjectDeleteMarker", rule.removes_lone_markers),
    )
    shown = [piece for piece in expiration if piece]
    noncurrent = leaf("NoncurrentDays", rule.noncurrent_days) + leaf("NewerNoncurrentVersions", rule.noncurrent_kept)
    abort = leaf("DaysAfterInitiation", rule.abort_days)
    return node(
        "Rule",
        leaf("ID", rule.rule_name),
        _shown_filter(rule.chosen),
        leaf("Status", "Enabled" if rule.is_enabled else "Disabled"),
        node("Expiration", *shown) if shown else "",
        node("NoncurrentVersionExpiration", noncurrent) if noncurrent else "",
        node("AbortIncompleteMultipartUpload", abort) if abort else "",
    )


def _shown_filter(chosen: LifecycleFilter) -> str:
    pieces = [node("Tag", leaf("Key", name), leaf("Value", text)) for name, text in chosen.tags]
    pieces += [leaf("ObjectSizeGreaterThan", chosen.larger_than), leaf("ObjectSizeLessThan", chosen.smaller_than)]
    prefix = leaf("Prefix", chosen.prefix) if chosen.prefix or not any(pieces) else ""
    match chosen.shape:
        case "prefix":
            return leaf("Prefix", chosen.prefix)
        case "and":
            return node("Filter", node("And", prefix, *pieces))
        case _:
            return node("Filter", prefix, *pieces)
