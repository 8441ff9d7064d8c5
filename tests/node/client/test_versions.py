"""Buckets and versions through the client: the ledger's rules hold, and every byte and name comes back."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Milliseconds
from node.client.buckets import new_settings
from node.client.client import Client
from node.client.download import OpenObject
from node.client.errors import BucketMissingError, NotCommittedError, ObjectMissingError
from node.client.new_objects import Description, NewObject, fresh_object_key
from node.client.sources import bytes_source
from node.client.versions import StoredPart
from storage.bucket_records import BucketPurpose, SettingsDocument
from storage.buckets import (
    NULL_VERSION,
    EntryKind,
    Governance,
    NewHold,
    NewRetention,
    ObjectLock,
    Retention,
    RetentionMode,
    Versioning,
)
from storage.errors import UnsealError
from storage.records import ChecksumKind, ObjectChecksum, ObjectPart
from storage.sealing import SecretKey
from storage.tags import MasterKey
from tests.node.client.nine import Nine


async def versioned(client: Client, name: str = "b", lock: ObjectLock | None = None) -> None:
    await client.buckets.create(new_settings(name), Versioning.ENABLED, lock)


async def put(
    client: Client, name: str, contents: bytes, describe: Callable[[], Description] = Description
) -> OpenObject:
    new = NewObject(name=name, keys=client.versions.keys("b"), describe=describe)
    await client.store(new, bytes_source(contents))
    return await client.open("b", name)


async def test_buckets_are_made_listed_changed_and_deleted(tmp_path: Path) -> None:
    async with Nine(tmp_path).client() as client:
        with pytest.raises(BucketMissingError):
            await client.buckets.open("films")
        await client.buckets.create(new_settings("films", owner="Adista"))
        with pytest.raises(NotCommittedError, match="condition_failed"):
            await client.buckets.create(new_settings("films"))
        await client.put("albums", "a", bytes_source(b"x"))
        await client.buckets.create(new_settings("films", BucketPurpose.UPLOADS))
        assert [found.settings.name for found in await client.buckets.listing()] == ["albums", "films"]
        assert [found.settings.name for found in await client.buckets.listing(BucketPurpose.UPLOADS)] == ["films"]
        films = await client.buckets.open("films")
        assert (films.settings.owner, films.view.versioning) == ("Adista", Versioning.OFF)
        policy = SettingsDocument(kind="policy", contents=b"{}")
        changed = msgspec.structs.replace(films.settings, documents=(policy,))
        await client.buckets.change(films, changed, Versioning.ENABLED, None)
        with pytest.raises(NotCommittedError, match="condition_failed"):
            await client.buckets.change(films, films.settings, Versioning.ENABLED, None)
        again = await client.buckets.open("films")
        assert again.settings.documents == (policy,)
        assert again.view.versioning is Versioning.ENABLED
        await client.buckets.delete("films")
        with pytest.raises(NotCommittedError, match="bucket_not_empty"):
            await client.buckets.delete("albums")
        assert [found.settings.name for found in await client.buckets.listing()] == ["albums"]


async def test_everything_that_a_record_may_say_comes_back(tmp_path: Path) -> None:
    description = Description(
        content_type="image/jpeg",
        user_metadata=(("camera", "sténopé"),),
        headers=(("cache-control", "no-cache"),),
        tags=(("kind", "cat"),),
        checksums=(ObjectChecksum(algorithm="crc32", text="AAAAAA==", kind=ChecksumKind.FULL_OBJECT),),
        etag="0123",
        modified_ms=Milliseconds(17),
    )
    async with Nine(tmp_path).client() as client:
        await versioned(client)
        opened = await put(client, "cat", b"meow", describe=lambda: description)
        record = opened.record.object_record
        assert (record.content_type, record.user_metadata, record.headers) == (
            description.content_type,
            description.user_metadata,
            description.headers,
        )
        assert (record.tags, record.checksums, record.etag, record.modified_ms) == (
            description.tags,
            description.checksums,
            "0123",
            17,
        )


async def test_what_describing_refuses_is_not_stored(tmp_path: Path) -> None:
    def refuse() -> Description:
        raise RejectionError(RejectionReason.BAD_RECORD, "another digest")

    async with Nine(tmp_path).client() as client:
        await versioned(client)
        for byte_count in (10, 2_000_000):
            with pytest.raises(RejectionError, match="another digest"):
                await put(client, "cat", bytes(byte_count), describe=refuse)
        with pytest.raises(ObjectMissingError):
            await client.open("b", "cat")


async def test_every_version_is_read_until_it_is_deleted(tmp_path: Path) -> None:
    async with Nine(tmp_path).client() as client:
        await versioned(client)
        versions = [(await put(client, "a", contents)).entry for contents in (b"one", b"two", b"three")]
        for entry, contents in zip(versions, (b"one", b"two", b"three"), strict=True):
            found = await client.versions.find("b", "a", entry.version_id)
            assert await contents_of(client, await client.open_entry(found)) == contents
        tag = client.versions.keys("b").tag
        assert {older.version_id for older in await client.chain.versions(tag, None, 10)} == {
            entry.version_id for entry in versions[:2]
        }
        marked = await client.versions.mark("b", "a")
        with pytest.raises(ObjectMissingError):
            await client.open("b", "a")
        assert [listed.path async for listed in client.listing("b")] == []
        marker = await client.versions.find("b", "a")
        assert (marker.kind, marker.version_id) == (EntryKind.MARKER, marked.version_id)
        assert (await client.open_entry(marker)).record.object_record.name == "a"
        gone = [("a", marker.version_id), ("a", versions[2].version_id)]
        assert (await client.versions.delete("b", gone)).failed_entries == ()
        assert await client.get("b", "a") == b"two"


async def contents_of(client: Client, opened: OpenObject) -> bytes:
    pieces: list[bytes] = []

    async def keep(piece: memoryview) -> None:
        pieces.append(bytes(piece))

    await client.read(opened, keep)
    return b"".join(pieces)


async def test_deleting_by_name_marks_where_versions_are_kept(tmp_path: Path) -> None:
    async with Nine(tmp_path).client() as client:
        await versioned(client)
        for name in "ab":
            await put(client, name, b"kept")
        await client.delete("b", ["a", "b"])
        assert [listed.path async for listed in client.listing("b")] == []
        bucket = await client.buckets.open("b")
        assert bucket.view.entry_count == 4


async def test_the_null_version_is_found_by_its_name(tmp_path: Path) -> None:
    async with Nine(tmp_path).client() as client:
        await client.put("b", "a", bytes_source(b"null"))
        bucket = await client.buckets.open("b")
        await client.buckets.change(bucket, bucket.settings, Versioning.ENABLED, None)
        await client.put("b", "a", bytes_source(b"named"))
        found = await client.versions.find("b", "a", NULL_VERSION)
        assert found.is_null
        assert await contents_of(client, await client.open_entry(found)) == b"null"


async def test_retention_and_tags_of_one_version(tmp_path: Path) -> None:
    async with Nine(tmp_path).client() as client:
        await versioned(client, lock=ObjectLock(default=None))
        opened = await put(client, "a", b"x", describe=lambda: Description(tags=(("old", "1"),)))
        assert await client.versions.tags(opened) == (("old", "1"),)
        await client.versions.change_lock(opened.entry, NewHold(legal_hold=True))
        far = Retention(mode=RetentionMode.COMPLIANCE, until_ms=Milliseconds(2**50))
        await client.versions.change_lock(opened.entry, NewRetention(retention=far, bypass_governance=False))
        await client.versions.change_tags(opened.entry, "a", (("new", "2"),))
        again = await client.open("b", "a")
        assert again.entry.lock is not None
        assert (again.entry.lock.retention, again.entry.lock.legal_hold) == (far, True)
        assert await client.versions.tags(again) == (("new", "2"),)
        commit = await client.versions.delete("b", [("a", opened.entry.version_id)], governance=Governance.BYPASSED)
        assert commit.failed_entries == ((0, "retained"),)


@pytest.mark.parametrize(("count", "byte_count"), [(1, 0), (3, 70_000), (70, 10), (2, 3_000_000)])
async def test_parts_become_one_object_without_moving_a_byte(tmp_path: Path, count: int, byte_count: int) -> None:
    contents = [random.Random(number).randbytes(byte_count) for number in range(count)]
    nine = Nine(tmp_path)
    async with nine.client() as client:
        await versioned(client)
        await client.buckets.create(new_settings("b", BucketPurpose.UPLOADS))
        object_key = fresh_object_key()
        keys = client.versions.keys("b", BucketPurpose.UPLOADS)
        parts: dict[int, StoredPart] = {}

        async def upload(number: int) -> None:
            new = NewObject(name=f"upload/{number}", keys=keys, object_key=object_key)
            await client.store(new, bytes_source(contents[number]))
            entry = await client.versions.find("b", f"upload/{number}", purpose=BucketPurpose.UPLOADS)
            part = ObjectPart(number=number + 1, etag=f"etag {number}", checksum="")
            parts[number] = StoredPart(await client.open_entry(entry), part)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(upload, number)
        whole = NewObject(name="whole", keys=client.versions.keys("b"), describe=lambda: Description(etag="e-3"))
        await client.versions.commit_parts(whole, object_key, [parts[number] for number in range(count)])
        names = [(f"upload/{number}", None) for number in range(count)]
        await client.versions.delete("b", names, BucketPurpose.UPLOADS)
        opened = await client.open("b", "whole")
        assert await contents_of(client, opened) == b"".join(contents)
        assert [part.number for part in opened.record.object_record.parts] == list(range(1, count + 1))
        copied = NewObject(name="copy", keys=client.versions.keys("b"))
        before = len(nine.chain.segments_committed)
        await client.versions.copy(copied, opened)
        assert len(nine.chain.segments_committed) == before
        await client.versions.delete("b", [("whole", opened.entry.version_id)])
        assert await contents_of(client, await client.open("b", "copy")) == b"".join(contents)
        middle = len(b"".join(contents)) // 2
        assert await client.get("b", "copy", middle, 100) == b"".join(contents)[middle : middle + 100]


async def test_a_source_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        def __init__(self) -> None:
            self.read_count = 0

        async def read(self, byte_count: int) -> bytes:
            await trio.lowlevel.checkpoint()
            self.read_count += 1
            if self.read_count > 3:
                raise OSError("the client left")
            return secrets.token_bytes(byte_count)

    async with Nine(tmp_path).client() as client:
        await versioned(client)
        new = NewObject(name="a", keys=client.versions.keys("b"))
        with pytest.raises(OSError, match="the client left"):
            await client.store(new, Broken())
        with pytest.raises(ObjectMissingError):
            await client.open("b", "a")


async def test_what_blocks_changed_is_told_from_a_height_on(tmp_path: Path) -> None:
    async with Nine(tmp_path).client() as client:
        await versioned(client)
        first = await put(client, "a", b"x")
        await put(client, "c", b"x")
        changes = await client.chain.changes(first.entry.height)
        keys = client.versions.keys("b")
        (changed,) = changes.objects
        assert changed.bucket_tag == keys.tag
        assert changed.name_tag != first.entry.name_tag
        assert changes.height == await client.chain.tip_height()


async def test_records_are_sealed_again_under_the_latest_master_key(tmp_path: Path) -> None:
    nine = Nine(tmp_path)
    async with nine.client() as client:
        await versioned(client, lock=ObjectLock(default=None))
        first = await put(client, "a", b"one")
        second = await put(client, "a", b"two")
        await client.versions.change_tags(second.entry, "a", (("k", "v"),))
        await client.versions.mark("b", "gone")
        held = await put(client, "held", b"kept")
        await client.versions.change_lock(held.entry, NewHold(legal_hold=True))
    old = nine.home.master_keys
    nine.home = replace(nine.home, master_keys=(*old, MasterKey(SecretKey(bytes(32)))))
    async with nine.client() as client:
        report = await client.rewrap()
        assert (report.buckets, report.records, report.retained, report.unread) == (1, 4, 1, 0)
        assert (await client.rewrap()).records == 0
        assert await client.get("b", "a") == b"two"
        assert await client.get("b", "held") == b"kept"
        again = await client.versions.find("b", "a", first.entry.version_id)
        assert again.record_address != first.entry.record_address
        assert await contents_of(client, await client.open_entry(again)) == b"one"
        assert await client.versions.tags(await client.open("b", "a")) == (("k", "v"),)
    nine.home = replace(nine.home, master_keys=old)
    async with nine.client() as client:
        assert await client.get("b", "held") == b"kept"
        with pytest.raises(UnsealError, match="under another key"):
            await client.get("b", "a")
