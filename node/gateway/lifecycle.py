"""Carries out buckets' lifecycle rules: what has expired is deleted, old versions end, unfinished uploads are aborted.

Days count from the midnight (UTC) that follows, as in S3. Every gateway of a tenant looks; deletions name the version
that was judged, so that two gateways do no more than one, and what was written meanwhile stays. What is retained stays:
the ledger refuses.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import GrandestError
from node.gateway import settings as kept
from node.gateway.settings import Lifecycle, LifecycleRule, read_setting
from node.gateway.store import Named
from storage.buckets import DAY_MS, NULL_VERSION, Versioning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from node.gateway.settings import LifecycleFilter
    from node.gateway.store import Bucket, Listed, Store

LOGGER: Final = logging.getLogger(__name__)
LOOK_SECONDS: Final = 3_600.0
PAGE_MAX: Final = 1_000


async def run_lifecycle(store: Store, look_seconds: float = LOOK_SECONDS) -> None:
    """Look at every bucket of a tenant now and then, until cancelled."""
    while True:
        await trio.sleep(look_seconds)
        try:
            for bucket in await store.buckets():
                await apply_rules(store, bucket, time.time_ns() // 1_000_000)
        except GrandestError as error:
            LOGGER.warning("lifecycle: %s", error)


async def apply_rules(store: Store, bucket: Bucket, now_ms: int) -> None:
    """Carry out a bucket's rules as of a moment."""
    lifecycle = read_setting(bucket.settings, kept.LIFECYCLE, Lifecycle)
    for rule in () if lifecycle is None else lifecycle.rules:
        if rule.is_enabled:
            await _apply(store, bucket, rule, now_ms)


async def _apply(store: Store, bucket: Bucket, rule: LifecycleRule, now_ms: int) -> None:
    if (
        rule.days is not None
        or rule.date_ms is not None
        or rule.removes_lone_markers
        or rule.noncurrent_days is not None
    ):
        await _expire_versions(store, bucket, rule, now_ms)
    if rule.abort_days is not None:
        for upload in await store.uploads(bucket.name):
            is_old = has_passed(upload.begun_ms, rule.abort_days, now_ms)
            if is_old and upload.name.startswith(rule.chosen.prefix):
                await store.end_upload(bucket.name, upload)


async def _expire_versions(store: Store, bucket: Bucket, rule: LifecycleRule, now_ms: int) -> None:
    start, prefix = rule.chosen.prefix, rule.chosen.prefix
    while True:
        page = await store.list_versions(bucket.name, prefix, start, PAGE_MAX + 1, None)
        names = list(_by_name(page))
        if len(page) > PAGE_MAX and len(names) > 1:
            names.pop()  # its versions may go on behind the page
        for versions in names:
            await _expire_name(store, bucket, rule, versions, now_ms)
        if len(page) <= PAGE_MAX or not names:
            return
        start = names[-1][0].name + "\0"


async def _expire_name(
    store: Store, bucket: Bucket, rule: LifecycleRule, versions: Sequence[Listed], now_ms: int
) -> None:
    current = versions[0]
    if current.is_marker:
        if rule.removes_lone_markers and len(versions) == 1:
            await store.remove(bucket.name, [_named(current)])
    elif is_expired(rule, current, now_ms) and await _is_chosen(store, bucket, rule.chosen, current):
        if bucket.versioning is Versioning.OFF:
            await store.remove(bucket.name, [_named(current)])
        else:
            await store.put_marker(bucket.name, current.name)
    for old in list(ended_versions(rule, versions, now_ms)):
        await store.remove(bucket.name, [_named(old)])


def ended_versions(rule: LifecycleRule, versions: Sequence[Listed], now_ms: int) -> Iterator[Listed]:
    """Give a name's noncurrent versions whose time is over; it runs from when they were replaced."""
    if rule.noncurrent_days is None:
        return
    spared = rule.noncurrent_kept or 0
    for newer, old in zip(versions[spared:], versions[spared + 1 :], strict=False):
        if has_passed(newer.modified_ms, rule.noncurrent_days, now_ms):
            yield old


def is_expired(rule: LifecycleRule, current: Listed, now_ms: int) -> bool:
    """Tell whether a current object's time is over."""
    if rule.date_ms is not None:
        return now_ms >= rule.date_ms
    return rule.days is not None and has_passed(current.modified_ms, rule.days, now_ms)


def has_passed(since_ms: int, days: int, now_ms: int) -> bool:
    """Tell whether so many days have passed, rounded up to the next midnight."""
    end_ms = since_ms + days * DAY_MS
    return now_ms >= -(-end_ms // DAY_MS) * DAY_MS


async def _is_chosen(store: Store, bucket: Bucket, chosen: LifecycleFilter, current: Listed) -> bool:
    if chosen.larger_than is not None and current.plain_bytes <= chosen.larger_than:
        return False
    if chosen.smaller_than is not None and current.plain_bytes >= chosen.smaller_than:
        return False
    if not chosen.tags:
        return True
    found = await store.current(bucket.name, current.name)
    return found is not None and set(chosen.tags) <= set(found.details.tags)


def _named(listed: Listed) -> Named:
    return Named(name=listed.name, object_version=NULL_VERSION if listed.is_null else listed.version_id)


def _by_name(page: Sequence[Listed]) -> Iterator[list[Listed]]:
    versions: list[Listed] = []
    for listed in page:
        if versions and versions[0].name != listed.name:
            yield versions
            versions = []
        versions.append(listed)
    if versions:
        yield versions
