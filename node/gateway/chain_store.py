"""One tenant's objects on the nine: the Store of a gateway, over the native client, the index and the fence.

Reads are answered from what the ledger says now: a name that no block has named since it was last asked is remembered
with its opened record (at most REMEMBERED_MAX), so that a second read of it asks holders for its bytes alone.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from consensus.encoding import encode
from consensus.identifiers import Height
from node.client.chain import ListingPlace, VersionPlace
from node.client.download import OpenObject
from node.client.errors import NotCommittedError
from node.client.frame_proving import frames_of
from node.client.gathering import Gathering
from node.client.new_objects import Description, NewObject
from node.client.versions import StoredPart
from node.clock import now_ms
from node.gateway.bucket_store import BucketStore, shown_bucket
from node.gateway.ledger_refusals import refusal_of, removal_failure
from node.gateway.notifications import Event, wanted_by
from node.gateway.object_records import description_of, details_of, parts_of
from node.gateway.refusals import WriteFailure, WriteRefusedError
from node.gateway.store import Bucket, LegalHold, ObjectDetails, Place, ProvenFrame, Version
from node.gateway.uploads import Uploads
from node.nurseries import open_plain_nursery
from storage.buckets import (
    NULL_VERSION,
    EntryKind,
    Governance,
    NewHold,
    NewRetention,
)
from storage.errors import ShardMissingError
from storage.tags import name_tag
from storage.transactions import DeleteEntries, EntryName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from node.client.chain import Commit, EntryView
    from node.client.client import Client
    from node.client.results import Acknowledgement
    from node.client.upload import Source
    from node.gateway.fence import Fence
    from node.gateway.follower import Follower
    from node.gateway.http_server import Send
    from node.gateway.index import Index
    from node.gateway.notifications import Outbox
    from node.gateway.store import Listed, Named, NewVersion, Upload
    from storage.buckets import Retention
    from storage.identifiers import BucketTag, VersionId

REMEMBERED_MAX: Final = 16_384
"""Opened records: about 2 KiB each with what Python adds."""
REMOVED_TOGETHER_MAX: Final = 1_024
SECONDS_TO_WALK: Final = 20.0
"""How long a listing waits for the first walk over the ledger before it is told to come again."""


@dataclass(frozen=True, slots=True)
class _Removal:
    """One version to remove, as it waits for others to share a transaction with."""

    name: EntryName
    governance: Governance


class ChainStore:
    """Implements Store."""

    def __init__(self, client: Client, index: Index, mode: str) -> None:
        """Serve a client's tenant.

        Args:
            client: Open.
            index: Of the tenant.
            mode: gateway-trusted or end-to-end, told in every answer.
        """
        self._client = client
        self._index = index
        self._mode = mode
        self._follower: Follower | None = None
        self._fence: Fence | None = None
        self._remembered: OrderedDict[ListingPlace, OpenObject] = OrderedDict()
        self._outbox: Outbox | None = None
        self._forgotten = Height(0)
        self._buckets = BucketStore(client, self._height)
        self._removals: Gathering[_Removal, WriteFailure | None] = Gathering(
            self._remove_all, together_max=REMOVED_TOGETHER_MAX, in_flight_max=2
        )
        self._uploads = Uploads(client, self)

    def attach(self, follower: Follower, fence: Fence, outbox: Outbox) -> None:
        """Take the parts that need this store to be made first, and who tells webhooks."""
        self._follower, self._fence, self._outbox = follower, fence, outbox

    async def run(self) -> None:
        """Ask together what is asked at the same time, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._buckets.run)
            nursery.start_soon(self._removals.run)

    @property
    def client(self) -> Client:
        """The native client below."""
        return self._client

    def forget(self, places: Sequence[ListingPlace], height: Height) -> None:
        """Drop what is remembered of names that blocks up to a height have named."""
        self._forgotten = height
        for place in places:
            self._remembered.pop(place, None)

    def _height(self) -> Height:
        assert self._follower is not None, "attached before it is served"
        return self._follower.height

    async def fence(self) -> bool:
        """Wait until what follows sees everything acknowledged so far."""
        assert self._fence is not None, "attached before it is served"
        return await self._fence.wait()

    async def buckets(self) -> Sequence[Bucket]:
        """Return all buckets in order of name."""
        return await self._buckets.all()

    async def bucket(self, name: str) -> Bucket | None:
        """Return one bucket."""
        opened = await self._buckets.open(name)
        if opened is None and await self.fence():
            # Writes ask without a fence; a bucket made a moment ago at another gateway is there all the same.
            opened = await self._buckets.open(name)
        return None if opened is None else shown_bucket(opened)

    async def create_bucket(self, bucket: Bucket) -> None:
        """Make a bucket."""
        await self._buckets.create(bucket)

    async def change_bucket(self, bucket: Bucket) -> None:
        """Replace a bucket's settings."""
        await self._buckets.change(bucket)

    async def delete_bucket(self, name: str) -> None:
        """Delete an empty bucket; its unfinished uploads go with it."""
        opened = await self._buckets.open(name)
        if opened is not None and opened.view.entry_count:
            raise WriteRefusedError(WriteFailure.BUCKET_NOT_EMPTY)
        await self._uploads.end_all(name)
        try:
            await self._client.buckets.delete(name)
        except NotCommittedError as error:
            raise refusal_of(error) from error

    async def current(self, bucket: str, name: str) -> Version | None:
        """Return the current version or marker of a name."""
        keys = self._client.versions.keys(bucket)
        opened = await self.open(ListingPlace(keys.tag, name_tag(keys.tag_key, name)))
        return None if opened is None else await self._version(opened, Place.LATEST)

    async def object_version(self, bucket: str, name: str, object_version: VersionId) -> Version | None:
        """Return one version or marker of a name."""
        keys = self._client.versions.keys(bucket)
        tag = name_tag(keys.tag_key, name)
        (entry,) = await self._client.chain.find_versions((VersionPlace(keys.tag, tag, object_version),))
        if entry is None:
            return None
        current = await self._client.entry(ListingPlace(keys.tag, tag))
        is_latest = current is not None and current.version_id == entry.version_id
        place = Place.LATEST if is_latest else Place.OLDER
        return await self._version(await self._client.open_entry(entry), place)

    async def open(self, place: ListingPlace) -> OpenObject | None:
        """Return the current version or marker of a name with its record; remembered until a block names it."""
        known = self._remembered.get(place)
        if known is not None:
            self._remembered.move_to_end(place)
            return known
        forgotten = self._forgotten
        entry = await self._client.entry(place)
        if entry is None:
            return None
        opened = await self._client.open_entry(entry)
        if self._forgotten == forgotten:
            self._remembered[place] = opened
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        return opened

    async def put(self, bucket: str, new: NewVersion, source: Source) -> Version:
        """Store an object."""
        details: list[ObjectDetails] = []

        def describe() -> Description:
            details.append(new.details())
            return description_of(details[0])

        made = self._made(bucket, new, describe)
        try:
            acknowledged = await self._client.store(made, source)
        except NotCommittedError as error:
            raise refusal_of(error) from error
        written = await self._written(bucket, new, details[0], acknowledged)
        await self._tell(bucket, "ObjectCreated:Put", written)
        return written

    def _made(self, bucket: str, new: NewVersion, describe: Callable[[], Description]) -> NewObject:
        return NewObject(
            name=new.name,
            keys=self._client.versions.keys(bucket),
            describe=describe,
            condition=new.condition,
            lock=new.lock,
        )

    async def put_marker(self, bucket: str, name: str) -> Version:
        """Mark a name as deleted."""
        try:
            acknowledged = self._client.acknowledged(await self._client.versions.mark(bucket, name))
        except NotCommittedError as error:
            raise refusal_of(error) from error
        details = ObjectDetails(plain_bytes=0, etag="", modified_ms=0)
        marked = Version(
            name=name,
            version_id=acknowledged.version_id,
            is_null=await self._buckets.is_null(bucket),
            is_marker=True,
            is_latest=True,
            details=details,
        )
        await self._tell(bucket, "ObjectRemoved:DeleteMarkerCreated", marked)
        return replace(marked, proof_headers=self._proof_headers(acknowledged))

    async def compose(self, bucket: str, new: NewVersion, parts: Sequence[Version]) -> Version:
        """Store an object that consists of other objects' bytes."""
        details = new.details()
        made = self._made(bucket, new, lambda: description_of(details))
        opened = [opened_of(part) for part in parts]
        try:
            if details.parts and len(details.parts) == len(opened):
                stored = [StoredPart(one, part) for one, part in zip(opened, parts_of(details), strict=True)]
                ready = await self._client.versions.commit_parts(made, opened[0].record.object_key, stored)
            else:
                assert len(opened) == 1, "one object, or the parts of one upload"
                ready = await self._client.versions.copy(made, opened[0])
        except NotCommittedError as error:
            raise refusal_of(error) from error
        written = await self._written(bucket, new, details, self._client.acknowledged(ready))
        event_name = "ObjectCreated:CompleteMultipartUpload" if details.upload_id else "ObjectCreated:Copy"
        await self._tell(bucket, event_name, written)
        return written

    async def _tell(self, bucket: str, event_name: str, written: Version) -> None:
        """Leave an event with the outbox, for each rule of the bucket that wants it."""
        found = await self.bucket(bucket)
        if found is None or self._outbox is None:
            return
        events = [
            Event(
                url=rule.url,
                rule_name=rule.rule_name,
                event_name=event_name,
                bucket=bucket,
                name=written.name,
                time_ms=now_ms(),
                plain_bytes=written.details.plain_bytes,
                etag=written.details.etag,
                version_id="" if written.is_null else written.shown_id,
            )
            for rule in wanted_by(found, event_name, written.name)
        ]
        await self._outbox.add(events)

    async def begin_upload(self, bucket: str, upload: Upload) -> str:
        """Begin an upload in parts."""
        return await self._uploads.begin(bucket, upload)

    async def upload(self, bucket: str, name: str, upload_id: str) -> Upload | None:
        """Return an unfinished upload."""
        return await self._uploads.find(bucket, name, upload_id)

    async def uploads(self, bucket: str) -> Sequence[Upload]:
        """Return a bucket's unfinished uploads."""
        return await self._uploads.all(bucket)

    async def put_part(self, bucket: str, upload: Upload, number: int, new: NewVersion, source: Source) -> Version:
        """Store a part."""
        return await self._uploads.put_part(bucket, upload, number, new, source)

    async def parts(self, bucket: str, upload: Upload) -> Sequence[tuple[int, Version]]:
        """Return an upload's parts."""
        return await self._uploads.parts(bucket, upload)

    async def end_upload(self, bucket: str, upload: Upload) -> None:
        """Forget an upload and its parts."""
        await self._uploads.end(bucket, upload)

    async def remove(
        self, bucket: str, names: Sequence[Named], governance: Governance = Governance.OBEYED
    ) -> list[WriteFailure | None]:
        """Remove versions for good."""
        keys = self._client.versions.keys(bucket)
        failures = await self.remove_entries(
            [
                EntryName(bucket_tag=keys.tag, name_tag=name_tag(keys.tag_key, one.name), version_id=one.object_version)
                for one in names
            ],
            governance,
        )
        for one, failure in zip(names, failures, strict=True):
            if failure is None:
                await self._tell(bucket, "ObjectRemoved:Delete", _removed(one))
        return failures

    async def remove_entries(
        self, names: Sequence[EntryName], governance: Governance = Governance.OBEYED
    ) -> list[WriteFailure | None]:
        """Remove entries, together with what others remove now."""
        outcomes: list[WriteFailure | None] = [None] * len(names)

        async def remove(position: int, name: EntryName) -> None:
            outcomes[position] = await self._removals.ask(_Removal(name, governance))

        async with open_plain_nursery() as nursery:
            for position, name in enumerate(names):
                nursery.start_soon(remove, position, name)
        return outcomes

    async def _remove_all(self, removals: Sequence[_Removal]) -> Sequence[WriteFailure | None]:
        outcomes: dict[_Removal, WriteFailure | None] = {}
        for governance in Governance:
            some = [removal for removal in removals if removal.governance is governance]
            if some:
                body = DeleteEntries(
                    tenant=self._client.tenant,
                    entries=tuple(removal.name for removal in some),
                    bypass_governance=governance.value,
                )
                failed = dict((await self._client.transact(body)).failed_entries)
                for position, removal in enumerate(some):
                    outcomes[removal] = removal_failure(failed.get(position))
        return [outcomes[removal] for removal in removals]

    async def set_retention(
        self, bucket: str, object_version: Version, retention: Retention | None, governance: Governance
    ) -> None:
        """Change until when a version stays as it is."""
        await self._lock(bucket, object_version, NewRetention(retention=retention, bypass_governance=governance.value))

    async def set_hold(self, bucket: str, object_version: Version, hold: LegalHold) -> None:
        """Set or lift a version's legal hold."""
        await self._lock(bucket, object_version, NewHold(legal_hold=hold is LegalHold.ON))

    async def _lock(self, bucket: str, object_version: Version, change: NewRetention | NewHold) -> None:
        entry = await self._entry(bucket, object_version)
        await _one_done(self._client.versions.change_lock(entry, change))

    async def set_tags(self, bucket: str, object_version: Version, tags: tuple[tuple[str, str], ...]) -> None:
        """Replace a version's tags."""
        entry = await self._entry(bucket, object_version)
        await _one_done(self._client.versions.change_tags(entry, object_version.name, tags))

    async def _entry(self, bucket: str, object_version: Version) -> EntryView:
        name = NULL_VERSION if object_version.is_null else object_version.version_id
        return await self._client.versions.find(bucket, object_version.name, name)

    async def list_current(self, bucket: str, prefix: str, start: str, names_max: int) -> Sequence[Listed]:
        """Return current objects in order."""
        tag = self._client.buckets.tag(bucket)
        await self.indexed(tag)
        return await trio.to_thread.run_sync(self._index.list_current, tag, prefix, start, names_max)

    async def list_versions(
        self, bucket: str, prefix: str, start: str, versions_max: int, behind: VersionId | None
    ) -> Sequence[Listed]:
        """Return versions and markers in order."""
        tag = self._client.buckets.tag(bucket)
        await self.indexed(tag)
        return await trio.to_thread.run_sync(self._index.list_versions, tag, prefix, start, versions_max, behind)

    async def listed_of(self, tag: BucketTag, prefix: str, start: str, names_max: int) -> Sequence[Listed]:
        """Return current entries of a bucket by its tag."""
        await self.indexed(tag)
        return await trio.to_thread.run_sync(self._index.list_current, tag, prefix, start, names_max)

    async def indexed(self, tag: BucketTag) -> None:
        """Wait until the index has every name of a bucket that the fence has seen.

        Raises:
            StillWalkingError: The first walk over the ledger takes longer.
        """
        assert self._follower is not None, "attached before it is served"
        await self._follower.whole(SECONDS_TO_WALK)
        await self._follower.opened(tag)

    async def read(self, object_version: Version, send: Send, first: int, byte_count: int) -> None:
        """Give a range of a version's bytes."""
        await self._client.read(opened_of(object_version), send, first, byte_count)

    async def prove(self, object_version: Version, position: int) -> ProvenFrame | None:
        """Return the proof of one frame of a version; None when it has no such frame."""
        opened = opened_of(object_version)
        frames = frames_of(opened)
        if position >= frames:
            return None
        return ProvenFrame(encode(await self._client.frames.prove(opened, position)), frames)

    async def _version(self, opened: OpenObject, place: Place) -> Version:
        entry = opened.entry
        details = details_of(opened.record.object_record)
        if entry.tags_address is not None:
            details = replace(details, tags=await self._client.versions.tags(opened))
        return Version(
            name=opened.record.object_record.name,
            version_id=entry.version_id,
            is_null=entry.is_null,
            is_marker=entry.kind is EntryKind.MARKER,
            is_latest=place is Place.LATEST,
            details=details,
            lock=entry.lock,
            proof_headers=await self._stored_headers(entry),
            handle=opened,
        )

    async def _written(
        self, bucket: str, new: NewVersion, details: ObjectDetails, acknowledged: Acknowledgement
    ) -> Version:
        return Version(
            name=new.name,
            version_id=acknowledged.version_id,
            is_null=await self._buckets.is_null(bucket),
            is_marker=False,
            is_latest=True,
            details=details,
            lock=new.lock,
            proof_headers=self._proof_headers(acknowledged),
        )

    async def _stored_headers(self, entry: EntryView) -> tuple[tuple[str, str], ...]:
        """Tell what the chain knows of a version: of several segments the first."""
        headers = [("x-grandest-height", str(entry.height)), ("x-grandest-mode", self._mode)]
        if entry.references:
            segment_id = entry.references[0].segment_id
            headers.append(("x-grandest-segment", segment_id.hex()))
            with suppress(ShardMissingError):  # replaced a moment ago: whoever reads looks the version up again
                receipts, columns = await self._client.receipts(segment_id)
                headers.append(("x-grandest-receipts", f"{receipts}/{columns}"))
                headers.append(("x-grandest-state", "sealed" if receipts == columns else "certified"))
        return tuple(headers)

    def _proof_headers(self, acknowledged: Acknowledgement) -> tuple[tuple[str, str], ...]:
        headers = [
            ("x-grandest-height", str(acknowledged.height)),
            ("x-grandest-receipts", f"{acknowledged.receipts}/{acknowledged.columns}"),
            ("x-grandest-state", acknowledged.state),
            ("x-grandest-transaction", acknowledged.transaction_id.hex()),
            ("x-grandest-mode", self._mode),
        ]
        if acknowledged.segment_ids:
            headers.append(("x-grandest-segment", acknowledged.segment_ids[0].hex()))
        return tuple(headers)


def opened_of(object_version: Version) -> OpenObject:
    """Return what the client needs to read a version."""
    assert isinstance(object_version.handle, OpenObject), "a version that was read from this store"
    return object_version.handle


def _removed(named: Named) -> Version:
    """Return what an event tells of a version that is gone."""
    return Version(
        name=named.name,
        version_id=NULL_VERSION if named.object_version is None else named.object_version,
        is_null=named.object_version in {None, NULL_VERSION},
        is_marker=False,
        is_latest=False,
        details=ObjectDetails(plain_bytes=0, etag="", modified_ms=0),
    )


async def _one_done(asked: Awaitable[Commit]) -> None:
    """Wait for a transaction of one part, and raise what became of it."""
    try:
        commit = await asked
    except NotCommittedError as error:
        raise refusal_of(error) from error
    if commit.failed_entries:
        raise refusal_of(NotCommittedError(commit.failed_entries[0][1]))
