"""A tenant's buckets as the gateway sees them: views of the ledger, and their settings, remembered while they hold."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from consensus.identifiers import Height, Milliseconds
from node.client.buckets import OpenBucket
from node.client.chain import FOUND_MAX
from node.client.errors import NotCommittedError
from node.client.gathering import Gathering
from node.gateway.ledger_refusals import refusal_of
from node.gateway.refusals import WriteFailure, WriteRefusedError
from node.gateway.store import Bucket
from storage.bucket_records import BucketPurpose, BucketSettings, SettingsDocument
from storage.buckets import Versioning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.chain import BucketView
    from node.client.client import Client
    from storage.identifiers import BucketTag, RecordAddress


class BucketStore:
    """The buckets of one tenant."""

    def __init__(self, client: Client, height: Callable[[], Height]) -> None:
        """Read by this client; what was read at the height that is now is still true."""
        self._client = client
        self._height = height
        self._settings: OrderedDict[RecordAddress, BucketSettings] = OrderedDict()
        self._views: Gathering[BucketTag, BucketView | None] = Gathering(
            client.chain.find_buckets, together_max=FOUND_MAX, in_flight_max=2
        )
        self._known_views: dict[BucketTag, tuple[Height, BucketView | None]] = {}
        """Each with the height it was asked at: no block since, no other answer."""

    async def run(self) -> None:
        """Ask together what is asked at the same time, until cancelled."""
        await self._views.run()

    async def all(self) -> Sequence[Bucket]:
        """Return all buckets in order of name."""
        return [shown_bucket(opened) for opened in await self._client.buckets.listing()]

    async def open(self, name: str) -> OpenBucket | None:
        """Return a bucket with its settings, whose record is remembered by its address."""
        tag = self._client.buckets.tag(name)
        asked = self._height()
        known_view = self._known_views.get(tag)
        if known_view is not None and known_view[0] == asked:
            view = known_view[1]
        else:
            view = await self._views.ask(tag)
            self._known_views[tag] = asked, view
            if len(self._known_views) > FOUND_MAX:
                self._known_views.pop(next(iter(self._known_views)))
        if view is None:
            return None
        known = self._settings.get(view.record_address)
        if known is None:
            known = (await self._client.buckets.opened(view)).settings
            self._settings[view.record_address] = known
            if len(self._settings) > FOUND_MAX:
                self._settings.popitem(last=False)
        return OpenBucket(view, known)

    async def create(self, bucket: Bucket) -> None:
        """Make a bucket."""
        settings = BucketSettings(
            name=bucket.name,
            purpose=BucketPurpose.OBJECTS,
            created_ms=Milliseconds(bucket.created_ms),
            owner="",
            documents=_documents(bucket),
        )
        try:
            await self._client.buckets.create(settings, bucket.versioning, bucket.lock)
        except NotCommittedError as error:
            failure = refusal_of(error)
            is_there = failure.failure is WriteFailure.CONDITION_FAILED
            raise WriteRefusedError(WriteFailure.BUCKET_EXISTS) if is_there else failure from error

    async def change(self, bucket: Bucket) -> None:
        """Replace a bucket's settings."""
        assert isinstance(bucket.handle, OpenBucket), "a bucket that was read"
        settings = BucketSettings(
            name=bucket.name,
            purpose=BucketPurpose.OBJECTS,
            created_ms=bucket.handle.settings.created_ms,
            owner=bucket.handle.settings.owner,
            documents=_documents(bucket),
        )
        try:
            await self._client.buckets.change(bucket.handle, settings, bucket.versioning, bucket.lock)
        except NotCommittedError as error:
            failure = refusal_of(error)
            is_changed = failure.failure is WriteFailure.CONDITION_FAILED
            raise WriteRefusedError(WriteFailure.CONFLICT) if is_changed else failure from error

    async def is_null(self, bucket: str) -> bool:
        """Tell whether what is written now is the null version of its name."""
        opened = await self.open(bucket)
        return opened is None or opened.view.versioning is not Versioning.ENABLED


def shown_bucket(opened: OpenBucket) -> Bucket:
    """Return a bucket as the operations of S3 see it."""
    return Bucket(
        name=opened.settings.name,
        created_ms=opened.settings.created_ms,
        versioning=opened.view.versioning,
        lock=opened.view.lock,
        settings={document.kind: document.contents for document in opened.settings.documents},
        handle=opened,
    )


def _documents(bucket: Bucket) -> tuple[SettingsDocument, ...]:
    return tuple(SettingsDocument(kind=kind, contents=contents) for kind, contents in sorted(bucket.settings.items()))
