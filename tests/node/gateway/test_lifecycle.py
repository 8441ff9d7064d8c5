"""Lifecycle rules carried out on a store in memory, at moments of our choice."""

from __future__ import annotations

from node.client.sources import bytes_source
from node.gateway.lifecycle import apply_rules, has_passed
from node.gateway.settings import LIFECYCLE, Lifecycle, LifecycleFilter, LifecycleRule, encode_setting
from node.gateway.store import Bucket, NewVersion, ObjectDetails, Upload
from storage.buckets import DAY_MS, Versioning
from tests.node.gateway.memory_store import MemoryStore

NOON = 1_000 * DAY_MS + DAY_MS // 2


async def stored(store: MemoryStore, name: str, modified_ms: int, tags: tuple[tuple[str, str], ...] = ()) -> None:
    details = ObjectDetails(plain_bytes=1, etag="e", modified_ms=modified_ms, tags=tags)
    await store.put("b", NewVersion(name=name, details=lambda: details), bytes_source(b"x"))


async def made(rule: LifecycleRule, versioning: Versioning = Versioning.OFF) -> tuple[MemoryStore, Bucket]:
    store = MemoryStore()
    rules = {LIFECYCLE: encode_setting(Lifecycle(rules=(rule,)))}
    bucket = Bucket(name="b", created_ms=0, versioning=versioning, settings=rules)
    await store.create_bucket(bucket)
    return store, bucket


def rule_of(
    *,
    days: int | None = None,
    prefix: str = "",
    tags: tuple[tuple[str, str], ...] = (),
    noncurrent_days: int | None = None,
    noncurrent_kept: int | None = None,
    abort_days: int | None = None,
    lone: bool | None = None,
) -> LifecycleRule:
    return LifecycleRule(
        rule_name="r",
        is_enabled=True,
        chosen=LifecycleFilter(prefix=prefix, tags=tags),
        days=days,
        noncurrent_days=noncurrent_days,
        noncurrent_kept=noncurrent_kept,
        abort_days=abort_days,
        removes_lone_markers=lone,
    )


async def names(store: MemoryStore) -> list[str]:
    return [listed.name for listed in await store.list_current("b", "", "", 100)]


def test_days_end_at_the_midnight_that_follows() -> None:
    assert not has_passed(NOON, 1, NOON + DAY_MS)
    assert has_passed(NOON, 1, NOON + DAY_MS + DAY_MS // 2)


async def test_an_object_expires_by_prefix_and_tag() -> None:
    store, bucket = await made(rule_of(days=1, prefix="log/", tags=(("keep", "no"),)))
    for name, tags in (("log/a", (("keep", "no"),)), ("log/b", ()), ("other", (("keep", "no"),))):
        await stored(store, name, NOON, tags)
    await apply_rules(store, bucket, NOON + DAY_MS)
    assert await names(store) == ["log/a", "log/b", "other"]
    await apply_rules(store, bucket, NOON + 2 * DAY_MS)
    assert await names(store) == ["log/b", "other"]


async def test_in_a_versioned_bucket_expiry_is_a_marker() -> None:
    store, bucket = await made(rule_of(days=1), Versioning.ENABLED)
    await stored(store, "a", NOON)
    await apply_rules(store, bucket, NOON + 2 * DAY_MS)
    assert await names(store) == []
    assert len(await store.list_versions("b", "", "", 10, None)) == 2


async def test_old_versions_end_but_for_the_newest_kept() -> None:
    store, bucket = await made(rule_of(noncurrent_days=1, noncurrent_kept=1), Versioning.ENABLED)
    for day in range(4):
        await stored(store, "a", NOON + day)
    await apply_rules(store, bucket, NOON + 2 * DAY_MS)
    assert [listed.modified_ms for listed in await store.list_versions("b", "", "", 10, None)] == [NOON + 3, NOON + 2]


async def test_a_lone_marker_is_removed() -> None:
    store, bucket = await made(rule_of(lone=True), Versioning.ENABLED)
    await store.put_marker("b", "a")
    await apply_rules(store, bucket, NOON)
    assert await store.list_versions("b", "", "", 10, None) == []


async def test_an_unfinished_upload_is_aborted() -> None:
    store, bucket = await made(rule_of(abort_days=2))
    details = ObjectDetails(plain_bytes=0, etag="", modified_ms=NOON)
    await store.begin_upload("b", Upload(name="a", upload_id="", begun_ms=NOON, details=details))
    await apply_rules(store, bucket, NOON + DAY_MS)
    assert len(await store.uploads("b")) == 1
    await apply_rules(store, bucket, NOON + 3 * DAY_MS)
    assert await store.uploads("b") == []
