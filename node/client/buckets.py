"""Buckets of a tenant: made, listed, changed and deleted; their real names and settings stand in sealed records."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.client.chain import FOUND_MAX
from node.client.errors import BucketMissingError
from node.client.new_objects import ReadyBucket, fresh_salt
from node.clock import now_ms
from storage.bucket_records import BucketPurpose, BucketSettings, seal_settings, unseal_settings
from storage.buckets import DeleteBucket, NewBucket, SetBucket, Versioning
from storage.identifiers import VersionId
from storage.records import record_address
from storage.tags import bucket_tag, uploads_tag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from node.client.chain import BucketView, Chain, Commit
    from node.client.records import Keyring, RecordReader
    from storage.buckets import ObjectLock
    from storage.identifiers import BucketTag, TenantId
    from storage.transactions import Body

    Transact = Callable[[Body, Sequence[bytes]], Awaitable[Commit]]

MUST_BE_ABSENT: Final = b""


@dataclass(frozen=True, slots=True)
class OpenBucket:
    """A bucket as the chain shows it, and what its sealed record says."""

    view: BucketView
    settings: BucketSettings


class Buckets:
    """The buckets of one tenant."""

    def __init__(
        self, tenant: TenantId, chain: Chain, records: RecordReader, keyring: Keyring, transact: Transact
    ) -> None:
        """Ask this chain, and change it by `transact`, which raises NotCommittedError."""
        self._tenant = tenant
        self._chain = chain
        self._records = records
        self._keyring = keyring
        self._transact = transact
        self._known: set[BucketTag] = set()
        """Seen on chain; who finds that one has gone forgets it."""

    def tag(self, name: str, purpose: BucketPurpose = BucketPurpose.OBJECTS) -> BucketTag:
        """Return the handle of a bucket, or of the one that holds the parts of uploads into it."""
        tag_key = self._keyring.tag_key
        return bucket_tag(tag_key, name) if purpose is BucketPurpose.OBJECTS else uploads_tag(tag_key, name)

    async def open(self, name: str, purpose: BucketPurpose = BucketPurpose.OBJECTS) -> OpenBucket:
        """Return a bucket with its settings.

        Raises:
            BucketMissingError: There is none of this name.
            ShardMissingError: No live holder has its record.
        """
        (view,) = await self._chain.find_buckets((self.tag(name, purpose),))
        if view is None:
            raise BucketMissingError(f"no bucket {name}")
        return await self.opened(view)

    async def opened(self, view: BucketView) -> OpenBucket:
        """Open the settings record of a bucket that the chain shows; raises ShardMissingError."""
        return OpenBucket(view, self._unsealed(view, await self._records.sealed(view)))

    async def listing(self, purpose: BucketPurpose = BucketPurpose.OBJECTS) -> tuple[OpenBucket, ...]:
        """Return all buckets of a purpose in order of their names."""
        found: list[OpenBucket] = []
        after: BucketTag | None = None
        while views := await self._chain.buckets(after, FOUND_MAX):
            sealed = await self._records.fetch(views)
            found += [
                OpenBucket(view, self._unsealed(view, sealed[view.record_address]))
                for view in views
                if view.record_address in sealed
            ]
            after = views[-1].bucket_tag
        wanted = (bucket for bucket in found if bucket.settings.purpose is purpose)
        return tuple(sorted(wanted, key=lambda bucket: bucket.settings.name))

    async def create(
        self,
        settings: BucketSettings,
        versioning: Versioning = Versioning.OFF,
        lock: ObjectLock | None = None,
    ) -> Commit:
        """Make a bucket.

        Raises:
            NotCommittedError: condition_failed: it is there; buckets_full, settings_kept.
        """
        return await self._set(settings, versioning, lock, MUST_BE_ABSENT)

    async def change(
        self, bucket: OpenBucket, settings: BucketSettings, versioning: Versioning, lock: ObjectLock | None
    ) -> Commit:
        """Replace the settings that were opened.

        Raises:
            NotCommittedError: condition_failed: somebody else has changed them since; settings_kept: versioning and
                lock are for ever.
        """
        assert settings.name == bucket.settings.name, "a bucket keeps its name"
        return await self._set(settings, versioning, lock, bytes(bucket.view.version_id))

    async def delete(self, name: str, purpose: BucketPurpose = BucketPurpose.OBJECTS) -> Commit:
        """Delete an empty bucket.

        Raises:
            NotCommittedError: bucket_unknown, bucket_not_empty.
        """
        tag = self.tag(name, purpose)
        self._known.discard(tag)
        return await self._transact(DeleteBucket(tenant=self._tenant, bucket_tag=tag), ())

    async def made_by_need(self, name: str, purpose: BucketPurpose = BucketPurpose.OBJECTS) -> ReadyBucket | None:
        """Return what a commit brings to make a bucket that is not on chain yet; None when it is."""
        tag = self.tag(name, purpose)
        if tag not in self._known:
            (view,) = await self._chain.find_buckets((tag,))
            if view is None:
                return self._ready(new_settings(name, purpose), tag)
            self._known.add(tag)
        return None

    def forget(self, tag: BucketTag) -> None:
        """Look again whether a bucket is on chain, at its next use."""
        self._known.discard(tag)

    async def _set(
        self, settings: BucketSettings, versioning: Versioning, lock: ObjectLock | None, condition: bytes
    ) -> Commit:
        tag = self.tag(settings.name, settings.purpose)
        ready = self._ready(settings, tag)
        body = SetBucket(
            tenant=self._tenant,
            bucket_tag=tag,
            version_id=ready.new_bucket.version_id,
            record_address=ready.new_bucket.record_address,
            versioning=versioning,
            lock=lock,
            condition=condition,
        )
        return await self._transact(body, (ready.sealed_record,))

    def _ready(self, settings: BucketSettings, tag: BucketTag) -> ReadyBucket:
        version_id = VersionId(secrets.token_bytes(16))
        sealed = seal_settings(settings, self._keyring.bucket(tag), fresh_salt())
        new_bucket = NewBucket(
            bucket_tag=tag,
            version_id=version_id,
            record_address=record_address(self._tenant, version_id, sealed),
        )
        return ReadyBucket(new_bucket, sealed)

    def _unsealed(self, view: BucketView, sealed: bytes) -> BucketSettings:
        return unseal_settings(sealed, self._keyring.opening(view.bucket_tag, sealed))


def new_settings(name: str, purpose: BucketPurpose = BucketPurpose.OBJECTS, owner: str = "") -> BucketSettings:
    """Return the settings of a bucket that is made now, without documents."""
    return BucketSettings(name=name, purpose=purpose, created_ms=now_ms(), owner=owner, documents=())
