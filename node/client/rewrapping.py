"""Records sealed again under a tenant's latest master key, after a revocation: names, bytes and versions stay.

Objects are not touched: their keys are wrapped anew, inside their records. What is retained keeps its record (rule T26)
until its retention ends; gateways go on opening it under the earlier master key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from node.client.chain import FOUND_MAX, ListingPlace, VersionPlace
from node.client.new_objects import fresh_salt
from node.client.records import NamedRecord
from storage.bucket_records import BucketPurpose, seal_tags, unseal_tags
from storage.buckets import ChangeRecords, RecordChange
from storage.outcomes import FailureReason
from storage.records import record_address, seal_record, unseal_record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from node.client.buckets import Buckets, Transact
    from node.client.chain import Chain, EntryView
    from node.client.records import Keyring, RecordReader
    from storage.identifiers import RecordAddress, TenantId

RECORDS_BYTES_MAX: Final = 1_024 * 1_024
"""Of one transaction: half of what may travel beside it."""
PASSES_MAX: Final = 3
"""Each finds what was written under an earlier key while the one before ran."""


@dataclass(slots=True)
class Rewrapped:
    """What became of a tenant's records."""

    records: int = 0
    buckets: int = 0
    retained: int = 0
    unread: int = 0
    """No live holder gave them: run it again."""


@dataclass(slots=True)
class _Batch:
    changes: list[RecordChange] = field(default_factory=list[RecordChange])
    sealed: list[bytes] = field(default_factory=list[bytes])
    byte_count: int = 0


@dataclass(frozen=True, slots=True)
class Rewrapper:
    """Seals the records of one tenant again; Client.rewrap()."""

    tenant: TenantId
    chain: Chain
    records: RecordReader
    keyring: Keyring
    buckets: Buckets
    transact: Transact

    async def run(self) -> Rewrapped:
        """Go through everything until nothing is sealed under an earlier master key but what is retained."""
        report = Rewrapped()
        await self._settings(report)
        for _ in range(PASSES_MAX):
            before = report.records
            report.retained = report.unread = 0
            batch = _Batch()
            async for page in self._pages():
                await self._page(page, batch, report)
            await self._send(batch, report)
            if report.records == before:
                break
        return report

    async def _settings(self, report: Rewrapped) -> None:
        for purpose in BucketPurpose:
            for bucket in await self.buckets.listing(purpose):
                sealed = await self.records.sealed(bucket.view)
                if not self.keyring.is_latest(bucket.view.bucket_tag, sealed):
                    await self.buckets.change(bucket, bucket.settings, bucket.view.versioning, bucket.view.lock)
                    report.buckets += 1

    async def _pages(self) -> AsyncGenerator[tuple[EntryView, ...], None]:
        after: ListingPlace | None = None
        while page := await self.chain.entries(None, after, FOUND_MAX):
            yield page
            after = ListingPlace(page[-1].bucket_tag, page[-1].name_tag)
        behind: VersionPlace | None = None
        while page := await self.chain.versions(None, behind, FOUND_MAX):
            yield page
            behind = VersionPlace(page[-1].bucket_tag, page[-1].name_tag, page[-1].version_name)

    async def _page(self, page: Sequence[EntryView], batch: _Batch, report: Rewrapped) -> None:
        tags = [NamedRecord(entry.version_id, entry.tags_address) for entry in page if entry.tags_address is not None]
        found = await self.records.fetch([*page, *tags])
        for entry in page:
            for address in (entry.record_address, entry.tags_address):
                if address is not None:
                    await self._one(entry, address, found.get(address), batch, report)

    async def _one(
        self, entry: EntryView, address: RecordAddress, sealed: bytes | None, batch: _Batch, report: Rewrapped
    ) -> None:
        if sealed is None:
            report.unread += 1
            return
        if self.keyring.is_latest(entry.bucket_tag, sealed):
            return
        again = self._again(entry, address, sealed)
        batch.changes.append(
            RecordChange(
                bucket_tag=entry.bucket_tag,
                name_tag=entry.name_tag,
                version_id=entry.version_id,
                old_address=address,
                new_address=record_address(self.tenant, entry.version_id, again),
            )
        )
        batch.sealed.append(again)
        batch.byte_count += len(again)
        if batch.byte_count > RECORDS_BYTES_MAX or len(batch.changes) == FOUND_MAX:
            await self._send(batch, report)

    def _again(self, entry: EntryView, address: RecordAddress, sealed: bytes) -> bytes:
        earlier, latest = self.keyring.opening(entry.bucket_tag, sealed), self.keyring.bucket(entry.bucket_tag)
        if address == entry.tags_address:
            return seal_tags(unseal_tags(sealed, earlier, entry.name_tag), latest, fresh_salt())
        opened = unseal_record(sealed, earlier, entry.name_tag)
        return seal_record(opened.object_record, opened.object_key, latest, fresh_salt())

    async def _send(self, batch: _Batch, report: Rewrapped) -> None:
        if not batch.changes:
            return
        changes, sealed = tuple(batch.changes), tuple(batch.sealed)
        batch.changes, batch.sealed, batch.byte_count = [], [], 0
        commit = await self.transact(ChangeRecords(tenant=self.tenant, changes=changes), sealed)
        failed = [reason for _, reason in commit.failed_entries]
        report.records += len(changes) - len(failed)
        report.retained += failed.count(FailureReason.RETAINED.value)
