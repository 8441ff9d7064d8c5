"""What is done to versions beside storing bytes: markers, deletion by version, retention, tags, parts, copies.

acknowledged = await client.versions.mark("photos", "cat.jpg")
await client.versions.delete("photos", [("cat.jpg", acknowledged.version_id)])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from node.client.chain import ListingPlace, VersionPlace
from node.client.errors import ObjectMissingError
from node.client.new_objects import NewObject, fresh_salt, ready_marker, ready_version
from node.client.records import NamedRecord
from storage.bucket_records import BucketPurpose, VersionTags, seal_tags, unseal_tags
from storage.buckets import ChangeTags, Governance, LockChange, SetRetention, TagsChange
from storage.records import SEALINGS_INLINE_MAX, PartList, record_address
from storage.sealing import RangeEnd, Sealing, SealingDomain, SealingKey, seal_range, sealed_bytes
from storage.tags import name_tag
from storage.transactions import REFERENCES_MAX, DeleteEntries, EntryName, StoredExtent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.client.buckets import Buckets, Transact
    from node.client.chain import Chain, Commit, EntryView, Reference
    from node.client.download import OpenObject
    from node.client.new_objects import ReadyObject
    from node.client.records import Keyring, RecordReader
    from node.client.upload import Uploader
    from storage.buckets import NewHold, NewRetention
    from storage.identifiers import TenantId, VersionId
    from storage.records import ObjectPart
    from storage.sealing import ObjectKey
    from storage.tags import BucketKeys

    Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that was stored as an object of its own, under the object key that all parts of its upload share."""

    opened: OpenObject
    part: ObjectPart


@dataclass(frozen=True, slots=True)
class VersionsParts:
    """What Versions needs of its client."""

    tenant: TenantId
    chain: Chain
    records: RecordReader
    keyring: Keyring
    buckets: Buckets
    uploader: Uploader
    transact: Transact


class Versions:
    """The versions of one tenant's objects; Client.versions."""

    def __init__(self, parts: VersionsParts) -> None:
        self._parts = parts

    def keys(self, bucket: str, purpose: BucketPurpose = BucketPurpose.OBJECTS) -> BucketKeys:
        """Return the keys under which a bucket's records are sealed now."""
        return self._parts.keyring.bucket(self._parts.buckets.tag(bucket, purpose))

    async def find(
        self,
        bucket: str,
        name: str,
        version_name: VersionId | None = None,
        purpose: BucketPurpose = BucketPurpose.OBJECTS,
    ) -> EntryView:
        """Return a version or marker: the current one, or the one named (NULL_VERSION: the null one).

        Raises:
            ObjectMissingError: There is none.
        """
        keys = self.keys(bucket, purpose)
        tag = name_tag(keys.tag_key, name)
        if version_name is None:
            (found,) = await self._parts.chain.find_entries((ListingPlace(keys.tag, tag),))
        else:
            (found,) = await self._parts.chain.find_versions((VersionPlace(keys.tag, tag, version_name),))
        if found is None:
            raise ObjectMissingError(
                f"no object {bucket}/{name}" + ("" if version_name is None else " of that version")
            )
        return found

    async def mark(self, bucket: str, name: str, condition: bytes | None = None) -> ReadyObject:
        """Put a marker above an object's versions; the answer has its version id and commit.

        Raises:
            NotCommittedError: versioning_off, condition_failed, bucket_unknown.
        """
        new = NewObject(name=name, keys=self.keys(bucket), condition=condition)
        return await self._parts.uploader.commit(ready_marker(new, self._parts.tenant))

    async def delete(
        self,
        bucket: str,
        versions: Sequence[tuple[str, VersionId | None]],
        purpose: BucketPurpose = BucketPurpose.OBJECTS,
        governance: Governance = Governance.OBEYED,
    ) -> Commit:
        """Delete versions for good in one transaction; `failed_entries` of the answer says which were not, and why.

        Without a version, as DeleteEntries says: only where versioning is off.

        Raises:
            NotCommittedError: All of it was refused.
        """
        keys = self.keys(bucket, purpose)
        entries = tuple(
            EntryName(bucket_tag=keys.tag, name_tag=name_tag(keys.tag_key, name), version_id=version_name)
            for name, version_name in versions
        )
        body = DeleteEntries(tenant=self._parts.tenant, entries=entries, bypass_governance=governance.value)
        return await self._parts.transact(body, ())

    async def change_lock(self, entry: EntryView, change: NewRetention | NewHold) -> Commit:
        """Set the retention or the legal hold of a version; one failed entry says retained, lock_off."""
        one = LockChange(
            bucket_tag=entry.bucket_tag, name_tag=entry.name_tag, version_id=entry.version_name, change=change
        )
        return await self._parts.transact(SetRetention(tenant=self._parts.tenant, changes=(one,)), ())

    async def change_tags(self, entry: EntryView, name: str, tags: Pairs) -> Commit:
        """Give a version other tags, none included.

        Raises:
            RejectionError: Tags beyond the limits.
        """
        keys = self._parts.keyring.bucket(entry.bucket_tag)
        sealed = seal_tags(VersionTags(name=name, tags=tags), keys, fresh_salt())
        address = record_address(self._parts.tenant, entry.version_id, sealed)
        one = TagsChange(
            bucket_tag=entry.bucket_tag,
            name_tag=entry.name_tag,
            version_id=entry.version_id,
            record_address=address,
        )
        return await self._parts.transact(ChangeTags(tenant=self._parts.tenant, changes=(one,)), (sealed,))

    async def tags(self, opened: OpenObject) -> Pairs:
        """Return a version's tags: those of its second record, if it has one."""
        entry = opened.entry
        if entry.tags_address is None:
            return opened.record.object_record.tags
        sealed = await self._parts.records.sealed(NamedRecord(entry.version_id, entry.tags_address))
        keys = self._parts.keyring.opening(entry.bucket_tag, sealed)
        return unseal_tags(sealed, keys, entry.name_tag).tags

    async def commit_parts(self, new: NewObject, object_key: ObjectKey, parts: Sequence[StoredPart]) -> ReadyObject:
        """Commit an object whose bytes are those of stored parts, in this order; no byte moves.

        Args:
            new: Name, bucket, condition, lock and description of the whole.
            object_key: The one that all parts were sealed under.
            parts: At least one; their entries go on to exist until they are deleted.

        Raises:
            RejectionError: OVERSIZED: more extents than an entry may have; BAD_RECORD.
            NotCommittedError: condition_failed; segment_unknown: a part was deleted meanwhile.
        """
        sealings = tuple(sealing for part in parts for sealing in part.opened.record.object_record.sealings)
        listed = tuple(part.part for part in parts)
        extents = _extents([reference for part in parts for reference in part.opened.entry.references])
        if len(sealings) <= SEALINGS_INLINE_MAX:
            ready = self._ready(new, object_key, sealings, listed, None)
            ready.earlier = extents
            return await self._parts.uploader.commit(ready)
        contents = encode(PartList(sealings=sealings, parts=listed))
        sealing_key = SealingKey(object_key, SealingDomain.PART_LIST, fresh_salt())
        sealed = await trio.to_thread.run_sync(_seal_list, sealing_key, contents)
        part_list = Sealing(salt=sealing_key.salt, plain_bytes=len(contents))
        ready = self._ready(new, object_key, sealings, (), part_list)
        ready.earlier = extents
        return await self._parts.uploader.commit_behind(ready, sealed)

    async def copy(self, new: NewObject, source: OpenObject) -> ReadyObject:
        """Commit a version with the bytes of another one, of any bucket of this tenant; no byte moves.

        Raises:
            NotCommittedError: condition_failed; segment_unknown: the source was deleted meanwhile.
        """
        object_record, object_key = source.record.object_record, source.record.object_key
        listed = object_record.parts if source.part_list is None else ()
        ready = self._ready(new, object_key, object_record.sealings, listed, source.part_list)
        ready.earlier = _extents(source.entry.references)
        return await self._parts.uploader.commit(ready)

    def _ready(
        self,
        new: NewObject,
        object_key: ObjectKey,
        sealings: tuple[Sealing, ...],
        parts: tuple[ObjectPart, ...],
        part_list: Sealing | None,
    ) -> ReadyObject:
        return ready_version(
            new,
            object_key,
            self._parts.tenant,
            sealings=sealings if part_list is None else (),
            plain_bytes=sum(sealing.plain_bytes for sealing in sealings),
            parts=parts,
            part_list=part_list,
        )


def _extents(references: Sequence[Reference]) -> tuple[StoredExtent, ...]:
    """Return references as extents of another entry, those that continue each other joined."""
    extents: list[StoredExtent] = []
    for reference in references:
        last = extents[-1] if extents else None
        if last is not None and (last.segment_id, last.offset + last.extent_bytes) == (
            reference.segment_id,
            reference.offset,
        ):
            extents[-1] = StoredExtent(
                segment_id=last.segment_id,
                offset=last.offset,
                extent_bytes=last.extent_bytes + reference.extent_bytes,
            )
            continue
        extents.append(
            StoredExtent(segment_id=reference.segment_id, offset=reference.offset, extent_bytes=reference.extent_bytes)
        )
    if len(extents) >= REFERENCES_MAX:
        detail = f"an object in {len(extents)} pieces, fewer than {REFERENCES_MAX} allowed"
        raise RejectionError(RejectionReason.OVERSIZED, detail)
    return tuple(extents)


def _seal_list(sealing_key: SealingKey, contents: bytes) -> bytearray:
    sealed = bytearray(sealed_bytes(len(contents)))
    seal_range(sealing_key, contents, 0, RangeEnd.LAST, sealed)
    return sealed
