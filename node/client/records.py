"""Records fetched from the holders in bulk, each checked against the address that the chain shows, and opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from node.client.gathering import Gathering
from node.client.links import RECORDS_PER_READ_MAX
from storage.errors import ShardMissingError
from storage.records import OpenedRecord, record_address, unseal_record
from storage.tags import BucketKeys, MasterKey, TenantTagKey, bucket_key, bucket_tag_key, tenant_tag_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.chain import EntryView
    from node.client.holders import HolderPool
    from node.client.links import HolderLink
    from storage.identifiers import BucketTag, RecordAddress, SeatIndex, TenantId

HEDGE_SECONDS: Final = 0.25
SECONDS_PER_RECORD: Final = 0.002
PATIENT_SECONDS: Final = 2.0
READS_IN_FLIGHT: Final = 4


class Keyring:
    """The keys that hang from a tenant's master key; derived once a bucket."""

    def __init__(self, master_key: MasterKey) -> None:
        """Derive the tenant's tag key."""
        self._master_key = master_key
        self.tag_key: TenantTagKey = tenant_tag_key(master_key)
        self._buckets: dict[BucketTag, BucketKeys] = {}

    def __repr__(self) -> str:
        """Show nothing."""
        return "Keyring(redacted)"

    def bucket(self, tag: BucketTag) -> BucketKeys:
        """Return a bucket's keys by its tag alone."""
        if tag not in self._buckets:
            self._buckets[tag] = BucketKeys(
                tag=tag, bucket_key=bucket_key(self._master_key, tag), tag_key=bucket_tag_key(self.tag_key, tag)
            )
        return self._buckets[tag]


class RecordReader:
    """Reads the records of one tenant."""

    def __init__(self, pool: HolderPool, tenant: TenantId, keyring: Keyring) -> None:
        self._pool = pool
        self._tenant = tenant
        self._keyring = keyring
        self._turn = 0
        self._gathering = Gathering(
            self._fetch_in_order, together_max=RECORDS_PER_READ_MAX, in_flight_max=READS_IN_FLIGHT
        )

    async def run(self) -> None:
        """Ask for what open() needs until cancelled."""
        await self._gathering.run()

    async def open(self, entry: EntryView) -> OpenedRecord:
        """Return one entry's record.

        Raises:
            ShardMissingError: No live holder has it.
            UnsealError: It is not what this tenant sealed under this name.
        """
        sealed = await self._gathering.ask(entry)
        if sealed is None:
            raise ShardMissingError(f"no live holder has record {entry.record_address.hex()[:16]}")
        return self.unseal(entry, sealed)

    def unseal(self, entry: EntryView, sealed: bytes) -> OpenedRecord:
        """Open a sealed record of an entry."""
        return unseal_record(sealed, self._keyring.bucket(entry.bucket_tag), entry.name_tag)

    async def fetch(self, entries: Sequence[EntryView]) -> dict[RecordAddress, bytes]:
        """Return the sealed records of entries, by address, each asked of one live holder after another.

        Holders take turns at being first, prompt ones before others; one that takes longer than HEDGE_SECONDS is left
        for the others, and asked with more patience in a second round.
        """
        found: dict[RecordAddress, bytes] = {}
        for seconds in (HEDGE_SECONDS + len(entries) * SECONDS_PER_RECORD, PATIENT_SECONDS):
            for seat in self._seats_in_turn():
                missing = [entry for entry in entries if entry.record_address not in found]
                if not missing:
                    return found
                with trio.move_on_after(seconds) as scope:
                    await self._fetch_from(seat, missing, found)
                if scope.cancelled_caught:
                    self._pool.note_slow(seat)
        return found

    async def _fetch_in_order(self, entries: Sequence[EntryView]) -> tuple[bytes | None, ...]:
        found = await self.fetch(entries)
        return tuple(found.get(entry.record_address) for entry in entries)

    def _seats_in_turn(self) -> list[SeatIndex]:
        live = self._pool.live()
        self._turn += 1
        first = self._turn % max(1, len(live))
        return sorted(live[first:] + live[:first], key=lambda seat: not self._pool.is_prompt(seat))

    async def _fetch_from(
        self, seat: SeatIndex, entries: Sequence[EntryView], found: dict[RecordAddress, bytes]
    ) -> None:
        async def ask(_seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
            for start in range(0, len(entries), RECORDS_PER_READ_MAX):
                part = entries[start : start + RECORDS_PER_READ_MAX]
                answers = await link.read_records([entry.record_address for entry in part])
                for entry, sealed in zip(part, answers, strict=True):
                    if sealed is not None and self._is_right(entry, sealed):
                        found[entry.record_address] = sealed

        await self._pool.ask_one(seat, ask, _nothing)

    def _is_right(self, entry: EntryView, sealed: bytes) -> bool:
        return record_address(self._tenant, entry.version_id, sealed) == entry.record_address


def _nothing() -> None:
    """Progress is of no concern here."""
