"""Uploads in parts on the ledger: entries of a bucket's hidden twin, so that any gateway can go on with any of them.

    name of an upload   upload id, 32 hex digits; an empty object whose record keeps the metadata of the object to be
    name of a part      upload id "/" number, 5 digits; sealed under the upload's object key, with a salt of its own

The headers of an upload's record keep what an object's record has no field for.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from node.client.chain import FOUND_MAX, ListingPlace
from node.client.errors import NotCommittedError
from node.client.new_objects import NewObject
from node.client.sources import bytes_source
from node.gateway.object_records import description_of, details_of
from node.gateway.store import Upload, Version
from node.nurseries import open_plain_nursery
from storage.bucket_records import BucketPurpose
from storage.buckets import Retention, RetentionMode, VersionLock
from storage.tags import name_tag
from storage.transactions import EntryName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.client.client import Client
    from node.client.download import OpenObject
    from node.client.new_objects import Description
    from node.client.upload import Source
    from node.gateway.chain_store import ChainStore
    from node.gateway.store import NewVersion, ObjectDetails
    from storage.identifiers import NameTag

UPLOAD_ID_DIGITS: Final = 32
UPLOADS_LISTED_MAX: Final = 1_000
PARTS_MAX: Final = 10_000
AT_ONCE: Final = 64

_NAME: Final = "x-grandest-name"
_ALGORITHM: Final = "x-grandest-algorithm"
_COMPOSITION: Final = "x-grandest-composition"
_MODE: Final = "x-grandest-lock-mode"
_UNTIL: Final = "x-grandest-lock-until"
_HOLD: Final = "x-grandest-lock-hold"
_OWN: Final = frozenset({_NAME, _ALGORITHM, _COMPOSITION, _MODE, _UNTIL, _HOLD})


class Uploads:
    """The uploads of one tenant."""

    def __init__(self, client: Client, store: ChainStore) -> None:
        self._client = client
        self._store = store

    async def begin(self, bucket: str, upload: Upload) -> str:
        """Begin an upload and return its id."""
        upload_id = secrets.token_hex(UPLOAD_ID_DIGITS // 2)
        details = replace(upload.details, headers=(*upload.details.headers, *_kept(upload)))
        await self._commit(bucket, upload_id, details)
        return upload_id

    async def find(self, bucket: str, name: str, upload_id: str) -> Upload | None:
        """Return an upload into this name."""
        if len(upload_id) != UPLOAD_ID_DIGITS or not set(upload_id) <= set("0123456789abcdef"):
            return None
        opened = await self._store.open(self._place(bucket, upload_id))
        found = None if opened is None else _upload(opened, upload_id)
        return found if found is not None and found.name == name else None

    async def all(self, bucket: str) -> Sequence[Upload]:
        """Return a bucket's uploads in order of name, then of time."""
        tag = self._client.buckets.tag(bucket, BucketPurpose.UPLOADS)
        ids: list[str] = []
        start = ""
        while len(ids) < UPLOADS_LISTED_MAX:
            page = await self._store.listed_of(tag, "", start, AT_ONCE)
            if not page:
                break
            ids += [listed.name for listed in page if "/" not in listed.name]
            last = page[-1].name
            # Behind an upload come its parts: "0" follows "/".
            start = last.partition("/")[0] + "0" if "/" in last else last + "\0"
        opened = [await self._store.open(self._place(bucket, upload_id)) for upload_id in ids]
        uploads = [_upload(one, upload_id) for one, upload_id in zip(opened, ids, strict=True) if one is not None]
        return sorted(uploads, key=lambda upload: (upload.name.encode(), upload.begun_ms, upload.upload_id))

    async def put_part(self, bucket: str, upload: Upload, number: int, new: NewVersion, source: Source) -> Version:
        """Store a part."""
        opened = await self._store.open(self._place(bucket, upload.upload_id))
        if opened is None:
            raise NotCommittedError("entry_unknown")
        details: list[ObjectDetails] = []

        def describe() -> Description:
            details.append(new.details())
            return description_of(details[0])

        made = NewObject(
            name=_part_name(upload.upload_id, number),
            keys=self._client.versions.keys(bucket, BucketPurpose.UPLOADS),
            describe=describe,
            object_key=opened.record.object_key,
        )
        acknowledged = await self._client.store(made, source)
        return Version(
            name=new.name,
            version_id=acknowledged.version_id,
            is_null=True,
            is_marker=False,
            is_latest=True,
            details=details[0],
        )

    async def parts(self, bucket: str, upload: Upload) -> Sequence[tuple[int, Version]]:
        """Return an upload's parts in order of number."""
        tag = self._client.buckets.tag(bucket, BucketPurpose.UPLOADS)
        prefix = f"{upload.upload_id}/"
        listed = await self._store.listed_of(tag, prefix, prefix, PARTS_MAX)
        found: dict[int, Version] = {}

        async def open_one(name: str) -> None:
            opened = await self._store.open(self._place(bucket, name))
            if opened is not None:
                found[int(name[len(prefix) :])] = _part(upload, opened)

        for start in range(0, len(listed), FOUND_MAX):
            async with open_plain_nursery() as nursery:
                for one in listed[start : start + FOUND_MAX]:
                    nursery.start_soon(open_one, one.name)
        return sorted(found.items())

    async def end(self, bucket: str, upload: Upload) -> None:
        """Remove an upload's entry first, then its parts: a part alone belongs to nothing."""
        tag = self._client.buckets.tag(bucket, BucketPurpose.UPLOADS)
        prefix = f"{upload.upload_id}/"
        names = [listed.name for listed in await self._store.listed_of(tag, prefix, prefix, PARTS_MAX)]
        keys = self._client.versions.keys(bucket, BucketPurpose.UPLOADS)
        await self._store.remove_entries(
            [
                EntryName(bucket_tag=keys.tag, name_tag=name_tag(keys.tag_key, name), version_id=None)
                for name in (upload.upload_id, *names)
            ]
        )

    async def end_all(self, bucket: str) -> None:
        """Abort a bucket's uploads and delete their bucket; the bucket itself goes next."""
        tag = self._client.buckets.tag(bucket, BucketPurpose.UPLOADS)
        (view,) = await self._client.chain.find_buckets((tag,))
        if view is None:
            return
        for upload in await self.all(bucket) if view.entry_count else ():
            await self.end(bucket, upload)
        with suppress(NotCommittedError):
            await self._client.buckets.delete(bucket, BucketPurpose.UPLOADS)

    async def _commit(self, bucket: str, name: str, details: ObjectDetails) -> None:
        made = NewObject(
            name=name,
            keys=self._client.versions.keys(bucket, BucketPurpose.UPLOADS),
            describe=lambda: description_of(details),
            bucket=await self._client.buckets.made_by_need(bucket, BucketPurpose.UPLOADS),
        )
        await self._client.store(made, bytes_source(b""))

    def _place(self, bucket: str, name: str) -> ListingPlace:
        keys = self._client.versions.keys(bucket, BucketPurpose.UPLOADS)
        tag: NameTag = name_tag(keys.tag_key, name)
        return ListingPlace(keys.tag, tag)


def _part_name(upload_id: str, number: int) -> str:
    return f"{upload_id}/{number:05d}"


def _kept(upload: Upload) -> tuple[tuple[str, str], ...]:
    """Return what of an upload has no field in an object's record."""
    pairs = [(_NAME, upload.name), (_ALGORITHM, upload.algorithm), (_COMPOSITION, upload.composition)]
    lock = upload.lock
    if lock is not None:
        pairs.append((_HOLD, "on" if lock.legal_hold else "off"))
        if lock.retention is not None:
            pairs += [(_MODE, lock.retention.mode.value), (_UNTIL, str(lock.retention.until_ms))]
    return tuple(pairs)


def _upload(opened: OpenObject, upload_id: str) -> Upload:
    record = opened.record.object_record
    kept = dict(record.headers)
    details = details_of(record)
    return Upload(
        name=kept.get(_NAME, ""),
        upload_id=upload_id,
        begun_ms=record.modified_ms,
        details=replace(details, headers=tuple(pair for pair in details.headers if pair[0] not in _OWN)),
        algorithm=kept.get(_ALGORITHM, ""),
        composition=kept.get(_COMPOSITION, ""),
        lock=_lock(kept),
        handle=opened,
    )


def _lock(kept: dict[str, str]) -> VersionLock | None:
    if _HOLD not in kept:
        return None
    retention = None
    if _MODE in kept:
        retention = Retention(mode=RetentionMode(kept[_MODE]), until_ms=int(kept[_UNTIL]))  # type: ignore[arg-type]
    return VersionLock(retention=retention, legal_hold=kept[_HOLD] == "on")


def _part(upload: Upload, opened: OpenObject) -> Version:
    return Version(
        name=upload.name,
        version_id=opened.entry.version_id,
        is_null=True,
        is_marker=False,
        is_latest=True,
        details=details_of(opened.record.object_record),
        handle=opened,
    )
